//! What stands on the broker, by name.
//!
//! A queue's arguments cannot be changed once it is there, so the names carry the version of the topology: a later one stands
//! beside this one, and is drained from it.
//!
//! | name | what |
//! |---|---|
//! | `PREFIX.v1.ready.B.QUEUE` | quorum queue of the priority band B (0 lowest, 3 highest) of a queue |
//! | `PREFIX.v1.dead.QUEUE` | quorum queue of its dead letters |
//! | `PREFIX.v1.delay.NN` | topic exchange and quorum queue in which a delayed job waits 2^NN s |
//! | `PREFIX.v1.due` | topic exchange at the foot of the ladder: to the band's queue |
//! | `PREFIX.v1.orphans` | exchange and quorum queue of what came due for a queue that is gone |

use lapin::types::ShortString;
use queue_core::QueueName;
use sha2::{Digest, Sha256};

/// The bands of [`queue_core::Priority::band`].
pub(crate) const BANDS: u8 = 4;

/// The version of what [`crate::topology`] declares.
pub(crate) const VERSION: &str = "v1";

/// The longest prefix, in bytes: with it, the longest queue's name fits into the 255 bytes of a name in AMQP.
pub(crate) const MAX_PREFIX: usize = 100;

#[derive(Debug, Clone)]
pub(crate) struct Layout {
    base: String,
}

impl Layout {
    /// The prefix has been checked: see [`MAX_PREFIX`].
    pub(crate) fn new(prefix: &str) -> Self {
        Self { base: format!("{prefix}.{VERSION}") }
    }

    /// The queue of a band.
    pub(crate) fn ready(&self, queue: &QueueName, band: u8) -> ShortString {
        name(format!("{}.ready.{band}.{queue}", self.base))
    }

    /// The queue of the dead letters.
    pub(crate) fn dead(&self, queue: &QueueName) -> ShortString {
        name(format!("{}.dead.{queue}", self.base))
    }

    /// A rung of the ladder: the exchange and the queue have one name.
    pub(crate) fn delay(&self, level: u8) -> ShortString {
        name(format!("{}.delay.{level:02}", self.base))
    }

    /// The foot of the ladder.
    pub(crate) fn due(&self) -> ShortString {
        name(format!("{}.due", self.base))
    }

    /// Where what came due for nobody ends.
    pub(crate) fn orphans(&self) -> ShortString {
        name(format!("{}.orphans", self.base))
    }

    /// The last words of a delayed job's routing key. A digest, since a queue's own name may be full of the dots and wildcards
    /// that mean something in a topic.
    pub(crate) fn destination(queue: &QueueName, band: u8) -> String {
        let digest = Sha256::digest(queue.as_str().as_bytes());
        let mut text = String::with_capacity(34);
        for byte in &digest[..16] {
            text.push_str(&format!("{byte:02x}"));
        }
        text.push_str(&format!(".{band}"));
        text
    }
}

/// Cut at a name's 255 bytes: what the checks of prefix and queue name leave never comes near.
fn name(mut text: String) -> ShortString {
    let mut end = text.len().min(255);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    ShortString::try_new(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_names_fit_whole() {
        let layout = Layout::new(&"p".repeat(MAX_PREFIX));
        let queue = QueueName::new("q".repeat(120)).unwrap();
        assert!(layout.ready(&queue, 3).as_str().ends_with(queue.as_str()));
        assert!(layout.dead(&queue).as_str().ends_with(queue.as_str()));
    }

    #[test]
    fn a_destination_has_no_wildcards_and_tells_queues_and_bands_apart() {
        let [a, b] = ["a.*.#", "a"].map(|name| QueueName::new(name).unwrap());
        let all = [(&a, 0), (&a, 1), (&b, 0)].map(|(queue, band)| Layout::destination(queue, band));
        assert!(all.iter().all(|text| text.bytes().all(|c| c.is_ascii_hexdigit() || c == b'.')));
        assert!(all[0] != all[1] && all[0] != all[2]);
    }
}
