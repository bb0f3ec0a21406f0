//! `cargo xtask bench`: figures with what they are compared to.

use anyhow::{Context as _, Result, bail};
use cargo_metadata::TargetKind;
use serde::Deserialize;

use crate::{run, workspace::Workspace};

/// Benchmarks, as a table or as JSON.
///
/// A benchmark is a bench target with `harness = false` that prints one JSON object a line:
/// {"name", "value", "unit", "baseline", "ratio"}, ratio = value ÷ baseline, both null where there is nothing to compare
/// with. Other lines are shown as they are.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    cargo xtask bench                  all of them\n  \
    cargo xtask bench memory           crates/*/benches/memory.rs\n  \
    cargo xtask bench memory --json    one JSON object a line on standard output, nothing else\n  \
    cargo xtask bench redis --quick    less of everything, where the benchmark knows how: to see that it works")]
pub(crate) struct Args {
    /// Which; all of them if not given.
    name: Option<String>,
    /// Print the rows as they come, for programs.
    #[arg(long)]
    json: bool,
    /// Measure less, and so less surely, where the benchmark can.
    #[arg(long)]
    quick: bool,
}

/// A line of a benchmark.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    value: f64,
    unit: String,
    baseline: Option<f64>,
    ratio: Option<f64>,
}

pub(crate) fn perform(args: &Args) -> Result<()> {
    let workspace = Workspace::load()?;
    let all = workspace.targets(&TargetKind::Bench);
    let wanted = |(_, bench): &&(String, String)| args.name.as_ref().is_none_or(|name| name == bench);
    let chosen: Vec<&(String, String)> = all.iter().filter(wanted).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = all.iter().map(|(_, bench)| bench.as_str()).collect();
        let names = if names.is_empty() { "none yet".to_owned() } else { names.join(", ") };
        bail!("no benchmark {}; there are: {names}", args.name.as_deref().unwrap_or_default());
    }
    for (package, bench) in chosen {
        let rows = measure(package, bench, args)?;
        if rows.is_empty() {
            bail!("{package}'s benchmark `{bench}` printed no row");
        }
        if !args.json {
            println!("\n{package} {bench}\n{}", table(&rows));
        }
    }
    Ok(())
}

fn measure(package: &str, bench: &str, args: &Args) -> Result<Vec<Row>> {
    let mut command = run::cargo();
    command.args(["bench", "--all-features", "--package", package, "--bench", bench]);
    if args.quick {
        command.args(["--", "--quick"]);
    }
    let mut rows = Vec::new();
    run::each_line(&mut command, |line| match line.trim_start().starts_with('{') {
        true => {
            if args.json {
                println!("{line}");
            }
            rows.push(row(line));
        }
        false => eprintln!("{line}"),
    })?;
    rows.into_iter().collect()
}

/// Reads a row and does its sum again: a ratio that was computed the other way round must not be believed.
fn row(line: &str) -> Result<Row> {
    let row: Row = serde_json::from_str(line).with_context(|| format!("not a benchmark's row: {line}"))?;
    match (row.baseline, row.ratio) {
        (None, None) => Ok(row),
        (Some(baseline), Some(ratio)) if (ratio - row.value / baseline).abs() <= 0.01 * ratio.abs() + 0.001 => Ok(row),
        (Some(_), Some(_)) => bail!("ratio is not value ÷ baseline: {line}"),
        _ => bail!("baseline and ratio come together: {line}"),
    }
}

fn table(rows: &[Row]) -> String {
    let optional = |number: Option<f64>, digits: fn(f64) -> String| number.map_or_else(|| "-".to_owned(), digits);
    let head = ["name", "value", "unit", "baseline", "ratio"].map(str::to_owned);
    let body = rows.iter().map(|row| {
        let ratio = optional(row.ratio, |ratio| format!("{ratio:.2}"));
        [row.name.clone(), figure(row.value), row.unit.clone(), optional(row.baseline, figure), ratio]
    });
    let cells: Vec<[String; 5]> = std::iter::once(head).chain(body).collect();
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 5] = std::array::from_fn(width);
    let line = |row: &[String; 5]| {
        let [name, value, unit, baseline, ratio] = row;
        let [w0, w1, w2, w3, w4] = widths;
        format!("{name:w0$}  {value:>w1$} {unit:w2$}  {baseline:>w3$}  {ratio:>w4$}").trim_end().to_owned()
    };
    cells.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Large numbers grouped, small ones with three digits that count.
fn figure(number: f64) -> String {
    if number.abs() < 1000.0 {
        return format!("{number:.prec$}", prec = if number.abs() < 10.0 { 2 } else { 1 });
    }
    let digits = format!("{:.0}", number.abs());
    let grouped: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|part| std::str::from_utf8(part).ok()).collect();
    format!("{}{}", if number < 0.0 { "-" } else { "" }, grouped.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_and_their_sums_checked() {
        let good = row(r#"{"name":"single","value":50.0,"unit":"k/s","baseline":100.0,"ratio":0.5}"#).unwrap();
        assert_eq!((good.value, good.ratio), (50.0, Some(0.5)));
        assert!(row(r#"{"name":"bytes","value":379,"unit":"B","baseline":null,"ratio":null}"#).is_ok());
        for bad in [
            r#"{"name":"inverse","value":50.0,"unit":"k/s","baseline":100.0,"ratio":2.0}"#,
            r#"{"name":"half","value":50.0,"unit":"k/s","baseline":100.0,"ratio":null}"#,
            r#"{"name":"zero","value":50.0,"unit":"k/s","baseline":0.0,"ratio":1.0}"#,
            r#"{"name":"no value","unit":"k/s"}"#,
        ] {
            assert!(row(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn columns_line_up() {
        let rows = [
            row(r#"{"name":"provider_batch_100","value":4200000,"unit":"jobs/s","baseline":4000000,"ratio":1.05}"#),
            row(r#"{"name":"memory","value":379.4,"unit":"B/job","baseline":null,"ratio":null}"#),
        ];
        let rows: Vec<Row> = rows.into_iter().collect::<Result<_>>().unwrap();
        let expected = "\
name                    value unit     baseline  ratio
provider_batch_100  4,200,000 jobs/s  4,000,000   1.05
memory                  379.4 B/job           -      -";
        assert_eq!(table(&rows), expected);
    }

    #[test]
    fn figures_are_grouped() {
        assert_eq!(
            [0.5, 12.34, 999.9, 1234.5, -1_234_567.0].map(figure),
            ["0.50", "12.3", "999.9", "1,234", "-1,234,567"]
        );
    }
}
