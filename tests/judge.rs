//! The judge of the soaks is judged: what it lets pass, and what it may not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

#[path = "soak/mod.rs"]
mod soak;

use queue_core::{JobId, provider::PublishOutcome};
use queue_testkit::checker::{End, Recorder, Report};
use soak::{
    fleet::Event,
    judge::{Fault, Victim},
    log::{Answer, Seen},
    replay::{Replayed, replay},
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
    let fault = Fault {
        what: "kill -9".to_owned(),
        at: 15,
        struck: Victim::Worker("worker-0".to_owned()),
        recovery: Vec::new(),
    };
    let seen = [(0, ran()), (1, ran()), (1, settled(2, End::Completed, Answer::Settled))];
    let (report, replayed) = history(&seen, &[fault]);
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
