//! What each provider can do, as a table for the documentation and for `queue doctor`.

use std::{fmt::Write as _, time::Duration};

use queue_core::provider::{Capabilities, LeaseModel, ProviderInfo, Registry, Support};

/// The capabilities of every provider of the registry, as a Markdown table with notes below it. A bare one has two columns: by
/// itself, and with a store.
#[must_use]
pub fn table(registry: &Registry) -> String {
    let columns = columns(registry);
    let mut notes = Notes::default();
    let mut table = String::from("| |");
    for (name, _) in &columns {
        // A string takes everything that is written to it.
        let _ = write!(table, " {name} |");
    }
    let _ = write!(table, "\n|---|{}\n", "---|".repeat(columns.len()));
    for (row, name) in feature_names(&columns).into_iter().enumerate() {
        let cell = |(_, can): &(String, Capabilities)| {
            can.features().get(row).map_or_else(String::new, |(_, support)| notes.cell(*support))
        };
        line(&mut table, name, columns.iter().map(cell));
    }
    for (name, fact) in FACTS {
        line(&mut table, name, columns.iter().map(|(_, can)| fact(can)));
    }
    notes.append(&mut table);
    table
}

fn columns(registry: &Registry) -> Vec<(String, Capabilities)> {
    let of = |provider: ProviderInfo| {
        let paired = registry.paired(&provider.capabilities).map(|can| (format!("{} + store", provider.name), can));
        std::iter::once((provider.name.to_owned(), provider.capabilities)).chain(paired)
    };
    registry.providers().into_iter().flat_map(of).collect()
}

fn feature_names(columns: &[(String, Capabilities)]) -> Vec<&'static str> {
    let features = columns.first().map(|(_, can)| can.features());
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
    fn a_bare_provider_is_shown_with_and_without_a_store() {
        let env = queue_core::Env::system();
        let mut registry = Registry::new();
        queue_testkit::models::Broker::new(env, queue_testkit::models::LogModel::default()).register(&mut registry);
        assert!(table(&registry).starts_with("| | model-log |\n"), "nothing pairs it");
        queue_layers::register(&mut registry);
        let table = table(&registry);
        assert!(table.starts_with("| | model-log | model-log + store |\n"), "{table}");
        let row = |name: &str| table.lines().find(|line| line.starts_with(&format!("| {name} |"))).unwrap().to_owned();
        assert!(row("cancel a running job").starts_with("| cancel a running job | no <sup>"), "{table}");
        assert!(row("cancel a running job").contains("| emulated <sup>"), "{table}");
        assert!(row("settlement").ends_with("| confirmed |"), "{table}");
        assert!(table.contains(&format!("Instead: {}.", queue_core::provider::ADD_STORE)), "{table}");
    }

    #[test]
    fn no_providers_make_an_empty_table() {
        assert!(table(&Registry::new()).starts_with("| |\n|---|\n"));
    }
}
