//! `visipruner bench` on the model that ships. What is asserted holds on any machine: counts, not times.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Folder, MMPROJ, MODEL, assert_error, visipruner};

/// A benchmark of the shipped model with few rounds and few tokens.
fn bench_with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [
        &[
            "bench", "-t", "1", "-m", MODEL, "--mmproj", MMPROJ, "-r", "2", "-n", "3",
        ],
        more,
    ]
    .concat()
}

#[track_caller]
fn results(more: &[&str]) -> Value {
    let ran = visipruner(&[&bench_with(more)[..], &["--json"]].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    serde_json::from_str(&ran.stdout).expect("one JSON object")
}

fn variants(case: &Value) -> BTreeMap<String, &Value> {
    let variants = case["variants"].as_array().expect("variants");
    let labelled = |variant: &'_ Value| variant["label"].as_str().expect("a label").to_owned();
    variants
        .iter()
        .map(|variant| (labelled(variant), variant))
        .collect()
}

#[test]
fn schedules_compute_the_rows_they_say_and_hold_less() {
    let results = results(&["--schedule", "3/5/7", "--schedule", "9/64/10", "--n-text", "20"]);
    let case = &results["cases"][0];
    assert_eq!(
        (&case["n_rows"], &case["n_vision"]),
        (&Value::from(84), &Value::from(64))
    );
    let variants = variants(case);
    assert_eq!(variants.keys().collect::<Vec<_>>(), ["3/5/7", "9/64/10", "dense"]);

    let work = &variants["3/5/7"]["work"];
    let rows: Vec<u64> = [[84; 4].to_vec(), [25; 3].to_vec(), [20; 3].to_vec()].concat();
    assert_eq!(work["rows"], Value::from(rows.clone()));
    let ideal = 840.0 / rows.iter().sum::<u64>() as f64;
    assert!((work["ideal_by_rows"].as_f64().expect("a number") - ideal).abs() < 1e-9);
    let speedup = variants["3/5/7"]["prefill_speedup"].as_f64().expect("a number");
    let efficiency = work["efficiency_by_rows"].as_f64().expect("a number");
    assert!((efficiency - speedup / ideal).abs() < 1e-9);

    let held = |label: &str| variants[label]["work"]["kv_held_bytes"].as_u64().expect("bytes");
    assert_eq!(held("9/64/10"), held("dense"));
    assert_eq!(held("3/5/7") * 840, held("dense") * rows.iter().sum::<u64>());
    for variant in variants.values() {
        for what in ["prefill_ms", "decode_ms_per_token"] {
            assert_eq!(variant[what]["samples"].as_array().map(Vec::len), Some(2));
            assert!(variant[what]["median"].as_f64() > Some(0.0));
        }
    }
    assert_eq!(variants["9/64/10"]["same_tokens"], Value::from(true));
}

#[test]
fn without_a_schedule_the_model_s_own_policy_and_an_average_one_are_measured() {
    let results = results(&["--n-images", "1,2"]);
    let cases = results["cases"].as_array().expect("cases");
    assert_eq!(cases.len(), 2);
    for (case, n_images) in cases.iter().zip(1..) {
        assert_eq!(case["n_vision"], Value::from(64 * n_images));
        assert_eq!(case["n_rows"], Value::from(64 * n_images + 48));
        let variants = variants(case);
        assert_eq!(
            variants.keys().collect::<Vec<_>>(),
            ["4/10/7", "dense", "visipruner"]
        );
    }
}

#[test]
fn the_table_and_the_files() {
    let folder = Folder::new();
    let report = folder.path("bench.json");
    let ran = visipruner(&bench_with(&["--report", report.to_str().expect("text")]));
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    for part in [
        "tiny-llava-shapes: llama, 10 layers",
        "112 rows",
        "dense",
        "efficiency",
    ] {
        assert!(ran.stdout.contains(part), "{part:?} is not in\n{}", ran.stdout);
    }
    let written: Value = serde_json::from_slice(&std::fs::read(report).expect("a file")).expect("JSON");
    assert_eq!(written["n_layer"], Value::from(10));
}

#[test]
fn what_cannot_be_measured_is_said_before_the_work() {
    assert_error(&bench_with(&["--schedule", "3/5"]), &["--schedule", "F/K/E"]);
    assert_error(&bench_with(&["--schedule", "3/5/11"]), &["exit_from", "10"]);
    assert_error(&bench_with(&["-r", "0"]), &["--repetitions", "1 or more"]);
    assert_error(
        &bench_with(&["--report", "/no/such/folder/x.json"]),
        &["no folder"],
    );
    assert_error(&["bench", "-m", MODEL], &["--mmproj"]);
    assert_error(
        &bench_with(&["--stock", "/no/such/program"]),
        &["/no/such/program", "could not be measured"],
    );
}

/// A stand-in for stock llama.cpp that goes away after its first round.
#[cfg(unix)]
#[test]
fn what_was_measured_before_an_error_is_shown_and_written() {
    use std::os::unix::fs::PermissionsExt;

    let folder = Folder::new();
    let stock = folder.file(
        "stock",
        b"#!/bin/sh\necho encoded\nread line\necho generated 1 2 3\necho times 5.0 2.0\n",
    );
    std::fs::set_permissions(&stock, std::fs::Permissions::from_mode(0o755)).expect("may be run");
    let [report, plot] = ["b.json", "b.svg"].map(|name| folder.path(name));
    let args = [
        &bench_with(&["-r", "3", "--schedule", "3/5/7", "--stock", &stock])[..],
        &["--report", report.to_str().expect("text")],
        &["--plot", plot.to_str().expect("text")],
    ]
    .concat();
    let ran = visipruner(&args);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let error = format!("error: {stock} could not be measured: it has ended");
    assert!(ran.stderr.starts_with(&error), "{}", ran.stderr);
    assert!(
        ran.stdout.contains("3/5/7") && ran.stdout.contains("stock"),
        "{}",
        ran.stdout
    );
    assert!(plot.is_file());
    let written = std::fs::read_to_string(&report).expect("a report");
    let written: Value = serde_json::from_str(&written).expect("JSON");
    let case = &written["cases"][0];
    assert_eq!(case["n_rounds"], 1);
    for (label, variant) in variants(case) {
        let samples = variant["prefill_ms"]["samples"].as_array().expect("samples");
        assert_eq!(samples.len(), 1, "{label}");
    }
    assert_eq!(variants(case)["stock"]["prefill_ms"]["median"], 5.0);
}
