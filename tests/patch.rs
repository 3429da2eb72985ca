//! The part of the build that applies patches to llama.cpp: strict where the source is pinned.

#[path = "../build/patch.rs"]
mod patch;

use std::collections::BTreeMap;

use patch::Placement::{self, Exact, UniqueContext};

const FILE: &str = "src/a.cpp";

/// Ten lines, `line 1` to `line 10`.
fn ten_lines() -> String {
    (1..=10).map(|i| format!("line {i}\n")).collect()
}

/// Changes line 5 and adds one after line 9.
const DIFF: &str = "\
From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001
Subject: [PATCH] a: change two places

Why: to see it.
---
 src/a.cpp | 3 ++-
 1 file changed, 2 insertions(+), 1 deletion(-)

diff --git a/src/a.cpp b/src/a.cpp
index 0000000000000000000000000000000000000000..1111111111111111111111111111111111111111 100644
--- a/src/a.cpp
+++ b/src/a.cpp
@@ -4,3 +4,3 @@ some function
 line 4
-line 5
+line five
 line 6
@@ -9,2 +9,3 @@ some other function
 line 9
+between
 line 10
";

fn apply(diff: &str, text: Option<&str>, placement: Placement) -> Result<BTreeMap<String, String>, String> {
    let mut changed = BTreeMap::new();
    patch::apply(diff, placement, &mut changed, |_| Ok(text.map(str::to_owned)))?;
    Ok(changed)
}

#[test]
fn applies_every_hunk_at_its_line() {
    let changed = apply(DIFF, Some(&ten_lines()), Exact).expect("applies");
    let expected = ten_lines()
        .replace("line 5", "line five")
        .replace("line 10", "between\nline 10");
    assert_eq!(changed[FILE], expected);
}

#[test]
fn refuses_drifted_lines_and_names_the_place() {
    let drifted = format!("one more\n{}", ten_lines());
    let error = apply(DIFF, Some(&drifted), Exact).expect_err("drifted");
    assert!(
        error.starts_with("src/a.cpp: hunk 2 of 2 does not fit at line 9"),
        "{error}"
    );
    assert!(error.contains("expected 'line 9', found 'line 8'"), "{error}");

    let changed = apply(DIFF, Some(&drifted), UniqueContext).expect("its context is unique");
    assert!(changed[FILE].contains("line 4\nline five\nline 6\n"));
}

#[test]
fn refuses_changed_context_wherever_it_is() {
    let edited = ten_lines().replace("line 6", "line six");
    for placement in [Exact, UniqueContext] {
        let error = apply(DIFF, Some(&edited), placement).expect_err("context differs");
        assert!(error.contains("hunk 1 of 2"), "{error}");
    }
}

#[test]
fn refuses_context_that_fits_in_several_places() {
    let twice = ten_lines().repeat(2);
    let changed = apply(DIFF, Some(&twice), UniqueContext).expect("both hunks fit at their lines");
    assert!(changed[FILE].starts_with("line 1\nline 2\nline 3\nline 4\nline five\n"));
    let drifted = format!("one more\n{twice}");
    let error = apply(DIFF, Some(&drifted), UniqueContext).expect_err("ambiguous");
    assert!(error.contains("fits in several places"), "{error}");
}

#[test]
fn refuses_a_file_that_ends_before_the_hunk() {
    let error = apply(DIFF, Some("line 1\n"), Exact).expect_err("too short");
    assert!(error.contains("the file ends before"), "{error}");
}

#[test]
fn makes_new_files_only_where_there_are_none() {
    let diff = "--- /dev/null\n+++ b/src/new.cpp\n@@ -0,0 +1,2 @@\n+one\n+two\n";
    let changed = apply(diff, None, Exact).expect("applies");
    assert_eq!(changed["src/new.cpp"], "one\ntwo\n");
    assert!(
        apply(diff, Some("present\n"), Exact)
            .expect_err("exists")
            .contains("exists already")
    );
    assert!(
        apply(DIFF, None, Exact)
            .expect_err("absent")
            .contains("there is no such file")
    );
}

#[test]
fn later_patches_see_what_earlier_ones_did() {
    let mut changed = apply(DIFF, Some(&ten_lines()), Exact).expect("applies");
    let second = "--- a/src/a.cpp\n+++ b/src/a.cpp\n@@ -5 +5 @@\n-line five\n+line V\n";
    patch::apply(second, Exact, &mut changed, |_| {
        panic!("the file was changed already")
    })
    .expect("applies");
    assert!(changed[FILE].contains("line V\n"));
}

#[test]
fn keeps_a_missing_newline_at_the_end_of_the_file() {
    let diff =
        "--- a/src/a.cpp\n+++ b/src/a.cpp\n@@ -1,2 +1,2 @@\n-one\n+ONE\n two\n\\ No newline at end of file\n";
    assert_eq!(
        apply(diff, Some("one\ntwo"), Exact).expect("applies")[FILE],
        "ONE\ntwo"
    );
    assert!(apply(diff, Some("one\ntwo\n"), Exact).is_err());
}

#[test]
fn refuses_what_it_cannot_read() {
    for (diff, reason) in [
        ("no diff at all\n", "no changes in it"),
        ("@@ -1 +1 @@\n-a\n+b\n", "hunk without a file"),
        ("--- a/x\n+++ b/x\n@@ -1,3 +1,3 @@\n a\n", "malformed hunk"),
        ("--- a/x\n+++ b/x\n@@ one @@\n a\n", "malformed hunk"),
        ("rename from x\n", "is not supported"),
        ("deleted file mode 100644\n", "is not supported"),
    ] {
        let error = patch::parse(diff).expect_err(diff);
        assert!(error.contains(reason), "{diff}: {error}");
    }
}
