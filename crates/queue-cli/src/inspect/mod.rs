//! `queue inspect`: what stands in the queues of a provider, without touching it.

mod args;
mod find;
mod machines;
mod people;

use std::{
    io::{self, Write as _},
    sync::Arc,
};

use queue_core::{
    Env, Error, ErrorCode, QueueProvider, Result,
    provider::{ProviderUrl, Registry},
};
use queue_manager::config::Sources;

use crate::{exit, run::refuse};
pub use args::InspectArgs;
use find::Found;

/// Looks and prints. Status 1 where there is no such job or queue, or one of the queues could not be looked at.
#[must_use]
pub fn inspect(args: &InspectArgs) -> u8 {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return refuse(format_args!("cannot start: {error}")),
    };
    let env = Env::system();
    let found = match runtime.block_on(look(args, &env)) {
        Ok(found) => found,
        Err(error) if error.code() == ErrorCode::NotFound => {
            refuse(error);
            return exit::INCOMPLETE;
        }
        Err(error) => return refuse(error),
    };
    let text = match args.json {
        true => format!("{}\n", machines::of(&found, args.payload)),
        false => people::of(&found, args.payload, env.now()),
    };
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) if found.is_whole() => exit::OK,
        Ok(()) => exit::INCOMPLETE,
        // A reader that has seen enough is no failure.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => exit::OK,
        Err(error) => refuse(format_args!("cannot write to stdout: {error}")),
    }
}

async fn look(args: &InspectArgs, env: &Env) -> Result<Found> {
    let url = match &args.url {
        Some(url) => ProviderUrl::parse(url)?,
        None => Sources::new().environment().load()?.provider.url,
    };
    let provider = connect(&queue_manager::registry(), &url, env).await?;
    let found = find::find(&*provider, args).await;
    // What was seen is worth more than how the closing went.
    let _ = provider.close().await;
    found
}

/// The providers that this command has features for, by their names.
const FEATURES: [&str; 2] = ["redis", "rabbitmq"];

async fn connect(registry: &Registry, url: &ProviderUrl, env: &Env) -> Result<Arc<dyn QueueProvider>> {
    let Err(missing) = registry.find(url) else { return registry.connect(url, env).await };
    let ours = FEATURES.iter().find(|feature| missing.message().contains(&format!("`{feature}`")));
    let Some(feature) = ours else { return Err(missing) };
    let message =
        format!("{}; to have it in this command: `cargo build -p queue-cli --features {feature}`", missing.message());
    Err(Error::new(ErrorCode::Config, message).at("connect"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_provider_that_was_not_built_in_is_refused_with_the_feature_to_build() {
        let mut registry = Registry::new();
        registry.absent(&["redis"], "build `queue-manager` with the Cargo feature `redis`").absent(&["sqs"], "`sqs`");
        for (url, expected) in [("redis://me:hunter2@h", Some("--features redis`")), ("sqs://me:hunter2@h", None)] {
            let refused = connect(&registry, &ProviderUrl::parse(url).unwrap(), &Env::system()).await.unwrap_err();
            assert_eq!(refused.code(), ErrorCode::Config);
            assert_eq!(expected.is_some(), refused.message().contains("--features"), "{refused}");
            assert!(refused.message().contains(expected.unwrap_or("`sqs`")), "{refused}");
            assert!(!refused.to_string().contains("hunter2"));
        }
    }
}
