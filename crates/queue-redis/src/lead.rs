//! Who leads, from memory where that is sure.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use queue_core::{Result, store::Leadership};
use tokio::time::Instant;

use crate::{fault, link::number, provider::Shared, record, scripts};

/// Who leads renews its term when half of it is over,
const RENEWED: u32 = 2;
/// and who does not asks three times in a term, as the leader may have given it back.
const ASKED: u32 = 3;

/// The last answers by role. A role is asked for by one candidate of a process; another one asks the server.
#[derive(Debug, Default)]
pub(crate) struct Leads(Mutex<HashMap<String, Answer>>);

#[derive(Debug)]
struct Answer {
    candidate: String,
    term: Duration,
    asked: Instant,
    epoch: Option<u64>,
}

impl Leads {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Answer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What stands still of an answer to the same question.
    fn remembered(&self, role: &str, candidate: &str, term: Duration) -> Option<Option<Leadership>> {
        let answers = self.lock();
        let answer = answers.get(role).filter(|answer| answer.candidate == candidate && answer.term == term)?;
        let age = answer.asked.elapsed();
        let stands = age < term / if answer.epoch.is_some() { RENEWED } else { ASKED };
        let lead = answer.epoch.map(|epoch| Leadership { epoch, remaining: term.saturating_sub(age) });
        stands.then_some(lead)
    }

    fn remember(&self, role: &str, answer: Answer) {
        self.lock().insert(role.to_owned(), answer);
    }
}

impl Shared {
    /// Asks for the lead, at most as often as the term needs.
    pub(crate) async fn lead(&self, role: &str, candidate: &str, term: Duration) -> Result<Option<Leadership>> {
        if let Some(lead) = self.leads.remembered(role, candidate, term) {
            return Ok(lead);
        }
        let asked = Instant::now();
        let arguments = [candidate.to_owned(), record::millis(term).to_string()];
        let answer = self.link.run(&scripts::LEAD, self.layout.role(role), &arguments).await;
        let epoch = number(&answer.map_err(|error| fault::of(&error, "lead"))?);
        let epoch = u64::try_from(epoch.map_err(|what| fault::broken(what, "lead"))?).ok().filter(|epoch| *epoch > 0);
        self.leads.remember(role, Answer { candidate: candidate.to_owned(), term, asked, epoch });
        Ok(epoch.map(|epoch| Leadership { epoch, remaining: term }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: Duration = Duration::from_secs(15);

    fn leads(epoch: Option<u64>) -> Leads {
        let leads = Leads::default();
        leads.remember("r", Answer { candidate: "a".to_owned(), term: TERM, asked: Instant::now(), epoch });
        leads
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_asks_again_at_half_its_term_and_others_thrice_in_it() {
        let (leader, other) = (leads(Some(7)), leads(None));
        tokio::time::advance(TERM / 3 - Duration::from_millis(1)).await;
        assert_eq!(other.remembered("r", "a", TERM).map(|lead| lead.is_some()), Some(false));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(other.remembered("r", "a", TERM).is_none());
        let lead = leader.remembered("r", "a", TERM).unwrap().unwrap();
        assert_eq!((lead.epoch, lead.remaining), (7, TERM * 2 / 3));
        tokio::time::advance(TERM / 6 - Duration::from_millis(1)).await;
        assert!(leader.remembered("r", "a", TERM).is_some());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(leader.remembered("r", "a", TERM).is_none(), "half of its term is left for asking");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_to_one_question_only() {
        let leads = leads(Some(7));
        assert!(leads.remembered("r", "b", TERM).is_none(), "another candidate");
        assert!(leads.remembered("s", "a", TERM).is_none(), "another role");
        // Who steps down asks for a short term.
        assert!(leads.remembered("r", "a", TERM / 2).is_none(), "another term");
    }
}
