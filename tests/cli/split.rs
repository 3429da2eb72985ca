//! Models in several files.

use std::path::{Path, PathBuf};

use visipruner::gguf::{Gguf, GgufWriter};

use super::{Folder, MMPROJ, MODEL, PICTURE, assert_error, visipruner};

const N_PARTS: u16 = 3;

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// The shipped model in parts, as `llama-gguf-split` makes them where the first is to hold no tensors.
pub fn split(folder: &Folder) -> Vec<PathBuf> {
    let whole = Gguf::open(MODEL).expect("opens");
    let n = whole.tensors().len();
    let of_parts = [0..0, 0..n / 2, n / 2..n];
    let write = |(no, tensors): (usize, std::ops::Range<usize>)| {
        let mut writer = GgufWriter::new();
        if no == 0 {
            for (key, value) in whole.metadata() {
                writer.set(key, value.clone());
            }
        }
        writer
            .set("split.no", no as u16)
            .set("split.count", N_PARTS)
            .set("split.tensors.count", n as i32);
        for tensor in &whole.tensors()[tensors] {
            let dims: Vec<_> = tensor.dims.iter().map(|&n| n as usize).collect();
            writer.tensor(&tensor.name, &dims, tensor.ty);
        }
        let path = folder.path(&format!("shapes-{:05}-of-{N_PARTS:05}.gguf", no + 1));
        let data = |name: &str| whole.read_tensor_f32(name).expect("reads");
        writer
            .write_file(&path, |tensor| data(&tensor.name))
            .expect("writes");
        path
    };
    of_parts.into_iter().enumerate().map(write).collect()
}

#[test]
fn a_split_model_is_as_good_as_a_whole_one() {
    let folder = Folder::new();
    let parts = split(&folder);
    let policy = folder.file(
        "shapes.policy.toml",
        b"policy = \"fixed\"\nfusion_layer = 3\nkeep = 5\nexit_from = 6\n",
    );
    let first = text(&parts[0]);
    let info = |model: &str| -> serde_json::Value {
        let ran = visipruner(&["info", "-m", model, "--mmproj", MMPROJ, "--json"]);
        serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}", ran.stderr))
    };
    let (whole, of_parts) = (info(MODEL), info(first));
    assert_eq!(of_parts["model"]["n_params"], whole["model"]["n_params"]);
    let n_bytes: u64 = parts
        .iter()
        .map(|part| part.metadata().expect("is there").len())
        .sum();
    assert_eq!(of_parts["model"]["file_bytes"], n_bytes);
    assert_eq!(of_parts["policy_file"], policy);
    assert_eq!(of_parts["policy"]["policy"], "fixed");

    let ran = visipruner(&[
        "run",
        "-t",
        "1",
        "-m",
        first,
        "--mmproj",
        MMPROJ,
        "--image",
        PICTURE,
        "-p",
        "What color is the star?",
    ]);
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (Some(0), "yellow\n"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.starts_with("pruned: "), "{}", ran.stderr);
}

#[test]
fn a_later_part_says_that_it_is_one() {
    let folder = Folder::new();
    let parts = split(&folder);
    for command in [&["info"][..], &["run", "-p", "x"]] {
        assert_error(
            &[command, &["-m", text(&parts[1])]].concat(),
            &["part 2 of 3 of a split model", "give the first part"],
        );
    }
}
