//! A Redis server that belongs to one test.
#![allow(clippy::disallowed_methods, reason = "real processes live in real time")]
#![allow(dead_code, reason = "not every test needs all of it")]

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

#[derive(Debug)]
pub(crate) struct Server {
    home: tempfile::TempDir,
    port: u16,
    child: Mutex<Child>,
}

pub(crate) fn is_installed() -> bool {
    Command::new("redis-server").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// Ends the test where it can have no server of its own: a failure where one is required.
pub(crate) fn require() {
    if !is_installed() {
        let required = std::env::var("QUEUE_REQUIRE_BROKERS").is_ok_and(|value| value == "1");
        eprintln!("LEFT OUT: no redis-server on the path; see `cargo xtask brokers up redis`");
        std::process::exit(i32::from(required));
    }
}

impl Server {
    pub(crate) fn start() -> std::io::Result<Self> {
        let home = tempfile::tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let child = Mutex::new(spawn(home.path(), port)?);
        let server = Self { home, port, child };
        server.await_answer()?;
        Ok(server)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Kills it without warning and starts it again on the same data.
    pub(crate) fn restart(&self) -> std::io::Result<()> {
        let mut child = self.child.lock().unwrap();
        child.kill()?;
        child.wait()?;
        *child = spawn(self.home.path(), self.port)?;
        self.await_answer()
    }

    fn await_answer(&self) -> std::io::Result<()> {
        let start = Instant::now();
        loop {
            match ping(self.port) {
                Err(error) if start.elapsed() > Duration::from_secs(20) => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
                Ok(()) => return Ok(()),
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap();
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn spawn(home: &std::path::Path, port: u16) -> std::io::Result<Child> {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--daemonize", "no", "--save", ""]);
    command.args(["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction", "--dir"]);
    command.arg(home).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}

fn ping(port: u16) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"PING\r\n")?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer)?;
    if &answer == b"+PONG\r\n" { Ok(()) } else { Err(std::io::Error::other("not ready")) }
}
