//! What everybody may read and command.

use futures_util::StreamExt;
use queue_core::{
    ErrorCode,
    event::JobEventKind,
    provider::{Cancel, Cursor},
    queue_spec::Retention,
    store::{JobQuery, StoreScope, Watch, Watched},
};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_store_is_of_its_process_and_another_is_another() {
    let bed = Bed::new();
    assert_eq!(bed.store.scope(), StoreScope::Process);
    assert_eq!(bed.store.clone().id(), bed.store.id());
    assert_ne!(bed.store.id(), MemoryTracking::new().id());
}

#[tokio::test(start_paused = true)]
async fn a_listing_pages_through_what_matches() {
    let bed = Bed::new();
    let mut ids = Vec::new();
    for n in 0..10 {
        let job = bed.job();
        bed.published(&job).await;
        if n % 2 == 0 {
            bed.run(&job).await;
        } else {
            ids.push(job.id);
        }
    }
    let query = JobQuery::queue(queue()).in_states([JobState::Pending]);
    let (mut found, mut cursor, mut pages) = (Vec::new(), None, 0);
    loop {
        let page = bed.store.list(&query, cursor, 2).await.unwrap();
        found.extend(page.items.iter().map(|record| record.job.id));
        pages += 1;
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!((found, pages), (ids, 3));
    let other = JobQuery::queue(QueueName::from_static("other"));
    assert!(bed.store.list(&other, None, 9).await.unwrap().items.is_empty());
    let error = bed.store.list(&query, Some(Cursor("nonsense".into())), 1).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Validation);
}

#[tokio::test(start_paused = true)]
async fn retention_takes_by_age_count_and_bytes_and_leaves_the_dead_longer() {
    let bed = Bed::new();
    let mut jobs = Vec::new();
    for _ in 0..4 {
        let job = bed.job();
        let fence = bed.running(&job).await;
        bed.settle(fence, done()).await;
        jobs.push(job);
        pass(seconds(1)).await;
    }
    let dead = bed.job();
    let fence = bed.running(&dead).await;
    bed.settle(fence, Disposition::DeadLetter { error: failed() }).await;

    let evict = async |retention: Retention, limit| bed.store.evict(&queue(), &retention, limit).await.unwrap();
    assert_eq!(evict(Retention::default(), 9).await, 0);
    assert_eq!(evict(Retention { count: 3, ..Retention::default() }, 9).await, 1);
    let size = (jobs[0].encoded_len() + "result".len()) as u64;
    assert_eq!(evict(Retention { bytes: 2 * size, ..Retention::default() }, 9).await, 1);
    assert_eq!(evict(Retention { age: seconds(2), ..Retention::default() }, 9).await, 1);
    assert!(matches!(bed.look(&jobs[2]).await, Lookup::Gone));
    assert_eq!(bed.state(&jobs[3]).await, JobState::Completed);
    assert_eq!(evict(Retention { dead: seconds(0), ..Retention::none() }, 1).await, 1, "the limit");
    assert_eq!(bed.state(&dead).await, JobState::Dead);
    assert_eq!(evict(Retention { dead: seconds(0), ..Retention::none() }, 9).await, 1);
    assert!(matches!(bed.look(&dead).await, Lookup::Gone));
}

#[tokio::test(start_paused = true)]
async fn the_switches_of_a_queue_change_by_compare_and_set() {
    let bed = Bed::new();
    let mut control = bed.store.queue_control(&queue()).await.unwrap();
    let old = control.clone();
    control.paused = true;
    bed.store.set_queue_control(&queue(), &control).await.unwrap();
    assert_eq!(bed.store.set_queue_control(&queue(), &old).await.unwrap_err().code(), ErrorCode::Conflict);
    let now = bed.store.queue_control(&queue()).await.unwrap();
    assert!(now.paused && now.version > old.version);
}

#[tokio::test(start_paused = true)]
async fn one_leads_for_its_term_and_every_change_is_fenced() {
    let bed = Bed::new();
    let lead = async |who| bed.store.lead("sweep", who, seconds(15)).await.unwrap();
    let first = lead("a").await.unwrap();
    assert!(lead("b").await.is_none());
    pass(seconds(14)).await;
    assert_eq!(lead("a").await.unwrap().epoch, first.epoch);
    pass(seconds(15)).await;
    assert!(lead("b").await.unwrap().epoch > first.epoch);
    assert!(lead("a").await.is_none());
}

#[tokio::test(start_paused = true)]
async fn events_fire_once_in_order_and_commands_reach_their_queue_alone() {
    let bed = Bed::new();
    let job = bed.job();
    let mut all = bed.store.watch(Watch::All).await.unwrap();
    let mut commands = bed.store.watch(Watch::Commands(queue())).await.unwrap();
    let mut others = bed.store.watch(Watch::Commands(QueueName::from_static("other"))).await.unwrap();
    bed.stage(&job).await;
    assert!(tokio::time::timeout(seconds(1), all.next()).await.is_err(), "staged is not submitted yet");
    bed.confirm(&job).await;
    bed.confirm(&job).await;
    let fence = bed.run(&job).await;
    bed.store.cancel(&[reference(&job)], &Cancel::by("me")).await;
    for _ in 0..2 {
        bed.settle(fence, done()).await;
    }
    use JobEventKind::{CancelRequested, Completed, Started, Submitted};
    for wanted in [Submitted, Started, CancelRequested, Completed] {
        match all.next().await.unwrap() {
            Watched::Event(event) => assert_eq!((event.what, &event.job), (wanted, &reference(&job))),
            Watched::Missed => panic!(),
        }
    }
    assert!(tokio::time::timeout(seconds(1), all.next()).await.is_err());
    assert!(matches!(commands.next().await, Some(Watched::Event(event)) if event.what == CancelRequested));
    assert!(tokio::time::timeout(seconds(1), commands.next()).await.is_err());
    assert!(tokio::time::timeout(seconds(1), others.next()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_submission_is_told_once_by_whatever_makes_it_certain() {
    let bed = Bed::new();
    let mut events = bed.store.watch(Watch::All).await.unwrap();
    let mut told = || {
        let mut submitted = Vec::new();
        while let Some(Some(Watched::Event(event))) = futures_util::FutureExt::now_or_never(events.next()) {
            submitted.extend(Some(event.job.id).filter(|_| event.what == JobEventKind::Submitted));
        }
        submitted
    };
    let [held, claimed, adopted, again, refused, swept, taken_back] = [(); 7].map(|()| bed.job());
    bed.hold(&held, seconds(1)).await;
    assert_eq!(told(), [held.id]);
    for job in [&claimed, &again, &refused, &swept, &taken_back] {
        bed.stage(job).await;
    }
    bed.unstage(&taken_back).await;
    assert_eq!(told(), []);
    let fence = bed.run(&claimed).await;
    assert_eq!(told(), [claimed.id]);
    bed.run(&adopted).await;
    assert_eq!(told(), [adopted.id]);
    bed.stage(&again).await;
    assert_eq!(told(), [again.id]);
    bed.refuse(&refused).await;
    assert_eq!(told(), [refused.id]);
    let follow_up = FollowUp { queue: queue(), envelope: bed.job() };
    bed.settle_with(fence, done(), None, vec![follow_up.clone()]).await;
    assert_eq!(told(), [follow_up.envelope.id]);
    pass(STAGE).await;
    assert_eq!(bed.due().await.len(), 4);
    assert_eq!(told(), [swept.id]);
}
