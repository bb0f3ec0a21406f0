//! A private Redis for the store of `tracked_redis`.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use queue_core::{Env, store::TrackingStore};
use queue_redis::{RedisOptions, RedisTracking};

#[derive(Debug)]
pub(crate) struct Redis {
    _home: tempfile::TempDir,
    port: u16,
    child: Child,
}

impl Redis {
    /// Without persistence: what a disk costs is for the disk to say. `None` where it is not installed.
    pub(crate) fn start() -> Option<Self> {
        let home = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--daemonize", "no", "--save", ""]);
        command.args(["--appendonly", "no", "--maxmemory-policy", "noeviction", "--dir"]).arg(home.path());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        Some(Self { _home: home, port, child })
    }

    pub(crate) async fn store(&self) -> Arc<dyn TrackingStore> {
        let options = RedisOptions::new(format!("redis://127.0.0.1:{}/", self.port));
        for _ in 0..500 {
            match RedisTracking::connect(&options, &Env::system()).await {
                Ok(store) => return Arc::new(store),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
        panic!("redis-server does not answer");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
