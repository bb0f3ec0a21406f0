use super::*;

#[tokio::test(start_paused = true)]
async fn a_topic_reaches_every_subscribed_queue_and_messages_wait_for_absent_subscribers() {
    for queues in shapes().map(|shape| on(shape).1).into_iter().chain([topicless()]) {
        let topic = queues.topic("order.placed");
        assert_eq!(topic.publish(&order(0)).await.unwrap_err().code(), ErrorCode::Unroutable);
        let nowhere = topic.publish_all(&[order(0)]).await;
        assert_eq!(nowhere[0].as_ref().unwrap_err().code(), ErrorCode::Unroutable);
        for queue in ["billing", "shipping", "billing"] {
            topic.subscribe(queue).await.unwrap();
        }
        // A subscription belongs to the scheduler, not to this handle.
        let published = queues.clone().topic("order.placed").publish(&order(1)).priority(Priority::HIGH).await.unwrap();
        let to: Vec<_> = published.copies.iter().map(|copy| copy.to.to_string()).collect();
        assert_eq!((to, published.is_complete()), (vec!["billing".to_owned(), "shipping".to_owned()], true));
        for published in topic.publish_all(&[order(2), order(3)]).await {
            assert!(published.unwrap().is_complete());
        }
        tokio::time::sleep(3_600 * SECOND).await;
        assert_eq!(drained(&queues, "billing").await, [1, 2, 3]);
        topic.unsubscribe("billing").await.unwrap();
        topic.unsubscribe("billing").await.unwrap();
        topic.publish(&order(4)).await.unwrap();
        assert!(drained(&queues, "billing").await.is_empty());
        assert_eq!(drained(&queues, "shipping").await, [1, 2, 3, 4], "as durable as its queue");
        assert_eq!(topic.known_subscriptions().unwrap(), [QueueName::from_static("shipping")]);
        assert!(matches!(topic.support(), Support::Emulated { caveat, .. } if caveat.contains("process")));
        topic.unsubscribe("shipping").await.unwrap();
        assert_eq!(topic.publish(&order(5)).await.unwrap_err().code(), ErrorCode::Unroutable);
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_refuses_a_message_is_named_and_can_be_reached_later_without_doubling() {
    let queues = topicless();
    let mut small = QueueSpec::new(QueueName::from_static("audit"));
    small.max_len = Some(1);
    queues.declare(small).await.unwrap();
    let topic = queues.topic("order.placed");
    topic.subscribe("audit").await.unwrap();
    topic.subscribe("billing").await.unwrap();
    topic.publish(&order(1)).await.unwrap();

    let id = JobId::derive(b"order 2", 0);
    let error = topic.publish(&order(2)).id(id).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::QueueFull);
    assert!(error.message().contains("1 of 2 queues: audit: QUEUE_FULL"), "{error}");
    let outcomes = topic.publish_all(&[order(3), order(1_000_001)]).await;
    let third = outcomes[0].as_ref().unwrap();
    assert!(!third.is_complete());
    assert_eq!(third.copies[0].to, Destination::Queue(QueueName::from_static("audit")));
    assert_eq!(third.copies[0].error().unwrap().code(), ErrorCode::QueueFull);
    assert!(matches!(&third.copies[1].outcome, Submitted::Accepted(job) if job.id == third.id));
    assert_eq!(outcomes[1].as_ref().unwrap_err().code(), ErrorCode::Validation);

    assert_eq!(drained(&queues, "audit").await, [1]);
    topic.publish(&order(2)).id(id).await.unwrap();
    assert_eq!(drained(&queues, "audit").await, [2]);
    assert_eq!(drained(&queues, "billing").await, [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_provider_with_topics_of_its_own_keeps_the_subscriptions_for_every_process() {
    let env = env();
    let provider: Arc<dyn QueueProvider> = Arc::new(MemoryProvider::with_env(env.clone()));
    let here = JobScheduler::with_env(Arc::clone(&provider), env.clone());
    let there = JobScheduler::with_env(provider, env);
    assert_eq!(there.topic("order.placed").publish(&order(0)).await.unwrap_err().code(), ErrorCode::Unroutable);
    for queue in ["billing", "shipping"] {
        here.topic("order.placed").subscribe(queue).await.unwrap();
    }
    assert_eq!(here.topic("order.placed").support(), Support::Native);
    assert!(here.topic("order.placed").known_subscriptions().unwrap().is_empty());
    let published = there.topic("order.placed").publish(&order(1)).ttl(3_600 * SECOND).await.unwrap();
    assert_eq!((published.copies.len(), &published.copies[0].to), (1, &Destination::Provider("memory")));
    assert_eq!(drained(&here, "billing").await, [1]);
    assert_eq!(drained(&there, "shipping").await, [1]);
    here.topic("order.placed").unsubscribe("billing").await.unwrap();
    there.topic("order.placed").publish(&order(2)).await.unwrap();
    assert!(drained(&here, "billing").await.is_empty());
    assert_eq!(drained(&here, "shipping").await, [2]);
}

/// Queues of a prefix on the one, the others on the other.
#[derive(Debug)]
struct Split {
    near: JobScheduler,
    far: JobScheduler,
}

impl Route for Split {
    fn submit_to(&self, queue: &QueueName, _: &queue_core::job::JobKind) -> queue_core::Result<JobScheduler> {
        if queue.as_str().starts_with("nowhere") {
            return Err(Error::new(ErrorCode::Unroutable, "no provider has this queue"));
        }
        Ok(if queue.as_str().starts_with("far.") { self.far.clone() } else { self.near.clone() })
    }

    fn consume_from(&self, queue: &QueueName) -> queue_core::Result<Vec<JobScheduler>> {
        self.submit_to(queue, &queue_core::job::JobKind::from_static("any")).map(|one| vec![one])
    }
}

#[tokio::test(start_paused = true)]
async fn a_topic_s_queues_may_be_on_several_providers() {
    let env = env();
    let native = Arc::new(MemoryProvider::with_env(env.clone()));
    let (near, far) = (on(PushModel::default().into()).1, JobScheduler::with_env(native, env));
    let route: Arc<dyn Route> = Arc::new(Split { near: near.clone(), far: far.clone() });
    let topic = JobScheduler::topic_by(Arc::clone(&route), vec![near.clone(), far.clone()], "order.placed");
    topic.subscribe("billing").await.unwrap();
    let published = topic.publish(&order(1)).await.unwrap();
    assert_eq!(published.copies.len(), 1, "nobody is subscribed at the other");
    topic.subscribe("far.shipping").await.unwrap();
    topic.publish(&order(2)).await.unwrap();
    assert_eq!(topic.subscribe("nowhere").await.unwrap_err().code(), ErrorCode::Unroutable);
    assert!(matches!(topic.support(), Support::Emulated { .. }));
    assert_eq!(drained(&near, "billing").await, [1, 2]);
    assert_eq!(drained(&far, "far.shipping").await, [2]);

    let to_far = JobScheduler::send_by(Arc::clone(&route), "far.orders", &order(3)).await.unwrap();
    assert_eq!(to_far.job().queue.as_str(), "far.orders");
    assert_eq!(drained(&far, "far.orders").await, [3]);
    let inbox = JobScheduler::inbox_by::<Order>(route, "far.orders").open().await.unwrap();
    far.send("far.orders", &order(4)).await.unwrap();
    assert_eq!(number(&inbox, SECOND).await.unwrap().body(), &order(4));
}

#[derive(Debug, Serialize, Deserialize, Validate)]
struct Invoice {
    #[validate(range(min = 1))]
    cents: u32,
}

impl Job for Invoice {
    const KIND: &'static str = "invoice";
    const QUEUE: &'static str = "billing";
    type Output = u32;
}

#[tokio::test(start_paused = true)]
async fn a_job_published_to_a_topic_runs_in_each_subscribed_queue() {
    let queues = topicless();
    let topic = queues.topic("invoices");
    topic.subscribe("billing").await.unwrap();
    topic.subscribe("archive").await.unwrap();
    let worker = queues
        .worker()
        .queue("billing", 1)
        .queue("archive", 1)
        .heartbeat_on_runtime()
        .register(async |invoice: Invoice| Ok::<_, Failure>(invoice.cents))
        .start()
        .await
        .unwrap();
    let published = topic.publish(&Invoice { cents: 250 }).await.unwrap();
    for copy in published.copies {
        let Submitted::Accepted(job) = copy.outcome else { panic!("{copy:?}") };
        assert_eq!(queues.handle::<u32>(job).result().await.unwrap(), 250);
    }
    let refused = topic.publish(&Invoice { cents: 0 }).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Validation, "a job's own rules hold for the message too");
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_manager_offers_all_of_it() {
    let queues = QueueManager::builder()
        .env(env())
        .variables([("QUEUE__WORKER__LEASE", "5s"), ("QUEUE__WORKER__DRAIN_DEADLINE", "2s")])
        .connect()
        .await
        .unwrap();
    queues.send("orders", &order(1)).unique("cart-1").unwrap().await.unwrap();
    assert!(queues.send("orders", &order(1)).unique("cart-1").unwrap().await.unwrap().is_duplicate());
    let answers = queues.send_all("orders", &[order(2), order(1_000_001), order(3)]).await;
    assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    let inbox: Inbox<Order> = queues.inbox("orders").open().await.unwrap();
    let killed = number(&inbox, SECOND).await.unwrap();
    drop(inbox);
    let begun = Instant::now();
    let inbox: Inbox<Order> = queues.inbox("orders").open().await.unwrap();
    for _ in 0..3 {
        number(&inbox, 30 * SECOND).await.unwrap().ack().await.unwrap();
    }
    assert!(
        begun.elapsed() >= 3 * SECOND && begun.elapsed() < 7 * SECOND,
        "the configured lease: {:?}",
        begun.elapsed()
    );
    assert!(lost(killed.ack().await));
    queues.send("orders", &order(9)).await.unwrap();
    let kept = number(&inbox, SECOND).await.unwrap();
    let begun = Instant::now();
    assert_eq!((inbox.close().await.aborted, begun.elapsed()), (1, 2 * SECOND), "the configured deadline");
    drop(kept);
    assert_eq!(queues.size("orders").await.unwrap(), 1);

    let topic = queues.topic("order.placed");
    topic.subscribe("billing").await.unwrap();
    topic.publish(&order(4)).await.unwrap();
    let got: Arc<Mutex<Vec<u32>>> = Arc::default();
    let seen = Arc::clone(&got);
    let worker = queues
        .subscribe("billing", 2, move |order: Order, _| {
            seen.lock().unwrap().push(order.number);
            async { Ok::<_, Failure>(()) }
        })
        .heartbeat_on_runtime()
        .start()
        .await
        .unwrap();
    tokio::time::sleep(SECOND).await;
    worker.stop().await;
    assert_eq!(*got.lock().unwrap(), [4]);
    for bad in ["", "two words"] {
        assert_eq!(queues.send(bad, &order(1)).await.unwrap_err().code(), ErrorCode::Validation);
        assert_eq!(queues.topic(bad).publish(&order(1)).await.unwrap_err().code(), ErrorCode::Validation);
        assert_eq!(queues.inbox::<Order>(bad).open().await.unwrap_err().code(), ErrorCode::Validation);
    }
    queues.close().await.unwrap();
}
