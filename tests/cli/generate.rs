//! What packages install beside the program.

use super::{Folder, assert_error, visipruner};

#[test]
fn completions_know_subcommands_and_flags() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let ran = visipruner(&["generate", "completions", shell]);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{shell}");
        for part in ["calibrate", "rank-layers", "mmproj"] {
            assert!(ran.stdout.contains(part), "{shell}: {part}");
        }
    }
    assert_error(&["generate", "completions", "dos"], &["'dos'", "powershell"]);
}

#[test]
fn every_subcommand_that_help_shows_has_a_page() {
    let folder = Folder::new();
    let path = folder.path("");
    let ran = visipruner(&["generate", "man", path.to_str().expect("text")]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));

    let help = visipruner(&["-h"]).stdout;
    let commands = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .map_while(|line| line.strip_prefix("  "))
        .filter_map(|line| line.split(' ').next().filter(|word| !word.is_empty()))
        .filter(|command| *command != "help");
    let mut pages: Vec<_> = commands
        .map(|command| format!("visipruner-{command}.1"))
        .collect();
    pages.push("visipruner.1".to_owned());
    pages.sort();
    assert!(pages.contains(&"visipruner-run.1".to_owned()), "{pages:?}");

    let entries = std::fs::read_dir(&path).expect("the folder");
    let mut written: Vec<_> = entries
        .map(|entry| entry.expect("a file").file_name().into_string().expect("text"))
        .collect();
    written.sort();
    assert_eq!(written, pages);

    let run = std::fs::read_to_string(folder.path("visipruner-run.1")).expect("a page");
    assert!(
        run.contains("\n\\fB\\-ngl\\fR, \\fB\\-\\-n\\-gpu\\-layers\\fR"),
        "{run}"
    );
}

#[test]
fn a_folder_that_is_not_there_is_an_error() {
    let nowhere = Folder::new().path("nowhere");
    assert_error(
        &["generate", "man", nowhere.to_str().expect("text")],
        &["man page", "nowhere"],
    );
}
