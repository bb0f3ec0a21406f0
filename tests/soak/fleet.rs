//! The worker processes, and what they have seen.

use std::{
    collections::HashSet,
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use queue_core::{JobId, QueueName};

use super::{
    log::{self, Answer, Reader, Seen},
    node::until,
};

pub(crate) const WORKERS: usize = 4;
pub(crate) const SLOTS: usize = 8;

#[derive(Debug)]
struct Process {
    name: String,
    child: Child,
    log: Reader,
    /// When it fetched last.
    fetched: u64,
}

/// What one worker saw, and when.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) at: u64,
    /// Its place in [`Fleet::names`].
    pub(crate) worker: usize,
    pub(crate) seen: Seen,
}

#[derive(Debug)]
pub(crate) struct Fleet {
    home: PathBuf,
    url: String,
    queue: QueueName,
    lease: Duration,
    running: Vec<Process>,
    /// All that there ever were.
    pub(crate) names: Vec<String>,
    pub(crate) events: Vec<Event>,
    /// Jobs that ended for good, for those who make new ones.
    pub(crate) ended: Arc<AtomicU64>,
}

impl Fleet {
    pub(crate) fn start(
        home: &Path,
        url: &str,
        queue: &QueueName,
        lease: Duration,
        workers: usize,
    ) -> io::Result<Self> {
        let mut fleet = Self {
            home: home.to_owned(),
            url: url.to_owned(),
            queue: queue.clone(),
            lease,
            running: Vec::new(),
            names: Vec::new(),
            events: Vec::new(),
            ended: Arc::default(),
        };
        for _ in 0..workers {
            fleet.spawn()?;
        }
        Ok(fleet)
    }

    fn spawn(&mut self) -> io::Result<()> {
        let name = format!("worker-{}", self.names.len());
        let path = self.home.join(format!("{name}.log"));
        drop(log::Log::open(&path)?);
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["worker", &self.url, self.queue.as_str(), &name, &SLOTS.to_string()]);
        command.arg(self.lease.as_millis().to_string()).arg(&path);
        let complaints = std::fs::File::create(self.home.join(format!("{name}.err")))?;
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(complaints).process_group(0);
        let process = Process { name: name.clone(), child: command.spawn()?, log: Reader::open(&path)?, fetched: 0 };
        self.names.push(name);
        self.running.push(process);
        Ok(())
    }

    /// kill -9, and another in its place. Says who it was.
    pub(crate) fn replace(&mut self, which: usize) -> io::Result<String> {
        let mut process = self.running.remove(which % WORKERS);
        process.child.kill()?;
        process.child.wait()?;
        self.take(&mut process)?;
        self.spawn()?;
        Ok(process.name)
    }

    fn take(&mut self, process: &mut Process) -> io::Result<()> {
        let worker = self.names.iter().position(|name| *name == process.name).unwrap_or(usize::MAX);
        for (at, seen) in process.log.more()? {
            match seen {
                Seen::Fetched(_) => process.fetched = at,
                Seen::Settled { end, answer: Answer::Settled | Answer::AlreadySettled, .. } if end.is_final() => {
                    self.ended.fetch_add(1, Ordering::Relaxed);
                }
                Seen::Held { .. } | Seen::Ran(_) | Seen::GivesBack { .. } | Seen::Closes | Seen::Settled { .. } => {}
            }
            self.events.push(Event { at, worker, seen });
        }
        Ok(())
    }

    /// Reads on in all logs. A worker that ended by itself is an error.
    pub(crate) fn look(&mut self) -> io::Result<()> {
        let mut running = std::mem::take(&mut self.running);
        for process in &mut running {
            self.take(process)?;
            if let Some(status) = process.child.try_wait()? {
                let said = std::fs::read_to_string(self.home.join(format!("{}.err", process.name)));
                return Err(io::Error::other(format!("{} ended ({status}): {}", process.name, said?.trim())));
            }
        }
        self.running = running;
        Ok(())
    }

    /// What began, and is not known to have ended.
    pub(crate) fn running(&self) -> HashSet<JobId> {
        let mut running = HashSet::new();
        for event in &self.events {
            match event.seen {
                Seen::Ran(id) => drop(running.insert(id)),
                Seen::Settled { id, answer, .. } if answer.is_definite() => drop(running.remove(&id)),
                Seen::Settled { .. } | Seen::Fetched(_) | Seen::Held { .. } | Seen::GivesBack { .. } | Seen::Closes => {
                }
            }
        }
        running
    }

    /// How long after `since` each worker that lives fetched for the first time after `from`; `None` for one that does not within
    /// the limit.
    pub(crate) async fn recovery(
        &mut self,
        since: u64,
        from: u64,
        limit: Duration,
    ) -> io::Result<Vec<(String, Option<Duration>)>> {
        let mut times: Vec<(String, Option<Duration>)> =
            self.running.iter().map(|process| (process.name.clone(), None)).collect();
        // What was read while the fault went on may be of after it.
        let mut read = 0;
        let mut failed = None;
        let _ = until(limit, || {
            if let Err(error) = self.look() {
                failed = Some(error);
                return true;
            }
            for event in &self.events[read..] {
                let name = &self.names[event.worker];
                let known = times.iter_mut().find(|(worker, time)| worker == name && time.is_none());
                if let (Seen::Fetched(_), true, Some((_, time))) = (event.seen, event.at > from, known) {
                    *time = Some(Duration::from_nanos(event.at - since));
                }
            }
            read = self.events.len();
            times.iter().all(|(_, time)| time.is_some())
        })
        .await;
        failed.map_or(Ok(times), Err)
    }

    /// Asks all to stop, kills who does not in time, and reads to the end.
    pub(crate) async fn stop(&mut self, patience: Duration) -> io::Result<()> {
        for process in &mut self.running {
            drop(process.child.stdin.take());
        }
        let running = &mut self.running;
        let _ = until(patience, || {
            running.iter_mut().all(|process| process.child.try_wait().is_ok_and(|status| status.is_some()))
        })
        .await;
        for mut process in std::mem::take(&mut self.running) {
            let _ = process.child.kill();
            process.child.wait()?;
            self.take(&mut process)?;
        }
        Ok(())
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for process in &mut self.running {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}
