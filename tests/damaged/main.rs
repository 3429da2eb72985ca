//! Projectors of every kind with something wrong in them: what the check of the header lets pass is loaded and encodes a
//! picture, or is an error; the process lives on. A process of its own tries them, so that one that dies is noticed.
//!
//! `VISIPRUNER_DAMAGED` sets how many files of each kind are tried (`make damaged`).
#![cfg(all(feature = "native", target_os = "linux"))]

#[path = "../common/mod.rs"]
mod common;
mod mutate;

use std::io::Write as _;
use std::ops::ControlFlow::Continue;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::process::{ARGUMENTS, complaint};
use mutate::Original;
use serde_json::Value;
use visipruner::engine::{Error, Image, Model, ModelOptions, Projector, ProjectorOptions};

/// Files of each kind.
const N_FILES: usize = 60;

/// Memory and seconds that a process of tries may take: far more than any of them needs.
const LIMITS: [&str; 2] = ["--as=12884901888", "--cpu=1800"];

/// What a process is to try: a family, the first file, and one past the last.
const TASK: &str = "VISIPRUNER_DAMAGED_TASK";

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transformers/fixtures")
}

fn families() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(fixtures()) else {
        return Vec::new();
    };
    let folders = entries.map(|entry| entry.expect("an entry").path());
    let mut names: Vec<String> = folders
        .filter(|path| path.join("mmproj.gguf").is_file())
        .map(|path| path.file_name().expect("a name").to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn no_damaged_projector_ends_the_process() {
    let n_files = std::env::var("VISIPRUNER_DAMAGED").map_or(N_FILES, |n| n.parse().expect("a number"));
    let families = families();
    if families.is_empty() {
        eprintln!("NOT TESTED: the package comes without {}", fixtures().display());
        return;
    }
    let mut died = Vec::new();
    for family in &families {
        let mut counts = [0; N_OUTCOMES];
        let mut next = 0;
        while next < n_files {
            let output = try_files(family, next, n_files);
            let said = String::from_utf8_lossy(&output.stdout);
            for (i, outcome) in OUTCOMES.iter().enumerate() {
                counts[i] += said.matches(&format!(" {outcome}\n")).count();
            }
            if output.status.success() && said.contains("1 passed") {
                break;
            }
            let last = said
                .lines()
                .filter_map(|line| line.strip_prefix("file "))
                .next_back();
            let last: usize = last
                .and_then(|line| line.split(' ').next()?.parse().ok())
                .unwrap_or_else(|| panic!("{family}: {}\n{said}", complaint(&output, 3)));
            eprintln!("{family} {last}: {}", complaint(&output, 3));
            died.push(format!("{family} {last}"));
            next = last + 1;
        }
        eprintln!(
            "{family}: {}",
            OUTCOMES
                .iter()
                .zip(counts)
                .map(|(what, n)| format!("{n} {what}"))
                .collect::<Vec<_>>()
                .join(", ")
        );
        // what is refused at once tries nothing
        assert!(
            counts[1] + counts[2] > n_files / 10,
            "{family}: hardly a file passed the check: {counts:?}"
        );
    }
    assert!(
        died.is_empty(),
        "{} of {} files ended the process: {}",
        died.len(),
        families.len() * n_files,
        died.join(", ")
    );
}

fn try_files(family: &str, first: usize, end: usize) -> Output {
    Command::new("prlimit")
        .args(LIMITS)
        .arg(std::env::current_exe().expect("this program"))
        .args(ARGUMENTS)
        .env(TASK, format!("{family} {first} {end}"))
        .output()
        .expect("prlimit (package util-linux) starts")
}

const N_OUTCOMES: usize = 3;
/// Refused by our check; refused by llama.cpp; no fault found.
const OUTCOMES: [&str; N_OUTCOMES] = ["refused", "not loaded", "encoded"];

#[test]
#[ignore = "what it tries may end its process: run in one of its own by no_damaged_projector_ends_the_process"]
fn in_a_process_of_its_own() {
    let task = std::env::var(TASK).expect("a task");
    let [family, first, end] = task.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{task:?} is no task");
    };
    let [first, end] = [first, end].map(|n| n.parse::<usize>().expect("a number"));
    println!(); // ends what the harness has begun
    let folder = fixtures().join(family);
    let meta = std::fs::read_to_string(folder.join("meta.json")).expect("a file");
    let meta: Value = serde_json::from_str(&meta).expect("JSON");
    let file = |key: &str| folder.join(meta[key].as_str().expect("a path"));
    let model =
        Model::load(file("model"), &ModelOptions::default(), |_| Continue(())).expect("the model loads");
    let original = Original::read(&file("mmproj"));
    let damaged = tempfile::tempdir().expect("a folder");
    let path = damaged.path().join("mmproj.gguf");
    for n in first..end {
        original.write_damaged(n as u64, &path);
        // the line is there even if the process is not there any more
        print!("file {n}");
        std::io::stdout().flush().expect("prints");
        println!(" {}", OUTCOMES[outcome(&path, &model)]);
    }
}

fn outcome(path: &Path, model: &Model) -> usize {
    let options = ProjectorOptions {
        n_threads: Some(1),
        ..ProjectorOptions::default()
    };
    match Projector::load(path, model, &options, |_| Continue(())) {
        Err(error @ (Error::File { .. } | Error::ProjectorWidth { .. })) => {
            assert!(!error.to_string().is_empty());
            0
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            1
        }
        Ok(mut projector) => {
            let pixels = (0..40 * 30 * 3).map(|i| (i * 7 % 256) as u8).collect();
            let picture = Image::from_rgb8(40, 30, pixels).expect("a picture");
            match projector.encode(&picture) {
                Ok(_) => 2,
                Err(_) => 1,
            }
        }
    }
}
