use super::*;
use crate::clock::SeededRandom;

const MS: fn(u64) -> Duration = Duration::from_millis;

fn need(limit: Limit) -> Need {
    Need { key: ParkKey("k".into()), limit }
}

#[test]
fn a_run_speaks_for_or_against_its_dependency_or_not_at_all() {
    let error = |code| JobError::new(code, "x");
    let cases: [(JobResult, RunEnd); 10] = [
        (Ok(None), RunEnd::Succeeded),
        (Err(Failure::retry("x")), RunEnd::Failed),
        (Err(Failure::RetryAfter(MS(1), error(ErrorCode::ExternalService))), RunEnd::Failed),
        (Err(Failure::Retry(error(ErrorCode::Timeout))), RunEnd::Failed),
        (Err(Failure::Retry(error(ErrorCode::HandlerPanicked))), RunEnd::Failed),
        (Err(Failure::Retry(error(ErrorCode::RateLimited))), RunEnd::Undecided),
        (Err(Failure::Retry(error(ErrorCode::CircuitOpen))), RunEnd::Undecided),
        (Err(Failure::Retry(error(ErrorCode::Validation))), RunEnd::Undecided),
        (Err(Failure::Snooze(MS(1))), RunEnd::Undecided),
        (Err(Failure::never("x")), RunEnd::Undecided),
    ];
    for (result, how) in cases {
        assert_eq!(end_of(&result), how, "{result:?}");
    }
}

#[test]
fn turns_are_as_far_apart_as_runs_may_begin() {
    let (detours, random) = (Detours::default(), SeededRandom::new(1));
    let ten = need(Limit::SlidingWindow { max: 10, per: MS(1_000) });
    let turns: Vec<Duration> = (0..5).map(|_| detours.turn(&ten, Some(MS(500)), MS(0), &random)).collect();
    for (place, turn) in turns.iter().enumerate() {
        let due = MS(500 + 100 * place as u64);
        assert!(*turn >= due && *turn <= due + MS(50), "{turns:?}");
    }
    // A second later those turns have begun to pass, and a limiter that knows better is believed.
    assert!(detours.turn(&ten, Some(MS(2_000)), MS(1_000), &random) >= MS(2_000));
}

#[test]
fn nobody_comes_again_at_once_or_never() {
    let (detours, random) = (Detours::default(), SeededRandom::new(1));
    let one = need(Limit::Concurrency { max: 1 });
    assert!(detours.turn(&one, None, MS(0), &random) >= defaults::LIMITED_DELAY_MIN);
    let turns: Vec<Duration> = (0..20_000).map(|_| detours.turn(&one, None, MS(0), &random)).collect();
    assert!(turns.iter().all(|turn| *turn <= defaults::LIMITED_DELAY_MAX + MS(10)));
    assert!(turns.iter().rev().take(1_000).all(|turn| *turn >= defaults::LIMITED_DELAY_MAX / 2));
    let hour = need(Limit::SlidingWindow { max: 1, per: MS(3_600_000) });
    let long = detours.turn(&hour, Some(MS(3_600_000)), MS(0), &random);
    assert!(long <= defaults::LIMITED_DELAY_MAX);
}

#[tokio::test(start_paused = true)]
async fn while_the_limiter_is_silent_jobs_stay_away_longer_and_longer() {
    let (detours, env) = (Detours::default(), Env::seeded(crate::Timestamp::from_millis(1), 1));
    let within = |least: u64, most: u64| {
        let away = detours.away(&env);
        assert!(away >= MS(least) && away <= MS(most), "{away:?}");
    };
    within(500, 1_000);
    within(500, 1_000);
    tokio::time::advance(MS(10_000)).await;
    within(5_000, 10_000);
    tokio::time::advance(MS(100_000)).await;
    within(15_000, 30_000);
    detours.answered();
    within(500, 1_000);
}
