//! A RabbitMQ that belongs to one test, which may do with it what it likes: one node, or a cluster.
#![allow(clippy::disallowed_methods, reason = "real processes live in real time")]
#![allow(dead_code, reason = "each test uses a part of it")]

use std::{
    fs, io,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::{fs::OpenOptionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// The machine may be busy with other tests.
const BOOT: Duration = Duration::from_secs(90);

/// Nodes with a name server of their own, all gone with it.
#[derive(Debug)]
pub(crate) struct Server {
    home: tempfile::TempDir,
    names: u16,
    name_server: Child,
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    port: u16,
    fellow: u16,
    child: Child,
}

pub(crate) fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    // Different ones: each is held until all are found.
    let held: io::Result<Vec<TcpListener>> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    held?.iter().map(|one| Ok(one.local_addr()?.port())).collect()
}

/// Where the programs of another RabbitMQ than this machine's are.
const PROGRAMS: &str = "QUEUE_TEST_RABBITMQ_PROGRAMS";

/// One of RabbitMQ's programs: of the one that was asked for, else of Debian's behind its wrapper, which insists on a user and on
/// folders of its own, else the one on the path.
fn program(name: &str) -> PathBuf {
    let asked = std::env::var_os(PROGRAMS).filter(|folder| !folder.is_empty());
    let folder = asked.map_or_else(|| PathBuf::from("/usr/lib/rabbitmq/bin"), PathBuf::from);
    let found = folder.join(name);
    if found.is_file() { found } else { name.into() }
}

/// Whether there is one to start; where one is required, it is a failure if not.
pub(crate) fn is_installed() -> bool {
    let on_path = |program: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    };
    let installed = program("rabbitmq-server").is_file() || on_path("rabbitmq-server");
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
        Self::try_start_nodes(1)
    }

    /// With more lines in its configuration.
    pub(crate) fn start_with(lines: &str) -> Self {
        Self::try_start_as(1, lines).unwrap()
    }

    /// So many nodes, each with its share of the votes of a quorum queue.
    pub(crate) fn try_start_nodes(count: usize) -> io::Result<Self> {
        Self::try_start_as(count, "")
    }

    fn try_start_as(count: usize, lines: &str) -> io::Result<Self> {
        let home = tempfile::tempdir()?;
        let ports = free_ports(2 * count + 1)?;
        let (clients, rest) = ports.split_at(count);
        let (fellows, names) = (&rest[..count], rest[count]);
        write_cookie(home.path())?;
        let mut command = Command::new(program("epmd"));
        command.args(["-port", &names.to_string(), "-address", "127.0.0.1"]).env("HOME", home.path());
        let name_server = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut server = Self { home, names, name_server, nodes: Vec::new() };
        for (&port, &fellow) in clients.iter().zip(fellows) {
            let folder = server.home.path().join(port.to_string());
            fs::create_dir_all(&folder)?;
            fs::write(folder.join("enabled_plugins"), "[].\n")?;
            fs::write(folder.join("rabbitmq.conf"), configuration(clients) + lines)?;
            let child = spawn(server.home.path(), port, fellow, names)?;
            server.nodes.push(Node { port, fellow, child });
        }
        (0..count).try_for_each(|node| server.await_node(node))?;
        if count > 1 {
            // A node listens when it has joined, or when it has given up finding the others: it would be alone then.
            server.try_ctl(&["await_online_nodes", &count.to_string(), "--timeout", "30"])?;
        }
        Ok(server)
    }

    pub(crate) fn url(&self) -> String {
        let hosts: Vec<String> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("amqp://guest:guest@{}/%2f", hosts.join(","))
    }

    pub(crate) fn port(&self) -> u16 {
        self.nodes[0].port
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.kill_node(0).unwrap();
    }

    pub(crate) fn kill_node(&mut self, node: usize) -> io::Result<()> {
        let child = &mut self.nodes[node].child;
        child.kill()?;
        child.wait().map(drop)
    }

    /// Starts a killed one again on the same data, without waiting until it answers.
    pub(crate) fn begin(&mut self) {
        self.begin_node(0).unwrap();
    }

    pub(crate) fn begin_node(&mut self, node: usize) -> io::Result<()> {
        let node = &mut self.nodes[node];
        node.child = spawn(self.home.path(), node.port, node.fellow, self.names)?;
        Ok(())
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
        let id = self.nodes[0].child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// Asks the node through RabbitMQ's own tool, which takes about a second.
    pub(crate) fn ctl(&self, words: &[&str]) -> String {
        self.try_ctl(words).unwrap()
    }

    pub(crate) fn try_ctl(&self, words: &[&str]) -> io::Result<String> {
        let mut command = Command::new(program("rabbitmqctl"));
        command.args(["--quiet", "--node", &name(self.port())]).args(words);
        command.env("HOME", self.home.path()).env("ERL_EPMD_PORT", self.names.to_string());
        let output = command.stdin(Stdio::null()).output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(io::Error::other(format!("{words:?}: {}", String::from_utf8_lossy(&output.stderr))))
    }

    /// Of the node, all its threads together.
    pub(crate) fn processor_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.nodes[0].child.id())).unwrap();
        // The second field, the name, may hold blanks and brackets; the times are the 14th and 15th, in hundredths of a second.
        let (_, after_name) = stat.rsplit_once(')').unwrap();
        let ticks = |field: usize| after_name.split_whitespace().nth(field - 3).unwrap().parse::<u64>().unwrap();
        Duration::from_millis((ticks(14) + ticks(15)) * 10)
    }

    pub(crate) fn await_answer(&self) -> io::Result<()> {
        self.await_node(0)
    }

    pub(crate) fn await_node(&self, node: usize) -> io::Result<()> {
        let (start, port) = (Instant::now(), self.nodes[node].port);
        loop {
            match greet(port) {
                Ok(()) => return Ok(()),
                Err(error) if start.elapsed() > BOOT => {
                    let log = self.home.path().join(port.to_string()).join("output");
                    let log = fs::read_to_string(log).unwrap_or_default();
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
        for child in self.nodes.iter_mut().map(|node| &mut node.child).chain([&mut self.name_server]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn name(port: u16) -> String {
    format!("queue-{port}@localhost")
}

/// Nodes make it up at their first start, each its own where several start at once.
fn write_cookie(home: &Path) -> io::Result<()> {
    let mut random = [0_u8; 16];
    fs::File::open("/dev/urandom")?.read_exact(&mut random)?;
    let cookie: String = random.iter().map(|byte| format!("{byte:02X}")).collect();
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o400).open(home.join(".erlang.cookie"))?;
    file.write_all(cookie.as_bytes())
}

/// Nodes that know each other join at their first start. A fellow that is gone for a few seconds is down.
fn configuration(all: &[u16]) -> String {
    let mut lines = String::from("log.console = true\n");
    if all.len() > 1 {
        lines += "cluster_formation.peer_discovery_backend = classic_config\nnet_ticktime = 5\n";
        for (index, port) in all.iter().enumerate() {
            lines += &format!("cluster_formation.classic_config.nodes.{} = {}\n", index + 1, name(*port));
        }
    }
    lines
}

fn spawn(home: &Path, port: u16, fellow: u16, names: u16) -> io::Result<Child> {
    let folder = home.join(port.to_string());
    let output = fs::OpenOptions::new().append(true).create(true).open(folder.join("output"))?;
    let mut command = Command::new(program("rabbitmq-server"));
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
        command.env(variable, folder.join(inside));
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
