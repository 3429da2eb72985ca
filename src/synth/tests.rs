//! Files against sizes counted by hand, against the crate's own reader, and against each other.

use std::collections::HashMap;

use tempfile::TempDir;

use super::*;
use crate::engine::model_shape;
use crate::gguf::{GgmlType, Gguf, check_pair, open_llm, open_projector};
use crate::policy::presets::preset_for;

fn shape(name: &str) -> &'static Shape {
    Shape::named(name).unwrap()
}

fn go_on(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn bytes(plan: &Plan) -> Vec<u8> {
    let mut bytes = Vec::new();
    plan.write(&mut bytes).unwrap();
    bytes
}

/// LLaMA-2 7B: 6,738,415,616 weights in 291 tensors. Q4_K_M files of it that are published have 4,081,004,224 bytes;
/// half a megabyte of them is the vocabulary.
#[test]
fn llava_7b_has_its_true_size() {
    let plan = Synth::new(shape("llava-1.5-7b")).llm();
    assert_eq!(plan.tensors().len(), 3 + 32 * 9);
    assert_eq!(plan.n_params(), 6_738_415_616);
    let n_bytes = plan.file_bytes().unwrap();
    assert!(n_bytes.abs_diff(4_081_004_224) < 1_000_000, "{n_bytes}");
}

/// Weights in published models: their model cards round them to 13.0, 7.6, 7.24, 2.7 and 1.1 billion.
#[test]
fn other_models_have_their_true_sizes() {
    for (name, n_tensors, n_params) in [
        ("llava-1.5-13b", 363, 13_015_864_320),
        ("qwen2-7b", 339, 7_615_616_512),
        ("bakllava-7b", 291, 7_241_732_096),
        ("mobilevlm-3b", 291, 2_701_560_320),
        ("tinyllama-1.1b", 201, 1_100_048_384),
    ] {
        let plan = Synth::new(shape(name)).llm();
        assert_eq!(
            (plan.tensors().len(), plan.n_params()),
            (n_tensors, n_params),
            "{name}"
        );
    }
}

/// The projector of LLaVA-1.5 7B as published: 377 tensors, 624,434,336 bytes.
#[test]
fn llavas_projector_has_its_true_size() {
    let plan = Synth::new(shape("llava-1.5-7b")).mmproj();
    assert_eq!(plan.tensors().len(), 377);
    let n_bytes = plan.file_bytes().unwrap();
    assert!(n_bytes.abs_diff(624_434_336) < 10_000, "{n_bytes}");
}

/// 193 matrices of Q4_K, 33 of Q6_K and 65 vectors, as `llama-quantize` counts them.
#[test]
fn q4_k_m_of_llava_7b() {
    let plan = Synth::new(shape("llava-1.5-7b")).llm();
    let mut counts = HashMap::new();
    for tensor in plan.tensors() {
        *counts.entry(tensor.ty).or_insert(0) += 1;
    }
    let expected = [(GgmlType::Q4_K, 193), (GgmlType::Q6_K, 33), (GgmlType::F32, 65)];
    assert_eq!(counts, HashMap::from(expected));
    let ty = |name: &str| {
        plan.tensors()
            .iter()
            .find(|tensor| tensor.name == name)
            .unwrap()
            .ty
    };
    assert_eq!(ty("output.weight"), GgmlType::Q6_K);
    assert_eq!(ty("token_embd.weight"), GgmlType::Q4_K);
    assert_eq!(ty("blk.5.attn_v.weight"), GgmlType::Q4_K);
    assert_eq!(ty("blk.6.attn_v.weight"), GgmlType::Q6_K);
    assert_eq!(ty("blk.6.ffn_down.weight"), GgmlType::Q6_K);
    assert_eq!(ty("blk.6.ffn_up.weight"), GgmlType::Q4_K);
}

#[test]
fn written_files_read_back() {
    for mix in Mix::ALL {
        let folder = TempDir::new().unwrap();
        let synth = Synth::new(shape("tiny")).with_mix(mix);
        let mut last = None;
        let files = synth
            .write(folder.path().join("new"), false, |progress| {
                last = Some(progress);
                ControlFlow::Continue(())
            })
            .unwrap();
        let (llm, llm_shape) = open_llm(&files.model).unwrap();
        let (mmproj, mmproj_shape) = open_projector(&files.mmproj).unwrap();
        check_pair((&llm, &llm_shape), (&mmproj, &mmproj_shape)).unwrap();
        let LlmSizes { n_layer, n_embd, .. } = synth.shape.llm;
        assert_eq!(
            (llm_shape.n_layer, llm_shape.n_embd, llm_shape.n_vocab),
            (n_layer as u32, n_embd as u32, 512)
        );
        assert_eq!(llm_shape.name.as_deref(), Some("synthetic tiny"));
        assert_eq!(llm_shape.file_type, Some(mix.file_type()));
        assert_eq!(llm_shape.n_params, synth.llm().n_params());
        assert_eq!(mmproj_shape.n_tokens_per_image, Some(64));
        let n_bytes = llm.file_bytes() + mmproj.file_bytes();
        let all = Progress {
            n_bytes,
            n_bytes_total: n_bytes,
        };
        assert_eq!(last, Some(all));
        assert_eq!(std::fs::read_dir(folder.path().join("new")).unwrap().count(), 2);
    }
}

/// A file of this plan's header over as many bytes as it says, all 0, which take no room on the disk.
fn hollow(folder: &TempDir, plan: &Plan) -> PathBuf {
    struct Header(Vec<u8>);
    impl io::Write for Header {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if !self.0.is_empty() {
                return Err(io::Error::other("that is all"));
            }
            self.0.extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut header = Header(Vec::new());
    plan.write(&mut header).unwrap_err();
    let path = folder.path().join("hollow.gguf");
    fs::write(&path, header.0).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(plan.file_bytes().unwrap()).unwrap();
    path
}

/// Every projector passes the check that comes before llama.cpp sees it, and every pair fits.
#[test]
fn every_shape_is_a_pair_that_fits() {
    let (folder, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    for shape in &SHAPES {
        let synth = Synth::new(shape);
        let (llm, llm_shape) = open_llm(hollow(&folder, &synth.llm())).unwrap();
        let (mmproj, mmproj_shape) = open_projector(hollow(&other, &synth.mmproj())).unwrap();
        check_pair((&llm, &llm_shape), (&mmproj, &mmproj_shape)).unwrap();
        let n_tokens = mmproj_shape.n_tokens_per_image.map(|n| n as usize);
        assert_eq!(n_tokens, Some(shape.n_vision_tokens()), "{}", shape.name);
        assert_eq!(mmproj_shape.n_embd_out, Some(shape.llm.n_embd as u64));
    }
}

/// Presets know a model by its sizes, so the whole LLaVA models have theirs, and a part of one has none.
#[test]
fn presets_go_by_sizes() {
    let folder = TempDir::new().unwrap();
    let preset = |synth: Synth| {
        let (_, llm) = open_llm(hollow(&folder, &synth.llm())).unwrap();
        let n_tokens = Some(synth.shape.n_vision_tokens());
        preset_for(&model_shape(&llm, n_tokens)).map(|preset| preset.name)
    };
    let seven = Synth::new(shape("llava-1.5-7b"));
    assert_eq!(preset(seven), Some("llava-1.5-7b"));
    assert_eq!(preset(Synth::new(shape("llava-1.5-13b"))), Some("llava-1.5-13b"));
    assert_eq!(preset(seven.with_layers(4).unwrap()), None);
    assert_eq!(preset(Synth::new(shape("bakllava-7b"))), None);
}

#[test]
fn a_seed_makes_one_file() {
    let synth = Synth::new(shape("tiny"));
    assert!(bytes(&synth.llm()) == bytes(&synth.llm()));
    assert!(bytes(&synth.mmproj()) == bytes(&synth.mmproj()));
    let other = synth.with_seed(1);
    let length = bytes(&synth.llm()).len();
    let (ours, others) = (bytes(&synth.llm()), bytes(&other.llm()));
    let n_equal = ours.iter().zip(&others).filter(|(a, b)| a == b).count();
    assert!(n_equal < length / 10, "{n_equal} of {length}");
}

#[test]
fn fewer_layers() {
    let synth = Synth::new(shape("llava-1.5-7b")).with_layers(4).unwrap();
    let plan = synth.llm();
    assert_eq!(plan.tensors().len(), 3 + 4 * 9);
    // 262,144,000 outside the layers, 202,383,360 in each, a norm
    assert_eq!(plan.n_params(), 262_144_000 + 4 * 202_383_360 + 4096);
    let files = synth.files(Path::new("x"));
    assert_eq!(
        files.model,
        Path::new("x/synthetic-llava-1.5-7b-4-layers-Q4_K_M.gguf")
    );
    assert_eq!(
        files.mmproj,
        Path::new("x/synthetic-llava-1.5-7b-mmproj-F16.gguf")
    );
    let folder = TempDir::new().unwrap();
    let gguf = Gguf::open(hollow(&folder, &plan)).unwrap();
    assert_eq!(gguf.u32("llama.block_count").unwrap(), 4);
    assert_eq!(
        gguf.str("general.name").unwrap(),
        "synthetic llava-1.5-7b, 4 of 32 layers"
    );
    for asked in [0, 33] {
        let error = Synth::new(shape("llava-1.5-7b")).with_layers(asked).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("llava-1.5-7b has 32 layers: {asked} is not possible, give 1 to 32")
        );
    }
}

#[test]
fn existing_files_are_kept_unless_told_otherwise() {
    let folder = TempDir::new().unwrap();
    let synth = Synth::new(shape("tiny"));
    let files = synth.files(folder.path());
    for path in [&files.model, &files.mmproj] {
        fs::write(path, "mine").unwrap();
        let error = synth.write(folder.path(), false, go_on).unwrap_err();
        assert!(
            matches!(&error, Error::Exists { path: found } if found == path),
            "{error}"
        );
        assert_eq!(fs::read(path).unwrap(), b"mine");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        fs::remove_file(path).unwrap();
    }
    fs::write(&files.model, "mine").unwrap();
    assert_eq!(synth.write(folder.path(), true, go_on).unwrap(), files);
    open_llm(&files.model).unwrap();
}

#[test]
fn what_is_stopped_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let synth = Synth::new(shape("tiny"));
    for percent in [0, 30, 99] {
        let stop = |progress: Progress| match progress.n_bytes * 100 >= progress.n_bytes_total * percent {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let error = synth.write(folder.path(), false, stop).unwrap_err();
        assert!(matches!(error, Error::Stopped), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

/// A folder of the model's name cannot be replaced by a file.
#[test]
fn what_cannot_be_written_leaves_no_half_file() {
    let folder = TempDir::new().unwrap();
    let synth = Synth::new(shape("tiny"));
    let files = synth.files(folder.path());
    fs::create_dir(&files.model).unwrap();
    let error = synth.write(folder.path(), true, go_on).unwrap_err();
    assert!(
        matches!(&error, Error::Io { action: "write", path, .. } if *path == files.model),
        "{error}"
    );
    let names = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    assert!(
        names
            .into_iter()
            .all(|path| [&files.model, &files.mmproj].contains(&&path))
    );
}

#[test]
fn a_folder_that_cannot_be_says_so() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Synth::new(shape("tiny")).write(&file, false, go_on).unwrap_err();
    assert!(
        error.to_string().starts_with("cannot create the folder"),
        "{error}"
    );
}

#[test]
fn every_vocabulary_is_large_enough() {
    assert!(SHAPES.iter().all(|shape| shape.llm.n_vocab >= MIN_VOCAB));
}
