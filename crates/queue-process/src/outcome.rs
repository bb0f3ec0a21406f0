//! What the end of a run means for its job.

use bytes::Bytes;
use queue_core::{error::ErrorCode, job::JobError};

use crate::{
    error::StartError,
    limits::{Limit, Limits},
    result::result_json,
    run::{End, Finished},
};

/// The exit status by which a program says that another attempt cannot help: `EX_DATAERR` of `sysexits.h`.
pub const NEVER_RETRY: i32 = 65;

/// The code of a failure by [`Limits::cpu_time`].
pub const CPU_TIME_LIMIT: &str = "CPU_TIME_LIMIT";
/// The code of a failure of a program that was refused a process by [`Limits::processes`].
pub const PROCESS_LIMIT: &str = "PROCESS_LIMIT";

/// The job's result as JSON, or its error with the tail of stderr as detail. Exit 0 completes; [`NEVER_RETRY`] and too
/// much output are permanent failures; any other end may be retried. A limit that explains the end is named.
///
/// # Errors
/// The job's failure.
pub fn outcome(finished: &Finished, limits: &Limits) -> Result<Bytes, JobError> {
    if finished.end == End::Exited(0) {
        return Ok(result_json(&finished.stdout));
    }
    let error = failure(finished, limits);
    let stderr = finished.stderr.text();
    Err(if stderr.is_empty() { error } else { error.with_detail(stderr) })
}

fn failure(finished: &Finished, limits: &Limits) -> JobError {
    let by_itself = match finished.end {
        End::Exited(code) => format!("exit status {code}"),
        End::Signalled(signal) => format!("killed by signal {signal}"),
        End::TimedOut => {
            let message = format!("killed at its timeout, after {:.1} s", finished.run_time.as_secs_f64());
            return JobError::new(ErrorCode::Timeout, message + &refusals(finished.limit, limits));
        }
        End::OutputTooLarge => {
            let message = format!("killed: it wrote more than {} bytes to stdout", limits.max_stdout);
            return JobError::new(ErrorCode::PayloadTooLarge, message);
        }
        End::Cancelled => return JobError::new(ErrorCode::Cancelled, "stopped on request"),
        End::Lost => "its exit status was lost".to_owned(),
    };
    let error = at_limit(&by_itself, finished.limit, finished.counted, limits);
    if finished.end == End::Exited(NEVER_RETRY) { error.permanent() } else { error }
}

/// The error of a program that ended by itself, in this way; `counted` is whether refused processes would be known.
pub(crate) fn at_limit(end: &str, limit: Option<Limit>, counted: bool, limits: &Limits) -> JobError {
    match limit {
        Some(Limit::CpuTime) => {
            let seconds = limits.cpu_seconds().unwrap_or_default();
            JobError::custom(CPU_TIME_LIMIT, format!("it used up its {seconds} s of CPU time ({end})"))
        }
        Some(Limit::Processes(_)) => JobError::custom(PROCESS_LIMIT, end.to_owned() + &refusals(limit, limits)),
        None => JobError::new(ErrorCode::HandlerFailed, end.to_owned() + &limits.suspects(counted)),
    }
}

pub(crate) fn refusals(limit: Option<Limit>, limits: &Limits) -> String {
    match (limit, limits.processes) {
        (Some(Limit::Processes(times)), Some(limit)) => {
            format!("; it was refused another process {times} times, at its limit of {limit}")
        }
        _ => String::new(),
    }
}

/// The error of a job whose program could not be started: retryable where the machine was out of something.
#[must_use]
pub fn failure_to_start(error: &StartError) -> JobError {
    let code = if error.is_transient() { ErrorCode::Unavailable } else { ErrorCode::Config };
    JobError::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::output::Tail;

    fn ended(end: End) -> Result<Bytes, JobError> {
        let stderr = Tail { bytes: Bytes::from_static(b"why\n"), dropped: 0 };
        let stdout = Bytes::from_static(b"7\n");
        let limit = None;
        let run_time = Duration::from_secs(2);
        outcome(&Finished { end, stdout, stderr, limit, counted: false, run_time }, &Limits::default())
    }

    #[test]
    fn a_limit_is_named() {
        let limits = Limits {
            memory: Some(64 << 20),
            cpu_time: Some(Duration::from_secs(2)),
            processes: Some(9),
            ..Limits::default()
        };
        let cases = [
            (End::Signalled(6), None, "HANDLER_FAILED", "killed by signal 6 (its limits: 64 MiB of memory)"),
            (End::Signalled(24), Some(Limit::CpuTime), CPU_TIME_LIMIT, "its 2 s of CPU time (killed by signal 24)"),
            (End::Exited(1), Some(Limit::Processes(3)), PROCESS_LIMIT, "another process 3 times, at its limit of 9"),
            (End::TimedOut, Some(Limit::Processes(3)), "TIMEOUT", "after 2.0 s; it was refused"),
        ];
        for (end, limit, code, said) in cases {
            let run_time = Duration::from_secs(2);
            let (stdout, stderr) = (Bytes::new(), Tail::default());
            let finished = Finished { end, stdout, stderr, limit, counted: true, run_time };
            let error = outcome(&finished, &limits).unwrap_err();
            assert!(error.retryable && error.code == code && error.message.contains(said), "{error}");
        }
    }

    #[test]
    fn the_end_decides() {
        assert_eq!(ended(End::Exited(0)).unwrap(), "7");
        let cases = [
            (End::Exited(1), "HANDLER_FAILED", true, "exit status 1"),
            (End::Exited(65), "HANDLER_FAILED", false, "exit status 65"),
            (End::Signalled(9), "HANDLER_FAILED", true, "signal 9"),
            (End::TimedOut, "TIMEOUT", true, "after 2.0 s"),
            (End::OutputTooLarge, "PAYLOAD_TOO_LARGE", false, "1048576 bytes"),
            (End::Cancelled, "CANCELLED", false, "on request"),
            (End::Lost, "HANDLER_FAILED", true, "lost"),
        ];
        for (end, code, retryable, said) in cases {
            let error = ended(end).unwrap_err();
            assert_eq!((&*error.code, error.retryable), (code, retryable), "{end:?}");
            assert!(error.message.contains(said), "{error}");
            assert_eq!(error.detail.as_deref(), Some("why"));
        }
    }

    #[test]
    fn only_a_shortage_is_retried() {
        let source = std::io::Error::other("too many processes");
        assert!(failure_to_start(&StartError::Exhausted { program: "x".into(), source }).retryable);
        assert!(!failure_to_start(&StartError::NotInPath { program: "x".into() }).retryable);
    }
}
