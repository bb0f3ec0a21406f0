//! The book says what the code does: where both state the same, they are compared.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// From, trigger, to, flags, event.
type Row = (String, String, String, String, String);

/// A line of the golden file: `running Park pending [fence] parked`.
fn golden_row(line: &str) -> Row {
    let (head, rest) = line.split_once('[').unwrap();
    let (flags, event) = rest.split_once(']').unwrap();
    let [from, trigger, to] = head.split_whitespace().collect::<Vec<_>>().try_into().unwrap();
    (from.into(), trigger.into(), to.into(), flags.into(), event.trim().into())
}

fn golden() -> BTreeSet<Row> {
    read("crates/queue-core/tests/golden/lifecycle.txt").lines().map(golden_row).collect()
}

/// `running --> pending: Retry, Park`, one entry a trigger. Edges from and to `[*]` are the caller's business.
fn drawn_edges(book: &str) -> Vec<(String, String, Vec<String>)> {
    let drawing = book.split("```mermaid").nth(1).unwrap().split("```").next().unwrap();
    let edge = |line: &str| {
        let (from, rest) = line.split_once(" --> ")?;
        let (to, label) = rest.split_once(':').unwrap_or((rest, ""));
        let triggers = label.split(',').map(|word| word.trim().to_owned()).filter(|word| !word.is_empty());
        Some((from.trim().to_owned(), to.trim().to_owned(), triggers.collect()))
    };
    drawing.lines().filter_map(edge).collect()
}

/// The rows of the table that begins with this head.
fn table(book: &str, head: &str) -> Vec<Vec<String>> {
    let rows = book.split(head).nth(1).unwrap_or_else(|| panic!("no table {head}")).lines().skip(2);
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    rows.take_while(|line| line.starts_with('|')).map(cells).collect()
}

#[test]
fn the_drawing_has_exactly_the_transitions_of_the_code() {
    let edges = drawn_edges(&read("docs/book/concepts.md"));
    let drawn: Vec<(String, String, String)> = edges
        .iter()
        .filter(|(from, to, _)| from != "[*]" && to != "[*]")
        .flat_map(|(from, to, triggers)| triggers.iter().map(|t| (from.clone(), t.clone(), to.clone())))
        .collect();
    let real: BTreeSet<_> = golden().into_iter().map(|(from, trigger, to, ..)| (from, trigger, to)).collect();
    assert_eq!(drawn.iter().cloned().collect::<BTreeSet<_>>(), real);
    assert_eq!(drawn.len(), real.len(), "an edge is drawn twice");
}

#[test]
fn the_drawing_begins_and_ends_where_the_code_does() {
    let edges = drawn_edges(&read("docs/book/concepts.md"));
    let to_end: BTreeSet<&str> =
        edges.iter().filter(|(_, to, _)| to == "[*]").map(|(from, ..)| from.as_str()).collect();
    let golden = golden();
    let finished: BTreeSet<&str> =
        golden.iter().filter(|row| row.3.contains("finished")).map(|row| row.2.as_str()).collect();
    assert_eq!(to_end, finished);
    let begins: BTreeSet<&str> =
        edges.iter().filter(|(from, ..)| from == "[*]").map(|(_, to, _)| to.as_str()).collect();
    assert_eq!(begins, BTreeSet::from(["blocked", "pending", "scheduled"]));
}

#[test]
fn the_table_has_exactly_the_rows_of_the_code() {
    let rows = table(&read("docs/book/concepts.md"), "| from | trigger | to | with it | event |");
    let written: Vec<Row> = rows
        .into_iter()
        .map(|row| {
            let [from, trigger, to, flags, event]: [String; 5] = row.try_into().unwrap();
            (from, trigger, to, if flags == "-" { String::new() } else { flags }, event)
        })
        .collect();
    assert_eq!(written.iter().cloned().collect::<BTreeSet<_>>(), golden());
    assert_eq!(written.len(), golden().len());
}

#[test]
fn every_state_and_trigger_is_explained() {
    let book = read("docs/book/concepts.md");
    let first = |head: &str| table(&book, head).into_iter().map(|row| row[0].clone()).collect::<BTreeSet<String>>();
    let golden = golden();
    let states: BTreeSet<String> = golden.iter().flat_map(|row| [row.0.clone(), row.2.clone()]).collect();
    let triggers: BTreeSet<String> = golden.iter().map(|row| row.1.clone()).collect();
    assert_eq!(first("| state | meaning | counts against `max_len` | over |"), states);
    assert_eq!(first("| trigger | what happens |"), triggers);
}

#[test]
fn the_frame_is_the_documented_one() {
    let head = "| offset | bytes | field |";
    let code = table(&read("crates/queue-core/src/docs/frame.md"), head);
    assert!(code.len() > 15, "{code:?}");
    assert_eq!(table(&read("docs/book/wire-format.md"), head), code);
}

/// Relative targets of `[text](target)`, without their anchors.
fn links(page: &str) -> Vec<String> {
    let targets = page.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let files = targets.map(|target| target.split('#').next().unwrap_or_default());
    files.filter(|file| !file.is_empty() && !file.contains("://")).map(str::to_owned).collect()
}

fn pages(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

#[test]
fn no_link_leads_nowhere() {
    for page in [pages("."), pages("docs/book"), pages("docs/adr")].concat() {
        for link in links(&fs::read_to_string(&page).unwrap()) {
            let target = page.parent().unwrap().join(&link);
            assert!(target.exists(), "{} links to {link}, which is not there", page.display());
        }
    }
}

/// Whether the list in this folder names exactly the other pages of it.
fn lists_all(folder: &str, list: &str) {
    let listed: BTreeSet<String> = links(&read(&format!("{folder}/{list}"))).into_iter().collect();
    let names = pages(folder).into_iter().map(|page| page.file_name().unwrap().to_string_lossy().into_owned());
    assert_eq!(listed, names.filter(|name| name != list).collect());
}

#[test]
fn every_page_and_every_decision_is_listed() {
    lists_all("docs/book", "SUMMARY.md");
    lists_all("docs/adr", "README.md");
}
