//! What a store on a disk keeps, and when it answers.

use futures_util::StreamExt as _;
use queue_core::{
    ErrorCode,
    event::JobEventKind,
    provider::Cancel,
    queue_spec::Retention,
    store::{JobQuery, Watch, Watched},
};
use queue_memory::{JournalOptions, ModelDisk};

use super::*;

fn open(disk: &ModelDisk, env: &Env, limits: TrackingLimits) -> MemoryTracking {
    MemoryTracking::open(&JournalOptions::on_disk(disk, true), env.clone(), limits).unwrap()
}

impl Bed {
    pub(super) async fn on_disk() -> Self {
        Self::on_disk_bounded(TrackingLimits::default()).await
    }

    async fn on_disk_bounded(limits: TrackingLimits) -> Self {
        let (env, disk) = (Env::seeded(START, 1), ModelDisk::new());
        let store = open(&disk, &env, limits);
        Self { env, store, disk }
    }

    /// Ends the store in order, or as `kill -9` would, and opens it again.
    pub(super) async fn reopen(&mut self, dies: bool) {
        self.reopen_bounded(dies, TrackingLimits::default()).await;
    }

    async fn reopen_bounded(&mut self, dies: bool, limits: TrackingLimits) {
        if dies {
            self.store.abandon();
        } else {
            self.store.close().await.unwrap();
        }
        self.store = open(&self.disk, &self.env, limits);
    }
}

fn started(fence: Fence) -> Beat {
    Beat { started: true, ..Beat::extend(receipt(fence), LEASE) }
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_no_success_and_loses_nothing_when_there_is_room_again() {
    let mut bed = Bed::on_disk().await;
    let (held, first, second) = (bed.job(), bed.job(), bed.job());
    let fence = bed.running(&held).await;
    bed.disk.refuse(Some(std::io::ErrorKind::StorageFull));
    assert!(matches!(bed.stage(&first).await, StageOutcome::Unknown(_)), "written in memory and not on disk");
    assert!(matches!(bed.stage(&second).await, StageOutcome::Unknown(_)), "refused beforehand");
    assert!(matches!(bed.look(&second).await, Lookup::NotFound), "nothing changed");
    assert!(matches!(bed.claim(&second).await, Verdict::Unknown(_)), "nothing is run that a crash forgets");
    assert!(matches!(bed.settle(fence, done()).await, SettleOutcome::Unknown(_)));
    assert!(matches!(bed.beat(fence, |_| ()).await, BeatOutcome::Held(_)), "who only lives goes on");
    assert!(matches!(bed.beat(fence, |beat| beat.started = true).await, BeatOutcome::Unknown(_)));
    bed.confirm(&first).await;
    let error = bed.store.cancel(&[reference(&held)], &Cancel::by("x")).await.remove(0).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unavailable, "{error}");
    let refused = bed.store.unstage(&[(reference(&first), 0)]).await.remove(0);
    assert_eq!(refused.unwrap_err().code(), ErrorCode::Unavailable);

    bed.disk.refuse(None);
    assert!(matches!(bed.stage(&first).await, StageOutcome::Known), "it was confirmed");
    assert!(matches!(bed.stage(&second).await, StageOutcome::Staged));
    assert!(matches!(bed.settle(fence, done()).await, SettleOutcome::Settled));
    bed.reopen(true).await;
    assert_eq!(bed.state(&held).await, JobState::Completed);
    for job in [first, second] {
        assert_eq!(bed.state(&job).await, JobState::Pending);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_answered_that_rests_on_what_is_not_on_disk() {
    let mut bed = Bed::on_disk().await;
    let job = bed.job();
    let fence = bed.running(&job).await;
    bed.disk.refuse(Some(std::io::ErrorKind::StorageFull));
    assert!(matches!(bed.settle(fence, done()).await, SettleOutcome::Unknown(_)));
    assert_eq!(bed.state(&job).await, JobState::Completed, "in memory");
    assert!(matches!(bed.settle(fence, done()).await, SettleOutcome::Unknown(_)), "settled, and not yet for good");
    assert!(matches!(bed.claim(&job).await, Verdict::Unknown(_)), "its copy must not be acknowledged");
    bed.disk.refuse(None);
    assert!(matches!(bed.settle(fence, done()).await, SettleOutcome::AlreadySettled));
    bed.reopen(true).await;
    assert!(matches!(bed.claim(&job).await, Verdict::Drop));
    assert!(matches!(bed.settle(fence, done()).await, SettleOutcome::AlreadySettled), "also after a restart");
    assert!(matches!(bed.settle(fence, retry(LEASE)).await, SettleOutcome::Conflict));
}

#[tokio::test(start_paused = true)]
async fn a_copy_is_dropped_only_once_the_reason_is_on_disk() {
    let mut bed = Bed::on_disk().await;
    let job = bed.job();
    bed.running(&job).await;
    bed.store.cancel(&[reference(&job)], &Cancel::by("x")).await.remove(0).unwrap();
    pass(LEASE).await;
    assert!(matches!(bed.claim(&job).await, Verdict::Drop), "its worker died before it stopped");
    bed.reopen(true).await;
    assert_eq!(bed.state(&job).await, JobState::Cancelled, "nobody will deliver it again");
}

#[tokio::test(start_paused = true)]
async fn what_a_crash_undoes_was_not_answered() {
    let mut bed = Bed::on_disk().await;
    let (known, lost) = (bed.job(), bed.job());
    bed.published(&known).await;
    bed.disk.refuse(Some(std::io::ErrorKind::StorageFull));
    assert!(matches!(bed.stage(&lost).await, StageOutcome::Unknown(_)));
    bed.store.abandon();
    bed.disk.refuse(None);
    bed.reopen(true).await;
    assert!(matches!(bed.look(&lost).await, Lookup::NotFound));
    assert_eq!(bed.state(&known).await, JobState::Pending);
}

#[tokio::test(start_paused = true)]
async fn a_lost_confirm_costs_a_second_copy_which_is_dropped() {
    let mut bed = Bed::on_disk().await;
    let job = bed.job();
    bed.published(&job).await;
    let fence = bed.run(&job).await;
    assert!(matches!(bed.settle(fence, done()).await, SettleOutcome::Settled));
    let other = bed.job();
    bed.published(&other).await;
    bed.reopen(true).await;
    pass(STAGE).await;
    let copies = bed.due().await;
    assert_eq!(copies.len(), 1, "the confirm was not waited for");
    assert_eq!((copies[0].job.id, copies[0].envelope.generation), (other.id, 0));
    bed.run(&other).await;
    assert!(matches!(bed.claim(&copies[0].envelope).await, Verdict::Busy { .. }), "the second copy");
}

#[tokio::test(start_paused = true)]
async fn no_fence_is_given_out_twice() {
    let mut bed = Bed::on_disk().await;
    let job = bed.job();
    bed.published(&job).await;
    let mut fences = Vec::new();
    for _ in 0..4 {
        // Nobody waits for the first claim, so the crash undoes it.
        let fence = bed.run(&job).await;
        assert!(fences.iter().all(|old: &Fence| old.epoch < fence.epoch), "{fence:?} after {fences:?}");
        for old in &fences {
            assert!(matches!(bed.settle(*old, done()).await, SettleOutcome::LeaseLost));
        }
        fences.push(fence);
        bed.reopen(true).await;
        pass(LEASE).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_kills_the_process_is_counted_from_its_second_claim_on() {
    let mut bed = Bed::on_disk().await;
    let job = bed.job();
    bed.published(&job).await;
    let mut seen = Vec::new();
    for _ in 0..5 {
        let Verdict::Run { fence, started_before, redelivered, .. } = bed.claim(&job).await else { panic!() };
        seen.push((started_before, redelivered));
        if redelivered {
            // As a worker does, before it runs what may be a poison.
            assert!(matches!(bed.store.heartbeat(&[(fence, started(fence))]).await[..], [BeatOutcome::Held(_)]));
        }
        bed.reopen(true).await;
        pass(LEASE).await;
    }
    assert_eq!(seen, [(0, false), (0, false), (1, true), (2, true), (3, true)]);
    let fence = bed.run(&job).await;
    assert!(matches!(bed.settle(fence, release(seconds(1))).await, SettleOutcome::Settled));
    assert_eq!(bed.record(&job).await.started_count, 4, "the last one ended well");
}

/// A suspect that is a redelivery anyhow is not counted as a precaution: its worker marks the start before it runs it. So whoever
/// gives it back unstarted neither clears it nor blames it.
#[tokio::test(start_paused = true)]
async fn a_redelivery_that_is_given_back_unstarted_stays_one_after_a_crash() {
    let mut bed = Bed::on_disk().await;
    let job = bed.job();
    bed.running(&job).await;
    pass(LEASE).await;
    let mut fence = bed.run(&job).await;
    for _ in 0..3 {
        assert!(matches!(bed.settle(fence, release(Duration::ZERO)).await, SettleOutcome::Settled));
        bed.reopen(true).await;
        let Verdict::Run { fence: next, started_before, redelivered, .. } = bed.claim(&job).await else { panic!() };
        assert_eq!((started_before, redelivered), (0, true));
        fence = next;
    }
    // Nor does it count for one who dies before he starts it.
    bed.reopen(true).await;
    pass(LEASE).await;
    let Verdict::Run { started_before, redelivered, .. } = bed.claim(&job).await else { panic!() };
    assert_eq!((started_before, redelivered), (0, true));
}

#[tokio::test(start_paused = true)]
async fn nobody_is_suspected_after_an_orderly_end() {
    let mut bed = Bed::on_disk().await;
    let job = bed.job();
    bed.published(&job).await;
    bed.reopen(false).await;
    bed.run(&job).await;
    assert_eq!(bed.record(&job).await.started_count, 0);
}

#[tokio::test(start_paused = true)]
async fn a_holder_keeps_its_fence_for_one_lease_from_the_opening() {
    let mut bed = Bed::on_disk().await;
    let (one, two) = (bed.job(), bed.job());
    let (first, second) = (bed.running(&one).await, bed.running(&two).await);
    pass(LEASE - seconds(1)).await;
    bed.reopen(false).await;
    pass(LEASE - seconds(1)).await;
    assert!(matches!(bed.claim(&one).await, Verdict::Busy { remaining } if remaining == seconds(1)));
    assert!(matches!(bed.settle(first, done()).await, SettleOutcome::Settled));
    assert!(bed.due_and_dead().await.is_empty());
    pass(seconds(1)).await;
    assert_eq!(bed.due_and_dead().await.len(), 1, "the sweep finds it");
    assert!(matches!(bed.settle(second, done()).await, SettleOutcome::Settled), "until somebody claims");
}

#[tokio::test(start_paused = true)]
async fn delays_go_on_by_the_wall_clock() {
    let mut bed = Bed::on_disk().await;
    let held = bed.job();
    assert!(matches!(bed.hold(&held, seconds(100)).await, StageOutcome::Staged));
    let job = bed.job();
    let fence = bed.running(&job).await;
    let outcome = bed.settle_with(fence, retry(seconds(100)), Some(successor(&job)), Vec::new()).await;
    assert!(matches!(outcome, SettleOutcome::Settled));
    pass(seconds(60)).await;
    bed.reopen(true).await;
    assert_eq!((bed.state(&held).await, bed.state(&job).await), (JobState::Scheduled, JobState::Retrying));
    pass(seconds(39)).await;
    assert!(bed.due().await.is_empty());
    assert!(matches!(bed.claim(&successor(&job)).await, Verdict::Busy { .. }));
    pass(seconds(1) + Duration::from_millis(2)).await;
    assert_eq!((bed.state(&held).await, bed.state(&job).await), (JobState::Pending, JobState::Pending));
    assert_eq!(bed.due().await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_time_to_live_goes_on_and_its_end_is_told() {
    let mut bed = Bed::on_disk().await;
    let job = bed.job_with(|job| job.expires_at = Some(job.created_at + seconds(50)));
    bed.published(&job).await;
    bed.reopen(false).await;
    let mut events = bed.store.watch(Watch::All).await.unwrap();
    pass(seconds(49)).await;
    assert_eq!(bed.state(&job).await, JobState::Pending);
    pass(seconds(1)).await;
    assert_eq!(bed.state(&job).await, JobState::Expired);
    let Some(Watched::Event(event)) = events.next().await else { panic!() };
    assert_eq!((event.job.id, event.what), (job.id, JobEventKind::Expired));
    bed.reopen(true).await;
    assert!(matches!(bed.claim(&job).await, Verdict::Drop));
}

#[tokio::test(start_paused = true)]
async fn a_window_outlives_the_record_and_the_process() {
    let mut bed = Bed::on_disk().await;
    let first = bed.job_with(|job| job.unique = unique("key", Some(seconds(100))));
    let fence = bed.running(&first).await;
    assert!(matches!(bed.settle(fence, done()).await, SettleOutcome::Settled));
    assert_eq!(bed.evict().await, 1);
    bed.reopen(true).await;
    assert!(matches!(bed.look(&first).await, Lookup::Gone));
    let second = bed.job_with(|job| job.unique = unique("key", None));
    assert!(matches!(bed.stage(&second).await, StageOutcome::Duplicate { existing } if existing.id == first.id));
    pass(seconds(101)).await;
    bed.reopen(true).await;
    assert!(matches!(bed.stage(&second).await, StageOutcome::Staged));
    bed.reopen(true).await;
    let third = bed.job_with(|job| job.unique = unique("key", None));
    assert!(matches!(bed.stage(&third).await, StageOutcome::Duplicate { existing } if existing.id == second.id));
}

#[tokio::test(start_paused = true)]
async fn what_was_forgotten_stays_forgotten() {
    let limits = TrackingLimits { max_tombstones: 1, ..TrackingLimits::default() };
    let mut bed = Bed::on_disk_bounded(limits).await;
    let mut jobs = Vec::new();
    for _ in 0..3 {
        let job = bed.job();
        let fence = bed.running(&job).await;
        assert!(matches!(bed.settle(fence, done()).await, SettleOutcome::Settled));
        jobs.push(job);
        pass(seconds(1)).await;
    }
    assert_eq!(bed.evict().await, 3);
    bed.reopen_bounded(true, limits).await;
    for job in &jobs {
        // The oldest by the watermark, the last by its stone.
        assert!(matches!(bed.look(job).await, Lookup::Gone));
        assert!(matches!(bed.claim(job).await, Verdict::Drop));
    }
    let taken_back = bed.job_with(|job| job.unique = unique("back", None));
    bed.stage(&taken_back).await;
    assert!(bed.unstage(&taken_back).await);
    bed.reopen_bounded(true, limits).await;
    assert!(matches!(bed.claim(&taken_back).await, Verdict::Drop), "a copy of it turned up");
    assert!(matches!(bed.stage(&taken_back).await, StageOutcome::Staged));
}

#[tokio::test(start_paused = true)]
async fn parked_jobs_stand_in_line_and_a_redriven_one_may_be_refused() {
    let mut bed = Bed::on_disk().await;
    let jobs = [bed.job(), bed.job(), bed.job()];
    for job in &jobs {
        let fence = bed.running(job).await;
        assert!(matches!(bed.settle(fence, park("key", seconds(500))).await, SettleOutcome::Settled));
    }
    bed.reopen(true).await;
    assert_eq!(bed.store.parked(&queue(), 9).await.unwrap(), [(ParkKey("key".into()), 3)]);
    let copies = bed.store.unpark(&everything(), &ParkKey("key".into()), 2, STAGE).await.unwrap();
    assert_eq!(copies.iter().map(|copy| copy.job.id).collect::<Vec<_>>(), [jobs[0].id, jobs[1].id]);
    bed.reopen(true).await;
    assert_eq!(bed.store.parked(&queue(), 9).await.unwrap(), [(ParkKey("key".into()), 1)]);

    let dead = bed.job();
    let fence = bed.running(&dead).await;
    bed.settle(fence, Disposition::DeadLetter { error: failed() }).await;
    let again = dead.edit(|copy| copy.generation += 1);
    assert!(matches!(bed.stage(&again).await, StageOutcome::Staged));
    bed.reopen(true).await;
    assert!(bed.unstage(&again).await, "its publisher may still be refused");
    bed.reopen(true).await;
    let record = bed.record(&dead).await;
    assert_eq!((record.state, record.error), (JobState::Dead, Some(failed())));
}

#[tokio::test(start_paused = true)]
async fn only_the_longest_lines_of_parked_jobs_are_listed() {
    let mut bed = Bed::on_disk().await;
    for n in 0..30 {
        // Three stand in the line of each tenth key, one in that of all others.
        for _ in 0..if n % 10 == 0 { 3 } else { 1 } {
            let fence = bed.running(&bed.job()).await;
            bed.settle(fence, park(&format!("key {n:02}"), seconds(500))).await;
        }
    }
    for _ in 0..2 {
        let listed = async |limit| bed.store.parked(&queue(), limit).await.unwrap();
        let longest = ["key 00", "key 10", "key 20"].map(|key| (ParkKey(key.into()), 3));
        assert_eq!(listed(3).await, longest);
        assert_eq!(listed(0).await, []);
        let all = listed(1_000).await;
        assert_eq!((all.len(), all.iter().map(|(_, jobs)| jobs).sum::<u64>()), (30, 36));
        bed.reopen(true).await;
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_the_same_store_and_its_leaders_do_not_mistake_themselves() {
    let mut bed = Bed::on_disk().await;
    let id = bed.store.id();
    assert!(bed.store.recovery().unwrap().clean);
    let lead = async |bed: &Bed| bed.store.lead("sweep", "me", LEASE).await.unwrap().unwrap().epoch;
    let before = lead(&bed).await;
    bed.reopen(true).await;
    assert_eq!(bed.store.id(), id);
    assert!(lead(&bed).await > before);
    assert!(!bed.store.recovery().unwrap().clean);
    bed.published(&bed.job()).await;
    bed.reopen(false).await;
    let recovery = bed.store.recovery().unwrap();
    assert_eq!((recovery.clean, recovery.jobs), (true, 1));
}

#[tokio::test(start_paused = true)]
async fn retention_bounds_the_disk() {
    let limits = TrackingLimits { max_tombstones: 500, ..TrackingLimits::default() };
    let bed = Bed::on_disk_bounded(limits).await;
    let mut sizes = Vec::new();
    for round in 0..24 {
        let jobs: Vec<Envelope> = (0..250).map(|_| bed.job_with(|job| job.payload = vec![1; 500].into())).collect();
        let staged: Vec<StagedJob> = jobs.iter().map(staged).collect();
        bed.store.stage(&staged, STAGE).await;
        let claims: Vec<Claim> = jobs.iter().map(|job| claim_of(reference(job), job)).collect();
        let mut settlements = Vec::new();
        for verdict in bed.store.claim(&claims).await {
            let Verdict::Run { fence, .. } = verdict else { panic!("{verdict:?}") };
            let settlement = Settlement::new(receipt(fence), done());
            settlements.push(TrackedSettle { fence, settlement, successor: None });
        }
        bed.store.settle(&settlements, STAGE).await;
        assert_eq!(bed.store.evict(&queue(), &Retention::none(), 1_000).await.unwrap(), 250);
        if round % 6 == 5 {
            sizes.push(bed.disk.contents().len());
        }
    }
    assert!(sizes[3] <= sizes[0] * 3 / 2, "it grows: {sizes:?}");
}

#[tokio::test(start_paused = true)]
async fn who_is_closed_refuses_and_keeps_all_it_had() {
    let mut bed = Bed::on_disk().await;
    let job = bed.job();
    bed.published(&job).await;
    let clone = bed.store.clone();
    clone.close().await.unwrap();
    clone.close().await.unwrap();
    let StageOutcome::Unknown(error) = bed.stage(&bed.job()).await else { panic!("it took a job") };
    assert_eq!(error.code(), ErrorCode::Closed, "{error}");
    let refused = bed.store.confirm(&[(reference(&job), 0)]).await.remove(0).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Closed);
    drop(clone);
    bed.store = open(&bed.disk, &bed.env, TrackingLimits::default());
    pass(STAGE).await;
    assert!(bed.due().await.is_empty(), "the confirm is there");
}

#[tokio::test]
async fn a_folder_is_opened_once_and_holds_what_a_dropped_store_had() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::system();
    let open = |name: &str| {
        let folder = JournalOptions::folder(dir.path().join(name));
        MemoryTracking::open(&folder, env.clone(), TrackingLimits::default())
    };
    let bed = Bed { store: open("jobs").unwrap(), env: env.clone(), disk: ModelDisk::new() };
    let job = bed.job();
    bed.published(&job).await;
    assert_eq!(open("jobs").unwrap_err().code(), ErrorCode::StoreInUse);
    let id = bed.store.id();
    drop(bed);
    let store = open("jobs").unwrap();
    assert_eq!(store.id(), id);
    let page = store.list(&JobQuery::default(), None, 9).await.unwrap();
    assert_eq!(page.items.iter().map(|record| record.job.id).collect::<Vec<_>>(), [job.id]);
    store.close().await.unwrap();
    let other = open("others").unwrap();
    assert_ne!(other.id(), id);
}

/// A disk that neither takes nor refuses, such as one on a network that is away.
#[tokio::test]
async fn a_disk_that_does_not_answer_is_given_up_on() {
    let (env, disk) = (Env::seeded(START, 1), ModelDisk::new());
    let journal = JournalOptions::on_disk(&disk, false).answers_within(seconds(1));
    let store = MemoryTracking::open(&journal, env.clone(), TrackingLimits::default()).unwrap();
    let bed = Bed { env, store, disk };
    let job = bed.job();
    bed.published(&job).await;
    let fence = bed.run(&job).await;
    bed.disk.stall(true);
    let outcome = bed.settle(fence, done()).await;
    assert!(matches!(&outcome, SettleOutcome::Unknown(error) if error.code() == ErrorCode::Timeout), "{outcome:?}");
    assert_eq!(bed.store.close().await.unwrap_err().code(), ErrorCode::Timeout);
    bed.disk.stall(false);
}

/// Nobody closed it, and what had been noted while the disk refused waits in the store: the end takes that along, for it says
/// that it was in order.
#[tokio::test(start_paused = true)]
async fn a_store_that_is_dropped_writes_what_the_disk_had_refused() {
    let mut bed = Bed::on_disk().await;
    let (first, second) = (bed.job(), bed.job());
    bed.stage(&first).await;
    bed.disk.refuse(Some(std::io::ErrorKind::StorageFull));
    assert!(matches!(bed.stage(&second).await, StageOutcome::Unknown(_)), "which tells of the disk");
    bed.confirm(&first).await;
    bed.disk.refuse(None);
    let (disk, env) = (bed.disk.clone(), bed.env.clone());
    drop(std::mem::take(&mut bed.store));
    bed.store = open(&disk, &env, TrackingLimits::default());
    assert!(bed.store.recovery().unwrap().clean);
    pass(STAGE).await;
    let copies: Vec<JobId> = bed.due().await.iter().map(|copy| copy.job.id).collect();
    assert_eq!(copies, [second.id], "the first was confirmed");
}

/// It is not in order where the disk went on refusing, and the next one is told so.
#[tokio::test(start_paused = true)]
async fn a_store_that_is_dropped_on_a_disk_that_refuses_was_not_closed_in_order() {
    let mut bed = Bed::on_disk().await;
    let (kept, lost) = (bed.job(), bed.job());
    bed.published(&kept).await;
    bed.disk.refuse(Some(std::io::ErrorKind::StorageFull));
    assert!(matches!(bed.stage(&lost).await, StageOutcome::Unknown(_)));
    let (disk, env) = (bed.disk.clone(), bed.env.clone());
    drop(std::mem::take(&mut bed.store));
    disk.refuse(None);
    bed.store = open(&disk, &env, TrackingLimits::default());
    assert!(!bed.store.recovery().unwrap().clean);
    assert!(matches!(bed.look(&lost).await, Lookup::NotFound), "nobody was told otherwise");
    assert_eq!(bed.state(&kept).await, JobState::Pending);
}
