//! Two producers and one unique key.

use queue_core::{
    Envelope,
    job::{Unique, UniqueKey},
    provider::PublishOutcome,
};

use crate::rig::{Rig, envelope, publish};

const ROUNDS: u64 = 500;

fn unique(n: u64, round: u64) -> Envelope {
    let unique = Unique { key: UniqueKey::new(format!("order-{round}")).unwrap(), window: None };
    envelope(n).edit(|envelope| envelope.unique = Some(Box::new(unique)))
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_producers_racing_on_one_unique_key_exactly_one_wins() {
    let Some(rig) = Rig::new() else { return };
    let (one, other) = (rig.connect().await, rig.connect().await);
    let mut won = [0, 0];
    for round in 0..ROUNDS {
        let (mine, theirs) = (unique(2 * round, round), unique(2 * round + 1, round));
        let (first, second) = tokio::join!(
            tokio::spawn({
                let (one, queue, job) = (one.clone(), rig.queue.clone(), mine.clone());
                async move { publish(&one, &queue, vec![job]).await.remove(0) }
            }),
            tokio::spawn({
                let (other, queue, job) = (other.clone(), rig.queue.clone(), theirs.clone());
                async move { publish(&other, &queue, vec![job]).await.remove(0) }
            })
        );
        match (first.unwrap(), second.unwrap()) {
            (PublishOutcome::Accepted { .. }, PublishOutcome::Duplicate { existing }) => {
                assert_eq!(existing.id, mine.id);
                won[0] += 1;
            }
            (PublishOutcome::Duplicate { existing }, PublishOutcome::Accepted { .. }) => {
                assert_eq!(existing.id, theirs.id);
                won[1] += 1;
            }
            both => panic!("round {round}: {both:?}"),
        }
    }
    assert_eq!(rig.stats(&one).await.pending, ROUNDS);
    assert!(won.iter().all(|won| *won > 0), "that was no race: {won:?}");
}
