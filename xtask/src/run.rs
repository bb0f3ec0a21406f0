//! Running other programs so that they never outlive this one.

use std::{
    io::{self, BufRead as _, Read},
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError, SyncSender},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

use crate::interrupt;

const POLL: Duration = Duration::from_millis(20);
const GRACE: Duration = Duration::from_secs(5);
/// Without a line for so long, a program that has ended has said everything.
const SILENCE: Duration = Duration::from_secs(1);
/// What was left behind may go on talking: so long after the end it is heard.
const LAST_WORDS: Duration = Duration::from_secs(5);
const LINES_AHEAD: usize = 1024;

/// What a program said, and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Said {
    /// The last line it had to say, complaints before results, for a message.
    pub(crate) fn last_line(&self) -> &str {
        let mut lines = self.stdout.lines().chain(self.stderr.lines());
        lines.rfind(|line| !line.trim().is_empty()).map_or("it said nothing", str::trim)
    }
}

/// `cargo`, the one that runs this.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The command line as a reader would type it.
pub(crate) fn line(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Runs it with its output shown; an error unless it succeeds.
pub(crate) fn shown(command: &mut Command) -> Result<()> {
    interrupt::check()?;
    eprintln!("$ {}", line(command));
    let child = spawn(command)?;
    let status = wait(child, None, Heed::Interrupts)?;
    if status.success() { Ok(()) } else { bail!("`{}` failed ({status})", line(command)) }
}

/// Runs it with its standard output handed over line by line and its standard error shown.
pub(crate) fn each_line(command: &mut Command, take: impl FnMut(&str)) -> Result<()> {
    let (reader, writer) = io::pipe()?;
    hand_over(command.stdout(writer), reader, take)
}

/// The same with both streams, in the order in which they were written.
pub(crate) fn each_line_of_both(command: &mut Command, take: impl FnMut(&str)) -> Result<()> {
    let (reader, writer) = io::pipe()?;
    hand_over(command.stdout(writer.try_clone()?).stderr(writer), reader, take)
}

fn hand_over(command: &mut Command, reader: io::PipeReader, mut take: impl FnMut(&str)) -> Result<()> {
    interrupt::check()?;
    eprintln!("$ {}", line(command));
    let child = spawn(command)?;
    // This process holds no end to write to, else it would read for ever.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (say, heard) = mpsc::sync_channel(LINES_AHEAD);
    // Ends with the pipe, and that may be held by something left behind which nobody waits for.
    thread::spawn(move || read_lines(reader, &say));
    let guard = thread::spawn(move || wait(child, None, Heed::Interrupts));
    let mut ended = None;
    loop {
        match heard.recv_timeout(SILENCE) {
            Ok(said) => take(&said),
            Err(RecvTimeoutError::Timeout) if !guard.is_finished() => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
        }
        if guard.is_finished() && ended.get_or_insert_with(Instant::now).elapsed() > LAST_WORDS {
            break;
        }
    }
    let status = guard.join().map_err(|_| anyhow::anyhow!("the waiting thread panicked"))??;
    if status.success() { Ok(()) } else { bail!("`{}` failed ({status})", line(command)) }
}

fn read_lines(pipe: io::PipeReader, say: &SyncSender<String>) {
    let mut pipe = io::BufReader::new(pipe);
    let mut bytes = Vec::new();
    while pipe.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0) {
        let said = String::from_utf8_lossy(&bytes);
        if say.send(said.trim_end_matches(['\n', '\r']).to_owned()).is_err() {
            break;
        }
        bytes.clear();
    }
}

/// Runs it silently, at most that long, and tells what it said. Failing is not an error here; not starting is.
pub(crate) fn captured(command: &mut Command, limit: Duration) -> Result<Said> {
    interrupt::check()?;
    capture(command, limit, Heed::Interrupts)
}

/// The same for taking things down: goes on although somebody asked this process to stop.
pub(crate) fn captured_to_the_end(command: &mut Command, limit: Duration) -> Result<Said> {
    capture(command, limit, Heed::Limit)
}

fn capture(command: &mut Command, limit: Duration, heed: Heed) -> Result<Said> {
    let mut child = spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    let stdout = child.stdout.take().map(drain);
    let stderr = child.stderr.take().map(drain);
    let status = wait(child, Some(limit), heed).with_context(|| format!("`{}`", line(command)))?;
    let text = |reader: Option<thread::JoinHandle<String>>| reader.and_then(|r| r.join().ok()).unwrap_or_default();
    Ok(Said { status, stdout: text(stdout), stderr: text(stderr) })
}

fn drain(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What could be read before a broken pipe is better than nothing.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// In its own process group, so that it can be stopped with everything it started.
fn spawn(command: &mut Command) -> Result<Child> {
    command.stdin(Stdio::null()).process_group(0);
    command.spawn().with_context(|| format!("`{}` cannot be started", command.get_program().to_string_lossy()))
}

/// What may end a program before its own end.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Heed {
    Interrupts,
    Limit,
}

fn wait(mut child: Child, limit: Option<Duration>, heed: Heed) -> Result<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if heed == Heed::Interrupts && interrupt::asked() > 0 {
            stop(&mut child)?;
            return Err(interrupt::Interrupted.into());
        }
        if limit.is_some_and(|limit| start.elapsed() > limit) {
            stop(&mut child)?;
            bail!("no end after {:?}", start.elapsed());
        }
        thread::sleep(POLL);
    }
}

/// Asks the whole group to end, and makes it end after a grace or at a second Ctrl-C.
fn stop(child: &mut Child) -> Result<()> {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a child without a process id")?;
    // It may have ended meanwhile: no such process is what we want.
    let _ = kill_process_group(group, Signal::TERM);
    let asked = Instant::now();
    // Cargo ends at once, and what it started may have something to say first.
    while (child.try_wait()?.is_none() || test_kill_process_group(group).is_ok())
        && asked.elapsed() < GRACE
        && interrupt::asked() < 2
    {
        thread::sleep(POLL);
    }
    let _ = kill_process_group(group, Signal::KILL);
    child.wait()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn captures_both_streams_and_the_status() {
        let said = captured(&mut sh("echo out; echo err >&2; exit 3"), Duration::from_secs(10)).unwrap();
        assert_eq!((said.stdout.as_str(), said.stderr.as_str(), said.status.code()), ("out\n", "err\n", Some(3)));
    }

    #[test]
    fn a_program_that_hangs_is_stopped_with_its_children() {
        let start = Instant::now();
        let error = captured(&mut sh("sleep 60 & sleep 60"), Duration::from_millis(100)).unwrap_err();
        assert!(format!("{error:#}").contains("no end after"), "{error:#}");
        // The child of the shell held the pipe: reading to its end shows that it is gone too.
        assert!(start.elapsed() < GRACE, "{:?}", start.elapsed());
    }

    #[test]
    fn what_a_stopped_program_started_has_time_for_its_last_words() {
        let heard = tempfile::NamedTempFile::new().unwrap();
        let talks = r#"(trap 'sleep 0.5; echo bye > "$HEARD"; exit' TERM; while :; do sleep 0.05; done) &
            sleep 60"#;
        let mut command = sh(talks);
        captured(command.env("HEARD", heard.path()), Duration::from_millis(300)).unwrap_err();
        assert_eq!(std::fs::read_to_string(heard.path()).unwrap(), "bye\n");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = captured(&mut Command::new("no-such-program"), Duration::from_secs(1)).unwrap_err();
        assert!(error.to_string().contains("no-such-program"), "{error}");
    }

    #[test]
    fn lines_arrive_in_order_and_failure_is_told() {
        let mut lines = Vec::new();
        let failed = each_line(&mut sh("echo a; echo b; exit 1"), |line| lines.push(line.to_owned()));
        assert_eq!(lines, ["a", "b"]);
        assert!(failed.unwrap_err().to_string().contains("failed"));
    }

    #[test]
    fn both_streams_arrive_in_the_order_they_were_written() {
        let mut lines = Vec::new();
        each_line_of_both(&mut sh("echo a; echo b >&2; printf 'c\\377\\n'"), |line| lines.push(line.to_owned()))
            .unwrap();
        assert_eq!(lines, ["a", "b", "c\u{fffd}"]);
    }

    #[test]
    fn what_is_left_behind_with_the_pipe_is_not_waited_for() {
        let start = Instant::now();
        let mut lines = Vec::new();
        each_line(&mut sh("setsid sleep 20 & echo a"), |line| lines.push(line.to_owned())).unwrap();
        assert_eq!(lines, ["a"]);
        assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    }

    #[test]
    fn what_is_left_behind_and_talks_on_is_not_listened_to_for_ever() {
        let start = Instant::now();
        let mut lines = Vec::new();
        let talks = "setsid sh -c 'for n in $(seq 60); do echo more; sleep 0.5; done' & echo a";
        each_line(&mut sh(talks), |line| lines.push(line.to_owned())).unwrap();
        assert!(lines.iter().any(|line| line == "a"), "{lines:?}");
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    }
}
