//! The room as its users see it, and under what disks do.

mod crash;
mod rig;

use super::*;

/// Opens the folder's journal and answers its rows too.
fn in_folder(dir: &Path) -> Result<(Journal, Recovered, rig::Rows)> {
    rig::open(Medium::folder(dir)?, Mode::Thread)
}

#[tokio::test]
async fn what_was_committed_is_there_after_closing_and_after_an_abrupt_end() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, recovered, rows) = in_folder(dir.path()).unwrap();
    assert_eq!((recovered, rows.len()), (Recovered { clean: true, ..Recovered::default() }, 0));

    let mut batch = Batch::new();
    batch.put(Table::Jobs, &key(1, 1), b"one");
    batch.put(Table::Jobs, &key(1, 2), b"two");
    let ticket = journal.append(&batch, Urgency::Now);
    journal.committed(ticket).await.unwrap();
    journal.abandon();

    let (journal, recovered, rows) = in_folder(dir.path()).unwrap();
    assert_eq!(recovered, Recovered { clean: false, rows: 2, ..Recovered::default() });
    assert_eq!(rows[&(Table::Jobs, key(1, 2).to_vec())], b"two");
    let mut batch = Batch::new();
    batch.delete(Table::Jobs, &key(1, 1));
    batch.put(Table::States, &key(1, 2), b"running");
    let _ = journal.append(&batch, Urgency::Within(Duration::from_secs(3_600)));
    assert_eq!(in_folder(dir.path()).unwrap_err().code(), queue_core::ErrorCode::StoreInUse);
    journal.close().await.unwrap();
    assert_eq!(journal.ready().unwrap_err().code(), queue_core::ErrorCode::Closed);

    let (_, recovered, rows) = in_folder(dir.path()).unwrap();
    assert_eq!(recovered, Recovered { clean: true, rows: 2, ..Recovered::default() });
    let keys: Vec<_> = rows.keys().map(|(table, key)| (*table, parts(key).unwrap())).collect();
    assert_eq!(keys, [(Table::Jobs, (1, 2)), (Table::States, (1, 2))]);
}
