//! The one who writes: how many commits it takes, and what it does on a disk that refuses.

use std::io::ErrorKind;

use super::{super::disk::Event, rig::*, *};
use queue_core::ErrorCode;

const HOUR: Duration = Duration::from_secs(3_600);

/// A journal with a thread on a recorded disk.
fn start(options: &Options) -> (Journal, ModelDisk) {
    let disk = ModelDisk::new();
    let (journal, _) = Journal::in_backend(Arc::new(disk.clone()), Mode::Thread, options, |_| Ok(())).unwrap();
    disk.record();
    (journal, disk)
}

fn one(n: u64) -> Batch {
    let mut batch = Batch::new();
    batch.put(Table::Jobs, &key(1, n), b"payload");
    batch
}

/// The rows that another process would find.
fn rows(disk: &ModelDisk) -> usize {
    let (journal, _, rows) = open(backend(&ModelDisk::with(disk.contents()), 0), Mode::Inline).unwrap();
    journal.abandon();
    rows.len()
}

fn syncs(disk: &ModelDisk) -> usize {
    disk.recorded().iter().filter(|event| matches!(event, Event::Synced)).count()
}

/// Quick to try again.
fn hasty() -> Options {
    let quick = Duration::from_millis(1);
    Options { retry: quick, retry_max: quick, patience: Duration::from_millis(50), ..options() }
}

#[tokio::test(start_paused = true)]
async fn many_share_one_commit_and_time_of_tests_does_not_matter() {
    let (journal, disk) = start(&options());
    let lazy: Vec<Ticket> = (0..100).map(|n| journal.append(&one(n), Urgency::Within(HOUR))).collect();
    assert!(!journal.is_committed(lazy[0]));
    let last = journal.append(&one(100), Urgency::Now);
    journal.committed(last).await.unwrap();
    assert!(lazy.iter().all(|ticket| journal.is_committed(*ticket)));
    assert_eq!(syncs(&disk), 2, "one commit in two phases");
    assert_eq!(rows(&disk), 101);
    journal.close().await.unwrap();
}

/// A paused clock runs on by itself where nothing but the journal's thread has something to do.
#[tokio::test(start_paused = true)]
async fn a_paused_clock_does_not_run_out_while_the_disk_is_at_work() {
    let (journal, disk) = start(&options());
    disk.stall(true);
    let ticket = journal.append(&one(1), Urgency::Now);
    let begun = tokio::time::Instant::now();
    let slow = std::thread::spawn(move || {
        std::thread::park_timeout(Duration::from_millis(700));
        disk.stall(false);
    });
    journal.kept(ticket).await.unwrap();
    slow.join().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?} have passed", begun.elapsed());
    journal.close().await.unwrap();
}

#[tokio::test]
async fn a_shorter_wait_overtakes_a_longer_one() {
    let (journal, disk) = start(&options());
    let slow = journal.append(&one(1), Urgency::Within(HOUR));
    let _ = journal.append(&one(2), Urgency::Within(Duration::from_millis(5)));
    journal.committed(slow).await.unwrap();
    assert_eq!(rows(&disk), 2);
    // And what is not urgent is not written on its own account.
    let slow = journal.append(&one(3), Urgency::Within(HOUR));
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!journal.is_committed(slow));
    journal.close().await.unwrap();
    assert_eq!(rows(&disk), 3);
    let late = journal.append(&one(4), Urgency::Now);
    assert_eq!(journal.committed(late).await.unwrap_err().code(), ErrorCode::Closed);
    assert!(!journal.is_committed(late));
}

/// Nobody awaits it, and nothing urgent comes after it.
#[tokio::test]
async fn what_may_wait_is_written_without_being_asked_for() {
    let (journal, disk) = start(&options());
    let ticket = journal.append(&one(1), Urgency::Within(Duration::from_millis(5)));
    for _ in 0..5_000 {
        if journal.is_committed(ticket) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(journal.is_committed(ticket));
    assert_eq!(rows(&disk), 1);
    journal.close().await.unwrap();
}

#[tokio::test]
async fn what_came_and_went_between_two_commits_is_not_written() {
    let (journal, disk) = start(&options());
    let mut batch = Batch::new();
    for n in 0..100 {
        batch.put(Table::Jobs, &key(1, n), &[7; 1_000]);
        batch.put(Table::Jobs, &key(1, n), &[8; 1_000]);
        batch.delete(Table::Jobs, &key(1, n));
    }
    journal.committed(journal.append(&batch, Urgency::Now)).await.unwrap();
    let written: usize = disk
        .recorded()
        .iter()
        .map(|event| match event {
            Event::Changed(super::super::disk::Change::Write { data, .. }) => data.len(),
            _ => 0,
        })
        .sum();
    assert!(written < 100_000, "{written} bytes for nothing");
    assert_eq!(rows(&disk), 0);
    journal.close().await.unwrap();
}

#[tokio::test]
async fn a_full_disk_refuses_loses_nothing_and_goes_on_when_there_is_room() {
    let (journal, disk) = start(&hasty());
    journal.committed(journal.append(&one(1), Urgency::Now)).await.unwrap();
    disk.refuse(Some(ErrorKind::StorageFull));
    let ticket = journal.append(&one(2), Urgency::Now);
    let error = journal.committed(ticket).await.unwrap_err();
    assert_eq!((error.code(), error.message().contains("make room")), (ErrorCode::Unavailable, true), "{error}");
    assert_eq!(journal.ready().unwrap_err().code(), ErrorCode::Unavailable);
    let later = journal.append(&one(3), Urgency::Within(HOUR));
    assert_eq!(rows(&disk), 1);

    disk.refuse(None);
    while journal.ready().is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    journal.committed(ticket).await.unwrap();
    assert_eq!(rows(&disk), 2);
    journal.close().await.unwrap();
    assert!(journal.is_committed(later));
    assert_eq!(rows(&disk), 3);
}

#[tokio::test]
async fn a_disk_that_refuses_is_not_waited_for_when_closing() {
    let (journal, disk) = start(&hasty());
    disk.refuse(Some(ErrorKind::Other));
    let ticket = journal.append(&one(1), Urgency::Now);
    let error = journal.close().await.unwrap_err();
    assert!(error.message().contains("1 changes are not in the journal"), "{error}");
    assert!(journal.committed(ticket).await.is_err());
    journal.close().await.unwrap_err();
    assert_eq!(rows(&disk), 0);
}

#[tokio::test]
async fn what_waits_is_bounded() {
    let (journal, disk) = start(&Options { buffer: 10_000, ..hasty() });
    disk.refuse(Some(ErrorKind::StorageFull));
    let mut taken = 0;
    while journal.ready().is_ok() {
        let _ = journal.append(&one(taken), Urgency::Within(HOUR));
        taken += 1;
    }
    assert!((200..500).contains(&taken), "{taken} of 26 bytes and a head");
    assert_eq!(journal.ready().unwrap_err().code(), ErrorCode::Unavailable);
    disk.refuse(None);
    journal.close().await.unwrap();
    assert_eq!(rows(&disk) as u64, taken);
}

#[tokio::test]
async fn inline_writes_only_when_asked_and_after_a_refusal_when_asked_again() {
    let disk = ModelDisk::new();
    let (journal, ..) = open(backend(&disk, 0), Mode::Inline).unwrap();
    let ticket = journal.append(&one(1), Urgency::Now);
    assert!(!journal.is_committed(ticket));
    disk.refuse(Some(ErrorKind::StorageFull));
    assert_eq!(journal.committed(ticket).await.unwrap_err().code(), ErrorCode::Unavailable);
    assert!(journal.ready().is_err());
    disk.refuse(None);
    journal.pump();
    assert!(journal.ready().is_ok() && journal.is_committed(ticket));
    journal.close().await.unwrap();
    assert_eq!(rows(&disk), 1);
}

#[tokio::test]
async fn an_abandoned_journal_forgets_what_waited() {
    let (journal, disk) = start(&options());
    let ticket = journal.append(&one(1), Urgency::Within(HOUR));
    journal.abandon();
    assert_eq!(journal.committed(ticket).await.unwrap_err().code(), ErrorCode::Closed);
    assert_eq!(rows(&disk), 0);
}
