//! Where a broker comes from: as given, as already up, by Docker Compose, natively, in this order.

use anyhow::{Context as _, Result, bail};

use super::{
    Options,
    catalogue::{Broker, Kit, find},
    compose::Docker,
    debian, native, process,
    state::{Home, How, Process, Running},
};
use crate::interrupt::Interrupted;

/// A broker that is there.
#[derive(Debug, PartialEq)]
pub(crate) enum Had {
    /// By URL from outside: not ours.
    Given(String),
    /// Started here earlier, by `brokers up`.
    Up(String),
    /// Started now.
    Started(String),
}

impl Had {
    pub(crate) fn url(&self) -> &str {
        match self {
            Self::Given(url) | Self::Up(url) | Self::Started(url) => url,
        }
    }

    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Given(_) => "as given",
            Self::Up(_) => "was up",
            Self::Started(_) => "started",
        }
    }
}

/// Gets brokers. Whoever uses it holds the home's lock.
#[derive(Debug)]
pub(crate) struct Supply {
    home: Home,
    docker: Docker,
    install: bool,
}

impl Supply {
    pub(crate) fn new(home: Home, options: Options) -> Self {
        Self { home, docker: Docker::on_path(), install: options.install }
    }

    /// A broker, or an error that names it, every way that was tried, and what helps.
    pub(crate) fn have(&self, broker: &Broker) -> Result<Had> {
        if let Some(url) = given(broker) {
            return Ok(Had::Given(url));
        }
        if let Some(running) = self.home.load()?.brokers.get(broker.name) {
            if is_alive(broker, running) {
                return Ok(Had::Up(running.url.clone()));
            }
            eprintln!("{}: what was started earlier is gone; starting another", broker.name);
            take_down(&self.home, broker.name)?;
        }
        let Some(kit) = broker.kit else {
            bail!("{}: this tool cannot start it yet; export {}=… to use one that runs", broker.name, broker.url_var);
        };
        let running = self.start(broker, kit)?;
        let url = running.url.clone();
        self.home.change(|state| drop(state.brokers.insert(broker.name.to_owned(), running)))?;
        Ok(Had::Started(url))
    }

    fn start(&self, broker: &Broker, kit: &dyn Kit) -> Result<Running> {
        let docker = match self.docker.answers().and_then(|()| self.docker.up(broker.name, kit, self.home.folder())) {
            Ok(running) => return Ok(running),
            Err(error) if error.is::<Interrupted>() => return Err(error),
            Err(error) => error,
        };
        eprintln!("{}: not by Docker ({docker:#}); trying natively", broker.name);
        let native = match self.program(kit).and_then(|()| native::start(broker, kit, &self.home)) {
            Ok(running) => return Ok(running),
            Err(error) if error.is::<Interrupted>() => return Err(error),
            Err(error) => error,
        };
        bail!(
            "{name} CANNOT BE HAD\n    by Docker: {docker:#}\n    natively:  {native:#}\n  \
             any one of these helps:\n    export {var}=…  (one that runs; it is used as it is)\n    \
             start a Docker engine that can pull images\n    \
             apt-get install {packages}  (or, as root: cargo xtask brokers up {name} --install)",
            name = broker.name,
            var = broker.url_var,
            packages = kit.packages().join(" "),
        )
    }

    fn program(&self, kit: &dyn Kit) -> Result<()> {
        let program = kit.program();
        if native::on_path(program).is_some() {
            return Ok(());
        }
        if self.install {
            debian::install(kit.packages())?;
        }
        native::on_path(program).map(drop).with_context(|| format!("`{program}` is not on the path"))
    }
}

/// The URL from outside, if there is one.
pub(crate) fn given(broker: &Broker) -> Option<String> {
    std::env::var(broker.url_var).ok().filter(|url| !url.trim().is_empty())
}

/// Whether what was started is still that, and answers.
pub(crate) fn is_alive(broker: &Broker, running: &Running) -> bool {
    let ours = match &running.how {
        How::Native { processes } => processes.iter().all(|one| process::lives(one.pid, &one.born)),
        How::Compose { .. } => true,
    };
    ours && broker.kit.is_some_and(|kit| kit.ping(&running.ports).is_ok())
}

/// Stops what was started under this name and forgets it. `false`: it was gone already.
pub(crate) fn take_down(home: &Home, name: &str) -> Result<bool> {
    let Some(running) = home.load()?.brokers.remove(name) else { return Ok(false) };
    let was_there = match &running.how {
        How::Native { processes } => stop_all(processes)?,
        How::Compose { project } => {
            let there = find(name).is_ok_and(|broker| is_alive(broker, &running));
            Docker::on_path().down(project)?;
            there
        }
    };
    home.change(|state| drop(state.brokers.remove(name)))?;
    Ok(was_there)
}

/// In the order in which they were started reversed: who watches goes before what it watches. Says whether all were there.
fn stop_all(processes: &[Process]) -> Result<bool> {
    let mut stopped = Ok(true);
    for one in processes.iter().rev() {
        // The others are stopped even where one cannot be.
        stopped = match (process::stop(one.pid, &one.born), stopped) {
            (Ok(was_there), Ok(all)) => Ok(was_there && all),
            (Err(error), _) | (_, Err(error)) => Err(error),
        };
    }
    stopped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brokers::compose::tests::{CANNOT_PULL, played};
    use std::{path::Path, process::Command};

    #[derive(Debug)]
    struct Sleeper {
        program: &'static str,
    }

    impl Kit for Sleeper {
        fn program(&self) -> &'static str {
            self.program
        }
        fn packages(&self) -> &'static [&'static str] {
            &["sleeper-server"]
        }
        fn service(&self) -> Option<(&'static str, u16)> {
            Some(("sleeper", 1))
        }
        fn commands(&self, _: &Path, _: &[u16]) -> Result<Vec<Command>> {
            let mut command = Command::new(self.program);
            command.arg("60");
            Ok(vec![command])
        }
        fn url(&self, ports: &[u16]) -> String {
            format!("sleeper://127.0.0.1:{}", ports[0])
        }
        fn ping(&self, _: &[u16]) -> Result<()> {
            Ok(())
        }
    }

    fn broker(kit: &'static Sleeper) -> Broker {
        Broker {
            name: "sleeper",
            provider: "queue-sleeper",
            url_var: "QUEUE_TEST_SLEEPER_URL",
            kit: Some(kit),
            in_place_of: None,
            shape_of: None,
            in_tests: true,
        }
    }

    fn supply(folder: &Path, docker: &str) -> Supply {
        let home = Home::at(folder.join(".brokers"));
        drop(home.lock().unwrap());
        Supply { home, docker: played(folder, docker), install: false }
    }

    #[test]
    fn a_docker_that_cannot_pull_falls_back_to_native_and_the_second_call_finds_it_up() {
        let folder = tempfile::tempdir().unwrap();
        let supply = supply(folder.path(), CANNOT_PULL);
        let broker = broker(&Sleeper { program: "sleep" });

        let Had::Started(url) = supply.have(&broker).unwrap() else { panic!("started") };
        assert_eq!(supply.have(&broker).unwrap(), Had::Up(url));

        let How::Native { processes } = supply.home.load().unwrap().brokers["sleeper"].how.clone() else {
            panic!("native")
        };
        let [Process { pid, born }] = &processes[..] else { panic!("{processes:?}") };
        assert!(take_down(&supply.home, "sleeper").unwrap());
        assert!(!process::lives(*pid, born));
        assert!(!take_down(&supply.home, "sleeper").unwrap());
    }

    #[test]
    fn a_stale_process_is_replaced_and_whoever_has_its_id_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let supply = supply(folder.path(), "exit 1");
        let broker = broker(&Sleeper { program: "sleep" });
        let me = i32::try_from(std::process::id()).unwrap();
        let stale = Running {
            url: "x".into(),
            ports: vec![1],
            how: How::Native { processes: vec![Process { pid: me, born: "an earlier boot".into() }] },
        };
        supply.home.change(|state| drop(state.brokers.insert("sleeper".into(), stale))).unwrap();

        assert!(matches!(supply.have(&broker).unwrap(), Had::Started(_)));
        assert!(take_down(&supply.home, "sleeper").unwrap());
    }

    #[test]
    fn one_that_cannot_be_had_says_what_helps() {
        let folder = tempfile::tempdir().unwrap();
        let supply = supply(folder.path(), "echo no daemon >&2; exit 1");
        let error = supply.have(&broker(&Sleeper { program: "no-such-server" })).unwrap_err().to_string();
        for part in ["sleeper CANNOT BE HAD", "no daemon", "`no-such-server` is not on the path"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        for help in ["QUEUE_TEST_SLEEPER_URL", "apt-get install sleeper-server", "Docker engine"] {
            assert!(error.contains(help), "{help}: {error}");
        }
        assert!(supply.home.load().unwrap().brokers.is_empty());
    }
}
