//! Sessions across lost connections, from seeds.

/// Whatever is cut and dropped: each request runs at most once, each push arrives once and in order, and
/// each call ends, with its whole answer or an error that tells the truth about its execution.
#[test]
fn requests_run_once_and_pushes_arrive_once() {
    let continued: u64 = (0..300).map(crate::world::run).sum();
    assert!(continued > 100, "uploads went on {continued} times only");
}
