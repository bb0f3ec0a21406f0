use super::*;

/// Opens the folder's journal and answers its rows too.
fn open(dir: &Path) -> Result<(Journal, Recovered, Vec<(Table, Vec<u8>, Vec<u8>)>)> {
    let mut rows = Vec::new();
    let (journal, recovered) = Journal::open(dir, &Options::default(), |row| {
        rows.push((row.table, row.key.to_vec(), row.value.to_vec()));
        Ok(())
    })?;
    Ok((journal, recovered, rows))
}

#[tokio::test]
async fn what_was_committed_is_there_after_closing_and_after_an_abrupt_end() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, recovered, rows) = open(dir.path()).unwrap();
    assert_eq!((recovered, rows), (Recovered { clean: true, ..Recovered::default() }, vec![]));

    let mut batch = Batch::new();
    batch.put(Table::Jobs, &key(1, 1), b"one");
    batch.put(Table::Jobs, &key(1, 2), b"two");
    let ticket = journal.append(&batch, Urgency::Now);
    journal.committed(ticket).await.unwrap();
    journal.abandon();

    let (journal, recovered, rows) = open(dir.path()).unwrap();
    assert_eq!(recovered, Recovered { clean: false, rows: 2, ..Recovered::default() });
    assert_eq!(rows[1], (Table::Jobs, key(1, 2).to_vec(), b"two".to_vec()));
    let mut batch = Batch::new();
    batch.delete(Table::Jobs, &key(1, 1));
    batch.put(Table::States, &key(1, 2), b"running");
    let _ = journal.append(&batch, Urgency::Within(Duration::from_secs(3_600)));
    assert_eq!(open(dir.path()).unwrap_err().code(), queue_core::ErrorCode::StoreInUse);
    journal.close().await.unwrap();
    assert_eq!(journal.ready().unwrap_err().code(), queue_core::ErrorCode::Closed);

    let (_, recovered, rows) = open(dir.path()).unwrap();
    assert_eq!(recovered, Recovered { clean: true, rows: 2, ..Recovered::default() });
    let keys: Vec<_> = rows.iter().map(|(table, key, _)| (*table, parts(key).unwrap())).collect();
    assert_eq!(keys, [(Table::Jobs, (1, 2)), (Table::States, (1, 2))]);
}
