//! As much of the protocol of Redis as it takes to start one and to see whether it is there.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

const LIMIT: Duration = Duration::from_secs(2);
/// No answer that is asked for here is longer.
const MOST: usize = 64 << 10;

/// One command and its answer: a line, a number, or a text. Of an array it is the first line, which says how long it is.
pub(super) fn ask(port: u16, command: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.write_all(format!("{command}\r\n").as_bytes())?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let line = line.strip_suffix("\r\n").with_context(|| format!("it answered {line:?} to {command}"))?;
    match line.split_at_checked(1) {
        Some(("+" | ":" | "*", rest)) => Ok(rest.to_owned()),
        Some(("$", length)) => {
            let length: usize = length.parse().with_context(|| format!("it answered {line:?} to {command}"))?;
            let mut text = vec![0; length.min(MOST)];
            reader.read_exact(&mut text)?;
            Ok(String::from_utf8_lossy(&text).into_owned())
        }
        // Also while it loads its data: then it answers `-LOADING …`.
        _ => bail!("it answered {line:?} to {command}"),
    }
}

/// The same where one answer alone will do.
pub(super) fn expect(port: u16, command: &str, answer: &str) -> Result<()> {
    let said = ask(port, command)?;
    if said == answer { Ok(()) } else { bail!("it answered {said:?} to {command}") }
}

/// Whether a report in lines of `name:value` has this one.
pub(super) fn has(report: &str, line: &str) -> bool {
    report.lines().any(|said| said == line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

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
    fn only_the_answer_counts() {
        let ping = |answer| expect(server(answer), "PING", "PONG");
        assert!(ping(b"+PONG\r\n").is_ok());
        assert!(ping(b"-LOADING Redis is loading the dataset in memory\r\n").is_err());
        assert!(ping(b"HTTP/1.1 400 Bad Request\r\n").is_err());
        assert!(ping(b"").is_err());
    }

    #[test]
    fn lines_numbers_and_texts_are_read() {
        let ping = |answer| ask(server(answer), "PING").unwrap();
        assert_eq!(ping(b":12\r\n"), "12");
        assert_eq!(ping(b"$9\r\na:1\r\nb:2\n\r\n"), "a:1\r\nb:2\n");
        assert!(has("a:1\r\nb:2\r\n", "b:2"));
        assert!(!has("a:12\r\n", "a:1"));
    }
}
