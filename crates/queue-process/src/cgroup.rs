//! Cgroups that bound how many processes a run has: `pids.max`, in either version of the interface.
//!
//! A room is one directory of this process's own with a cell for each run at a time; cells are used again, and removed with
//! the room. A run that has ended leaves nothing in its cell: whoever is left is killed, even outside the process group.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::{
    fs::{Access, AtFlags, CWD, accessat},
    process::{Pid, Signal, kill_process},
};

const PREFIX: &str = "queue-process";

/// Where the cells of one program are made.
#[derive(Debug)]
pub(crate) struct Room {
    directory: PathBuf,
    max: u32,
    free: Mutex<Vec<PathBuf>>,
    made: AtomicU64,
}

/// The cgroup of one run.
#[derive(Debug)]
pub(crate) struct Cell {
    room: Arc<Room>,
    directory: PathBuf,
    refused_before: u64,
}

impl Room {
    /// Makes a room where this process may, or says what is missing.
    pub(crate) fn find(max: u32) -> Result<Self, String> {
        let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
        let parent = parent(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?)?;
        Self::make(&parent, max).map_err(|error| format!("no cgroup can be made in {}: {error}", parent.display()))
    }

    /// Makes a room and its first cell, which is the proof that it can.
    fn make(parent: &Path, max: u32) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        sweep(parent);
        let name = format!("{PREFIX}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let room = Self { directory: parent.join(name), max, free: Mutex::default(), made: AtomicU64::new(0) };
        fs::create_dir(&room.directory)?;
        // Version 2: children have a controller only where their parent hands it down.
        let handed_down = room.directory.join("cgroup.subtree_control");
        if handed_down.exists() {
            fs::write(handed_down, "+pids")?;
        }
        let first = room.cell()?;
        room.give_back(first);
        Ok(room)
    }

    fn cell(&self) -> io::Result<PathBuf> {
        let cell = self.directory.join(self.made.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir(&cell)?;
        fs::write(cell.join("pids.max"), self.max.to_string())?;
        Ok(cell)
    }

    /// A cell that nobody is in.
    pub(crate) fn take(self: &Arc<Self>) -> io::Result<Cell> {
        let mut occupied = Vec::new();
        let directory = loop {
            let Some(cell) = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop() else { break self.cell()? };
            match clear(&cell) {
                true => break cell,
                // Killed, and not gone yet.
                false => occupied.push(cell),
            }
        };
        occupied.into_iter().for_each(|cell| self.give_back(cell));
        Ok(Cell { room: Arc::clone(self), refused_before: refused(&directory), directory })
    }

    fn give_back(&self, cell: PathBuf) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(cell);
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        remove(&self.directory);
    }
}

impl Cell {
    /// The file to write to for whoever joins it.
    pub(crate) fn join(&self) -> String {
        self.directory.join("cgroup.procs").display().to_string()
    }

    /// How often a process was refused since the cell was taken.
    pub(crate) fn refused(&self) -> u64 {
        refused(&self.directory).saturating_sub(self.refused_before)
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        clear(&self.directory);
        self.room.give_back(std::mem::take(&mut self.directory));
    }
}

fn refused(cell: &Path) -> u64 {
    let events = fs::read_to_string(cell.join("pids.events")).unwrap_or_default();
    events.lines().find_map(|line| line.strip_prefix("max ")?.trim().parse().ok()).unwrap_or(0)
}

fn members(cell: &Path) -> impl Iterator<Item = Pid> {
    let text = fs::read_to_string(cell.join("cgroup.procs")).unwrap_or_default();
    let pids: Vec<Pid> = text.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)).collect();
    pids.into_iter()
}

/// Kills whoever is in it; whether nobody was.
fn clear(cell: &Path) -> bool {
    let mut empty = true;
    // Whoever forks is met again: within `pids.max`, killing is faster than that.
    for _ in 0..100 {
        let left: Vec<Pid> = members(cell).collect();
        if left.is_empty() {
            return empty;
        }
        empty = false;
        if fs::write(cell.join("cgroup.kill"), "1").is_err() {
            left.into_iter().for_each(|pid| {
                let _ = kill_process(pid, Signal::KILL);
            });
        }
    }
    false
}

fn remove(room: &Path) {
    for cell in fs::read_dir(room).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        clear(&cell.path());
        let _ = fs::remove_dir(cell.path());
    }
    let _ = fs::remove_dir(room);
}

/// Removes what a process left that was killed. Its number may be in use again: then it stays a little longer.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.strip_prefix('-')?.split('-').next());
        let owner = owner.and_then(|owner| Pid::from_raw(owner.parse().ok()?));
        if owner.is_some_and(|owner| rustix::process::test_kill_process(owner) == Err(rustix::io::Errno::SRCH)) {
            remove(&entry.path());
        }
    }
}

/// The directory where this process may make cgroups that have `pids.max`.
///
/// Version 1: its own cgroup of the pids hierarchy. Version 2: the nearest cgroup, from its own upwards, that hands the
/// controller down; a cgroup with processes in it does not, so it is usually the one above its own.
fn parent(mountinfo: &str, cgroup: &str) -> Result<PathBuf, String> {
    let own = |controller: &str| {
        cgroup.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let matches = match controller {
                "" => id == "0" && controllers.is_empty(),
                _ => controllers.split(',').any(|one| one == controller),
            };
            matches.then(|| path.trim_start_matches('/').to_owned())
        })
    };
    if let (Some(mount), Some(own)) = (mounted(mountinfo, "cgroup", "pids"), own("pids")) {
        let directory = mount.join(own);
        return match writable(&directory) {
            true => Ok(directory),
            false => Err(format!("{} is not writable", directory.display())),
        };
    }
    let (Some(mount), Some(own)) = (mounted(mountinfo, "cgroup2", ""), own("")) else {
        return Err("no cgroup hierarchy is mounted".to_owned());
    };
    let start = mount.join(own);
    let mut handed_down = false;
    for directory in start.ancestors().take_while(|directory| directory.starts_with(&mount)) {
        let controllers = fs::read_to_string(directory.join("cgroup.subtree_control")).unwrap_or_default();
        if !controllers.split_whitespace().any(|one| one == "pids") {
            continue;
        }
        handed_down = true;
        // A process may be moved by whoever may write to the nearest cgroup above both places.
        if writable(directory) && writable(&directory.join("cgroup.procs")) {
            return Ok(directory.to_owned());
        }
        break;
    }
    Err(match handed_down {
        true => format!("the cgroup above {} is not writable", start.display()),
        false => format!("no cgroup from {} upwards hands the pids controller down", start.display()),
    })
}

/// Where a hierarchy of this type, and with this option, is mounted.
fn mounted(mountinfo: &str, kind: &str, option: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (place, what) = line.split_once(" - ")?;
        let mut what = what.split(' ');
        let (is, options) = (what.next()?, what.nth(1).unwrap_or_default());
        let wanted = is == kind && (option.is_empty() || options.split(',').any(|one| one == option));
        wanted.then(|| place.split(' ').nth(4).map(PathBuf::from)).flatten()
    })
}

fn writable(path: &Path) -> bool {
    accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mountinfo(kind: &str, place: &Path, options: &str) -> String {
        format!(
            "22 1 0:20 / /proc rw - proc proc rw\n30 22 0:25 / {} rw shared:9 - {kind} x {options}\n",
            place.display()
        )
    }

    #[test]
    fn version_1_is_its_own_cgroup() {
        let scratch = std::env::temp_dir();
        let mounts = mountinfo("cgroup", &scratch, "rw,pids");
        assert_eq!(parent(&mounts, "8:cpu,pids:/\n0::/x\n").unwrap(), scratch);
        let error = parent(&mounts, "8:pids:/no/such\n").unwrap_err();
        assert!(error.ends_with("no/such is not writable"), "{error}");
    }

    #[test]
    fn version_2_is_the_nearest_that_hands_the_controller_down() {
        let scratch = std::env::temp_dir().join(format!("queue-cgroup-{}", std::process::id()));
        let own = scratch.join("slice/scope");
        fs::create_dir_all(&own).unwrap();
        let mounts = mountinfo("cgroup2", &scratch, "rw");
        fs::write(own.join("cgroup.subtree_control"), "").unwrap();
        fs::write(scratch.join("slice/cgroup.subtree_control"), "memory").unwrap();
        let error = parent(&mounts, "0::/slice/scope\n").unwrap_err();
        assert!(error.contains("hands the pids controller down"), "{error}");
        fs::write(scratch.join("slice/cgroup.subtree_control"), "cpu memory pids\n").unwrap();
        let error = parent(&mounts, "0::/slice/scope\n").unwrap_err();
        assert!(error.contains("not writable"), "it has no cgroup.procs: {error}");
        fs::write(scratch.join("slice/cgroup.procs"), "").unwrap();
        assert_eq!(parent(&mounts, "0::/slice/scope\n").unwrap(), scratch.join("slice"));
        fs::remove_dir_all(scratch).unwrap();
    }

    #[test]
    fn nothing_mounted_is_said() {
        assert_eq!(parent("", "0::/\n").unwrap_err(), "no cgroup hierarchy is mounted");
    }

    #[test]
    fn what_a_killed_process_left_is_swept() {
        let scratch = std::env::temp_dir().join(format!("queue-sweep-{}", std::process::id()));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let dead = scratch.join(format!("{PREFIX}-{}-0", child.id()));
        let alive = scratch.join(format!("{PREFIX}-{}-0", std::process::id()));
        for room in [&dead, &alive, &scratch.join("other")] {
            fs::create_dir_all(room.join("0")).unwrap();
        }
        sweep(&scratch);
        assert!(!dead.exists() && alive.exists() && scratch.join("other").exists());
        fs::remove_dir_all(scratch).unwrap();
    }
}
