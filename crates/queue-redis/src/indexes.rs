//! Finding jobs by kind, tag or tenant without looking at all of them, for who asks for that.
//!
//! An index is a set of ids for each kind, tag or tenant that there is. Which of them a queue keeps stands in its counters, so that all processes
//! keep the same; scripts enter a job as it is taken in, and strike it as it is forgotten.

use std::sync::Arc;

use queue_core::{Error, ErrorCode, Result, store::JobQuery};

use crate::SCHEME;

/// What jobs can be listed by at the cost of what is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Index {
    /// Their kind.
    Kind,
    /// Their tenant.
    Tenant,
    /// Each of their tags.
    Tag,
}

impl Index {
    /// As the scripts know it.
    fn letter(self) -> char {
        match self {
            Self::Kind => 'k',
            Self::Tenant => 'o',
            Self::Tag => 't',
        }
    }
}

/// As the scripts take them.
pub(crate) fn letters(indexes: &[Index]) -> Arc<str> {
    let mut indexes = indexes.to_vec();
    indexes.sort_unstable();
    indexes.dedup();
    indexes.into_iter().map(Index::letter).collect::<String>().into()
}

/// Reads `kind,tag,tenant`, or `none`.
pub(crate) fn read(text: &str) -> Result<Vec<Index>> {
    let index = |word: &str| match word {
        "kind" => Ok(Index::Kind),
        "tag" => Ok(Index::Tag),
        "tenant" => Ok(Index::Tenant),
        _ => {
            let message = "`indexes` are some of `kind`, `tag` and `tenant`, with commas between them, or `none`";
            Err(Error::new(ErrorCode::Config, message).at("connect").by(SCHEME))
        }
    };
    if text == "none" { Ok(Vec::new()) } else { text.split(',').map(index).collect() }
}

/// Which part of a queue's keys to walk over for a query, where these indexes are complete: what most likely has the fewest jobs.
pub(crate) fn best(query: &JobQuery, complete: &str) -> Option<char> {
    let asked = [(query.tag.is_some(), 't'), (query.tenant.is_some(), 'o'), (query.kind.is_some(), 'k')];
    asked.into_iter().find(|(asked, letter)| *asked && complete.contains(*letter)).map(|(_, letter)| letter)
}

/// The key of the set behind the base; nothing where the query does not ask for it.
pub(crate) fn set_of(query: &JobQuery, letter: char) -> Option<String> {
    let term = match letter {
        't' => query.tag.as_deref(),
        'o' => query.tenant.as_deref(),
        'k' => query.kind.as_ref().map(|kind| kind.as_str()),
        _ => None,
    };
    term.map(|term| format!("i{letter}:{term}"))
}
