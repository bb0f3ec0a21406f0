//! A Redis server, or several, that belong to one test.
#![allow(clippy::disallowed_methods, reason = "real processes live in real time")]
#![allow(dead_code, reason = "each test uses a part of it")]

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
    settings: Vec<String>,
}

pub(crate) fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Waits for something that comes about by itself.
pub(crate) fn await_that(what: &str, most: Duration, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < most, "{what} did not come about in {most:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
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
        Self::start_with(free_port()?, &[])
    }

    /// With settings of its own, as on the command line.
    pub(crate) fn start_with(port: u16, settings: &[&str]) -> std::io::Result<Self> {
        let home = tempfile::tempdir()?;
        let settings: Vec<String> = settings.iter().map(|&word| word.to_owned()).collect();
        let child = Mutex::new(spawn(home.path(), port, &settings)?);
        let server = Self { home, port, child, settings };
        server.await_answer()?;
        Ok(server)
    }

    /// One that watches over the primary at a port.
    pub(crate) fn start_sentinel(primary: u16, down_after: Duration) -> std::io::Result<Self> {
        let (home, port) = (tempfile::tempdir()?, free_port()?);
        let millis = down_after.as_millis();
        let lines = format!(
            "bind 127.0.0.1\nport {port}\ndaemonize no\ndir {}\nsentinel monitor main 127.0.0.1 {primary} 2\n\
             sentinel down-after-milliseconds main {millis}\nsentinel failover-timeout main 6000\n\
             sentinel parallel-syncs main 2\n",
            home.path().display()
        );
        let file = home.path().join("sentinel.conf");
        std::fs::write(&file, lines)?;
        let mut command = Command::new("redis-server");
        command.arg(&file).arg("--sentinel").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Self { home, port, child: Mutex::new(command.spawn()?), settings: Vec::new() };
        server.await_answer()?;
        Ok(server)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn kill(&self) {
        let mut child = self.child.lock().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// It says nothing any more, and breaks no connection.
    pub(crate) fn hang(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn go_on(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let id = self.child.lock().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// A command and its answer.
    pub(crate) fn ask(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let mut connection = redis::Client::open(self.url())?.get_connection_with_timeout(Duration::from_secs(2))?;
        connection.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut command = redis::Cmd::new();
        command.arg(words).query(&mut connection)
    }

    /// The same as one text.
    pub(crate) fn tell(&self, words: &[&str]) -> String {
        let answer = self.ask(words).unwrap_or_else(|error| panic!("{words:?} at {}: {error}", self.port));
        redis::from_redis_value(answer).unwrap()
    }

    /// So many replicas follow it and have all it has: one that is `online` may be loading still.
    pub(crate) fn await_replicas(&self, count: usize) {
        let mut connection = redis::Client::open(self.url()).unwrap().get_connection().unwrap();
        let mut pipe = redis::pipe();
        // Told to replicas, and no key.
        pipe.cmd("PUBLISH").arg("caught-up").arg("").ignore().cmd("WAIT").arg(count).arg(100);
        await_that("replicas that follow", Duration::from_secs(20), || {
            let [there]: [usize; 1] = pipe.query(&mut connection).unwrap();
            there >= count
        });
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// From now on it says `MISCONF` to whoever would change something, as where its disk is full. For one that was started with
    /// `enable-protected-configs yes`.
    pub(crate) fn refuse_writes(&self) {
        let gone = tempfile::tempdir().unwrap();
        self.ask(&["CONFIG", "SET", "dir", gone.path().to_str().unwrap()]).unwrap();
        drop(gone);
        self.ask(&["CONFIG", "SET", "save", "3600 1"]).unwrap();
        self.saves(false);
    }

    /// It can write again.
    pub(crate) fn take_writes(&self) {
        self.ask(&["CONFIG", "SET", "dir", self.home.path().to_str().unwrap()]).unwrap();
        self.saves(true);
    }

    fn saves(&self, well: bool) {
        let wanted = if well { "rdb_last_bgsave_status:ok" } else { "rdb_last_bgsave_status:err" };
        await_that(wanted, Duration::from_secs(10), || {
            // One that is under way refuses another.
            let _ = self.ask(&["BGSAVE"]);
            self.tell(&["INFO", "persistence"]).contains(wanted)
        });
    }

    /// Kills it without warning and starts it again on the same data.
    pub(crate) fn restart(&self) -> std::io::Result<()> {
        let mut child = self.child.lock().unwrap();
        child.kill()?;
        child.wait()?;
        *child = spawn(self.home.path(), self.port, &self.settings)?;
        self.await_answer()
    }

    /// Starts a killed one again on the same data.
    pub(crate) fn restart_after_kill(&self) {
        *self.child.lock().unwrap() = spawn(self.home.path(), self.port, &self.settings).unwrap();
        self.await_answer().unwrap();
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
        // A stopped one is killed as well.
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn spawn(home: &std::path::Path, port: u16, settings: &[String]) -> std::io::Result<Child> {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--daemonize", "no", "--save", ""]);
    command.args(["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction", "--dir"]);
    command.arg(home).args(settings).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}

fn ping(port: u16) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"PING\r\n")?;
    let mut answer = [0; 7];
    stream.read_exact(&mut answer)?;
    if &answer == b"+PONG\r\n" { Ok(()) } else { Err(std::io::Error::other("not ready")) }
}
