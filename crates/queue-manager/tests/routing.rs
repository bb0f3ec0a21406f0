//! Several providers at once: which job goes where, and how they are connected.

#![cfg(feature = "memory")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod three;

use std::sync::Arc;

use queue_core::{
    ErrorCode, Failure, JobId, JobRef, QueueProvider, QueueSpec, provider::PublishOptions, scheduler::Submitted,
};
use queue_manager::QueueManager;
use queue_memory::MemoryProvider;

use three::{Audit, Report, Theirs, at, builder, job, manager, name, spread, to};

#[tokio::test]
async fn a_job_goes_where_the_first_route_that_matches_says() {
    let queues = manager().await;
    let names: Vec<_> = queues.providers().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["default", "bulk", "safe"]);
    queues.enqueue(Report { page: 1 }).await.unwrap();
    queues.enqueue(Audit { page: 1 }).await.unwrap();
    queues.enqueue_raw("reports.daily", job("other")).await.unwrap();
    assert_eq!(spread(&queues, "reports.daily").await, at(&[("bulk", 2), ("safe", 1)]));
    // `to` is resolved too, and the kind goes first wherever the job goes.
    queues.enqueue(Report { page: 1 }).to("mail").await.unwrap();
    queues.enqueue(Audit { page: 1 }).to("mail").await.unwrap();
    assert_eq!(spread(&queues, "mail").await, at(&[("default", 1), ("safe", 1)]));
    for handle in queues.enqueue_all([1, 2].map(|page| Audit { page })).await {
        handle.unwrap();
    }
    assert_eq!(spread(&queues, "reports.daily").await, at(&[("bulk", 2), ("safe", 3)]));
    queues.close().await.unwrap();
}

#[tokio::test]
async fn what_no_route_matches_is_refused_where_there_is_no_default() {
    let queues = builder().default_provider("none").connect().await.unwrap();
    let names: Vec<_> = queues.providers().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["bulk", "safe"], "nothing leads to the default one");
    let mut errors = vec![
        queues.enqueue(Report { page: 1 }).to("mail").await.unwrap_err(),
        queues.enqueue_raw("mail", job("other")).await.unwrap_err(),
    ];
    let batch =
        queues.enqueue_many(vec![("mail", job("x")), ("mail", job("audit.x"))], &PublishOptions::default()).await;
    let [Submitted::Rejected(error), Submitted::Accepted(_)] = &batch[..] else { panic!("{batch:?}") };
    errors.push(error.clone());
    for error in errors {
        assert_eq!(error.code(), ErrorCode::Unroutable, "{error}");
        let rules = "`audits` (kind audit.*) to `safe`; `reports` (queue reports.*) to `bulk`";
        for part in ["queue `mail`", "kind `", rules] {
            assert!(error.message().contains(part), "{error}");
        }
    }
    // Audits of any queue may be at one.
    assert_eq!(queues.size("mail").await.unwrap(), 1);

    let strict = QueueManager::builder().provider_url("bulk", "memory:").default_provider("none");
    let strict = strict.route("reports", to("bulk").queue("reports.*").unwrap());
    let queues = strict.connect().await.unwrap();
    let refused = [
        queues.stats("mail").await.map(drop),
        queues.purge("mail").await.map(drop),
        queues.pause("mail").await,
        queues.declare(QueueSpec::new(name("mail"))).await,
        queues.dead_letters("mail").map(drop),
        queues.worker().queue("mail", 1).register(async |_: Report| Ok::<_, Failure>(1)).start().await.map(drop),
        queues.job(&JobRef::new(name("mail"), JobId::derive(b"x", 0))).await.map(drop),
    ];
    for (index, outcome) in refused.into_iter().enumerate() {
        assert_eq!(outcome.unwrap_err().code(), ErrorCode::Unroutable, "{index}");
    }
    let provider = Arc::new(MemoryProvider::new());
    let undeclared = QueueManager::builder()
        .provider_named("bulk", provider.clone())
        .default_provider("none")
        .route("reports", to("bulk").queue("reports.*").unwrap())
        .queue(QueueSpec::new(name("mail")));
    assert_eq!(undeclared.connect().await.unwrap_err().code(), ErrorCode::Unroutable);
    assert_eq!(provider.ping().await.unwrap_err().code(), ErrorCode::Closed);
}

#[tokio::test]
async fn connecting_is_all_or_nothing() {
    let (connected, brought) = (Arc::new(MemoryProvider::new()), Arc::new(MemoryProvider::new()));
    let mut registry = queue_manager::registry();
    registry.register(Theirs(Arc::clone(&connected)));
    let builder = QueueManager::builder().registry(registry).url("theirs:");
    let builder = builder.provider_url("far", "away://:hunter2@x").provider_named("mine", brought.clone());
    let error = builder.connect().await.unwrap_err();
    assert_eq!((error.code(), error.message()), (ErrorCode::Unavailable, "`providers.far.url`: it is away"));
    for provider in [connected, brought] {
        assert_eq!(provider.ping().await.unwrap_err().code(), ErrorCode::Closed, "nothing is left open");
    }
}

#[tokio::test]
async fn what_is_wrong_about_names_is_said_before_anything_is_connected() {
    let brought = Arc::new(MemoryProvider::new());
    let mine = || QueueManager::builder().provider_named("mine", Arc::new(brought.connect()));
    for (builder, said) in [
        (mine().route("x", to("theirs").queue("*").unwrap()), "`routes.x.provider`: there is no provider `theirs`"),
        (
            mine().default_provider("theirs"),
            "`routing.default`: there is no provider `theirs`; there are: default, mine",
        ),
        (mine().provider_named("mine", Arc::new(MemoryProvider::new())), "`providers.mine`: the program brings two"),
        (mine().provider_url("A b", "memory:"), "\"A b\" is no name of a provider"),
        (mine().provider_named("none", Arc::new(MemoryProvider::new())), "\"none\" is no name"),
        (mine().route("x", to("mine")), "`routes.x`: a route says which queue or kind"),
        (mine().provider_url("x", "nowhere"), "begins with a scheme"),
        (
            mine().variables([("QUEUE__PROVIDERS__X__URL", "nats://h")]),
            "`providers.x.url`: no provider answers to `nats:`",
        ),
    ] {
        let error = builder.connect().await.unwrap_err();
        assert!(error.code() == ErrorCode::Config && error.message().contains(said), "{said:?} is not in {error}");
    }
    // One that the program brings may be named by file and variables, and wins over a URL there.
    let variables = [("QUEUE__PROVIDERS__MINE__URL", "nats://h"), ("QUEUE__ROUTING__DEFAULT", "mine")];
    let queues = mine().variables(variables).connect().await.unwrap();
    queues.enqueue(Report { page: 1 }).await.unwrap();
    assert_eq!(queues.providers().count(), 1, "nothing leads to the default one");
}

#[tokio::test]
async fn routes_come_by_variables_and_by_order() {
    let variables = [
        ("QUEUE__PROVIDERS__A__URL", "memory:"),
        ("QUEUE__PROVIDERS__B__URL", "memory:"),
        ("QUEUE__ROUTES__FIRST__PROVIDER", "a"),
        ("QUEUE__ROUTES__FIRST__QUEUE", "reports.*"),
        ("QUEUE__ROUTES__SECOND__PROVIDER", "b"),
        ("QUEUE__ROUTES__SECOND__QUEUE", "reports.daily"),
    ];
    let goes = async |more: &[(&'static str, &'static str)]| {
        let variables = variables.iter().chain(more).copied();
        let queues = QueueManager::builder().variables(variables).connect().await.unwrap();
        queues.enqueue(Report { page: 1 }).await.unwrap();
        spread(&queues, "reports.daily").await.remove(0).0
    };
    assert_eq!(goes(&[]).await, "a", "of one order, by name");
    assert_eq!(goes(&[("QUEUE__ROUTES__SECOND__ORDER", "99")]).await, "b");
    assert_eq!(goes(&[("QUEUE__ROUTES__FIRST__KIND", "audit.*")]).await, "b");
}
