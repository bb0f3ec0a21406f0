//! As much of AMQP 0-9-1 as it takes to see whether a node takes clients.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Result, ensure};

const LIMIT: Duration = Duration::from_secs(2);
const HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";
/// A method frame on channel 0, whose length is skipped.
const METHOD: &[u8] = &[1, 0, 0];
/// Class and method of `connection.start`.
const START: &[u8] = &[0, 10, 0, 10];

/// Says hello and expects to be asked who is there; what another protocol or version would answer is an error.
pub(super) fn greet(port: u16) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.write_all(HEADER)?;
    let mut answer = [0; 11];
    stream.read_exact(&mut answer)?;
    ensure!(answer.starts_with(METHOD) && answer.ends_with(START), "it answered {answer:?} to a greeting");
    Ok(())
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
            let mut greeting = [0; 8];
            stream.read_exact(&mut greeting).unwrap();
            assert_eq!(greeting, HEADER);
            stream.write_all(answer).unwrap();
        });
        port
    }

    #[test]
    fn only_the_question_who_is_there_counts() {
        assert!(greet(server(&[1, 0, 0, 0, 0, 1, 200, 0, 10, 0, 10, 0, 9])).is_ok());
        // Another version: it says which one it speaks.
        assert!(greet(server(b"AMQP\x00\x01\x00\x00....")).is_err());
        // `connection.close`.
        assert!(greet(server(&[1, 0, 0, 0, 0, 1, 200, 0, 10, 0, 50])).is_err());
        assert!(greet(server(b"")).is_err());
    }
}
