//! What each provider can do, as a table for the documentation and for `queue doctor`.

use std::{fmt::Write as _, time::Duration};

use queue_core::provider::{Capabilities, LeaseModel, ProviderInfo, Registry, Support};

/// The capabilities of every provider of the registry, as a Markdown table with notes below it.
#[must_use]
pub fn table(registry: &Registry) -> String {
    let providers = registry.providers();
    let mut notes = Notes::default();
    let mut table = String::from("| |");
    for provider in &providers {
        // A string takes everything that is written to it.
        let _ = write!(table, " {} |", provider.name);
    }
    let _ = write!(table, "\n|---|{}\n", "---|".repeat(providers.len()));
    for (row, name) in feature_names(&providers).into_iter().enumerate() {
        let cell = |provider: &ProviderInfo| {
            provider.capabilities.features().get(row).map_or_else(String::new, |(_, support)| notes.cell(*support))
        };
        line(&mut table, name, providers.iter().map(cell));
    }
    for (name, fact) in FACTS {
        line(&mut table, name, providers.iter().map(|provider| fact(&provider.capabilities)));
    }
    notes.append(&mut table);
    table
}

fn feature_names(providers: &[ProviderInfo]) -> Vec<&'static str> {
    let features = providers.first().map(|provider| provider.capabilities.features());
    features.into_iter().flatten().map(|(name, _)| name).collect()
}

fn line(table: &mut String, name: &str, cells: impl Iterator<Item = String>) {
    let _ = write!(table, "| {name} |");
    for cell in cells {
        let _ = write!(table, " {} |", cell.replace('|', "\\|"));
    }
    table.push('\n');
}

/// What a user should know of a cell; the same note has one number.
#[derive(Default)]
struct Notes(Vec<String>);

impl Notes {
    fn cell(&mut self, support: Support) -> String {
        match support {
            Support::Native => "native".to_owned(),
            Support::Emulated { how, caveat } => format!("emulated{}", self.note(format!("By {how}: {caveat}."))),
            Support::Unsupported { instead } => format!("no{}", self.note(format!("Instead: {instead}."))),
        }
    }

    fn note(&mut self, text: String) -> String {
        let known = self.0.iter().position(|note| *note == text);
        let index = known.unwrap_or_else(|| {
            self.0.push(text);
            self.0.len() - 1
        });
        format!(" <sup>{}</sup>", index + 1)
    }

    fn append(self, table: &mut String) {
        if !self.0.is_empty() {
            table.push('\n');
        }
        for (index, note) in self.0.iter().enumerate() {
            let _ = writeln!(table, "{}. {note}", index + 1);
        }
    }
}

type Fact = (&'static str, fn(&Capabilities) -> String);

const FACTS: [Fact; 9] = [
    ("lease", |can| match can.lease {
        LeaseModel::PerMessage { min, max } => format!("per message, {} to {}", time(min), time(max)),
        LeaseModel::Session { max_hold } => format!("the session's, at most {}", time(max_hold)),
    }),
    ("priority levels", |can| can.priority_levels.to_string()),
    ("delay granularity", |can| time(can.delay_granularity)),
    ("longest delay", |can| can.delay_max.map_or_else(|| "any".to_owned(), time)),
    ("largest job", |can| {
        bound(can.max_encoded_len, "the queue's `max_encoded_len`", |bytes| {
            bytesize::ByteSize(bytes as u64).to_string()
        })
    }),
    ("largest batch", |can| bound(can.max_batch, "any", |jobs| jobs.to_string())),
    ("settlement", |can| if can.settle_confirmed { "confirmed".to_owned() } else { "sent".to_owned() }),
    ("clock", |can| if can.broker_clock { "the provider's".to_owned() } else { "the client's".to_owned() }),
    ("durability, the default first", |can| can.durability.join(", ")),
];

fn time(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

fn bound(limit: usize, unbounded: &str, show: impl Fn(usize) -> String) -> String {
    if limit == usize::MAX { unbounded.to_owned() } else { show(limit) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_says_what_to_know_and_the_same_is_said_once() {
        let mut notes = Notes::default();
        let emulated = Support::Emulated { how: "a ladder of queues", caveat: "delays round up" };
        let no = Support::Unsupported { instead: "use a key" };
        let cells = [Support::Native, emulated, no, emulated].map(|support| notes.cell(support));
        assert_eq!(cells, ["native", "emulated <sup>1</sup>", "no <sup>2</sup>", "emulated <sup>1</sup>"]);
        let mut below = String::new();
        notes.append(&mut below);
        assert_eq!(below, "\n1. By a ladder of queues: delays round up.\n2. Instead: use a key.\n");
    }

    #[test]
    fn no_providers_make_an_empty_table() {
        assert!(table(&Registry::new()).starts_with("| |\n|---|\n"));
    }
}
