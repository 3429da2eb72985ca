//! A KV cache that would have to grow beyond the memory of the process.
#![cfg(target_os = "linux")]

use std::process::Command;

use super::*;

/// Two tokens each.
const N_LETTERS: usize = 100_000;

/// Bytes of address space that the growth does not get: far less than it needs, far more than anything else.
const SPARE: u64 = 128 << 20;

#[test]
fn a_growth_that_fails_leaves_a_session_that_answers() {
    let own = std::env::current_exe().expect("this program");
    let child = Command::new(own)
        .args([
            "--exact",
            "memory::with_little_memory",
            "--ignored",
            "--nocapture",
        ])
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&child.stdout);
    let complained = String::from_utf8_lossy(&child.stderr);
    assert!(
        child.status.success() && said.contains("1 passed"),
        "{said}\n{complained}"
    );
}

#[test]
#[ignore = "limits the memory of its process: run in one of its own by a_growth_that_fails_leaves_a_session_that_answers"]
fn with_little_memory() {
    let mut pair = Pair::new(Arch::Llama);
    let mut session = pair.session(SessionOptions {
        n_ctx: Some(1 << 18),
        remember: false,
        type_k: KvType::F32,
        type_v: KvType::F32,
        flash_attn: FlashAttention::Off,
        ..with_policy(fixed(2, 5, 5))
    });
    let before = session.answer(&mut pair.projector);
    let long = Request {
        prompt: marked(&format!("<image>{}", " a".repeat(N_LETTERS))),
        ..question()
    };
    let long = engine::encode(&pair.model, Some(&mut pair.projector), &long, ignore)
        .expect("it is encoded")
        .expect("it is not stopped");

    limit_memory();
    let refused = session.generate_encoded(&long, &question(), ignore);
    assert!(matches!(refused, Err(Error::OutOfMemory { .. })), "{refused:?}");
    let after = session.answer(&mut pair.projector);
    assert_eq!(after.text, before.text);
    assert_eq!(after.report.logits, before.report.logits);
}

/// To what the process has now and [`SPARE`].
fn limit_memory() {
    let sizes = std::fs::read_to_string("/proc/self/statm").expect("sizes in pages");
    let n_pages: u64 = sizes
        .split(' ')
        .next()
        .and_then(|n| n.parse().ok())
        .expect("a number");
    let limited = Command::new("prlimit")
        .args([
            format!("--pid={}", std::process::id()),
            format!("--as={}", n_pages * 4096 + SPARE),
        ])
        .status()
        .expect("prlimit (package util-linux) starts");
    assert!(limited.success());
}
