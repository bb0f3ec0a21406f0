//! One worker process: `soak_NAME worker URL QUEUE NAME SLOTS LEASE LOG`. It stops when its standard input ends, so that it never outlives
//! whoever started it.

use std::{io::Read as _, path::Path, sync::Arc, time::Duration};

use queue_core::{Env, Failure, JobContext, JobScheduler, QueueProvider, provider::ProviderUrl, provider::Registry};

use super::{
    load::{self, SoakJob},
    log::Log,
    tap::Tap,
};

pub(crate) async fn connect(url: &str) -> queue_core::Result<Arc<dyn QueueProvider>> {
    let mut registry = Registry::new();
    queue_redis::register(&mut registry);
    queue_rabbitmq::register(&mut registry);
    queue_layers::register(&mut registry);
    registry.connect(&ProviderUrl::parse(url)?, &Env::system()).await
}

pub(crate) async fn perform(arguments: &[String]) -> queue_core::Result<()> {
    let [url, queue, name, slots, lease, log] = arguments else {
        panic!("URL QUEUE NAME SLOTS LEASE LOG, not {arguments:?}")
    };
    let lease = Duration::from_millis(lease.parse().unwrap());
    let log = Arc::new(Log::open(Path::new(log)).unwrap());
    let inner = connect(url).await?;
    let scheduler = JobScheduler::with_env(Arc::new(Tap { inner, log: Arc::clone(&log) }), Env::system());
    let handler = move |job: SoakJob, context: JobContext| {
        log.ran(context.id());
        async move { load::run(job, context).await as Result<(), Failure> }
    };
    let builder = scheduler.worker().queue(queue, slots.parse().unwrap()).name(name.as_str()).lease(lease);
    let worker = builder.register(handler).start().await?;
    let (ended, end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = ended.send(());
    });
    let _ = end.await;
    worker.stop().await;
    scheduler.close().await
}
