//! What the end of a run means for its job.

use bytes::Bytes;
use queue_core::{error::ErrorCode, job::JobError};

use crate::{
    error::StartError,
    program::Limits,
    result::result_json,
    run::{End, Finished},
};

/// The exit status by which a program says that another attempt cannot help: `EX_DATAERR` of `sysexits.h`.
pub const NEVER_RETRY: i32 = 65;

/// The job's result as JSON, or its error with the tail of stderr as detail. Exit 0 completes; [`NEVER_RETRY`] and too
/// much output are permanent failures; any other end may be retried.
///
/// # Errors
/// The job's failure.
pub fn outcome(finished: &Finished, limits: &Limits) -> Result<Bytes, JobError> {
    let failed = |message: String| JobError::new(ErrorCode::HandlerFailed, message);
    let error = match finished.end {
        End::Exited(0) => return Ok(result_json(&finished.stdout)),
        End::Exited(code @ NEVER_RETRY) => failed(format!("exit status {code}")).permanent(),
        End::Exited(code) => failed(format!("exit status {code}")),
        End::Signalled(signal) => failed(format!("killed by signal {signal}")),
        End::TimedOut => {
            let message = format!("killed at its timeout, after {:.1} s", finished.run_time.as_secs_f64());
            JobError::new(ErrorCode::Timeout, message)
        }
        End::OutputTooLarge => {
            let message = format!("killed: it wrote more than {} bytes to stdout", limits.max_stdout);
            JobError::new(ErrorCode::PayloadTooLarge, message)
        }
        End::Cancelled => JobError::new(ErrorCode::Cancelled, "stopped on request"),
        End::Lost => failed("its exit status was lost".to_owned()),
    };
    let stderr = finished.stderr.text();
    Err(if stderr.is_empty() { error } else { error.with_detail(stderr) })
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
        outcome(&Finished { end, stdout, stderr, run_time: Duration::from_secs(2) }, &Limits::default())
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
