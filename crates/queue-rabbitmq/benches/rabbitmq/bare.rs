//! What `lapin` does on its own, at its best.

use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
        QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
    },
    types::{AMQPValue, FieldTable},
};

use crate::server::Server;

const QUEUE: &str = "bare";
const OUTSTANDING: usize = 1_000;
const PREFETCH: u16 = 1_000;
const EVERY: u64 = 100;

pub(crate) struct Bare {
    connection: Connection,
    channel: Channel,
}

impl Bare {
    pub(crate) async fn new(server: &Server) -> Self {
        let connection = Connection::connect(&server.url(), ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        channel.queue_delete(QUEUE.into(), QueueDeleteOptions::default()).await.unwrap();
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        channel.queue_declare(QUEUE.into(), QueueDeclareOptions::durable(), arguments).await.unwrap();
        Self { connection, channel }
    }

    async fn send(channel: Channel) {
        let properties = BasicProperties::default().with_delivery_mode(2);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let sent = channel.basic_publish("".into(), QUEUE.into(), options, &[b'x'; 200], properties).await.unwrap();
        assert!(sent.await.unwrap().is_ack());
    }

    /// Messages a second.
    pub(crate) async fn publish(&self, messages: u64) -> f64 {
        let started = Instant::now();
        let mut flying = FuturesUnordered::new();
        for _ in 0..messages {
            flying.push(Self::send(self.channel.clone()));
            if flying.len() == OUTSTANDING {
                flying.next().await;
            }
        }
        while flying.next().await.is_some() {}
        messages as f64 / started.elapsed().as_secs_f64()
    }

    /// Messages a second, of as many as wait.
    pub(crate) async fn consume(&self, messages: u64) -> f64 {
        let channel = self.connection.create_channel().await.unwrap();
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await.unwrap();
        let started = Instant::now();
        let subscribed = BasicConsumeOptions::default();
        let mut consumer =
            channel.basic_consume(QUEUE.into(), "".into(), subscribed, FieldTable::default()).await.unwrap();
        for number in 1..=messages {
            let delivery = consumer.next().await.unwrap().unwrap();
            assert_eq!(delivery.data.len(), 200);
            if number % EVERY == 0 || number == messages {
                delivery.ack(BasicAckOptions { multiple: true }).await.unwrap();
            }
        }
        let rate = messages as f64 / started.elapsed().as_secs_f64();
        channel.close(200, "done".into()).await.unwrap();
        rate
    }

    /// Microseconds from publishing to delivery, one message at a time.
    pub(crate) async fn latency(&self, samples: usize) -> Vec<f64> {
        self.channel.queue_purge(QUEUE.into(), QueuePurgeOptions::default()).await.unwrap();
        let channel = self.connection.create_channel().await.unwrap();
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await.unwrap();
        let subscribed = BasicConsumeOptions::default();
        let mut consumer =
            channel.basic_consume(QUEUE.into(), "".into(), subscribed, FieldTable::default()).await.unwrap();
        let mut waited = Vec::with_capacity(samples);
        for _ in 0..samples {
            tokio::time::sleep(Duration::from_millis(3)).await;
            let started = Instant::now();
            let sending = tokio::spawn(Self::send(self.channel.clone()));
            let delivery = consumer.next().await.unwrap().unwrap();
            waited.push(started.elapsed().as_secs_f64() * 1e6);
            delivery.ack(BasicAckOptions::default()).await.unwrap();
            sending.await.unwrap();
        }
        channel.close(200, "done".into()).await.unwrap();
        waited
    }

    pub(crate) async fn end(self) {
        self.channel.queue_delete(QUEUE.into(), QueueDeleteOptions::default()).await.unwrap();
        self.connection.close(200, "done".into()).await.unwrap();
    }
}
