//! What was started, for whoever takes it down: `.brokers/state.json`.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::workspace::Workspace;

/// Brokers that were started here and not yet taken down.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    pub(crate) brokers: BTreeMap<String, Running>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Running {
    pub(crate) url: String,
    /// Every port of its own.
    pub(crate) ports: Vec<u16>,
    #[serde(flatten)]
    pub(crate) how: How,
}

/// How it was started, which is how it is stopped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub(crate) enum How {
    Native { processes: Vec<Process> },
    Compose { project: String },
}

/// A process, and when it began: see [`super::process::born`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) born: String,
}

/// The folder of brokers of a workspace.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    folder: PathBuf,
}

impl Home {
    /// `.brokers/` of the workspace; Git ignores it.
    pub(crate) fn of(workspace: &Workspace) -> Self {
        Self::at(workspace.root().join(".brokers"))
    }

    pub(crate) fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where a broker keeps its data.
    pub(crate) fn data(&self, broker: &str) -> PathBuf {
        self.folder.join(broker)
    }

    /// Keeps other processes from starting and stopping brokers here, until the answer is dropped.
    pub(crate) fn lock(&self) -> Result<File> {
        self.lock_as("lock", "another process starts or stops brokers", true)
    }

    /// The same for taking things down: waits although somebody asked this process to stop.
    pub(crate) fn lock_even_interrupted(&self) -> Result<File> {
        self.lock_as("lock", "another process starts or stops brokers", false)
    }

    /// Keeps other test runs from using brokers that this one takes down.
    pub(crate) fn lock_for_tests(&self) -> Result<File> {
        self.lock_as("tests.lock", "another test run uses the brokers", true)
    }

    fn lock_as(&self, name: &str, why: &str, interruptible: bool) -> Result<File> {
        fs::create_dir_all(&self.folder).with_context(|| format!("{} cannot be made", self.folder.display()))?;
        let file = File::create(self.folder.join(name))?;
        if file.try_lock().is_err() {
            eprintln!("waiting: {why}");
            while file.try_lock().is_err() {
                if interruptible {
                    crate::interrupt::check()?;
                }
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
        }
        Ok(file)
    }

    /// What is known; nothing where nothing was ever started.
    pub(crate) fn load(&self) -> Result<State> {
        let path = self.folder.join("state.json");
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(State::default()),
            other => other.with_context(|| format!("{} cannot be read", path.display()))?,
        };
        let remedy = || format!("{} is damaged: stop the brokers it names by hand and delete it", path.display());
        serde_json::from_str(&text).with_context(remedy)
    }

    /// Changes it; a reader sees the old or the new one. The caller holds the lock.
    pub(crate) fn change(&self, change: impl FnOnce(&mut State)) -> Result<()> {
        let mut state = self.load()?;
        change(&mut state);
        let draft = self.folder.join("state.json.new");
        let mut file = File::create(&draft)?;
        file.write_all(&serde_json::to_vec_pretty(&state)?)?;
        file.sync_all()?;
        fs::rename(&draft, self.folder.join("state.json")).context("the state cannot be written")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> (tempfile::TempDir, Home) {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().join(".brokers"));
        (folder, home)
    }

    #[test]
    fn what_was_started_is_read_back_by_another() {
        let (_folder, home) = home();
        assert_eq!(home.load().unwrap(), State::default());
        let _held = home.lock().unwrap();
        let native = Running {
            url: "redis://127.0.0.1:7000/".into(),
            ports: vec![7000],
            how: How::Native { processes: vec![Process { pid: 12, born: "boot 34".into() }] },
        };
        let compose = Running { how: How::Compose { project: "queue-1".into() }, ..native.clone() };
        home.change(|state| {
            state.brokers.insert("redis".into(), native.clone());
            state.brokers.insert("kafka".into(), compose.clone());
        })
        .unwrap();
        let again = Home::at(home.folder().to_owned()).load().unwrap().brokers;
        assert_eq!((&again["redis"], &again["kafka"]), (&native, &compose));
    }

    #[test]
    fn a_damaged_file_is_an_error_and_stays() {
        let (_folder, home) = home();
        let _held = home.lock().unwrap();
        let path = home.folder().join("state.json");
        fs::write(&path, r#"{"brokers":{"redis":{"#).unwrap();
        let error = home.change(|state| state.brokers.clear()).unwrap_err();
        assert!(format!("{error:#}").contains("by hand"), "{error:#}");
        assert_eq!(fs::read_to_string(path).unwrap(), r#"{"brokers":{"redis":{"#);
    }

    #[test]
    fn the_locks_exclude_each_their_own() {
        let (_folder, home) = home();
        let held = home.lock().unwrap();
        let _tests = home.lock_for_tests().unwrap();
        let other = File::create(home.folder().join("lock")).unwrap();
        assert!(other.try_lock().is_err());
        drop(held);
        assert!(other.try_lock().is_ok());
    }
}
