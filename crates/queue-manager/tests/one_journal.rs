//! A journal belongs to one provider at a time: a second one of the same process is told so, and nothing is left open.

#![cfg(feature = "journal")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use queue_core::{Env, ErrorCode, QueueName, Timestamp, job::JobKind, scheduler::NewJob};
use queue_manager::{ManagerBuilder, QueueManager};

fn builder(file: &std::path::Path, text: &str) -> ManagerBuilder {
    std::fs::write(file, text).unwrap();
    QueueManager::builder().env(Env::seeded(Timestamp::from_millis(1_700_000_000_000), 7)).file(file)
}

#[tokio::test]
async fn two_providers_of_one_journal_are_refused_by_name_and_leave_it_free() {
    let dir = tempfile::tempdir().unwrap();
    let (file, journal) = (dir.path().join("queues.toml"), dir.path().join("jobs"));
    std::os::unix::fs::symlink(&journal, dir.path().join("the same jobs")).unwrap();
    let (one, again) = (journal.display().to_string(), dir.path().join("the%20same%20jobs").display().to_string());
    for other in [&one, &again] {
        let text = format!(
            "[providers.one]\nurl = 'memory:?journal={one}'\n[providers.two]\nurl = 'memory:?journal={other}'\n\
             [routing]\ndefault = 'one'\n"
        );
        let error = builder(&file, &text).connect().await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::StoreInUse, "{error}");
        assert!(error.message().starts_with("`providers."), "whose: {error}");
        assert!(error.message().contains("jobs` is open already"), "which: {error}");
        std::fs::create_dir_all(&journal).unwrap();
    }

    // Two managers of one process are no better off.
    let url = format!("memory:?journal={one}");
    let first = QueueManager::connect(&url).await.unwrap();
    let error = QueueManager::connect(&url).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::StoreInUse, "{error}");
    let mail = QueueName::from_static("mail");
    first.enqueue_raw("mail", NewJob::new(JobKind::from_static("k"), "{}")).await.unwrap();
    first.close().await.unwrap();
    let next = QueueManager::connect(&url).await.unwrap();
    assert_eq!(next.queues().await.unwrap(), [mail]);
    next.close().await.unwrap();
}
