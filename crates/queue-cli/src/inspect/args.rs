//! What `queue inspect` is asked.

use clap::Args;
use queue_core::{job::QueueName, lifecycle::JobState};

use crate::args::queue_name;

/// `queue inspect`.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = HELP)]
pub struct InspectArgs {
    /// Only this queue [default: all]
    #[arg(value_name = "QUEUE", value_parser = queue_name)]
    pub queue: Option<QueueName>,

    /// Where the queues are [default: as the environment says]
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,

    /// List jobs of the queue, at most so many [default number: 20]
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "20", requires = "queue",
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub jobs: Option<u32>,

    /// With --jobs: only those in this state; may be given several times
    #[arg(long, value_name = "STATE", value_parser = state, requires = "jobs")]
    pub state: Vec<JobState>,

    /// Show one job: ID, or ID@QUEUE as it is printed where it was enqueued
    #[arg(long, value_name = "ID", conflicts_with = "jobs")]
    pub job: Option<String>,

    /// With --job: also what it was submitted with and what it returned, which may be secret
    #[arg(long, requires = "job")]
    pub payload: bool,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn state(text: &str) -> Result<JobState, String> {
    JobState::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| {
        let words: Vec<&str> = JobState::ALL.iter().map(|state| state.as_str()).collect();
        format!("there is no such state; there are: {}", words.join(", "))
    })
}

const HELP: &str = "\
It only looks: nothing is claimed, changed or declared. Payloads and results are shown with --payload alone. Credentials of
the URL are in nothing that is printed; to keep them off the command line as well, leave --url out and set
MESSAGE_QUEUE_PROVIDER and the URL's variable, such as REDIS_URL.

PROVIDERS
  Those that the command was built with: `cargo build -p queue-cli --features redis,rabbitmq`. RabbitMQ remembers no
  job: give its URL the `store=` that the workers use. Without `store=` it cannot list its queues either: name one.

EXIT STATUS
  0  shown     1  no such job or queue, or one could not be looked at     2  unusable arguments or provider

EXAMPLES
  How full are the queues?
    queue inspect --url redis://localhost
  What runs, who has it, and until when?
    queue inspect mail --url redis://localhost --jobs 50 --state running
  What became of a job?
    queue inspect --url redis://localhost --job 0192d3a4-5b6c-7d8e-9f00-112233445566
  The same for a program, with the payload:
    queue inspect mail --url redis://localhost --job 0192d3a4-5b6c-7d8e-9f00-112233445566 --payload --json
  Of RabbitMQ, with the store that its workers use:
    queue inspect mail --url 'amqp://localhost?store=redis%3A%2F%2Flocalhost' --jobs
";

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn inspect(rest: &str) -> Result<InspectArgs, clap::Error> {
        let words = format!("queue inspect {rest}");
        match Cli::try_parse_from(words.split_whitespace())?.command {
            Command::Inspect(args) => Ok(args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_option_is_understood() {
        let args = inspect("mail --jobs --url redis://h --state running --state dead --json").unwrap();
        assert_eq!((args.jobs, args.state, args.json), (Some(20), vec![JobState::Running, JobState::Dead], true));
        assert_eq!(inspect("mail --jobs 7").unwrap().jobs, Some(7));
        let args = inspect("--job x --payload").unwrap();
        assert_eq!((args.job.as_deref(), args.payload, args.queue), (Some("x"), true, None));
    }

    #[test]
    fn what_goes_with_nothing_is_refused() {
        for (rest, part) in [
            ("--jobs", "<QUEUE>"),
            ("mail --payload", "--job"),
            ("mail --state dead", "--jobs"),
            ("mail --jobs --state lost", "running"),
            ("mail --jobs 0", "1..=10000"),
            ("mail --jobs --job x", "cannot be used"),
        ] {
            let error = inspect(rest).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(part), "{rest}: {error}");
        }
    }
}
