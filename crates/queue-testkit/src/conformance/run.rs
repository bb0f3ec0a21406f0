//! Runs cases: as trials of a test binary, or one by one.

use std::{sync::Arc, time::Duration};

use libtest_mimic::Trial;
use queue_core::provider::Capabilities;

use super::{Case, Ctx, Failed, Outcome, all_cases};
use crate::harness::{Factory, Facts, Harness};

/// A virtual day, or ten real minutes: a case that is still running then hangs. Some wait for a session's lease, once for each disposition.
fn limit(virtual_time: bool) -> Duration {
    Duration::from_secs(if virtual_time { 24 * 3_600 } else { 600 })
}

/// Every case of the suite for one provider. Those it cannot be asked are ignored, with the reason in the name.
///
/// Where the provider cannot be had at all, the one trial of [`unavailable`] stands for them.
#[must_use]
pub fn run_suite(factory: &Factory<dyn Harness>) -> Vec<Trial> {
    if !is_asked_for(factory.name) {
        return Vec::new();
    }
    let (facts, capabilities, store) = match survey(factory) {
        Ok(found) => found,
        Err(reason) => return unavailable(factory.name, &reason.0),
    };
    let trials = all_cases().map(|case| {
        let name = format!("{}::{}", factory.name, case.name);
        if let Some(reason) = case.excluded(&facts, &capabilities, store) {
            return Trial::test(format!("{name} (ignored: {reason})"), || Ok(())).with_ignored_flag(true);
        }
        let factory = factory.clone();
        Trial::test(name, move || run_case(&factory, case).map_err(|failed| failed.0.into()))
    });
    trials.collect()
}

/// Whether this provider is to be tested: `QUEUE_TEST_ONLY` names it, or is not set.
#[must_use]
pub fn is_asked_for(provider: &str) -> bool {
    std::env::var("QUEUE_TEST_ONLY").map_or(true, |only| is_meant(provider, &only))
}

/// Whether `QUEUE_TEST_ONLY` means this provider: by its name, or as one of the models.
fn is_meant(provider: &str, only: &str) -> bool {
    provider == only || (only == "models" && provider.ends_with("_model"))
}

/// Stands for a provider that could not be had: ignored by name and loudly, or a failure where `QUEUE_REQUIRE_BROKERS=1`.
#[must_use]
pub fn unavailable(provider: &str, reason: &str) -> Vec<Trial> {
    let reason = reason.to_owned();
    if std::env::var("QUEUE_REQUIRE_BROKERS").is_ok_and(|value| value == "1") {
        return vec![Trial::test(format!("{provider}::available"), move || Err(reason.into()))];
    }
    eprintln!("NOT TESTED: {provider}: {reason}");
    vec![Trial::test(format!("{provider}::available (ignored: {reason})"), || Ok(())).with_ignored_flag(true)]
}

/// What a provider under test offers: facts, capabilities, and whether it has a store.
///
/// # Errors
/// Why it cannot be had.
pub fn survey(factory: &Factory<dyn Harness>) -> Outcome<(Facts, Capabilities, bool)> {
    let runtime = factory.runtime().map_err(|error| Failed(format!("no runtime: {error}")))?;
    runtime.block_on(async {
        let harness = factory.make().await?;
        let facts = harness.facts();
        let provider = harness.connect().await?;
        let found = (facts, provider.capabilities(None), provider.job_store().is_some());
        // It was only looked at; what a failing close would tell, the cases tell better.
        let _ = provider.close().await;
        Ok(found)
    })
}

/// Runs one case in a runtime and on a harness of its own. A panic is a failure.
///
/// # Errors
/// What the case found.
pub fn run_case(factory: &Factory<dyn Harness>, case: &'static Case) -> Outcome {
    let runtime = factory.runtime().map_err(|error| Failed(format!("no runtime: {error}")))?;
    let virtual_time = factory.virtual_time;
    let factory = factory.clone();
    let outcome = runtime.block_on(async move {
        let task = tokio::spawn(async move {
            let harness: Arc<dyn Harness> = factory.make().await?;
            let ctx = Ctx::open(harness).await?;
            let outcome = tokio::time::timeout(limit(virtual_time), (case.run)(&ctx)).await;
            ctx.finish().await;
            outcome.unwrap_or_else(|_| Err(Failed("the case hangs".into())))
        });
        task.await.unwrap_or_else(|error| Err(Failed(format!("panicked: {error}"))))
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    outcome
}

#[cfg(test)]
mod tests {
    use super::is_meant;

    #[test]
    fn one_provider_can_be_tested_alone() {
        assert!(is_meant("memory", "memory") && is_meant("log_model", "models") && is_meant("log_model", "log_model"));
        assert!(!is_meant("memory", "models") && !is_meant("memory", "redis") && !is_meant("log_model", "memory"));
    }
}
