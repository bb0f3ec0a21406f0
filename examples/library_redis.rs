//! The same as `library`, on Redis: `queue-core` and `queue-redis` are all that a program needs, and no other broker's client is in its
//! tree (`cargo xtask check` proves it).
//!
//! `QUEUE_URL=redis://localhost cargo run --example library_redis`; without it, the Redis of the test brokers, if there is one.

use queue_core::{Env, Failure, Job, JobScheduler, Priority};
use queue_redis::{RedisOptions, RedisProvider};
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
    let Some(url) = ["QUEUE_URL", "QUEUE_TEST_REDIS_URL"].iter().find_map(|name| std::env::var(name).ok()) else {
        println!("left out: no Redis; export QUEUE_URL=redis://localhost");
        return Ok(());
    };
    let mut options = RedisOptions::new(url);
    options.prefix = "example".into();
    let queues = JobScheduler::new(RedisProvider::connect(&options, &Env::system()).await?);
    let worker = queues.worker().queue("mail", 8).register(send_email).start().await?;

    let email = SendEmail { to: "ann@example.org".into() };
    let handle = queues.enqueue(email).priority(Priority::HIGH).await?;
    println!("{}", handle.result().await?);

    worker.stop().await;
    queues.close().await
}
