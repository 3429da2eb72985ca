//! Files that cannot be written to their end: an error that names the file, nothing half written, and what was there before
//! is there still.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Folder, MMPROJ, MODEL, PICTURE, Ran, assert_failed};

const QUESTIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo/questions.json");

/// Runs the program where a file takes no more than so many blocks, of 512 bytes or of 1024. As on a full disk, a write beyond
/// that is an error; the signal that comes along, which a full disk does not send, is ignored.
fn with_little_room(n_blocks: u32, args: &[&str], stdin: &str) -> Ran {
    let script = format!("trap '' XFSZ; ulimit -f {n_blocks}; printf '{stdin}' | exec \"$@\"");
    let output = Command::new("sh")
        .args(["-c", &script, "sh"])
        .arg(assert_cmd::cargo::cargo_bin!("visipruner"))
        .args(args)
        .output()
        .expect("a shell runs");
    Ran::from(output)
}

/// What `args` writes to a file of this name, which was there before or not.
#[track_caller]
fn assert_nothing_lost(n_blocks: u32, name: &str, args: &dyn Fn(&str) -> Vec<String>) {
    for before in [Some("before"), None] {
        let folder = Folder::new();
        let path = folder.path(name);
        if let Some(before) = before {
            fs::write(&path, before).expect("writes");
        }
        let args = args(path.to_str().expect("text"));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let ran = with_little_room(n_blocks, &args, "");
        assert_eq!(ran.code, Some(1), "{args:?}: {}", ran.stderr);
        let error = ran.stderr.lines().last().unwrap_or_default();
        assert!(
            error.starts_with("error: ") && error.contains(name),
            "{args:?}: {}",
            ran.stderr
        );
        assert_eq!(fs::read_to_string(&path).ok().as_deref(), before, "{args:?}");
        let left = names(path.parent().expect("a folder"));
        assert_eq!(left.len(), before.iter().len(), "{args:?} left {left:?}");
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect()
}

fn asked(subcommand: &str, more: &[&str]) -> Vec<String> {
    let common = [subcommand, "-q", "-t", "1", "-m", MODEL, "--mmproj", MMPROJ];
    common.iter().chain(more).map(|&arg| arg.to_owned()).collect()
}

#[test]
fn a_report() {
    assert_nothing_lost(0, "report.json", &|path| {
        asked(
            "run",
            &["--image", PICTURE, "-p", "What?", "-n", "1", "--report", path],
        )
    });
}

#[test]
fn a_quantized_model() {
    assert_nothing_lost(1000, "small.gguf", &|path| {
        [
            "quantize", "-q", "-t", "1", "-m", MODEL, "--type", "Q8_0", "--force", "-o", path,
        ]
        .map(str::to_owned)
        .to_vec()
    });
}

/// The projector, 1.5 MiB, is written first; the model, 3.7 MiB, once that is complete. Neither is left without the other.
#[test]
fn a_model_with_random_weights() {
    let files = [
        (100, "synthetic-tiny-mmproj-F16.gguf"),
        (3200, "synthetic-tiny-Q4_K_M.gguf"),
    ];
    for (n_blocks, name) in files {
        let folder = Folder::new();
        let path = folder.path("out");
        fs::create_dir(&path).expect("a folder");
        let args = ["synth", "--shape", "tiny", "-o", path.to_str().expect("text")];
        let ran = with_little_room(n_blocks, &args, "");
        assert_failed(&ran, &[name]);
        assert_eq!(names(&path), [""; 0], "{}", ran.stderr);
    }
}

#[test]
fn a_policy_and_what_comes_with_it() {
    assert_nothing_lost(0, "found.policy.toml", &|path| {
        asked(
            "calibrate",
            &[
                "--questions",
                QUESTIONS,
                "--limit",
                "4",
                "--max-runs",
                "10",
                "--force",
                "-o",
                path,
            ],
        )
    });
}

#[test]
fn an_inspection() {
    assert_nothing_lost(8, "report.html", &|path| {
        asked("inspect", &["--image", PICTURE, "-p", "What?", "-o", path])
    });
}

#[test]
fn a_benchmark_and_its_chart() {
    for (flag, name) in [("--report", "bench.json"), ("--plot", "bench.svg")] {
        assert_nothing_lost(0, name, &|path| {
            asked(
                "bench",
                &[
                    "-r",
                    "1",
                    "-n",
                    "1",
                    "--n-text",
                    "20",
                    "--schedule",
                    "3/5/7",
                    flag,
                    path,
                ],
            )
        });
    }
}

/// Answers that are there stay; the one that did not fit is not half there.
#[test]
fn a_store_of_answers() {
    let folder = Folder::new();
    let path = folder.path("answers.jsonl");
    let store = path.to_str().expect("text");
    let args = asked(
        "eval",
        &[
            "--questions",
            QUESTIONS,
            "--limit",
            "12",
            "--policy",
            "off",
            "--out",
            store,
        ],
    );
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let ran = with_little_room(4, &args, "");
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("answers.jsonl"), "{}", ran.stderr);
    let left = fs::read_to_string(&path).expect("a file");
    assert!(left.ends_with('\n'), "{left}");
    for line in left.lines() {
        serde_json::from_str::<serde_json::Value>(line).expect("a whole line");
    }
    let n_left = left.lines().count();
    assert!(n_left > 2, "{left}");
    let ran = with_little_room(1 << 20, &args, "");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let whole = fs::read_to_string(&path).expect("a file");
    assert!(whole.starts_with(&left) && whole.lines().count() > n_left);
}

#[test]
fn a_conversation() {
    let folder = Folder::new();
    let path = folder.file("c.json", b"before");
    let args = asked("chat", &[]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let said = format!("hello\\n/save {path}\\n");
    let ran = with_little_room(0, &args, &said);
    assert!(ran.stderr.contains("c.json"), "{}", ran.stderr);
    assert_eq!(
        fs::read_to_string(&path).expect("a file"),
        "before",
        "{}",
        ran.stderr
    );
}

/// Standard output on a full disk.
#[test]
fn an_answer() {
    let script = "exec \"$@\" > /dev/full";
    let args = asked("run", &["--image", PICTURE, "-p", "What?", "-n", "1"]);
    let output = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(assert_cmd::cargo::cargo_bin!("visipruner"))
        .args(args)
        .output()
        .expect("a shell runs");
    let stderr = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("error: ") && stderr.contains("No space left"),
        "{stderr}"
    );
}
