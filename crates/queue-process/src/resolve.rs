//! Finds the file that a name would run, as `execvp` does, and says what is wrong with it.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::Read as _,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, AtFlags, CWD, accessat};

use crate::error::StartError;

/// Where `execvp` looks when there is no `PATH`.
const DEFAULT_PATH: &str = "/bin:/usr/bin";
/// As much of a `#!` line as Linux reads.
const MAX_FIRST_LINE: u64 = 256;

pub(crate) fn resolve(
    program: &OsStr,
    directory: Option<&Path>,
    search_path: Option<&OsStr>,
) -> Result<PathBuf, StartError> {
    if let Some(directory) = directory
        && !(directory.is_dir() && may_execute(directory))
    {
        return Err(StartError::Directory { path: directory.to_owned() });
    }
    let base = directory.unwrap_or(Path::new(""));
    let found = if program.as_bytes().contains(&b'/') {
        base.join(program)
    } else {
        search(program, base, search_path.unwrap_or(OsStr::new(DEFAULT_PATH)))?
    };
    executable(&found)?;
    interpreter_of(&found, base)?;
    Ok(found)
}

/// The first executable file in the search path; a file that is there and not executable is the second best answer.
fn search(program: &OsStr, base: &Path, search_path: &OsStr) -> Result<PathBuf, StartError> {
    let mut blocked = None;
    for entry in std::env::split_paths(search_path) {
        // An empty entry means the working directory.
        let candidate = base.join(entry).join(program);
        match executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(StartError::NotExecutable { path }) if path.is_file() => blocked = blocked.or(Some(path)),
            Err(_) => {}
        }
    }
    Err(match blocked {
        Some(path) => StartError::NotExecutable { path },
        None => StartError::NotInPath { program: program.into() },
    })
}

fn executable(path: &Path) -> Result<(), StartError> {
    match fs::metadata(path) {
        Err(_) => Err(StartError::NotFound { path: path.to_owned() }),
        Ok(metadata) if metadata.is_file() && may_execute(path) => Ok(()),
        Ok(_) => Err(StartError::NotExecutable { path: path.to_owned() }),
    }
}

/// By the effective user, as `exec` decides.
fn may_execute(path: &Path) -> bool {
    accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).is_ok()
}

/// Checks the interpreter of a script's first line. A file that cannot be read may still be run, and a binary has none.
fn interpreter_of(path: &Path, base: &Path) -> Result<(), StartError> {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FIRST_LINE).read_to_end(&mut start));
    let Some(line) = start.strip_prefix(b"#!").filter(|_| read.is_ok()) else { return Ok(()) };
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let name = line.split(|byte| b" \t".contains(byte)).find(|word| !word.is_empty()).unwrap_or_default();
    let interpreter = PathBuf::from(OsString::from(OsStr::from_bytes(name)));
    match executable(&base.join(&interpreter)) {
        Ok(()) => Ok(()),
        Err(_) => Err(StartError::Interpreter { path: path.to_owned(), interpreter: Some(interpreter) }),
    }
}
