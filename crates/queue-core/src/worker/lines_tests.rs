use super::*;
use crate::{
    job::JobId,
    limit::{Limit, RunEnd},
};

const S: fn(u64) -> Duration = Duration::from_secs;

fn key() -> ParkKey {
    ParkKey("k".into())
}

fn queue(name: &'static str) -> QueueName {
    QueueName::from_static(name)
}

fn needs() -> [Need; 1] {
    [Need { key: key(), limit: Limit::Concurrency { max: 1 } }]
}

fn room(free: u32) -> Room {
    Room { free, next: None, breaker: None }
}

/// Someone works on `a` and `b`, and jobs of these queues are parked.
fn lines(queues: &[&'static str]) -> Lines {
    let lines = Lines::default();
    for name in ["a", "b"] {
        lines.attend(&queue(name), S(0));
    }
    for name in queues {
        lines.parked(&queue(name), &key(), S(0));
    }
    lines
}

/// One look, in which each line has so many jobs as it is asked for; returns how many were let go of which queue.
fn look(lines: &Lines, free: u32, now: Duration) -> Vec<(String, usize)> {
    assert_eq!(lines.take_due(now, 10), [key()]);
    look_as(lines, free, Arrivals::Here, now)
}

fn look_as(lines: &Lines, free: u32, arrivals: Arrivals, now: Duration) -> Vec<(String, usize)> {
    let plans = lines.plan(&key(), room(free), arrivals, now);
    for plan in &plans {
        lines.unparked(&key(), plan, plan.jobs);
    }
    lines.looked(&key(), now, now + S(100));
    plans.into_iter().map(|plan| (plan.queue.as_str().to_owned(), plan.jobs)).collect()
}

fn arrives(lines: &Lines, name: &'static str, granted: bool, now: Duration) -> bool {
    let Ok(knock) = lines.knock(&needs(), &queue(name), lines.fetched(), || now) else { return false };
    if let Some(mut knock) = knock {
        knock.granted = granted;
    }
    true
}

fn is_due(lines: &Lines, now: Duration) -> bool {
    lines.next_look().is_some_and(|at| at <= now)
}

#[test]
fn a_first_park_is_looked_at_at_once_and_later_ones_wait_for_room() {
    let lines = lines(&["a"]);
    assert!(is_due(&lines, S(0)));
    assert_eq!(look(&lines, 0, S(0)), []);
    lines.parked(&queue("a"), &key(), S(1));
    assert!(!is_due(&lines, S(1)), "the last look found no room, and what makes room leads to a look");
    lines.freed(&needs(), || S(1));
    assert!(is_due(&lines, S(1)));
    // Another queue's first is new again.
    look(&lines, 0, S(1));
    lines.parked(&queue("b"), &key(), S(2));
    assert!(is_due(&lines, S(2)));
}

#[test]
fn what_happens_during_a_look_leads_to_another() {
    let lines = lines(&["a"]);
    assert_eq!(lines.take_due(S(0), 10), [key()]);
    lines.freed(&needs(), || S(0));
    assert!(!is_due(&lines, S(0)), "one looks at a time");
    lines.looked(&key(), S(0), S(100));
    assert!(is_due(&lines, S(0)));
}

#[test]
fn a_park_that_was_settled_during_an_unpark_which_found_nothing_is_not_forgotten() {
    let lines = lines(&["a"]);
    lines.take_due(S(0), 10);
    let plans = lines.plan(&key(), room(5), Arrivals::Here, S(0));
    lines.parked(&queue("a"), &key(), S(0));
    lines.unparked(&key(), &plans[0], 0);
    lines.looked(&key(), S(0), S(100));
    assert!(is_due(&lines, S(0)));
    // And where nothing came meanwhile the line is at its end.
    lines.take_due(S(0), 10);
    let plans = lines.plan(&key(), room(5), Arrivals::Here, S(0));
    lines.unparked(&key(), &plans[0], 0);
    lines.looked(&key(), S(0), S(100));
    assert!(lines.is_empty());
}

#[test]
fn those_on_their_way_have_their_room_kept_and_newcomers_join_the_line() {
    let lines = lines(&["a"]);
    let before = lines.fetched();
    assert_eq!(look(&lines, 2, S(0)), [("a".into(), 2)]);
    // Fetched before they were let go: none of them.
    assert_eq!(lines.knock(&needs(), &queue("a"), before, || S(0)).err(), Some(0));
    assert!(!arrives(&lines, "b", true, S(0)));
    lines.freed(&needs(), || S(0));
    assert_eq!(look(&lines, 3, S(0)), [("a".into(), 1)], "two of three places are kept");
    for left in [true, true, true, false] {
        assert_eq!(arrives(&lines, "a", true, S(0)), left);
    }
    assert!(is_due(&lines, S(0)), "all have arrived: there may be room for more");
}

#[test]
fn who_arrives_and_is_refused_leaves_its_room_to_another() {
    let lines = lines(&["a"]);
    look(&lines, 3, S(0));
    assert!(arrives(&lines, "a", true, S(0)) && !is_due(&lines, S(0)));
    // Another is on its way still.
    assert!(arrives(&lines, "a", false, S(0)) && is_due(&lines, S(0)));
}

#[test]
fn late_ones_lose_their_room_to_others_and_are_still_let_in() {
    let lines = lines(&["a"]);
    look(&lines, 1, S(0));
    assert_eq!(lines.next_look(), Some(FIRST_PATIENCE));
    // They stand before whoever else of their queue: more of it would only stand behind them.
    assert_eq!(look(&lines, 1, S(1)), []);
    lines.parked(&queue("b"), &key(), S(1));
    assert_eq!(look(&lines, 1, S(1)), [("b".into(), 1)]);
    assert_eq!((0..3).filter(|_| arrives(&lines, "a", true, S(2))).count(), 1);
    assert!(arrives(&lines, "b", true, S(2)));
    // Until they are taken for gone.
    let lines = self::lines(&["a"]);
    look(&lines, 1, S(0));
    look(&lines, 1, S(1));
    lines.freed(&needs(), || S(31));
    assert_eq!(look(&lines, 1, S(31)), [("a".into(), 1)]);
}

#[test]
fn where_others_may_have_run_them_late_ones_are_soon_given_up() {
    let lines = lines(&["a"]);
    look(&lines, 1, S(0));
    assert_eq!(lines.take_due(S(1), 10), [key()]);
    assert_eq!(look_as(&lines, 1, Arrivals::Anywhere, S(1)), [("a".into(), 1)]);
    // Twice as patient now.
    assert_eq!(lines.next_look(), Some(S(3)));
    assert_eq!((0..3).filter(|_| arrives(&lines, "a", true, S(2))).count(), 2);
}

#[test]
fn queues_take_turns_and_one_that_does_not_come_goes_last() {
    let lines = lines(&["a", "b"]);
    let mut turns = Vec::new();
    for _ in 0..4 {
        let let_go = look(&lines, 1, S(0));
        assert_eq!(let_go.len(), 1);
        let name = if let_go[0].0 == "a" { "a" } else { "b" };
        assert!(arrives(&lines, name, true, S(0)));
        turns.push(name);
    }
    assert_eq!(turns, ["a", "b", "a", "b"]);
    assert_eq!(look(&lines, 6, S(0)), [("a".into(), 3), ("b".into(), 3)]);
    // Those of `b` come, those of `a` do not.
    (0..3).for_each(|_| assert!(arrives(&lines, "b", true, S(0))));
    lines.freed(&needs(), || S(1));
    assert_eq!(look(&lines, 4, S(1)), [("b".into(), 4)]);
    assert!(arrives(&lines, "a", true, S(1)), "late, and let in");
    (0..4).for_each(|_| assert!(arrives(&lines, "b", true, S(1))));
    lines.freed(&needs(), || S(1));
    assert_eq!(look(&lines, 4, S(1)).len(), 2, "it came: it has its turn again");
}

#[test]
fn nobody_is_let_go_to_a_queue_on_which_nobody_works() {
    let lines = lines(&["a"]);
    lines.leave(&queue("a"));
    assert_eq!(look(&lines, 5, S(0)), []);
    assert_eq!(lines.next_look(), None);
    assert!(arrives(&lines, "b", true, S(0)), "it keeps nobody out either");
    lines.attend(&queue("a"), S(9));
    assert_eq!(look(&lines, 5, S(9)), [("a".into(), 5)]);
}

#[test]
fn without_a_bound_they_go_in_batches_and_newcomers_do_not_wait() {
    let lines = lines(&["a"]);
    assert_eq!(look(&lines, u32::MAX, S(0)), [("a".into(), BATCH as usize)]);
    assert!(arrives(&lines, "b", true, S(0)));
    let half = BATCH / 2;
    (1..half).for_each(|_| assert!(arrives(&lines, "a", true, S(0)) && !is_due(&lines, S(0))));
    assert!(arrives(&lines, "a", true, S(0)) && is_due(&lines, S(0)));
    assert_eq!(look(&lines, u32::MAX, S(0)), [("a".into(), half as usize)]);
}

#[test]
fn where_no_rule_holds_them_all_go_and_none_is_waited_for() {
    let lines = lines(&["a"]);
    for _ in 0..5 {
        assert_eq!(lines.take_due(S(0), 10), [key()]);
        assert_eq!(look_as(&lines, u32::MAX, Arrivals::Unseen, S(0)), [("a".into(), BATCH as usize)]);
    }
}

#[test]
fn what_is_owed_is_told_until_its_lease_has_ended() {
    let lines = Lines::default();
    let ask = |number| Ask { holder: Holder { job: JobId::derive(b"x", number), epoch: 0 }, needs: needs().to_vec() };
    lines.owe(ask(1), RunEnd::Failed, S(10));
    lines.owe(ask(2), RunEnd::Unused, S(20));
    assert_eq!(lines.owed(S(0), 10).len(), 2);
    let left = lines.owed(S(10), 10);
    assert_eq!(left, [(ask(2), RunEnd::Unused)]);
    lines.paid(&left);
    assert!(lines.owed(S(10), 10).is_empty());
}
