//! The same as `library`, on RabbitMQ: `queue-core` and `queue-rabbitmq` are all that a program needs, and no other broker's client is in
//! its tree (`cargo xtask check` proves it). Bare, as it is here, the broker keeps no records: the handler says itself that it ran.
//!
//! `QUEUE_URL=amqp://localhost cargo run --example library_rabbitmq`; without it, the RabbitMQ of the test brokers, if there is one.

use queue_core::{Env, Failure, Job, JobScheduler, Priority, provider::ProviderUrl};
use queue_rabbitmq::{RabbitOptions, RabbitProvider};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use validator::Validate;

#[derive(Serialize, Deserialize, Validate)]
struct SendEmail {
    #[validate(email)]
    to: String,
}

impl Job for SendEmail {
    const KIND: &'static str = "email.send";
    const QUEUE: &'static str = "mail";
    type Output = ();
}

#[tokio::main]
async fn main() -> queue_core::Result<()> {
    let Some(url) = ["QUEUE_URL", "QUEUE_TEST_RABBITMQ_URL"].iter().find_map(|name| std::env::var(name).ok()) else {
        println!("left out: no RabbitMQ; export QUEUE_URL=amqp://localhost");
        return Ok(());
    };
    let mut options = RabbitOptions::read(&ProviderUrl::parse(url)?)?;
    options.prefix = "example".into();
    let queues = JobScheduler::new(RabbitProvider::connect(options, &Env::system()).await?);

    let (sent, mut outbox) = mpsc::channel(8);
    let send_email = move |email: SendEmail| {
        let sent = sent.clone();
        async move { sent.send(email.to).await.map_err(|_| Failure::never("nobody reads what was sent")) }
    };
    let worker = queues.worker().queue("mail", 8).register(send_email).start().await?;

    let email = SendEmail { to: "ann@example.org".into() };
    queues.enqueue(email).priority(Priority::HIGH).await?;
    if let Some(to) = outbox.recv().await {
        println!("sent to {to}");
    }

    worker.stop().await;
    queues.close().await
}
