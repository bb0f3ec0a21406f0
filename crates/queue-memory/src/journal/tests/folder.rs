//! A journal in a folder: whose it is, and what is no journal.

use super::{
    super::reading,
    rig::{self, Rows},
    *,
};
use queue_core::ErrorCode;
use redb::{Database, ReadableDatabase as _, TableDefinition};

/// Opens the folder's journal and answers its rows too.
fn in_folder(dir: &Path) -> Result<(Journal, Recovered, Rows)> {
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
    assert_eq!(in_folder(dir.path()).unwrap_err().code(), ErrorCode::StoreInUse);
    journal.close().await.unwrap();
    assert_eq!(journal.ready().unwrap_err().code(), ErrorCode::Closed);

    let (_, recovered, rows) = in_folder(dir.path()).unwrap();
    assert_eq!(recovered, Recovered { clean: true, rows: 2, ..Recovered::default() });
    let keys: Vec<_> = rows.keys().map(|(table, key)| (*table, parts(key).unwrap())).collect();
    assert_eq!(keys, [(Table::Jobs, (1, 2)), (Table::States, (1, 2))]);
}

async fn put(journal: &Journal, n: u64) {
    let mut batch = Batch::new();
    batch.put(Table::Jobs, &key(1, n), &n.to_le_bytes());
    journal.committed(journal.append(&batch, Urgency::Now)).await.unwrap();
}

/// The refusal of what is in the folder.
fn refusal(dir: &Path) -> queue_core::Error {
    in_folder(dir).unwrap_err()
}

#[tokio::test]
async fn a_folder_is_one_journals_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, ..) = in_folder(&dir.path().join("made/for/it")).unwrap();
    let error = refusal(&dir.path().join("made/for/it"));
    assert_eq!(error.code(), ErrorCode::StoreInUse);
    assert!(error.is_retryable() && error.message().contains("made/for/it"), "{error}");
    let other = journal.clone();
    drop(journal);
    assert!(other.ready().is_ok(), "a handle is left");
    drop(other);
    in_folder(&dir.path().join("made/for/it")).unwrap().0.close().await.unwrap();
}

#[tokio::test]
async fn the_last_handles_drop_closes() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, ..) = in_folder(dir.path()).unwrap();
    let mut batch = Batch::new();
    batch.put(Table::Notes, b"k", b"v");
    let _ = journal.append(&batch, Urgency::Within(Duration::from_secs(3_600)));
    drop(journal);
    let (_, recovered, _) = in_folder(dir.path()).unwrap();
    assert_eq!(recovered, Recovered { clean: true, rolled_back: None, rows: 1 });
}

#[tokio::test]
async fn a_file_older_than_what_was_acknowledged_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("journal.redb");
    let (journal, ..) = in_folder(dir.path()).unwrap();
    put(&journal, 1).await;
    let copy = std::fs::read(&file).unwrap();
    put(&journal, 2).await;
    put(&journal, 3).await;
    journal.abandon();

    std::fs::write(&file, copy).unwrap();
    let (journal, recovered, rows) = in_folder(dir.path()).unwrap();
    assert_eq!((recovered.clean, rows.len()), (false, 1));
    assert_eq!(recovered.rolled_back.unwrap(), "2 changes are not there that were");
    // Said once: from here on the older file is the journal.
    journal.close().await.unwrap();
    let (journal, recovered, _) = in_folder(dir.path()).unwrap();
    assert_eq!(recovered, Recovered { clean: true, rolled_back: None, rows: 1 });
    journal.close().await.unwrap();

    std::fs::remove_file(&file).unwrap();
    assert!(in_folder(dir.path()).unwrap().1.rolled_back.is_some());
}

#[tokio::test]
async fn what_is_no_journal_of_this_version_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("journal.redb");
    for (contents, code) in [("", ErrorCode::Undecodable), ("Dear diary", ErrorCode::Undecodable)] {
        std::fs::write(&file, contents).unwrap();
        let error = refusal(dir.path());
        assert_eq!(error.code(), code);
        assert!(error.message().contains("move the folder away"), "{error}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), contents, "left alone");
    }

    std::fs::remove_file(&file).unwrap();
    let foreign = Database::create(&file).unwrap();
    let write = foreign.begin_write().unwrap();
    write.open_table(TableDefinition::<u64, u64>::new("something")).unwrap().insert(1, 2).unwrap();
    write.commit().unwrap();
    drop(foreign);
    let error = refusal(dir.path());
    assert_eq!(error.code(), ErrorCode::Config);
    assert!(error.message().contains("name another folder"), "{error}");

    std::fs::remove_file(&file).unwrap();
    in_folder(dir.path()).unwrap().0.close().await.unwrap();
    let newer = Database::create(&file).unwrap();
    let write = newer.begin_write().unwrap();
    let format = reading::format().into_iter().map(|byte| byte.max(2)).collect::<Vec<_>>();
    write.open_table(reading::META).unwrap().insert(reading::FORMAT, format.as_slice()).unwrap();
    write.commit().unwrap();
    drop(newer);
    let error = refusal(dir.path());
    assert_eq!(error.code(), ErrorCode::Unsupported);
    assert!(error.message().contains("newer version"), "{error}");
}

#[tokio::test]
async fn rows_that_somebody_took_away_moved_or_brought_back_are_missed() {
    type Tamper = fn(&mut redb::Table<'_, &'static [u8], &'static [u8]>, &[u8], &[u8]);
    let tampers: [Tamper; 4] = [
        |rows, one, _| drop(rows.remove(one).unwrap()),
        |rows, one, row| drop(rows.insert(&[one, b"!"].concat()[..], row).unwrap()),
        |rows, one, old| drop(rows.insert(one, old).unwrap()),
        |rows, one, _| drop(rows.insert(one, &b"short"[..]).unwrap()),
    ];
    for (index, tamper) in tampers.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, ..) = in_folder(dir.path()).unwrap();
        put(&journal, 1).await;
        journal.close().await.unwrap();
        let file = dir.path().join("journal.redb");
        let rows = reading::definition(Table::Jobs);
        let old = {
            let database = Database::open(&file).unwrap();
            let rows = database.begin_read().unwrap().open_table(rows).unwrap();
            rows.get(&key(1, 1)[..]).unwrap().unwrap().value().to_vec()
        };
        let (journal, ..) = in_folder(dir.path()).unwrap();
        let mut batch = Batch::new();
        batch.put(Table::Jobs, &key(1, 1), b"changed since");
        journal.committed(journal.append(&batch, Urgency::Now)).await.unwrap();
        journal.close().await.unwrap();
        let database = Database::open(&file).unwrap();
        let write = database.begin_write().unwrap();
        tamper(&mut write.open_table(rows).unwrap(), &key(1, 1), &old);
        write.commit().unwrap();
        drop(database);
        assert_eq!(refusal(dir.path()).code(), ErrorCode::Undecodable, "{index}");
    }
}

#[tokio::test]
async fn a_file_that_is_mostly_free_gives_the_disk_back() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("journal.redb");
    let (journal, ..) = in_folder(dir.path()).unwrap();
    let mut batch = Batch::new();
    (0..2_000).for_each(|n| batch.put(Table::Jobs, &key(1, n), &[7; 1_000]));
    journal.committed(journal.append(&batch, Urgency::Now)).await.unwrap();
    batch.clear();
    (10..2_000).for_each(|n| batch.delete(Table::Jobs, &key(1, n)));
    journal.committed(journal.append(&batch, Urgency::Now)).await.unwrap();
    let before = std::fs::metadata(&file).unwrap().len();
    journal.close().await.unwrap();
    let after = std::fs::metadata(&file).unwrap().len();
    assert!(before > 2_000_000 && after < 300_000, "{before} before, {after} after");
    assert_eq!(in_folder(dir.path()).unwrap().2.len(), 10);
}

#[test]
fn an_error_of_whoever_reads_the_rows_ends_the_opening_and_frees_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, ..) = in_folder(dir.path()).unwrap();
    let mut batch = Batch::new();
    batch.put(Table::Notes, b"k", b"v");
    let _ = journal.append(&batch, Urgency::Now);
    drop(journal);
    let refuse = |_: Row<'_>| Err(queue_core::Error::new(ErrorCode::Validation, "not mine"));
    assert_eq!(Journal::open(dir.path(), &Options::default(), refuse).unwrap_err().code(), ErrorCode::Validation);
    let panics = |_: Row<'_>| panic!("a defect");
    assert_eq!(Journal::open(dir.path(), &Options::default(), panics).unwrap_err().code(), ErrorCode::Internal);
    assert_eq!(in_folder(dir.path()).unwrap().2.len(), 1);
}

/// On a real file system that is really full: `QUEUE_JOURNAL_SMALL_DISK` names a folder on one of a few MiB.
#[tokio::test]
async fn a_full_file_system_loses_nothing() {
    let Some(small) = std::env::var_os("QUEUE_JOURNAL_SMALL_DISK") else { return };
    let dir = tempfile::tempdir_in(&small).unwrap();
    let ballast = tempfile::NamedTempFile::new_in(&small).unwrap();
    std::fs::write(&ballast, vec![1; 1 << 20]).unwrap();
    let options =
        Options { retry: Duration::from_millis(10), retry_max: Duration::from_millis(50), ..Options::default() };
    let (journal, _) = Journal::open(dir.path(), &options, |_| Ok(())).unwrap();
    let mut batch = Batch::new();
    let (mut taken, mut acknowledged) = (0, 0);
    for n in 0.. {
        batch.clear();
        (0..10).for_each(|of| batch.put(Table::Jobs, &key(n, of), &[n as u8; 1_000]));
        taken += 10;
        if journal.committed(journal.append(&batch, Urgency::Now)).await.is_err() {
            break;
        }
        acknowledged += 10;
    }
    let error = journal.ready().unwrap_err();
    assert!(error.message().contains("is full"), "{error}");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(journal.ready().is_err());
    eprintln!("full after {acknowledged} rows of 1 kB: {error}");
    drop(ballast);
    while journal.ready().is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    journal.close().await.unwrap();
    let (_, recovered, rows) = in_folder(dir.path()).unwrap();
    assert_eq!((recovered.clean, rows.len()), (true, taken));
}

/// A process that is killed while it asks a full disk for room leaves what takes the rest of it.
#[tokio::test]
async fn what_a_probe_left_behind_goes_with_the_next_opening() {
    let dir = tempfile::tempdir().unwrap();
    let probe = dir.path().join("journal.probe");
    std::fs::write(&probe, [0; 1 << 10]).unwrap();
    let _open = in_folder(dir.path()).unwrap();
    assert!(!probe.exists());
}

/// A folder whose newest commit is damaged, stopped or closed in order. Says what was in its file.
async fn damaged(dir: &Path, closed: bool) -> Vec<u8> {
    let file = dir.join("journal.redb");
    let (journal, ..) = in_folder(dir).unwrap();
    put(&journal, 1).await;
    let before = std::fs::read(&file).unwrap();
    put(&journal, 2).await;
    // As it is at that moment; the library's own end would tidy up.
    let mut bytes = std::fs::read(&file).unwrap();
    journal.close().await.unwrap();
    if closed {
        bytes = std::fs::read(&file).unwrap();
    }
    // The library copies what it writes: what changed behind the header is the newest commit's, and the one before is whole.
    let changed: Vec<usize> = (4_096..bytes.len()).filter(|at| before.get(*at) != bytes.get(*at)).collect();
    changed.iter().for_each(|at| bytes[*at] ^= 1);
    assert!(!changed.is_empty());
    std::fs::write(&file, &bytes).unwrap();
    bytes
}

/// Only of what was being written may the newest commit be given up.
#[tokio::test]
async fn a_damaged_commit_is_given_up_after_a_stop_and_refused_after_an_orderly_end() {
    let dir = tempfile::tempdir().unwrap();
    damaged(dir.path(), false).await;
    let (journal, recovered, rows) = in_folder(dir.path()).unwrap();
    assert!(recovered.rolled_back.as_ref().is_some_and(|what| what.contains("1 changes are lost")), "{recovered:?}");
    assert_eq!(rows.len(), 1, "the commit before");
    journal.close().await.unwrap();

    let dir = tempfile::tempdir().unwrap();
    let bytes = damaged(dir.path(), true).await;
    for _ in 0..2 {
        assert_eq!(refusal(dir.path()).code(), ErrorCode::Undecodable);
        assert!(
            std::fs::read(dir.path().join("journal.redb")).unwrap() == bytes,
            "left alone, for whoever can mend it"
        );
    }
}
