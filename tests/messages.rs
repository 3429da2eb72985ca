//! The library does not know what the command line calls its flags: no message of it names one.

use std::fs;
use std::path::{Path, PathBuf};

/// Every file of the library.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        // tests run programs, whose flags they name
        if path.is_dir() && !path.ends_with("src/cli") && !path.ends_with("tests") {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !path.ends_with("src/main.rs")
        {
            found.push(path);
        }
    }
}

/// `--name`, or `-n` in brackets or quotes.
fn names_a_flag(line: &str) -> bool {
    let long = |rest: &str| rest.starts_with(|c: char| c.is_ascii_lowercase());
    let short = |rest: &str| {
        let name: String = rest.chars().take_while(char::is_ascii_lowercase).collect();
        let ends = rest[name.len()..].starts_with([')', '`', '\'']);
        (1..=3).contains(&name.len()) && ends
    };
    let is_long = line.split("--").skip(1).any(long);
    let is_short = ["(-", "`-", "'-"]
        .iter()
        .any(|start| line.split(start).skip(1).any(short));
    is_long || is_short
}

#[test]
fn no_message_of_the_library_names_a_flag() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    assert!(files.len() > 100, "{files:?}");
    for path in files {
        let text = fs::read_to_string(&path).expect("reads");
        let messages = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in messages {
            assert!(!names_a_flag(line), "{}: {line}", path.display());
        }
    }
}

#[test]
fn flags_are_recognised() {
    for line in ["give it as --mmproj", "the context size (-c)", "set `-ngl` to 0"] {
        assert!(names_a_flag(line), "{line}");
    }
    for line in [
        "a -- b",
        "<!-- a comment",
        "x - y",
        "n--",
        "(-x + 1)",
        "system-ui, -apple-system",
    ] {
        assert!(!names_a_flag(line), "{line}");
    }
}
