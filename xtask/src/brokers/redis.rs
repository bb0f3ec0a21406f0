//! Redis, as Debian has it (7.0 and later).

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Result, bail};

use super::catalogue::Kit;

#[derive(Debug)]
pub(crate) struct Redis;

impl Kit for Redis {
    fn program(&self) -> &'static str {
        "redis-server"
    }

    fn packages(&self) -> &'static [&'static str] {
        &["redis-server"]
    }

    fn service(&self) -> (&'static str, u16) {
        ("redis", 6379)
    }

    /// What the provider asks of a server in production holds here too: nothing is evicted, writes are on disk.
    fn command(&self, home: &Path, port: u16) -> Command {
        let mut command = Command::new(self.program());
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--daemonize", "no"]);
        command.args(["--save", "", "--appendonly", "yes", "--maxmemory-policy", "noeviction"]);
        command.arg("--dir").arg(home).arg("--pidfile").arg(home.join("redis.pid"));
        command
    }

    fn url(&self, port: u16) -> String {
        format!("redis://127.0.0.1:{port}/")
    }

    fn ping(&self, port: u16) -> Result<()> {
        let limit = Duration::from_secs(2);
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), limit)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        // Not while it loads its data: then it answers `-LOADING …`.
        if answer == "+PONG\r\n" { Ok(()) } else { bail!("it answered {answer:?} to PING") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Read as _, net::TcpListener};

    fn server(answer: &'static [u8]) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut ping = [0; 6];
            stream.read_exact(&mut ping).unwrap();
            assert_eq!(&ping, b"PING\r\n");
            stream.write_all(answer).unwrap();
        });
        port
    }

    #[test]
    fn only_pong_counts() {
        assert!(Redis.ping(server(b"+PONG\r\n")).is_ok());
        assert!(Redis.ping(server(b"-LOADING Redis is loading the dataset in memory\r\n")).is_err());
        assert!(Redis.ping(server(b"HTTP/1.1 400 Bad Request\r\n")).is_err());
        assert!(Redis.ping(server(b"")).is_err());
    }
}
