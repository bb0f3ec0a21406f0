//! What runs hold open. Alone in its program: it counts the descriptors of the whole process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]
#![cfg(target_os = "linux")]

mod machine;

use std::{future::pending, time::Duration};

use machine::{limited, sh};
use queue_process::{DESCRIPTORS_PER_RUN, Execution, Program};

fn open() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test]
async fn a_run_holds_few_descriptors_and_leaves_none() {
    let run = |program: Program, input: &'static [u8]| async move {
        drop(program.run(Execution::new(input), pending()).await);
    };
    // What the runtime opens once.
    run(sh("sleep 0.02"), b"x").await;
    let before = open();
    for _ in 0..10 {
        run(Program::new("true"), b"small").await;
        run(Program::new("true"), &[b'x'; 200_000]).await;
        run(sh("sleep 0.01; echo $0"), b"").await;
        run(limited(sh("sleep 84"), 3), b"").await;
        run(Program::new("/no/such/program"), b"x").await;
        run(Program::new("true").directory("/no/such/directory"), b"x").await;
    }
    assert_eq!(open(), before);

    let program = sh("sleep 0.3");
    let input = bytes::Bytes::from(vec![b'x'; 200_000]);
    let runs = (0..20).map(|_| program.run(Execution::new(input.clone()), pending()));
    let looked = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        open()
    };
    let (_, held) = tokio::join!(futures_util::future::join_all(runs), looked);
    assert!(held - before <= 20 * DESCRIPTORS_PER_RUN as usize, "{held} of {before}");
    assert_eq!(open(), before);
}
