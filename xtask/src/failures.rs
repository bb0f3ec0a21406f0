//! What failed in a long test run, said again at its end: whoever reads the log of an hour begins there.

use std::{
    fmt,
    io::{IsTerminal as _, Write as _},
    process::Command,
};

use anyhow::Result;

use crate::run;

/// Lines of a program's failures that are said again; the names of what failed always are.
const MOST: usize = 150;

/// Runs `cargo test …` with its output shown. Where that is no terminal, both streams go to standard output, in the order in
/// which they were written, and what failed follows once more.
pub(crate) fn shown(test: &mut Command) -> Result<()> {
    if std::io::stdout().is_terminal() { run::shown(test) } else { overheard(test, |_| {}) }
}

/// The same, never to a terminal of its own, with every line told.
pub(crate) fn overheard(test: &mut Command, mut hear: impl FnMut(&str)) -> Result<()> {
    let mut stdout = std::io::stdout();
    let mut failures = Failures::default();
    let ended = run::each_line_of_both(test, |line| {
        hear(line);
        // Nobody reads any more: the tests go on, their result is the exit code.
        let _ = writeln!(stdout, "{line}");
        failures.see(line);
    });
    if ended.is_err() {
        let _ = write!(stdout, "{failures}");
    }
    ended
}

/// Reads along with a test run: the format is that of Rust's test harness and of those that imitate it.
#[derive(Debug, Default)]
struct Failures {
    /// Which program runs, as Cargo says it.
    program: String,
    programs: Vec<Program>,
    /// Its failures are being told.
    open: bool,
}

#[derive(Debug, Default)]
struct Program {
    name: String,
    details: Vec<String>,
    left_out: usize,
    names: Vec<String>,
    naming: bool,
}

impl Failures {
    fn see(&mut self, line: &str) {
        let said = line.trim();
        if ["Running ", "Doc-tests "].iter().any(|start| said.starts_with(start)) {
            (self.program, self.open) = (said.to_owned(), false);
        } else if said.starts_with("test result:") {
            self.open = false;
        } else if said == "failures:" && !self.open {
            self.programs.push(Program { name: self.program.clone(), ..Program::default() });
            self.open = true;
        } else if let Some(program) = self.programs.last_mut().filter(|_| self.open) {
            program.see(line);
        }
    }
}

impl Program {
    fn see(&mut self, line: &str) {
        match line {
            // The second time, the names follow.
            "failures:" => self.naming = true,
            name if self.naming => self.names.extend((!name.trim().is_empty()).then(|| name.to_owned())),
            detail if self.details.len() < MOST => self.details.push(detail.to_owned()),
            _ => self.left_out += 1,
        }
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for program in &self.programs {
            writeln!(f, "\nFAILED, once more: {}", program.name)?;
            program.details.iter().try_for_each(|line| writeln!(f, "{line}"))?;
            if program.left_out > 0 {
                writeln!(f, "    … {} lines more above", program.left_out)?;
            }
            program.names.iter().try_for_each(|name| writeln!(f, "{name}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(log: &str) -> String {
        let mut failures = Failures::default();
        log.lines().for_each(|line| failures.see(line));
        failures.to_string()
    }

    #[test]
    fn what_failed_is_said_with_the_program_it_failed_in() {
        let log = "     Running tests/good.rs (target/good)\ntest a ... ok\n\ntest result: ok. 1 passed\n     \
            Running tests/bad.rs (target/bad)\ntest b ... ok\ntest c ... FAILED\n\nfailures:\n\n---- c stdout ----\n\
            thread 'c' panicked\n\n\nfailures:\n    c\n\ntest result: FAILED. 1 passed; 1 failed\n\
            error: test failed, to rerun pass `-p x`\n   Doc-tests x\ntest d ... ok\n";
        let again = read(log);
        let lines: Vec<&str> = again.lines().filter(|line| !line.is_empty()).collect();
        let expected = [
            "FAILED, once more: Running tests/bad.rs (target/bad)",
            "---- c stdout ----",
            "thread 'c' panicked",
            "    c",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn nothing_is_said_of_a_run_without_failures() {
        assert_eq!(read("     Running tests/good.rs\ntest a ... ok\n\ntest result: ok. 1 passed\n"), "");
    }

    #[test]
    fn the_names_are_said_however_long_the_rest_is() {
        let noise = "noise\n".repeat(MOST + 7);
        let again = read(&format!("Running x\nfailures:\n{noise}failures:\n    one\n    two\n"));
        assert!(again.contains("… 7 lines more above\n    one\n    two\n"), "{again}");
    }

    #[test]
    fn a_program_that_was_killed_takes_nothing_of_the_next() {
        let again = read("Running x\nfailures:\n---- c ----\nRunning y\ntest a ... ok\n");
        assert!(again.ends_with("---- c ----\n"), "{again}");
    }
}
