//! Messages: send and receive by hand, share a queue, publish to a topic, subscribe a handler.
//!
//! `cargo run --example messages` uses the memory provider; `MESSAGE_QUEUE_PROVIDER` and its variables name another.

use std::time::Duration;

use futures_util::{StreamExt, future::join_all};
use queue_core::{
    Failure, JobContext, Message, Priority, RawMessage, Received,
    job::ContentType,
    message::Inbox,
    provider::{DeadFilter, Redrive},
};
use queue_manager::QueueManager;
use serde::{Deserialize, Serialize};
use validator::{Validate, ValidationErrors};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate)]
struct Chat {
    #[validate(length(min = 1))]
    user: String,
    text: String,
}

impl Message for Chat {
    const KIND: &'static str = "chat.message";

    fn check(&self) -> Result<(), ValidationErrors> {
        self.validate()
    }
}

/// An enum is a message too; it has no rules of its own.
#[derive(Debug, Serialize, Deserialize)]
enum Presence {
    Joined { user: String },
    Left { user: String },
}

impl Message for Presence {
    const KIND: &'static str = "chat.presence";
}

const SOON: Duration = Duration::from_millis(200);

fn chat(user: &str, text: &str) -> Chat {
    Chat { user: user.into(), text: text.into() }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let queues = QueueManager::from_env().await?;
    by_hand(&queues).await?;
    many_share(&queues).await?;
    what_cannot_be_read(&queues).await?;
    topics(&queues).await?;
    queues.close().await?;
    Ok(())
}

/// Send with options; receive, and settle each message.
async fn by_hand(queues: &QueueManager) -> Result<(), Box<dyn std::error::Error>> {
    queues.send("chat", &chat("ann", "hello")).ttl(Duration::from_secs(60)).await?;
    queues.send("chat", &chat("bob", "help!")).priority(Priority::URGENT).correlation_id("call-1").await?;
    queues.send("chat", &chat("cat", "later")).delay(SOON / 2).await?;
    println!("refused: {}", queues.send("chat", &chat("", "who?")).await.err().ok_or("a rule was broken")?);

    let inbox: Inbox<Chat> = queues.inbox("chat").prefetch(1).open().await?;
    let mut said = Vec::new();
    while let Some(message) = inbox.receive(SOON).await? {
        println!("{} says {:?}, attempt {}", message.body().user, message.body().text, message.attempt());
        if message.body().user == "bob" && message.attempt() == 1 {
            // Again, soon: it spends an attempt, and after the last one the message is a dead letter.
            message.nack_after(SOON / 4, Failure::retry("nobody is free to help")).await?;
            continue;
        }
        said.push(message.body().user.clone());
        message.ack().await?;
    }
    said.sort();
    assert_eq!(said, ["ann", "bob", "cat"]);
    println!("{:?}", inbox.close().await);
    Ok(())
}

/// Consumers of one queue share its messages. These two take them in batches, and as a stream.
async fn many_share(queues: &QueueManager) -> Result<(), Box<dyn std::error::Error>> {
    let lines: Vec<Chat> = (0..20).map(|number| chat("dan", &format!("line {number}"))).collect();
    for answer in queues.send_all("chat", &lines).await {
        answer?;
    }
    let one: Inbox<Chat> = queues.inbox("chat").prefetch(5).open().await?;
    let other: Inbox<Chat> = queues.inbox("chat").prefetch(5).open().await?;

    let batch = one.receive_batch(5, SOON).await?;
    let (texts, ackers): (Vec<Chat>, Vec<_>) = batch.into_iter().map(Received::into_parts).unzip();
    // Together they are one call to the broker.
    for answer in join_all(ackers.into_iter().map(|acker| acker.ack())).await {
        answer?;
    }
    let mut streamed = 0;
    let mut stream = other.stream();
    while texts.len() + streamed < lines.len() {
        let Some(message) = stream.next().await else { break };
        message?.ack().await?;
        streamed += 1;
    }
    println!("shared: {} and {streamed}", texts.len());
    Ok(())
}

/// What is no `Chat` becomes a dead letter, and the next message is received.
async fn what_cannot_be_read(queues: &QueueManager) -> Result<(), Box<dyn std::error::Error>> {
    let misfit = RawMessage::new(Chat::KIND, ContentType::Json, r#"{"user":"eve"}"#)?;
    queues.send("chat", &misfit).await?;
    queues.send("chat", &chat("flo", "fine")).await?;
    let inbox: Inbox<Chat> = queues.inbox("chat").open().await?;
    let message = inbox.receive(SOON).await?.ok_or("the good one is there")?;
    assert_eq!(message.body().user, "flo");
    message.ack().await?;

    let letters = queues.dead_letters("chat")?;
    let dead = letters.list(&DeadFilter::default(), None, 1).await?.items.pop().ok_or("it is kept")?;
    println!("dead letter: {}", dead.error);
    // Mended, it is received after all.
    let mended = Redrive { payload: Some(r#"{"user":"eve","text":"hi"}"#.into()), ..Redrive::one(dead.id) };
    letters.redrive(&mended).await?;
    let message = inbox.receive(SOON).await?.ok_or("it is back")?;
    assert_eq!(message.body(), &chat("eve", "hi"));
    message.ack().await?;
    Ok(())
}

/// One publication, a copy in every subscribed queue; handlers for one of them, bytes from the other.
async fn topics(queues: &QueueManager) -> Result<(), Box<dyn std::error::Error>> {
    let room = queues.topic("room-1");
    println!("nobody: {}", room.publish(&chat("gil", "anyone?")).await.err().ok_or("somebody was there")?);
    room.subscribe("screen").await?;
    room.subscribe("archive").await?;
    println!("topics are {:?}", room.support());

    let (shown, mut screen) = tokio::sync::mpsc::channel(8);
    let also_shown = shown.clone();
    let worker = queues
        .subscribe("screen", 2, move |line: Chat, _: JobContext| {
            let shown = shown.clone();
            async move { shown.send(format!("{}: {}", line.user, line.text)).await.map_err(Failure::from) }
        })
        .on_message(move |presence: Presence, _: JobContext| {
            let shown = also_shown.clone();
            async move { shown.send(format!("{presence:?}")).await.map_err(Failure::from) }
        })
        .start()
        .await?;

    room.publish(&Presence::Joined { user: "gil".into() }).await?;
    room.publish(&chat("gil", "hello")).await?;
    room.publish(&Presence::Left { user: "gil".into() }).await?;
    for _ in 0..3 {
        println!("on screen: {}", screen.recv().await.ok_or("the screen went dark")?);
    }
    println!("{:?}", worker.stop().await);

    // The archive was away all the time; its messages waited. It reads every kind.
    let archive: Inbox<RawMessage> = queues.inbox("archive").open().await?;
    let mut kinds = Vec::new();
    while let Some(message) = archive.receive(SOON).await? {
        kinds.push(message.kind().to_string());
        message.ack().await?;
    }
    kinds.sort();
    assert_eq!(kinds, ["chat.message", "chat.presence", "chat.presence"]);
    archive.close().await;
    Ok(())
}
