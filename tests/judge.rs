//! The judge of the soaks is judged: what it lets pass, and what it may not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

#[path = "soak/mod.rs"]
mod soak;

use queue_core::{
    JobId,
    provider::{PublishOutcome, Receipt, SettleOutcome, Settlement},
};
use queue_testkit::checker::{End, Recorder, Report};
use soak::{
    fleet::Event,
    judge::{Fault, Victim},
    leases::Overlap,
    log::{Answer, Log, Reader, Seen},
    replay::{Replayed, disposition, replay},
};

fn job() -> JobId {
    "01890000-0000-7000-8000-000000000001".parse().unwrap()
}

/// One accepted job; which worker saw what, in this order, with a moment between.
fn history(seen: &[(usize, Seen)], faults: &[Fault]) -> (Report, Replayed) {
    let recorder = Recorder::new();
    recorder.published(job(), &PublishOutcome::Accepted { place: 0 });
    let workers = ["worker-0".to_owned(), "worker-1".to_owned()];
    let events: Vec<Event> =
        (1..).zip(seen).map(|(moment, &(worker, seen))| Event { at: moment * 10, worker, seen }).collect();
    let replayed = replay(&recorder, &workers, &events, faults);
    recorder.left(0);
    (recorder.check(), replayed)
}

fn ran() -> Seen {
    Seen::Ran(job())
}

fn settled(epoch: u64, end: End, answer: Answer) -> Seen {
    Seen::Settled { id: job(), epoch, end, answer }
}

fn killed(at: u64) -> Fault {
    let struck = Victim::Worker("worker-0".to_owned());
    Fault { what: "kill -9".to_owned(), began: at - 1, at, struck, recovery: Vec::new() }
}

fn held(epoch: u64, until: u64) -> Seen {
    Seen::Held { id: job(), epoch, until }
}

#[test]
fn a_retry_explains_a_second_run() {
    let seen = [
        (0, ran()),
        (0, settled(1, End::Retried, Answer::Settled)),
        (1, ran()),
        (1, settled(2, End::Completed, Answer::Settled)),
    ];
    let (report, replayed) = history(&seen, &[]);
    assert!(report.is_clean(), "{report}");
    assert_eq!((replayed.refused, replayed.repeated), (0, 0));
    assert_eq!(replayed.ended[&job()], End::Completed);
}

#[test]
fn a_second_run_that_nothing_explains_is_found() {
    let (report, replayed) = history(&[(0, ran()), (1, ran()), (1, settled(2, End::Completed, Answer::Settled))], &[]);
    assert_eq!(report.over_run, [(job(), 1, 0)]);
    assert_eq!(replayed.repeated, 1);
}

#[test]
fn a_kill_explains_the_run_it_cut_off() {
    let seen = [(0, ran()), (1, ran()), (1, settled(2, End::Completed, Answer::Settled))];
    let (report, replayed) = history(&seen, &[killed(15)]);
    assert!(report.is_clean(), "{report}");
    assert_eq!(replayed.repeated, 1);
}

/// A retry took effect, its answer was lost, the job ran on, and only then it was asked for again.
#[test]
fn a_retry_asked_for_again_after_the_job_ran_on_is_one_unknown_settlement() {
    let seen = [
        (0, ran()),
        (0, settled(1, End::Retried, Answer::Unknown)),
        (1, ran()),
        (0, settled(1, End::Retried, Answer::Unknown)),
        (0, settled(1, End::Retried, Answer::LeaseLost)),
        (1, settled(2, End::Completed, Answer::Settled)),
    ];
    let (report, replayed) = history(&seen, &[]);
    assert!(report.is_clean(), "{report}");
    assert_eq!(replayed.refused, 1);
}

/// However often it is asked: it explains one run.
#[test]
fn one_unknown_settlement_explains_no_third_run() {
    let seen = [
        (0, ran()),
        (0, settled(1, End::Retried, Answer::Unknown)),
        (0, settled(1, End::Retried, Answer::Unknown)),
        (0, settled(1, End::Retried, Answer::LeaseLost)),
        (1, ran()),
        (0, ran()),
        (1, settled(2, End::Completed, Answer::Settled)),
    ];
    let (report, _) = history(&seen, &[]);
    assert_eq!(report.over_run, [(job(), 1, 0)]);
}

#[test]
fn a_settlement_refused_at_once_explains_nothing() {
    let seen = [
        (0, ran()),
        (1, ran()),
        (0, settled(1, End::Completed, Answer::LeaseLost)),
        (1, settled(2, End::Completed, Answer::Settled)),
    ];
    let (report, replayed) = history(&seen, &[]);
    assert_eq!(report.over_run, [(job(), 1, 0)]);
    assert_eq!((replayed.refused, replayed.repeated), (1, 1));
}

/// Unknown first, then answered: the answer counts, and counts once.
#[test]
fn a_settlement_that_is_answered_in_the_end_is_no_unknown_one() {
    let seen = [
        (0, ran()),
        (0, settled(1, End::Completed, Answer::Unknown)),
        (0, settled(1, End::Completed, Answer::AlreadySettled)),
        (1, ran()),
    ];
    let (report, replayed) = history(&seen, &[]);
    assert_eq!(report.over_run, [(job(), 1, 0)], "a completed job ran again");
    assert_eq!(replayed.ended[&job()], End::Completed);
}

/// The first worker is killed while it holds the job until 45; the second begins at 40.
const INTRUSION: [fn() -> (usize, Seen); 4] =
    [|| (0, held(1, 45)), || (0, ran()), || (1, held(2, 1_000)), || (1, ran())];

fn overlaps(seen: &[(usize, Seen)], faults: &[Fault]) -> Vec<(usize, usize)> {
    let (_, replayed) = history(seen, faults);
    replayed.overlaps.iter().map(|overlap| (overlap.holder, overlap.intruder)).collect()
}

#[test]
fn a_run_under_the_lease_of_one_who_was_killed_is_found() {
    let mut seen = INTRUSION.map(|step| step()).to_vec();
    seen.push((1, settled(2, End::Completed, Answer::Settled)));
    let (report, replayed) = history(&seen, &[killed(25)]);
    assert!(report.is_clean(), "the kill explains how often it ran: {report}");
    assert_eq!(replayed.overlaps, [Overlap { id: job(), holder: 0, intruder: 1 }]);
}

#[test]
fn a_run_after_the_lease_of_one_who_was_killed_is_none() {
    let mut seen = INTRUSION.map(|step| step());
    seen[0] = (0, held(1, 40));
    assert_eq!(overlaps(&seen, &[killed(25)]), []);
}

#[test]
fn a_lease_stands_as_long_as_it_was_renewed() {
    let seen = [(0, held(1, 25)), (0, ran()), (0, held(1, 55)), (1, held(2, 1_000)), (1, ran())];
    assert_eq!(overlaps(&seen, &[]), [(0, 1)]);
    // Others' answers may come in another order than they were asked for: none makes it shorter.
    let seen = [(0, held(1, 55)), (0, ran()), (0, held(1, 25)), (1, held(2, 1_000)), (1, ran())];
    assert_eq!(overlaps(&seen, &[]), [(0, 1)]);
}

#[test]
fn what_its_holder_gives_back_may_run_at_once() {
    let back = Seen::GivesBack { id: job(), epoch: 1 };
    for gives_back in [back, Seen::Closes] {
        let seen =
            [(0, held(1, 1_000)), (0, ran()), (0, gives_back), (0, held(1, 1_000)), (1, held(2, 1_000)), (1, ran())];
        assert_eq!(overlaps(&seen, &[]), [], "also where an answer to an earlier renewal comes late");
    }
    // Another's lease, and an earlier one of its own, are not what it gives back.
    let other = Seen::GivesBack { id: job(), epoch: 7 };
    let seen = [(0, held(1, 1_000)), (0, ran()), (0, other), (1, Seen::Closes), (1, held(2, 1_000)), (1, ran())];
    assert_eq!(overlaps(&seen, &[]), [(0, 1)]);
}

/// Whether it took or not.
#[test]
fn a_settlement_for_good_that_nobody_answered_gives_nothing_back() {
    let unknown = settled(1, End::Completed, Answer::Unknown);
    let seen = [(0, held(1, 1_000)), (0, ran()), (0, unknown), (1, held(2, 1_000)), (1, ran())];
    assert_eq!(overlaps(&seen, &[]), [(0, 1)]);
}

#[test]
fn one_worker_does_not_run_a_job_twice_under_its_own_lease_either() {
    let seen = [(0, held(1, 1_000)), (0, ran()), (0, held(2, 1_000)), (0, ran())];
    assert_eq!(overlaps(&seen, &[]), [(0, 0)]);
}

#[test]
fn only_a_fault_that_takes_leases_away_excuses_a_run_under_one() {
    let struck = Victim::Everything { settled: false };
    let failover = Fault { struck, ..killed(35) };
    let seen = INTRUSION.map(|step| step());
    assert_eq!(overlaps(&seen, std::slice::from_ref(&failover)), []);
    // Also while it goes on, and not before it began, nor what was held after it was over.
    assert_eq!(overlaps(&seen, &[Fault { at: 60, ..failover.clone() }]), []);
    assert_eq!(overlaps(&seen, &[Fault { began: 41, at: 60, ..failover.clone() }]), [(0, 1)]);
    assert_eq!(overlaps(&seen, &[Fault { began: 4, at: 5, ..failover.clone() }]), [(0, 1)]);
    assert_eq!(overlaps(&seen, &[Fault { struck: Victim::Nothing, ..failover }]), [(0, 1)]);
}

#[test]
fn what_a_worker_writes_down_is_read_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("worker.log");
    let log = Log::open(&path).unwrap();
    log.fetched(1);
    log.held([(job(), 3, 77)].into_iter());
    log.ran(job());
    let receipt = Receipt { id: job(), slot: 0, epoch: 3 };
    let ends = [End::Completed, End::Retried].map(disposition);
    let batch = ends.map(|end| Settlement::new(receipt, end));
    log.gives_back(&batch);
    batch.iter().for_each(|one| log.settled(one.receipt.id, 3, &one.disposition, &SettleOutcome::Settled));
    log.closes();
    let seen: Vec<Seen> = Reader::open(&path).unwrap().more().unwrap().into_iter().map(|(_, seen)| seen).collect();
    let expected = [
        Seen::Fetched(1),
        Seen::Held { id: job(), epoch: 3, until: 77 },
        ran(),
        Seen::GivesBack { id: job(), epoch: 3 },
        settled(3, End::Completed, Answer::Settled),
        settled(3, End::Retried, Answer::Settled),
        Seen::Closes,
    ];
    assert_eq!(seen, expected);
}
