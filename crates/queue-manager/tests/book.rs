//! What the documentation says of the code is the code's own word: `QUEUE_BLESS=1` writes it anew.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::{fs, path::PathBuf};

fn path(relative: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(relative)
}

fn read(relative: &str) -> String {
    fs::read_to_string(path(relative)).unwrap_or_else(|error| panic!("{relative}: {error}"))
}

fn bless() -> bool {
    std::env::var_os("QUEUE_BLESS").is_some_and(|value| value == "1")
}

/// The page is exactly this.
fn is_page(relative: &str, wanted: &str) {
    if bless() {
        fs::write(path(relative), wanted).unwrap();
    }
    let same = fs::read_to_string(path(relative)).is_ok_and(|found| found == wanted);
    assert!(same, "{relative} is not what the code says: QUEUE_BLESS=1 cargo test -p queue-manager --test book");
}

/// What stands in the page between the markers is exactly this.
fn is_block(relative: &str, begin: &str, end: &str, wanted: &str) {
    let page = read(relative);
    let (before, rest) = page.split_once(begin).unwrap_or_else(|| panic!("{relative} has no {begin:?}"));
    let (found, after) = rest.split_once(end).unwrap_or_else(|| panic!("{relative} has no {end:?} after {begin:?}"));
    if bless() && found != wanted {
        fs::write(path(relative), [before, begin, wanted, end, after].concat()).unwrap();
        return;
    }
    let say = "is not what the code says: QUEUE_BLESS=1 cargo test -p queue-manager --test book";
    assert!(found == wanted, "{relative} between {begin:?} and {end:?} {say}");
}

#[test]
fn the_configuration_page_is_generated() {
    is_page("docs/book/configuration.md", &queue_manager::config::reference());
}

/// With every provider that there is.
#[cfg(all(feature = "memory", feature = "redis"))]
#[test]
fn the_capability_table_is_generated() {
    let table = format!("\n{}", queue_manager::capabilities::table(&queue_manager::registry()));
    let (begin, end) = ("<!-- capabilities -->\n", "\n<!-- /capabilities -->");
    is_block("docs/book/capabilities.md", begin, end, &table);
    if path("README.md").exists() {
        is_block("README.md", begin, end, &table);
    }
}

#[test]
fn the_library_example_is_the_one_that_runs() {
    let example = read("examples/library.rs");
    let ours = example.lines().filter_map(|line| line.strip_prefix("use queue_")?.split("::").next());
    assert_eq!(ours.collect::<Vec<_>>(), ["core", "memory"], "it claims to need nothing else");
    assert!(!example.contains("queue_manager"));
    for page in ["docs/book/getting-started.md", "README.md"] {
        is_block(page, "<!-- examples/library.rs -->\n```rust\n", "```\n", &example);
    }
}

#[test]
fn the_files_of_the_configuration_page_can_be_read() {
    let page = queue_manager::config::reference();
    let file = page.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let mut temporary = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut temporary, file.as_bytes()).unwrap();
    let variables = [("QUEUE__QUEUES__REPORTS_NIGHTLY__TTL", "1h"), ("QUEUE__WORKER__LEASE", "2m")];
    let config = queue_manager::config::Sources::new().file(temporary.path()).variables(variables).load().unwrap();
    assert_eq!(config.queues.len(), 2, "the variable found its queue");
}

#[test]
fn the_files_of_the_other_pages_can_be_read() {
    for (page, files) in [("docs/book/alerts.md", 3), ("docs/book/dead-letters.md", 1)] {
        let page = read(page);
        let blocks: Vec<_> = page.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
        assert_eq!(blocks.len(), files);
        for block in blocks {
            let mut temporary = tempfile::NamedTempFile::new().unwrap();
            std::io::Write::write_all(&mut temporary, block.as_bytes()).unwrap();
            let config = queue_manager::config::Sources::new().file(temporary.path()).load().unwrap();
            assert_ne!(config, queue_manager::Config::default(), "{block}");
        }
    }
}
