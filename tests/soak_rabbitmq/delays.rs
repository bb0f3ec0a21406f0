//! Many delays of all lengths at once, by the clock: none early, none behind a longer one.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    time::Duration,
};

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
    let consumer = provider.consumer(&queue, ConsumeOptions::new(PART, 500)).await?;
    let plan = Plan { seed: settings.seed, count, env: &env };
    let (waiting, all) = (RefCell::new(HashMap::new()), Cell::new(None));
    let publishing =
        async { publish(&provider, &queue, &plan, &waiting).await.map(|near| all.set(Some((near, Instant::now())))) };
    let (mut seen, mut latest, mut early, mut strangers) = (0, Duration::ZERO, 0, 0);
    let limit = Duration::from_millis(LONGEST) + 10 * LATE;
    // From the first moment on: the first are due before the last are published.
    let consuming = async {
        while all.get().is_none_or(|(all, since)| seen < all && since.elapsed() < limit) && !stop::asked() {
            let got = consumer.fetch(100, Duration::from_millis(200)).await?;
            let now = env.now();
            for job in &got {
                let Some(due) = waiting.borrow_mut().remove(&job.envelope.id) else {
                    strangers += 1;
                    continue;
                };
                seen += 1;
                early += u64::from(now < due);
                latest = latest.max(due.until(now));
            }
            let done: Vec<Settlement> =
                got.iter().map(|job| Settlement::new(job.receipt, Disposition::Complete { result: None })).collect();
            consumer.settle(&done).await;
            bar.show(seen, 0, 0);
        }
        anyhow::Ok(())
    };
    tokio::try_join!(publishing, consuming)?;
    consumer.close(Duration::from_secs(1)).await;
    provider.close().await?;
    let (lost, all) = (waiting.borrow().len(), all.get().map_or(0, |(all, _)| all));
    let good = !stop::asked() && lost == 0 && strangers == 0 && early == 0 && latest <= LATE;
    Ok(Extra {
        part: PART,
        line: format!(
            "{PART}: {all} of up to {} s among {} of up to 30 days: {early} early, {lost} never, {strangers} twice or too far, the latest after {:.2} s: {}",
            LONGEST / 1_000,
            count - all,
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

/// Which jobs there are.
#[derive(Debug)]
struct Plan<'a> {
    seed: u64,
    count: u64,
    env: &'a Env,
}

/// Longer and shorter ones in turn. Notes when those are due that are waited for before they are on their way, and says how many these
/// are.
async fn publish(
    provider: &RabbitProvider,
    queue: &QueueName,
    plan: &Plan<'_>,
    waiting: &RefCell<HashMap<JobId, Timestamp>>,
) -> Result<u64> {
    let mut near = 0;
    let numbers: Vec<u64> = (0..plan.count).collect();
    for part in numbers.chunks(500) {
        let now = plan.env.now();
        let job = |number: &u64| {
            let (far, chance) = (number % 10 == 9, dice(plan.seed, *number, 21));
            let millis = if far { (FAR.start + chance % (FAR.end - FAR.start)) * 1_000 } else { chance % LONGEST };
            let due = now + Duration::from_millis(millis);
            let id = JobId::fresh(plan.env);
            if !far {
                near += 1;
                waiting.borrow_mut().insert(id, due);
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
