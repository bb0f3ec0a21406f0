//! What opening makes of a file in which something changed: all of it, an earlier commit with a report, or a refusal.

use super::*;
use super::{crash::full, rig::*};
use queue_core::{
    ErrorCode,
    clock::{Random as _, SeededRandom},
};

/// How damaged files were opened.
#[derive(Debug, Default)]
struct Tally {
    whole: usize,
    /// An earlier commit, with a report.
    went_back: usize,
    refused: usize,
    /// Losses that nothing would have told of but the note of the newest commit beside the file.
    silent_without_mark: usize,
}

impl Tally {
    fn open(&mut self, rig: &Rig, image: Vec<u8>, what: &str) {
        let upto = rig.sequence();
        let disk = ModelDisk::with(image.clone());
        match open(backend(&disk, upto), Mode::Inline) {
            Ok((journal, recovered, rows)) => {
                assert!(rig.may_be(&rows, 0, upto), "{what}: rows that never were so");
                let all = rows == rig.states[&upto];
                assert!(all || recovered.rolled_back.is_some(), "{what}: a silent loss");
                match recovered.rolled_back {
                    Some(_) => self.went_back += 1,
                    None => self.whole += 1,
                }
                journal.abandon();
                if !all {
                    self.without_mark(image);
                }
            }
            Err(error) => {
                let codes = [ErrorCode::Undecodable, ErrorCode::Config, ErrorCode::Unsupported];
                assert!(codes.contains(&error.code()), "{what}: {error}");
                self.refused += 1;
            }
        }
    }

    fn without_mark(&mut self, image: Vec<u8>) {
        let (journal, recovered, _) = open(backend(&ModelDisk::with(image), 0), Mode::Inline).unwrap();
        self.silent_without_mark += usize::from(recovered.rolled_back.is_none());
        journal.abandon();
    }
}

/// A small journal, stopped in the middle or closed in order.
async fn small(closed: bool) -> (Rig, Vec<u8>) {
    let mut rig = life(3, 11).await;
    rig.append();
    rig.commit();
    let image = rig.image();
    if closed {
        rig.close().await;
        let image = rig.image();
        return (rig, image);
    }
    (rig, image)
}

/// Positions of an image that hold something; what was never written holds zeros, and nothing depends on it.
fn positions(image: &[u8]) -> Vec<usize> {
    (0..image.len()).filter(|at| *at < 512 || image[at / 512 * 512..][..512].iter().any(|byte| *byte != 0)).collect()
}

async fn flip(closed: bool) -> Tally {
    let (rig, image) = small(closed).await;
    let random = SeededRandom::new(5);
    let mut tally = Tally::default();
    let positions = positions(&image);
    let every = if full() { 1 } else { positions.len() as u64 / 300 };
    for at in positions {
        // The header's bits each, and one bit of every other byte.
        let bits = if at < 320 && (full() || at < 12) { 0..8 } else { (at as u32 % 8)..(at as u32 % 8) + 1 };
        if at >= 12 && !random.next_u64().is_multiple_of(every) {
            continue;
        }
        for bit in bits {
            let mut bad = image.clone();
            bad[at] ^= 1 << bit;
            tally.open(&rig, bad, &format!("bit {bit} of byte {at}"));
        }
    }
    eprintln!("closed {closed}, {} bytes: flipped bits: {tally:?}", image.len());
    tally
}

#[tokio::test]
async fn a_flipped_bit_of_a_stopped_journal_gives_no_wrong_row_and_no_silent_loss() {
    let tally = flip(false).await;
    assert!(tally.whole > 0 && tally.went_back > 0 && tally.refused > 0, "{tally:?}");
}

#[tokio::test]
async fn a_flipped_bit_of_a_closed_journal_gives_no_wrong_row_and_no_silent_loss() {
    let tally = flip(true).await;
    assert!(tally.whole > 0 && tally.refused > 0, "{tally:?}");
    assert_eq!(tally.went_back, 0, "nothing was being written");
}

#[tokio::test]
async fn a_file_cut_short_or_zeroed_gives_no_wrong_row_and_no_silent_loss() {
    for closed in [false, true] {
        let (rig, image) = small(closed).await;
        let mut tally = Tally::default();
        let step = if full() { 512 } else { image.len() / 100 };
        for len in (1..image.len()).step_by(step) {
            tally.open(&rig, image[..len].to_vec(), &format!("{len} bytes"));
            let mut zeroed = image.clone();
            zeroed[len..].fill(0);
            tally.open(&rig, zeroed, &format!("zeros from {len}"));
            let mut hole = image.clone();
            hole[len..].iter_mut().take(4_096).for_each(|byte| *byte = 0);
            tally.open(&rig, hole, &format!("zeros at {len}"));
        }
        eprintln!("closed {closed}, {} bytes: cut short or zeroed: {tally:?}", image.len());
        assert!(tally.refused > 0);
    }
}
