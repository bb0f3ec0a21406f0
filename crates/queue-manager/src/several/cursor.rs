//! Listings that go through one provider after the other.

use queue_core::{
    Error, ErrorCode, JobScheduler, Result,
    provider::{Cursor, Page},
};

use crate::config::ProviderName;

/// A page in the making. It begins at the cursor and goes on at the next provider where one has no more. The cursor is `NAME/`
/// and then the provider's own, which is empty at its beginning.
pub(super) struct Walk<'a, T> {
    members: &'a [(ProviderName, JobScheduler)],
    at: usize,
    inner: Option<Cursor>,
    items: Vec<T>,
    limit: usize,
    full: bool,
}

impl<'a, T> Walk<'a, T> {
    pub(super) fn begin(
        members: &'a [(ProviderName, JobScheduler)],
        cursor: Option<Cursor>,
        limit: usize,
    ) -> Result<Self> {
        let (at, inner) = cursor.map_or(Ok((0, None)), |cursor| read(members, &cursor))?;
        Ok(Self { members, at, inner, items: Vec::new(), limit, full: false })
    }

    /// Whom to ask next, from where, for how many; `None` once the page is full or there is nobody left.
    pub(super) fn next(&mut self) -> Option<(&'a JobScheduler, Option<Cursor>, usize)> {
        let room = self.limit.checked_sub(self.items.len()).filter(|room| *room > 0 && !self.full)?;
        let (_, scheduler) = self.members.get(self.at)?;
        Some((scheduler, self.inner.take(), room))
    }

    /// Takes what was answered. A provider that has not met the queue has nothing of it.
    pub(super) fn take(&mut self, answer: Result<Page<T>>) -> Result<()> {
        match answer {
            Ok(page) => {
                self.items.extend(page.items);
                self.inner = page.next;
            }
            Err(error) if error.code() == ErrorCode::NotFound => self.inner = None,
            Err(error) => return Err(error),
        }
        // A page may be shorter than asked for although there is more: then it is shorter here too.
        self.full = self.inner.is_some();
        if !self.full {
            self.at += 1;
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Page<T> {
        let next = self.members.get(self.at).map(|(name, _)| {
            let inner = self.inner.as_ref().map_or("", |cursor| &*cursor.0);
            Cursor(format!("{name}/{inner}").into())
        });
        Page { items: self.items, next }
    }
}

fn read(members: &[(ProviderName, JobScheduler)], cursor: &Cursor) -> Result<(usize, Option<Cursor>)> {
    let place = cursor.0.split_once('/').and_then(|(name, inner)| {
        let at = members.iter().position(|(member, _)| member.as_str() == name)?;
        Some((at, (!inner.is_empty()).then(|| Cursor(inner.into()))))
    });
    place.ok_or_else(|| Error::new(ErrorCode::Validation, "this cursor is of another listing").at("list"))
}
