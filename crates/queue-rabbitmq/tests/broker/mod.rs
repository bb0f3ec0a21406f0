//! The broker of the tests, and a plain client beside the provider's own.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::sync::atomic::{AtomicU32, Ordering};

use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    message::Delivery,
    options::{
        BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
        QueueDeleteOptions, QueuePurgeOptions,
    },
    types::{AMQPValue, FieldTable},
};
use queue_core::{Env, Envelope, JobId, QueueName, job::JobKind, provider::ProviderUrl};
use queue_rabbitmq::{RabbitOptions, RabbitProvider};

/// What all tests' things on the broker begin with. Names of queues tell them apart; the ladder is shared.
pub(crate) const PREFIX: &str = "test";

/// Where the broker is, or why the test is left out.
pub(crate) fn url() -> Option<String> {
    let url = std::env::var("QUEUE_TEST_RABBITMQ_URL").ok().filter(|url| !url.is_empty());
    if url.is_none() {
        let required = std::env::var("QUEUE_REQUIRE_BROKERS").is_ok_and(|value| value == "1");
        assert!(!required, "QUEUE_TEST_RABBITMQ_URL names no broker; `cargo xtask brokers up rabbitmq` starts one");
        eprintln!("NOT TESTED: rabbitmq: QUEUE_TEST_RABBITMQ_URL names no broker");
    }
    url
}

pub(crate) fn options(url: &str) -> RabbitOptions {
    let mut options = RabbitOptions::read(&ProviderUrl::parse(url).unwrap()).unwrap();
    options.prefix = PREFIX.into();
    options
}

pub(crate) async fn connect(_name: &str) -> Option<RabbitProvider> {
    let options = options(&url()?);
    Some(RabbitProvider::connect(options, &Env::system()).await.unwrap())
}

/// A queue of this test alone.
pub(crate) fn queue(name: &str) -> QueueName {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    QueueName::new(format!("{name}-{}-{number}", std::process::id())).unwrap()
}

pub(crate) fn job(payload: impl Into<String>) -> Envelope {
    let env = Env::system();
    Envelope::builder(JobId::fresh(&env), JobKind::from_static("test"), payload.into().into_bytes(), env.now()).seal()
}

/// A client that knows AMQP, and nothing of us.
pub(crate) struct Plain {
    pub(crate) connection: Connection,
    pub(crate) channel: Channel,
}

impl Plain {
    pub(crate) async fn open() -> Self {
        Self::open_at(&url().unwrap()).await
    }

    pub(crate) async fn open_at(url: &str) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        Self { connection, channel }
    }

    pub(crate) fn ready(&self, queue: &QueueName, band: u8) -> String {
        format!("{PREFIX}.v1.ready.{band}.{queue}")
    }

    pub(crate) fn dead(&self, queue: &QueueName) -> String {
        format!("{PREFIX}.v1.dead.{queue}")
    }

    /// Takes the next message, and acknowledges it.
    pub(crate) async fn take(&self, queue: &str) -> Option<Delivery> {
        let got = self.channel.basic_get(queue.into(), BasicGetOptions::default()).await.unwrap()?;
        got.delivery.acker.ack(BasicAckOptions::default()).await.unwrap();
        Some(got.delivery)
    }

    pub(crate) async fn publish(&self, queue: &str, properties: BasicProperties, body: &[u8]) {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let confirm = self.channel.basic_publish("".into(), queue.into(), options, body, properties).await.unwrap();
        let confirm = confirm.await.unwrap();
        assert!(confirm.is_ack() && confirm.take_message().is_none());
    }

    /// How many wait; `None` where there is no such queue.
    pub(crate) async fn depth(&self, queue: &str) -> Option<u32> {
        let channel = self.connection.create_channel().await.unwrap();
        let options = QueueDeclareOptions { passive: true, durable: true, ..QueueDeclareOptions::default() };
        let declared = channel.queue_declare(queue.into(), options, FieldTable::default()).await;
        declared.ok().map(|queue| queue.message_count())
    }

    /// Puts a queue in its place that refuses all it is given, until it is deleted.
    pub(crate) async fn refuse(&self, queue: &str) {
        self.replace(queue, 0).await;
    }

    /// The same, until [`Plain::make_room`]: what is on its way to a queue that is deleted would be confirmed, and be gone with it.
    pub(crate) async fn fill(&self, queue: &str, room: u8) {
        self.replace(queue, room).await;
        for _ in 0..room {
            self.publish(queue, BasicProperties::default(), b"in the way").await;
        }
    }

    pub(crate) async fn make_room(&self, queue: &str, room: u8) {
        for _ in 0..room {
            assert_eq!(self.take(queue).await.unwrap().data, b"in the way");
        }
    }

    async fn replace(&self, queue: &str, room: u8) {
        self.delete(queue).await;
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(room.into()));
        arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
        self.channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments).await.unwrap();
    }

    pub(crate) async fn delete(&self, queue: &str) {
        // Not while its dead-letter worker starts: see `Topology::drop_queue`.
        self.channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await.unwrap();
        self.channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
    }
}
