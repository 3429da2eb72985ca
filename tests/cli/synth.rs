//! `visipruner synth`.

use super::{Folder, assert_error, visipruner};

#[test]
fn a_pair_that_info_takes() {
    let folder = Folder::new();
    let path = folder.path("new folder");
    let out = path.to_str().expect("is text");
    let args = [
        "synth", "--shape", "tiny", "--type", "q8_0", "--layers", "3", "-o", out,
    ];
    let ran = visipruner(&args);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    let model = format!("{out}/synthetic-tiny-3-layers-Q8_0.gguf");
    let mmproj = format!("{out}/synthetic-tiny-mmproj-F16.gguf");
    let command = format!("visipruner bench -m '{model}' --mmproj '{mmproj}'");
    assert!(ran.stdout.contains(&command), "{}", ran.stdout);

    let info = visipruner(&["info", "-m", &model, "--mmproj", &mmproj, "--json"]);
    let info: serde_json::Value = serde_json::from_str(&info.stdout).expect("JSON");
    assert_eq!(info["model"]["n_layer"], 3);
    assert_eq!(info["model"]["file_type"], "Q8_0");
    assert_eq!(info["model"]["name"], "synthetic tiny, 3 of 8 layers");
    assert_eq!(info["projector"]["n_tokens_per_image"], 64);

    assert_error(
        &args,
        &["synthetic-tiny-3-layers-Q8_0.gguf is there already", "--force"],
    );
    assert_eq!(visipruner(&[&args[..], &["--force"]].concat()).code, Some(0));
}

#[test]
fn the_list_of_shapes() {
    let ran = visipruner(&["synth", "--list"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    insta::assert_snapshot!("list", ran.stdout);
}

#[test]
fn what_cannot_be_made() {
    assert_error(&["synth"], &["--shape <NAME>"]);
    assert_error(&["synth", "--shape", "gpt"], &["--shape", "llava-1.5-7b", "tiny"]);
    assert_error(
        &["synth", "--shape", "tiny", "--type", "IQ2_XS"],
        &["--type", "Q4_K_M"],
    );
    assert_error(
        &["synth", "--shape", "tiny", "--layers", "9"],
        &["tiny has 8 layers", "1 to 8"],
    );
    let folder = Folder::new();
    let file = folder.file("file", b"");
    assert_error(
        &["synth", "--shape", "tiny", "-o", &file],
        &["cannot create the folder", "file"],
    );
}
