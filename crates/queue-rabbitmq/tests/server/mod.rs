//! A RabbitMQ that belongs to one test, which may do with it what it likes.
#![allow(clippy::disallowed_methods, reason = "real processes live in real time")]

use std::{
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// Debian's, without the wrapper that insists on a user of its own.
const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";

#[derive(Debug)]
pub(crate) struct Server {
    home: tempfile::TempDir,
    port: u16,
    dist_port: u16,
    child: Option<Child>,
}

/// Whether there is one to start; where one is required, it is a failure if not.
pub(crate) fn is_installed() -> bool {
    let installed = Path::new(PROGRAMS).join("rabbitmq-server").exists();
    if !installed {
        let required = std::env::var("QUEUE_REQUIRE_BROKERS").is_ok_and(|value| value == "1");
        assert!(!required, "there is no {PROGRAMS}/rabbitmq-server to start and stop");
        eprintln!("NOT TESTED: rabbitmq faults: there is no {PROGRAMS}/rabbitmq-server to start and stop");
    }
    installed
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    pub(crate) fn start() -> Self {
        let mut server =
            Self { home: tempfile::tempdir().unwrap(), port: free_port(), dist_port: free_port(), child: None };
        std::fs::write(server.home.path().join("plugins"), "[].").unwrap();
        server.boot();
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("amqp://127.0.0.1:{}", self.port)
    }

    fn command(&self, program: &str) -> Command {
        let home = self.home.path();
        let mut command = Command::new(Path::new(PROGRAMS).join(program));
        command
            .env("HOME", home)
            .env("RABBITMQ_NODENAME", self.node())
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_DIST_PORT", self.dist_port.to_string())
            .env("RABBITMQ_MNESIA_BASE", home.join("data"))
            .env("RABBITMQ_LOG_BASE", home.join("log"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", home.join("plugins"))
            .env("RABBITMQ_CONFIG_FILE", home.join("none"))
            .env("RABBITMQ_PID_FILE", home.join("pid"))
            .stdin(Stdio::null());
        command
    }

    fn node(&self) -> String {
        format!("test{}@localhost", self.port)
    }

    /// Starts it, and waits until it answers.
    pub(crate) fn boot(&mut self) {
        let mut command = self.command("rabbitmq-server");
        self.child = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(start.elapsed() < Duration::from_secs(90), "RabbitMQ does not come up");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    pub(crate) fn ctl(&self, words: &[&str]) -> Output {
        let output = self.command("rabbitmqctl").args(["-n", &self.node()]).args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// Ends it as a power cut would. The script's own process ends when the virtual machine has.
    pub(crate) fn kill(&mut self) {
        let pid = std::fs::read_to_string(self.home.path().join("pid")).unwrap_or_default();
        let killed = Command::new("kill").args(["-9", pid.trim()]).status();
        assert!(killed.is_ok_and(|status| status.success()), "no process {pid:?} to kill");
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}
