//! What the fuzz targets begin with, and what they have found: every input comes to what it should. `make fuzz` goes on from
//! there.
#![cfg(all(feature = "lab", feature = "pictures"))]

#[path = "../fuzz/src/lib.rs"]
mod fuzz;

use std::fs;
use std::path::Path;

fn each_seed(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(target);
    let mut seeds: Vec<_> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty());
    for seed in seeds {
        eprintln!("{}", seed.display()); // the last one is the one that fails
        check(&fs::read(&seed).expect("reads"));
    }
}

#[test]
fn headers_of_gguf_files() {
    each_seed("gguf", fuzz::gguf::check);
}

#[test]
fn models_in_several_files() {
    each_seed("split", fuzz::split::check);
}

#[test]
fn pictures() {
    each_seed("pictures", fuzz::pictures::check);
}

#[test]
fn policy_files() {
    each_seed("policies", fuzz::policies::check);
}

#[test]
fn question_files_and_stores() {
    each_seed("questions", fuzz::questions::check);
}

#[cfg(feature = "native")]
#[test]
fn chat_templates() {
    each_seed("templates", fuzz::templates::check);
}

#[cfg(feature = "server")]
#[test]
fn requests_over_http() {
    each_seed("http", fuzz::http::check);
}
