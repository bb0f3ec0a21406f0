//! The book's page on the command line is true.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use clap::CommandFactory as _;
use queue_cli::args::Cli;

const PAGE: &str = include_str!("../../../docs/book/cli.md");

#[test]
fn every_command_and_option_is_on_its_page() {
    for command in Cli::command().get_subcommands() {
        let title = format!("## queue {}\n", command.get_name());
        let section = PAGE.split_once(&title).unwrap_or_else(|| panic!("no section {title:?}")).1;
        let section = section.split("\n## ").next().unwrap();
        for option in command.get_arguments().filter_map(|argument| argument.get_long()) {
            assert!(section.contains(&format!("--{option}")), "queue {} --{option} is missing", command.get_name());
        }
    }
}

#[test]
fn no_option_is_on_the_page_that_does_not_exist() {
    let mut command = Cli::command();
    let mut known: Vec<String> = vec!["help".to_owned()];
    for command in command.get_subcommands_mut() {
        known.extend(command.get_arguments().filter_map(|argument| argument.get_long()).map(str::to_owned));
    }
    for word in PAGE.split(|c: char| !(c.is_ascii_lowercase() || c == '-')).filter_map(|word| word.strip_prefix("--")) {
        assert!(word.starts_with('-') || word.is_empty() || known.iter().any(|option| option == word), "--{word}");
    }
}

#[test]
fn the_defaults_of_the_page_are_those_of_the_command() {
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    for (option, shown) in [
        ("max-attempts", "| 4 |"),
        ("backoff", "| `exp:1s..30s` |"),
        ("timeout", "| `60s` |"),
        ("max-line", "| 1 MiB |"),
    ] {
        let argument = run.get_arguments().find(|argument| argument.get_long() == Some(option)).unwrap();
        let default = argument.get_default_values()[0].to_str().unwrap().replace("MiB", " MiB");
        assert!(shown.contains(&default), "{option}: {default}");
        let row = PAGE.lines().find(|line| line.starts_with(&format!("| `--{option}`"))).unwrap();
        assert!(row.contains(shown), "{row}");
    }
}

#[test]
fn the_handlers_of_the_book_are_the_shipped_ones() {
    const BOOK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/book/process-handlers.md");
    let page = std::fs::read_to_string(BOOK).unwrap();
    for ending in ["py", "sh", "mjs"] {
        let name = format!("examples/run/pool-handler.{ending}");
        let shipped = std::fs::read_to_string(format!("{}/../../{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        assert!(page.contains(&format!("<!-- {name} -->")) && page.contains(shipped.trim_end()), "{name}");
    }
}
