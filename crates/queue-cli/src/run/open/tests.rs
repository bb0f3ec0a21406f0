use queue_core::{clock::SeededRandom, error::ErrorCode, job::Timestamp};

use super::*;
use crate::{input::Text, window::Window};

const SECOND: Duration = Duration::from_secs(1);

fn run() -> JobId {
    JobId::fresh_at(Timestamp::from_millis(1), &SeededRandom::new(1))
}

fn none() -> OpenJobs {
    OpenJobs::new(QueueName::new("q").unwrap(), run())
}

fn opened_as(open: &OpenJobs, id: JobId, number: u64, delay: Option<Duration>) -> JobId {
    let line = OpenLine::new(number, Text::Utf8(Bytes::new()), Window::default().admit(1));
    open.open(OpenJob::new(line, id, Instant::now(), delay, None));
    open.accepted(&JobRef::new(QueueName::new("q").unwrap(), id));
    id
}

fn opened(open: &OpenJobs, number: u64, delay: Option<Duration>) -> JobId {
    opened_as(open, run().numbered(number).unwrap(), number, delay)
}

fn row_of(open: OpenJob, status: Status) -> Row {
    let (line, row) = open.end(status, None, None);
    line.close();
    row
}

#[tokio::test(start_paused = true)]
async fn runs_add_up_and_an_asked_delay_is_no_wait() {
    let open = none();
    let id = opened(&open, 7, Some(3 * SECOND));
    tokio::time::advance(5 * SECOND).await;
    let begun = Instant::now();
    open.change(id, |open| {
        open.ran(1, begun, SECOND);
        open.failed(JobError::new(ErrorCode::HandlerFailed, "first"));
    });
    tokio::time::advance(15 * SECOND).await;
    let later = Instant::now();
    open.change(id, |open| open.ran(2, later, 4 * SECOND));
    let row = row_of(open.take(id).unwrap(), Status::Aborted);
    assert_eq!((row.id, row.line, row.attempts), (Some(id), 7, 2));
    assert_eq!((row.wait, row.run), (2 * SECOND, 5 * SECOND));
    assert_eq!(row.error.unwrap().message, "first");
    assert!(open.is_empty() && open.take(id).is_none());
}

#[tokio::test(start_paused = true)]
async fn what_never_ran_has_no_attempt() {
    let open = none();
    let id = opened(&open, 1, None);
    tokio::time::advance(SECOND).await;
    let row = row_of(open.take(id).unwrap(), Status::Aborted);
    assert_eq!((row.attempts, row.wait, row.run), (0, Duration::ZERO, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn each_is_found_however_long_it_is_under_way_and_whatever_its_id() {
    let open = none();
    let far = NEAR as u64;
    // Of three that share a place the newest is near, and the places of those that ended are others' by then.
    let old = [opened(&open, 5, None), opened(&open, far + 5, None)];
    let gone = opened(&open, 6, None);
    row_of(open.take(gone).unwrap(), Status::Completed);
    let newest = opened(&open, 2 * far + 5, None);
    let next = opened(&open, far + 6, None);
    let named = opened_as(&open, JobId::derive(b"journal", 6), 6, None);
    // It says that it is another line's.
    let lying = opened_as(&open, run().numbered(8).unwrap(), 9, None);
    for (id, line) in [(old[0], 5), (old[1], far + 5), (newest, 2 * far + 5), (next, far + 6), (named, 6), (lying, 9)] {
        let mut found = None;
        open.change(id, |open| found = Some(open.line.number));
        assert_eq!(found, Some(line));
        assert_eq!(row_of(open.take(id).unwrap(), Status::Completed).line, line);
        assert!(open.take(id).is_none());
    }
    assert!(open.take(gone).is_none() && open.take(JobId::derive(b"others", 5)).is_none() && open.is_empty());
    let table = open.table();
    assert!(table.far.is_empty() && table.named.is_empty());
}

fn at_work(open: &OpenJobs, ids: &[JobId]) -> Vec<(u64, u32, Duration)> {
    let at_work: Vec<AtWork> = ids.iter().map(|id| AtWork::new(*id, 3, SECOND)).collect();
    let found = open.look_over(&at_work, 2);
    assert_eq!(found.running_total, ids.len());
    found.running.into_iter().map(|running| (running.line, running.attempt, running.since)).collect()
}

#[tokio::test(start_paused = true)]
async fn what_runs_is_told_and_counts_when_it_is_cut_off() {
    let open = none();
    let ids = [opened(&open, 2, None), opened(&open, 1, None), opened(&open, 3, None)];
    assert_eq!(at_work(&open, &ids[..2]), [(1, 3, SECOND), (2, 3, SECOND)]);
    let waiting = open.look_over(&[AtWork::new(ids[0], 1, SECOND)], 9).waiting;
    assert_eq!(waiting.iter().map(|waiting| waiting.line).collect::<Vec<_>>(), [1, 3]);
    tokio::time::advance(5 * SECOND).await;
    open.cut_off([AtWork::new(ids[0], 2, SECOND), AtWork::new(JobId::derive(b"others", 1), 1, SECOND)].iter());
    let row = row_of(open.take(ids[0]).unwrap(), Status::Aborted);
    assert_eq!((row.attempts, row.wait, row.run), (2, 4 * SECOND, SECOND));
    let mut ended = AtWork::new(ids[2], 1, 3 * SECOND);
    ended.ended_after = Some(2 * SECOND);
    open.cut_off([ended].iter());
    let row = row_of(open.take(ids[2]).unwrap(), Status::Aborted);
    assert_eq!((row.attempts, row.wait, row.run), (1, 2 * SECOND, 2 * SECOND), "it ended, and was not settled");
}

#[tokio::test(start_paused = true)]
async fn what_expired_long_ago_and_does_not_run_is_overdue() {
    let open = none();
    let ids = [opened(&open, 1, None), opened(&open, 2, None), opened(&open, 3, None)];
    for id in &ids[..2] {
        open.change(*id, |open| open.expires = Some(Instant::now() + SECOND));
    }
    let at_work = [AtWork::new(ids[0], 1, SECOND)];
    tokio::time::advance(2 * SECOND).await;
    assert!(open.overdue(2 * SECOND, &at_work).is_empty());
    tokio::time::advance(SECOND).await;
    assert_eq!(open.overdue(2 * SECOND, &at_work), [ids[1]]);
}

#[tokio::test(start_paused = true)]
async fn looks_go_round_and_the_doubtful_come_every_time() {
    let open = none();
    let ids: Vec<JobId> = (1..=5).map(|number| opened(&open, number, None)).collect();
    open.change(ids[4], |job| job.doubtful = true);
    let seen = |n| {
        let lines = open.to_look_at(n).into_iter().map(|job| ids.iter().position(|id| *id == job.id).unwrap());
        lines.collect::<Vec<_>>()
    };
    assert_eq!(seen(2), [4, 0, 1]);
    assert_eq!(seen(2), [4, 2, 3]);
    assert_eq!(seen(2), [4, 0], "its own turn, and from the beginning");
    assert_eq!(seen(0), [4]);
    assert_eq!(seen(9), [4, 1, 2, 3, 0]);
    assert_eq!(open.take_all().len(), 5);
    assert!(open.to_look_at(9).is_empty());
}
