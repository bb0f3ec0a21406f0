//! A typed job, its handler, a worker and a result: `queue-core` and one provider crate are enough.

use queue_core::{Failure, Job, JobScheduler, Priority};
use queue_memory::MemoryProvider;
use serde::{Deserialize, Serialize};
use validator::Validate;

#[derive(Serialize, Deserialize, Validate)]
struct SendEmail {
    #[validate(email)]
    to: String,
}

impl Job for SendEmail {
    const KIND: &'static str = "email.send";
    const QUEUE: &'static str = "mail";
    type Output = String;
}

async fn send_email(email: SendEmail) -> Result<String, Failure> {
    Ok(format!("sent to {}", email.to))
}

#[tokio::main]
async fn main() -> queue_core::Result<()> {
    let queues = JobScheduler::new(MemoryProvider::new());
    let worker = queues.worker().queue("mail", 8).register(send_email).start().await?;

    let email = SendEmail { to: "ann@example.org".into() };
    let handle = queues.enqueue(email).priority(Priority::HIGH).await?;
    println!("{}", handle.result().await?);

    worker.stop().await;
    queues.close().await
}
