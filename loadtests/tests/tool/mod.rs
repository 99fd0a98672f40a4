//! Runs the binary and reads its report.
#![allow(unreachable_pub, reason = "shared by the test binaries")]

use std::process::Command;

use serde_json::Value;

/// Runs `towline-load` with a JSON report on standard output.
pub fn load(line: &str) -> (Option<i32>, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_towline-load"))
        .args(line.split_whitespace())
        .args(["--json", "-", "--quiet"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}\n{errors}"));
    (output.status.code(), report)
}

pub fn number(report: &Value, path: &str) -> f64 {
    report.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {path} in {report:#}"))
}
