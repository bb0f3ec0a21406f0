//! A W3C trace context is 55 letters in the headers; in a record it is the 26 bytes that they spell.

const KEY: &[u8] = b"\"traceparent\":\"";
/// Where its dashes stand.
const DASHES: [usize; 3] = [2, 35, 52];
const LETTERS: usize = 55;
/// Bytes that it takes packed.
pub(super) const PACKED: usize = 26;

/// Where in these headers a trace context stands, and its bytes; nothing where it could not be spelled again letter by letter.
pub(super) fn find(headers: &[u8]) -> Option<(usize, [u8; PACKED])> {
    let at = headers.windows(KEY.len()).position(|part| part == KEY)? + KEY.len();
    let text = headers.get(at..at + LETTERS)?;
    if DASHES.iter().any(|dash| text[*dash] != b'-') {
        return None;
    }
    let mut digits = (0..LETTERS).filter(|place| !DASHES.contains(place)).map(|place| digit(text[place]));
    let mut packed = [0; PACKED];
    for byte in &mut packed {
        *byte = digits.next()?? << 4 | digits.next()??;
    }
    Some((at, packed))
}

/// The headers without it.
pub(super) fn cut(headers: &[u8], at: usize) -> Vec<u8> {
    [&headers[..at], &headers[at + LETTERS..]].concat()
}

/// The headers with it again; nothing where they end before.
pub(super) fn splice(headers: &[u8], at: usize, packed: &[u8]) -> Option<Vec<u8>> {
    let (before, after) = headers.split_at_checked(at)?;
    let mut whole = Vec::with_capacity(headers.len() + LETTERS);
    whole.extend(before);
    for byte in packed {
        if DASHES.contains(&(whole.len() - at)) {
            whole.push(b'-');
        }
        whole.extend([letter(byte >> 4), letter(byte & 15)]);
    }
    whole.extend(after);
    Some(whole)
}

/// Small letters only: large ones would come back small.
fn digit(letter: u8) -> Option<u8> {
    match letter {
        b'0'..=b'9' => Some(letter - b'0'),
        b'a'..=b'f' => Some(letter - b'a' + 10),
        _ => None,
    }
}

fn letter(digit: u8) -> u8 {
    if digit < 10 { b'0' + digit } else { b'a' + digit - 10 }
}
