//! What a person sees, and what a program reads.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use super::{
    blow::Blow,
    phase::Figures,
    run::{Extra, Settings},
};

/// How far a phase is; on standard error, and only on a terminal.
#[derive(Debug)]
pub(crate) struct Bar(ProgressBar);

impl Bar {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(5));
        let style = ProgressStyle::with_template("{prefix:>10} {wide_bar} {pos}/{len} jobs, {msg}, {elapsed}");
        Self(bar.with_style(style.expect("the template is right")))
    }

    pub(crate) fn begin(&self, phase: &'static str, jobs: u64, faults: u64) {
        self.0.reset();
        self.0.set_length(jobs);
        self.0.set_prefix(phase);
        self.0.set_message(format!("0 of {faults} faults"));
    }

    pub(crate) fn show(&self, ended: u64, faults: u64, planned: u64) {
        self.0.set_position(ended);
        self.0.set_message(format!("{faults} of {planned} faults"));
    }

    /// A line that stays, between two drawings.
    pub(crate) fn say(&self, line: &str) {
        self.0.suspend(|| eprintln!("{line}"));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

const HEAD: [&str; 12] = [
    "phase",
    "jobs",
    "faults",
    "lost",
    "unexpected",
    "repeated",
    "in flight",
    "unexplained",
    "overlapping",
    "refused",
    "back in",
    "verdict",
];

/// A table for a terminal.
pub(crate) fn table<B: Blow>(all: &[Figures<B>]) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(all.iter().map(row));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let line = |row: &[String; 12]| {
        let cells = row.iter().zip(&widths).enumerate();
        let cells = cells.map(
            |(column, (cell, width))| if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") },
        );
        cells.collect::<Vec<_>>().join("  ")
    };
    rows.iter().map(|row| line(row) + "\n").collect()
}

fn row<B: Blow>(figures: &Figures<B>) -> [String; 12] {
    let verdict = &figures.verdict;
    let number = |number: usize| number.to_string();
    [
        figures.phase.name.to_owned(),
        figures.jobs.to_string(),
        format!("{}/{}", figures.faults.len(), figures.planned),
        number(verdict.lost()),
        number(verdict.unexpected() + verdict.contradicted.len()),
        number(verdict.repeated),
        number(verdict.in_flight),
        number(verdict.unexplained()),
        number(verdict.overlapping.len()),
        number(verdict.refused),
        back(figures),
        word(figures).to_owned(),
    ]
}

fn word<B: Blow>(figures: &Figures<B>) -> &'static str {
    match (figures.is_good(), figures.interrupted) {
        (true, _) => "good",
        (false, true) => "interrupted",
        (false, false) if figures.phase.judged => "BAD",
        (false, false) => "measured",
    }
}

fn back<B: Blow>(figures: &Figures<B>) -> String {
    let limit = figures.phase.blow.limit().as_secs_f64();
    figures.longest().map_or_else(|| "NEVER".into(), |longest| format!("{:.1}/{limit:.0} s", longest.as_secs_f64()))
}

/// What is wrong, with examples.
pub(crate) fn complaints<B: Blow>(figures: &Figures<B>) -> Vec<String> {
    let verdict = &figures.verdict;
    let mut lines: Vec<String> = Vec::new();
    lines.extend(figures.complaints.iter().map(|what| format!("{}: {what}", figures.phase.name)));
    lines.extend(figures.trouble.as_ref().map(|trouble| format!("{}: {trouble}", figures.phase.name)));
    for (what, jobs) in [
        ("accepted, and not known to the store", &verdict.gone),
        ("accepted, and never over", &verdict.stuck),
        ("over otherwise than planned or told", &verdict.contradicted),
        ("run while another's lease stood", &verdict.overlapping),
        ("lost by the checker's account", &verdict.report.lost),
        ("run without having been published", &verdict.report.unexpected),
    ] {
        if !jobs.is_empty() {
            lines.push(format!(
                "{}: {} {what}, such as {:?}",
                figures.phase.name,
                jobs.len(),
                &jobs[..jobs.len().min(3)]
            ));
        }
    }
    if !verdict.report.is_clean() {
        lines.push(format!("{}: {}", figures.phase.name, verdict.report));
    }
    for fault in &figures.faults {
        for (worker, time) in &fault.recovery {
            if time.is_none_or(|time| time > figures.phase.blow.limit()) {
                let time = time.map_or_else(|| "never".into(), |time| format!("after {:.1} s", time.as_secs_f64()));
                lines.push(format!("{}: {}: {worker} consumed again {time}", figures.phase.name, fault.what));
            }
        }
    }
    lines
}

pub(crate) fn json<B: Blow>(settings: &Settings, all: &[Figures<B>], extra: Option<&Extra>) -> Value {
    let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
    let phase = |figures: &Figures<B>| {
        let verdict = &figures.verdict;
        let faults = figures.faults.iter().map(|fault| {
            let slowest = fault.recovery.iter().map(|(_, time)| *time).collect::<Option<Vec<_>>>();
            json!({ "what": fault.what, "consuming_after_s": seconds(slowest.and_then(|times| times.into_iter().max())) })
        });
        json!({
            "phase": figures.phase.name,
            "seed": figures.seed,
            "jobs": figures.jobs,
            "seconds": figures.took.as_secs_f64(),
            "faults_planned": figures.planned,
            "faults": faults.collect::<Vec<_>>(),
            "lost": verdict.lost(),
            "unexpected": verdict.unexpected(),
            "contradicted": verdict.contradicted.len(),
            "overlapping": verdict.overlapping.len(),
            "runs": verdict.report.starts,
            "repeated": verdict.repeated,
            "in_flight_at_faults": verdict.in_flight,
            "unexplained": verdict.unexplained(),
            "settlements_refused": verdict.refused,
            "consuming_after_s": seconds(figures.longest()),
            "limit_s": figures.phase.blow.limit().as_secs_f64(),
            "judged": figures.phase.judged,
            "interrupted": figures.interrupted,
            "trouble": figures.trouble,
            "complaints": figures.complaints,
            "good": figures.is_good(),
        })
    };
    let phases: Vec<Value> = all.iter().map(phase).collect();
    let mut said = json!({ "soak": settings.name, "scale": settings.scale, "phases": phases });
    if let Some(extra) = extra {
        said[extra.part] = extra.figures.clone();
    }
    said
}
