//! The suite of tracking stores on a real Redis with an append-only file that is always synced: a crash of the store is a kill of the
//! server, and a new connection after it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod server;

use std::sync::Arc;

use queue_core::{Env, store::TrackingStore};
use queue_redis::{RedisOptions, RedisTracking};
use queue_testkit::{
    conformance::tracking::run_tracking_suite,
    harness::{Ending, Factory, Restart, StoreUnderTest},
};
use server::Server;

fn main() {
    let arguments = libtest_mimic::Arguments::from_args();
    server::require();
    let factory = Factory::new("redis", false, || async {
        let server = Arc::new(Server::start().expect("a server of its own"));
        let options = RedisOptions::new(server.url());
        let open = move || {
            let options = options.clone();
            async move {
                let store = RedisTracking::connect(&options, &Env::system()).await?;
                Ok(Arc::new(store) as Arc<dyn TrackingStore>)
            }
        };
        let store = open().await?;
        let restart: Restart = Arc::new(move |ending| {
            let (server, open) = (Arc::clone(&server), open.clone());
            Box::pin(async move {
                if ending == Ending::Crash {
                    server.restart().expect("it starts again");
                }
                open().await
            })
        });
        Ok(Arc::new(StoreUnderTest { store, env: Env::system(), restart: Some(restart) }))
    });
    libtest_mimic::run(&arguments, run_tracking_suite(&factory)).exit();
}
