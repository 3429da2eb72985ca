//! The store under interruptions: files cut at every byte.

use std::fs;

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::eval::record::tests::record;

fn settings() -> Settings {
    Settings::from([
        ("model".to_owned(), json!({"name": "tiny.gguf", "bytes": 1234})),
        ("n_predict".to_owned(), json!(24)),
    ])
}

/// A store with two policies and three answers.
fn filled(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("store.jsonl");
    let mut store = Store::open(&path, &settings()).unwrap();
    store.add_policy("dense", &json!({"policy": "off"})).unwrap();
    store.add(record("q1", "dense", "red")).unwrap();
    store.add(record("q2", "dense", "blue \"sky\"\nline")).unwrap();
    store
        .add_policy("random 8", &json!({"policy": "random", "keep": 8}))
        .unwrap();
    store.add(record("q1", "random 8", "green")).unwrap();
    path
}

#[test]
fn what_was_written_is_there_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = filled(&folder);
    let mut store = Store::open(&path, &settings()).unwrap();
    assert!(store.has("q1", "dense") && store.has("q2", "dense") && store.has("q1", "random 8"));
    assert!(!store.has("q2", "random 8"));
    assert_eq!(
        store.contents().records[1],
        record("q2", "dense", "blue \"sky\"\nline")
    );
    store.add(record("q1", "dense", "another answer")).unwrap();
    assert_eq!(store.contents().records.len(), 3);
    assert_eq!(&Contents::read(&path).unwrap(), store.contents());
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 6);
}

/// Wherever the file ends, all whole lines count, and going on gives the file that an uninterrupted run gives.
#[test]
fn a_run_killed_after_any_byte_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let whole = fs::read(filled(&folder)).unwrap();
    let path = folder.path().join("cut.jsonl");
    for n_bytes in 0..=whole.len() {
        fs::write(&path, &whole[..n_bytes]).unwrap();
        let mut store = Store::open(&path, &settings()).unwrap();
        let n_lines = whole[..n_bytes].iter().filter(|&&byte| byte == b'\n').count();
        // a line that lacks only its line break is whole
        let n_lines = n_lines + usize::from(whole.get(n_bytes) == Some(&b'\n'));
        let n_answers = [0, 0, 0, 1, 2, 2, 3][n_lines];
        assert_eq!(store.contents().records.len(), n_answers, "after {n_bytes} bytes");
        store.add_policy("dense", &json!({"policy": "off"})).unwrap();
        store.add(record("q1", "dense", "red")).unwrap();
        store.add(record("q2", "dense", "blue \"sky\"\nline")).unwrap();
        store
            .add_policy("random 8", &json!({"policy": "random", "keep": 8}))
            .unwrap();
        store.add(record("q1", "random 8", "green")).unwrap();
        drop(store);
        assert_eq!(fs::read(&path).unwrap(), whole, "after {n_bytes} bytes");
    }
}

#[test]
fn reading_leaves_out_an_unfinished_line_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = filled(&folder);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 5]).unwrap();
    assert_eq!(Contents::read(&path).unwrap().records.len(), 2);
    assert_eq!(fs::read(&path).unwrap().len(), whole.len() - 5);
}

#[test]
fn other_settings_are_an_error_that_names_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = filled(&folder);
    let mut other = settings();
    other.insert("n_predict".to_owned(), json!(48));
    other.insert("seed".to_owned(), json!(1));
    let message = Store::open(&path, &other).unwrap_err().to_string();
    assert!(
        message.contains("n_predict: 24 then, 48 now") && message.contains("seed: not set then, 1 now"),
        "{message}"
    );
    assert!(!message.contains("tiny.gguf"), "{message}");
}

#[test]
fn a_label_stands_for_one_policy() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(filled(&folder), &settings()).unwrap();
    store
        .add_policy("random 8", &json!({"keep": 8, "policy": "random"}))
        .unwrap();
    let message = store
        .add_policy("random 8", &json!({"policy": "random", "keep": 9}))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("random 8") && message.contains("\"keep\":9"),
        "{message}"
    );
    store
        .add_policy("random 9", &json!({"policy": "random", "keep": 9}))
        .unwrap();
    assert_eq!(store.contents().policies.len(), 3);
}

#[test]
fn other_files_are_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("thesis.txt");
    for text in ["My thesis", "My thesis\n", "{\"kind\":\"answer\"}\n", "{}"] {
        fs::write(&path, text).unwrap();
        assert!(
            matches!(Store::open(&path, &settings()), Err(EvalError::NotAStore { .. })),
            "{text}"
        );
        assert!(
            matches!(Contents::read(&path), Err(EvalError::NotAStore { .. })),
            "{text}"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn damage_in_the_middle_is_named_by_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = filled(&folder);
    let text = fs::read_to_string(&path)
        .unwrap()
        .replacen("\"text\":\"red\"", "\"text\":\"red", 1);
    fs::write(&path, &text).unwrap();
    let message = Store::open(&path, &settings()).unwrap_err().to_string();
    assert!(message.contains("line 3 is damaged"), "{message}");
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    fs::write(&path, text.replace("\"version\":1", "\"version\":9")).unwrap();
    assert!(Contents::read(&path).is_err());
}

#[test]
fn one_run_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = filled(&folder);
    let store = Store::open(&path, &settings()).unwrap();
    assert!(matches!(
        Store::open(&path, &settings()),
        Err(EvalError::InUse { .. })
    ));
    drop(store);
    assert!(Store::open(&path, &settings()).is_ok());
}

/// Numbers whose last bit does not survive being written and read are the same setting all the same.
#[test]
fn any_number_is_a_setting() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.jsonl");
    let numbers: Vec<f64> = (1..3000).map(|i| 1e-7 * f64::from(i).powi(3) / 7.0).collect();
    let settings = Settings::from([("numbers".to_owned(), json!(numbers))]);
    for _ in 0..2 {
        let mut store = Store::open(&path, &settings).unwrap();
        store.add_policy("p", &json!({"numbers": numbers})).unwrap();
        assert_eq!(store.contents().policies.len(), 1);
    }
}
