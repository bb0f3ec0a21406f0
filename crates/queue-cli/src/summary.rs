//! What a run came to.

use std::{fmt::Write as _, ops::Index, time::Duration};

use hdrhistogram::Histogram;
use serde_json::json;

use crate::results::{Row, Status};

/// How many lines ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts([u64; Status::ALL.len()]);

impl Counts {
    /// One more.
    pub fn add(&mut self, status: Status) {
        self.0[status as usize] += 1;
    }

    /// So many of each, in the order of [`Status::ALL`].
    #[must_use]
    pub const fn new(counts: [u64; Status::ALL.len()]) -> Self {
        Self(counts)
    }

    /// How many lines have ended.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

impl Index<Status> for Counts {
    type Output = u64;

    fn index(&self, status: Status) -> &u64 {
        &self.0[status as usize]
    }
}

/// Counts and times of a run, a few hundred KiB whatever its length.
#[derive(Debug, Default)]
pub struct Summary {
    counts: Counts,
    attempts: u64,
    /// Of the counts, those of earlier lives of the run.
    earlier: Counts,
    wait: Times,
    run: Times,
}

impl Summary {
    /// Counts a line that has ended. Times count where it was started at least once.
    pub fn add(&mut self, row: &Row) {
        self.counts.add(row.status);
        self.attempts += u64::from(row.attempts);
        if row.attempts > 0 {
            self.wait.add(row.wait);
            self.run.add(row.run);
        }
    }

    /// Begins with what earlier lives of the run counted.
    pub fn count_on(&mut self, earlier: Counts, attempts: u64) {
        (self.counts, self.attempts) = (earlier, attempts);
    }

    /// From here on lines end in this life.
    pub fn begin_this_life(&mut self) {
        self.earlier = self.counts;
    }

    /// How many lines ended in earlier lives.
    #[must_use]
    pub fn earlier(&self) -> u64 {
        self.earlier.total()
    }

    /// All attempts together.
    #[must_use]
    pub fn attempts(&self) -> u64 {
        self.attempts
    }

    /// How many lines ended how.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// For people; several lines, the last with its break.
    #[must_use]
    pub fn for_people(&self, elapsed: Duration) -> String {
        let mut text = String::new();
        let total = self.counts.total();
        let noun = if total == 1 { "line" } else { "lines" };
        let rate = self.per_second(elapsed);
        let _ = writeln!(text, "{total} {noun} in {}, {rate:.0} jobs/s, {} attempts", shown(elapsed), self.attempts);
        if self.earlier() > 0 {
            let _ = writeln!(text, "  resumed: {} done before", self.earlier());
        }
        for status in Status::ALL.into_iter().filter(|status| self.counts[*status] > 0) {
            let _ = writeln!(text, "  {:<10}{:>10}", status.as_str(), self.counts[status]);
        }
        if self.attempts > 0 {
            let _ = writeln!(text, "  {:<10}{:>10}{:>10}{:>10}{:>10}", "", "p50", "p95", "p99", "max");
            for (name, times) in [("wait", &self.wait), ("run", &self.run)] {
                let [p50, p95, p99, max] = times.percentiles().map(shown);
                let _ = writeln!(text, "  {name:<10}{p50:>10}{p95:>10}{p99:>10}{max:>10}");
            }
        }
        text
    }

    /// One JSON object. Times are milliseconds, with their fractions.
    #[must_use]
    pub fn for_machines(&self, elapsed: Duration, exit_status: u8) -> serde_json::Value {
        let times = |times: &Times| {
            let [p50, p95, p99, max] = times.percentiles().map(millis);
            json!({"p50": p50, "p95": p95, "p99": p99, "max": max})
        };
        let mut object = json!({
            "lines": self.counts.total(),
            "attempts": self.attempts,
            "elapsed_ms": millis(elapsed),
            "jobs_per_second": (self.per_second(elapsed) * 10.0).round() / 10.0,
            "wait_ms": times(&self.wait),
            "run_ms": times(&self.run),
            "exit_status": exit_status,
        });
        if self.earlier() > 0 {
            object["done_before"] = self.earlier().into();
        }
        for status in Status::ALL {
            object[status.as_str()] = self.counts[status].into();
        }
        object
    }

    /// Jobs that were run to an end, a second.
    fn per_second(&self, elapsed: Duration) -> f64 {
        let of = |counts: &Counts| counts[Status::Completed] + counts[Status::Dead];
        let ended = of(&self.counts) - of(&self.earlier);
        if elapsed.is_zero() { 0.0 } else { ended as f64 / elapsed.as_secs_f64() }
    }
}

/// Microseconds, to three digits.
#[derive(Debug)]
struct Times(Option<Histogram<u64>>);

impl Default for Times {
    fn default() -> Self {
        const MONTH: u64 = 31 * 24 * 3600 * 1_000_000;
        Self(Histogram::new_with_bounds(1, MONTH, 3).ok())
    }
}

impl Times {
    fn add(&mut self, time: Duration) {
        if let Some(histogram) = &mut self.0 {
            histogram.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        }
    }

    fn percentiles(&self) -> [Duration; 4] {
        let Some(histogram) = self.0.as_ref().filter(|histogram| !histogram.is_empty()) else {
            return Default::default();
        };
        let max = histogram.max();
        // A bucket's upper end may lie above everything that was recorded.
        [0.50, 0.95, 0.99, 1.0].map(|q| Duration::from_micros(histogram.value_at_quantile(q).min(max)))
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1_000.0
}

/// Three digits or so.
fn shown(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match duration.as_secs() {
        0 if duration.as_millis() < 10 => format!("{:.1} ms", seconds * 1e3),
        0 => format!("{:.0} ms", seconds * 1e3),
        1..10 => format!("{seconds:.2} s"),
        10..60 => format!("{seconds:.1} s"),
        whole @ 60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        whole => format!("{}h{:02}m", whole / 3600, whole / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(status: Status, attempts: u32, run_ms: u64) -> Row {
        let (wait, run) = (Duration::from_millis(5), Duration::from_millis(run_ms));
        Row { id: None, line: 1, status, attempts, result: None, error: None, wait, run }
    }

    #[test]
    fn counts_and_percentiles() {
        let mut summary = Summary::default();
        for n in 1..=100 {
            summary.add(&row(Status::Completed, 1, n * 10));
        }
        summary.add(&row(Status::Dead, 3, 60_000));
        summary.add(&row(Status::Invalid, 0, 9_999_999));
        let value = summary.for_machines(Duration::from_secs(10), 1);
        assert_eq!(value["lines"], 102);
        assert_eq!(value["attempts"], 103);
        assert_eq!((&value["completed"], &value["dead"], &value["invalid"]), (&json!(100), &json!(1), &json!(1)));
        assert_eq!(value["aborted"], 0);
        assert_eq!((&value["jobs_per_second"], &value["exit_status"]), (&json!(10.1), &json!(1)));
        let near = |value: &serde_json::Value, wanted: f64| {
            let got = value.as_f64().unwrap();
            assert!((got / wanted - 1.0).abs() < 0.02, "{got} for {wanted}");
        };
        near(&value["run_ms"]["p50"], 510.0);
        near(&value["run_ms"]["p95"], 960.0);
        near(&value["run_ms"]["max"], 60_000.0);
        near(&value["wait_ms"]["p99"], 5.0);
    }

    #[test]
    fn the_table_shows_what_happened_and_no_more() {
        let mut summary = Summary::default();
        assert_eq!(summary.for_people(Duration::from_millis(3)), "0 lines in 3.0 ms, 0 jobs/s, 0 attempts\n");
        summary.add(&row(Status::Completed, 1, 1_234));
        let text = summary.for_people(Duration::from_secs(75));
        assert!(text.starts_with("1 line in 1m15s, 0 jobs/s, 1 attempts\n"), "{text}");
        assert!(text.contains("completed") && !text.contains("aborted"), "{text}");
        assert!(text.contains("p95") && text.contains("1.23 s") && text.contains("5.0 ms"), "{text}");
    }

    #[test]
    fn durations_read_well() {
        let cases = [(9_900, "9.9 ms"), (250_000, "250 ms"), (59_940_000, "59.9 s"), (3_661_000_000, "1h01m")];
        for (micros, expected) in cases {
            assert_eq!(shown(Duration::from_micros(micros)), expected);
        }
    }
}
