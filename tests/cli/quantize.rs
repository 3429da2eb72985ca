//! `visipruner quantize` on the model that ships.

use std::path::Path;

use visipruner::gguf::{GgmlType, Gguf};

use super::{Folder, MMPROJ, MODEL, Ran, assert_error, visipruner};

fn quantize(more: &[&str]) -> Ran {
    visipruner(&[&["quantize", "-t", "1"], more].concat())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

fn n_of(gguf: &Gguf, ty: GgmlType) -> usize {
    gguf.tensors().iter().filter(|tensor| tensor.ty == ty).count()
}

/// Rows of 192 and 384 are no whole blocks of 256: the numbers are those of docs/policies.md.
#[test]
fn a_copy_beside_the_model_and_what_is_in_it() {
    let folder = Folder::new();
    let model = folder.path("tiny-f16.gguf");
    std::fs::copy(MODEL, &model).expect("copies");
    let ran = quantize(&["-m", text(&model), "--type", "q4_k_m"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let copy = folder.path("tiny-Q4_K_M.gguf");
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert!(
        lines[0].starts_with(&format!("model      {} (2.8", text(&copy))),
        "{}",
        ran.stdout
    );
    assert!(lines[0].ends_with("bits per weight)"), "{}", ran.stdout);
    assert_eq!(lines[1..], ["tensors    61 in q5_0, 11 in q8_0, 21 in f32"]);
    assert!(
        ran.stderr.starts_with("warning: 72 matrices") && ran.stderr.contains("no multiple of 256"),
        "{}",
        ran.stderr
    );
    let gguf = Gguf::open(&copy).expect("opens");
    assert_eq!(
        (n_of(&gguf, GgmlType::Q5_0), n_of(&gguf, GgmlType::Q8_0)),
        (61, 11)
    );

    let again = ["-m", text(&model), "--type", "Q4_K_M"];
    assert_error(
        &[&["quantize"], &again[..]].concat(),
        &["tiny-Q4_K_M.gguf is there already", "--force"],
    );
    let ran = quantize(&[&again[..], &["--force", "-q"]].concat());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
}

#[test]
fn a_copy_of_another_name() {
    let folder = Folder::new();
    let copy = folder.path("x.gguf");
    let ran = quantize(&["-m", MODEL, "--type", "Q8_0", "-o", text(&copy)]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    let gguf = Gguf::open(&copy).expect("opens");
    assert_eq!(
        (n_of(&gguf, GgmlType::Q8_0), n_of(&gguf, GgmlType::F32)),
        (72, 21)
    );
    let info = visipruner(&["info", "-m", text(&copy)]);
    assert!(info.stdout.contains("Q8_0"), "{}", info.stdout);
    assert_error(
        &["quantize", "-m", text(&copy), "--type", "Q4_0"],
        &["x.gguf to Q4_0", "quantized already", "--allow-requantize"],
    );
}

#[test]
fn what_cannot_be_quantized() {
    let to_q4 = |model: &str, parts: &[&str]| {
        assert_error(&["quantize", "-m", model, "--type", "Q4_0"], parts);
    };
    to_q4(MMPROJ, &["image projector", "give the model"]);
    to_q4("nowhere.gguf", &["no such file"]);
    assert_error(&["quantize", "-m", MODEL], &["--type <TYPE>"]);
    assert_error(
        &["quantize", "-m", MODEL, "--type", "IQ1_S"],
        &["'IQ1_S'", "F32, F16, BF16, Q8_0"],
    );
    assert_error(
        &["quantize", "-m", MODEL, "--type", "F32", "-o", MODEL, "--force"],
        &["the model itself"],
    );
}
