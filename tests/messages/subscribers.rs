use super::*;

#[tokio::test(start_paused = true)]
async fn subscribers_get_messages_pushed_and_compete_for_them() {
    for queues in everywhere().await {
        let got: Arc<Mutex<Vec<(usize, u32, u32)>>> = Arc::default();
        let subscribe = |who: usize| {
            let got = Arc::clone(&got);
            let subscriber = queues.subscribe("orders", 2, move |order: Order, context: JobContext| {
                got.lock().unwrap().push((who, order.number, context.attempt()));
                async move {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    if order.number == 5 { Err(Failure::retry("no")) } else { Ok(()) }
                }
            });
            subscriber.heartbeat_on_runtime().start()
        };
        let (one, two) = (subscribe(1).await.unwrap(), subscribe(2).await.unwrap());
        queues.send_all("orders", &(0..40).map(order).collect::<Vec<_>>()).await;
        queues.send("orders", &RawMessage::new(Order::KIND, ContentType::Json, "[]").unwrap()).await.unwrap();
        tokio::time::sleep(60 * SECOND).await;
        one.stop().await;
        two.stop().await;
        let got = std::mem::take(&mut *got.lock().unwrap());
        assert_eq!(got.iter().map(|(who, ..)| who).collect::<std::collections::BTreeSet<_>>().len(), 2);
        let mut runs: Vec<_> = got.iter().map(|(_, number, attempt)| (*number, *attempt)).collect();
        runs.sort_unstable();
        let mut expected: Vec<_> = (0..40).map(|number| (number, 1)).chain([(5, 2), (5, 3)]).collect();
        expected.sort_unstable();
        assert_eq!(runs, expected);
        let mut codes: Vec<_> = dead(&queues).await.into_iter().map(|dead| dead.error.code).collect();
        codes.sort_unstable();
        assert_eq!(codes, ["HANDLER_FAILED", "VALIDATION"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_without_a_type_gets_what_has_no_handler_of_its_own() {
    let queues = memory();
    let got: Arc<Mutex<Vec<String>>> = Arc::default();
    let (typed, rest) = (Arc::clone(&got), Arc::clone(&got));
    let worker = queues
        .subscribe("orders", 1, move |order: Order, _| {
            typed.lock().unwrap().push(format!("order {}", order.number));
            async { Ok::<_, Failure>(()) }
        })
        .on_message(move |raw: RawMessage, _| {
            rest.lock().unwrap().push(raw.kind.to_string());
            async { Ok::<_, Failure>(()) }
        })
        .heartbeat_on_runtime()
        .start()
        .await
        .unwrap();
    queues.send("orders", &order(1)).await.unwrap();
    queues.send("orders", &RawMessage::json("other", &1).unwrap()).await.unwrap();
    tokio::time::sleep(SECOND).await;
    worker.stop().await;
    assert_eq!(*got.lock().unwrap(), ["order 1", "other"]);
}
