//! The brokers of one test run: up at its start, down at its end, whatever the end.

use std::fs::File;

use anyhow::{Result, bail};

use super::{
    Options,
    catalogue::{ALL, Broker},
    state::Home,
    supply::{self, Had, Supply},
};
use crate::{interrupt::Interrupted, workspace::Workspace};

/// A missing broker is a failure where this is set to 1.
const REQUIRE: &str = "QUEUE_REQUIRE_BROKERS";

/// Brokers for as long as it lives; dropping it takes down what it started, and only that.
#[derive(Debug)]
pub(crate) struct Session {
    home: Home,
    variables: Vec<(&'static str, String)>,
    started: Vec<&'static str>,
    left_out: Vec<&'static str>,
    /// Another test run waits until this one has taken its brokers down.
    _turn: Option<File>,
}

impl Session {
    /// The brokers that tests ask for. Where a provider crate does not exist, its tests cannot.
    pub(crate) fn needed(workspace: &Workspace) -> Vec<&'static Broker> {
        ALL.iter().filter(|broker| broker.in_tests && workspace.has(broker.provider)).collect()
    }

    /// Gets these brokers.
    ///
    /// # Errors
    /// Where one cannot be had and `QUEUE_REQUIRE_BROKERS=1`; otherwise it is left out by name.
    pub(crate) fn open(workspace: &Workspace, brokers: &[&'static Broker], options: Options) -> Result<Self> {
        let home = Home::of(workspace);
        let turn = if brokers.is_empty() { None } else { Some(home.lock_for_tests()?) };
        let mut session =
            Self { home: home.clone(), variables: Vec::new(), started: Vec::new(), left_out: Vec::new(), _turn: turn };
        let supply = Supply::new(home, options);
        for broker in brokers {
            let held = session.home.lock()?;
            let had = supply.have(broker);
            drop(held);
            session.note(broker, had)?;
        }
        if !session.left_out.is_empty() && std::env::var(REQUIRE).is_ok_and(|value| value == "1") {
            bail!("{REQUIRE}=1 and these brokers cannot be had: {}", session.left_out.join(", "));
        }
        Ok(session)
    }

    fn note(&mut self, broker: &'static Broker, had: Result<Had>) -> Result<()> {
        match had {
            Ok(had) => {
                eprintln!("{}: {} ({})", broker.name, super::address::without_password(had.url()), had.word());
                self.variables.extend(broker.variables(had.url(), self.home.folder()));
                if matches!(had, Had::Started(_)) {
                    self.started.push(broker.name);
                }
                Ok(())
            }
            Err(error) if error.is::<Interrupted>() => Err(error),
            Err(error) => {
                eprintln!("\n{error:#}\n");
                self.left_out.push(broker.name);
                Ok(())
            }
        }
    }

    /// The variables that tell the tests where the brokers are.
    pub(crate) fn variables(&self) -> &[(&'static str, String)] {
        &self.variables
    }

    /// Takes down what it started.
    ///
    /// # Errors
    /// Where something cannot be taken down.
    pub(crate) fn close(mut self) -> Result<()> {
        self.take_down()
    }

    fn take_down(&mut self) -> Result<()> {
        if self.started.is_empty() {
            return Ok(());
        }
        let _held = self.home.lock_even_interrupted()?;
        let mut result = Ok(());
        for name in self.started.drain(..) {
            // The others are taken down even where one cannot be.
            result = supply::take_down(&self.home, name).map(drop).and(result);
        }
        result
    }
}

impl Drop for Session {
    /// What was left out is repeated whatever the end: the top of the output is far away by then.
    fn drop(&mut self) {
        if !self.left_out.is_empty() {
            let names = self.left_out.join(", ");
            eprintln!("\nLEFT OUT, and not tested: {names}. How to get them stands at the top of this output.");
        }
        if let Err(error) = self.take_down() {
            eprintln!("warning: not everything was taken down ({error:#}): see `cargo xtask brokers status`");
        }
    }
}
