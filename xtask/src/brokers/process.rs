//! Processes that outlive the one that started them, told apart from later ones with the same id.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

const GRACE: Duration = Duration::from_secs(10);

/// When a process began, in the kernel's ticks since boot, with the boot it belongs to: together with the id it names one
/// process for good. `None`: there is none, or only its exit status is left.
pub(crate) fn born(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Some(format!("{} {}", boot.trim(), start_ticks(&stat)?))
}

/// Field 22 of `/proc/PID/stat`. The second one, the name, may hold blanks and brackets.
fn start_ticks(stat: &str) -> Option<&str> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" { None } else { fields.nth(18) }
}

/// Whether this very process still runs.
pub(crate) fn lives(pid: i32, since: &str) -> bool {
    born(pid).is_some_and(|now| now == since)
}

/// Stops this very process, gently first. `false`: it was gone. Another process that has its id now is left alone.
pub(crate) fn stop(pid: i32, since: &str) -> Result<bool> {
    if !lives(pid, since) {
        return Ok(false);
    }
    let id = Pid::from_raw(pid).context("not a process id")?;
    for (signal, grace) in [(Signal::TERM, GRACE), (Signal::KILL, GRACE)] {
        if let Err(error) = kill_process(id, signal)
            && lives(pid, since)
        {
            return Err(error).with_context(|| format!("process {pid} cannot be stopped"));
        }
        let asked = Instant::now();
        while asked.elapsed() < grace {
            if !lives(pid, since) {
                return Ok(true);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
    bail!("process {pid} does not end")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_start_is_read_past_a_hostile_name() {
        let fields: Vec<String> = (4..=30).map(|n| n.to_string()).collect();
        let stat = |state: &str| format!("77 (a) b (c) {state} {}", fields.join(" "));
        assert_eq!(start_ticks(&stat("S")), Some("22"));
        assert_eq!(start_ticks(&stat("Z")), None);
        assert_eq!(start_ticks("garbage"), None);
    }

    #[test]
    fn only_the_very_process_is_stopped() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let since = born(pid).unwrap();

        assert!(!stop(pid, "another boot 1").unwrap(), "another process under this id is not ours");
        assert!(child.try_wait().unwrap().is_none(), "it was left alone");

        assert!(lives(pid, &since));
        assert!(stop(pid, &since).unwrap());
        assert!(!lives(pid, &since));
        assert!(!stop(pid, &since).unwrap(), "stopping again is no error");
        child.wait().unwrap();
    }
}
