use super::*;

#[tokio::test(start_paused = true)]
async fn a_stream_goes_on_until_the_inbox_s_provider_is_closed() {
    let queues = memory();
    queues.send_all("orders", &[order(1), order(2), order(3)]).await;
    let inbox = inbox(&queues).await;
    let mut got = Vec::new();
    let mut stream = inbox.stream();
    while let Some(message) = stream.next().await {
        let message = message.unwrap();
        got.push(message.body().number);
        message.ack().await.unwrap();
        if got.len() == 3 {
            queues.close().await.unwrap();
        }
    }
    assert_eq!(got, [1, 2, 3]);
    assert_eq!(inbox.receive(60 * SECOND).await.unwrap_err().code(), ErrorCode::Closed);
}

#[tokio::test(start_paused = true)]
async fn closing_gives_back_what_was_not_received_and_waits_for_what_is_in_hand() {
    for queues in everywhere_but_on_a_log().await {
        queues.send_all("orders", &[1, 2, 3, 4].map(order)).await;
        let closing = queues.inbox::<Order>("orders").drain_deadline(10 * SECOND).open().await.unwrap();
        let (done, kept) = (number(&closing, SECOND).await.unwrap(), number(&closing, SECOND).await.unwrap());
        let other = inbox(&queues).await;
        let begun = Instant::now();
        let finish = async {
            tokio::time::sleep(3 * SECOND).await;
            done.ack().await.unwrap();
        };
        let elsewhere = async {
            let message = number(&other, 60 * SECOND).await.unwrap();
            (begun.elapsed(), message)
        };
        let (report, (), (waited, third)) = tokio::join!(closing.close(), finish, elsewhere);
        assert_eq!((begun.elapsed().as_secs(), report), (10, DrainReport { done: 1, released: 2, aborted: 1 }));
        assert!(waited < SECOND, "what was not received is back at once: {waited:?}");
        assert!(lost(kept.ack().await));
        third.ack().await.unwrap();
        for _ in 0..2 {
            let message = number(&other, 60 * SECOND).await.unwrap();
            assert_eq!(message.attempt(), 1);
            message.ack().await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_inbox_says_that_the_broker_is_away_and_goes_on_by_itself() {
    for shape in shapes() {
        let (broker, queues) = on(shape);
        let inbox = inbox(&queues).await;
        queues.send("orders", &order(1)).await.unwrap();
        broker.stop();
        let begun = Instant::now();
        let error = inbox.receive(10 * SECOND).await.unwrap_err();
        assert_eq!((error.code(), begun.elapsed().as_secs()), (ErrorCode::Unavailable, 10));
        broker.start();
        number(&inbox, 60 * SECOND).await.unwrap().ack().await.unwrap();
        assert!(number(&inbox, SECOND).await.is_none(), "no longer an error");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_acknowledgement_is_repeated_until_it_is_answered() {
    let env = env();
    let faults = Faults::default();
    let faulty = Faulty::new(MemoryProvider::with_env(env.clone()), faults.clone());
    let queues = JobScheduler::with_env(Arc::new(faulty), env);
    let sent = queues.send("orders", &order(1)).await.unwrap();
    let inbox = inbox(&queues).await;
    let message = number(&inbox, SECOND).await.unwrap();
    faults.settle_unanswered(true);
    let acked = message.ack();
    tokio::time::sleep(5 * SECOND).await;
    faults.settle_unanswered(false);
    acked.await.unwrap();
    assert_eq!(sent.record().await.unwrap().state, JobState::Completed);
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_panics_ends_the_inbox_and_not_its_consumer() {
    for in_heartbeat in [true, false] {
        let env = env();
        let (faults, memory) = (Faults::default(), MemoryProvider::with_env(env.clone()));
        let queues = JobScheduler::with_env(Arc::new(Faulty::new(memory, faults.clone())), env);
        queues.send("orders", &order(1)).await.unwrap();
        let broken = inbox(&queues).await;
        let message = number(&broken, SECOND).await.unwrap();
        if in_heartbeat {
            faults.heartbeat_panics()
        } else {
            faults.fetch_panics(true)
        }
        assert_eq!(broken.receive(60 * SECOND).await.unwrap_err().code(), ErrorCode::Closed);
        assert!(lost(message.ack().await));
        assert_eq!(broken.close().await, DrainReport::default());
    }
}

#[tokio::test(start_paused = true)]
async fn a_publication_without_an_answer_is_not_called_a_refusal() {
    let env = env();
    let (faults, memory) = (Faults::default(), MemoryProvider::with_env(env.clone()));
    let queues = JobScheduler::with_env(Arc::new(Faulty::new(memory, faults.clone())), env);
    queues.topic("order.placed").subscribe("orders").await.unwrap();
    faults.lose_a_publish_then_refuse();
    let published = queues.topic("order.placed").publish_all(&[order(1)]).await.remove(0).unwrap();
    assert!(matches!(published.copies[0].outcome, Submitted::Unknown(..)), "{published:?}");
    assert_eq!(published.complete().unwrap_err().code(), ErrorCode::Unavailable);
    assert_eq!(drained(&queues, "orders").await, [1]);
}

#[tokio::test(start_paused = true)]
async fn a_paused_queue_gives_out_nothing_and_a_dropped_one_is_found_again() {
    let queues = memory();
    queues.send_all("orders", &[order(1), order(2), order(3)]).await;
    let inbox = inbox(&queues).await;
    number(&inbox, SECOND).await.unwrap().ack().await.unwrap();
    queues.admin().pause(&orders(), true).await.unwrap();
    tokio::time::sleep(2 * SECOND).await;
    assert!(number(&inbox, 10 * SECOND).await.is_none(), "although two were fetched with the first");
    queues.admin().pause(&orders(), false).await.unwrap();
    number(&inbox, SECOND).await.unwrap().ack().await.unwrap();
    number(&inbox, SECOND).await.unwrap().ack().await.unwrap();

    queues.provider().drop_queue(&orders(), false).await.unwrap();
    assert_eq!(inbox.receive(SECOND).await.unwrap_err().code(), ErrorCode::NotFound);
    queues.send("orders", &order(4)).await.unwrap();
    assert_eq!(number(&inbox, 30 * SECOND).await.unwrap().body(), &order(4));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_message_is_told_to_its_consumer_and_not_retried() {
    let queues = memory();
    let inbox = inbox(&queues).await;
    let told = queues.send("orders", &order(1)).timeout(600 * SECOND).await.unwrap();
    let deaf = queues.send("orders", &order(2)).timeout(600 * SECOND).await.unwrap();
    let (one, two) = (number(&inbox, SECOND).await.unwrap(), number(&inbox, SECOND).await.unwrap());
    let forgiving = |grace: Duration| Cancel { grace, ..Cancel::by("an operator") };
    queues.cancel(told.job(), &forgiving(60 * SECOND)).await.unwrap();
    queues.cancel(deaf.job(), &forgiving(5 * SECOND)).await.unwrap();
    assert!(!one.is_cancelled());
    tokio::time::sleep(12 * SECOND).await;
    assert!(one.is_cancelled());
    one.nack(Failure::retry("stopped")).await.unwrap();
    tokio::time::sleep(10 * SECOND).await;
    assert!(lost(two.ack().await), "taken back after its grace");
    for sent in [&told, &deaf] {
        assert_eq!(sent.record().await.unwrap().state, JobState::Cancelled);
    }
}
