//! Real brokers for the tests: had by URL, by Docker Compose, or natively, and taken down by whoever started them.

mod address;
mod catalogue;
mod compose;
mod debian;
mod native;
mod process;
mod rabbitmq;
mod redis;
mod session;
mod state;
mod supply;

pub(crate) use catalogue::{Broker, find};
pub(crate) use session::Session;

use anyhow::Result;

use crate::workspace::Workspace;
use state::{Home, How, Running};
use supply::Supply;

/// How brokers may be had.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Options {
    /// Install what is missing: Debian packages (only as root), Cargo tools.
    #[arg(long)]
    pub(crate) install: bool,
}

/// Real brokers for the tests and for trying things out.
///
/// A broker is had from its URL variable where that is set (and then left alone), else by Docker Compose where an engine
/// answers and can pull, else natively. State and data stand in .brokers/ of the workspace; `down` and `status` work from
/// any shell, and only what was started here is ever stopped.
#[derive(Debug, clap::Subcommand)]
#[command(
    after_help = "Brokers: redis, redis-sentinel, redis-cluster, rabbitmq, rabbitmq-cluster, rabbitmq-trixie, rabbitmq-forky (4.x), kafka, sqs. Without a name: those that the tests need.\n\nExamples:\n  \
    cargo xtask brokers up                       what the tests need, to stay up between test runs\n  \
    cargo xtask brokers up redis --install       as root, installs redis-server where it is missing\n  \
    eval \"$(cargo xtask brokers up redis)\"       and exports its URL to this shell\n  \
    cargo xtask brokers up rabbitmq-trixie       RabbitMQ 4.0 of Debian's trixie, unpacked beside the machine's (root only)\n  \
    cargo xtask brokers status\n  \
    cargo xtask brokers down"
)]
pub(crate) enum Command {
    /// Bring brokers up and print their URLs as `export` lines.
    Up {
        /// Which; those that the tests need if none is named.
        names: Vec<String>,
        #[command(flatten)]
        options: Options,
    },
    /// Take down what `up` started.
    Down {
        /// Which; all if none is named.
        names: Vec<String>,
    },
    /// Tell which brokers there are, which are up and where, and which variable names another one.
    Status {
        /// Which; all if none is named.
        names: Vec<String>,
    },
}

pub(crate) fn perform(command: Command) -> Result<()> {
    let workspace = Workspace::load()?;
    let home = Home::of(&workspace);
    match command {
        Command::Up { names, options } => up(&workspace, home, &names, options),
        Command::Down { names } => down(&home, &names),
        Command::Status { names } => status(&workspace, &home, &names),
    }
}

fn up(workspace: &Workspace, home: Home, names: &[String], options: Options) -> Result<()> {
    let brokers = if names.is_empty() { Session::needed(workspace) } else { chosen(names)? };
    if brokers.is_empty() {
        eprintln!("No provider crate needs a broker yet. `cargo xtask brokers up NAME` starts one all the same.");
        return Ok(());
    }
    let _held = home.lock()?;
    let folder = home.folder().to_owned();
    let supply = Supply::new(home, options);
    let mut missing = Vec::new();
    for broker in brokers {
        match supply.have(broker) {
            Ok(had) => {
                eprintln!("{}: {} ({})", broker.name, address::without_password(had.url()), had.word());
                for (variable, value) in broker.variables(had.url(), &folder) {
                    println!("export {variable}='{value}'");
                }
            }
            Err(error) if error.is::<crate::interrupt::Interrupted>() => return Err(error),
            Err(error) => {
                eprintln!("{error:#}");
                missing.push(broker.name);
            }
        }
    }
    anyhow::ensure!(missing.is_empty(), "cannot be had: {}", missing.join(", "));
    Ok(())
}

fn down(home: &Home, names: &[String]) -> Result<()> {
    chosen(names)?;
    let _held = home.lock()?;
    let up = home.load()?.brokers;
    let meant = |name: &String| names.is_empty() || names.contains(name);
    let going: Vec<String> = up.into_keys().filter(meant).collect();
    if going.is_empty() {
        eprintln!("nothing to take down: nothing was started here");
    }
    for name in going {
        let word = if supply::take_down(home, &name)? { "taken down" } else { "was gone already" };
        eprintln!("{name}: {word}");
    }
    Ok(())
}

fn status(workspace: &Workspace, home: &Home, names: &[String]) -> Result<()> {
    let state = home.load()?;
    for broker in if names.is_empty() { catalogue::ALL.iter().collect() } else { chosen(names)? } {
        let need = if workspace.has(broker.provider) { "needed by" } else { "not needed before" };
        let place = match (supply::given(broker), state.brokers.get(broker.name)) {
            (Some(url), _) => format!("{} (given by {})", address::without_password(&url), broker.url_var),
            (None, Some(running)) => format!("{} ({})", running.url, life(broker, running)),
            (None, None) => "down".to_owned(),
        };
        println!(
            "{:<16} {place}\n                 {need} {}; another: {}=…",
            broker.name, broker.provider, broker.url_var
        );
    }
    Ok(())
}

fn life(broker: &Broker, running: &Running) -> String {
    let alive = supply::is_alive(broker, running);
    match &running.how {
        How::Native { processes } => {
            let pids: Vec<String> = processes.iter().map(|one| one.pid.to_string()).collect();
            let (plural, pids) = (if pids.len() == 1 { "" } else { "s" }, pids.join(", "));
            match alive {
                true => format!("native, pid{plural} {pids}"),
                false => format!("gone: pid{plural} {pids} no longer ours, or silent; `down` forgets it"),
            }
        }
        How::Compose { project } if alive => format!("Docker Compose project {project}"),
        How::Compose { project } => format!("Docker Compose project {project}, does not answer"),
    }
}

fn chosen(names: &[String]) -> Result<Vec<&'static Broker>> {
    names.iter().map(|name| find(name)).collect()
}
