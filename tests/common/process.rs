//! Tests that run in a process of their own: what they try may end it, or its settings are made when it starts.

use std::process::Output;

/// What the test program is started with, to run the test `in_a_process_of_its_own` alone.
pub const ARGUMENTS: [&str; 5] = [
    "--exact",
    "in_a_process_of_its_own",
    "--ignored",
    "--nocapture",
    "--test-threads=1",
];

/// How a process ended, and the last `n` lines of what it said.
pub fn complaint(output: &Output, n: usize) -> String {
    let words = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = words.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(n)..];
    format!("{}: {}", output.status, last.join(" | "))
}
