//! The wire between a process and what it calls: every fault of a network, and every crash.
//!
//! All that a process does to the world leaves it through a call. So a crash before and after each call is a crash at every
//! await point of the process, as far as anybody else can tell.

mod admin;
mod consumer;
mod provider;
mod store;
mod tracking;

use std::{future::Future, sync::Arc};

use queue_core::{Error, ErrorCode, QueueProvider, store::TrackingStore};

use super::{
    life::{Life, Side},
    weather::Fate,
};
pub(super) use provider::Wire;
use tracking::TrackingWire;

impl Life {
    /// The provider as this process reaches it: through a wire with every fault.
    #[must_use]
    pub fn wired(&self, provider: Arc<dyn QueueProvider>) -> Arc<dyn QueueProvider> {
        Arc::new(Wire::new(self.line(true), provider, true))
    }

    /// The provider through a wire on which a process can die, and nothing else happens: for what has faults of its own
    /// beneath it.
    #[must_use]
    pub fn mortal(&self, provider: Arc<dyn QueueProvider>) -> Arc<dyn QueueProvider> {
        Arc::new(Wire::new(self.line(false), provider, true))
    }

    /// A transport beneath a layer, through a wire with every fault.
    #[must_use]
    pub fn wired_beneath(&self, transport: Arc<dyn QueueProvider>) -> Arc<dyn QueueProvider> {
        Arc::new(Wire::new(self.line(true), transport, false))
    }

    /// A store beneath a layer, through a wire with every fault.
    #[must_use]
    pub fn wired_store(&self, store: Arc<dyn TrackingStore>) -> Arc<dyn TrackingStore> {
        let line = Line { of_store: true, ..self.line(true) };
        Arc::new(TrackingWire::new(line, store))
    }

    fn line(&self, faulty: bool) -> Line {
        Line { life: self.clone(), faulty, of_store: false }
    }
}

/// What carries calls.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) life: Life,
    faulty: bool,
    /// It leads to a store beneath a layer.
    of_store: bool,
}

/// A call, and what may happen to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) name: &'static str,
    /// It may arrive twice.
    pub(super) repeats: bool,
    /// Its answer may be lost.
    pub(super) loses: bool,
    /// It is told of only where something happened to it: there are too many.
    pub(super) quiet: bool,
}

impl Call {
    pub(super) const fn of(name: &'static str) -> Self {
        Self { name, repeats: false, loses: true, quiet: false }
    }

    pub(super) const fn repeats(self, repeats: bool) -> Self {
        Self { repeats, ..self }
    }

    pub(super) const fn loses(self, loses: bool) -> Self {
        Self { loses, ..self }
    }

    pub(super) const fn quiet(self) -> Self {
        Self { quiet: true, ..self }
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Silence {
    /// It was not carried out, and the caller knows.
    Refused(Error),
    /// It was carried out, and the caller does not know.
    Lost(Error),
}

impl Silence {
    pub(super) fn error(self) -> Error {
        match self {
            Self::Refused(error) | Self::Lost(error) => error,
        }
    }
}

impl Line {
    /// Carries a call: `work` does it, `silent` is what the caller is told instead of an answer, `tell` puts the answer into
    /// words.
    pub(super) async fn carry<T, F>(
        &self,
        call: Call,
        work: impl Fn() -> F + Send + Sync,
        silent: impl Fn(Silence) -> T + Send + Sync,
        tell: impl Fn(&T) -> String + Send + Sync,
    ) -> T
    where
        T: Send,
        F: Future<Output = T> + Send,
    {
        let Line { life, faulty, .. } = self;
        let number = life.next_call();
        let fate = if *faulty { life.fate() } else { Fate::PLAIN };
        fate.before.pass().await;
        life.pass(number, Side::Before, call.name).await;
        if *faulty && (self.is_cut() || fate.refused) {
            let error = Error::new(ErrorCode::Unavailable, "the request did not arrive").at(call.name);
            self.note(call, number, || "did not arrive".to_owned());
            return silent(Silence::Refused(error));
        }
        let mut answer = work().await;
        let twice = call.repeats && fate.twice;
        if twice {
            answer = work().await;
        }
        life.pass(number, Side::After, call.name).await;
        fate.after.pass().await;
        if life.is_dead() {
            std::future::pending::<()>().await;
        }
        let lost = call.loses && fate.lost;
        if !call.quiet || twice || lost {
            let extra = [(twice, ", arrived twice"), (lost, ", and the answer was lost")];
            let extra: String = extra.iter().filter(|(is, _)| *is).map(|(_, word)| *word).collect();
            self.note(call, number, || format!("{}{extra}", tell(&answer)));
        }
        if lost {
            return silent(Silence::Lost(Error::new(ErrorCode::Timeout, "no answer came").at(call.name)));
        }
        answer
    }

    /// Nobody is there at its other end.
    fn is_cut(&self) -> bool {
        let sim = self.life.sim();
        sim.is_away() || self.of_store && sim.is_store_away()
    }

    fn note(&self, call: Call, number: u64, what: impl FnOnce() -> String) {
        self.life.sim().note(self.life.name(), 16 + number, || format!("#{number} {}: {}", call.name, what()));
    }
}
