//! What bad input gets: one line that says what was wrong and what to do, and exit code 1.

use std::io::Cursor;

use image::ImageFormat;

use super::common::random_model::RandomProjector;
use super::{
    Folder, MMPROJ, MODEL, PICTURE, assert_error, assert_failed, png, run_with, visipruner, with_stdin,
};

#[test]
fn without_a_subcommand_it_says_what_to_try() {
    assert_error::<&str>(&[], &["visipruner demo", "--help"]);
    assert_error(&["answer"], &["unrecognized subcommand 'answer'"]);
}

#[test]
fn flags_that_are_unknown_or_lack_a_value() {
    assert_error(&["run"], &["--model <GGUF>", "--prompt <TEXT>", "see --help"]);
    assert_error(&run_with(&["-p"]), &["a value is required for '--prompt <TEXT>'"]);
    assert_error(
        &run_with(&["-p", "x", "--layer-treshold", "1"]),
        &["unexpected argument '--layer-treshold'", "'--layer-threshold'"],
    );
    assert_error(
        &run_with(&["-p", "x", "-v", "-q"]),
        &["'--verbose' cannot be used with '--quiet'"],
    );
    assert_error(
        &run_with(&["-p", "x", "--raw", "--chat-template", "{{x}}"]),
        &["'--raw'", "'--chat-template <JINJA|FILE>'"],
    );
}

#[test]
fn values_out_of_range_name_the_range() {
    for (args, parts) in [
        (["--temp", "-1"], ["--temp", "from 0 to 100"]),
        (["--temp", "warm"], ["--temp", "from 0 to 100"]),
        (["--top-p", "1.5"], ["--top-p", "from 0 to 1"]),
        (["--min-p", "nan"], ["--min-p", "from 0 to 1"]),
        (["--top-k", "-3"], ["--top-k", "-3"]),
        (["-n", "-2"], ["--n-predict", "-1.."]),
        (["--seed", "4294967296"], ["--seed", "-1..=4294967295"]),
        (["-t", "0"], ["--threads", "1..=512"]),
        (["-b", "0"], ["--batch-size", "1.."]),
        (["-ub", "0"], ["--ubatch-size", "1.."]),
        (["-ngl", "many"], ["--n-gpu-layers", "or all"]),
        (["-fa", "maybe"], ["--flash-attn", "on, off, auto"]),
        (["-ctk", "q3"], ["--cache-type-k", "q8_0"]),
        (
            ["--vision-encoder", "hf"],
            ["--vision-encoder", "reference, upstream"],
        ),
        (["--policy", "best"], ["--policy", "off, visipruner, fixed, vtw"]),
        (
            ["--policy", "visipruner+divprune"],
            ["--policy", "do not go together"],
        ),
        (["--rank-layers", "3,x"], ["--rank-layers", "0 or more"]),
        (["--budget", "half"], ["--budget", "12.5%"]),
        (["--stages", "low"], ["--stages", "shallow, middle, deep"]),
        (["--layer0", "all"], ["--layer0", "merge, half, none"]),
        (["--shallow-mask", "x"], ["--shallow-mask", "sink, skip"]),
        (["--exit-count", "x"], ["--exit-count", "cumulative, consecutive"]),
        (["--keep", "-1"], ["--keep", "not a budget"]),
        (
            ["--layer-threshold", "1.5"],
            ["layer_threshold is 1.5", "from -1 to 1"],
        ),
        (
            ["--exit-threshold", "-2"],
            ["exit_threshold is -2", "from -1 to 1"],
        ),
        (
            ["--tokens-threshold", "-0.1"],
            ["tokens_threshold is -0.1", "0 or more"],
        ),
        (["--exit-layers", "0"], ["exit_layers is 0", "1 or more"]),
    ] {
        assert_error(&run_with(&[&["-p", "x"], &args[..]].concat()), &parts);
    }
}

#[test]
fn policy_fields_are_checked_against_the_model() {
    let n_layer = layers_of_the_model();
    let [last, past, after] = [n_layer - 1, n_layer, n_layer + 1].map(|il| il.to_string());
    let schedule = ["--policy", "fixed", "--keep", "3", "--exit-from", &after];
    for (field, more) in [("shallow-mid-layer", &[][..]), ("fusion-layer", &schedule)] {
        let flag = format!("--{field}");
        let args = run_with(&[&["-p", "x", &flag, &past], more].concat());
        let said = format!("{} is {past}", field.replace('-', "_"));
        assert_error(&args, &[&said, &format!("to {last}")]);
    }
    assert_error(&run_with(&["-p", "x", "--stages", "deep"]), &["mid_deep_layer"]);
    assert_error(
        &run_with(&["-p", "x", "--policy", "fixed", "--keep", "3"]),
        &["fusion_layer is missing"],
    );
    assert_error(
        &run_with(&["-p", "x", "--policy", "off", "--keep", "3"]),
        &["keep belongs to the policies fixed, fastv", "off"],
    );
    assert_error(
        &run_with(&["-p", "x", "--policy", "pyramiddrop"]),
        &[
            "rank_layers is 7,15,23",
            &format!("from 0 to {last}"),
            "--rank-layers",
        ],
    );
}

fn layers_of_the_model() -> usize {
    let ran = visipruner(&["info", "-m", MODEL, "--json"]);
    let info: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    info["model"]["n_layer"].as_u64().expect("a number") as usize
}

#[test]
fn policy_files() {
    let folder = Folder::new();
    let unknown = folder.file("unknown.toml", b"policy = \"visipruner\"\nlayer_treshold = 0.9\n");
    assert_error(
        &run_with(&["-p", "x", "--policy-file", &unknown]),
        &["unknown.toml", "line 2", "layer_treshold"],
    );
    let missing = folder.path("missing.toml");
    assert_error(
        &run_with(&["-p", "x", "--policy-file", missing.to_str().expect("text")]),
        &["missing.toml"],
    );
}

#[test]
fn files_that_are_no_models() {
    let folder = Folder::new();
    let empty = folder.file("empty.gguf", b"");
    let text = folder.file(
        "text.gguf",
        b"<html>404</html> and more than a header's worth of bytes",
    );
    let model = std::fs::read(MODEL).expect("the model");
    let cut = folder.file("cut.gguf", &model[..model.len() / 2]);
    let header = folder.file("header.gguf", &model[..1000]);
    for (path, part) in [
        ("nowhere.gguf", "no such file"),
        (&empty, "empty"),
        (&text, "not a GGUF"),
        (&cut, "incomplete"),
        (&header, "incomplete"),
    ] {
        for args in [vec!["info", "-m", path], vec!["run", "-p", "x", "-m", path]] {
            assert_error(&args, &[part, path]);
        }
        assert_error(&["info", "-m", MODEL, "--mmproj", path], &[part, path]);
    }
    assert_error(&["info", "-m", MMPROJ], &["projector", "(--mmproj)"]);
    assert_error(&["info", "-m", PICTURE], &["a PNG image", "(--image)"]);
    assert_error(&["info", "-m", MODEL, "--mmproj", MODEL], &[MODEL]);
}

#[test]
fn a_projector_of_another_model() {
    let folder = Folder::new();
    let other = folder.path("mmproj-other.gguf");
    RandomProjector::new(1, 256).write(&other);
    let other = other.to_str().expect("text");
    for args in [&["run", "-p", "x", "--image", PICTURE][..], &["info"]] {
        let args = [args, &["-m", MODEL, "--mmproj", other]].concat();
        assert_error(&args, &[other, "256", "192"]);
    }
}

#[test]
fn a_projector_that_is_missing_is_looked_for_beside_the_model() {
    for args in [&["run", "-p", "x"][..], &["info"]] {
        let args = [args, &["-m", MODEL, "--image", PICTURE]].concat();
        assert_error(&args, &["--mmproj", "tiny-llava-shapes-mmproj-f16.gguf"]);
    }
}

#[test]
fn pictures_and_their_places_must_agree() {
    let numbers =
        |markers: &str, images: &str| [format!("{markers} image marker"), format!("{images} image(s)")];
    for (args, [markers, images]) in [
        (
            vec!["-p", "<image><image> x", "--image", PICTURE],
            numbers("2", "1"),
        ),
        (
            vec!["-p", "<image> x", "--image", PICTURE, "--image", PICTURE],
            numbers("1", "2"),
        ),
        (vec!["-p", "<__media__> x"], numbers("1", "0")),
        (vec!["--raw", "-p", "x", "--image", PICTURE], numbers("0", "1")),
    ] {
        assert_error(&run_with(&args), &[&markers, &images]);
    }
}

#[cfg(feature = "native")]
#[test]
fn a_prompt_that_does_not_fit_names_the_flag_of_the_context() {
    assert_error(
        &run_with(&["-p", "x", "--image", PICTURE, "-c", "32"]),
        &["the context holds", "set the context size to at least", "(-c)"],
    );
}

#[test]
fn pictures_that_cannot_be_read() {
    let folder = Folder::new();
    let png_bytes = png(64, 64);
    let jpeg = std::fs::read(PICTURE)
        .map(|bytes| image::load_from_memory(&bytes).expect("decodes"))
        .expect("a picture");
    let mut jpeg_bytes = Cursor::new(Vec::new());
    jpeg.to_rgb8()
        .write_to(&mut jpeg_bytes, ImageFormat::Jpeg)
        .expect("encodes");
    let jpeg_bytes = jpeg_bytes.into_inner();
    for (path, part) in [
        ("nowhere.png".to_owned(), "cannot read the image"),
        (env!("CARGO_MANIFEST_DIR").to_owned(), "directory"),
        (folder.file("empty.png", b""), "empty"),
        (
            folder.file("text.png", b"not a picture, however it is called"),
            "not an image",
        ),
        (
            folder.file("cut.png", &png_bytes[..png_bytes.len() / 2]),
            "cut short",
        ),
        (
            folder.file("cut.jpg", &jpeg_bytes[..jpeg_bytes.len() / 2]),
            "cut short",
        ),
    ] {
        assert_error(&run_with(&["-p", "x", "--image", &path]), &[part, &path]);
    }
    let ran = with_stdin(&run_with(&["-p", "x", "--image", "-"]), b"text");
    assert_failed(&ran, &["standard input", "not an image"]);
    assert_error(
        &run_with(&["-p", "x", "--image", "-", "--image", "-"]),
        &["--image - was given 2 times"],
    );
}

#[test]
fn a_report_that_cannot_be_written_is_noticed_before_the_work() {
    assert_error(
        &run_with(&["-p", "x", "--report", "/no/such/folder/r.json"]),
        &["the report", "/no/such/folder"],
    );
    assert_error(
        &run_with(&["-p", "x", "--report", "/"]),
        &["the report /", "directory"],
    );
}

#[cfg(feature = "native")]
#[test]
fn a_template_that_fails_names_the_flag_that_gives_another() {
    assert_error(
        &run_with(&[
            "-q",
            "-p",
            "x",
            "--chat-template",
            "{{ raise_exception('only with tools') }}",
        ]),
        &["the chat template failed", "only with tools", "(--chat-template)"],
    );
}

#[test]
fn chat_templates_that_are_no_templates() {
    assert_error(
        &run_with(&["-p", "x", "--chat-template", "vicuna"]),
        &["--chat-template", "vicuna"],
    );
}

#[cfg(not(feature = "native"))]
#[test]
fn without_an_engine_it_says_so() {
    assert_error(&["demo"], &["no engine", "native"]);
    assert_error(&run_with(&["-p", "x"]), &["no engine", "native"]);
}
