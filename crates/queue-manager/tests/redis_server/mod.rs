//! A Redis of a test's own, which keeps what it was told when it is killed.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::Duration,
};

pub(crate) struct RedisServer {
    home: tempfile::TempDir,
    port: u16,
    child: Mutex<Child>,
}

impl RedisServer {
    /// `None` where no Redis is installed, which is a failure where one is required.
    pub(crate) async fn start() -> Option<Self> {
        let installed = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_ok();
        if !installed {
            let required = std::env::var("QUEUE_REQUIRE_BROKERS").is_ok_and(|value| value == "1");
            assert!(!required, "there is no redis-server on the path; see `cargo xtask brokers up redis`");
            eprintln!("NOT TESTED: there is no redis-server on the path");
            return None;
        }
        let home = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Mutex::new(spawn(home.path(), port).unwrap());
        let server = Self { home, port, child };
        server.await_answer().await;
        Some(server)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn kill(&self) {
        let mut child = self.child.lock().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// On the same data.
    pub(crate) async fn start_again(&self) {
        *self.child.lock().unwrap() = spawn(self.home.path(), self.port).unwrap();
        self.await_answer().await;
    }

    async fn await_answer(&self) {
        for _ in 0..1_000 {
            if answers(self.port).is_ok_and(|answers| answers) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("redis-server does not answer");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap();
        // It may be gone already.
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn spawn(home: &Path, port: u16) -> std::io::Result<Child> {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--daemonize", "no", "--save", ""]);
    command.args(["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction", "--dir"]);
    command.arg(home).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}

fn answers(port: u16) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"PING\r\n")?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer)?;
    Ok(&answer == b"+PONG\r\n")
}
