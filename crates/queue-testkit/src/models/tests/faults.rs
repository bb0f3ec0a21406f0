//! What goes wrong on demand, and what crashes leave behind.

use queue_core::{
    QueueSpec,
    provider::{Beat, BeatOutcome, FollowUp, OnFull, Rejection},
};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_killed_client_loses_nothing_and_its_receipts_are_stale() {
    for shape in shapes() {
        let bench = Bench::new(shape);
        bench.put_all(0..3).await;
        let other = bench.broker.connect();
        let consumer = bench.consumer(10).await;
        let taken = take(&consumer, 2).await;
        let crash = async {
            tokio::time::sleep(secs(1)).await;
            bench.provider.crash();
        };
        let (pending, ()) = tokio::join!(
            async {
                take(&consumer, 10).await;
                consumer.fetch(1, secs(100)).await
            },
            crash
        );
        assert!(pending.unwrap().is_empty());
        assert_eq!(bench.now(), Timestamp::from_millis(START) + secs(1), "the blocked fetch returned at once");

        let beat = consumer.heartbeat(&[Beat::extend(taken[0].receipt, LEASE)]).await.remove(0);
        assert!(matches!(beat, BeatOutcome::Lost));
        let survivor = consumer_of(&other, &bench.queue, 10).await;
        let mut again = Vec::new();
        while again.len() < 3 {
            let more = survivor.fetch(10, LEASE).await.unwrap();
            assert!(!more.is_empty(), "something was lost");
            again.extend(more);
        }
        assert_eq!(ids(&again), [id(0), id(1), id(2)], "in their old order");
        assert!(again.iter().all(|delivery| delivery.redelivered && delivery.attempt == 1));
        assert!(matches!(settle(&consumer, &taken[0], complete()).await, SettleOutcome::LeaseLost));
        assert!(matches!(settle(&survivor, &taken[1], complete()).await, SettleOutcome::LeaseLost));
        assert!(settle(&survivor, &again[0], complete()).await.is_settled());
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_between_successor_and_acknowledgement_doubles_and_never_loses() {
    for shape in shapes() {
        for disposition in [retry(Duration::ZERO), bury(), complete()] {
            let bench = Bench::new(shape.clone());
            bench.put_all(0..1).await;
            let consumer = bench.consumer(10).await;
            let delivery = take_one(&consumer).await;
            bench.broker.faults(|faults| faults.crash_before_ack(1));
            let outcome = settle(&consumer, &delivery, disposition.clone()).await;
            assert!(matches!(outcome, SettleOutcome::Unknown(_)), "{outcome:?}");

            let survivor = consumer_of(&bench.broker.connect(), &bench.queue, 10).await;
            tokio::time::advance(LEASE).await;
            let mut attempts: Vec<u32> = take(&survivor, 10).await.iter().map(|delivery| delivery.attempt).collect();
            attempts.sort_unstable();
            match disposition {
                Disposition::Retry { .. } => assert_eq!(attempts, [1, 2]),
                Disposition::DeadLetter { .. } => assert_eq!((attempts, bench.dead().await.len()), (vec![1], 1)),
                _ => assert_eq!(attempts, [1]),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_follow_up_that_fails_leaves_the_original_leased() {
    for shape in shapes() {
        let bench = Bench::new(shape);
        bench.put_all(0..1).await;
        let (near, far) = (QueueName::from_static("near"), QueueName::from_static("far"));
        let consumer = bench.consumer(10).await;
        let delivery = take_one(&consumer).await;
        let mut settlement = Settlement::new(delivery.receipt, complete());
        settlement.then = vec![
            FollowUp { queue: near.clone(), envelope: bench.job(10) },
            FollowUp { queue: far.clone(), envelope: bench.job(11) },
        ];
        let limit = bench.provider.capabilities(None).max_encoded_len;
        let mut too_large = settlement.clone();
        too_large.then[1].envelope = bench.job(12).edit(|parts| parts.payload = vec![0; limit].into());
        let refused = |outcome: &SettleOutcome| match outcome {
            SettleOutcome::NotSettled { then_index: Some(1), error } => Some(error.code()),
            _ => None,
        };
        let outcome = consumer.settle(std::slice::from_ref(&too_large)).await.remove(0);
        assert_eq!(refused(&outcome), Some(ErrorCode::PayloadTooLarge), "{outcome:?}");
        let reader = consumer_of(&bench.provider, &near, 10).await;
        assert!(take(&reader, 10).await.is_empty(), "all are checked before the first is published");

        bench.broker.faults(|faults| faults.unroutable(&far, true));
        let outcome = consumer.settle(std::slice::from_ref(&settlement)).await.remove(0);
        assert_eq!(refused(&outcome), Some(ErrorCode::Unroutable), "{outcome:?}");
        assert_eq!(bench.stats().await.running, 1);

        bench.broker.faults(|faults| faults.unroutable(&far, false));
        let outcome = consumer.settle(std::slice::from_ref(&settlement)).await.remove(0);
        assert!(outcome.is_settled(), "{outcome:?}");
        assert_eq!(ids(&take(&consumer_of(&bench.provider, &far, 10).await, 10).await), [id(11)]);
        assert_eq!(bench.stats().await.completed_total, 1);

        // Neither a repetition nor a stale receipt publishes again.
        take(&reader, 10).await;
        consumer.settle(std::slice::from_ref(&settlement)).await;
        settlement.receipt.epoch += 1_000;
        let outcome = consumer.settle(&[settlement]).await.remove(0);
        assert!(matches!(outcome, SettleOutcome::LeaseLost));
        assert!(take(&reader, 10).await.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_copy_or_dead_letter_leaves_the_original_leased() {
    for shape in shapes() {
        let bench = Bench::new(shape);
        bench.put_all(0..1).await;
        let consumer = bench.consumer(10).await;
        let delivery = take_one(&consumer).await;
        bench.broker.faults(|faults| {
            faults.refuse_publishes(&bench.queue, 1);
            faults.refuse_dead_letters(&bench.queue, 1);
        });
        for disposition in [bury(), retry(secs(1))] {
            let outcome = settle(&consumer, &delivery, disposition).await;
            assert!(matches!(outcome, SettleOutcome::NotSettled { then_index: None, .. }), "{outcome:?}");
        }
        assert!(settle(&consumer, &delivery, bury()).await.is_settled());
        assert_eq!(bench.dead().await.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn unreadable_bytes_outlast_a_refused_dead_letter() {
    for shape in shapes() {
        let bench = Bench::new(shape);
        let consumer = bench.consumer(10).await;
        bench.broker.faults(|faults| faults.refuse_dead_letters(&bench.queue, 2));
        bench.broker.publish_raw(&bench.queue, bench.job(0).encode().slice(..40)).unwrap();
        assert!(consumer.fetch(1, secs(10)).await.unwrap().is_empty());
        assert_eq!(bench.dead().await.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn lost_replies_say_unknown_and_the_broker_did_it() {
    for shape in shapes() {
        let bench = Bench::new(shape);
        bench.broker.faults(|faults| faults.lose_publish_replies(1));
        let outcomes = bench.put([bench.job(0), bench.job(1)]).await;
        assert!(matches!(outcomes[0], PublishOutcome::Unknown(_)) && outcomes[1].is_accepted(), "{outcomes:?}");
        let consumer = bench.consumer(10).await;
        let taken = take(&consumer, 10).await;
        assert_eq!(ids(&taken), [id(0), id(1)]);

        bench.broker.faults(|faults| faults.lose_settle_replies(1));
        let outcome = settle(&consumer, &taken[0], complete()).await;
        let confirmed = bench.provider.capabilities(None).settle_confirmed;
        assert_eq!(matches!(outcome, SettleOutcome::Unknown(_)), confirmed, "{outcome:?}");
        assert!(matches!(settle(&consumer, &taken[0], complete()).await, SettleOutcome::AlreadySettled));
        bench.provider.crash();
        tokio::time::advance(LEASE).await;
        let survivor = consumer_of(&bench.broker.connect(), &bench.queue, 10).await;
        let expected = if confirmed { vec![id(1)] } else { vec![id(0), id(1)] };
        assert_eq!(ids(&take(&survivor, 10).await), expected, "only a sent acknowledgement can be lost");
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_breaks_a_fetch_once_and_loses_nothing() {
    for shape in shapes() {
        let sessions = shape.has_sessions();
        let bench = Bench::new(shape);
        bench.put_all(0..2).await;
        bench.put([delayed(&bench.job(2), secs(3))]).await;
        let consumer = bench.consumer(10).await;
        let taken = take(&consumer, 2).await;
        let restart = async {
            tokio::time::sleep(secs(1)).await;
            bench.broker.restart();
        };
        let (pending, ()) = tokio::join!(consumer.fetch(1, secs(2)), restart);
        assert_eq!(pending.unwrap_err().code(), ErrorCode::Unavailable);
        let outcome = settle(&consumer, &taken[0], complete()).await;
        let rest = if sessions {
            assert!(matches!(outcome, SettleOutcome::LeaseLost), "{outcome:?}");
            vec![id(0), id(1), id(2)]
        } else {
            assert!(outcome.is_settled(), "a receipt handle outlives connections");
            assert!(settle(&consumer, &taken[1], complete()).await.is_settled());
            vec![id(2)]
        };
        tokio::time::advance(secs(3)).await;
        assert_eq!(ids(&take(&consumer, 10).await), rest);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stopped_broker_answers_nothing_and_says_so() {
    for shape in shapes() {
        let bench = Bench::new(shape);
        bench.put_all(0..1).await;
        let consumer = bench.consumer(10).await;
        bench.broker.stop();
        assert_eq!(consumer.fetch(1, secs(1)).await.unwrap_err().code(), ErrorCode::Unavailable);
        assert_eq!(bench.provider.ping().await.unwrap_err().code(), ErrorCode::Unavailable);
        let outcome = bench.put([bench.job(1)]).await.remove(0);
        assert!(matches!(outcome, PublishOutcome::Rejected(Rejection::Unavailable(_))), "{outcome:?}");
        bench.broker.start();
        assert_eq!(take(&consumer, 10).await.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_kills_its_worker_is_counted() {
    for shape in shapes() {
        let bench = Bench::new(shape);
        bench.put_all(0..1).await;
        for crashes in 0..5 {
            let doomed = bench.broker.connect();
            let consumer = consumer_of(&doomed, &bench.queue, 10).await;
            let delivery = consumer.fetch(1, LEASE).await.unwrap().remove(0);
            assert_eq!((delivery.redelivered, delivery.attempt), (crashes > 0, 1));
            // A first delivery need not be marked, so one crash may go uncounted.
            assert!(delivery.started_before >= crashes.max(1) - 1 && delivery.started_before <= crashes);
            if delivery.redelivered {
                let started = Beat { started: true, ..Beat::extend(delivery.receipt, LEASE) };
                consumer.heartbeat(&[started.clone(), started]).await;
            }
            doomed.crash();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_is_dropped_gives_up_what_it_holds() {
    for shape in shapes() {
        let bench = Bench::new(shape);
        bench.put_all(0..4).await;
        let consumer = bench.consumer(10).await;
        take_one(&consumer).await;
        drop(consumer);
        let other = bench.consumer(10).await;
        tokio::time::advance(LEASE).await;
        assert_eq!(ids(&take(&other, 10).await), [id(0), id(1), id(2), id(3)]);
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_jobs_outlive_two_restarts_and_a_killed_client() {
    const JOBS: u64 = 10_000;
    for shape in shapes() {
        let bench = Bench::new(shape);
        bench.put_all(0..JOBS).await;
        let done = Arc::new(std::sync::Mutex::new(std::collections::BTreeMap::<JobId, u32>::new()));
        let doomed = bench.broker.connect();
        let mut workers = tokio::task::JoinSet::new();
        for n in 0..4 {
            let provider = if n == 0 { doomed.clone() } else { bench.broker.connect() };
            let consumer = consumer_of(&provider, &bench.queue, 50).await;
            let done = done.clone();
            workers.spawn(async move {
                loop {
                    let Ok(taken) = consumer.fetch(50, LEASE * 2).await else {
                        tokio::time::sleep(secs(1)).await;
                        if provider.ping().await.is_err() {
                            return;
                        }
                        continue;
                    };
                    if taken.is_empty() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    // Backwards, so that nothing is finished in order.
                    let batch: Vec<_> =
                        taken.iter().rev().map(|taken| Settlement::new(taken.receipt, complete())).collect();
                    for (outcome, settlement) in consumer.settle(&batch).await.iter().zip(&batch) {
                        if outcome.is_settled() {
                            *done.lock().unwrap().entry(settlement.receipt.id).or_default() += 1;
                        }
                    }
                }
            });
        }
        for pause in [1_050, 1_050] {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            bench.broker.restart();
        }
        tokio::time::sleep(Duration::from_millis(1_050)).await;
        assert!(bench.stats().await.waiting() > 0, "the faults came too late");
        doomed.crash();
        while workers.join_next().await.is_some() {}
        let done = std::mem::take(&mut *done.lock().unwrap());
        assert_eq!(done.len() as u64, JOBS, "lost");
        assert!(done.values().all(|times| *times == 1), "settled twice");
        let stats = bench.stats().await;
        assert_eq!((stats.waiting(), stats.running, stats.completed_total), (0, 0, JOBS));
    }
}

#[tokio::test(start_paused = true)]
async fn a_publish_that_waits_for_room_hears_of_a_restart() {
    for shape in shapes() {
        let bench = Bench::new(shape);
        let mut spec = QueueSpec::new(bench.queue.clone());
        spec.max_len = Some(1);
        bench.provider.declare(&spec).await.unwrap();
        bench.put_all(0..1).await;
        let options = PublishOptions { deadline: secs(60), on_full: OnFull::Wait, ..PublishOptions::default() };
        let restart = async {
            tokio::time::sleep(secs(1)).await;
            bench.broker.restart();
        };
        let (outcomes, ()) = tokio::join!(bench.provider.publish(&bench.queue, vec![bench.job(1)], &options), restart);
        assert!(matches!(outcomes[0], PublishOutcome::Rejected(Rejection::Unavailable(_))), "{outcomes:?}");
        assert_eq!(bench.now(), Timestamp::from_millis(START) + secs(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_takes_the_count_of_crashes_along() {
    for shape in shapes() {
        let bench = Bench::new(shape);
        bench.put_all(0..1).await;
        let consumer = bench.consumer(10).await;
        let delivery = take_one(&consumer).await;
        consumer.heartbeat(&[Beat { started: true, ..Beat::extend(delivery.receipt, LEASE) }]).await;
        bench.provider.crash();
        let survivor = consumer_of(&bench.broker.connect(), &bench.queue, 10).await;
        let again = survivor.fetch(1, LEASE * 2).await.unwrap().remove(0);
        assert_eq!(again.started_before, 1);
        assert!(settle(&survivor, &again, retry(Duration::ZERO)).await.is_settled());
        let copy = take_one(&survivor).await;
        assert_eq!((copy.attempt, copy.started_before), (2, 1));
    }
}
