//! The capability table, as a terminal shows it.

use std::fmt::Write as _;

use queue_core::provider::{ProviderInfo, Support};

const WIDTH: usize = 14;

/// A row for each feature, a column for each provider, and below what to know of the cells that are not native.
pub(super) fn of(providers: &[ProviderInfo]) -> String {
    let Some(first) = providers.first() else { return "  no provider was compiled in\n".to_owned() };
    let mut notes: Vec<String> = Vec::new();
    let mut text = format!("  {:<24}", "");
    for provider in providers {
        // A string takes everything that is written to it.
        let _ = write!(text, "{:<WIDTH$}", provider.name);
    }
    end_line(&mut text);
    for (row, (name, _)) in first.capabilities.features().into_iter().enumerate() {
        let _ = write!(text, "  {name:<24}");
        for provider in providers {
            let cell = cell(provider.capabilities.features()[row].1, &mut notes);
            let _ = write!(text, "{cell:<WIDTH$}");
        }
        end_line(&mut text);
    }
    for (number, note) in (1..).zip(notes) {
        let _ = writeln!(text, "  [{number}] {note}");
    }
    text
}

fn end_line(text: &mut String) {
    text.truncate(text.trim_end().len());
    text.push('\n');
}

fn cell(support: Support, notes: &mut Vec<String>) -> String {
    let (word, note) = match support {
        Support::Native => return "native".to_owned(),
        Support::Emulated { how, caveat } => ("emulated", format!("by {how}: {caveat}")),
        Support::Unsupported { instead } => ("no", format!("instead: {instead}")),
    };
    let known = notes.iter().position(|known| *known == note).unwrap_or_else(|| {
        notes.push(note);
        notes.len() - 1
    });
    format!("{word} [{}]", known + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_that_is_not_native_has_its_note() {
        let mut providers = queue_manager::registry().providers();
        // However many are compiled in.
        providers.truncate(1);
        let mut other = providers[0].clone();
        other.name = "other";
        other.capabilities.delay = Support::Emulated { how: "waiting", caveat: "it rounds up" };
        providers.push(other);
        let text = of(&providers);
        let row = |name: &str| text.lines().find(|line| line.trim_start().starts_with(name)).unwrap().to_owned();
        assert!(row("delay").split_whitespace().eq(["delay", "native", "emulated", "[1]"]), "{text}");
        assert!(text.contains("[1] by waiting: it rounds up\n"), "{text}");
        assert!(row("order by key").ends_with("no [3]"), "{text}");
        assert!(of(&[]).contains("no provider"));
    }
}
