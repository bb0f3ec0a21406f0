//! `queue doctor`: what this build can do, whether the provider answers, and how to mend what is amiss.

mod report;
mod table;

use std::io::{self, Write as _};

use queue_core::provider::{ProviderInfo, ProviderUrl, Registry};
use queue_manager::{HealthReport, QueueManager};
use queue_process::{DESCRIPTORS_PER_RUN, descriptor_limits};

use crate::{args::DoctorArgs, exit, plan::OTHER_DESCRIPTORS, run::refuse};
pub use report::Report;

/// Looks at everything and prints it. Status 0 where all is well, 1 where something is amiss.
#[must_use]
pub fn doctor(args: &DoctorArgs) -> u8 {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return refuse(format_args!("cannot start: {error}")),
    };
    let report = runtime.block_on(examine(args.provider.as_deref()));
    let text = if args.json { format!("{}\n", report.for_machines()) } else { report.for_people() };
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) if report.faults.is_empty() => exit::OK,
        Ok(()) => exit::INCOMPLETE,
        Err(error) => refuse(format_args!("cannot write to stdout: {error}")),
    }
}

/// Fewer programs at once than that are little for a machine of today.
const FEW_PROGRAMS: u64 = 64;

async fn examine(url: Option<&str>) -> Report {
    let registry = queue_manager::registry();
    let mut report = Report { providers: shown(&registry, url), ..Report::default() };
    match health(url).await {
        Ok(health) => {
            let said = health.providers.iter().flat_map(|provider| &provider.faults);
            report.faults.extend(said.map(|fault| format!("the provider: {}: {}", fault.code, fault.message)));
            report.health = Some(health);
        }
        Err(error) => report.faults.push(format!("the provider: {}: {}", error.code(), error.message())),
    }
    report.open_files = descriptor_limits();
    let allowed = report.open_files.hard.unwrap_or(u64::MAX);
    report.programs_at_once = allowed.saturating_sub(OTHER_DESCRIPTORS) / DESCRIPTORS_PER_RUN;
    if report.programs_at_once < FEW_PROGRAMS {
        let few = report.programs_at_once;
        report.faults.push(format!(
            "open files: {allowed} are allowed, enough for {few} programs at once; raise it with `ulimit -Hn` or in limits.conf"
        ));
    }
    report
}

/// The provider of the URL if there is one, with its store if it has one, else all.
fn shown(registry: &Registry, url: Option<&str>) -> Vec<ProviderInfo> {
    let asked = url.and_then(|url| ProviderUrl::parse(url).ok());
    let of = |url: ProviderUrl| {
        let mut found = registry.find(&url).ok()?.about();
        if let Ok(capabilities) = registry.capabilities(&url) {
            found.capabilities = capabilities;
        }
        Some(found)
    };
    asked.and_then(of).map_or_else(|| registry.providers(), |found| vec![found])
}

/// How the provider of the URL is, else of the one that the environment names.
async fn health(url: Option<&str>) -> queue_core::Result<HealthReport> {
    let manager = match url {
        Some(url) => QueueManager::connect(url).await?,
        None => QueueManager::from_env().await?,
    };
    let health = manager.health().await;
    manager.close().await?;
    Ok(health)
}
