//! Whether the store answers, and since when.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use queue_core::{Error, ErrorCode, QueueName, Result, Timestamp, provider::StoreAway};

use super::core::Core;

#[derive(Debug)]
pub(super) struct Health(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Since when, and what it said last.
    away: Option<StoreAway>,
    /// When it began to answer, on the local monotonic clock.
    answers_since: Duration,
    /// When it was asked last whether it is back.
    probed: Duration,
}

impl Health {
    pub(super) fn new(now: Duration) -> Self {
        Self(Mutex::new(State { away: None, answers_since: now, probed: now }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `silence`: why it is taken to be away. `None`: it answered.
    fn note(&self, silence: Option<&Error>, now: Duration, wall: Timestamp) {
        let mut state = self.lock();
        match silence {
            Some(error) => {
                let error: Arc<str> = error.message().into();
                match &mut state.away {
                    Some(away) => away.error = error,
                    None => {
                        tracing::warn!(%error, "the store does not answer");
                        state.away = Some(StoreAway::new(wall, error));
                    }
                }
                (state.answers_since, state.probed) = (now, now);
            }
            None => {
                if let Some(away) = state.away.take() {
                    tracing::info!(since = %away.since, "the store answers again");
                    state.answers_since = now;
                }
            }
        }
    }

    pub(super) fn away(&self) -> Option<StoreAway> {
        self.lock().away.clone()
    }

    /// How long it has answered without a gap, as far as was asked.
    pub(super) fn answered_for(&self, now: Duration) -> Duration {
        let state = self.lock();
        if state.away.is_some() { Duration::ZERO } else { now.saturating_sub(state.answers_since) }
    }

    /// Whether it is away; `None`: it was, and it is time to ask again.
    fn is_away(&self, now: Duration, probe_every: Duration) -> Option<bool> {
        let mut state = self.lock();
        if state.away.is_some() && now >= state.probed + probe_every {
            state.probed = now;
            return None;
        }
        Some(state.away.is_some())
    }
}

fn silent(error: &Error) -> bool {
    matches!(error.code(), ErrorCode::Unavailable | ErrorCode::Timeout)
}

fn silence<T>(answer: &Result<T>) -> Option<&Error> {
    answer.as_ref().err().filter(|error| silent(error))
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

    /// The same for who goes on without it: the question does not hold up a publisher for long, and who asks with more patience
    /// will notice.
    pub(super) async fn store_is_still_away(&self) -> bool {
        match self.health.is_away(self.now(), self.options.probe_every) {
            Some(away) => away,
            None => {
                let patience = self.options.store_timeout / 10;
                let probe = probe();
                let question = self.ask(self.store.queue_control(&probe));
                match tokio::time::timeout(patience, question).await {
                    Ok(answer) => silence(&answer).is_some(),
                    Err(_) => true,
                }
            }
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

    /// Asks it now, with less patience than for an answer that matters: what comes of it is noted.
    /// Not again where it was found to be away just now.
    pub(super) async fn look_at_store(&self) {
        if self.health.is_away(self.now(), self.options.probe_every) == Some(true) {
            return;
        }
        let patience = self.options.store_timeout / 2;
        let answer = tokio::time::timeout(patience, self.store.queue_control(&probe())).await;
        self.note(&answer.unwrap_or_else(|_| Err(late())).map(drop));
    }

    fn note(&self, answer: &Result<()>) {
        self.health.note(silence(answer), self.now(), self.env.now());
    }

    /// One question to the store, with a limit to its patience.
    pub(super) async fn ask<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let answer = tokio::time::timeout(self.options.store_timeout, call).await.unwrap_or_else(|_| Err(late()));
        self.health.note(silence(&answer), self.now(), self.env.now());
        answer
    }

    /// A batch of questions: one answer each, whatever the store does.
    pub(super) async fn ask_each<T>(
        &self,
        items: usize,
        call: impl Future<Output = Vec<T>>,
        unknown: impl Fn(Error) -> T,
        unanswered: impl Fn(&T) -> Option<&Error>,
    ) -> Vec<T> {
        let answers = tokio::time::timeout(self.options.store_timeout, call).await.ok();
        let mut answers = answers.unwrap_or_default();
        if answers.len() < items {
            answers.resize_with(items, || unknown(late()));
        }
        if items > 0 {
            // An answer that cannot be read is one all the same.
            let silence = answers.iter().filter_map(unanswered).find(|error| error.code() != ErrorCode::Internal);
            self.health.note(silence, self.now(), self.env.now());
        }
        answers
    }

    /// The same, but no longer than the caller has time. That he has none says nothing of the store.
    pub(super) async fn ask_within<T>(
        &self,
        limit: Duration,
        items: usize,
        call: impl Future<Output = Vec<T>>,
        unknown: impl Fn(Error) -> T,
        unanswered: impl Fn(&T) -> Option<&Error>,
    ) -> Vec<T> {
        if limit >= self.options.store_timeout {
            return self.ask_each(items, call, unknown, unanswered).await;
        }
        let answers = tokio::time::timeout(limit, self.ask_each(items, call, &unknown, unanswered)).await;
        answers.unwrap_or_else(|_| (0..items).map(|_| unknown(late())).collect())
    }

    /// The same, where answers are results.
    pub(super) async fn ask_all<T>(&self, items: usize, call: impl Future<Output = Vec<Result<T>>>) -> Vec<Result<T>> {
        self.ask_each(items, call, Err, silence).await
    }
}

fn probe() -> QueueName {
    QueueName::from_static("probe")
}
