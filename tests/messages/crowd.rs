use super::*;

#[tokio::test(start_paused = true)]
async fn ten_thousand_messages_go_to_three_competing_consumers_each_exactly_once() {
    for queues in everywhere().await {
        let numbers: Vec<_> = (0..10_000).map(order).collect();
        for answer in queues.send_all("orders", &numbers).await {
            answer.unwrap();
        }
        let consumer = async || {
            let inbox = queues.inbox::<Order>("orders").prefetch(50).open().await.unwrap();
            let mut got = Vec::new();
            loop {
                let batch = inbox.receive_batch(20, 10 * SECOND).await.unwrap();
                if batch.is_empty() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
                let (bodies, ackers): (Vec<_>, Vec<_>) = batch.into_iter().map(Received::into_parts).unzip();
                got.extend(bodies.iter().map(|body| body.number));
                for answer in join_all(ackers.into_iter().map(|acker| acker.ack())).await {
                    answer.unwrap();
                }
            }
            assert_eq!(inbox.close().await.aborted, 0);
            got
        };
        let (one, two, three) = tokio::join!(consumer(), consumer(), consumer());
        assert!(
            [&one, &two, &three].iter().all(|got| got.len() > 1_000),
            "{} {} {}",
            one.len(),
            two.len(),
            three.len()
        );
        let mut all = [one, two, three].concat();
        all.sort_unstable();
        assert_eq!(all, (0..10_000).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn on_several_threads_too_each_message_is_received_once() {
    let queues = JobScheduler::new(MemoryProvider::new());
    let numbers: Vec<_> = (0..5_000).map(order).collect();
    let inbox = Arc::new(queues.inbox::<Order>("orders").prefetch(64).open().await.unwrap());
    let other = Arc::new(queues.inbox::<Order>("orders").prefetch(3).open().await.unwrap());
    let consumer = |inbox: Arc<Inbox<Order>>| {
        tokio::spawn(async move {
            let (mut got, mut turns) = (Vec::new(), 0);
            while let Some(message) = number(&inbox, SECOND).await {
                turns += 1;
                // Some are not dealt with the first time.
                if message.body().number % 10 == 0 && turns % 2 == 0 {
                    let _ = message.release(Duration::from_millis(10)).await;
                    continue;
                }
                got.push(message.body().number);
                message.ack().await.unwrap();
            }
            got
        })
    };
    let readers = [&inbox, &inbox, &inbox, &other, &other].map(|inbox| consumer(Arc::clone(inbox)));
    for chunk in numbers.chunks(100) {
        queues.send_all("orders", chunk).await;
        tokio::task::yield_now().await;
    }
    let mut all: Vec<u32> = join_all(readers).await.into_iter().flat_map(Result::unwrap).collect();
    all.sort_unstable();
    assert_eq!(all, (0..5_000).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn consumers_that_are_killed_again_and_again_lose_nothing() {
    for queues in everywhere().await {
        let numbers: Vec<_> = (0..300).map(order).collect();
        queues.send_all("orders", &numbers).await;
        let mut seen = BTreeMap::<u32, u32>::new();
        let mut unacknowledged = 0;
        for life in 0.. {
            let inbox = queues.inbox::<Order>("orders").prefetch(10).open().await.unwrap();
            for turn in 0..7 {
                let Some(message) = number(&inbox, 90 * SECOND).await else { break };
                *seen.entry(message.body().number).or_default() += 1;
                // The last one of each life is in hand when it ends, while there are many.
                if turn == 6 && life < 20 {
                    unacknowledged += 1;
                    std::mem::forget(message);
                } else {
                    message.ack().await.unwrap();
                }
            }
            drop(inbox);
            if life > 20 && seen.len() == 300 && life > 60 {
                break;
            }
        }
        assert_eq!(seen.len(), 300);
        let again: u32 = seen.values().map(|times| times - 1).sum();
        assert!(again <= unacknowledged, "{again} of {unacknowledged}");
        assert!(dead(&queues).await.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn prefetch_bounds_what_is_unacknowledged_and_leaves_the_rest_to_others() {
    for queues in everywhere_but_on_a_log().await {
        queues.send_all("orders", &[order(1), order(2), order(3)]).await;
        let greedy = queues.inbox::<Order>("orders").prefetch(2).open().await.unwrap();
        let (first, _second) = (number(&greedy, SECOND).await.unwrap(), number(&greedy, SECOND).await.unwrap());
        let begun = Instant::now();
        assert!(number(&greedy, 3 * SECOND).await.is_none());
        assert_eq!(begun.elapsed(), 3 * SECOND);
        let other = inbox(&queues).await;
        let third = number(&other, SECOND).await.unwrap();
        third.release(NOW).await.unwrap();
        drop(other);
        // Room again: whoever waits already is served.
        let waiting = async { number(&greedy, 60 * SECOND).await.unwrap() };
        let (third, acked) = tokio::join!(waiting, first.ack());
        acked.unwrap();
        assert_eq!(third.body().number, 3);
    }
    for prefetch in [0, 100_001] {
        let refused = memory().inbox::<Order>("orders").prefetch(prefetch).open().await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::Config);
    }
}

#[tokio::test(start_paused = true)]
async fn an_inbox_that_nobody_reads_takes_nothing_away() {
    for queues in everywhere_but_on_a_log().await {
        let idle = inbox(&queues).await;
        assert!(number(&idle, SECOND).await.is_none());
        tokio::time::sleep(SECOND).await;
        queues.send("orders", &order(1)).await.unwrap();
        let busy = inbox(&queues).await;
        let message = number(&busy, 2 * SECOND).await.expect("the idle one does not hold it");
        message.ack().await.unwrap();

        // What it fetched with another and nobody asked for goes back in the end.
        queues.send_all("orders", &[order(2), order(3)]).await;
        number(&idle, SECOND).await.unwrap().ack().await.unwrap();
        let message = number(&busy, 120 * SECOND).await.expect("given back by the idle one");
        assert_eq!(message.attempt(), 1);
        message.ack().await.unwrap();
        drop(idle);
    }
}

#[tokio::test(start_paused = true)]
async fn receiving_is_exact_shared_and_loses_nothing_when_given_up() {
    for queues in everywhere().await {
        let inbox = inbox(&queues).await;
        let begun = Instant::now();
        assert!(number(&inbox, NOW).await.is_none() && number(&inbox, 7 * SECOND).await.is_none());
        assert!(begun.elapsed() >= 7 * SECOND && begun.elapsed() < 8 * SECOND, "{:?}", begun.elapsed());
        queues.send_all("orders", &[order(1), order(2)]).await;
        tokio::time::sleep(SECOND).await;
        let one = number(&inbox, NOW).await.expect("it is there");
        one.ack().await.unwrap();
        number(&inbox, NOW).await.unwrap().ack().await.unwrap();

        // Two readers of one inbox share; each waits for its own time.
        let send_later = async {
            tokio::time::sleep(2 * SECOND).await;
            queues.send("orders", &order(3)).await.unwrap();
        };
        let (short, long, ()) = tokio::join!(number(&inbox, SECOND), number(&inbox, 30 * SECOND), send_later);
        assert!(short.is_none());
        long.unwrap().ack().await.unwrap();

        // One that waits is served while the other has its message in hand.
        let one_after_the_other = async {
            queues.send("orders", &order(8)).await.unwrap();
            tokio::time::sleep(5 * SECOND).await;
            queues.send("orders", &order(9)).await.unwrap();
        };
        let begun = Instant::now();
        let (one, other, ()) =
            tokio::join!(number(&inbox, 20 * SECOND), number(&inbox, 20 * SECOND), one_after_the_other);
        assert!(begun.elapsed() < 6 * SECOND, "{:?}", begun.elapsed());
        one.unwrap().ack().await.unwrap();
        other.unwrap().ack().await.unwrap();

        // A receiver that gives up in the very moment leaves the message to the next.
        for number_sent in 4..8 {
            let receive = number(&inbox, 30 * SECOND);
            let send = queues.send("orders", &order(number_sent));
            tokio::select! {
                biased;
                _ = async { send.await.unwrap(); tokio::task::yield_now().await } => {}
                message = receive => drop(message.unwrap().release(NOW)),
            }
            let message = number(&inbox, 30 * SECOND).await.unwrap();
            assert_eq!(message.body().number, number_sent);
            message.ack().await.unwrap();
        }
    }
}
