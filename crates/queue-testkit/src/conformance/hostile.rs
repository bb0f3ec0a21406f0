//! Names and bytes that somebody will send one day.

use std::time::Duration;

use bytes::Bytes;
use queue_core::{
    QueueName, QueueSpec,
    config::defaults,
    job::JobKind,
    provider::{DeadBody, DeadFilter},
};

use super::{
    Ctx, Outcome,
    case::{cases, check, check_eq, check_matches},
    context::{text, texts},
};

cases! { "hostile";
    queue_names_stay_apart []
    queue_names_in_every_operation []
    kinds_and_keys [UniqueKeys]
    foreign_message_gets_the_default_kind [Raw]
    undecodable_bytes_become_a_dead_letter [Raw, DeadLetters]
    newer_version_is_neither_run_nor_lost [Raw]
}

/// Valid names that some broker, script or URL would trip over. Each follows the case's own stem.
fn hostile_names(ctx: &Ctx) -> Vec<QueueName> {
    let stem = ctx.queue("n").to_string();
    let longest = |fill: &str| {
        let mut name = stem.clone();
        while name.len() + fill.len() <= 120 {
            name.push_str(fill);
        }
        name
    };
    let ends = [
        "",
        "*",
        "#",
        ".*",
        ".#",
        "{}",
        "{a}",
        "}{",
        "..",
        "/",
        "//..//",
        "\\",
        "%2F",
        "%",
        "?x=1&y",
        ":",
        "::1",
        "ü",
        "u\u{308}",
        "✓",
        "🦀🦀",
        "-",
        "--",
        "A",
        "a",
        "$",
        "'\"",
        ";DROP",
        "[0-9]",
        "\u{200d}x",
        ".dead",
        ".delayed",
        ":dead",
        "-dlq",
        ".fifo",
        "@host",
        "\u{202e}abc",
    ];
    let mut names: Vec<String> = ends.iter().map(|end| format!("{stem}{end}")).collect();
    names.push(longest("x"));
    names.push(longest("🦀"));
    let mut almost = longest("x");
    almost.pop();
    names.push(almost);
    names.into_iter().map(|name| ctx.own(name)).collect()
}

async fn queue_names_stay_apart(ctx: &Ctx) -> Outcome {
    let names = hostile_names(ctx);
    for name in &names {
        ctx.publish_texts(name, &[name.as_str()]).await?;
    }
    for name in &names {
        let consumer = ctx.consumer(name).await?;
        let delivery = ctx.take_one(&consumer).await?;
        check_eq!(text(&delivery), name.as_str(), "the job of the queue {name:?}");
        let rest = ctx.collect(&consumer, 1, Duration::from_millis(50)).await?;
        check!(rest.is_empty(), "the queue {name:?} gave another queue's job: {:?}", texts(&rest));
        ctx.complete(&consumer, &delivery).await?;
        consumer.close(Duration::from_secs(1)).await;
    }
    Ok(())
}

async fn queue_names_in_every_operation(ctx: &Ctx) -> Outcome {
    let caps = ctx.caps();
    let admin = ctx.provider().admin();
    for name in hostile_names(ctx) {
        ctx.provider().declare(&QueueSpec::new(name.clone())).await?;
        if caps.pause.is_supported() {
            admin.pause(&name, true).await?;
            admin.pause(&name, false).await?;
        }
        if caps.exact_depth.is_supported() {
            check_eq!(ctx.stats(&name).await?.queue, name, "whose statistics");
        }
        if caps.dead_letters.is_supported() {
            check!(admin.dead(&name, &DeadFilter::default(), None, 1).await?.items.is_empty(), "dead jobs in {name:?}");
        }
        if caps.purge.is_supported() {
            check_eq!(admin.purge(&name).await?, 0, "purged from {name:?}");
        }
        ctx.provider().drop_queue(&name, true).await?;
    }
    Ok(())
}

async fn kinds_and_keys(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("keys");
    let longest = "k".repeat(256);
    let keys = ["*", "{x}", "a\0b", "\r\n", "ü", "u\u{308}", longest.as_str(), " ", "'; --", "%s%n"];
    for key in keys {
        ctx.publish(&queue, ctx.unique(key, key, None)).await?;
    }
    let kinds = ["*", "{x}", "a/b\\c", "🦀", &"k".repeat(120)];
    for kind in kinds {
        let mut job = ctx.job(kind);
        job.kind = JobKind::new(kind)?;
        ctx.publish(&queue, job.seal()).await?;
    }
    let consumer = ctx.consumer(&queue).await?;
    for delivery in ctx.take(&consumer, keys.len() + kinds.len()).await? {
        if let Some(unique) = &delivery.envelope.unique {
            check_eq!(unique.key.as_str(), text(&delivery), "the key on its way");
        } else {
            check_eq!(delivery.envelope.kind.as_str(), text(&delivery), "the kind on its way");
        }
        ctx.complete(&consumer, &delivery).await?;
    }
    Ok(())
}

async fn foreign_message_gets_the_default_kind(ctx: &Ctx) -> Outcome {
    let queue = ctx.declared("foreign", |spec| spec.default_kind = JobKind::from_static("plain.message")).await?;
    for bytes in [&b"{\"hello\":\"world\"}"[..], b"", b"\xFF\xFE\0", b"plain"] {
        ctx.harness().publish_raw(&queue, Bytes::from_static(bytes)).await?;
        let consumer = ctx.consumer(&queue).await?;
        let delivery = ctx.take_one(&consumer).await?;
        check_eq!(delivery.envelope.kind.as_str(), "plain.message", "the kind of a plain message");
        check_eq!(delivery.envelope.payload.as_ref(), bytes, "the payload of a plain message");
        check_eq!(delivery.attempt, 1, "the attempt of a plain message");
        ctx.complete(&consumer, &delivery).await?;
        consumer.close(Duration::from_secs(1)).await;
    }
    Ok(())
}

/// An envelope that ends too early: it begins as one and is not one.
fn broken(ctx: &Ctx) -> Bytes {
    ctx.job("broken").seal().encode().slice(..60)
}

async fn undecodable_bytes_become_a_dead_letter(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("broken");
    let bytes = broken(ctx);
    ctx.harness().publish_raw(&queue, bytes.clone()).await?;
    ctx.publish_texts(&queue, &["after"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    check_eq!(text(&delivery), "after", "what came: bytes that cannot be read are not delivered");
    ctx.complete(&consumer, &delivery).await?;
    ctx.nothing(&consumer, "it is no job").await?;
    let dead = ctx.provider().admin().dead(&queue, &DeadFilter::default(), None, 10).await?;
    check_eq!(dead.items.len(), 1, "dead letters");
    check_matches!(&dead.items[0].body, DeadBody::Raw(raw) if *raw == bytes, "the bytes as they came");
    check_eq!(dead.items[0].error.code, "UNDECODABLE", "why");
    Ok(())
}

async fn newer_version_is_neither_run_nor_lost(ctx: &Ctx) -> Outcome {
    let queue = ctx.queue("newer");
    let mut bytes = ctx.job("newer").seal().encode().to_vec();
    bytes[1] = 200;
    ctx.harness().publish_raw(&queue, Bytes::from(bytes)).await?;
    ctx.publish_texts(&queue, &["mine"]).await?;
    let consumer = ctx.consumer(&queue).await?;
    let delivery = ctx.take_one(&consumer).await?;
    check_eq!(text(&delivery), "mine", "what came");
    ctx.complete(&consumer, &delivery).await?;
    ctx.nothing(&consumer, "a newer version wrote it").await?;
    if ctx.caps().dead_letters.is_supported() {
        let dead = ctx.provider().admin().dead(&queue, &DeadFilter::default(), None, 10).await?;
        check!(dead.items.is_empty(), "a newer version's job was buried");
    }
    if ctx.caps().exact_depth.is_supported() {
        let stats = ctx.stats(&queue).await?;
        check_eq!(stats.waiting() + stats.running, 1, "the newer version's job is still there");
        if ctx.facts().virtual_time {
            ctx.collect(&consumer, 1, defaults::NEWER_FORMAT_DELAY * 3).await?;
            let stats = ctx.stats(&queue).await?;
            check_eq!(stats.waiting() + stats.running, 1, "and is there after it was due again");
        }
    }
    Ok(())
}
