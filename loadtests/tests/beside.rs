//! Side-by-side runs with the servers that are always there.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod tool;

use tool::{load, number};

#[test]
fn a_server_that_is_not_there_has_a_row_that_says_so() {
    let (code, report) = load("memory -c 20 --hold 100ms --only link-tls --towline /nowhere/towline");
    assert_eq!(code, Some(1), "no figure for Towline: {report:#}");
    let row = |at: usize, key: &str| report.pointer(&format!("/tables/0/rows/{at}/{key}")).unwrap().clone();
    assert_eq!(row(0, "server"), "towline");
    assert!(row(0, "note").as_str().unwrap().starts_with("/nowhere/towline is not there"), "{report:#}");
    assert_eq!(row(1, "server"), "tokio-rustls alone");
    assert_eq!(number(&report, "/tables/0/rows/1/figures/2"), 20.0, "connections that stood: {report:#}");
}
