//! A broker as a container, where a Docker engine answers and can pull its image.

use std::{
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    catalogue::Kit,
    state::{How, Running},
};
use crate::{interrupt, run};

const ASK: Duration = Duration::from_secs(15);
/// Pulling included.
const UP: Duration = Duration::from_secs(300);
const DOWN: Duration = Duration::from_secs(60);

/// The `docker` program.
#[derive(Debug)]
pub(crate) struct Docker {
    words: Vec<String>,
}

impl Docker {
    pub(crate) fn on_path() -> Self {
        Self { words: vec!["docker".into()] }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).args(words);
        command
    }

    fn ask(&self, words: &[&str]) -> Result<String> {
        let said = run::captured(&mut self.command(words), ASK)?;
        if said.status.success() { Ok(said.stdout) } else { bail!("{}", said.last_line()) }
    }

    /// An error that says what is missing unless an engine answers and Compose is there.
    pub(crate) fn answers(&self) -> Result<()> {
        self.ask(&["version", "--format", "{{.Server.Version}}"]).context("no Docker engine answers")?;
        self.ask(&["compose", "version"]).map(drop).context("Docker has no `compose`")
    }

    /// Starts a broker's service and waits until it answers. What half started is taken away again.
    pub(crate) fn up(&self, broker: &str, kit: &dyn Kit, folder: &Path) -> Result<Running> {
        let (service, inner) = kit.service().context("its processes run natively only")?;
        let project = project(folder, broker);
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/compose.yaml");
        let compose = |words: &[&str]| {
            self.command(&[["compose", "--project-name", &project, "--file", file].as_slice(), words].concat())
        };
        let start = || -> Result<u16> {
            let said = run::captured(&mut compose(&["up", "--detach", "--quiet-pull", service]), UP)?;
            if !said.status.success() {
                bail!("it cannot be started: {}", said.last_line());
            }
            let said = run::captured(&mut compose(&["port", service, &inner.to_string()]), ASK)?;
            let port = outer_port(&said.stdout).with_context(|| format!("it has no port: {}", said.last_line()))?;
            await_answer(kit, port)?;
            Ok(port)
        };
        match start() {
            Ok(port) => Ok(Running { url: kit.url(&[port]), ports: vec![port], how: How::Compose { project } }),
            Err(error) => {
                let _ = self.down(&project);
                Err(error)
            }
        }
    }

    /// Takes a project away with its data.
    pub(crate) fn down(&self, project: &str) -> Result<()> {
        let mut command = self.command(&["compose", "--project-name", project, "down", "--volumes", "--timeout", "5"]);
        let said = run::captured_to_the_end(&mut command, DOWN)?;
        if said.status.success() { Ok(()) } else { bail!("`docker compose down` failed: {}", said.last_line()) }
    }
}

/// One a workspace and broker, so that two clones on a machine do not meet.
fn project(folder: &Path, broker: &str) -> String {
    let hash =
        folder.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    format!("queue-{broker}-{:08x}", hash >> 32)
}

/// From `127.0.0.1:49153`.
fn outer_port(said: &str) -> Option<u16> {
    said.trim().rsplit_once(':')?.1.parse().ok()
}

fn await_answer(kit: &dyn Kit, port: u16) -> Result<()> {
    let start = Instant::now();
    loop {
        interrupt::check()?;
        match kit.ping(&[port]) {
            Ok(()) => return Ok(()),
            Err(error) if start.elapsed() > kit.patience() => return Err(error.context("it does not answer")),
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::brokers::redis::Redis;
    use std::{fs, io::Write as _, net::TcpListener};

    /// A `docker` that a shell script plays; what it was asked stands in the file `asked` beside it.
    pub(crate) fn played(folder: &Path, script: &str) -> Docker {
        let path = folder.join("docker");
        let log = folder.join("asked");
        fs::write(&path, format!("echo \"$@\" >> '{}'\n{script}", log.display())).unwrap();
        Docker { words: vec!["sh".into(), path.to_str().unwrap().into()] }
    }

    pub(crate) const CANNOT_PULL: &str = "case \"$*\" in *' up '*) echo 'pull access denied' >&2; exit 1;; esac";

    #[test]
    fn no_engine_and_no_compose_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let error = format!("{:#}", played(folder.path(), "echo no daemon >&2; exit 1").answers().unwrap_err());
        assert_eq!(error, "no Docker engine answers: no daemon");
        let script = "[ \"$1\" = version ] || { echo unknown command >&2; exit 1; }";
        let error = format!("{:#}", played(folder.path(), script).answers().unwrap_err());
        assert_eq!(error, "Docker has no `compose`: unknown command");
        assert!(played(folder.path(), "exit 0").answers().is_ok());
        assert!(Docker { words: vec!["no-such-docker".into()] }.answers().is_err());
    }

    #[test]
    fn one_that_cannot_pull_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let docker = played(folder.path(), CANNOT_PULL);
        let error = docker.up("redis", &Redis, Path::new("/w")).unwrap_err();
        assert_eq!(error.to_string(), "it cannot be started: pull access denied");
        let asked = fs::read_to_string(folder.path().join("asked")).unwrap();
        assert!(asked.lines().last().unwrap().contains(" down "), "{asked}");
    }

    #[test]
    fn one_that_answers_is_found_at_its_port() {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || listener.accept().unwrap().0.write_all(b"+PONG\r\n").unwrap());
        let script = format!("case \"$*\" in *' port redis 6379') echo 127.0.0.1:{port};; esac");
        let running = played(folder.path(), &script).up("redis", &Redis, Path::new("/w")).unwrap();
        assert_eq!((running.ports, running.url), (vec![port], format!("redis://127.0.0.1:{port}/")));
        assert_eq!(running.how, How::Compose { project: project(Path::new("/w"), "redis") });
    }

    #[test]
    fn two_clones_have_two_projects() {
        assert_ne!(project(Path::new("/a"), "redis"), project(Path::new("/b"), "redis"));
        assert_eq!(outer_port("127.0.0.1:49153\n"), Some(49153));
        assert_eq!(outer_port(""), None);
    }
}
