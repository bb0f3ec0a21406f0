//! A broker as a process of this machine.

use std::{
    fs::{self, File},
    net::TcpListener,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    catalogue::{Broker, Kit},
    process,
    state::{Home, How, Process, Running},
};
use crate::interrupt;

/// A free port may be taken by somebody else before the broker binds it.
const TRIES: usize = 3;

/// Where the program is.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&folders).map(|folder| folder.join(program)).find(|path| path.is_file());
    // Debian keeps some servers where a user's path does not reach.
    found.or_else(|| Some(Path::new("/usr/sbin").join(program)).filter(|path| path.is_file()))
}

/// Starts it on a free port with empty data and waits until it answers. It lives on when this process ends.
pub(crate) fn start(broker: &Broker, kit: &dyn Kit, home: &Home) -> Result<Running> {
    kit.prepare(home.folder())?;
    let mut last = None;
    for _ in 0..TRIES {
        match start_once(broker, kit, home) {
            Ok(running) => return Ok(running),
            Err(error) if error.is::<interrupt::Interrupted>() => return Err(error),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| anyhow::anyhow!("it was not tried")))
}

fn start_once(broker: &Broker, kit: &dyn Kit, home: &Home) -> Result<Running> {
    let folder = home.data(broker.name);
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("{} cannot be emptied", folder.display()))?;
    }
    fs::create_dir_all(&folder)?;
    let log = home.folder().join(format!("{}.log", broker.name));
    let output = File::create(&log)?;
    let ports = free_ports(kit.ports())?;
    let mut children = Children::default();
    let up = children.start(kit.commands(&folder, &ports)?, &folder, &output).and_then(|processes| {
        await_answer(kit, &folder, &ports, &mut children)?;
        Ok(processes)
    });
    match up {
        Ok(processes) => {
            children.0.clear();
            Ok(Running { url: kit.url(&ports), ports, how: How::Native { processes } })
        }
        Err(error) => {
            drop(children);
            let said = fs::read_to_string(&log).unwrap_or_default();
            let said = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing").to_owned();
            Err(error.context(format!("its log {} ends in: {said}", log.display())))
        }
    }
}

/// Processes that were started and are not yet all of a broker that is up; dropping them kills them.
#[derive(Debug, Default)]
struct Children(Vec<Child>);

impl Children {
    fn start(&mut self, commands: Vec<Command>, folder: &Path, output: &File) -> Result<Vec<Process>> {
        let mut processes = Vec::new();
        for mut command in commands {
            command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output.try_clone()?);
            // Out of this process's group: Ctrl-C on the tests must leave it to us to take it down.
            command.process_group(0).current_dir(folder);
            let child =
                command.spawn().with_context(|| format!("`{}` cannot be started", crate::run::line(&command)))?;
            let pid = i32::try_from(child.id()).context("a process id beyond 31 bits")?;
            self.0.push(child);
            processes.push(Process { pid, born: process::born(pid).context("it ended at once")? });
        }
        Ok(processes)
    }

    fn all_run(&mut self) -> Result<()> {
        for child in &mut self.0 {
            if let Some(status) = child.try_wait()? {
                bail!("it ended at once ({status})");
            }
        }
        Ok(())
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // Ours, and not yet waited for: the id cannot have passed to another.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn await_answer(kit: &dyn Kit, home: &Path, ports: &[u16], children: &mut Children) -> Result<()> {
    let start = Instant::now();
    let mut formed = false;
    loop {
        interrupt::check()?;
        children.all_run()?;
        let answer = if formed { kit.ping(ports) } else { kit.form(home, ports) };
        match answer {
            Ok(()) if !formed => formed = true,
            // Somebody else may answer on that port while ours fails to bind it.
            Ok(()) => return children.all_run().context("another process answers on one of its ports"),
            Err(error) if start.elapsed() > kit.patience() => {
                return Err(error.context(format!("no answer after {:?}", kit.patience())));
            }
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Different ones: each is held until all are found.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let held: std::io::Result<Vec<TcpListener>> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    held.and_then(|held| held.iter().map(|one| Ok(one.local_addr()?.port())).collect()).context("no free port")
}

#[cfg(test)]
mod tests {
    use super::*;
    /// A broker that a shell plays.
    #[derive(Debug)]
    struct Played {
        scripts: &'static [&'static str],
        answers: bool,
    }

    impl Kit for Played {
        fn program(&self) -> &'static str {
            "sh"
        }
        fn packages(&self) -> &'static [&'static str] {
            &[]
        }
        fn service(&self) -> Option<(&'static str, u16)> {
            Some(("played", 1))
        }
        fn commands(&self, _: &Path, _: &[u16]) -> Result<Vec<Command>> {
            let script = |script| {
                let mut command = Command::new("sh");
                command.args(["-c", script]);
                command
            };
            Ok(self.scripts.iter().map(|one| script(one)).collect())
        }
        fn url(&self, ports: &[u16]) -> String {
            format!("played://127.0.0.1:{}", ports[0])
        }
        fn ping(&self, _: &[u16]) -> Result<()> {
            if self.answers { Ok(()) } else { bail!("silence") }
        }
        fn patience(&self) -> Duration {
            Duration::from_millis(200)
        }
    }

    const BROKER: Broker = Broker {
        name: "played",
        provider: "queue-played",
        url_var: "X",
        kit: None,
        in_place_of: None,
        shape_of: None,
        in_tests: true,
    };

    fn home() -> (tempfile::TempDir, Home) {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().join(".brokers"));
        (folder, home)
    }

    #[test]
    fn one_that_answers_is_up_until_it_is_stopped() {
        let (_folder, home) = home();
        let old = home.data("played").join("left over");
        fs::create_dir_all(&old).unwrap();
        let running =
            start(&BROKER, &Played { scripts: &["exec sleep 60", "exec sleep 61"], answers: true }, &home).unwrap();
        assert!(!old.exists(), "data of an earlier run would leak into the tests");
        let How::Native { processes } = running.how else { panic!("native") };
        assert_eq!(processes.len(), 2);
        for Process { pid, born } in processes {
            assert!(process::lives(pid, &born));
            assert!(process::stop(pid, &born).unwrap());
        }
    }

    #[test]
    fn one_that_ends_tells_its_last_word() {
        let (_folder, home) = home();
        let kit = Played { scripts: &["echo wrong option >&2; sleep 0.1; exit 1"], answers: false };
        let error = format!("{:#}", start(&BROKER, &kit, &home).unwrap_err());
        assert!(error.contains("ended at once") && error.contains("wrong option"), "{error}");
    }

    #[test]
    fn one_that_never_answers_is_stopped() {
        let (folder, home) = home();
        let kit = Played { scripts: &["echo $$ > ../pid; exec sleep 60"], answers: false };
        let error = format!("{:#}", start(&BROKER, &kit, &home).unwrap_err());
        assert!(error.contains("no answer"), "{error}");
        let pid = fs::read_to_string(folder.path().join(".brokers/pid")).unwrap();
        assert_eq!(process::born(pid.trim().parse().unwrap()), None);
    }
    #[test]
    fn where_one_of_several_ends_all_do() {
        let (folder, home) = home();
        let kit = Played { scripts: &["echo $$ > ../pid; exec sleep 60", "sleep 0.1; exit 7"], answers: false };
        let error = format!("{:#}", start(&BROKER, &kit, &home).unwrap_err());
        assert!(error.contains("exit status: 7"), "{error}");
        let pid = fs::read_to_string(folder.path().join(".brokers/pid")).unwrap();
        assert_eq!(process::born(pid.trim().parse().unwrap()), None);
    }
}
