//! A private server, what it tells of itself, and what `redis-benchmark` makes of it.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use redis::aio::MultiplexedConnection;

#[derive(Debug)]
pub(crate) struct Server {
    _home: tempfile::TempDir,
    port: u16,
    child: Child,
}

/// What a server did between two looks.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spent {
    /// Microseconds inside scripts.
    pub(crate) scripts: f64,
    /// Calls of scripts, and all commands, those inside scripts with them.
    pub(crate) calls: f64,
    pub(crate) commands: f64,
    /// Microseconds of processor time of the whole server: reading and writing sockets too.
    pub(crate) processor: f64,
}

impl std::ops::Sub for Spent {
    type Output = Self;
    fn sub(self, before: Self) -> Self {
        Self {
            scripts: self.scripts - before.scripts,
            calls: self.calls - before.calls,
            commands: self.commands - before.commands,
            processor: self.processor - before.processor,
        }
    }
}

impl std::ops::AddAssign for Spent {
    fn add_assign(&mut self, more: Self) {
        self.scripts += more.scripts;
        self.calls += more.calls;
        self.commands += more.commands;
        self.processor += more.processor;
    }
}

impl Server {
    /// Without persistence: what a disk costs is for the disk to say.
    pub(crate) fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--daemonize", "no", "--save", ""]);
        command.args(["--appendonly", "no", "--maxmemory-policy", "noeviction", "--dir"]).arg(home.path());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { _home: home, port, child }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// A connection of the client that the provider uses.
    pub(crate) async fn connect(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.url()).unwrap();
        for _ in 0..500 {
            match client.get_multiplexed_async_connection().await {
                Ok(connection) => return connection,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
        panic!("redis-server does not answer");
    }

    pub(crate) async fn clear(&self) {
        let () = redis::cmd("FLUSHALL").query_async(&mut self.connect().await).await.unwrap();
    }

    /// Requests a second of `redis-benchmark`: 200 bytes, 50 clients, so many requests at once in each.
    pub(crate) fn rival(&self, test: &str, requests: u64, pipeline: u64) -> f64 {
        let mut command = Command::new("redis-benchmark");
        command.args(["-p", &self.port.to_string(), "-d", "200", "-c", "50", "-t", test, "--csv"]);
        command.args(["-n", &requests.to_string(), "-P", &pipeline.to_string()]);
        let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let line = said.lines().find(|line| line.to_lowercase().starts_with(&format!("\"{test}\""))).unwrap();
        line.split(',').nth(1).unwrap().trim_matches('"').parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) async fn spent(connection: &mut MultiplexedConnection) -> Spent {
    let commands = info(connection, "commandstats").await;
    let field = |line: &str, name: &str| -> f64 {
        let fields = line.split_once(':').map_or("", |(_, fields)| fields);
        let found = fields.split(',').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
        found.map_or(0.0, |value| value.parse().unwrap())
    };
    let mut spent = Spent::default();
    for line in commands.lines().filter(|line| line.starts_with("cmdstat_")) {
        spent.commands += field(line, "calls");
        if line.starts_with("cmdstat_evalsha:") || line.starts_with("cmdstat_eval:") {
            spent.scripts += field(line, "usec");
            spent.calls += field(line, "calls");
        }
    }
    let cpu = info(connection, "cpu").await;
    let main = cpu.lines().filter_map(|line| line.trim().strip_prefix("used_cpu_")?.split_once(':'));
    let main = main.filter(|(name, _)| matches!(*name, "user_main_thread" | "sys_main_thread"));
    spent.processor = main.map(|(_, seconds)| seconds.parse::<f64>().unwrap() * 1e6).sum();
    spent
}

pub(crate) async fn memory(connection: &mut MultiplexedConnection) -> f64 {
    let memory = info(connection, "memory").await;
    let used = memory.lines().find_map(|line| line.trim().strip_prefix("used_memory:"));
    used.unwrap().parse().unwrap()
}

async fn info(connection: &mut MultiplexedConnection, section: &str) -> String {
    redis::cmd("INFO").arg(section).query_async(connection).await.unwrap()
}
