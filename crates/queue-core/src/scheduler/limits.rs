//! The limits of a scheduler: its rules, and who counts.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicBool, Ordering},
};

use super::JobScheduler;
use crate::{
    clock::Env,
    error::Result,
    limit::{LimitRule, LimitRules, Limiter, LocalLimiter},
    worker::{Detours, Lines},
};

/// On cache lines of its own: slots look at `any` before each run, and must not wait for those who write beside it.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Limits {
    rules: RwLock<Arc<LimitRules>>,
    /// Looked at before every run: most schedulers limit nothing.
    any: AtomicBool,
    limiter: Arc<dyn Limiter>,
    lines: Lines,
    detours: Detours,
}

impl Limits {
    pub(super) fn new(limiter: Option<Arc<dyn Limiter>>, env: &Env) -> Self {
        let limiter = limiter.unwrap_or_else(|| Arc::new(LocalLimiter::new(env)));
        Self {
            rules: RwLock::default(),
            any: AtomicBool::new(false),
            limiter,
            lines: Lines::default(),
            detours: Detours::default(),
        }
    }
}

impl JobScheduler {
    /// Adds a limit, or replaces the one of the same scope and sort. It holds for runs that begin from now on, in the workers of
    /// this scheduler; each process must be given the same rules.
    ///
    /// # Errors
    /// `VALIDATION` where the limit is nonsense.
    pub fn limit(&self, rule: LimitRule) -> Result<()> {
        let limits = &self.inner.limits;
        let mut rules = limits.rules.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = LimitRules::clone(&rules);
        changed.add(rule)?;
        *rules = Arc::new(changed);
        limits.any.store(true, Ordering::Release);
        drop(rules);
        limits.lines.look_everywhere(self.env().clock.monotonic());
        Ok(())
    }

    /// The limits. `None` where there are none.
    #[must_use]
    pub fn limits(&self) -> Option<Arc<LimitRules>> {
        let limits = &self.inner.limits;
        let any = limits.any.load(Ordering::Acquire);
        any.then(|| Arc::clone(&limits.rules.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Who counts: for every process where the provider can, else for this one.
    #[must_use]
    pub fn limiter(&self) -> &Arc<dyn Limiter> {
        &self.inner.limits.limiter
    }

    /// Where jobs of this process are parked.
    pub(crate) fn lines(&self) -> &Lines {
        &self.inner.limits.lines
    }

    pub(crate) fn detours(&self) -> &Detours {
        &self.inner.limits.detours
    }
}
