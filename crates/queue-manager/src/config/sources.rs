//! Defaults, file, variables: read, checked one by one, and laid over each other.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use queue_core::{Error, ErrorCode, Result};
use serde::Deserialize;
use toml::{Table, de::DeTable};

use super::{
    Config,
    origin::{Origin, Origins, complaint, line_of},
    variables::{self, Assignment},
};

/// Where a configuration is read from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    file: Option<PathBuf>,
    variables: Vec<(String, OsString)>,
}

impl Sources {
    /// Only the defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads this TOML file.
    #[must_use]
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// Reads the process's environment.
    #[must_use]
    pub fn environment(self) -> Self {
        let variables = std::env::vars_os();
        self.variables(variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value))))
    }

    /// Reads these variables, as if they were the environment.
    #[must_use]
    pub fn variables<N: Into<String>, V: Into<OsString>>(
        mut self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        self.variables.extend(variables.into_iter().map(|(name, value)| (name.into(), value.into())));
        self
    }

    /// Reads all of it: the defaults, over them the file, over it the variables.
    ///
    /// # Errors
    /// `CONFIG`, naming the key and the file and line, or the variable, that it came from; `NOT_FOUND` for a file that
    /// cannot be read.
    pub fn load(&self) -> Result<Config> {
        let (config, origins) = self.read()?;
        super::providers::check_references(&config, &[], &origins)?;
        Ok(config)
    }

    /// The same, but a provider that is named may be one that the program brings.
    pub(crate) fn read(&self) -> Result<(Config, Origins)> {
        let mut origins = Origins::default();
        let mut table = match &self.file {
            Some(path) => read(path, &mut origins)?,
            None => Table::new(),
        };
        for Assignment { key, value, variable } in variables::assignments(&self.variables, &table)? {
            let one = nest(&key, value);
            // Alone, so that the complaint is about this variable.
            parse(one.clone()).map_err(|fault| fault.complain(Some(&Origin::Variable(variable.clone()))))?;
            origins.set(&key.join("."), Origin::Variable(variable));
            lay(&mut table, one);
        }
        let config = parse(table).map_err(|fault| origins.error(&fault.key, &fault.message))?;
        config.check_all(&origins)?;
        Ok((config, origins))
    }
}

fn read(path: &Path, origins: &mut Origins) -> Result<Table> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let message = format!("the configuration file {} cannot be read: {error}", path.display());
        Error::new(ErrorCode::NotFound, message).at("configure")
    })?;
    let at = |span: Option<std::ops::Range<usize>>| {
        Origin::File(path.to_owned(), line_of(&text, span.map_or(0, |span| span.start)))
    };
    // The library's own rendering quotes the line, which may hold a password: only its message is passed on.
    let syntax = |error: toml::de::Error| complaint("", error.message(), Some(&at(error.span())));
    let spanned = DeTable::parse(&text).map_err(syntax)?;
    origins.note(path, &text, spanned.get_ref(), "");
    let table: Table = toml::from_str(&text).map_err(syntax)?;
    parse(table.clone()).map_err(|fault| origins.error(&fault.key, &fault.message))?;
    Ok(table)
}

/// What is wrong, and at which key.
struct Fault {
    key: String,
    message: String,
}

impl Fault {
    fn complain(&self, origin: Option<&Origin>) -> Error {
        complaint(&self.key, &self.message, origin)
    }
}

fn parse(table: Table) -> Result<Config, Fault> {
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(toml::Value::Table(table), &mut track);
    Config::deserialize(deserializer).map_err(|error| {
        let mut key = track.path().to_string();
        let mut message = without_values(error.message());
        if let Some(rest) = message.strip_prefix("unknown field `")
            && let Some((name, known)) = rest.split_once("`, expected ")
        {
            // The path may or may not hold the key already.
            if key != name && !key.ends_with(&format!(".{name}")) {
                key = super::origin::join(key.trim_matches('.'), name);
            }
            message = format!("there is no such key; expected {known}");
        }
        Fault { key, message }
    })
}

/// What was found in the place of something else may be a secret: it is not repeated.
fn without_values(message: &str) -> String {
    match message.strip_prefix("invalid type").and_then(|rest| rest.rsplit_once(", expected ")) {
        Some((_, "one value")) => "this key holds one value, not a table or a list".to_owned(),
        Some(_) => "this is a section with keys of its own, not a value".to_owned(),
        None => message.trim_end().to_owned(),
    }
}

fn nest(key: &[String], value: String) -> Table {
    let mut value = toml::Value::String(value);
    for part in key.iter().rev() {
        value = toml::Value::Table(Table::from_iter([(part.clone(), value)]));
    }
    match value {
        toml::Value::Table(table) => table,
        _ => Table::new(),
    }
}

/// Lays one table over another.
fn lay(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(toml::Value::Table(under)), toml::Value::Table(over)) => lay(under, over),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}
