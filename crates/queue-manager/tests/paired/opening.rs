//! What a URL says, and what becomes of what it opens.

use std::sync::Arc;

use queue_core::{
    ErrorCode,
    provider::{ADD_STORE, ProviderUrl},
};
#[cfg(feature = "journal")]
use queue_core::{Failure, store::StoreScope};
use queue_manager::{HealthStatus, QueueManager, config::RouteConfig};

use crate::bench::{Bench, SCHEMES, mail, the_mail};

fn store_id(queues: &QueueManager, provider: &str) -> u64 {
    queues.provider(provider).unwrap().store().unwrap().id().0.get()
}

#[tokio::test]
async fn what_cannot_be_paired_is_refused_with_what_to_do_and_shows_no_password() {
    let bench = Bench::new();
    for (url, said) in [
        (
            "model-push://u:hunter2@h?store=nats%3A%2F%2F%3Ahunter3%40h",
            "no store answers to `nats:`; compiled in: memory",
        ),
        ("model-push://u:hunter2@h?store=", "`store` is no URL"),
        ("model-push://u:hunter2@h?store=memory:&store=hunter3:", "given twice"),
        ("model-push://u:hunter2@h?store=memory%3A%3Fpassword%3Dhunter3", "`password`"),
        ("model-push://u:hunter2@h?store_name=eu", "give a `store=` too"),
        ("model-push://u:hunter2@h?store=memory:&store_name=", "1 to 64 bytes"),
        ("model-push://u:hunter2@h?store=memory:&colour=hunter3", "`colour`"),
        ("memory:?store=memory:", "`memory:` keeps the records of its jobs itself: leave `store=` out"),
        ("kafka://u:hunter2@h?store=memory:", "Cargo feature `kafka`"),
    ] {
        let error = bench.connect(url).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::Config, "{url}: {error}");
        assert!(error.message().contains(said), "{url}: {error}");
        assert!(!format!("{error} {error:?}").contains("hunter"), "{error}");
    }
    let named = bench.builder().provider_url("eu", "model-push:?store=nats:").default_provider("eu");
    let error = named.connect().await.unwrap_err();
    assert!(error.message().starts_with("`providers.eu.url`: no store answers"), "{error}");
}

#[tokio::test]
async fn neither_password_is_shown_anywhere() {
    let bench = Bench::new();
    let url = "model-push://u:hunter2@h?store=memory:&store_name=eu";
    let queues = bench.connect(url).await.unwrap();
    let health = queues.health().await;
    let store = health.providers[0].store.as_ref().unwrap();
    assert_eq!((store.url.as_deref(), &*store.called, store.status), (Some("memory:"), "eu", HealthStatus::Healthy));
    let shown = format!("{queues:?} {} {:?}", serde_json::to_string(&health).unwrap(), queues.config().values());
    assert!(!shown.contains("hunter"), "{shown}");
    assert_eq!(health.providers[0].url.as_deref(), Some("model-push://***@h?store=***&store_name=***"));
    let url = ProviderUrl::parse("amqp://me:hunter2@h?store=redis%3A%2F%2F%3Ahunter3%40h").unwrap();
    let store = url.store().unwrap().unwrap();
    assert!(!format!("{url} {url:?} {store} {store:?}").contains("hunter"), "{url} {store}");
    queues.close().await.unwrap();
}

#[tokio::test]
async fn providers_that_name_the_same_store_share_it() {
    let bench = Bench::new();
    let builder = bench.builder().provider_url("one", "model-push:?store=memory:");
    let builder =
        builder.provider_url("two", "model-log:?store=memory:").provider_url("three", "model-log:?store=faulty:");
    let to_two = RouteConfig::to("two").unwrap().queue("two").unwrap();
    let queues = builder.default_provider("one").route("two", to_two).connect().await.unwrap();
    assert_eq!(store_id(&queues, "one"), store_id(&queues, "two"));
    assert_ne!(store_id(&queues, "one"), store_id(&queues, "three"));
    // Each job is carried by its own, and both are in the one store.
    let (here, there) = (queues.enqueue(mail("a")).await.unwrap(), queues.enqueue(mail("b")).to("two").await.unwrap());
    for job in [&here, &there] {
        let store = queues.provider("one").unwrap().store().unwrap();
        assert!(matches!(store.get(&[job.job().clone()]).await.remove(0), Ok(queue_core::store::Lookup::Found(_))));
    }
    queues.close().await.unwrap();
    // Another manager's `memory:` is another store.
    let (one, two) = (bench.connect("model-push:?store=memory:"), bench.connect("model-push:?store=memory:"));
    let (one, two) = (one.await.unwrap(), two.await.unwrap());
    assert_ne!(store_id(&one, "default"), store_id(&two, "default"));
}

#[tokio::test]
async fn two_brokers_of_one_name_in_one_store_are_refused() {
    let bench = Bench::new();
    let two = |first: &str, second: &str| {
        let builder = bench.builder().provider_url("one", first).provider_url("two", second);
        builder.default_provider("one").connect()
    };
    let error = two("model-push://a?store=memory:", "model-push://b?store=memory:").await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Config);
    for part in ["`one` and `two` share a store", "`model-push`", "`store_name=`"] {
        assert!(error.message().contains(part), "{error}");
    }
    let named = two("model-push://a?store=memory:", "model-push://b?store=memory:&store_name=b").await.unwrap();
    let called: Vec<_> = named.providers().filter_map(|(_, one)| Some(one.provider().paired()?.provider)).collect();
    assert_eq!(called, [Arc::from("model-push"), Arc::from("b")]);
    // The same URL twice is two connections to the same jobs.
    two("model-push://a?store=memory:", "model-push://a?store=memory:").await.unwrap().close().await.unwrap();
}

#[cfg(feature = "journal")]
#[tokio::test]
async fn a_journal_is_closed_with_the_last_provider_that_shares_it_and_keeps_what_it_knows() {
    let (bench, dir) = (Bench::new(), tempfile::tempdir().unwrap());
    let store = format!("journal%3A{}", dir.path().join("jobs").display());
    let url = |scheme: &str| format!("{scheme}:?store={store}");
    let both = || {
        let builder = bench.builder().provider_url("one", url("model-push")).provider_url("two", url("model-log"));
        builder.default_provider("one")
    };
    let queues = both().connect().await.unwrap();
    let id = store_id(&queues, "one");
    assert_eq!(
        (id, queues.provider("one").unwrap().store().unwrap().scope()),
        (store_id(&queues, "two"), StoreScope::Process)
    );
    let job = queues.enqueue(mail("a")).await.unwrap();
    assert_eq!(both().connect().await.unwrap_err().code(), ErrorCode::StoreInUse);
    queues.provider("two").unwrap().close().await.unwrap();
    queues.enqueue(mail("b")).await.unwrap();
    queues.close().await.unwrap();
    // The handle on what was closed is still there, and nobody needs to wait for it to go.
    let again = both().connect().await.unwrap();
    assert_eq!(store_id(&again, "one"), id);
    assert!(again.job(job.job()).await.is_ok());
    let worker = again.worker().queue("mail", 1).heartbeat_on_runtime();
    let worker = worker.register(async |mail: crate::bench::Mail| Ok::<_, Failure>(mail.to)).start().await.unwrap();
    assert_eq!(again.handle::<String>(job.job().clone()).result().await.unwrap(), "a");
    worker.stop().await;
    again.close().await.unwrap();
    // Where connecting fails, it is closed as well.
    let failing = both().provider_url("three", "memory:?what=is this".replace(' ', "%20"));
    assert_eq!(failing.connect().await.unwrap_err().code(), ErrorCode::Config);
    let broken = both().queue({
        let mut spec = queue_core::QueueSpec::new(the_mail());
        spec.order = queue_core::queue_spec::Order::Aged { bound: crate::bench::SECOND };
        spec
    });
    assert_eq!(broken.connect().await.unwrap_err().code(), ErrorCode::Unsupported);
    both().connect().await.unwrap().close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_a_store_what_needs_one_is_refused_with_the_remedy() {
    let bench = Bench::new();
    for scheme in SCHEMES {
        let queues = bench.connect(&format!("{scheme}:")).await.unwrap();
        let job = queues.enqueue(mail("a")).await.unwrap();
        let admin = queues.provider("default").unwrap().admin();
        let keyed = queues.enqueue(mail("b")).unique("key").unwrap().await.unwrap_err();
        let refused = [
            ("a look-up", job.record().await.unwrap_err()),
            ("a result", job.result().await.unwrap_err()),
            ("a cancel", job.cancel().await.unwrap_err()),
            ("a position", admin.position(job.job()).await.unwrap_err()),
            ("parked jobs", admin.parked(&the_mail(), 1).await.unwrap_err()),
            ("a unique key", keyed),
        ];
        for (what, error) in refused {
            assert_eq!(error.code(), ErrorCode::Unsupported, "{scheme}: {what}: {error}");
            assert!(error.message().contains(ADD_STORE), "{scheme}: {what}: {error}");
            assert!(error.message().contains(scheme), "{scheme}: {what}: {error}");
        }
        assert!(queues.health().await.providers[0].store.is_none());
        queues.close().await.unwrap();
    }
}
