//! A RabbitMQ that belongs to one test, which may do with it what it likes.
#![allow(clippy::disallowed_methods, reason = "real processes live in real time")]
#![allow(dead_code, reason = "each test uses a part of it")]

use std::{
    fs, io,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// The machine may be busy with other tests.
const BOOT: Duration = Duration::from_secs(90);

/// A node with a name server of its own, both gone with it.
#[derive(Debug)]
pub(crate) struct Server {
    home: tempfile::TempDir,
    port: u16,
    fellow: u16,
    names: u16,
    name_server: Child,
    node: Child,
}

fn free_ports<const N: usize>() -> io::Result<[u16; N]> {
    // Different ones: each is held until all are found.
    let held: io::Result<Vec<TcpListener>> = (0..N).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    let held = held?;
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&held) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

/// Debian's script behind its wrapper, which insists on a user and on folders of its own, else the one on the path.
fn script() -> PathBuf {
    let behind = Path::new("/usr/lib/rabbitmq/bin/rabbitmq-server");
    if behind.is_file() { behind.to_owned() } else { "rabbitmq-server".into() }
}

/// Whether there is one to start; where one is required, it is a failure if not.
pub(crate) fn is_installed() -> bool {
    let on_path = |program: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    };
    let installed = script().is_file() || on_path("rabbitmq-server");
    if !installed {
        let required = std::env::var("QUEUE_REQUIRE_BROKERS").is_ok_and(|value| value == "1");
        assert!(!required, "there is no rabbitmq-server to start and stop");
        eprintln!("NOT TESTED: rabbitmq faults: there is no rabbitmq-server to start and stop");
    }
    installed
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::try_start().unwrap()
    }

    pub(crate) fn try_start() -> io::Result<Self> {
        let home = tempfile::tempdir()?;
        let [port, fellow, names] = free_ports()?;
        fs::write(home.path().join("enabled_plugins"), "[].\n")?;
        fs::write(home.path().join("rabbitmq.conf"), "log.console = true\n")?;
        let mut command = Command::new("epmd");
        command.args(["-port", &names.to_string(), "-address", "127.0.0.1"]);
        let name_server = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let node = spawn(home.path(), port, fellow, names)?;
        let server = Self { home, port, fellow, names, name_server, node };
        server.await_answer()?;
        Ok(server)
    }

    pub(crate) fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.node.kill().unwrap();
        self.node.wait().unwrap();
    }

    /// Starts a killed one again on the same data, without waiting until it answers.
    pub(crate) fn begin(&mut self) {
        self.node = spawn(self.home.path(), self.port, self.fellow, self.names).unwrap();
    }

    /// Starts a killed one again on the same data, and waits until it answers.
    pub(crate) fn boot(&mut self) {
        self.begin();
        self.await_answer().unwrap();
    }

    /// It says nothing any more, and breaks no connection.
    pub(crate) fn hang(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn go_on(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let id = self.node.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// Asks the node through RabbitMQ's own tool, which takes about a second.
    pub(crate) fn ctl(&self, words: &[&str]) -> Output {
        let mut command = Command::new(script().with_file_name("rabbitmqctl"));
        command.args(["--node", &name(self.port)]).args(words);
        command.env("HOME", self.home.path()).env("ERL_EPMD_PORT", self.names.to_string());
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// Of the node, all its threads together.
    pub(crate) fn processor_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.node.id())).unwrap();
        // The second field, the name, may hold blanks and brackets; the times are the 14th and 15th, in hundredths of a second.
        let (_, after_name) = stat.rsplit_once(')').unwrap();
        let ticks = |field: usize| after_name.split_whitespace().nth(field - 3).unwrap().parse::<u64>().unwrap();
        Duration::from_millis((ticks(14) + ticks(15)) * 10)
    }

    pub(crate) fn await_answer(&self) -> io::Result<()> {
        let start = Instant::now();
        loop {
            match greet(self.port) {
                Ok(()) => return Ok(()),
                Err(error) if start.elapsed() > BOOT => {
                    let log = fs::read_to_string(self.home.path().join("output")).unwrap_or_default();
                    return Err(io::Error::other(format!("{error}: {log}")));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A stopped one is killed as well.
        for child in [&mut self.node, &mut self.name_server] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn name(port: u16) -> String {
    format!("queue-{port}@localhost")
}

fn spawn(home: &Path, port: u16, fellow: u16, names: u16) -> io::Result<Child> {
    let output = fs::OpenOptions::new().append(true).create(true).open(home.join("output"))?;
    let mut command = Command::new(script());
    command.env("RABBITMQ_NODENAME", name(port)).env("HOME", home);
    command.env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1").env("RABBITMQ_NODE_PORT", port.to_string());
    command.env("RABBITMQ_DIST_PORT", fellow.to_string());
    command.env("ERL_EPMD_PORT", names.to_string()).env("ERL_EPMD_ADDRESS", "127.0.0.1");
    for (variable, inside) in [
        ("RABBITMQ_MNESIA_BASE", "data"),
        ("RABBITMQ_LOG_BASE", "log"),
        ("RABBITMQ_GENERATED_CONFIG_DIR", "config"),
        ("RABBITMQ_SCHEMA_DIR", "schema"),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", "enabled_plugins"),
        ("RABBITMQ_PID_FILE", "pid"),
        ("RABBITMQ_CONFIG_FILE", "rabbitmq.conf"),
        ("RABBITMQ_CONF_ENV_FILE", "none.conf"),
    ] {
        command.env(variable, home.join(inside));
    }
    // The script becomes the node, so that a signal to the process reaches it.
    command.env("RABBITMQ_LOGS", "-").env("RUNNING_UNDER_SYSTEMD", "true").env_remove("NOTIFY_SOCKET");
    let machine = "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none +stbt u +P 262144 +t 5000000 +zdbbl 128000";
    command.env("RABBITMQ_SERVER_ERL_ARGS", machine);
    let kept_in = "-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false";
    command.env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", kept_in);
    // Out of this process's group: Ctrl-C leaves it to the test to end it.
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0).spawn()
}

/// Whether it takes clients: its listener is the last thing that it opens.
fn greet(port: u16) -> io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"AMQP\x00\x00\x09\x01")?;
    let mut answer = [0; 11];
    stream.read_exact(&mut answer)?;
    if answer.ends_with(&[0, 10, 0, 10]) { Ok(()) } else { Err(io::Error::other("not ready")) }
}
