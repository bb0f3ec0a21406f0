//! What an answer waits for.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;

use queue_core::{
    ErrorCode, QueueProvider as _, QueueSpec, Timestamp,
    job::{Envelope, JobKind, QueueName},
    provider::{PublishOptions, PublishOutcome},
};

use super::*;
use crate::{JournalOptions, MemoryProvider, ModelDisk, queue::Queue};

const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn job(n: u64) -> Envelope {
    Envelope::builder(JobId::derive(b"job", n), JobKind::from_static("k"), &b""[..], START).seal()
}

/// A provider whose changes are written when somebody waits for them, with a queue of each name.
async fn provider<const N: usize>(
    names: [&'static str; N],
    durability: Option<Durability>,
) -> (MemoryProvider, [Arc<Queue>; N]) {
    let options = JournalOptions::on_disk(&ModelDisk::new(), true);
    let provider = MemoryProvider::open(&options, Env::seeded(START, 1)).unwrap();
    for name in names {
        let mut spec = QueueSpec::new(QueueName::from_static(name));
        spec.durability = durability;
        provider.declare(&spec).await.unwrap();
    }
    let queues = names.map(|name| provider.shared.queue(&QueueName::from_static(name)));
    (provider, queues)
}

/// Two queues change in one step, and whoever did it is gone before it is on disk. Whoever is answered from that afterwards
/// in either queue changes nothing, and waits all the same.
#[tokio::test(start_paused = true)]
async fn what_rests_on_a_change_of_several_queues_waits_for_it_in_each() {
    let (provider, [one, two]) = provider(["one", "two"], None).await;
    let journal = provider.shared.journal.clone().unwrap();
    let now = provider.shared.now();
    let ticket = {
        let (mut first, mut second) = (one.lock(), two.lock());
        for state in [&mut first, &mut second] {
            state.rely(None);
            state.offer(job(1), None, now);
        }
        let ticket = keep_together(&mut [&mut *first, &mut *second]).unwrap();
        assert_eq!(one.unlock(first), None);
        assert_eq!(two.unlock(second), None);
        ticket
    };
    assert!(!journal.is_committed(ticket), "nobody waited for it");
    for queue in [&one, &two] {
        let (_, waits) = queue.with_kept(|state| {
            state.rely(None);
            state.offer(job(1), None, now)
        });
        assert_eq!(waits, Some(ticket), "{}", queue.name);
        let outcomes = provider.publish(&queue.name, vec![job(1)], &PublishOptions::default()).await;
        assert!(outcomes[0].is_accepted());
        assert!(journal.is_committed(ticket));
    }
}

/// Between the look whether it is open and the change the journal was closed: however little was asked for, an orderly end
/// loses nothing that was answered.
#[tokio::test(start_paused = true)]
async fn what_comes_after_the_end_is_never_answered_as_kept() {
    for durability in [Durability::Relaxed, Durability::Interval(Duration::from_secs(1)), Durability::Synced] {
        let (provider, [one, two]) = provider(["one", "two"], Some(durability)).await;
        let journal = provider.shared.journal.clone().unwrap();
        let now = provider.shared.now();
        journal.close().await.unwrap();
        let (_, alone) = one.with_kept(|state| {
            state.rely(None);
            state.offer(job(1), None, now)
        });
        let together = {
            let (mut first, mut second) = (one.lock(), two.lock());
            for state in [&mut first, &mut second] {
                state.rely(None);
                state.offer(job(2), None, now);
            }
            keep_together(&mut [&mut *first, &mut *second])
        };
        for ticket in [alone, together] {
            assert!(ticket.is_some(), "{durability:?}");
            assert_eq!(provider.shared.kept(ticket).await.unwrap_err().code(), ErrorCode::Closed, "{durability:?}");
        }
        let outcome = provider.publish(&one.name, vec![job(3)], &PublishOptions::default()).await.remove(0);
        assert!(matches!(outcome, PublishOutcome::Rejected(_)), "{outcome:?}");
    }
}
