//! Steps one after the other, each with its time, and what to do about the one that failed.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// What ran, and how long it took.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    done: Vec<(String, Duration)>,
}

impl Steps {
    /// Runs one step. On failure the steps before it are summed up and `remedy` is told.
    pub(crate) fn step(&mut self, name: &str, remedy: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        eprintln!("\n── {name}");
        let start = Instant::now();
        let result = work();
        let took = start.elapsed();
        if result.is_ok() {
            self.done.push((name.to_owned(), took));
            return result;
        }
        eprint!("\n{}", self.summary());
        eprintln!("  FAILED {name} after {:.1} s", took.as_secs_f64());
        result.with_context(|| format!("step `{name}` failed: {remedy}"))
    }

    /// One line a step and the total.
    pub(crate) fn summary(&self) -> String {
        let total: Duration = self.done.iter().map(|(_, took)| *took).sum();
        let rows = self.done.iter().map(|(name, took)| (name.as_str(), *took)).chain([("total", total)]);
        rows.map(|(name, took)| format!("  {:>7.1} s  {name}\n", took.as_secs_f64())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_keeps_its_cause_and_tells_what_to_do() {
        let mut steps = Steps::default();
        steps.step("first", "-", || Ok(())).unwrap();
        let error = steps.step("second", "run it again", || anyhow::bail!("broken")).unwrap_err();
        assert_eq!(format!("{error:#}"), "step `second` failed: run it again: broken");
        assert!(steps.summary().contains("first") && steps.summary().contains("total"));
        assert!(!steps.summary().contains("second"));
    }
}
