//! How claims are kept.

use std::time::Duration;

use bytes::{BufMut, Bytes};
use queue_core::{
    provider::{Beat, BeatOutcome, Lease, Receipt},
    store::JobRecord,
};
use redis::Value;
use tokio::time::Instant;

use super::RedisConsumer;
use crate::{fault, link, provider::BATCH, record, scripts, specs::Known};

impl RedisConsumer {
    pub(super) async fn beat_all(&self, shard: &Known, beats: &[Beat]) -> Vec<BeatOutcome> {
        let mut outcomes = Vec::with_capacity(beats.len());
        for part in beats.chunks(BATCH) {
            outcomes.extend(self.beat_part(shard, part).await);
        }
        outcomes
    }

    pub(super) async fn beat_part(&self, shard: &Known, part: &[Beat]) -> Vec<BeatOutcome> {
        let asked = Instant::now();
        let mut arguments: Vec<Bytes> = Vec::with_capacity(2 * part.len());
        for beat in part {
            let mut head = Vec::with_capacity(40);
            head.put_slice(beat.receipt.id.as_bytes());
            head.put_u64_le(beat.receipt.epoch);
            let progress = u8::from(beat.progress.is_some());
            head.put_u8(u8::from(beat.started) | u8::from(beat.extend.is_some()) << 1 | progress << 2);
            record::put_six(&mut head, beat.extend.map_or(0, record::millis));
            // The older of too many would be dropped there.
            let lines = &beat.logs[beat.logs.len().saturating_sub(JobRecord::MAX_LOGS)..];
            head.put_u16_le(u16::try_from(lines.len()).unwrap_or(0));
            arguments.extend([head.into(), beat.progress.clone().unwrap_or_default()]);
            arguments.extend(lines.iter().map(|line| line.slice(..line.len().min(JobRecord::MAX_LOG_LINE))));
        }
        let answer = self.shared.link.run(&scripts::BEAT, &shard.base, &arguments).await;
        let answers = match answer {
            Ok(answer) => link::items(answer).unwrap_or_default(),
            Err(error) => {
                let error = fault::of(&error, "heartbeat").on(&self.known.spec.name);
                return part.iter().map(|_| BeatOutcome::Unknown(error.clone())).collect();
            }
        };
        let mut answers = answers.into_iter();
        let outcome = |beat: &Beat| {
            let (left, cancel) = (answers.next().unwrap_or_default(), answers.next().unwrap_or_default());
            self.beaten(beat.receipt, &left, cancel, asked)
        };
        part.iter().map(outcome).collect()
    }

    fn beaten(&self, receipt: Receipt, left: &Value, cancel: Value, asked: Instant) -> BeatOutcome {
        let Value::Int(left) = left else {
            return BeatOutcome::Unknown(fault::broken("an answer is missing", "heartbeat"));
        };
        let Ok(left) = u64::try_from(*left) else {
            self.ended(receipt);
            return BeatOutcome::Lost;
        };
        let remaining = Duration::from_millis(left);
        if let Some(out) = self.out().get_mut(&(receipt.id, receipt.epoch)) {
            out.end = asked + remaining;
        }
        let cancel = link::bytes(cancel).ok().filter(|cancel| !cancel.is_empty());
        let cancel = cancel.and_then(|cancel| record::read_cancel(cancel).ok());
        BeatOutcome::Held(Lease { remaining: Some(remaining), cancel })
    }
}
