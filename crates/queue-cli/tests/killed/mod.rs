//! Campaigns of `queue run --journal` that is killed at random moments and resumed until it is done, and what must hold.
#![allow(dead_code, reason = "each test program uses its part")]

mod journal;

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    io::Write as _,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::bench::Bench;

/// Set when somebody wants a campaign to end: what came of it so far is told, and the rest is not.
pub(crate) static STOPPED: AtomicBool = AtomicBool::new(false);

fn stopped() -> bool {
    STOPPED.load(Ordering::Relaxed)
}

/// One job a line, of every kind: some are no jobs, some repeat a key, some are dead at once, some need a second attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Good,
    Flaky,
    Dead,
    Duplicate,
    Invalid,
}

pub(crate) fn kind(line: u64) -> Kind {
    match line {
        n if n % 50 == 7 => Kind::Invalid,
        n if n % 50 == 9 && n > 9 => Kind::Duplicate,
        n if n % 40 == 3 => Kind::Dead,
        n if n % 30 == 5 => Kind::Flaky,
        _ => Kind::Good,
    }
}

fn text(line: u64) -> String {
    match kind(line) {
        Kind::Invalid => format!("{{\"payload\": {line}"),
        Kind::Duplicate => format!("{{\"payload\": {line}, \"unique_key\": \"key 9\"}}"),
        _ if line == 9 => format!("{{\"payload\": {line}, \"unique_key\": \"key 9\"}}"),
        _ => format!("{{\"payload\": {line}, \"priority\": {}}}", line % 3 + 4),
    }
}

/// How often a line is run if nobody is killed.
fn runs_of(line: u64) -> u64 {
    match kind(line) {
        Kind::Good | Kind::Dead => 1,
        Kind::Flaky => 2,
        Kind::Duplicate | Kind::Invalid => 0,
    }
}

/// Says in a file that nobody truncates that it runs, works a little, and says what came of it.
const ONE_SHOT: &str = r#"read -r n
    # Nobody lived to say which.
    [ -n "$n" ] || exit 1
    echo "$n" >> "$RUNS"
    [ $((n % 50)) = 7 ] || [ $((n % 40)) != 3 ] || exit 65
    [ $((n % 30)) != 5 ] || [ "$QUEUE_ATTEMPT" != 1 ] || exit 1
    echo "$n""#;

/// The same, as a process that stays. Nothing in it starts another.
const POOL: &str = r#"while read -r line; do
    id=${line#*\"id\":\"}; id=${id%%\"*}
    attempt=${line#*\"attempt\":}; attempt=${attempt%%,*}
    n=${line#*\"payload\":}; n=${n%%[,\}]*}
    echo "$n" >> "$RUNS"
    if [ $((n % 50)) != 7 ] && [ $((n % 40)) = 3 ]; then
        echo "{\"id\":\"$id\",\"error\":{\"message\":\"never\",\"retryable\":false}}"
    elif [ $((n % 30)) = 5 ] && [ "$attempt" = 1 ]; then
        echo "{\"id\":\"$id\",\"error\":{\"message\":\"not yet\",\"retryable\":true}}"
    else
        echo "{\"id\":\"$id\",\"result\":$n}"
    fi
done"#;

/// How it is run, and killed.
#[derive(Debug, Clone)]
pub(crate) struct Campaign {
    pub(crate) jobs: u64,
    pub(crate) concurrency: usize,
    pub(crate) pool: bool,
    /// It is killed at most so long after its start.
    pub(crate) longest: Duration,
    /// Stop killing after so many, and let it end.
    pub(crate) kills: usize,
    /// Where journal and outputs are, and full at times; the directory of the test unless given.
    pub(crate) disk: Option<PathBuf>,
    /// Whether what happens to be committed is looked at after each kill.
    pub(crate) look: bool,
}

/// What came of it.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    pub(crate) lives: usize,
    pub(crate) kills: usize,
    /// How often the disk was full, and how many lives ended for that by themselves.
    pub(crate) full: usize,
    pub(crate) gave_up: usize,
    pub(crate) jobs: u64,
    /// Runs that there had to be.
    pub(crate) wanted: u64,
    pub(crate) runs: u64,
    /// The most that one kill may have cost.
    pub(crate) allowed: u64,
    /// Ends that were known to be on disk at some kill, summed over the kills.
    pub(crate) committed: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.lives += other.lives;
        self.kills += other.kills;
        self.full += other.full;
        self.gave_up += other.gave_up;
        self.jobs += other.jobs;
        self.wanted += other.wanted;
        self.runs += other.runs;
        self.allowed += other.allowed;
        self.committed += other.committed;
    }
}

/// A small disk of its own, for root.
pub(crate) struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Of so many MiB; `None` where none can be had.
    pub(crate) fn new(mebibytes: u32) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"]).arg(directory.path());
        match mount.output() {
            Ok(output) if output.status.success() => Some(Self(directory)),
            failed => {
                eprintln!("LEFT OUT: no small disk can be mounted here (that takes root): {failed:?}");
                None
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// Numbers that nobody chose; the seed is told with every failure.
#[derive(Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    #[allow(clippy::disallowed_methods, reason = "another seed each time")]
    pub(crate) fn new() -> Self {
        let seed = std::env::var("QUEUE_SOAK_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            now.as_nanos() as u64
        });
        println!("QUEUE_SOAK_SEED={seed}");
        Self(seed | 1)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// A life of a run that may be killed.
pub(crate) struct Life {
    pub(crate) child: Child,
}

impl Campaign {
    fn place(&self, bench: &Bench, name: &str) -> PathBuf {
        self.disk.as_ref().map_or_else(|| bench.path(name), |disk| disk.join(name))
    }

    pub(crate) fn write_input(&self, bench: &Bench) {
        bench.write("jobs", (1..=self.jobs).map(|line| text(line) + "\n").collect::<String>());
        bench.write("runs", "");
        bench.write("stderr", "");
    }

    pub(crate) fn start(&self, bench: &Bench) -> Life {
        let places = ["journal", "rows", "dead"].map(|name| self.place(bench, name).display().to_string());
        let concurrency = self.concurrency.to_string();
        let mut args = vec!["jobs", "--journal", &places[0], "--results", &places[1], "--dead", &places[2]];
        args.extend(["-j", &concurrency, "--backoff", "none", "--max-attempts", "3", "--shell", "--json"]);
        args.extend(if self.pool {
            ["--exec-mode", "pool", "--exec", POOL]
        } else {
            ["--exec-mode", "oneshot", "--exec", ONE_SHOT]
        });
        let mut command = bench.command(&args);
        let stderr = fs::OpenOptions::new().append(true).open(bench.path("stderr")).unwrap();
        command.env("RUNS", bench.path("runs")).stderr(stderr).stdout(std::process::Stdio::null()).process_group(0);
        Life { child: command.spawn().unwrap() }
    }

    /// Kills and resumes until it is done, then checks everything; what it has so far once [`STOPPED`].
    pub(crate) fn fight(&self, bench: &Bench, dice: &mut Dice) -> Tally {
        self.write_input(bench);
        let mut fight =
            Fight { campaign: self, bench, tally: Tally { jobs: self.jobs, ..Tally::default() }, done: HashSet::new() };
        loop {
            let mut life = self.start(bench);
            fight.tally.lives += 1;
            let at_random = |dice: &mut Dice| Duration::from_micros(dice.below(self.longest.as_micros() as u64));
            if fight.tally.kills >= self.kills {
                let Some(status) = life.wait(None) else {
                    life.kill(true);
                    assert!(stopped(), "it does not end: {}", bench.read("stderr"));
                    return fight.so_far();
                };
                assert_eq!(status.code(), Some(1), "some are dead and some invalid: {}", bench.read("stderr"));
                break;
            }
            let fills = self.disk.is_some() && dice.below(2) == 0;
            let mut ended = life.wait(Some(at_random(dice)));
            if ended.is_none() && fills {
                fight.fill();
                ended = life.wait(Some(2 * at_random(dice)));
                // Half of them are killed while it is full, the others a little later.
                if ended.is_none() && dice.below(2) == 0 {
                    fight.make_room();
                    ended = life.wait(Some(at_random(dice)));
                }
            }
            if stopped() {
                life.kill(true);
                return fight.so_far();
            }
            let over = fight.life_ended(&mut life, ended, dice);
            fight.make_room();
            if over {
                break;
            }
        }
        fight.check()
    }
}

impl Life {
    /// For so long at most, and no longer than until [`STOPPED`]; `None` where it goes on.
    #[allow(clippy::disallowed_methods, reason = "real processes live in real time")]
    pub(crate) fn wait(&mut self, at_most: Option<Duration>) -> Option<ExitStatus> {
        let begun = Instant::now();
        let at_most = at_most.unwrap_or(Duration::from_secs(240));
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            let left = at_most.checked_sub(begun.elapsed()).filter(|_| !stopped())?;
            thread::sleep(left.min(Duration::from_millis(2)));
        }
    }

    /// With everything that it started, or alone.
    pub(crate) fn kill(&mut self, all: bool) {
        let id = self.child.id();
        let mut processes = vec![id];
        if all {
            // Nobody is born to one that is stopped.
            signal(&[id], "STOP");
            processes.extend(descendants(id));
        }
        signal(&processes, "KILL");
        let status = self.child.wait().unwrap();
        assert!(status.signal() == Some(9) || status.code().is_some(), "{status}");
    }
}

fn signal(processes: &[u32], name: &str) {
    let ids = processes.iter().map(u32::to_string);
    // Some may have ended meanwhile.
    let _ = Command::new("kill").args(["-s", name]).args(ids).stderr(std::process::Stdio::null()).status().unwrap();
}

fn descendants(of: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(process) = entry.file_name().to_string_lossy().parse() else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some(rest) = stat.rsplit_once(')') else { continue };
        let parent = rest.1.split_whitespace().nth(1).unwrap().parse().unwrap();
        children.entry(parent).or_default().push(process);
    }
    let mut found = Vec::new();
    let mut next = vec![of];
    while let Some(process) = next.pop() {
        let born = children.remove(&process).unwrap_or_default();
        found.extend(&born);
        next.extend(born);
    }
    found
}

struct Fight<'a> {
    campaign: &'a Campaign,
    bench: &'a Bench,
    tally: Tally,
    /// Lines that were known to be done, with how many runs there had been then.
    done: HashSet<(u64, usize)>,
}

impl Fight<'_> {
    fn runs(&self) -> Vec<u64> {
        self.bench.read("runs").lines().map(|line| line.parse().unwrap()).collect()
    }

    /// What is on disk now as completed or dead must not run after what has run by now.
    fn killed(&mut self) {
        self.tally.kills += 1;
        let runs = self.runs().len();
        let place = |name| self.campaign.place(self.bench, name);
        let mut done = written(&place("rows"));
        if self.campaign.look {
            done.extend(journal::ended(&place("journal"), &self.bench.path("copy")));
        }
        self.tally.committed += done.len() as u64;
        self.done.extend(done.into_iter().map(|line| (line, runs)));
    }

    /// Kills it unless it has ended. Says whether the run is over.
    fn life_ended(&mut self, life: &mut Life, ended: Option<ExitStatus>, dice: &mut Dice) -> bool {
        match ended.map(|status| status.code()) {
            None => {
                life.kill(dice.below(2) == 0);
                self.killed();
                false
            }
            // It says that it can be resumed.
            Some(Some(2)) if self.tally.full > 0 => {
                self.tally.gave_up += 1;
                false
            }
            Some(code) => {
                assert_eq!(code, Some(1), "some are dead and some invalid: {}", self.bench.read("stderr"));
                true
            }
        }
    }

    fn fill(&mut self) {
        self.tally.full += 1;
        let path = self.campaign.place(self.bench, "filler");
        fill(&path);
    }

    fn make_room(&self) {
        if self.campaign.disk.is_some() {
            let _ = fs::remove_file(self.campaign.place(self.bench, "filler"));
        }
    }

    /// Of a campaign that was not ended: nothing more than how far it came.
    fn so_far(mut self) -> Tally {
        self.tally.runs = self.runs().len() as u64;
        self.tally.jobs = 0;
        self.tally
    }

    fn check(mut self) -> Tally {
        let runs = self.runs();
        let mut last = BTreeMap::new();
        for (index, line) in runs.iter().enumerate() {
            last.insert(*line, index);
        }
        for (line, before) in &self.done {
            let again = last.get(line).is_some_and(|index| index >= before);
            assert!(!again, "line {line} was done after {before} runs, and ran again as {:?}", last.get(line));
        }
        let lines = self.campaign.jobs;
        self.tally.runs = runs.len() as u64;
        self.tally.wanted = (1..=lines).map(runs_of).sum();
        self.tally.allowed = (2 * self.campaign.concurrency * (self.tally.kills + self.tally.gave_up)) as u64;
        assert!(self.tally.runs >= self.tally.wanted, "{:?}", self.tally);
        assert!(self.tally.runs <= self.tally.wanted + self.tally.allowed, "{:?}", self.tally);
        self.check_rows();
        self.tally
    }

    fn check_rows(&self) {
        let read = |name| fs::read_to_string(self.campaign.place(self.bench, name)).unwrap();
        let mut seen = BTreeMap::new();
        for row in read("rows").lines() {
            let row: Value = serde_json::from_str(row).unwrap_or_else(|error| panic!("{error}: {row:?}"));
            let line = row["line"].as_u64().unwrap();
            let expected = match kind(line) {
                Kind::Good | Kind::Flaky => "completed",
                Kind::Dead => "dead",
                Kind::Duplicate => "duplicate",
                Kind::Invalid => "invalid",
            };
            assert_eq!(row["status"], expected, "{row}");
            if expected == "completed" {
                assert_eq!(row["result"].as_u64(), Some(line), "{row}");
                assert!(row["attempts"].as_u64() >= Some(runs_of(line)), "{row}");
            }
            assert!(seen.insert(line, row).is_none(), "line {line} has two rows");
        }
        let missing: Vec<u64> = (1..=self.campaign.jobs).filter(|line| !seen.contains_key(line)).collect();
        assert!(missing.is_empty(), "no row: {missing:?}");
        let failed = (1..=self.campaign.jobs).filter(|line| matches!(kind(*line), Kind::Dead | Kind::Invalid));
        assert_eq!(read("dead").lines().count(), failed.count(), "the dead file");
    }
}

/// Leaves no room on a disk.
pub(crate) fn fill(path: &Path) {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    for chunk in [1 << 20, 64 << 10, 4 << 10, 1] {
        while file.write_all(&vec![b'x'; chunk]).is_ok() {}
    }
}

/// Lines that have a row.
pub(crate) fn written(rows: &Path) -> HashSet<u64> {
    let text = fs::read_to_string(rows).unwrap_or_default();
    let whole = text.split_inclusive('\n').filter(|row| row.ends_with('\n'));
    whole.filter_map(|row| serde_json::from_str::<Value>(row).ok()?["line"].as_u64()).collect()
}
