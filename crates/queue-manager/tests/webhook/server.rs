//! A server that keeps what it is sent and answers as it is told.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// What was sent.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) line: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

/// How it answers.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// With a status and headers.
    Status(u16, &'static str),
    /// Not at all, for that long.
    Slow(Duration),
    /// By hanging up.
    HangUp,
    /// With 200 and a body that never ends.
    Endless,
    /// With a head that never ends.
    EndlessHead,
    /// With 200 and so many bytes of head.
    LongHead(usize),
    /// With what is no HTTP.
    Nonsense,
}

#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: String,
    received: Arc<Mutex<Vec<Received>>>,
    /// Bytes that it could write of what never ends.
    pub(crate) written: Arc<Mutex<usize>>,
    task: JoinHandle<()>,
}

impl Server {
    /// Answers one request after the other like this, and the last answer ever after.
    pub(crate) async fn start(answers: &[Answer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (received, written) = (Arc::<Mutex<Vec<Received>>>::default(), Arc::<Mutex<usize>>::default());
        let (kept, count, answers) = (Arc::clone(&received), Arc::clone(&written), answers.to_vec());
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let Some(request) = read(&mut stream).await else { continue };
                let answer = {
                    let mut kept = kept.lock().unwrap();
                    kept.push(request);
                    answers[(kept.len() - 1).min(answers.len() - 1)].clone()
                };
                give(stream, answer, &count).await;
            }
        });
        Self { address, received, written, task }
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// Waits until there are so many.
    pub(crate) async fn wait_for(&self, requests: usize) -> Vec<Received> {
        let enough = async {
            while self.received().len() < requests {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), enough).await.expect("they never came");
        self.received()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One request; `None` where it never came to its end.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Received> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.lines();
    let line = lines.next().unwrap().to_owned();
    let headers: BTreeMap<String, String> = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length: usize = headers["content-length"].parse().unwrap();
    let mut body = bytes.split_off(end + 4);
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some(Received { line, headers, body })
}

async fn give(mut stream: TcpStream, answer: Answer, written: &Mutex<usize>) {
    // Whoever asked may have gone: the test looks at what it was told.
    match answer {
        Answer::Status(status, headers) => {
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n{headers}\r\n");
            let _ = stream.write_all(head.as_bytes()).await;
        }
        Answer::LongHead(bytes) => {
            let head = format!("HTTP/1.1 200 X\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "x".repeat(bytes));
            let _ = stream.write_all(head.as_bytes()).await;
            // Hung up on unread bytes, the other side would not hear the answer.
            let _ = stream.shutdown().await;
        }
        Answer::Slow(time) => {
            tokio::spawn(async move {
                tokio::time::sleep(time).await;
                let _ = stream.write_all(b"HTTP/1.1 200 X\r\ncontent-length: 0\r\n\r\n").await;
            });
        }
        Answer::HangUp => {}
        Answer::Nonsense => {
            let _ = stream.write_all(b"hello hunter2\r\n\r\n").await;
        }
        Answer::Endless => {
            let _ = stream.write_all(b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n").await;
            endless(stream, b"400\r\n", written).await;
        }
        Answer::EndlessHead => {
            let _ = stream.write_all(b"HTTP/1.1 200 X\r\n").await;
            endless(stream, b"x: ", written).await;
        }
    }
}

/// A kibibyte after the other, until nobody takes them or 100 MiB were taken.
async fn endless(mut stream: TcpStream, front: &[u8], written: &Mutex<usize>) {
    let piece = [front, &[b'x'; 1024], b"\r\n"].concat();
    for _ in 0..100_000 {
        if stream.write_all(&piece).await.is_err() {
            return;
        }
        *written.lock().unwrap() += piece.len();
    }
}
