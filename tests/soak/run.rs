//! A soak from its settings to its figures.

use std::{path::Path, process::ExitCode};

use anyhow::Result;
use serde_json::Value;

use super::{
    blow::Blow,
    phase::{Figures, Phase},
    show::{self, Bar},
    stop, worker,
};

/// What was asked for, by `cargo xtask soak`.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Which soak.
    pub(crate) name: &'static str,
    pub(crate) scale: f64,
    pub(crate) seed: u64,
    only: Option<String>,
    json: bool,
}

fn setting(name: &str) -> Option<String> {
    std::env::var(format!("QUEUE_SOAK_{name}")).ok().filter(|value| !value.is_empty())
}

impl Settings {
    fn read(name: &'static str) -> Result<Self> {
        let fresh = || Ok(queue_core::Env::system().random.next_u64() >> 16);
        Ok(Self {
            name,
            scale: setting("SCALE").map_or(Ok(1.0), |scale| scale.parse())?,
            seed: setting("SEED").map_or_else(fresh, |seed| seed.parse())?,
            only: setting("ONLY"),
            json: setting("JSON").is_some(),
        })
    }

    fn of_smoke(name: &'static str) -> Self {
        Self { name, scale: 1.0, seed: 7, only: None, json: false }
    }

    /// Whether this part is asked for.
    pub(crate) fn wants(&self, part: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only.split(',').any(|one| one == part))
    }

    /// Refuses a part that there is not: a run of nothing would pass.
    fn check(&self, parts: &[&str]) -> Result<()> {
        let unknown = self.only.iter().flat_map(|only| only.split(',')).find(|one| !parts.contains(one));
        unknown.map_or(Ok(()), |unknown| anyhow::bail!("no part `{unknown}`; there are: {}", parts.join(", ")))
    }
}

/// A part that is not a phase.
#[derive(Debug)]
pub(crate) struct Extra {
    pub(crate) part: &'static str,
    /// For a person.
    pub(crate) line: String,
    /// For a program.
    pub(crate) figures: Value,
    pub(crate) good: bool,
}

/// The soak `name`: all of its phases, and then what `extra` measures; `smoke` alone, where the tests that are not ignored run. It
/// also is its own worker.
pub(crate) fn main<B: Blow>(
    name: &'static str,
    phases: &[Phase<B>],
    smoke: Option<&Phase<B>>,
    others: &[&str],
    extra: impl AsyncFn(&Settings, &Path, &Bar) -> Result<Option<Extra>>,
) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if arguments.first().is_some_and(|first| first == "worker") {
        runtime.block_on(worker::perform(&arguments[1..])).unwrap();
        return ExitCode::SUCCESS;
    }
    stop::listen();
    let performed = async {
        if !arguments.iter().any(|argument| argument == "--include-ignored") {
            println!("LEFT OUT: a soak; run it with `cargo xtask soak {name}`");
            let Some(smoke) = smoke else { return Ok(true) };
            return perform(&Settings::of_smoke(name), std::slice::from_ref(smoke), async |_, _, _| Ok(None)).await;
        }
        let settings = Settings::read(name)?;
        let parts: Vec<&str> = phases.iter().map(|phase| phase.name).chain(others.iter().copied()).collect();
        settings.check(&parts)?;
        perform(&settings, phases, extra).await
    };
    match runtime.block_on(performed) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn perform<B: Blow>(
    settings: &Settings,
    phases: &[Phase<B>],
    extra: impl AsyncFn(&Settings, &Path, &Bar) -> Result<Option<Extra>>,
) -> Result<bool> {
    let home = tempfile::tempdir()?;
    let bar = Bar::new();
    bar.say(&format!("soak {}: seed {}, scale {}", settings.name, settings.seed, settings.scale));
    let mut all: Vec<Figures<B>> = Vec::new();
    for phase in phases.iter().filter(|phase| settings.wants(phase.name)) {
        if stop::asked() {
            break;
        }
        let figures = phase.perform(settings.scale, settings.seed, home.path(), &bar).await?;
        bar.say(&format!("{}: {:.0} s", phase.name, figures.took.as_secs_f64()));
        for line in show::complaints(&figures) {
            bar.say(&line);
        }
        all.push(figures);
    }
    let extra = if stop::asked() { None } else { extra(settings, home.path(), &bar).await? };
    drop(bar);
    if settings.json {
        println!("{}", show::json(settings, &all, extra.as_ref()));
    } else {
        print!("{}", show::table(&all));
        extra.iter().for_each(|extra| println!("{}", extra.line));
    }
    let good = all.iter().all(|figures| figures.is_good() || !figures.phase.judged);
    let good = good && extra.is_none_or(|extra| extra.good);
    if !good && !stop::asked() {
        eprintln!("what the workers wrote is kept in {}", home.keep().display());
    }
    Ok(good)
}
