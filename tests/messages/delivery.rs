use super::*;

#[tokio::test(start_paused = true)]
async fn what_is_sent_is_received_with_all_that_rode_along_and_gone_once_acknowledged() {
    for queues in everywhere().await {
        let sent = queues
            .send("orders", &order(7))
            .correlation_id("cart-1")
            .metadata("source", "shop")
            .priority(Priority::HIGH)
            .await
            .unwrap();
        let inbox = inbox(&queues).await;
        let message = number(&inbox, SECOND).await.unwrap();
        assert_eq!((message.body(), message.id(), message.attempt()), (&order(7), sent.id(), 1));
        assert_eq!((message.kind().as_str(), message.queue()), ("order.placed", &orders()));
        assert_eq!((message.envelope().priority, message.is_redelivered()), (Priority::HIGH, false));
        let headers = message.envelope().headers().unwrap();
        assert_eq!((headers.correlation_id.as_deref(), &headers.metadata["source"][..]), (Some("cart-1"), "shop"));
        assert!(number(&inbox, NOW).await.is_none(), "it is in hand");
        message.ack().await.unwrap();
        // No lease that ended and no session brings it back.
        assert!(number(&inbox, 120 * SECOND).await.is_none());
        assert_eq!(inbox.close().await, DrainReport::default());
        assert!(queues.inbox::<Order>("orders").open().await.unwrap().receive(SECOND).await.unwrap().is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn priority_delay_and_time_to_live_are_those_of_jobs() {
    for queues in everywhere().await {
        queues.send("orders", &order(1)).priority(Priority::LOW).await.unwrap();
        queues.send("orders", &order(2)).priority(Priority::URGENT).await.unwrap();
        queues.send("orders", &order(3)).ttl(2 * SECOND).delay(3 * SECOND).await.unwrap();
        queues.send("orders", &order(4)).delay(10 * SECOND).await.unwrap();
        let inbox = inbox(&queues).await;
        let begun = Instant::now();
        for expected in [2, 1] {
            let message = number(&inbox, SECOND).await.unwrap();
            assert_eq!(message.body().number, expected, "{queues:?}");
            message.ack().await.unwrap();
        }
        let message = number(&inbox, 60 * SECOND).await.unwrap();
        assert_eq!(message.body().number, 4, "3 had outlived its time when it was due: {queues:?}");
        assert!(begun.elapsed() >= 10 * SECOND && begun.elapsed() < 12 * SECOND, "{:?}", begun.elapsed());
        message.ack().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_negative_acknowledgement_is_retried_by_policy_then_dead() {
    for queues in everywhere().await {
        queues.send("orders", &order(1)).await.unwrap();
        let inbox = inbox(&queues).await;
        for attempt in 1..=3 {
            let begun = Instant::now();
            let message = number(&inbox, 60 * SECOND).await.unwrap();
            let waited = begun.elapsed() >= 5 * SECOND;
            assert_eq!((message.attempt(), waited), (attempt, attempt > 1));
            assert_eq!(message.is_last_attempt(), attempt == 3);
            message.nack(std::io::Error::other("the shelf is empty")).await.unwrap();
        }
        assert!(number(&inbox, 60 * SECOND).await.is_none());
        let dead = dead(&queues).await;
        assert_eq!((dead.len(), dead[0].attempt, &dead[0].error.code[..]), (1, 3, "HANDLER_FAILED"));
        assert_eq!(dead[0].error.message, "the shelf is empty");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_is_delayed_released_or_rejected_by_hand() {
    for queues in everywhere().await {
        queues.send("orders", &order(1)).await.unwrap();
        let inbox = inbox(&queues).await;
        let after = async |attempt: u32, at_least: u64| {
            let begun = Instant::now();
            let message = number(&inbox, 600 * SECOND).await.unwrap();
            assert_eq!(message.attempt(), attempt);
            let waited = begun.elapsed();
            assert!(waited >= at_least as u32 * SECOND && waited < (at_least as u32 + 2) * SECOND, "{waited:?}");
            message
        };
        after(1, 0).await.nack_after(60 * SECOND, Failure::retry("later")).await.unwrap();
        after(2, 60).await.release(100 * SECOND).await.unwrap();
        after(2, 100).await.release(NOW).await.unwrap();
        after(2, 0).await.reject(Failure::retry("nonsense")).await.unwrap();
        assert!(number(&inbox, 600 * SECOND).await.is_none());
        let dead = dead(&queues).await;
        assert_eq!((dead.len(), dead[0].attempt, &dead[0].error.message[..]), (1, 2, "nonsense"));

        queues.send("orders", &order(2)).await.unwrap();
        number(&inbox, SECOND).await.unwrap().nack(Failure::Cancel).await.unwrap();
        assert!(number(&inbox, 60 * SECOND).await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_message_comes_back_soon_and_spends_nothing() {
    for queues in everywhere().await {
        queues.send("orders", &order(1)).await.unwrap();
        let (one, other) = (inbox(&queues).await, inbox(&queues).await);
        drop(number(&one, SECOND).await.unwrap());
        let begun = Instant::now();
        let message = number(&other, 60 * SECOND).await.unwrap();
        assert_eq!(message.attempt(), 1);
        // Not at once, which would spin, and long before the lease ends.
        assert!(begun.elapsed() >= SECOND && begun.elapsed() < 4 * SECOND, "{:?}", begun.elapsed());
        let (body, acker) = message.into_parts();
        assert_eq!(body, order(1));
        acker.ack().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_breaks_its_consumers_ends() {
    for queues in everywhere().await {
        queues.send("orders", &order(1)).await.unwrap();
        let inbox = Arc::new(inbox(&queues).await);
        for _ in 0..3 {
            let inbox = Arc::clone(&inbox);
            let consumer = tokio::spawn(async move {
                let _message = number(&inbox, 60 * SECOND).await.unwrap();
                panic!("at number 1");
            });
            assert!(consumer.await.unwrap_err().is_panic());
        }
        assert!(number(&inbox, 60 * SECOND).await.is_none());
        let dead = dead(&queues).await;
        assert_eq!((dead.len(), &dead[0].error.code[..]), (1, "HANDLER_PANICKED"));
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_killed_inbox_held_is_delivered_elsewhere_and_its_acknowledgement_is_stale() {
    for queues in everywhere().await {
        queues.send_all("orders", &[order(1), order(2)]).await;
        let killed = inbox(&queues).await;
        let in_hand = number(&killed, SECOND).await.unwrap();
        drop(killed);
        assert!(lost(in_hand.ack().await), "nobody keeps its lease any more");
        let other = inbox(&queues).await;
        let mut numbers = Vec::new();
        for _ in 0..2 {
            let message = number(&other, 120 * SECOND).await.unwrap();
            assert_eq!(message.attempt(), 1, "a lost lease is no failure");
            numbers.push(message.body().number);
            message.ack().await.unwrap();
        }
        numbers.sort_unstable();
        assert_eq!(numbers, [1, 2]);
        assert!(number(&other, 120 * SECOND).await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_consumers_die_ten_times_is_poison() {
    let queues = memory();
    queues.send("orders", &order(1)).await.unwrap();
    for death in 1.. {
        let inbox = inbox(&queues).await;
        let Some(message) = number(&inbox, 60 * SECOND).await else {
            assert_eq!(death, 11);
            break;
        };
        assert_eq!(message.is_redelivered(), death > 1);
        // The first delivery's start is known from its first heartbeat only.
        tokio::time::sleep(15 * SECOND).await;
        drop(inbox);
    }
    assert_eq!(dead(&queues).await[0].error.code, "POISON");
}

#[tokio::test(start_paused = true)]
async fn a_stale_acknowledgement_is_an_error_and_changes_nothing() {
    let env = env();
    let faults = Faults::default();
    let provider = MemoryProvider::with_env(env.clone());
    let faulty = Faulty::new(provider.clone(), faults.clone());
    let silent = JobScheduler::with_env(Arc::new(faulty), env.clone());
    let sound = JobScheduler::with_env(Arc::new(provider), env);
    silent.send("orders", &order(1)).timeout(3_600 * SECOND).await.unwrap();
    faults.heartbeat_hangs();
    let first = inbox(&silent).await;
    let stale = number(&first, SECOND).await.unwrap();
    let second = inbox(&sound).await;
    let fresh = number(&second, 120 * SECOND).await.expect("its lease ended");
    assert!(lost(stale.ack().await));
    assert_eq!(fresh.id(), fresh.envelope().id);
    fresh.ack().await.unwrap();

    // Where only the broker knows that the session is over, it refuses by its fence.
    for shape in shapes().into_iter().take(2) {
        let (broker, queues) = on(shape);
        queues.send("orders", &order(1)).await.unwrap();
        let inbox = inbox(&queues).await;
        let stale = number(&inbox, SECOND).await.unwrap();
        broker.restart();
        assert!(lost(stale.ack().await));
        let fresh = number(&inbox, 60 * SECOND).await.expect("it is delivered again");
        fresh.ack().await.unwrap();
        assert!(number(&inbox, 60 * SECOND).await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_fetched_and_lost_before_it_was_received_is_not_given_out() {
    for shape in shapes().into_iter().take(2) {
        let (broker, queues) = on(shape);
        queues.send_all("orders", &[1, 2, 3, 4].map(order)).await;
        let inbox = inbox(&queues).await;
        number(&inbox, SECOND).await.unwrap().ack().await.unwrap();
        broker.restart();
        // The next heartbeat tells.
        tokio::time::sleep(15 * SECOND).await;
        for _ in 0..3 {
            number(&inbox, 60 * SECOND).await.unwrap().ack().await.unwrap();
        }
        assert!(number(&inbox, 60 * SECOND).await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_kept_while_the_message_is_in_hand_until_its_timeout() {
    for queues in everywhere_but_on_a_log().await {
        queues.send("orders", &order(1)).timeout(600 * SECOND).await.unwrap();
        let (one, other) = (inbox(&queues).await, inbox(&queues).await);
        let message = number(&one, SECOND).await.unwrap();
        assert!(number(&other, 500 * SECOND).await.is_none(), "far beyond the lease of 30 s");
        message.ack().await.unwrap();

        queues.send("orders", &order(2)).timeout(40 * SECOND).await.unwrap();
        let message = number(&one, SECOND).await.unwrap();
        let begun = Instant::now();
        let again = number(&other, 120 * SECOND).await.unwrap();
        assert!(begun.elapsed() >= 45 * SECOND && begun.elapsed() < 50 * SECOND, "{:?}", begun.elapsed());
        assert_eq!(again.attempt(), 2);
        assert!(lost(message.ack().await));
        again.ack().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn on_a_log_one_consumer_has_the_same_guarantees() {
    let (_broker, queues) = on(LogModel::default().into());
    let alone = queues.inbox::<Order>("orders").prefetch(2).drain_deadline(10 * SECOND).open().await.unwrap();
    queues.send("orders", &order(1)).timeout(600 * SECOND).await.unwrap();
    let message = number(&alone, SECOND).await.unwrap();
    assert!(number(&alone, 500 * SECOND).await.is_none());
    message.ack().await.unwrap();
    queues.send("orders", &order(2)).timeout(40 * SECOND).await.unwrap();
    let message = number(&alone, SECOND).await.unwrap();
    let again = number(&alone, 60 * SECOND).await.unwrap();
    assert_eq!(again.attempt(), 2);
    assert!(lost(message.ack().await));
    again.ack().await.unwrap();

    queues.send_all("orders", &[order(3), order(4), order(5)]).await;
    let (third, fourth) = (number(&alone, SECOND).await.unwrap(), number(&alone, SECOND).await.unwrap());
    assert!(number(&alone, SECOND).await.is_none(), "prefetch bounds what is in hand");
    fourth.ack().await.unwrap();
    number(&alone, SECOND).await.unwrap().ack().await.unwrap();
    assert_eq!(alone.close().await, DrainReport { done: 0, released: 0, aborted: 1 });
    assert!(lost(third.ack().await));
    assert_eq!(drained(&queues, "orders").await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_a_dead_letter_and_the_next_one_is_received() {
    for queues in everywhere().await {
        let raw = |json: &'static str| RawMessage::new(Order::KIND, ContentType::Json, json).unwrap();
        let bad = [raw("{"), raw(r#"{"number":"seven"}"#), raw(r#"{"number":1000001}"#)];
        assert!(queues.send_all("orders", &bad).await.iter().all(Result::is_ok));
        queues.send("orders", &order(7)).await.unwrap();
        let inbox = inbox(&queues).await;
        let message = number(&inbox, SECOND).await.unwrap();
        assert_eq!(message.body(), &order(7));
        message.ack().await.unwrap();
        assert!(number(&inbox, 60 * SECOND).await.is_none());
        let dead = dead(&queues).await;
        let told: Vec<_> = dead.iter().map(|dead| (&dead.error.code[..], dead.attempt)).collect();
        assert_eq!(told, [("VALIDATION", 1); 3]);
        assert!(dead.iter().any(|dead| dead.error.message.contains("number (range)")), "{dead:?}");
    }
    let refused = memory().send("orders", &order(1_000_001)).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Validation);
}

#[tokio::test(start_paused = true)]
async fn a_message_of_another_kind_waits_for_whoever_has_its_type() {
    for queues in everywhere_but_on_a_log().await {
        let other = RawMessage::json("order.cancelled", &9).unwrap();
        queues.send("orders", &other).await.unwrap();
        let typed = inbox(&queues).await;
        assert!(number(&typed, SECOND).await.is_none());
        let raw: Inbox<RawMessage> = queues.inbox("orders").open().await.unwrap();
        let message = number(&raw, 60 * SECOND).await.unwrap();
        assert_eq!((message.attempt(), message.body().decode::<u32>().unwrap()), (2, 9));
        assert_eq!(message.body().decode::<String>().unwrap_err().code(), ErrorCode::Validation);
        message.release(NOW).await.unwrap();
        assert!(number(&typed, 60 * SECOND).await.is_none());
        assert_eq!(dead(&queues).await[0].error.code, "NO_HANDLER");
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_travel_as_they_are() {
    for queues in everywhere().await {
        let image = RawMessage::new("photo", ContentType::parse("image/png").unwrap(), vec![0, 159, 146, 150]).unwrap();
        queues.send("orders", &image).await.unwrap();
        let inbox: Inbox<RawMessage> = queues.inbox("orders").open().await.unwrap();
        let message = number(&inbox, SECOND).await.unwrap();
        assert_eq!(message.body(), &image);
        assert!(!format!("{image:?}{message:?}").contains("159"), "payloads are not shown");
        message.ack().await.unwrap();
    }
}
