//! Where a server is.

use std::fmt;

use queue_core::{Error, ErrorCode, Result};

use crate::SCHEME;

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// A name or an IP address, the latter without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Address {
    /// The port of a Redis server where none is given.
    pub const REDIS: u16 = 6379;
    /// The port of a Sentinel where none is given.
    pub const SENTINEL: u16 = 26379;

    /// A host and a port.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }

    /// Reads `host`, `host:port`, `[v6]` or `[v6]:port`.
    ///
    /// # Errors
    /// `CONFIG`. The text is not repeated: it may be a password that stands in the wrong place.
    pub fn parse(text: &str, default_port: u16) -> Result<Self> {
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, rest)) => (host, rest.strip_prefix(':').or(rest.is_empty().then_some(""))),
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port).filter(|port| !port.is_empty())),
                None => (text, Some("")),
            },
        };
        let port = match port {
            Some("") => Some(default_port),
            Some(port) => port.parse().ok(),
            None => None,
        };
        let plain = |c: char| !c.is_whitespace() && !matches!(c, '/' | '@' | '?' | '#' | '[' | ']');
        match port {
            Some(port) if !host.is_empty() && host.chars().all(plain) => Ok(Self::new(host, port)),
            _ => {
                let message = "a server is written as `host` or `host:port`, and a list of them with commas";
                Err(Error::new(ErrorCode::Config, message).at("connect").by(SCHEME))
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_with_and_without_ports() {
        let read = |text| Address::parse(text, 6379).map(|address| address.to_string());
        assert_eq!(read("here").unwrap(), "here:6379");
        assert_eq!(read("10.0.0.1:7000").unwrap(), "10.0.0.1:7000");
        assert_eq!(read("[::1]").unwrap(), "[::1]:6379");
        assert_eq!(read("[::1]:7000").unwrap(), "[::1]:7000");
        for wrong in ["", ":1", "a:", "a:b", "a:70000", "a b", "a/b", "hunter2@a", "[::1]7"] {
            let error = read(wrong).unwrap_err();
            assert_eq!(error.code(), ErrorCode::Config, "{wrong}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
