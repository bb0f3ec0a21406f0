//! How the classes of jobs keep to what they were promised.

use std::sync::{Mutex, PoisonError};

use hdrhistogram::Histogram;
use queue_core::{Timestamp, job::SlaClass, limit::SlaCompliance};
use serde::{Deserialize, Serialize};

/// How each SLA class was kept to by the jobs that completed while this process listened, wherever they ran. It serialises to
/// JSON as it stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SlaReport {
    /// Since when it counts. Absent where nobody listens: alerts are not enabled, or not `alerts.sla`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub since: Option<Timestamp>,
    /// How often some events were missed: then the counts are too low.
    pub gaps: u64,
    /// The classes that jobs were completed of, the strictest first.
    pub classes: Vec<SlaClassReport>,
}

/// How one class was kept to. Times are from submission to completion, within 1 %.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SlaClassReport {
    /// The class.
    pub class: SlaClass,
    /// What it allows, in milliseconds.
    pub target_ms: u64,
    /// Jobs that kept to it.
    pub met: u64,
    /// Jobs that did not.
    pub missed: u64,
    /// Half of the jobs took no longer.
    pub p50_ms: u64,
    /// Nine of ten took no longer.
    pub p90_ms: u64,
    /// 95 of a hundred took no longer.
    pub p95_ms: u64,
    /// 99 of a hundred took no longer.
    pub p99_ms: u64,
    /// The longest.
    pub max_ms: u64,
}

impl SlaClassReport {
    /// The share of jobs that kept to it, 0.0 to 1.0.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a share")]
    pub fn compliance(&self) -> f64 {
        self.met as f64 / (self.met + self.missed).max(1) as f64
    }
}

/// Counts for [`SlaReport`]: about 25 KiB for each class that is in use.
#[derive(Debug, Default)]
pub(crate) struct SlaLedger(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    since: Option<Timestamp>,
    gaps: u64,
    classes: Vec<Class>,
}

#[derive(Debug)]
struct Class {
    class: SlaClass,
    met: u64,
    missed: u64,
    millis: Histogram<u64>,
}

/// A week, in milliseconds: what took longer counts as that.
const LONGEST: u64 = 7 * 24 * 3_600 * 1_000;

impl SlaLedger {
    /// Somebody listens from now on.
    pub(super) fn begin(&self, now: Timestamp) {
        self.with(|counts| counts.since = counts.since.or(Some(now)));
    }

    pub(super) fn gap(&self) {
        self.with(|counts| counts.gaps += 1);
    }

    pub(super) fn record(&self, class: SlaClass, compliance: SlaCompliance) {
        self.with(|counts| {
            let known = counts.classes.iter().position(|known| known.class == class);
            let index = known.unwrap_or_else(|| {
                counts.classes.extend(Class::new(class));
                counts.classes.len() - 1
            });
            let Some(counted) = counts.classes.get_mut(index) else { return };
            counted.met += u64::from(compliance.met);
            counted.missed += u64::from(!compliance.met);
            counted.millis.saturating_record(compliance.actual_ms.max(1));
        });
    }

    pub(crate) fn report(&self) -> SlaReport {
        self.with(|counts| {
            let mut classes: Vec<_> = counts.classes.iter().map(Class::report).collect();
            classes.sort_by_key(|class| class.target_ms);
            SlaReport { since: counts.since, gaps: counts.gaps, classes }
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut Counts) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Class {
    /// `None` is not met: the bounds are good.
    fn new(class: SlaClass) -> Option<Self> {
        let millis = Histogram::new_with_bounds(1, LONGEST, 2).ok()?;
        Some(Self { class, met: 0, missed: 0, millis })
    }

    fn report(&self) -> SlaClassReport {
        let quantile = |q| self.millis.value_at_quantile(q);
        SlaClassReport {
            class: self.class,
            target_ms: u64::try_from(self.class.target().as_millis()).unwrap_or(u64::MAX),
            met: self.met,
            missed: self.missed,
            p50_ms: quantile(0.5),
            p90_ms: quantile(0.9),
            p95_ms: quantile(0.95),
            p99_ms: quantile(0.99),
            max_ms: self.millis.max(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_class_has_its_counts_and_quantiles() {
        let ledger = SlaLedger::default();
        let took = |class: SlaClass, millis| ledger.record(class, class.compliance(Duration::from_millis(millis)));
        took(SlaClass::Low, 0);
        for millis in 1..=1_000 {
            took(SlaClass::Urgent, millis * 4);
        }
        took(SlaClass::Urgent, u64::MAX);
        ledger.begin(Timestamp::from_millis(7));
        ledger.begin(Timestamp::from_millis(9));
        ledger.gap();
        let report = ledger.report();
        assert_eq!((report.since, report.gaps), (Some(Timestamp::from_millis(7)), 1));
        let [urgent, low] = &report.classes[..] else { panic!("{report:?}") };
        assert_eq!((urgent.class, urgent.target_ms, urgent.met, urgent.missed), (SlaClass::Urgent, 3_000, 750, 251));
        for (quantile, wanted) in
            [(urgent.p50_ms, 2_000), (urgent.p90_ms, 3_600), (urgent.p95_ms, 3_800), (urgent.p99_ms, 3_960)]
        {
            assert!(quantile.abs_diff(wanted) * 100 <= wanted + 400, "{quantile} {wanted}");
        }
        assert!(urgent.max_ms.abs_diff(LONGEST) * 100 <= LONGEST, "{}", urgent.max_ms);
        assert!((urgent.compliance() - 0.749).abs() < 0.001);
        assert_eq!((low.met, low.missed, low.max_ms, low.compliance()), (1, 0, 1, 1.0));
        assert_eq!(serde_json::to_value(&report).unwrap()["classes"][1]["class"], "low");
    }

    #[test]
    fn nothing_counted_is_an_empty_report() {
        assert_eq!(SlaLedger::default().report(), SlaReport::default());
    }
}
