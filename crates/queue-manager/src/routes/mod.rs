//! Which provider a job belongs to.

mod rule;
mod seek;

pub(crate) use rule::Rule;
pub(crate) use seek::{cancel, look_up};

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use queue_core::{
    Env, Error, ErrorCode, JobScheduler, QueueName, Result, Timestamp, job::JobKind, provider::ProviderUrl,
    scheduler::Route,
};

use crate::{config::ProviderName, several::Several};

/// A connected provider with its scheduler.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) name: ProviderName,
    pub(crate) scheduler: JobScheduler,
    /// `None` where the program brought the provider itself.
    pub(crate) url: Option<ProviderUrl>,
}

/// The providers of a manager, and which job goes where. Everything that concerns a queue asks here.
#[derive(Debug)]
pub(crate) struct Routes {
    members: Vec<Member>,
    /// For each member the first one that is the same provider, or has the same URL and store: the same jobs, which are not to be counted twice.
    same: Vec<usize>,
    /// In the order in which they are looked at.
    rules: Vec<Rule>,
    /// What no rule matches.
    default: Option<usize>,
    /// Providers that share a queue, as one; by which they are.
    together: RwLock<HashMap<Vec<usize>, JobScheduler>>,
    env: Env,
}

impl Routes {
    pub(crate) fn new(members: Vec<Member>, rules: Vec<Rule>, default: Option<usize>, env: Env) -> Self {
        // Not by the store's id alone: two that were seeded alike have the same and share nothing.
        let store = |member: &Member| Some((member.url.clone()?, member.scheduler.store().ok()?.id()));
        let first = |(place, member): (usize, &Member)| {
            let own = store(member);
            let provider = |member: &Member| Arc::clone(member.scheduler.provider());
            let is_same = |other: &Member| {
                Arc::ptr_eq(&provider(other), &provider(member)) || (own.is_some() && store(other) == own)
            };
            let known = members[..place].iter().position(is_same);
            known.unwrap_or(place)
        };
        let same = members.iter().enumerate().map(first).collect();
        Self { members, same, rules, default, together: RwLock::default(), env }
    }

    /// Every provider, the one called `default` first, then by name.
    pub(crate) fn members(&self) -> std::slice::Iter<'_, Member> {
        self.members.iter()
    }

    /// Every provider, but of those that have the same store only the first.
    pub(crate) fn distinct(&self) -> impl Iterator<Item = &Member> {
        let distinct = self.same.iter().enumerate().filter(|(place, same)| place == *same);
        distinct.map(|(place, _)| &self.members[place])
    }

    /// Nobody is to be asked any more.
    pub(crate) fn into_members(self) -> Vec<Member> {
        self.members
    }

    /// One of them.
    pub(crate) fn member(&self, place: usize) -> &Member {
        &self.members[place]
    }

    /// The provider of this name.
    pub(crate) fn named(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name.as_str() == name)
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.env.now()
    }

    /// Who gets a job.
    pub(crate) fn home(&self, queue: &QueueName, kind: &JobKind) -> Result<usize> {
        let rule = self.rules.iter().find(|rule| rule.takes_queue(queue) && rule.takes_kind(kind));
        rule.map(|rule| rule.member).or(self.default).ok_or_else(|| self.unroutable(queue, Some(kind)))
    }

    /// Who may have jobs of the queue, in the order of the rules.
    pub(crate) fn candidates(&self, queue: &QueueName) -> Result<Vec<usize>> {
        let mut found = Vec::new();
        let mut rest = true;
        for rule in self.rules.iter().filter(|rule| rule.takes_queue(queue)) {
            let place = self.same[rule.member];
            if !found.contains(&place) {
                found.push(place);
            }
            if rule.takes_every_kind() {
                // Nothing gets past it.
                rest = false;
                break;
            }
        }
        let default = self.default.map(|default| self.same[default]);
        if let Some(default) = default.filter(|default| rest && !found.contains(default)) {
            found.push(default);
        }
        if found.is_empty() { Err(self.unroutable(queue, None)) } else { Ok(found) }
    }

    /// Everybody who may have jobs of the queue, as one: to look at it and to look after it, not to submit to it.
    pub(crate) fn whole(&self, queue: &QueueName) -> Result<JobScheduler> {
        Ok(self.together(self.candidates(queue)?))
    }

    /// Everybody, as one.
    pub(crate) fn all(&self) -> JobScheduler {
        let distinct = (0..self.members.len()).filter(|place| self.same[*place] == *place);
        self.together(distinct.collect())
    }

    fn together(&self, places: Vec<usize>) -> JobScheduler {
        if let [one] = places[..] {
            return self.members[one].scheduler.clone();
        }
        if let Some(known) = self.together.read().unwrap_or_else(PoisonError::into_inner).get(&places) {
            return known.clone();
        }
        let members = places.iter().map(|place| {
            let Member { name, scheduler, .. } = &self.members[*place];
            (name.clone(), scheduler.clone())
        });
        let made = JobScheduler::with_env(Arc::new(Several::new(members.collect())), self.env.clone());
        let mut together = self.together.write().unwrap_or_else(PoisonError::into_inner);
        together.entry(places).or_insert(made).clone()
    }

    /// Everybody who may have jobs of the queue.
    pub(crate) fn places(&self, queue: &QueueName) -> Result<Vec<&Member>> {
        Ok(self.candidates(queue)?.into_iter().map(|place| &self.members[place]).collect())
    }

    fn unroutable(&self, queue: &QueueName, kind: Option<&JobKind>) -> Error {
        let kind = kind.map(|kind| format!(" and kind `{kind}`")).unwrap_or_default();
        let rules: Vec<String> = self.rules.iter().map(ToString::to_string).collect();
        let message = format!(
            "no route matches queue `{queue}`{kind}, and `routing.default` is `none`; the routes are: {}",
            rules.join("; ")
        );
        Error::new(ErrorCode::Unroutable, message).at("route").on(queue)
    }
}

impl Route for Routes {
    fn submit_to(&self, queue: &QueueName, kind: &JobKind) -> Result<JobScheduler> {
        Ok(self.members[self.home(queue, kind)?].scheduler.clone())
    }

    fn consume_from(&self, queue: &QueueName) -> Result<Vec<JobScheduler>> {
        Ok(self.places(queue)?.into_iter().map(|member| member.scheduler.clone()).collect())
    }
}
