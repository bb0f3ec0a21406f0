//! What `queue doctor` found, for people and for machines.

use std::fmt::Write as _;

use queue_core::provider::{ProviderInfo, Support};
use queue_manager::{HealthReport, HealthStatus};
use queue_process::DescriptorLimits;
use serde_json::{Map, Value, json};

use super::table;

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// The providers in question.
    pub providers: Vec<ProviderInfo>,
    /// How the configured one is, if it could be connected to.
    pub health: Option<HealthReport>,
    /// The limits of this process.
    pub open_files: DescriptorLimits,
    /// How many programs `queue run` could run at once with them.
    pub programs_at_once: u64,
    /// What is amiss, each with what to do about it.
    pub faults: Vec<String>,
}

impl Report {
    /// Several paragraphs; the last line with its break.
    #[must_use]
    pub fn for_people(&self) -> String {
        let mut text = format!("queue {}\n\nPROVIDERS\n", env!("CARGO_PKG_VERSION"));
        for provider in &self.providers {
            // A string takes everything that is written to it.
            let _ = writeln!(text, "  {:<10} {}; {}", provider.name, provider.description, provider.example);
        }
        text.push_str("\nCAPABILITIES\n");
        text.push_str(&table::of(&self.providers));
        text.push_str("\nREACHABLE\n");
        for provider in self.health.iter().flat_map(|health| &health.providers) {
            let word = match provider.status {
                HealthStatus::Healthy => "yes",
                HealthStatus::Degraded => "yes, with faults",
                HealthStatus::Down => "no",
            };
            let url = provider.url.as_deref().unwrap_or(&provider.provider);
            let answer = provider.ping_ms.map(|ms| format!(", it answered in {ms} ms")).unwrap_or_default();
            let _ = writeln!(text, "  {url}  {word}{answer}");
            if let Some(store) = &provider.store {
                let url = store.url.as_deref().unwrap_or("its store");
                let word = if store.status == HealthStatus::Healthy { "yes" } else { "no" };
                let _ = writeln!(text, "  {url}  {word}, the store, which calls it {}", store.called);
            }
        }
        if self.health.is_none() {
            text.push_str("  no: see below\n");
        }
        let limit = |limit: Option<u64>| limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
        let (soft, hard) = (limit(self.open_files.soft), limit(self.open_files.hard));
        let programs = self.programs_at_once.min(10_000);
        let _ = write!(text, "\nOPEN FILES\n  {soft}, at most {hard}: enough for {programs} programs at once\n");
        match self.faults.as_slice() {
            [] => text.push_str("\nAll is well.\n"),
            faults => {
                text.push_str("\nAMISS\n");
                for fault in faults {
                    let _ = writeln!(text, "  {fault}");
                }
            }
        }
        text
    }

    /// One JSON object.
    #[must_use]
    pub fn for_machines(&self) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "providers": self.providers.iter().map(provider).collect::<Vec<_>>(),
            "health": self.health,
            "open_files": {
                "soft": self.open_files.soft,
                "hard": self.open_files.hard,
                "programs_at_once": self.programs_at_once.min(10_000),
            },
            "faults": self.faults,
        })
    }
}

fn provider(info: &ProviderInfo) -> Value {
    let capabilities: Map<String, Value> =
        info.capabilities.features().into_iter().map(|(name, how)| (name.to_owned(), support(how))).collect();
    json!({
        "name": info.name,
        "schemes": info.schemes,
        "description": info.description,
        "example": info.example,
        "priority_levels": info.capabilities.priority_levels,
        "durability": info.capabilities.durability,
        "capabilities": capabilities,
    })
}

fn support(support: Support) -> Value {
    match support {
        Support::Native => json!({"support": "native"}),
        Support::Emulated { how, caveat } => json!({"support": "emulated", "how": how, "caveat": caveat}),
        Support::Unsupported { instead } => json!({"support": "no", "instead": instead}),
    }
}
