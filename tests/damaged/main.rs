//! Projectors and language models of every kind with something wrong in them: what the check of the header lets pass is
//! loaded and encodes a picture or answers a question, or is an error; the process lives on. A process of its own tries
//! them, so that one that dies is noticed.
//!
//! `VISIPRUNER_DAMAGED` sets how many files of each kind are tried (`make damaged`).
#![cfg(all(feature = "native", target_os = "linux"))]

#[path = "../common/mod.rs"]
mod common;
mod mutate;

use std::io::Write as _;
use std::ops::ControlFlow::Continue;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::process::{ARGUMENTS, complaint};
use mutate::{Original, What};
use serde_json::Value;
use visipruner::engine::{
    Error, Image, Model, ModelOptions, Part, Projector, ProjectorOptions, Prompt, Request, Session,
    SessionOptions,
};
use visipruner::policy::PolicyConfig;
use visipruner::policy::config::VisiPrunerConfig;

/// Files of each kind.
const N_FILES: usize = 60;

/// Memory and seconds that a process of tries may take: far more than any of them needs.
const LIMITS: [&str; 2] = ["--as=12884901888", "--cpu=1800"];

/// What a process is to try: whether projectors or models, a family, the first file, and one past the last.
const TASK: &str = "VISIPRUNER_DAMAGED_TASK";

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transformers/fixtures")
}

/// Those with a file of this name of their own.
fn families(file: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(fixtures()) else {
        return Vec::new();
    };
    let folders = entries.map(|entry| entry.expect("an entry").path());
    let mut names: Vec<String> = folders
        .filter(|path| path.join(file).is_file())
        .map(|path| path.file_name().expect("a name").to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn no_damaged_projector_ends_the_process() {
    none_ends_the_process(What::Projector, &families("mmproj.gguf"));
}

#[test]
fn no_damaged_language_model_ends_the_process() {
    none_ends_the_process(What::Model, &families("model.gguf"));
}

fn none_ends_the_process(what: What, families: &[String]) {
    let n_files = std::env::var("VISIPRUNER_DAMAGED").map_or(N_FILES, |n| n.parse().expect("a number"));
    if families.is_empty() {
        eprintln!("NOT TESTED: the package comes without {}", fixtures().display());
        return;
    }
    let died: Vec<String> = families
        .iter()
        .flat_map(|family| those_that_end_the_process(what, family, n_files))
        .collect();
    assert!(
        died.is_empty(),
        "{} of {} files ended the process: {}",
        died.len(),
        families.len() * n_files,
        died.join(", ")
    );
}

fn those_that_end_the_process(what: What, family: &str, n_files: usize) -> Vec<String> {
    let mut died = Vec::new();
    let mut counts = [0; N_OUTCOMES];
    let mut next = 0;
    while next < n_files {
        let output = try_files(what, family, next, n_files);
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
        eprintln!("{what:?} {family} {last}: {}", complaint(&output, 3));
        died.push(format!("{family} {last}"));
        next = last + 1;
    }
    let in_words = OUTCOMES
        .iter()
        .zip(counts)
        .map(|(outcome, n)| format!("{n} {outcome}"));
    eprintln!("{what:?} {family}: {}", in_words.collect::<Vec<_>>().join(", "));
    // what is refused at once tries nothing
    assert!(
        counts[1] + counts[2] > n_files / 10,
        "{family}: hardly a file passed the check: {counts:?}"
    );
    died
}

fn try_files(what: What, family: &str, first: usize, end: usize) -> Output {
    Command::new("prlimit")
        .args(LIMITS)
        .arg(std::env::current_exe().expect("this program"))
        .args(ARGUMENTS)
        .env(TASK, format!("{what:?} {family} {first} {end}"))
        .output()
        .expect("prlimit (package util-linux) starts")
}

const N_OUTCOMES: usize = 3;
/// Refused by our check; refused by llama.cpp; no fault found.
const OUTCOMES: [&str; N_OUTCOMES] = ["refused", "not loaded", "works"];

#[test]
#[ignore = "what it tries may end its process: run in one of its own by the tests above"]
fn in_a_process_of_its_own() {
    let task = std::env::var(TASK).expect("a task");
    let [what, family, first, end] = task.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{task:?} is no task");
    };
    let [first, end] = [first, end].map(|n| n.parse::<usize>().expect("a number"));
    println!(); // ends what the harness has begun
    let folder = fixtures().join(family);
    if what == "Model" {
        let original = Original::read(What::Model, &folder.join("model.gguf"));
        return try_each(&original, first..end, outcome_of_model);
    }
    let meta = std::fs::read_to_string(folder.join("meta.json")).expect("a file");
    let meta: Value = serde_json::from_str(&meta).expect("JSON");
    let model = folder.join(meta["model"].as_str().expect("a path"));
    let model = Model::load(model, &ModelOptions::default(), |_| Continue(())).expect("the model loads");
    let original = Original::read(What::Projector, &folder.join("mmproj.gguf"));
    try_each(&original, first..end, |path| outcome_of_projector(path, &model));
}

fn try_each(original: &Original, files: Range<usize>, outcome: impl Fn(&Path) -> Result<(), Error>) {
    let damaged = tempfile::tempdir().expect("a folder");
    let path = damaged.path().join("damaged.gguf");
    for n in files {
        original.write_damaged(n as u64, &path);
        // the line is there even if the process is not there any more
        print!("file {n}");
        std::io::stdout().flush().expect("prints");
        let outcome = match outcome(&path) {
            Ok(()) => 2,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                usize::from(!matches!(
                    error,
                    Error::File { .. } | Error::ProjectorWidth { .. }
                ))
            }
        };
        println!(" {}", OUTCOMES[outcome]);
    }
}

fn outcome_of_projector(path: &Path, model: &Model) -> Result<(), Error> {
    let options = ProjectorOptions {
        n_threads: Some(1),
        ..ProjectorOptions::default()
    };
    let mut projector = Projector::load(path, model, &options, |_| Continue(()))?;
    let pixels = (0..40 * 30 * 3).map(|i| (i * 7 % 256) as u8).collect();
    projector.encode(&Image::from_rgb8(40, 30, pixels)?)?;
    Ok(())
}

/// Text goes through the layers at once, and through each of them by itself.
fn outcome_of_model(path: &Path) -> Result<(), Error> {
    let model = Model::load(path, &ModelOptions::default(), |_| Continue(()))?;
    for policy in [
        PolicyConfig::Off,
        PolicyConfig::VisiPruner(VisiPrunerConfig::default()),
    ] {
        let options = SessionOptions {
            policy,
            n_ctx: Some(256),
            n_threads: Some(1),
            ..SessionOptions::default()
        };
        let mut session = match Session::new(&model, options) {
            // the layers of what the file says it is cannot be run in ranges
            Err(Error::NoCut { .. } | Error::Policy(_)) => continue,
            session => session?,
        };
        let request = Request {
            n_predict: 3,
            ..Request::new(Prompt::Raw(vec![Part::Text(
                "What is in the picture?".to_owned(),
            )]))
        };
        session.generate(None, &request, |_| Continue(()))?;
    }
    Ok(())
}
