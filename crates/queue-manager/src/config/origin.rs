//! Where each value came from.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use queue_core::{Error, ErrorCode};
use toml::de::{DeTable, DeValue};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    File(PathBuf, usize),
    Variable(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, line) => write!(f, "{}, line {line}", path.display()),
            Self::Variable(name) => write!(f, "variable {name}"),
        }
    }
}

/// Where each key came from, by its path. A key that is not here has its default, or was set by the program.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origins(BTreeMap<String, Origin>);

impl Origins {
    pub(super) fn set(&mut self, key: &str, origin: Origin) {
        self.0.insert(key.to_owned(), origin);
    }

    /// Notes the lines of a file, keys and sections.
    pub(super) fn note(&mut self, file: &std::path::Path, text: &str, table: &DeTable<'_>, path: &str) {
        for (key, value) in table {
            let inner = join(path, key.get_ref());
            let line = line_of(text, key.span().start);
            self.set(&inner, Origin::File(file.to_owned(), line));
            if let DeValue::Table(table) = value.get_ref() {
                self.note(file, text, table, &inner);
            }
        }
    }

    /// An error about a key, with where it, or the section around it, came from.
    pub(crate) fn error(&self, key: &str, message: &str) -> Error {
        let mut known = Some(key);
        while let Some(at) = known {
            if let Some(origin) = self.0.get(at) {
                return complaint(key, message, Some(origin));
            }
            known = at.rsplit_once('.').map(|(section, _)| section);
        }
        complaint(key, message, None)
    }
}

pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// From 1.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

pub(super) fn complaint(key: &str, message: &str, origin: Option<&Origin>) -> Error {
    let key = if key.is_empty() || key == "." { String::new() } else { format!("`{key}`: ") };
    let origin = origin.map_or_else(String::new, |origin| format!(" ({origin})"));
    Error::new(ErrorCode::Config, format!("{key}{message}{origin}")).at("configure")
}
