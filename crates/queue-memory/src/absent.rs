//! What stands for the journal in a build without it: nobody can make one, so nothing here is ever called.

use std::time::Duration;

use queue_core::Result;

#[path = "journal/batch.rs"]
mod batch;

pub(crate) use batch::{Batch, Table, key};

#[derive(Debug, Clone)]
pub(crate) struct Journal(());

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    Now,
    Within(Duration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(());

impl Ticket {
    pub(crate) const NEVER: Self = Self(());
}

#[allow(clippy::unused_self, clippy::unused_async, reason = "as the journal's")]
impl Journal {
    pub(crate) fn append(&self, _: &Batch, _: Urgency) -> Ticket {
        Ticket(())
    }

    pub(crate) async fn committed(&self, _: Ticket) -> Result<()> {
        Ok(())
    }

    pub(crate) async fn kept(&self, _: Ticket) -> Result<()> {
        Ok(())
    }

    pub(crate) fn pump(&self) {}

    pub(crate) fn ready(&self) -> Result<()> {
        Ok(())
    }

    pub(crate) async fn close(&self) -> Result<()> {
        Ok(())
    }

    pub(crate) fn abandon(&self) {}
}
