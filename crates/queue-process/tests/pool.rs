//! Processes that stay, and what they must not do to each other's jobs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod machine;

use std::time::Duration;

use machine::{Scratch, gone, pids_in, reaped, sh, stopwatch};
use queue_core::{
    JobScheduler, QueueName, RetryPolicy, Worker,
    job::{ContentType, JobKind, JobRef},
    lifecycle::JobState,
    provider::{Cancel, PublishOptions},
    scheduler::{NewJob, Submitted},
    store::JobRecord,
};
use queue_memory::MemoryProvider;
use queue_process::{Limits, PoolOptions, ProcessPool, Program};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Answers each line by what its payload says.
const HANDLER: &str = r#"
    answer() { printf '{"id":"%s",%s}\n' "$id" "$1"; }
    while read -r line; do
        id=${line#*'"id":"'}; id=${id%%'"'*}
        payload=${line#*'"payload":"'}; payload=${payload%%'"'*}
        case $payload in
            pid) answer "\"result\":$$";;
            line) answer "\"result\":$line";;
            talk) answer '"progress":{"percent":50,"stage":"half"}'; answer '"log":"first"'; answer '"log":"second"'
                  answer '"result":null';;
            refuse) echo context >&2; answer '"error":{"code":"NO_SUCH_USER","message":"no","retryable":false}';;
            again) case $line in *'"attempt":1,'*) answer '"error":{"message":"not yet"}';; *) answer '"result":2';; esac;;
            exit) echo trouble >&2; exit 3;;
            signal) kill -SEGV $$;;
            stdout) exec >&-; sleep 77;;
            stdin) exec <&-; sleep 77;;
            nonsense) echo 'Traceback (most recent call last)';;
            other) id=somebody; answer '"result":1';;
            twice) printf '{"id":"%s","result":1}\n{"id":"%s","result":2}\n' "$id" "$id";;
            later) answer '"error":{"message":"no"}'; sleep 0.1; answer '"result":"late"';;
            doze) sleep 0.05; answer '"result":1';;
            mutter) echo earlier >&2; answer '"result":1';;
            long) head -c 70000 /dev/zero | tr '\0' x; sleep 77;;
            flood) while :; do answer '"log":"more"'; done;;
            hang) trap '' TERM; sleep 76 & echo $$ $! > "$PIDS"; sleep 77;;
            meek) echo > "$PIDS"; while :; do sleep 0.02; done;;
            polite) trap 'answer "\"result\":\"cut short\""; exit' TERM; echo > "$PIDS"; while :; do sleep 0.02; done;;
            last) answer '"result":"bye"'; exit 0;;
            spin) while :; do :; done;;
            mind) : "${x:=$(head -c 1 /dev/zero)}"; answer "\"result\":\"fine\"";;
        esac
    done"#;

struct Bench {
    queues: JobScheduler,
    worker: Option<Worker>,
    pool: ProcessPool,
    scratch: Scratch,
}

impl Bench {
    async fn new(options: PoolOptions, limits: Limits) -> Self {
        Self::with(HANDLER, options, limits).await
    }

    async fn with(script: &str, options: PoolOptions, limits: Limits) -> Self {
        let scratch = Scratch::new();
        let program = sh(script).with_limits(limits).variable("PIDS", scratch.path("pids"));
        Self::of(program, options, scratch).await
    }

    async fn of(program: Program, options: PoolOptions, scratch: Scratch) -> Self {
        let queues = JobScheduler::new(MemoryProvider::new());
        let size = options.size;
        let pool = ProcessPool::new(program, options).unwrap();
        let worker = queues.worker().queue("q", size).drain_deadline(SECOND / 5).fallback(pool.clone());
        let worker = worker.start().await.unwrap();
        Self { queues, worker: Some(worker), pool, scratch }
    }

    async fn one() -> Self {
        Self::new(PoolOptions::default(), Limits { grace: SECOND / 5, max_stdout: 64 << 10, ..Limits::default() }).await
    }

    async fn submit_as(
        &self,
        payload: &'static str,
        content_type: ContentType,
        timeout: Duration,
        attempts: u32,
    ) -> JobRef {
        let mut job = NewJob::new(JobKind::new("mail").unwrap(), payload);
        job.options.content_type = content_type;
        job.options.timeout = Some(timeout);
        job.options.retry = Some(RetryPolicy::immediate(attempts));
        match self.queues.submit(&QueueName::new("q").unwrap(), vec![job], &PublishOptions::default()).await.pop() {
            Some(Submitted::Accepted(job)) => job,
            other => panic!("{other:?}"),
        }
    }

    async fn submit(&self, payload: &'static str) -> JobRef {
        self.submit_as(payload, ContentType::Text, MINUTE, 1).await
    }

    async fn ended(&self, job: &JobRef) -> JobRecord {
        for _ in 0..3_000 {
            let record = self.queues.get(job).await.unwrap();
            if record.state.is_terminal() {
                return record;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{:?}", self.queues.get(job).await);
    }

    async fn does(&self, payload: &'static str) -> JobRecord {
        self.ended(&self.submit(payload).await).await
    }

    async fn pid(&self) -> i32 {
        let result = self.does("pid").await.result.unwrap();
        pids_in(&result)[0]
    }

    async fn pids_of_file(&self) -> Vec<i32> {
        for _ in 0..500 {
            match std::fs::read(self.scratch.path("pids")) {
                Ok(text) if text.ends_with(b"\n") => return pids_in(&text),
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
        panic!("it did not get so far");
    }

    async fn end(mut self) {
        self.worker.take().unwrap().stop().await;
        self.pool.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_answers_many_jobs() {
    let bench = Bench::one().await;
    let pid = bench.pid().await;
    for _ in 0..20 {
        assert_eq!(bench.pid().await, pid);
    }
    assert_eq!((bench.pool.stats().started, bench.pool.stats().broken), (1, 0));
    bench.end().await;
    assert!(reaped(pid).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_in_as_one_line_and_its_answer_comes_out() {
    let bench = Bench::with(
        r#"while read -r line; do id=${line#*'"id":"'}; printf '{"id":"%s","result":%s}\n' "${id%%'"'*}" "$line"; done"#,
        PoolOptions::default(),
        Limits::default(),
    )
    .await;
    for (payload, content_type, shown) in [
        ("{\n  \"to\": 1.10\n}", ContentType::Json, r#"{  "to": 1.10}"#),
        ("two\nlines", ContentType::Text, r#""two\nlines""#),
        ("two", ContentType::Bytes, r#""dHdv","encoding":"base64""#),
    ] {
        let job = bench.submit_as(payload, content_type, MINUTE, 3).await;
        let result = bench.ended(&job).await.result.unwrap();
        let id = job.id;
        let expected =
            format!(r#"{{"id":"{id}","queue":"q","kind":"mail","attempt":1,"max_attempts":3,"payload":{shown}}}"#);
        assert_eq!(String::from_utf8_lossy(&result), expected);
    }
    let no_json = bench.submit_as("hello", ContentType::Json, MINUTE, 3).await;
    let error = bench.ended(&no_json).await.error.unwrap();
    assert_eq!((&*error.code, error.retryable), ("VALIDATION", false));
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_logs_and_errors_are_the_jobs() {
    let bench = Bench::one().await;
    let record = bench.does("talk").await;
    assert_eq!(record.state, JobState::Completed);
    assert_eq!(record.progress.unwrap(), r#"{"percent":50.0,"stage":"half"}"#);
    let logs: Vec<String> = record.logs.iter().map(|line| format!("{line:?}")).collect();
    assert!(logs.len() == 2 && logs[0].contains("first") && logs[1].contains("second"), "{logs:?}");
    bench.does("mutter").await;
    let job = bench.submit_as("refuse", ContentType::Text, MINUTE, 3).await;
    let record = bench.ended(&job).await;
    let error = record.error.unwrap();
    assert_eq!((record.state, record.attempt), (JobState::Dead, 1), "it is not to be retried");
    assert_eq!((&*error.code, &*error.message, error.detail.as_deref()), ("NO_SUCH_USER", "no", Some("context")));
    let job = bench.submit_as("again", ContentType::Text, MINUTE, 3).await;
    let record = bench.ended(&job).await;
    assert_eq!((record.attempt, record.result.unwrap()), (2, "2".into()));
    assert_eq!(bench.pool.stats().started, 1, "an error is an answer too");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_breaks_costs_its_own_job_and_is_replaced() {
    let bench = Bench::one().await;
    for (payload, said, detail) in [
        ("exit", "ended before it answered, exit status 3", Some("trouble")),
        ("signal", "ended before it answered, killed by signal 11", None),
        ("stdout", "closed its stdout before it answered", None),
        ("nonsense", "it wrote a line that is no answer (expected value at line 1 column 1): Traceback", None),
        ("other", "it wrote an answer for \"somebody\" while", None),
        ("long", "it wrote a line of more than 65536 bytes", None),
    ] {
        let pid = bench.pid().await;
        let (elapsed, record) = stopwatch(bench.does(payload)).await;
        let error = record.error.unwrap();
        assert_eq!((&*error.code, error.retryable), ("HANDLER_FAILED", true), "{payload}: {error}");
        assert!(error.message.contains(said), "{payload}: {error}");
        assert_eq!(error.detail.as_deref(), detail, "{payload}");
        assert!(elapsed < 3 * SECOND, "{payload}: {elapsed:?}");
        assert_ne!(bench.pid().await, pid, "{payload}");
        assert!(gone(&[pid]).await && reaped(pid).await, "{payload}");
    }
    assert_eq!(bench.pool.stats().broken, 6);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_closes_its_stdin_is_replaced() {
    let bench = Bench::with("exec <&-; sleep 70", PoolOptions::default(), Limits::default()).await;
    tokio::time::sleep(SECOND / 2).await;
    let (elapsed, record) = stopwatch(bench.does("pid")).await;
    let message = record.error.unwrap().message;
    assert!(message.contains("closed its stdin before it answered, and was killed"), "{message}");
    assert!(elapsed < 5 * SECOND, "{elapsed:?}");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_counts_whatever_comes_after_it() {
    let bench = Bench::one().await;
    // It may take the next job into its pipe while it exits: then that one is retried.
    for (payload, result, attempts) in [("twice", "1", 1), ("last", "\"bye\"", 2)] {
        let pid = bench.pid().await;
        let record = bench.does(payload).await;
        assert_eq!((record.state, record.result.unwrap()), (JobState::Completed, result.into()), "{payload}");
        // What came too much, or the end, is nothing to the next job.
        let next = bench.submit_as("pid", ContentType::Text, MINUTE, attempts).await;
        let record = bench.ended(&next).await;
        assert_eq!(record.state, JobState::Completed, "{payload}: {:?}", record.error);
        assert_ne!(pids_in(&record.result.unwrap()), [pid], "{payload}");
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_second_answer_is_nothing_to_the_next_job() {
    let bench = Bench::one().await;
    assert_eq!(bench.does("later").await.state, JobState::Dead);
    tokio::time::sleep(SECOND / 2).await;
    let record = bench.does("pid").await;
    assert_eq!(record.state, JobState::Completed, "{:?}", record.error);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_given_up_half_way_takes_its_process_with_it() {
    let mut bench = Bench::one().await;
    bench.submit("hang").await;
    let pids = bench.pids_of_file().await;
    drop(bench.worker.take());
    assert!(gone(&pids).await, "{pids:?}");
    assert_eq!(bench.pool.stats().broken, 0);
    bench.pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_timeout_the_group_dies_and_the_next_job_runs() {
    let bench = Bench::one().await;
    let job = bench.submit_as("hang", ContentType::Text, SECOND / 2, 1).await;
    let (elapsed, record) = stopwatch(bench.ended(&job)).await;
    let error = record.error.unwrap();
    assert_eq!(&*error.code, "TIMEOUT");
    assert!(
        error.message.contains("killed at its timeout, after 0.4") || error.message.contains("after 0.5"),
        "{error}"
    );
    let pids = bench.pids_of_file().await;
    assert_eq!(pids.len(), 2);
    assert!(gone(&pids).await && reaped(pids[0]).await, "{pids:?}");
    assert!(elapsed < 3 * SECOND, "{elapsed:?}");
    bench.pid().await;
    // One that talks all the time has no more of it.
    let job = bench.submit_as("flood", ContentType::Text, SECOND / 2, 1).await;
    let (elapsed, record) = stopwatch(bench.ended(&job)).await;
    assert_eq!(&*record.error.unwrap().code, "TIMEOUT");
    assert!(elapsed < 3 * SECOND, "{elapsed:?}");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_ends_the_job_and_the_process() {
    let bench = Bench::one().await;
    for (payload, state) in [("polite", JobState::Completed), ("hang", JobState::Cancelled)] {
        let _ = std::fs::remove_file(bench.scratch.path("pids"));
        let job = bench.submit(payload).await;
        let pids = bench.pids_of_file().await;
        bench.queues.cancel(&job, &Cancel::by("a test")).await.unwrap();
        let (elapsed, record) = stopwatch(bench.ended(&job)).await;
        assert_eq!(record.state, state, "{payload}");
        assert!(elapsed < 3 * SECOND, "{payload}: {elapsed:?}");
        assert!(gone(&pids).await, "{payload}: {pids:?}");
        bench.pid().await;
    }
    bench.end().await;
}

/// One that dies of the signal, one that will not hear of it, and one that has no process yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_beyond_its_deadline_gives_jobs_back() {
    for (payload, state) in [("meek", JobState::Pending), ("hang", JobState::Pending), ("polite", JobState::Completed)]
    {
        let mut bench = Bench::one().await;
        let job = bench.submit(payload).await;
        bench.pids_of_file().await;
        let (elapsed, report) = stopwatch(bench.worker.take().unwrap().stop()).await;
        let given_back = usize::from(state == JobState::Pending);
        assert_eq!((report.done, report.aborted), (1 - given_back, given_back), "{payload}");
        let record = bench.queues.get(&job).await.unwrap();
        assert_eq!((record.state, record.attempt), (state, 1), "{payload}: {record:?}");
        assert!(elapsed < 3 * SECOND, "{payload}: {elapsed:?}");
        bench.pool.shutdown().await;
    }
    let mut bench = Bench::with("exit 1", PoolOptions::default(), Limits::default()).await;
    let job = bench.submit_as("pid", ContentType::Text, MINUTE, 1_000).await;
    tokio::time::sleep(SECOND / 2).await;
    bench.worker.take().unwrap().stop().await;
    assert_eq!(bench.queues.get(&job).await.unwrap().state, JobState::Pending);
    bench.pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_process_beyond_its_own_time() {
    // It never gets as far as an answer, so the pauses grow.
    let bench = Bench::with("exit 1", PoolOptions::default(), Limits::default()).await;
    let job = bench.submit_as("pid", ContentType::Text, SECOND, 8).await;
    let (elapsed, record) = stopwatch(bench.ended(&job)).await;
    assert_eq!(record.state, JobState::Dead);
    assert!(elapsed < 10 * SECOND, "{elapsed:?}");
    let job = bench.submit_as("pid", ContentType::Text, MINUTE, 8).await;
    tokio::time::sleep(SECOND / 5).await;
    bench.queues.cancel(&job, &Cancel::by("a test")).await.unwrap();
    let (elapsed, record) = stopwatch(bench.ended(&job)).await;
    assert!(matches!(record.state, JobState::Cancelled | JobState::Dead), "{record:?}");
    assert!(elapsed < 2 * SECOND, "{elapsed:?}");
    let started = bench.pool.stats().started;
    assert!(started < 25, "it hot-loops: {started}");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_replaced_after_its_jobs() {
    let bench = Bench::new(PoolOptions { max_jobs: Some(3), ..PoolOptions::default() }, Limits::default()).await;
    let mut pids = Vec::new();
    for _ in 0..9 {
        pids.push(bench.pid().await);
    }
    assert!(pids.chunks(3).all(|three| three[0] == three[2]), "{pids:?}");
    pids.dedup();
    assert_eq!(pids.len(), 3);
    assert!(gone(&pids).await && reaped(pids[0]).await);
    assert_eq!(bench.pool.stats().broken, 0);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_idle_is_replaced_before_anyone_needs_it() {
    let bench = Bench::one().await;
    let pid = bench.pid().await;
    machine::kill(pid);
    assert!(reaped(pid).await || reaped(pid).await, "nobody noticed");
    for _ in 0..200 {
        if bench.pool.stats().started == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((bench.pool.stats().started, bench.pool.stats().broken), (2, 1));
    // One that died a moment ago costs no job either.
    let pid = bench.pid().await;
    machine::kill(pid);
    tokio::time::sleep(SECOND / 20).await;
    assert_eq!(bench.does("pid").await.state, JobState::Completed);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_pool_leaves_nothing() {
    let mut bench = Bench::new(PoolOptions { size: 2, ..PoolOptions::default() }, Limits::default()).await;
    let idle = bench.pid().await;
    bench.submit("hang").await;
    let mut pids = bench.pids_of_file().await;
    pids.push(idle);
    drop(bench.worker.take());
    drop(bench.pool);
    assert!(gone(&pids).await, "{pids:?}");
    assert!(reaped(idle).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_lets_processes_end_by_themselves_and_kills_what_does_not() {
    let script = r#"while read -r line; do id=${line#*'"id":"'}
        printf '{"id":"%s","result":%s}\n' "${id%%'"'*}" $$; done; head -c 200000 /dev/zero; echo end >> "$PIDS""#;
    let bench = Bench::with(script, PoolOptions::default(), Limits::default()).await;
    let pid = bench.pid().await;
    let said = bench.scratch.path("pids");
    let (worker, pool) = (bench.worker.unwrap(), bench.pool);
    worker.stop().await;
    pool.shutdown().await;
    assert_eq!(std::fs::read_to_string(said).unwrap(), "end\n");
    assert!(reaped(pid).await);

    let limits = Limits { grace: SECOND / 5, ..Limits::default() };
    let bench = Bench::with(&format!("{HANDLER}\ntrap '' TERM; sleep 75"), PoolOptions::default(), limits).await;
    let pid = bench.pid().await;
    let (elapsed, ()) = stopwatch(bench.end()).await;
    assert!(elapsed >= SECOND / 5 && elapsed < 5 * SECOND, "{elapsed:?}");
    assert!(gone(&[pid]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_payloads_and_results_do_not_block_each_other() {
    let answer = r#"s/^{"id":"\([^"]*\)".*"payload":\(.*\)}$/{"id":"\1","log":\2}\n{"id":"\1","result":\2}/"#;
    let program = Program::new("sed").args(["-u", answer]);
    let bench = Bench::of(program, PoolOptions::default(), Scratch::new()).await;
    let payload: &'static str = format!("\"{}\"", "0123456789abcdef".repeat(50_000)).leak();
    let job = bench.submit_as(payload, ContentType::Json, MINUTE, 1).await;
    let record = bench.ended(&job).await;
    assert!(record.result.as_deref() == Some(payload.as_bytes()), "{:?}", record.error);
    bench.end().await;
}

/// A prompt process shares a processor with who waits for it, and one that takes its time may go anywhere again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[cfg(target_os = "linux")]
async fn a_process_that_takes_its_time_is_bound_to_no_processor() {
    let bench = Bench::one().await;
    let pid = bench.pid().await;
    let processors = |pid: i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let masks = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed:")).unwrap().trim();
        masks.split(',').map(|mask| u32::from_str_radix(mask, 16).unwrap().count_ones()).sum::<u32>()
    };
    for _ in 0..100 {
        assert_eq!(bench.pid().await, pid);
    }
    let all = processors(std::process::id() as i32);
    let near = processors(pid);
    assert!(near == 1 || near == all, "{near} of {all}");
    assert_eq!(bench.does("doze").await.state, JobState::Completed);
    assert_eq!(processors(pid), all);
    bench.end().await;
}

#[tokio::test]
async fn a_pool_of_nothing_is_refused_at_once() {
    let error = ProcessPool::new(Program::new("no-such-program"), PoolOptions::default()).unwrap_err();
    assert!(error.to_string().contains("not in PATH"));
}
