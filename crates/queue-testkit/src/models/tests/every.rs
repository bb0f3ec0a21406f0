//! What the three have in common.

use bytes::Bytes;
use queue_core::{
    QueueSpec,
    job::{ContentType, Unique, UniqueKey},
    provider::{Beat, BeatOutcome, DeadBody, Durability, OnFull, ParkKey, Redrive, Rejection, Support},
    queue_spec::Order,
};

use super::*;

#[tokio::test(start_paused = true)]
async fn bands_go_first_and_within_a_band_it_is_first_in_first_out() {
    for shape in shapes() {
        let bench = Bench::new(shape);
        let levels = [5, 1, 15, 9, 10, 4, 14, 5];
        let jobs = levels.iter().zip(0..).map(|(level, n)| with_priority(&bench.job(n), *level));
        bench.put(jobs.collect::<Vec<_>>()).await;
        let consumer = bench.consumer(100).await;
        let expected: Vec<JobId> = [2, 4, 6, 0, 3, 7, 1, 5].map(id).to_vec();
        assert_eq!(ids(&take(&consumer, 100).await), expected, "{}", bench.provider.scheme());
    }
}

#[tokio::test(start_paused = true)]
async fn a_delay_is_never_early_and_wakes_a_waiting_fetch() {
    for shape in shapes() {
        let bench = Bench::new(shape);
        let consumer = bench.consumer(10).await;
        bench.put([delayed(&bench.job(0), secs(60))]).await;
        assert_eq!(bench.stats().await.scheduled, 1);
        assert!(consumer.fetch(1, Duration::from_millis(59_999)).await.unwrap().is_empty());
        let before = bench.now();
        let taken = consumer.fetch(1, secs(10)).await.unwrap();
        assert_eq!(ids(&taken), [id(0)]);
        assert!(bench.now() - before <= Duration::from_millis(2), "the fetch slept past the due time");
        assert!(bench.now() >= taken[0].envelope.not_before.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn what_becomes_due_joins_the_tail() {
    for shape in shapes() {
        let bench = Bench::new(shape);
        bench.put([delayed(&bench.job(0), secs(5))]).await;
        bench.put_all(1..3).await;
        tokio::time::advance(secs(6)).await;
        bench.stats().await;
        bench.put_all(3..4).await;
        assert_eq!(ids(&take(&bench.consumer(10).await, 10).await), [id(1), id(2), id(0), id(3)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_is_the_next_attempt_and_a_release_is_the_same_one() {
    for shape in shapes() {
        let bench = Bench::new(shape);
        bench.put_all(0..1).await;
        let consumer = bench.consumer(10).await;
        assert!(settle(&consumer, &take_one(&consumer).await, retry(secs(5))).await.is_settled());
        assert_eq!(bench.stats().await.retrying, 1);
        assert!(consumer.fetch(1, Duration::from_millis(4_999)).await.unwrap().is_empty());
        let second = consumer.fetch(1, secs(1)).await.unwrap().remove(0);
        assert_eq!((second.attempt, second.envelope.attempt, second.envelope.generation), (2, 2, 1));
        assert_eq!(second.envelope.not_before, Some(second.envelope.created_at + secs(5)));

        assert!(settle(&consumer, &second, release(secs(5))).await.is_settled());
        assert!(consumer.fetch(1, Duration::from_millis(4_999)).await.unwrap().is_empty());
        let third = consumer.fetch(1, secs(1)).await.unwrap().remove(0);
        assert_eq!((third.attempt, third.envelope.generation, third.started_before), (2, 1, 0));

        assert!(settle(&consumer, &third, release(Duration::ZERO)).await.is_settled());
        let fourth = take_one(&consumer).await;
        assert_eq!((fourth.attempt, fourth.envelope.id), (2, id(0)));
        assert!(settle(&consumer, &fourth, complete()).await.is_settled());
        assert!(take(&consumer, 1).await.is_empty());
        assert_eq!(bench.stats().await.completed_total, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_settlement_repeated_is_known_and_contradicted_is_refused() {
    for shape in shapes() {
        let bench = Bench::new(shape);
        bench.put_all(0..1).await;
        let consumer = bench.consumer(10).await;
        let delivery = take_one(&consumer).await;
        assert!(matches!(settle(&consumer, &delivery, retry(Duration::ZERO)).await, SettleOutcome::Settled));
        assert!(matches!(settle(&consumer, &delivery, retry(Duration::ZERO)).await, SettleOutcome::AlreadySettled));
        assert!(matches!(settle(&consumer, &delivery, complete()).await, SettleOutcome::Conflict));
        assert_eq!(take(&consumer, 10).await.len(), 1, "one copy, however often it was said");

        bench.put_all(1..2).await;
        let mut other = take_one(&consumer).await;
        other.receipt.id = id(99);
        assert!(matches!(settle(&consumer, &other, complete()).await, SettleOutcome::LeaseLost));

        let mut forged = delivery;
        forged.receipt.epoch += 1_000;
        assert!(matches!(settle(&consumer, &forged, complete()).await, SettleOutcome::LeaseLost));
        let beat = consumer.heartbeat(&[Beat::extend(forged.receipt, LEASE)]).await.remove(0);
        assert!(matches!(beat, BeatOutcome::Lost));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_settled_long_ago_is_forgotten() {
    for shape in shapes() {
        let bench = Bench::new(shape);
        bench.put_all(0..1_100).await;
        let consumer = bench.consumer(2_000).await;
        let taken = take(&consumer, 2_000).await;
        let batch: Vec<Settlement> = taken.iter().map(|taken| Settlement::new(taken.receipt, complete())).collect();
        assert!(consumer.settle(&batch).await.iter().all(SettleOutcome::is_settled));
        assert!(matches!(settle(&consumer, &taken[0], complete()).await, SettleOutcome::LeaseLost));
        assert!(matches!(settle(&consumer, &taken[1_099], complete()).await, SettleOutcome::AlreadySettled));
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_job_keeps_its_error_and_lives_again_from_attempt_one() {
    for shape in shapes() {
        let bench = Bench::new(shape);
        bench.put_all(0..2).await;
        let consumer = bench.consumer(10).await;
        for delivery in take(&consumer, 10).await {
            settle(&consumer, &delivery, bury()).await;
        }
        let admin = bench.provider.admin();
        let first = admin.dead(&bench.queue, &DeadFilter::default(), None, 1).await.unwrap();
        assert_eq!((first.items[0].id, first.items[0].error.message.as_str()), (id(0), "never"));
        let rest = admin.dead(&bench.queue, &DeadFilter::default(), first.next.clone(), 1).await.unwrap();
        assert_eq!((rest.items[0].id, rest.next), (id(1), None));
        assert!(admin.queues("", first.next, 1).await.is_err(), "a cursor of another listing");

        let report = admin.redrive(&bench.queue, &Redrive { dry_run: true, ..Redrive::all() }).await.unwrap();
        assert_eq!((report.matched, report.redriven), (2, 0));
        let huge = vec![0; bench.provider.capabilities(None).max_encoded_len];
        let too_large = Redrive { payload: Some(huge.into()), ..Redrive::one(id(1)) };
        let error = admin.redrive(&bench.queue, &too_large).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::PayloadTooLarge);
        let edited = Redrive { payload: Some(Bytes::from_static(b"mended")), ..Redrive::one(id(1)) };
        assert_eq!(admin.redrive(&bench.queue, &edited).await.unwrap().redriven, 1);
        let again = take_one(&consumer).await;
        assert_eq!((again.attempt, &again.envelope.payload[..]), (1, &b"mended"[..]));
        assert_eq!(again.envelope.generation, 1);
        assert!(admin.redrive(&bench.queue, &Redrive { payload: edited.payload, ..Redrive::all() }).await.is_err());
        assert_eq!(admin.drop_dead(&bench.queue, &DeadFilter::default()).await.unwrap(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn another_life_forgets_the_last_one() {
    for shape in shapes() {
        let bench = Bench::new(shape);
        let now = bench.now();
        let tired = bench.job(0).edit(|parts| {
            parts.attempt = 4;
            parts.deliveries = 9;
            parts.expires_at = Some(now + secs(5));
        });
        bench.put([tired]).await;
        let consumer = bench.consumer(10).await;
        let delivery = take_one(&consumer).await;
        assert_eq!((delivery.attempt, delivery.started_before), (4, 9));
        settle(&consumer, &delivery, bury()).await;
        tokio::time::advance(secs(60)).await;
        bench.provider.admin().redrive(&bench.queue, &Redrive::one(id(0))).await.unwrap();
        let delivery = take_one(&consumer).await;
        assert_eq!((delivery.attempt, delivery.started_before, delivery.envelope.expires_at), (1, 0, None));
    }
}

#[tokio::test(start_paused = true)]
async fn the_dead_are_forgotten_by_age_only() {
    for shape in shapes() {
        let bench = Bench::new(shape);
        let consumer = bench.consumer(10).await;
        bench.put_all(0..2).await;
        let keep = QueueSpec::new(bench.queue.clone()).retention.dead;
        for delivery in take(&consumer, 10).await {
            settle(&consumer, &delivery, bury()).await;
            bench.provider.maintain(true).await.unwrap();
            tokio::time::advance(secs(10)).await;
        }
        assert_eq!(bench.dead().await.len(), 2);
        tokio::time::advance(keep - secs(15)).await;
        bench.provider.maintain(false).await.unwrap();
        assert_eq!(bench.dead().await.len(), 2, "only the leader forgets");
        bench.provider.maintain(true).await.unwrap();
        let dead: Vec<JobId> = bench.dead().await.iter().map(|dead| dead.id).collect();
        assert_eq!(dead, [id(1)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_plain_message_is_a_job_as_its_queue_has_them() {
    for shape in shapes() {
        let bench = Bench::new(shape);
        let mut spec = QueueSpec::new(bench.queue.clone());
        spec.default_kind = JobKind::from_static("plain");
        spec.default_priority = Priority::URGENT;
        spec.timeout = secs(7);
        spec.ttl = Some(secs(5));
        bench.provider.declare(&spec).await.unwrap();
        let consumer = bench.consumer(10).await;
        bench.broker.publish_raw(&bench.queue, "one").unwrap();
        let envelope = take_one(&consumer).await.envelope;
        assert_eq!((envelope.kind.as_str(), envelope.priority, envelope.timeout), ("plain", Priority::URGENT, secs(7)));
        bench.broker.publish_raw(&bench.queue, "two").unwrap();
        tokio::time::advance(secs(6)).await;
        assert!(take(&consumer, 1).await.is_empty(), "expired");
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_of_others_are_jobs_and_unreadable_ones_are_kept() {
    for shape in shapes() {
        let bench = Bench::new(shape);
        let consumer = bench.consumer(10).await;
        let broken = bench.job(0).encode().slice(..40);
        bench.broker.publish_raw(&bench.queue, broken.clone()).unwrap();
        bench.broker.publish_raw(&bench.queue, "hello").unwrap();
        bench.broker.publish_raw(&bench.queue, "hello").unwrap();
        let taken = take(&consumer, 10).await;
        assert_eq!(taken.len(), 2);
        assert_ne!(taken[0].envelope.id, taken[1].envelope.id, "two messages are two jobs");
        for delivery in &taken {
            let envelope = &delivery.envelope;
            assert_eq!((envelope.kind.as_str(), &envelope.payload[..]), ("message", &b"hello"[..]));
            assert_eq!(envelope.content_type, ContentType::Bytes);
            assert!(settle(&consumer, delivery, retry(Duration::ZERO)).await.is_settled());
        }
        let again = take(&consumer, 10).await;
        assert_eq!(ids(&again), ids(&taken), "the id stays");
        assert!(again.iter().all(|delivery| delivery.attempt == 2));

        let dead = bench.dead().await;
        assert_eq!((dead.len(), dead[0].error.code.as_ref()), (1, "UNDECODABLE"));
        assert!(matches!(&dead[0].body, DeadBody::Raw(bytes) if *bytes == broken));
        assert_eq!(bench.stats().await.running, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_newer_version_is_left_for_a_minute_again_and_again() {
    for shape in shapes() {
        let bench = Bench::new(shape);
        let consumer = bench.consumer(10).await;
        let mut newer = bench.job(0).encode().to_vec();
        newer[1] = 9;
        bench.broker.publish_raw(&bench.queue, newer).unwrap();
        for _ in 0..3 {
            assert!(take(&consumer, 1).await.is_empty());
            let stats = bench.stats().await;
            assert_eq!((stats.waiting(), stats.running, stats.dead), (1, 0, 0));
            tokio::time::advance(secs(61)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_expired_is_dropped_and_the_fetch_goes_on() {
    for shape in shapes() {
        let bench = Bench::new(shape);
        let consumer = bench.consumer(10).await;
        let now = bench.now();
        bench.put([bench.job(0).edit(|parts| parts.expires_at = Some(now + secs(1)))]).await;
        bench.put([delayed(&bench.job(1), secs(9))]).await;
        tokio::time::advance(secs(2)).await;
        assert_eq!(ids(&consumer.fetch(5, secs(60)).await.unwrap()), [id(1)]);
        let stats = bench.stats().await;
        assert_eq!((stats.pending, stats.running, stats.dead), (0, 1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn max_len_refuses_new_jobs_only_and_waiting_ends_when_there_is_room() {
    for shape in shapes() {
        let bench = Bench::new(shape);
        let mut spec = QueueSpec::new(bench.queue.clone());
        spec.max_len = Some(2);
        bench.provider.declare(&spec).await.unwrap();
        let consumer = bench.consumer(10).await;
        let outcomes = bench.put((0..3).map(|n| bench.job(n))).await;
        assert!(matches!(outcomes[2], PublishOutcome::Rejected(Rejection::Full)), "{outcomes:?}");
        let taken = take(&consumer, 2).await;
        bench.put_all(3..5).await;
        assert!(settle(&consumer, &taken[0], retry(secs(1))).await.is_settled(), "a retry is never refused");
        assert_eq!(bench.stats().await.waiting(), 3);

        let options = PublishOptions { deadline: secs(10), on_full: OnFull::Wait, ..PublishOptions::default() };
        let batch = vec![bench.job(6), bench.job(7)];
        let waiting = bench.provider.publish(&bench.queue, batch, &options);
        let room = async {
            tokio::time::sleep(secs(1)).await;
            take(&consumer, 2).await
        };
        let (outcomes, _) = tokio::join!(waiting, room);
        assert!(outcomes[0].is_accepted(), "{outcomes:?}");
        assert!(matches!(outcomes[1], PublishOutcome::Rejected(Rejection::Full)), "{outcomes:?}");
        assert_eq!(bench.now(), Timestamp::from_millis(START) + secs(10));
    }
}

#[tokio::test(start_paused = true)]
async fn one_bad_item_leaves_its_neighbours_alone() {
    for shape in shapes() {
        let bench = Bench::new(shape);
        let can = bench.provider.capabilities(None);
        let huge = bench.job(1).edit(|parts| parts.payload = Bytes::from(vec![0; can.max_encoded_len]));
        let unique = |parts: &mut queue_core::job::EnvelopeBuilder| {
            parts.unique = Some(Box::new(Unique { key: UniqueKey::new("k").unwrap(), window: None }));
        };
        let stamped = |parts: &mut queue_core::job::EnvelopeBuilder| {
            unique(parts);
            parts.store = std::num::NonZeroU64::new(1).map(queue_core::job::StoreId);
        };
        let jobs = [bench.job(0), huge, bench.job(2).edit(unique), bench.job(3).edit(stamped)];
        let outcomes = bench.put(jobs).await;
        assert!(outcomes[0].is_accepted() && outcomes[3].is_accepted(), "{outcomes:?}");
        assert!(matches!(outcomes[1], PublishOutcome::Rejected(Rejection::TooLarge { .. })), "{outcomes:?}");
        let refused = matches!(&outcomes[2], PublishOutcome::Rejected(Rejection::Denied(error)) if error.code() == ErrorCode::Unsupported);
        assert!(refused, "{outcomes:?}");
        assert_eq!(bench.stats().await.pending, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn pause_holds_every_consumer_and_lets_go() {
    for shape in shapes() {
        let bench = Bench::new(shape);
        bench.put_all(0..3).await;
        let consumer = bench.consumer(10).await;
        let first = take_one(&consumer).await;
        let admin = bench.provider.admin();
        admin.pause(&bench.queue, true).await.unwrap();
        assert!(consumer.fetch(10, secs(5)).await.unwrap().is_empty());
        assert!(settle(&consumer, &first, complete()).await.is_settled(), "running jobs finish");
        let stats = bench.stats().await;
        assert!(stats.paused && stats.pending == 2, "{stats:?}");
        let resumed = async {
            tokio::time::sleep(secs(1)).await;
            admin.pause(&bench.queue, false).await.unwrap();
        };
        let (taken, ()) = tokio::join!(consumer.fetch(10, secs(60)), resumed);
        assert_eq!(taken.unwrap().len(), 2);
        assert_eq!(bench.now(), Timestamp::from_millis(START) + secs(6));
    }
}

#[tokio::test(start_paused = true)]
async fn close_ends_a_blocked_fetch_and_leaves_receipts_good_until_the_deadline() {
    for shape in shapes() {
        let bench = Bench::new(shape);
        bench.put_all(0..2).await;
        let consumer = bench.consumer(10).await;
        let taken = take(&consumer, 2).await;
        let closing = async {
            tokio::time::sleep(secs(1)).await;
            consumer.close(secs(10)).await
        };
        let settling = async {
            tokio::time::sleep(secs(5)).await;
            settle(&consumer, &taken[0], complete()).await
        };
        let (fetched, report, settled) = tokio::join!(consumer.fetch(1, secs(100)), closing, settling);
        assert!(fetched.unwrap().is_empty());
        assert!(settled.is_settled());
        assert_eq!((report.returned, report.still_open), (0, 1));
        assert_eq!(bench.now(), Timestamp::from_millis(START) + secs(11));
        assert!(take(&consumer, 1).await.is_empty());
        assert!(matches!(settle(&consumer, &taken[1], complete()).await, SettleOutcome::LeaseLost));

        let other = bench.consumer(10).await;
        assert_eq!(ids(&other.fetch(10, LEASE).await.unwrap()), [id(1)], "the other one comes back");
    }
}

#[tokio::test(start_paused = true)]
async fn demand_bounds_what_is_out() {
    for shape in shapes() {
        let bench = Bench::new(shape);
        bench.put_all(0..5).await;
        let consumer = bench.consumer(2).await;
        let taken = take(&consumer, 5).await;
        assert_eq!(taken.len(), 2);
        assert!(take(&consumer, 5).await.is_empty());
        settle(&consumer, &taken[1], complete()).await;
        assert_eq!(take(&consumer, 5).await.len(), 1, "out of order is as good");
        consumer.demand(0).await.unwrap();
        settle(&consumer, &taken[0], complete()).await;
        assert!(take(&consumer, 5).await.is_empty());
        consumer.demand(9).await.unwrap();
        assert_eq!(take(&consumer, 5).await.len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_model_cannot_do_it_refuses() {
    for shape in shapes() {
        let bench = Bench::new(shape);
        let can = bench.provider.capabilities(None);
        for (name, support) in can.features() {
            if let Support::Unsupported { instead } = support {
                assert!(!instead.is_empty(), "{name}");
            }
        }
        let unsupported = |error: queue_core::Error| assert_eq!(error.code(), ErrorCode::Unsupported, "{error}");
        unsupported(bench.provider.unpark(&bench.queue, &ParkKey("k".into()), 1).await.unwrap_err());
        let spec = QueueSpec::new(bench.queue.clone());
        let mut aged = spec.clone();
        aged.order = Order::Aged { bound: secs(1) };
        unsupported(bench.provider.declare(&aged).await.unwrap_err());
        let mut replicated = spec.clone();
        replicated.durability = Some(Durability::Replicated { replicas: 2, timeout: secs(1) });
        unsupported(bench.provider.declare(&replicated).await.unwrap_err());
        bench.provider.declare(&spec).await.unwrap();
        bench.provider.declare(&spec).await.unwrap();
        let mut other = spec;
        other.max_len = Some(1);
        assert_eq!(bench.provider.declare(&other).await.unwrap_err().code(), ErrorCode::Conflict);

        bench.put_all(0..3).await;
        bench.put([delayed(&bench.job(3), secs(9))]).await;
        let consumer = bench.consumer(10).await;
        take_one(&consumer).await;
        match (can.purge, bench.provider.admin().purge(&bench.queue).await) {
            (Support::Unsupported { .. }, Err(error)) => unsupported(error),
            (_, purged) => {
                assert_eq!(purged.unwrap(), 3, "the running one stays");
                assert_eq!(bench.stats().await.waiting(), 0);
            }
        }
        assert_eq!(bench.stats().await.running, 1);
        assert_eq!(bench.provider.drop_queue(&bench.queue, true).await.unwrap_err().code(), ErrorCode::Conflict);
        bench.provider.drop_queue(&bench.queue, false).await.unwrap();
        bench.provider.drop_queue(&bench.queue, true).await.unwrap();
        assert!(take(&consumer, 1).await.is_empty());
        assert!(bench.provider.admin().queues("", None, 10).await.unwrap().items.is_empty());
        bench.put_all(5..6).await;
        assert_eq!(ids(&take(&consumer, 9).await), [id(5)], "a consumer finds the new queue of the same name");
    }
}

#[tokio::test(start_paused = true)]
async fn a_parked_job_looks_again_every_second_and_spends_nothing() {
    for shape in shapes() {
        let bench = Bench::new(shape);
        bench.put_all(0..1).await;
        let consumer = bench.consumer(10).await;
        let mut delivery = take_one(&consumer).await;
        for _ in 0..12 {
            let park = Disposition::Park { key: ParkKey("k".into()), at_most: secs(60) };
            assert!(settle(&consumer, &delivery, park).await.is_settled());
            assert!(consumer.fetch(1, Duration::from_millis(999)).await.unwrap().is_empty());
            delivery = consumer.fetch(1, secs(1)).await.unwrap().remove(0);
            assert_eq!((delivery.attempt, delivery.started_before, delivery.envelope.generation), (1, 0, 0));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_closed_provider_answers_closed() {
    for shape in shapes() {
        let bench = Bench::new(shape);
        bench.put_all(0..1).await;
        let consumer = bench.consumer(10).await;
        let closing = async {
            tokio::time::sleep(secs(1)).await;
            bench.provider.close().await
        };
        take_one(&consumer).await;
        let (fetched, closed) = tokio::join!(consumer.fetch(1, secs(9)), closing);
        assert!(fetched.unwrap().is_empty());
        closed.unwrap();
        assert_eq!(bench.provider.ping().await.unwrap_err().code(), ErrorCode::Closed);
        assert_eq!(consumer.fetch(1, secs(1)).await.unwrap_err().code(), ErrorCode::Closed);
        let outcome = bench.put([bench.job(1)]).await.remove(0);
        assert!(matches!(outcome, PublishOutcome::Rejected(Rejection::Unavailable(_))), "{outcome:?}");
    }
}
