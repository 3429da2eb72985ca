//! `visipruner inspect` on the model that ships.

use std::fs;

use serde_json::Value;

use super::{Folder, MMPROJ, MODEL, PICTURE, assert_error, visipruner};

fn inspect_with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["inspect", "-t", "1", "-m", MODEL, "--mmproj", MMPROJ], more].concat()
}

#[test]
fn a_report_with_its_parts() {
    let folder = Folder::new();
    let [html, json, parts] =
        ["report.html", "numbers.json", "figures"].map(|name| folder.path(name).display().to_string());
    let ran = visipruner(&inspect_with(&[
        "--image",
        PICTURE,
        "-p",
        "What shape is the blue object?",
        "-o",
        &html,
        "--json",
        &json,
        "--parts",
        &parts,
        "--words",
        "3",
        "--compare",
        "fastv:rank_layers=1,keep=9",
        "--compare",
        "pyramiddrop:rank_layers=1,4,7,keep=50%,25%,5",
        "--compare",
        "divprune:budget=8",
    ]));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(
        ran.stdout.starts_with("off: square\nvisipruner: square\n"),
        "{}",
        ran.stdout
    );

    let page = fs::read_to_string(&html).expect("the report");
    assert!(page.starts_with("<!DOCTYPE html>") && page.contains("What shape is the blue object?"));

    let numbers: Value = serde_json::from_str(&fs::read_to_string(&json).expect("numbers")).expect("JSON");
    let layers = numbers["layers"].as_array().expect("layers");
    assert_eq!(layers.len(), 10);
    for layer in layers {
        for list in ["attention", "norm", "cos", "value_l1"] {
            assert_eq!(layer[list].as_array().map(Vec::len), Some(64), "{list}");
        }
        assert_eq!(layer["top"].as_array().map(Vec::len), Some(3));
    }
    // The model says after its last layer what it answers.
    assert_eq!(layers[9]["top"][0][0], " square");
    assert_eq!(numbers["policy"]["layers"][5]["stage"], "middle");

    let others = numbers["others"].as_array().expect("others");
    let kept = |i: usize| others[i]["kept"].as_array().map(Vec::len);
    assert_eq!([kept(0), kept(1), kept(2)], [Some(9), Some(5), Some(8)]);
    let after: Vec<&Value> = others.iter().map(|other| &other["after_layer"]).collect();
    assert_eq!(after, [&Value::from(1), &Value::from(7), &Value::Null]);

    let n_files = fs::read_dir(&parts).expect("figures").count();
    assert_eq!(n_files, 2 + 2 * 10 + 4);
    assert!(folder.path("figures/kept-divprune-budget-8.png").is_file());
}

#[test]
fn what_cannot_be_inspected_is_refused_before_anything_runs() {
    let folder = Folder::new();
    let html = folder.path("report.html").display().to_string();
    let asked = |more: &[&'static str]| {
        let more: Vec<String> = more.iter().map(|&part| part.to_owned()).collect();
        let base = inspect_with(&["-p", "Why?", "-o", &html])
            .into_iter()
            .map(str::to_owned);
        base.chain(more).collect::<Vec<_>>()
    };
    assert_error(&asked(&[]), &["give one with --image"]);
    assert_error(
        &asked(&["--image", PICTURE, "--compare", "fastv:keep=1,colour=2"]),
        &["colour"],
    );
    assert_error(
        &asked(&["--image", PICTURE, "--cache-type-v", "q8_0"]),
        &["type_v is q8_0", "f16"],
    );
    assert_error(
        &asked(&["--image", PICTURE, "--json", "/nowhere/numbers.json"]),
        &["/nowhere"],
    );
    assert!(!std::path::Path::new(&html).exists());
}
