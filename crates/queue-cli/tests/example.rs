//! The shipped example does what the README says of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod bench;

use bench::{Bench, statuses};
use serde_json::json;

#[test]
fn two_hundred_orders_are_handled_within_seconds() {
    let bench = Bench::new();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/run");
    let (file, script) = (format!("{example}/orders.ndjson"), format!("'{example}/handle-order.sh'"));
    let ended = bench.run(&[&file, "--exec", &script, "--results", "rows", "--dead", "dead"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.starts_with("200 lines in "), "{ended:?}");
    assert!(ended.took.as_secs() < 10, "{ended:?}");
    let mut rows = bench.rows("rows");
    rows.sort_by_key(|row| row["line"].as_u64());
    assert_eq!(statuses(&rows), [("completed", 196), ("dead", 2), ("duplicate", 1), ("invalid", 1)].into());
    assert_eq!((&rows[65]["status"], &rows[65]["attempts"]), (&json!("dead"), &json!(3)));
    assert_eq!(rows[65]["error"]["detail"], "order 1066 is not paid (attempt 3 of 3)");
    assert_eq!((&rows[132]["status"], &rows[132]["attempts"]), (&json!("dead"), &json!(1)));
    assert_eq!((&rows[42]["status"], &rows[98]["status"]), (&json!("duplicate"), &json!("invalid")));
    assert_eq!((&rows[9]["attempts"], &rows[9]["result"]["paid_by"]), (&json!(2), &json!("voucher")));
    assert_eq!(bench.rows("dead").len(), 3);
}
