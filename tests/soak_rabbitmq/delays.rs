//! Many delays of all lengths at once, by the clock: none early, none behind a longer one.

use std::{collections::HashMap, time::Duration};

use anyhow::{Result, ensure};
use queue_core::{
    Env, Envelope, JobId, QueueName, QueueProvider as _, QueueSpec, Timestamp,
    job::JobKind,
    provider::{ConsumeOptions, Disposition, ProviderUrl, PublishOptions, Settlement},
};
use queue_rabbitmq::{RabbitOptions, RabbitProvider};
use serde_json::json;
use tokio::time::Instant;

use crate::{
    server::Server,
    soak::{
        load::dice,
        run::{Extra, Settings},
        show::Bar,
        stop,
    },
};

pub(crate) const PART: &str = "delays";
/// At scale 1.
const JOBS: f64 = 10_000.0;
/// The longest that is waited for, in milliseconds.
const LONGEST: u64 = 60_000;
/// Every tenth job waits for an hour to thirty days: in nobody's way, and not seen here.
const FAR: std::ops::Range<u64> = 3_600..30 * 86_400;
/// What is rounded up to whole seconds, and a second.
const LATE: Duration = Duration::from_secs(2);

pub(crate) async fn measure(settings: &Settings, bar: &Bar) -> Result<Extra> {
    let server = Server::try_start_nodes(1)?;
    let env = Env::system();
    let options = RabbitOptions::read(&ProviderUrl::parse(server.url())?)?;
    let provider = RabbitProvider::connect(options, &env).await?;
    let queue = QueueName::from_static(PART);
    provider.declare(&QueueSpec::new(queue.clone())).await?;
    let count = (JOBS * settings.scale).ceil() as u64;
    bar.begin(PART, count, 0);
    let near = publish(&provider, &queue, settings.seed, count, &env).await?;
    let (mut waiting, mut latest, mut early, mut strangers) = (near.clone(), Duration::ZERO, 0, 0);
    let consumer = provider.consumer(&queue, ConsumeOptions::new(PART, 500)).await?;
    let until = Instant::now() + Duration::from_millis(LONGEST) + 10 * LATE;
    while !waiting.is_empty() && Instant::now() < until && !stop::asked() {
        let got = consumer.fetch(100, Duration::from_millis(200)).await?;
        let now = env.now();
        for job in &got {
            let Some(due) = waiting.remove(&job.envelope.id) else {
                strangers += 1;
                continue;
            };
            early += u64::from(now < due);
            latest = latest.max(due.until(now));
        }
        let done: Vec<Settlement> =
            got.iter().map(|job| Settlement::new(job.receipt, Disposition::Complete { result: None })).collect();
        consumer.settle(&done).await;
        bar.show((near.len() - waiting.len()) as u64, 0, 0);
    }
    consumer.close(Duration::from_secs(1)).await;
    provider.close().await?;
    let (lost, all) = (waiting.len(), near.len());
    let good = !stop::asked() && lost + strangers == 0 && early == 0 && latest <= LATE;
    Ok(Extra {
        part: PART,
        line: format!(
            "{PART}: {all} of up to {} s among {} of up to 30 days: {early} early, {lost} never, {strangers} twice or too far, the latest after {:.2} s: {}",
            LONGEST / 1_000,
            count - all as u64,
            latest.as_secs_f64(),
            if good { "good" } else { "BAD" },
        ),
        figures: json!({
            "jobs": count, "due": all, "early": early, "lost": lost, "unexpected": strangers,
            "latest_s": latest.as_secs_f64(), "limit_s": LATE.as_secs_f64(), "good": good,
        }),
        good,
    })
}

/// Longer and shorter ones in turn. Says when those are due that are waited for.
async fn publish(
    provider: &RabbitProvider,
    queue: &QueueName,
    seed: u64,
    count: u64,
    env: &Env,
) -> Result<HashMap<JobId, Timestamp>> {
    let mut near = HashMap::new();
    let numbers: Vec<u64> = (0..count).collect();
    for part in numbers.chunks(500) {
        let now = env.now();
        let job = |number: &u64| {
            let (far, chance) = (number % 10 == 9, dice(seed, *number, 21));
            let millis = if far { (FAR.start + chance % (FAR.end - FAR.start)) * 1_000 } else { chance % LONGEST };
            let due = now + Duration::from_millis(millis);
            let id = JobId::fresh(env);
            if !far {
                near.insert(id, due);
            }
            let job = Envelope::builder(id, JobKind::from_static("delayed"), &b"{}"[..], now).seal();
            job.edit(|parts| parts.not_before = Some(due))
        };
        let batch: Vec<Envelope> = part.iter().map(job).collect();
        let answers = provider.publish(queue, batch, &PublishOptions::default()).await;
        let refused = answers.iter().find(|answer| !answer.is_accepted());
        ensure!(refused.is_none(), "a delayed publish was answered {refused:?}");
    }
    Ok(near)
}
