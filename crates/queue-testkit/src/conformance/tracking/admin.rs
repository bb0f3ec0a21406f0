//! What people ask of a queue whose records the store keeps.

use std::time::Duration;

use queue_core::{
    ErrorCode, JobError, JobRef,
    lifecycle::JobState,
    provider::{Beat, BeatOutcome, Cancel, Cursor, DeadFilter, DeadJob, Disposition, ParkKey},
    queue_spec::Retention,
    store::{Lookup, QueueControl, RedriveOutcome, StageOutcome, StagedJob, Verdict},
};
use tokio::time::sleep;

use super::{
    context::{SLACK, STAGE, StoreCtx, only, receipt, scope, staged},
    store_cases,
};
use crate::conformance::{
    Failed, Outcome,
    case::{check, check_eq, check_matches},
};

store_cases! { "admin";
    bound_is_kept_by_stage
    place_is_noted
    silent_jobs_are_staged_anew
    parked_keys_with_their_numbers
    dead_are_listed_page_by_page
    redriven_is_staged_as_another_life
    redrive_leaves_a_held_key_alone
    forgotten_dead_do_not_come_back
    numbers_of_a_queue
    oldest_pending_is_told
    queues_are_listed_by_provider
    position_in_line
    purged_jobs_are_cancelled
    dropped_queue_is_forgotten
    noted_retention_is_told_again
}

fn bury() -> Disposition {
    Disposition::DeadLetter { error: JobError::custom("BAD", "no use") }
}

async fn bound_is_kept_by_stage(ctx: &StoreCtx) -> Outcome {
    let queue = ctx.queue();
    let jobs: Vec<StagedJob> = (0..3).map(|_| staged(&queue, &ctx.job("a")).bounded(Some(2))).collect();
    let outcomes = ctx.store.stage(&jobs, STAGE).await;
    check_matches!(
        outcomes.as_slice(),
        [StageOutcome::Staged, StageOutcome::Staged, StageOutcome::Rejected(queue_core::provider::Rejection::Full)],
        "three into a queue of two"
    );
    ctx.run(&queue, &jobs[0].envelope).await?;
    let again = only(ctx.store.stage(&jobs[2..], STAGE).await)?;
    check_matches!(again, StageOutcome::Staged, "when one runs there is room");
    Ok(())
}

async fn noted_retention_is_told_again(ctx: &StoreCtx) -> Outcome {
    let queue = ctx.queue();
    let noted = async || ctx.store.queue_control(&queue).await.map_err(Failed::from);
    let fresh = noted().await?;
    check_eq!((fresh.paused, fresh.retention), (false, None), "the switches of a queue that nobody has told of");
    let long = Retention { count: u64::MAX, age: Duration::from_millis(1_500), ..Retention::default() };
    ctx.store.set_queue_control(&queue, &QueueControl { retention: Some(long), ..fresh.clone() }).await?;
    let first = noted().await?;
    check_eq!((first.paused, first.retention), (false, Some(long)), "once it is noted");
    check!(first.version > fresh.version, "after a change: {first:?}, before: {fresh:?}");
    ctx.store.set_queue_control(&queue, &QueueControl { paused: true, ..first }).await?;
    let paused = noted().await?;
    check_eq!((paused.paused, paused.retention), (true, Some(long)), "of a queue that was paused after it");
    let late = ctx.store.set_queue_control(&queue, &QueueControl { retention: None, ..fresh }).await;
    check_eq!(late.err().map(|error| error.code()), Some(ErrorCode::Conflict), "a note on an old version");
    check_eq!(noted().await?, paused, "after a note on an old version");
    let none = Retention::none();
    ctx.store.set_queue_control(&queue, &QueueControl { retention: Some(none), ..paused }).await?;
    let other = noted().await?;
    check_eq!((other.paused, other.retention), (true, Some(none)), "another one, of a queue that is paused");
    check_eq!(ctx.store.queue_control(&ctx.queue()).await?.retention, None, "that of another queue");
    ctx.store.drop_queue(&queue).await?;
    check_eq!(noted().await?.retention, None, "that of a queue that was dropped");
    Ok(())
}

async fn place_is_noted(ctx: &StoreCtx) -> Outcome {
    let (queue, envelope) = (ctx.queue(), ctx.job("a"));
    let job = ctx.stage(&queue, &envelope).await?;
    ctx.confirm(&JobRef { place: 7, ..job.clone() }, 0).await?;
    check_eq!(ctx.record(&job).await?.job.place, 7, "the place that the transport named");
    Ok(())
}

async fn silent_jobs_are_staged_anew(ctx: &StoreCtx) -> Outcome {
    let (queue, lost, running) = (ctx.queue(), ctx.job("lost"), ctx.job("running"));
    let at_least = Duration::from_secs(3);
    let job = ctx.publish(&queue, &lost).await?;
    ctx.publish(&queue, &running).await?;
    ctx.run(&queue, &running).await?;
    let silent = async || ctx.store.silent(&scope(&queue), at_least, 10, STAGE).await.map_err(Failed::from);
    check!(silent().await?.is_empty(), "a job that was only just published is taken for lost");
    sleep(at_least + SLACK).await;
    let found = silent().await?;
    check_eq!(found.iter().map(|staged| staged.envelope.id).collect::<Vec<_>>(), [lost.id], "what is silent");
    check_eq!(found[0].envelope.generation, 1, "the generation of the new copy");
    check!(silent().await?.is_empty(), "it is published twice at once");
    check_matches!(ctx.judge(&queue, &lost, "worker").await?, Verdict::Drop, "the lost copy that turned up");
    ctx.confirm(&job, 1).await?;
    ctx.run(&queue, &found[0].envelope).await.map(drop)
}

async fn parked_keys_with_their_numbers(ctx: &StoreCtx) -> Outcome {
    let queue = ctx.queue();
    for key in ["rare", "often", "often"] {
        let job = ctx.job(key);
        ctx.publish(&queue, &job).await?;
        let (fence, _) = ctx.run(&queue, &job).await?;
        let at_most = Duration::from_secs(600);
        ctx.settle(fence, Disposition::Park { key: ParkKey(key.into()), at_most }).await?;
    }
    let (rare, often) = (ParkKey("rare".into()), ParkKey("often".into()));
    check_eq!(ctx.store.parked(&queue, 9).await?, [(often.clone(), 2), (rare.clone(), 1)], "the most first");
    check_eq!(ctx.store.parked(&queue, 1).await?, [(often.clone(), 2)], "one at most");
    check!(ctx.store.parked(&ctx.queue(), 9).await?.is_empty(), "parked in another queue");
    ctx.store.unpark(&scope(&queue), &often, 9, STAGE).await?;
    check_eq!(ctx.store.parked(&queue, 9).await?, [(rare, 1)], "without those that were let go");
    Ok(())
}

async fn die(ctx: &StoreCtx, queue: &queue_core::QueueName, text: &str) -> Outcome<JobRef> {
    let job = ctx.unique(text, text);
    ctx.publish(queue, &job).await?;
    let (fence, _) = ctx.run(queue, &job).await?;
    ctx.settle(fence, bury()).await?;
    sleep(Duration::from_millis(5)).await;
    Ok(JobRef::new(queue.clone(), job.id))
}

async fn dead(ctx: &StoreCtx, queue: &queue_core::QueueName) -> Outcome<Vec<DeadJob>> {
    Ok(ctx.store.dead(queue, &DeadFilter::default(), None, 100).await?.items)
}

async fn dead_are_listed_page_by_page(ctx: &StoreCtx) -> Outcome {
    let queue = ctx.queue();
    let mut jobs = Vec::new();
    for text in ["a", "b", "c", "d", "e"] {
        jobs.push(die(ctx, &queue, text).await?);
    }
    let filter = DeadFilter { code: Some("BAD".into()), ..DeadFilter::default() };
    let first = ctx.store.dead(&queue, &filter, None, 2).await?;
    // What was shown and went leaves no hole.
    ctx.store.forget_dead(&jobs[..1]).await;
    let second = ctx.store.dead(&queue, &filter, first.next.clone(), 2).await?;
    let third = ctx.store.dead(&queue, &filter, second.next.clone(), 2).await?;
    let found: Vec<_> = [&first, &second, &third].iter().flat_map(|page| &page.items).map(|dead| dead.id).collect();
    check_eq!(found, jobs.iter().map(|job| job.id).collect::<Vec<_>>(), "the dead, the oldest first");
    check!(third.next.is_none(), "the last page says that there is more");
    check_eq!((first.items[0].error.code.as_ref(), first.items[0].attempt), ("BAD", 1), "why, and in which attempt");
    let other = DeadFilter { code: Some("OTHER".into()), ..DeadFilter::default() };
    check!(ctx.store.dead(&queue, &other, None, 9).await?.items.is_empty(), "dead of another cause");
    check!(ctx.store.dead(&queue, &filter, Some(Cursor("nonsense".into())), 9).await.is_err(), "a foreign cursor");
    Ok(())
}

async fn redriven_is_staged_as_another_life(ctx: &StoreCtx) -> Outcome {
    let queue = ctx.queue();
    let job = die(ctx, &queue, "a").await?;
    let asked = [(job.clone(), Some("edited".into())), (JobRef::new(ctx.queue(), job.id), None)];
    let outcomes = ctx.store.redrive(&asked, STAGE).await;
    let [Ok(RedriveOutcome::Staged(copy)), Ok(RedriveOutcome::NotDead)] = outcomes.as_slice() else {
        return Err(Failed(format!("a dead job and an unknown one were answered {outcomes:?}")));
    };
    let copy = copy.envelope.clone();
    check_eq!((copy.generation, copy.attempt, copy.payload.as_ref()), (1, 1, &b"edited"[..]), "the new copy");
    check!(dead(ctx, &queue).await?.is_empty(), "it lives, and is listed among the dead");
    let again = only(ctx.store.redrive(&[(job.clone(), None)], STAGE).await)?;
    check_matches!(again, Ok(RedriveOutcome::NotDead), "a second time");
    let taken = only(ctx.store.unstage(&[(job.clone(), 1)]).await)?;
    check_matches!(taken, Ok(false), "what was redriven is promised");
    sleep(STAGE + SLACK).await;
    let due: Vec<u32> = ctx.due(&queue, false).await?.iter().map(|staged| staged.envelope.generation).collect();
    check_eq!(due, [1], "nobody published it, so the sweep does");
    let (fence, attempt) = ctx.run(&queue, &copy).await?;
    check_eq!(attempt, 1, "the attempt of another life");
    ctx.settle(fence, bury()).await?;
    check_eq!(dead(ctx, &queue).await?.len(), 1, "it can die again");
    Ok(())
}

async fn redrive_leaves_a_held_key_alone(ctx: &StoreCtx) -> Outcome {
    let queue = ctx.queue();
    let job = die(ctx, &queue, "key").await?;
    let holder = ctx.publish(&queue, &ctx.unique("holder", "key")).await?;
    let outcome = only(ctx.store.redrive(&[(job.clone(), None)], STAGE).await)?;
    check_matches!(outcome, Ok(RedriveOutcome::Duplicate { existing }) if existing.id == holder.id, "its key is held");
    check_eq!(ctx.state(&job).await?, JobState::Dead, "the state");
    Ok(())
}

async fn forgotten_dead_do_not_come_back(ctx: &StoreCtx) -> Outcome {
    let queue = ctx.queue();
    let job = die(ctx, &queue, "a").await?;
    let living = ctx.publish(&queue, &ctx.job("b")).await?;
    let answers = ctx.store.forget_dead(&[job.clone(), living.clone()]).await;
    check_matches!(answers.as_slice(), [Ok(true), Ok(false)], "a dead and a living one");
    check_matches!(only(ctx.store.get(&[job]).await)?, Ok(Lookup::Gone | Lookup::NotFound), "what was forgotten");
    check!(dead(ctx, &queue).await?.is_empty(), "it is still listed");
    check_eq!(ctx.state(&living).await?, JobState::Pending, "the living one");
    Ok(())
}

async fn numbers_of_a_queue(ctx: &StoreCtx) -> Outcome {
    let queue = ctx.queue();
    die(ctx, &queue, "dead").await?;
    let done = ctx.job("done");
    ctx.publish(&queue, &done).await?;
    let (fence, _) = ctx.run(&queue, &done).await?;
    ctx.settle(fence, Disposition::Complete { result: None }).await?;
    let (parked, running) = (ctx.job("parked"), ctx.job("running"));
    ctx.publish(&queue, &parked).await?;
    let (fence, _) = ctx.run(&queue, &parked).await?;
    let at_most = Duration::from_secs(600);
    ctx.settle(fence, Disposition::Park { key: ParkKey("key".into()), at_most }).await?;
    ctx.publish(&queue, &running).await?;
    ctx.run(&queue, &running).await?;
    ctx.publish(&queue, &ctx.job("waits")).await?;
    let later = ctx.now() + Duration::from_secs(600);
    ctx.publish(&queue, &ctx.job("later").edit(|job| job.not_before = Some(later))).await?;
    let stats = only(ctx.store.stats(std::slice::from_ref(&queue)).await)??;
    check_eq!((stats.pending, stats.parked, stats.scheduled, stats.running), (2, 1, 1, 1), "who waits and who runs");
    check_eq!((stats.dead, stats.finished), (1, 1), "dead, and finished otherwise");
    check_eq!((stats.submitted_total, stats.completed_total), (6, 1), "submitted and completed so far");
    Ok(())
}

async fn oldest_pending_is_told(ctx: &StoreCtx) -> Outcome {
    let queue = ctx.queue();
    let oldest = async || Ok::<_, Failed>(only(ctx.store.stats(std::slice::from_ref(&queue)).await)??.oldest_pending);
    check_eq!(oldest().await?, None, "of a queue in which nothing is");
    let mut jobs = Vec::new();
    for text in ["a", "b", "c"] {
        jobs.push(ctx.job(text));
        ctx.publish(&queue, &jobs[jobs.len() - 1]).await?;
        sleep(Duration::from_millis(20)).await;
    }
    let mut since = Vec::new();
    for job in &jobs {
        since.push(ctx.record(&JobRef::new(queue.clone(), job.id)).await?.submitted_at);
    }
    check_eq!(oldest().await?, Some(since[0]), "the first of three");
    let (fence, _) = ctx.run(&queue, &jobs[0]).await?;
    check_eq!(oldest().await?, Some(since[1]), "the second, since the first runs");
    ctx.settle(fence, Disposition::Complete { result: None }).await?;
    let (fence, _) = ctx.run(&queue, &jobs[1]).await?;
    ctx.settle(fence, Disposition::Park { key: ParkKey("key".into()), at_most: Duration::from_secs(600) }).await?;
    check_eq!(oldest().await?, Some(since[2]), "the third, since the second is parked");
    ctx.store.cancel(&[JobRef::new(queue.clone(), jobs[2].id)], &Cancel::by("test")).await;
    check_eq!(oldest().await?, None, "when nothing is ready any more");
    let before = ctx.now();
    let let_go = ctx.store.unpark(&scope(&queue), &ParkKey("key".into()), 1, STAGE).await?;
    check_eq!(let_go.len(), 1, "of the parked one");
    check!(oldest().await?.is_some_and(|oldest| oldest >= before), "the unparked one is ready since it was unparked");
    Ok(())
}

async fn queues_are_listed_by_provider(ctx: &StoreCtx) -> Outcome {
    let carries = scope(&ctx.queue()).provider;
    let mut wanted = Vec::new();
    for text in ["a", "b", "c"] {
        let queue = ctx.queue();
        ctx.publish(&queue, &ctx.job(text)).await?;
        wanted.push(queue);
    }
    let theirs = ctx.queue();
    let mut other = staged(&theirs, &ctx.job("other"));
    other.provider = "other".into();
    check_matches!(only(ctx.store.stage(&[other], STAGE).await)?, StageOutcome::Staged, "another provider's");
    wanted.sort();
    let listed = async |provider: &str, prefix: &str, limit: usize| {
        let (mut all, mut cursor) = (Vec::new(), None);
        loop {
            let page = ctx.store.queues(provider, prefix, cursor, limit).await?;
            check!(page.items.len() <= limit, "{} on a page of {limit}", page.items.len());
            all.extend(page.items);
            cursor = page.next;
            if cursor.is_none() {
                return Ok::<_, Failed>(all);
            }
        }
    };
    for limit in [1, 2, 3, 100] {
        let mut all = listed(&carries, "", limit).await?;
        check!(all.is_sorted(), "by name: {all:?}");
        all.retain(|queue| wanted.contains(queue));
        check_eq!(all, wanted, "by pages of {limit}");
    }
    check!(!listed(&carries, "", 100).await?.contains(&theirs), "what another provider carries is listed");
    check_eq!(listed("other", theirs.as_str(), 100).await?, [theirs], "of the other provider, by its name");
    let dropped = wanted.remove(0);
    ctx.store.drop_queue(&dropped).await?;
    check!(!listed(&carries, "", 100).await?.contains(&dropped), "a dropped queue is listed");
    ctx.publish(&dropped, &ctx.job("again")).await?;
    check!(listed(&carries, "", 100).await?.contains(&dropped), "a queue that is used again is not listed");
    Ok(())
}

async fn position_in_line(ctx: &StoreCtx) -> Outcome {
    let queue = ctx.queue();
    let mut jobs = Vec::new();
    for text in ["a", "b", "urgent"] {
        let priority = if text == "urgent" { queue_core::Priority::HIGH } else { queue_core::Priority::NORMAL };
        let job = ctx.job(text).edit(|job| job.priority = priority);
        jobs.push(ctx.publish(&queue, &job).await?);
        sleep(Duration::from_millis(5)).await;
    }
    let mut found = Vec::new();
    for job in &jobs {
        found.push(ctx.store.position(job).await?);
    }
    check_eq!(found, [Some(1), Some(2), Some(0)], "who is before them");
    check_eq!(ctx.store.position(&JobRef::new(ctx.queue(), jobs[0].id)).await?, None, "of no such job");
    Ok(())
}

async fn purged_jobs_are_cancelled(ctx: &StoreCtx) -> Outcome {
    let queue = ctx.queue();
    let (running, waits) = (ctx.job("running"), ctx.unique("waits", "key"));
    ctx.publish(&queue, &running).await?;
    let (fence, _) = ctx.run(&queue, &running).await?;
    let job = ctx.publish(&queue, &waits).await?;
    ctx.stage(&queue, &ctx.job("staged")).await?;
    let other = ctx.publish(&ctx.queue(), &ctx.job("other")).await?;
    check_eq!(ctx.store.purge(&queue).await?, 2, "those that waited");
    check_eq!(ctx.state(&job).await?, JobState::Cancelled, "one that waited");
    check_eq!(ctx.state(&other).await?, JobState::Pending, "one of another queue");
    check_matches!(ctx.judge(&queue, &waits, "worker").await?, Verdict::Drop, "its copy");
    let beat = only(ctx.store.heartbeat(&[(fence, Beat::extend(receipt(fence), STAGE))]).await)?;
    check_matches!(beat, BeatOutcome::Held(_), "the one that runs");
    check_matches!(ctx.offer(&queue, &ctx.unique("next", "key")).await?, StageOutcome::Staged, "the key is free");
    sleep(STAGE + SLACK).await;
    let due = ctx.due(&queue, false).await?;
    check!(due.iter().all(|staged| &staged.envelope.payload[..] == b"next"), "the sweep publishes what was purged");
    Ok(())
}

async fn dropped_queue_is_forgotten(ctx: &StoreCtx) -> Outcome {
    let queue = ctx.queue();
    let (running, waits) = (ctx.job("running"), ctx.unique("waits", "key"));
    ctx.publish(&queue, &running).await?;
    let (fence, _) = ctx.run(&queue, &running).await?;
    let job = ctx.stage(&queue, &waits).await?;
    let other = ctx.publish(&ctx.queue(), &ctx.job("other")).await?;
    ctx.store.drop_queue(&queue).await?;
    check_matches!(only(ctx.store.get(&[job]).await)?, Ok(Lookup::NotFound | Lookup::Gone), "a job of it");
    check_eq!(ctx.state(&other).await?, JobState::Pending, "one of another queue");
    let outcome = ctx.settle(fence, Disposition::Complete { result: None }).await?;
    check!(!outcome.is_settled(), "who ran a job of it was answered {outcome:?}");
    check_matches!(ctx.offer(&queue, &ctx.unique("next", "key")).await?, StageOutcome::Staged, "the key is free");
    sleep(STAGE + SLACK).await;
    check_eq!(ctx.due(&queue, true).await?.len(), 1, "copies that the sweep publishes: the new one's");
    let stats = only(ctx.store.stats(&[queue]).await)??;
    check_eq!((stats.submitted_total, stats.running), (1, 0), "its numbers begin anew");
    Ok(())
}
