//! Whether the store answers, and since when.

use std::{
    future::Future,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use queue_core::{Error, ErrorCode, QueueName, Result};

use super::core::Core;

#[derive(Debug)]
pub(super) struct Health(Mutex<State>);

#[derive(Debug, Clone, Copy)]
struct State {
    away: bool,
    /// When it began to answer, on the local monotonic clock.
    answers_since: Duration,
    /// When it was asked last whether it is back.
    probed: Duration,
}

impl Health {
    pub(super) fn new(now: Duration) -> Self {
        Self(Mutex::new(State { away: false, answers_since: now, probed: now }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, answered: bool, now: Duration) {
        let mut state = self.lock();
        if !answered {
            if !state.away {
                tracing::warn!("the store does not answer");
            }
            *state = State { away: true, answers_since: now, probed: now };
        } else if state.away {
            tracing::info!("the store answers again");
            *state = State { away: false, answers_since: now, ..*state };
        }
    }

    /// How long it has answered without a gap, as far as was asked.
    pub(super) fn answered_for(&self, now: Duration) -> Duration {
        let state = *self.lock();
        if state.away { Duration::ZERO } else { now.saturating_sub(state.answers_since) }
    }

    /// Whether it is away; `None`: it was, and it is time to ask again.
    fn is_away(&self, now: Duration, probe_every: Duration) -> Option<bool> {
        let mut state = self.lock();
        if state.away && now >= state.probed + probe_every {
            state.probed = now;
            return None;
        }
        Some(state.away)
    }
}

fn silent(error: &Error) -> bool {
    matches!(error.code(), ErrorCode::Unavailable | ErrorCode::Timeout)
}

fn late() -> Error {
    Error::new(ErrorCode::Timeout, "the store did not answer in time").by("store")
}

impl Core {
    /// Whether the store is known to be away. One that was is asked again now and then, with a question that costs nothing.
    pub(super) async fn store_is_away(&self) -> bool {
        match self.health.is_away(self.now(), self.options.probe_every) {
            Some(away) => away,
            None => self.ask(self.store.queue_control(&probe())).await.is_err_and(|error| silent(&error)),
        }
    }

    /// `UNAVAILABLE` while it is away.
    pub(super) async fn require_store(&self) -> Result<()> {
        if !self.store_is_away().await {
            return Ok(());
        }
        let message = "the store does not answer: what runs goes on, and nothing is fetched until it is back";
        Err(Error::new(ErrorCode::Unavailable, message).by(self.scheme()))
    }

    /// One question to the store, with a limit to its patience.
    pub(super) async fn ask<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let answer = tokio::time::timeout(self.options.store_timeout, call).await.unwrap_or_else(|_| Err(late()));
        self.health.note(answer.as_ref().err().is_none_or(|error| !silent(error)), self.now());
        answer
    }

    /// A batch of questions: one answer each, whatever the store does.
    pub(super) async fn ask_each<T>(
        &self,
        items: usize,
        call: impl Future<Output = Vec<T>>,
        unknown: impl Fn(Error) -> T,
        unanswered: impl Fn(&T) -> bool,
    ) -> Vec<T> {
        let answers = tokio::time::timeout(self.options.store_timeout, call).await.ok();
        let mut answers = answers.unwrap_or_default();
        if answers.len() < items {
            answers.resize_with(items, || unknown(late()));
        }
        if items > 0 {
            self.health.note(!answers.iter().any(unanswered), self.now());
        }
        answers
    }

    /// The same, where answers are results.
    pub(super) async fn ask_all<T>(&self, items: usize, call: impl Future<Output = Vec<Result<T>>>) -> Vec<Result<T>> {
        self.ask_each(items, call, Err, |answer| answer.as_ref().is_err_and(silent)).await
    }
}

fn probe() -> QueueName {
    QueueName::from_static("probe")
}
