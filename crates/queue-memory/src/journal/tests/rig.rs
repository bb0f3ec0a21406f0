//! A journal whose every state is known.

use std::collections::BTreeMap;

use queue_core::clock::{Random as _, SeededRandom};

use super::super::{disk::Event, *};

pub(super) type Rows = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// For files of some pages.
pub(super) fn options() -> Options {
    Options { cache: 1 << 20, compact_from: 64 << 10, ..Options::default() }
}

/// What opening gives.
pub(super) fn open(medium: Medium, mode: Mode) -> Result<(Journal, Recovered, Rows)> {
    let mut rows = Rows::new();
    let (journal, recovered) = Journal::start(medium, mode, &options(), |row| {
        let before = rows.insert((row.table, row.key.to_vec()), row.value.to_vec());
        assert_eq!(before, None, "a row came twice");
        Ok(())
    })?;
    Ok((journal, recovered, rows))
}

pub(super) fn backend(disk: &ModelDisk, marked: u64) -> Medium {
    Medium::Backend { backend: Arc::new(disk.clone()), marked: Arc::new(marked.into()) }
}

/// Runs changes and remembers the rows after each batch.
pub(super) struct Rig {
    disk: ModelDisk,
    /// What the disk held when recording began.
    pub(super) first: Vec<u8>,
    journal: Option<Journal>,
    random: SeededRandom,
    rows: Rows,
    sequence: u64,
    /// The rows after each batch, by the sequence of its last change.
    pub(super) states: BTreeMap<u64, Rows>,
    /// From so many recorded events on, this sequence was acknowledged.
    pub(super) acknowledged: Vec<(usize, u64)>,
    next: u64,
}

impl Rig {
    /// A new journal on a recorded disk; what makes the file is not recorded.
    pub(super) fn new(seed: u64) -> Self {
        let disk = ModelDisk::new();
        open(backend(&disk, 0), Mode::Inline).unwrap().0.abandon();
        disk.sync();
        disk.record();
        let mut rig = Self {
            first: disk.contents(),
            disk,
            journal: None,
            random: SeededRandom::new(seed),
            rows: Rows::new(),
            sequence: 0,
            states: BTreeMap::from([(0, Rows::new())]),
            acknowledged: vec![(0, 0)],
            next: 0,
        };
        rig.open();
        rig
    }

    pub(super) fn open(&mut self) {
        let (journal, _, rows) = open(backend(&self.disk, self.sequence), Mode::Inline).unwrap();
        assert_eq!(rows, self.rows);
        self.journal = Some(journal);
    }

    fn one_of(&self, n: u64) -> u64 {
        self.random.next_u64() % n
    }

    /// Appends a batch that adds, changes and removes some rows, the rarer the larger.
    pub(super) fn append(&mut self) {
        let mut batch = Batch::new();
        for _ in 0..=self.one_of(8) {
            let known = self.rows.len() as u64;
            match self.one_of(8) {
                0 if known > 0 => {
                    let (table, key) = self.rows.keys().nth(self.one_of(known) as usize).unwrap().clone();
                    batch.delete(table, &key);
                    self.rows.remove(&(table, key));
                }
                1 | 2 => self.put(&mut batch, Table::States, key(1, self.one_of(self.next + 1))),
                _ => {
                    self.next += 1;
                    self.put(&mut batch, Table::Jobs, key(1, self.next));
                }
            }
        }
        self.enqueue(&batch);
    }

    fn put(&mut self, batch: &mut Batch, table: Table, key: [u8; 12]) {
        // Now and then a row larger than a page.
        let len = if self.one_of(20) == 0 { self.one_of(9_000) } else { self.one_of(300) };
        let value: Vec<u8> = (0..len).map(|_| self.random.next_u64() as u8).collect();
        batch.put(table, &key, &value);
        self.rows.insert((table, key.to_vec()), value);
    }

    /// Appends a batch that removes nearly all.
    pub(super) fn remove_most(&mut self) {
        let mut batch = Batch::new();
        while self.rows.len() > 3 {
            let ((table, key), _) = self.rows.pop_first().unwrap();
            batch.delete(table, &key);
        }
        self.enqueue(&batch);
    }

    fn enqueue(&mut self, batch: &Batch) {
        self.sequence += batch.len() as u64;
        self.states.insert(self.sequence, self.rows.clone());
        let ticket = self.journal.as_ref().unwrap().append(batch, Urgency::Within(Duration::MAX));
        assert_eq!(ticket, Ticket(self.sequence));
    }

    pub(super) fn commit(&mut self) {
        let journal = self.journal.as_ref().unwrap();
        journal.pump();
        assert!(journal.is_committed(Ticket(self.sequence)));
        self.acknowledge();
    }

    pub(super) async fn close(&mut self) {
        self.journal.take().unwrap().close().await.unwrap();
        self.acknowledge();
    }

    pub(super) fn acknowledge(&mut self) {
        self.acknowledged.push((self.disk.recorded().len(), self.sequence));
    }

    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The file as it is.
    pub(super) fn image(&self) -> Vec<u8> {
        self.disk.contents()
    }

    pub(super) fn events(&self) -> Vec<Event> {
        self.disk.recorded()
    }

    /// The states that may be found when all up to the first was acknowledged, and nothing beyond the second begun.
    pub(super) fn may_be(&self, rows: &Rows, from: u64, to: u64) -> bool {
        self.states.range(from..=to).any(|(_, state)| state == rows)
    }
}

/// A life of a journal: batches committed one by one and several at once, closings, and a file that is mostly free.
pub(super) async fn life(seed: u64, rounds: usize) -> Rig {
    let mut rig = Rig::new(seed);
    for round in 0..rounds {
        for _ in 0..=rig.one_of(2) {
            rig.append();
        }
        rig.commit();
        if round % 12 == 11 {
            rig.remove_most();
            rig.close().await;
            rig.open();
        }
    }
    rig
}
