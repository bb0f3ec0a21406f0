use super::*;

const SECOND: Duration = Duration::from_secs(1);
const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn mail() -> QueueName {
    QueueName::from_static("mail")
}

fn stats() -> QueueStats {
    QueueStats::empty(mail())
}

/// A judge that is shown one queue every ten seconds.
struct Bench {
    judge: Judge,
    seconds: u32,
}

impl Bench {
    fn new(change: impl FnOnce(&mut AlertsConfig)) -> Self {
        let mut config = AlertsConfig::default();
        change(&mut config);
        Self { judge: Judge::new(config), seconds: 0 }
    }

    fn now(&self) -> Now {
        Now { wall: START + SECOND * self.seconds, mono: SECOND * self.seconds }
    }

    fn look(&mut self, change: impl FnOnce(&mut QueueStats)) -> Vec<AlertKind> {
        self.seconds += 10;
        let mut stats = stats();
        change(&mut stats);
        let alerts = self.judge.look(&[stats], self.now());
        assert!(alerts.iter().all(|alert| alert.queue == mail() && alert.at == self.now().wall));
        alerts.into_iter().map(|alert| alert.what).collect()
    }

    fn late(&mut self, actual: u64) -> Option<Alert> {
        let late = LateJob {
            job: JobId::derive(b"x", actual),
            actual: SECOND * u32::try_from(actual).unwrap(),
            target: 3 * SECOND,
            unfinished: false,
        };
        self.judge.late(&mail(), &late, self.now())
    }
}

#[test]
fn a_backlog_counts_what_waits_in_any_way() {
    let mut bench = Bench::new(|config| config.backlog = Some(10));
    let waits = |n: u64| {
        move |stats: &mut QueueStats| (stats.pending, stats.scheduled, stats.retrying, stats.running) = (n, 1, 1, 99)
    };
    assert_eq!(bench.look(waits(8)), []);
    assert_eq!(bench.look(waits(9)), [AlertKind::Backlog { waiting: 11, threshold: 10 }]);
    assert_eq!(bench.look(waits(50)), []);
    assert_eq!(bench.look(waits(7)), [], "nine of ten has not cleared");
    assert_eq!(bench.look(waits(50)), []);
    assert_eq!(bench.look(waits(6)), []);
    assert_eq!(bench.look(waits(9)), [AlertKind::Backlog { waiting: 11, threshold: 10 }]);
}

#[test]
fn more_than_a_hundred_dead_are_told_again_after_an_hour() {
    let mut bench = Bench::new(|config| config.dead_letter_growth = None);
    assert_eq!(bench.look(|stats| stats.dead = 100), []);
    let told = [AlertKind::DeadLetters { dead: 101, threshold: 100 }];
    assert_eq!(bench.look(|stats| stats.dead = 101), told);
    for _ in 0..359 {
        assert_eq!(bench.look(|stats| stats.dead = 101), []);
    }
    assert_eq!(bench.look(|stats| stats.dead = 101), told);
}

#[test]
fn growth_is_what_died_within_the_time_and_not_what_was_dead_before() {
    let mut bench = Bench::new(|config| {
        config.dead_letters = None;
        config.dead_letter_growth = Some(5);
        config.dead_letter_growth_within = 60 * SECOND;
    });
    assert_eq!(bench.look(|stats| stats.dead = 1_000), []);
    assert_eq!(bench.look(|stats| stats.dead = 1_003), []);
    // A redrive of all is no growth, and those that die again are.
    assert_eq!(bench.look(|stats| stats.dead = 0), []);
    let told = AlertKind::DeadLetterGrowth { died: 6, threshold: 5, within_ms: 60_000 };
    assert_eq!(bench.look(|stats| stats.dead = 3), std::slice::from_ref(&told));
    for _ in 0..10 {
        assert_eq!(bench.look(|stats| stats.dead = 3), []);
    }
    assert_eq!(bench.look(|stats| stats.dead = 9), [told]);
}

#[test]
fn a_flood_is_told_and_a_counter_that_began_anew_is_none() {
    let mut bench = Bench::new(|config| {
        config.flood = Some(100);
        config.flood_within = 30 * SECOND;
    });
    let came = |n| move |stats: &mut QueueStats| (stats.submitted_total, stats.completed_total) = (n, n);
    assert_eq!(bench.look(came(5_000)), [], "all that came before the first look is not known to be recent");
    assert_eq!(bench.look(came(5_060)), []);
    assert_eq!(bench.look(came(5_120)), [AlertKind::Flood { submitted: 120, threshold: 100, within_ms: 30_000 }]);
    assert_eq!(bench.look(came(3)), []);
    assert_eq!(bench.look(came(3)), []);
    assert_eq!(bench.look(came(3)), []);
    bench.seconds += 300;
    assert_eq!(bench.look(came(903)), [], "900 over 310 seconds are 87 in 30");
    assert_eq!(bench.look(came(1_003)), [AlertKind::Flood { submitted: 187, threshold: 100, within_ms: 30_000 }]);
}

fn waiting(stats: &mut QueueStats) {
    stats.pending = 3;
    stats.oldest_pending = Some(START);
}

#[test]
fn a_queue_nobody_takes_from_is_unhealthy_until_somebody_does() {
    let mut bench = Bench::new(|_| {});
    for _ in 0..30 {
        assert_eq!(bench.look(waiting), []);
    }
    assert_eq!(bench.look(waiting), [AlertKind::Unhealthy { oldest_pending_ms: 310_000 }]);
    assert_eq!(bench.look(waiting), []);
    let taken = |stats: &mut QueueStats| {
        waiting(stats);
        stats.completed_total = 1;
    };
    assert_eq!(bench.look(taken), []);
    for _ in 0..2 {
        assert_eq!(bench.look(taken), [], "a restart of the workers is no news");
    }
    assert_eq!(bench.look(taken).len(), 1);
}

#[test]
fn long_jobs_a_pause_and_parked_jobs_are_not_unhealthy() {
    type Change = fn(&mut QueueStats);
    let cases: [Change; 3] = [|stats| stats.running = 1, |stats| stats.paused = true, |stats| stats.parked = 3];
    for case in cases {
        let mut bench = Bench::new(|_| {});
        for _ in 0..100 {
            let seen = bench.look(|stats| {
                waiting(stats);
                case(stats);
            });
            assert_eq!(seen, []);
        }
    }
}

#[test]
fn a_queue_that_ends_jobs_is_not_still_however_they_end() {
    let mut bench = Bench::new(|_| {});
    for n in 0..100 {
        let seen = bench.look(|stats| {
            waiting(stats);
            (stats.completed_total, stats.failed_total) = (n, n);
        });
        assert_eq!(seen, []);
    }
}

#[test]
fn only_jobs_that_could_be_taken_are_said_to_wait() {
    let mut bench = Bench::new(|_| {});
    bench.seconds = 400;
    let mut stats = stats();
    waiting(&mut stats);
    stats.parked = 1;
    let mut alerts = Vec::new();
    for _ in 0..4 {
        bench.seconds += 10;
        alerts.extend(bench.judge.look(std::slice::from_ref(&stats), bench.now()));
    }
    assert_eq!(alerts[0].message, "2 jobs are ready, the oldest for 440s, and nobody takes them");
}

#[test]
fn without_the_age_of_the_oldest_stillness_is_what_was_seen() {
    let mut bench = Bench::new(|_| {});
    let told: Vec<usize> = (0..40).filter(|_| !bench.look(|stats| stats.pending = 3).is_empty()).collect();
    assert_eq!(told, [31], "the look after 300 seconds have passed since the first");
}

#[test]
fn late_jobs_are_told_once_until_it_was_quiet() {
    let mut bench = Bench::new(|config| config.sla_quiet = 30 * SECOND);
    let first = bench.late(4).unwrap();
    let told = AlertKind::SlaBreach { job: JobId::derive(b"x", 4), actual_ms: 4_000, target_ms: 3_000 };
    assert_eq!((first.what, first.message.as_str()), (told, "a job took 4.0s, its class allows 3s"));
    for _ in 0..20 {
        bench.look(|_| {});
        assert!(bench.late(5).is_none());
    }
    for _ in 0..10 {
        bench.seconds += 10;
        assert!(!bench.judge.asks_for_late(&mail(), bench.now()), "late ones that wait keep it up");
    }
    for _ in 0..2 {
        bench.look(|_| {});
        assert!(!bench.judge.queues[&mail()].late.condition.asks(bench.now().mono, None));
    }
    bench.look(|_| {});
    assert!(bench.judge.asks_for_late(&mail(), bench.now()));
    let again = bench.late(6).unwrap();
    assert_eq!(again.message, "a job took 6.0s, its class allows 3s", "what was told and cleared is not told again");
    bench.late(7);
    bench.seconds += 3_600;
    let still = bench.late(8).unwrap();
    assert!(still.message.ends_with("; 1 more were late since this was last told"), "{}", still.message);
}

#[test]
fn each_queue_has_its_own_thresholds_and_what_is_gone_is_forgotten() {
    let bench = Bench::new(|config| {
        config.backlog = Some(10);
        let own = config.queues.entry(mail()).or_default();
        own.backlog = crate::config::Override::Set(None);
        own.sla = crate::config::Override::Set(false);
    });
    let (now, mut judge) = (bench.now(), bench.judge);
    let full = |name: &'static str| with_pending(name, 99);
    let alerts = judge.look(&[full("mail"), full("bulk")], now);
    assert_eq!(alerts.iter().map(|alert| alert.queue.as_str()).collect::<Vec<_>>(), ["bulk"]);
    assert!(!judge.asks_for_late(&mail(), now));
    assert_eq!(judge.queues.len(), 2);
    judge.keep(|queue| *queue == mail());
    assert_eq!(judge.queues.len(), 1);
    assert_eq!(judge.look(&[full("bulk")], now).len(), 1, "it is another queue of that name");
}

fn with_pending(name: &'static str, pending: u64) -> QueueStats {
    let mut stats = QueueStats::empty(QueueName::from_static(name));
    stats.pending = pending;
    stats
}

#[test]
fn it_keeps_a_bounded_number_of_queues() {
    let mut bench = Bench::new(|config| config.backlog = Some(0));
    for n in 0..Judge::MAX_QUEUES + 5 {
        let mut stats = QueueStats::empty(QueueName::new(format!("q{n}")).unwrap());
        stats.pending = 1;
        bench.judge.look(&[stats], Now { wall: START, mono: SECOND });
    }
    assert_eq!(bench.judge.queues.len(), Judge::MAX_QUEUES);
}

#[test]
fn a_zero_of_a_broker_that_estimates_is_believed_only_when_it_lasts() {
    let mut bench = Bench::new(|config| {
        config.backlog = Some(2);
        config.dead_letters = Some(2);
        config.dead_letter_growth = Some(2);
    });
    let estimate =
        |number: u64| move |stats: &mut QueueStats| (stats.exact, stats.pending, stats.dead) = (false, number, number);
    assert_eq!(bench.look(estimate(5)).len(), 2, "a backlog and dead letters");
    for number in [0, 5, 0, 0, 5] {
        assert_eq!(bench.look(estimate(number)), [], "it is as it was");
    }
    for _ in 0..3 {
        assert_eq!(bench.look(estimate(0)), []);
    }
    assert_eq!(bench.look(estimate(5)).len(), 3, "it was empty, and is not");
}
