//! One Redis server that belongs to a soak: started, killed without warning, started again on the same data.

use std::{
    fs::File,
    io,
    net::TcpListener,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use redis::{Client, Value};

/// A server that does not answer for so long counts as away.
const PATIENCE: Duration = Duration::from_secs(5);
const BOOT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Node {
    home: PathBuf,
    pub(crate) port: u16,
    arguments: Vec<String>,
    child: Option<Child>,
}

/// Different ones: each is held until all are found.
pub(crate) fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let held: io::Result<Vec<TcpListener>> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    held?.iter().map(|one| Ok(one.local_addr()?.port())).collect()
}

impl Node {
    /// A server with a folder of its own, which does not run yet.
    pub(crate) fn new(home: &Path, port: u16, arguments: &[&str]) -> io::Result<Self> {
        let home = home.join(port.to_string());
        std::fs::create_dir_all(&home)?;
        let mut all: Vec<String> = ["--bind", "127.0.0.1", "--daemonize", "no", "--save", ""].map(String::from).into();
        all.extend(["--port".into(), port.to_string(), "--dir".into(), home.display().to_string()]);
        all.extend(["--appendonly", "yes", "--maxmemory-policy", "noeviction"].map(String::from));
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        Ok(Self { home, port, arguments: all, child: None })
    }

    /// One whose configuration is a file, which it writes to.
    pub(crate) fn of_file(home: &Path, port: u16, lines: &str, arguments: &[&str]) -> io::Result<Self> {
        let home = home.join(port.to_string());
        std::fs::create_dir_all(&home)?;
        let file = home.join("redis.conf");
        std::fs::write(&file, format!("bind 127.0.0.1\nport {port}\ndir {}\n{lines}\n", home.display()))?;
        let mut all = vec![file.display().to_string()];
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        Ok(Self { home, port, arguments: all, child: None })
    }

    pub(crate) fn boot(&mut self) -> io::Result<()> {
        let output = File::options().append(true).create(true).open(self.home.join("log"))?;
        let mut command = Command::new("redis-server");
        command.args(&self.arguments).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // Out of this process's group: Ctrl-C must leave it to the soak to take it down.
        self.child = Some(command.process_group(0).spawn()?);
        Ok(())
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn runs(&self) -> bool {
        self.child.is_some()
    }

    pub(crate) fn ask(&self, command: &str) -> redis::RedisResult<Value> {
        let words: Vec<&str> = command.split(' ').collect();
        self.ask_words(&words)
    }

    pub(crate) fn ask_words(&self, words: &[&str]) -> redis::RedisResult<Value> {
        let mut asked = redis::cmd(words[0]);
        for word in &words[1..] {
            asked.arg(word);
        }
        let mut connection =
            Client::open(format!("redis://127.0.0.1:{}/", self.port))?.get_connection_with_timeout(PATIENCE)?;
        connection.set_read_timeout(Some(PATIENCE))?;
        asked.query(&mut connection)
    }

    /// An answer of lines, or of one.
    pub(crate) fn text(&self, command: &str) -> redis::RedisResult<String> {
        redis::from_redis_value(self.ask(command)?).map_err(Into::into)
    }

    /// The value of a line `name:value` of `INFO`.
    pub(crate) fn info(&self, section: &str, name: &str) -> Option<String> {
        let report = self.text(&format!("INFO {section}")).ok()?;
        report.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::to_owned))
    }

    pub(crate) fn answers(&self) -> bool {
        self.text("PING").is_ok_and(|answer| answer == "PONG")
    }

    /// Waits until it answers, which it does when it has read its data.
    pub(crate) async fn up(&self) -> io::Result<()> {
        until(BOOT, || self.answers()).await.map_err(|_| {
            let log = std::fs::read_to_string(self.home.join("log")).unwrap_or_default();
            io::Error::other(format!("the server of port {} does not answer: {log}", self.port))
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Asks again and again.
pub(crate) async fn until(limit: Duration, mut asked: impl FnMut() -> bool) -> io::Result<()> {
    let start = tokio::time::Instant::now();
    while !asked() {
        if start.elapsed() > limit {
            return Err(io::Error::other(format!("not within {limit:?}")));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
