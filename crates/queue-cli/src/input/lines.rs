//! Lines of any length and any bytes, in bounded memory.

use std::io::{self, BufRead, BufReader, ErrorKind, Read};

use bytes::Bytes;
use memchr::memchr;

/// How much of an over-long line is kept, to recognise it by.
const HEAD: usize = 1 << 10;

/// One line that is not blank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its number in the input, from 1; blank lines count.
    pub number: u64,
    /// What it holds.
    pub text: Text,
}

/// What a line holds, without its line break.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Text {
    /// UTF-8 within the limit.
    Utf8(Bytes),
    /// Within the limit, and not UTF-8.
    NotUtf8(Bytes),
    /// Longer than the limit. Only its beginning was kept.
    TooLong {
        /// The first bytes.
        head: Bytes,
        /// The length of the line.
        length: u64,
        /// The limit.
        limit: usize,
    },
}

impl Text {
    /// What is kept of it.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        let (Self::Utf8(bytes) | Self::NotUtf8(bytes) | Self::TooLong { head: bytes, .. }) = self;
        bytes
    }

    /// How many bytes of it are kept.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "no line is empty")]
    pub fn len(&self) -> usize {
        self.bytes().len()
    }
}

/// Reads lines that end in LF or CRLF, the last one also in nothing. A byte order mark at the beginning is skipped.
#[derive(Debug)]
pub struct LineReader<R> {
    source: R,
    max: usize,
    number: u64,
    bytes_read: u64,
    /// The line so far. One byte more than `max` is let in: it may be the CR of a CRLF.
    line: Vec<u8>,
    length: u64,
}

impl<R: Read> LineReader<BufReader<R>> {
    /// Whether the next line can be had without waiting for the source.
    pub fn is_at_hand(&self) -> bool {
        memchr(b'\n', self.source.buffer().trim_ascii_start()).is_some()
    }
}

impl<R: BufRead> LineReader<R> {
    /// Reads lines of at most `max` bytes.
    pub fn new(source: R, max: usize) -> Self {
        Self { source, max, number: 0, bytes_read: 0, line: Vec::new(), length: 0 }
    }

    /// The source begins behind that line, so many bytes from the beginning of the input.
    #[must_use]
    pub fn behind(self, line: u64, offset: u64) -> Self {
        Self { number: line, bytes_read: offset, ..self }
    }

    /// How much of the input was read.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// The number of the last line that was read, blank or not.
    #[must_use]
    pub fn lines_read(&self) -> u64 {
        self.number
    }

    /// The next line that holds more than white space; `None` at the end.
    ///
    /// # Errors
    /// The source's.
    pub fn next_line(&mut self) -> io::Result<Option<Line>> {
        while self.read_line()? {
            self.number += 1;
            if self.number == 1 && self.line.starts_with(b"\xEF\xBB\xBF") {
                self.line.drain(..3);
                self.length -= 3;
            }
            let text = self.take_text();
            if !matches!(&text, Text::Utf8(bytes) if bytes.trim_ascii().is_empty()) {
                return Ok(Some(Line { number: self.number, text }));
            }
        }
        Ok(None)
    }

    /// Fills `line` and `length`; false at the end.
    fn read_line(&mut self) -> io::Result<bool> {
        self.line.clear();
        self.length = 0;
        loop {
            let chunk = match self.source.fill_buf() {
                Ok([]) => return Ok(self.length > 0),
                Ok(chunk) => chunk,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let end = memchr(b'\n', chunk);
            let part = &chunk[..end.unwrap_or(chunk.len())];
            // A byte order mark takes three bytes more, once.
            let room = (self.max + 1 + 3).saturating_sub(self.line.len());
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            self.length += part.len() as u64;
            let used = part.len() + usize::from(end.is_some());
            self.source.consume(used);
            self.bytes_read += used as u64;
            if end.is_some() {
                return Ok(true);
            }
        }
    }

    fn take_text(&mut self) -> Text {
        // The line is whole unless it is over-long by more than a CR, and then its CR does not matter.
        if self.length == self.line.len() as u64 && self.line.last() == Some(&b'\r') {
            self.line.pop();
            self.length -= 1;
        }
        if self.length > self.max as u64 {
            let head = Bytes::copy_from_slice(&self.line[..self.line.len().min(HEAD).min(self.max)]);
            return Text::TooLong { head, length: self.length, limit: self.max };
        }
        // Copied to its size: the buffer is kept for the next line.
        let bytes = Bytes::copy_from_slice(&self.line);
        if std::str::from_utf8(&bytes).is_ok() { Text::Utf8(bytes) } else { Text::NotUtf8(bytes) }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Read};

    use super::*;

    /// Every line, read through buffers of every small size, which must make no difference.
    fn lines(input: &[u8], max: usize) -> Vec<(u64, Text)> {
        let read = |capacity| {
            let mut reader = LineReader::new(BufReader::with_capacity(capacity, input), max);
            let mut lines = Vec::new();
            while let Some(line) = reader.next_line().unwrap() {
                lines.push((line.number, line.text));
            }
            assert_eq!(reader.bytes_read(), input.len() as u64);
            lines
        };
        let whole = read(1 << 16);
        for capacity in 1..8 {
            assert_eq!(read(capacity), whole, "buffers of {capacity}");
        }
        whole
    }

    fn utf8(text: &'static str) -> Text {
        Text::Utf8(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn line_breaks_of_every_kind() {
        assert_eq!(lines(b"a\nb\r\n\r\n \t\n\nc", 10), [(1, utf8("a")), (2, utf8("b")), (6, utf8("c"))]);
        assert_eq!(lines(b"a\rb\r\r\n", 10), [(1, utf8("a\rb\r"))]);
        assert_eq!(lines(b"last\r", 10), [(1, utf8("last"))]);
        for empty in [&b""[..], b"\n", b"\r\n\r\n", b"   ", b"\xEF\xBB\xBF", b"\xEF\xBB\xBF\n"] {
            assert_eq!(lines(empty, 10), [], "{empty:?}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_skipped_at_the_beginning_only() {
        assert_eq!(lines("\u{FEFF}12345\n\u{FEFF}x\n".as_bytes(), 5), [(1, utf8("12345")), (2, utf8("\u{FEFF}x"))]);
    }

    #[test]
    fn the_limit_counts_the_text_and_not_its_line_break() {
        let long = |head: &'static [u8], length| Text::TooLong { head: Bytes::from_static(head), length, limit: 5 };
        assert_eq!(lines(b"12345\n12345\r\n12345", 5), [(1, utf8("12345")), (2, utf8("12345")), (3, utf8("12345"))]);
        assert_eq!(
            lines(b"123456\n123456\r\n12345\r\rx\n1234567890123\nok", 5),
            [
                (1, long(b"12345", 6)),
                (2, long(b"12345", 6)),
                (3, long(b"12345", 8)),
                (4, long(b"12345", 13)),
                (5, utf8("ok"))
            ]
        );
        assert_eq!(lines("\u{FEFF}123456".as_bytes(), 5), [(1, long(b"12345", 6))]);
        assert_eq!(lines("\u{FEFF}12345\r\n".as_bytes(), 5), [(1, utf8("12345"))]);
        assert_eq!(lines(b"12345678\rxyz", 5), [(1, long(b"12345", 12))], "a CR where the kept part ends");
    }

    #[test]
    fn what_is_not_utf8_is_kept_as_it_is() {
        assert_eq!(
            lines(b"ok\n\xFF\xFE\n\xC3\nok", 10),
            [
                (1, utf8("ok")),
                (2, Text::NotUtf8(Bytes::from_static(b"\xFF\xFE"))),
                (3, Text::NotUtf8(Bytes::from_static(b"\xC3"))),
                (4, utf8("ok"))
            ]
        );
    }

    #[test]
    fn a_line_of_any_length_takes_no_more_memory_than_the_limit() {
        let endless = io::repeat(b'x').take(100 << 20).chain(&b"\nnext"[..]);
        let mut reader = LineReader::new(BufReader::new(endless), 64 << 10);
        let first = reader.next_line().unwrap().unwrap();
        assert!(
            matches!(&first.text, Text::TooLong { head, length, .. } if head.len() == HEAD && *length == 100 << 20)
        );
        assert!(reader.line.capacity() < 256 << 10, "{}", reader.line.capacity());
        assert_eq!(reader.next_line().unwrap().unwrap().text, utf8("next"));
        assert_eq!(reader.lines_read(), 2);
    }

    #[test]
    fn an_error_of_the_source_is_passed_on() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("disk on fire"))
            }
        }
        assert!(LineReader::new(BufReader::new(Broken), 10).next_line().is_err());
    }
}
