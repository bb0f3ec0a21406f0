//! Journals that are not this store's, or not what it wrote.

use queue_core::{ErrorCode, QueueProvider as _, QueueSpec};

use super::*;
use crate::{
    MemoryProvider,
    journal::{Batch, Table, Urgency},
    tracking::rows::{BirthRow, HoldRow, OwnerRow, Place, QueueRow, RecordRow, StoneRow, watermark},
};

fn journal(disk: &ModelDisk) -> JournalOptions {
    JournalOptions::on_disk(disk, true)
}

fn open(disk: &ModelDisk) -> queue_core::Result<MemoryTracking> {
    MemoryTracking::open(&journal(disk), Env::seeded(START, 1), TrackingLimits::default())
}

/// Every row of a journal, as it is read.
fn rows(disk: &ModelDisk) -> Vec<(Table, Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    let (journal, _) = journal(disk)
        .open(|row| {
            rows.push((row.table, row.key.to_vec(), row.value.to_vec()));
            Ok(())
        })
        .unwrap();
    journal.abandon();
    rows
}

/// A disk with these rows on it.
async fn disk_of(rows: &[(Table, Vec<u8>, Vec<u8>)]) -> ModelDisk {
    let disk = ModelDisk::new();
    let (journal, _) = journal(&disk).open(|_| Ok(())).unwrap();
    let mut batch = Batch::new();
    for (table, key, value) in rows {
        batch.put(*table, key, value);
    }
    let ticket = journal.append(&batch, Urgency::Now);
    journal.committed(ticket).await.unwrap();
    journal.close().await.unwrap();
    disk
}

/// A store with a row of every kind.
async fn full() -> ModelDisk {
    let disk = ModelDisk::new();
    let env = Env::seeded(START, 1);
    let limits = TrackingLimits { max_tombstones: 1, ..TrackingLimits::default() };
    let store = MemoryTracking::open(&journal(&disk), env.clone(), limits).unwrap();
    let queue = QueueName::from_static("q");
    let noted = QueueControl { retention: Some(Retention::default()), ..QueueControl::default() };
    store.set_queue_control(&queue, &noted).await.unwrap();
    for n in 0..4 {
        let mut job = Envelope::builder(JobId::fresh(&env), JobKind::from_static("k"), vec![1; 9], env.now());
        let key = UniqueKey::new(format!("key {n}")).unwrap();
        job.unique = Some(Box::new(Unique { key, window: Some(seconds(99)) }));
        let staged = StagedJob::new("rabbit", JobRef::new(queue.clone(), job.id), job.seal());
        store.stage(std::slice::from_ref(&staged), seconds(9)).await;
        let (job, envelope) = (staged.job.clone(), staged.envelope.clone());
        let claim = Claim { provider: "rabbit".into(), job, envelope, worker: "w".into(), lease: seconds(9) };
        let Verdict::Run { fence, .. } = store.claim(&[claim]).await.remove(0) else { panic!() };
        let receipt = Receipt { id: fence.id, slot: 0, epoch: fence.epoch };
        let settlement = Settlement::new(receipt, Disposition::Complete { result: Some("7".into()) });
        store.settle(&[TrackedSettle { fence, settlement, successor: None }], seconds(9)).await;
        store.evict(&queue, &Retention { count: 1, ..Retention::default() }, 9).await.unwrap();
    }
    store.close().await.unwrap();
    disk
}

#[tokio::test(start_paused = true)]
async fn a_memory_provider_and_a_tracking_store_refuse_each_others_journal() {
    let env = Env::seeded(START, 1);
    let disk = ModelDisk::new();
    let provider = MemoryProvider::open(&journal(&disk), env.clone()).unwrap();
    provider.declare(&QueueSpec::new(QueueName::from_static("q"))).await.unwrap();
    provider.close().await.unwrap();
    drop(provider);
    let error = open(&disk).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Config, "{error}");
    assert!(error.message().contains("a folder of its own"), "{error}");

    for disk in [ModelDisk::new(), full().await] {
        open(&disk).unwrap().close().await.unwrap();
        let error = MemoryProvider::open(&journal(&disk), env.clone()).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Config, "{error}");
        open(&disk).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_newer_row_and_a_broken_one_are_told_apart() {
    let rows = rows(&full().await);
    open(&disk_of(&rows).await).unwrap();
    let kinds: std::collections::BTreeSet<_> = rows.iter().map(|(table, key, _)| (*table, key.first())).collect();
    assert!(kinds.len() >= 6, "of every kind one: {kinds:?}");
    for at in 0..rows.len() {
        let mut newer = rows.clone();
        newer[at].2[0] += 1;
        let error = open(&disk_of(&newer).await).unwrap_err();
        assert!(matches!(error.code(), ErrorCode::Unsupported | ErrorCode::Config), "{error} for {:?}", rows[at].1);
        let mut broken = rows.clone();
        broken[at].2.truncate(1);
        let error = open(&disk_of(&broken).await).unwrap_err();
        assert!(matches!(error.code(), ErrorCode::Undecodable | ErrorCode::Config), "{error} for {:?}", rows[at].1);
    }
}

/// The journal's checksums let nothing of this through; should they, it is refused, and nothing panics.
#[tokio::test(start_paused = true)]
async fn no_row_that_is_cut_or_flipped_panics_the_reader() {
    for (table, key, value) in rows(&full().await) {
        let read = |key: &[u8], value: &[u8]| {
            let value = bytes::Bytes::copy_from_slice(value);
            match (table, Place::read(key)) {
                (Table::Records, _) if key.is_empty() => OwnerRow::decode(value).is_ok(),
                (Table::Records, _) => BirthRow::decode(value).is_ok(),
                (_, Ok(Place::State(_))) => RecordRow::decode(value).is_ok(),
                (_, Ok(Place::Queue(_))) => QueueRow::decode(value).is_ok(),
                (_, Ok(Place::Unique(..))) => HoldRow::decode(value).is_ok(),
                (_, Ok(Place::Stone(_))) => StoneRow::decode(value).is_ok(),
                (_, Ok(Place::Watermark(_))) => watermark(value).is_ok(),
                (_, Err(_)) => false,
            }
        };
        assert!(read(&key, &value), "{key:?}");
        for len in 0..value.len() {
            let whole_text = matches!(Place::read(&key), Ok(Place::Stone(_)));
            assert!(!read(&key, &value[..len]) || whole_text || table == Table::Records, "{key:?} cut to {len}");
        }
        for at in 0..value.len() {
            let mut flipped = value.clone();
            flipped[at] ^= 0xff;
            read(&key, &flipped);
        }
        for at in 0..key.len() {
            let mut flipped = key.clone();
            flipped[at] ^= 0xff;
            read(&flipped, &value);
        }
    }
}

/// As version 1 wrote it, and as it is still written where no retention was noted.
#[test]
fn a_queues_row_without_a_retention_is_read_and_written_as_ever() {
    let mut old = vec![1];
    old.extend(3_u64.to_le_bytes());
    old.push(1);
    [5_u64, 4, 2].into_iter().for_each(|number| old.extend(number.to_le_bytes()));
    let row = QueueRow { version: 3, paused: true, retention: None, submitted: 5, completed: 4, failed: 2 };
    assert_eq!(QueueRow::decode(bytes::Bytes::from(old.clone())), Ok(row));
    let mut written = Vec::new();
    row.write(&mut written);
    assert_eq!(written, old);

    let noted = QueueRow { retention: Some(Retention { count: 7, ..Retention::none() }), ..row };
    let mut written = Vec::new();
    noted.write(&mut written);
    assert_eq!((written[0], &written[1..old.len()]), (2, &old[1..]));
    assert_eq!(QueueRow::decode(bytes::Bytes::from(written)), Ok(noted));
}
