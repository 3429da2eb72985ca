//! The command line as a user meets it: help, errors, exit codes, and answers of the model that ships.
#![cfg(feature = "cli")]

#[cfg(feature = "native")]
mod answers;
#[cfg(feature = "native")]
mod bench;
#[cfg(feature = "native")]
mod calibrate;
#[cfg(all(target_os = "linux", feature = "native"))]
mod changed_file;
#[cfg(feature = "native")]
mod chat;
#[path = "../common/mod.rs"]
mod common;
mod errors;
#[cfg(feature = "native")]
mod eval;
#[cfg(all(target_os = "linux", feature = "native"))]
mod full_disk;
mod generate;
mod hub;
#[cfg(feature = "native")]
mod inspect;
#[cfg(feature = "native")]
mod quantize;
#[cfg(feature = "server")]
mod serve;
#[cfg(feature = "server")]
mod served;
#[cfg(feature = "native")]
mod split;
mod synth;
#[cfg(all(unix, feature = "native"))]
mod terminal;

use std::io::Cursor;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use image::{ImageFormat, Rgb, RgbImage};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny-llava-shapes-f16.gguf");
const MMPROJ: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/models/tiny-llava-shapes-mmproj-f16.gguf"
);
const PICTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo/shapes.png");

/// What a command said and how it ended.
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<std::process::Output> for Ran {
    fn from(output: std::process::Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("is text");
        Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

fn visipruner<S: AsRef<str>>(args: &[S]) -> Ran {
    with_stdin(args, &[])
}

fn with_stdin<S: AsRef<str>>(args: &[S], stdin: &[u8]) -> Ran {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("visipruner"));
    // The width that help is wrapped at.
    command.env("COLUMNS", "100");
    let output = command
        .args(args.iter().map(AsRef::as_ref))
        .write_stdin(stdin)
        .output()
        .expect("starts");
    let ran = Ran::from(output);
    Ran {
        stderr: without_gpu_warning(ran.stderr),
        ..ran
    }
}

/// What a build for GPUs says first on a machine without one is no matter of other tests than its own.
fn without_gpu_warning(stderr: String) -> String {
    #[cfg(feature = "native")]
    if let Some(message) = visipruner::engine::missing_gpu() {
        return stderr.replacen(&format!("warning: {message}\n"), "", 1);
    }
    stderr
}

/// The arguments that every run needs, and more. Runs beside each other share the machine's cores.
fn run_with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["run", "-t", "1", "-m", MODEL, "--mmproj", MMPROJ], more].concat()
}

/// Asserts that a command fails with exit code 1 and one line that holds all of `parts`.
#[track_caller]
fn assert_error<S: AsRef<str>>(args: &[S], parts: &[&str]) {
    assert_failed(&visipruner(args), parts);
}

#[track_caller]
fn assert_failed(ran: &Ran, parts: &[&str]) {
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{}", ran.stderr);
    let errors: Vec<_> = ran.stderr.lines().collect();
    let [error] = errors.as_slice() else {
        panic!("not one line: {errors:?}");
    };
    assert!(error.starts_with("error: "), "{error}");
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
}

#[cfg(all(unix, feature = "native"))]
#[track_caller]
fn press_ctrl_c(child: &std::process::Child) {
    send("INT", child);
}

/// By the shell's own `kill`: small systems have no program of that name.
#[cfg(all(unix, feature = "native"))]
#[track_caller]
fn send(signal: &str, child: &std::process::Child) {
    let kill = format!("kill -{signal} {}", child.id());
    let killed = std::process::Command::new("sh").args(["-c", &kill]).status();
    assert!(killed.expect("a shell runs").success());
}

/// The signal that a program was killed by.
#[cfg(all(unix, feature = "native"))]
fn killed_by(status: std::process::ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

/// A folder for the files of one test.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).expect("writes");
        path.to_str().expect("is text").to_owned()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::from_pixel(width, height, Rgb([200, 30, 30]))
        .write_to(&mut bytes, ImageFormat::Png)
        .expect("encodes");
    bytes.into_inner()
}

#[test]
fn help_of_every_subcommand() {
    for (name, args) in [
        ("help", vec!["--help"]),
        ("help_short", vec!["-h"]),
        ("help_run", vec!["run", "--help"]),
        ("help_run_short", vec!["run", "-h"]),
        ("help_chat", vec!["chat", "--help"]),
        ("help_demo", vec!["demo", "-h"]),
        ("help_info", vec!["info", "--help"]),
        ("help_bench", vec!["bench", "-h"]),
        ("help_eval", vec!["eval", "--help"]),
        ("help_inspect", vec!["inspect", "--help"]),
        ("help_calibrate", vec!["calibrate", "--help"]),
        ("help_serve", vec!["serve", "--help"]),
        ("help_quantize", vec!["quantize", "--help"]),
        ("help_synth", vec!["synth", "--help"]),
    ] {
        let ran = visipruner(&args);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
        insta::assert_snapshot!(name, ran.stdout);
    }
}

#[test]
fn version() {
    let ran = visipruner(&["--version"]);
    assert_eq!(ran.code, Some(0));
    assert_eq!(
        ran.stdout,
        concat!("visipruner ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn info_says_what_a_model_is() {
    let ran = visipruner(&["info", "-m", MODEL, "--mmproj", MMPROJ]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    for part in [
        "tiny-llava-shapes",
        "llama",
        "F16",
        "policy.toml",
        "stages middle,deep",
    ] {
        assert!(ran.stdout.contains(part), "{part:?} is not in\n{}", ran.stdout);
    }
    let ran = visipruner(&[
        "info", "-m", MODEL, "--mmproj", MMPROJ, "--image", PICTURE, "--json",
    ]);
    let info: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(info["model"]["arch"], "llama");
    assert_eq!(info["policy"]["policy"], "visipruner");
    assert_eq!(
        info["images"][0]["n_tokens"],
        info["projector"]["n_tokens_per_image"]
    );
    assert!(
        info["projector"]["n_tokens_per_image"]
            .as_u64()
            .is_some_and(|n| n > 0)
    );
    assert!(
        info["policy_file"]
            .as_str()
            .is_some_and(|path| Path::new(path).ends_with("tiny-llava-shapes.policy.toml"))
    );
}
