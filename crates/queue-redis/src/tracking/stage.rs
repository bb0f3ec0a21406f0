//! Before and after the transport: stage, confirm, or take back.

use std::{sync::Arc, time::Duration};

use bytes::BufMut;
use queue_core::{
    Result,
    job::{JobError, JobRef},
    provider::Rejection,
    store::{StageOutcome, StagedJob},
};
use redis::Value;

use super::{
    Inner,
    parts::{Answers, Part, by_queue},
    scripts, wire,
};
use crate::{
    fault, link,
    record::{self, millis, put_six},
};

/// What is not bounded.
const UNBOUNDED: u64 = (1 << 48) - 1;

fn missing(operation: &'static str) -> queue_core::Error {
    fault::broken("an answer is missing", operation)
}

/// Which copy of a job.
fn edition(job: &JobRef, generation: u32) -> Vec<u8> {
    let mut out = job.id.as_bytes().to_vec();
    out.put_u32_le(generation);
    out
}

impl Inner {
    pub(super) async fn stage(&self, jobs: &[StagedJob], lease: Duration) -> Vec<StageOutcome> {
        let mut answers = Answers::new(jobs.len());
        for part in by_queue(jobs.iter().map(|job| Some(&job.job.queue))) {
            // A script is told of one provider.
            for part in by_provider(part, jobs) {
                let outcomes = self.stage_part(&part, jobs, lease).await;
                answers.put(&part, outcomes);
            }
        }
        answers.into_vec(|| StageOutcome::Unknown(missing("stage")))
    }

    async fn stage_part(&self, part: &Part, jobs: &[StagedJob], lease: Duration) -> Vec<StageOutcome> {
        if let Err(error) = self.number(&part.queue, "stage").await {
            return vec![StageOutcome::Rejected(Rejection::Unavailable(error)); part.items.len()];
        }
        let provider = part.items.first().map_or("", |first| wire::short(&jobs[*first].provider));
        let mut arguments = vec![millis(lease).to_string().into_bytes(), provider.as_bytes().to_vec()];
        for staged in part.items.iter().map(|item| &jobs[*item]) {
            let mut head = wire::head(&staged.job, &staged.envelope);
            put_six(&mut head, staged.hold.map_or(0, |hold| record::millis_up(hold).saturating_add(1)));
            put_six(&mut head, staged.max_len.unwrap_or(UNBOUNDED).min(UNBOUNDED));
            arguments.extend([head, wire::record(&staged.envelope)]);
        }
        let base = self.base(&part.queue);
        let answer = self.shared.link.run_assured(&scripts::STAGE, base, &arguments, self.durability).await;
        match answer {
            Ok(answer) => {
                let answers = link::items(answer).unwrap_or_default();
                answers.into_iter().map(|answer| outcome(answer, part)).collect()
            }
            Err(error) => {
                let (refused, error) = (fault::is_refusal(&error), fault::of(&error, "stage").on(&part.queue));
                let outcome = match refused {
                    // Nothing was written.
                    true => StageOutcome::Rejected(Rejection::Unavailable(error)),
                    false => StageOutcome::Unknown(error),
                };
                vec![outcome; part.items.len()]
            }
        }
    }

    pub(super) async fn confirm(&self, jobs: &[(JobRef, u32)]) -> Vec<Result<()>> {
        let mut answers = Answers::new(jobs.len());
        for part in by_queue(jobs.iter().map(|(job, _)| Some(&job.queue))) {
            let copy = |item: &usize| {
                let (job, generation) = &jobs[*item];
                let mut copy = edition(job, *generation);
                copy.put_u16_le(job.place);
                copy
            };
            let arguments: Vec<_> = part.items.iter().map(copy).collect();
            let answer = self.shared.link.run(&scripts::CONFIRM, self.base(&part.queue), &arguments).await;
            let answer = answer.map(drop).map_err(|error| fault::of(&error, "confirm").on(&part.queue));
            answers.put(&part, vec![answer; part.items.len()]);
        }
        answers.into_vec(|| Err(missing("confirm")))
    }

    pub(super) async fn unstage(&self, jobs: &[(JobRef, u32)]) -> Vec<Result<bool>> {
        let mut answers = Answers::new(jobs.len());
        for part in by_queue(jobs.iter().map(|(job, _)| Some(&job.queue))) {
            let copy = |item: &usize| edition(&jobs[*item].0, jobs[*item].1);
            let arguments: Vec<_> = part.items.iter().map(copy).collect();
            match self.promise(&scripts::UNSTAGE, &part.queue, &arguments, "unstage").await {
                Ok(taken) => answers.put(&part, taken.into_iter().map(|taken| Ok(taken == Value::Int(1)))),
                Err(error) => answers.put(&part, vec![Err(error); part.items.len()]),
            }
        }
        answers.into_vec(|| Err(missing("unstage")))
    }

    pub(super) async fn refuse(&self, jobs: &[(JobRef, u32, JobError)]) -> Vec<Result<()>> {
        let mut answers = Answers::new(jobs.len());
        for part in by_queue(jobs.iter().map(|(job, ..)| Some(&job.queue))) {
            let mut arguments = Vec::with_capacity(2 * part.items.len());
            for (job, generation, error) in part.items.iter().map(|item| &jobs[*item]) {
                arguments.extend([edition(job, *generation), record::write_error(error)]);
            }
            let answer = self.shared.link.run(&scripts::REFUSE, self.base(&part.queue), &arguments).await;
            let answer = answer.map(drop).map_err(|error| fault::of(&error, "refuse").on(&part.queue));
            answers.put(&part, vec![answer; part.items.len()]);
        }
        answers.into_vec(|| Err(missing("refuse")))
    }
}

fn by_provider(part: Part, jobs: &[StagedJob]) -> Vec<Part> {
    let mut parts: Vec<(Arc<str>, Part)> = Vec::new();
    for item in part.items {
        let provider = &jobs[item].provider;
        match parts.iter_mut().find(|(known, _)| known == provider) {
            Some((_, part)) => part.items.push(item),
            None => parts.push((Arc::clone(provider), Part { queue: part.queue.clone(), items: vec![item] })),
        }
    }
    parts.into_iter().map(|(_, part)| part).collect()
}

fn outcome(answer: Value, part: &Part) -> StageOutcome {
    let unknown = |what| StageOutcome::Unknown(fault::broken(what, "stage").on(&part.queue));
    let answer = match link::bytes(answer) {
        Ok(answer) => answer,
        Err(what) => return unknown(what),
    };
    match answer.split_first() {
        Some((b'S', _)) => StageOutcome::Staged,
        Some((b'A', _)) => StageOutcome::Again,
        Some((b'K', _)) => StageOutcome::Known,
        Some((b'F', _)) => StageOutcome::Rejected(Rejection::Full),
        Some((b'D', id)) => match record::read_id(id) {
            Ok(id) => StageOutcome::Duplicate { existing: JobRef::new(part.queue.clone(), id) },
            Err(what) => unknown(what),
        },
        _ => unknown("an unknown answer"),
    }
}
