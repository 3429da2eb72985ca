//! What is read out of the metadata, and what is refused there.

use super::*;

/// `sample` with some metadata replaced.
fn llm(changes: impl FnOnce(&mut GgufWriter) -> &mut GgufWriter) -> Gguf {
    let mut writer = GgufWriter::new();
    for (key, value) in parse(&sample()).unwrap().metadata() {
        writer.set(key, value.clone());
    }
    changes(&mut writer);
    let mut bytes = Vec::new();
    writer
        .write(&mut bytes, |tensor| elements(tensor.n_elements()))
        .unwrap();
    parse(&bytes).unwrap()
}

#[test]
fn shape_of_a_language_model() {
    let shape = LlmShape::from_gguf(&parse(&sample()).unwrap()).unwrap();
    assert_eq!(shape.arch, "llama");
    assert_eq!(shape.name.as_deref(), Some("sample"));
    assert_eq!(shape.file_type.and_then(file_type_name), Some("Q8_0"));
    assert_eq!(
        (shape.n_layer, shape.n_embd, shape.n_vocab, shape.n_ctx_train),
        (2, 64, 3, 128)
    );
    assert_eq!(
        (shape.n_head.as_slice(), shape.n_head_kv.as_slice()),
        (&[4, 4][..], &[2, 4][..])
    );
    assert_eq!((shape.head_dim_k, shape.head_dim_v), (16, 16));
    assert_eq!(shape.n_ff, [96, 96]);
    assert!(shape.is_gqa());
    assert_eq!(shape.n_params, 192 + 320 + 7 + 1);

    let wide = LlmShape::from_gguf(&llm(|w| {
        w.set("llama.attention.key_length", 24u32)
            .set("llama.vocab_size", 9u32)
    }));
    let wide = wide.unwrap();
    assert_eq!((wide.head_dim_k, wide.head_dim_v, wide.n_vocab), (24, 16, 9));
}

#[test]
fn what_is_not_a_language_model() {
    let message = |changes: fn(&mut GgufWriter) -> &mut GgufWriter| {
        LlmShape::from_gguf(&llm(changes)).unwrap_err().to_string()
    };
    assert!(message(|w| w.set("general.architecture", "clip")).contains("an image projector (mmproj)"));
    assert!(message(|w| w.set("general.type", "adapter")).contains("a GGUF of type 'adapter', not a model"));
    assert!(message(|w| w.set("llama.block_count", u32::MAX)).contains("is 4294967295, expected 1 to 512"));
    assert!(message(|w| w.set("llama.embedding_length", 0u32)).contains("is 0, expected 1 to"));
    assert!(
        message(|w| w.set("llama.attention.head_count", vec![4u32])).contains(
            "is an array of 1 for 2 layers, expected an integer, or an array of one for each layer"
        )
    );
    assert!(message(|w| w.set("split.count", 3u16).set("split.no", 1u16)).contains("this is part 2 of 3"));
    assert!(message(|w| w.set("split.count", 3u16).set("split.no", 3u16)).contains("expected 0 to 2"));
}

/// Where llama.cpp would divide by 0, or assert while it computes.
#[test]
fn what_llama_cpp_finds_out_too_late() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let open = |arch: &str, change: &dyn Fn(&mut GgufWriter)| {
        let mut writer = GgufWriter::new();
        for (key, value) in parse(&sample()).unwrap().metadata() {
            writer.set(key.replace("llama.", &format!("{arch}.")), value.clone());
        }
        writer.set("general.architecture", arch);
        change(&mut writer);
        writer
            .write_file(&path, |tensor| elements(tensor.n_elements()))
            .unwrap();
        open_llm(&path).map(|_| ()).map_err(|error| error.to_string())
    };
    let of_type = |name: &'static str, dims: &'static [usize], ty| {
        open("llama", &|w| {
            w.tensor(name, dims, ty);
        })
    };
    for (name, dims) in [
        ("blk.0.attn_q.bias", &[64][..]),
        ("blk.0.attn_q_norm.weight", &[16, 4]),
    ] {
        assert_eq!(of_type(name, dims, GgmlType::F32), Ok(()));
        let error = of_type(name, dims, GgmlType::F16).unwrap_err();
        assert!(error.contains(&format!("'{name}' is f16, only f32")), "{error}");
    }
    assert_eq!(of_type("blk.0.attn_q.weight", &[64, 64], GgmlType::F16), Ok(()));

    let experts = |key: &'static str, n: u32| {
        open("qwen35moe", &|w| {
            w.set("qwen35moe.rope.dimension_sections", vec![4, 4, 4, 0]);
            w.set(key, n);
        })
    };
    assert_eq!(experts("qwen35moe.expert_used_count", 2), Ok(()));
    assert_eq!(experts("qwen35moe.expert_feed_forward_length", 64), Ok(()));
    let error = experts("qwen35moe.expert_used_count", 0).unwrap_err();
    assert!(error.contains("no 'qwen35moe.expert_used_count'"), "{error}");

    let sections = |arch: &str, sections: &[i32]| {
        open(arch, &|w| {
            w.set(format!("{arch}.rope.dimension_sections"), sections.to_vec());
        })
    };
    assert_eq!(sections("qwen2vl", &[4, 6, 6, 0]), Ok(()));
    assert_eq!(sections("glm4", &[0, 0, 0, 0]), Ok(()));
    for wrong in [&[4, 6, 7, 0][..], &[0, 0, 0, 4], &[4, -1, 4, 0], &[]] {
        let error = sections("qwen2vl", wrong).unwrap_err();
        assert!(error.contains("add up to 1 to 16"), "{wrong:?}: {error}");
    }
}

#[test]
fn parts_of_a_split_model_are_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let part = |no: u16, name: &str| {
        let mut writer = GgufWriter::new();
        if no == 0 {
            for (key, value) in parse(&sample()).unwrap().metadata() {
                writer.set(key, value.clone());
            }
        }
        writer.set("split.no", no).set("split.count", 2u16);
        writer.tensor(format!("t{no}"), &[8], GgmlType::F32);
        let path = folder.path().join(name);
        writer
            .write_file(&path, |tensor| elements(tensor.n_elements()))
            .unwrap();
        path
    };
    let first = part(0, "m-00001-of-00002.gguf");
    let message = |path: &Path| open_llm(path).unwrap_err().to_string();
    assert!(message(&first).contains("part 2 of 2 of this split model: "));
    assert!(message(&first).ends_with("m-00002-of-00002.gguf: no such file: check the path"));
    let second = part(1, "m-00002-of-00002.gguf");
    let (gguf, shape) = open_llm(&first).unwrap();
    let alone = LlmShape::from_gguf(&gguf).unwrap();
    assert_eq!(
        (alone.n_params, shape.n_params),
        (alone.n_params, alone.n_params + 8)
    );
    let n_bytes = [&first, &second].map(|path| fs::metadata(path).unwrap().len());
    assert_eq!(shape.file_bytes, n_bytes[0] + n_bytes[1]);
    // which has no architecture, as llama-gguf-split writes it
    assert!(message(&second).contains("this is part 2 of 2 of a split model: give the first part"));
    fs::write(&second, &fs::read(&second).unwrap()[..60]).unwrap();
    assert!(message(&first).ends_with("the download is incomplete, fetch it again"));
    let renamed = part(0, "first.gguf");
    assert!(message(&renamed).contains("its name must end in -00001-of-00002.gguf"));
}

#[test]
fn a_split_projector_is_refused_whatever_part_is_given() {
    let folder = tempfile::tempdir().unwrap();
    for no in 0..2u16 {
        let mut writer = GgufWriter::new();
        if no == 0 {
            writer.set("general.architecture", "clip");
        }
        writer.set("split.no", no).set("split.count", 2u16);
        writer.tensor("v.post_ln.weight", &[8], GgmlType::F32);
        let path = folder.path().join(format!("{no}.gguf"));
        writer
            .write_file(&path, |tensor| elements(tensor.n_elements()))
            .unwrap();
        let message = open_projector(&path).unwrap_err().to_string();
        assert!(
            message.contains("one of 2 parts of a split image projector"),
            "{message}"
        );
    }
}

/// A projector of 4x4 patches with vectors of width 48.
fn projector(changes: impl FnOnce(&mut GgufWriter) -> &mut GgufWriter) -> Gguf {
    let mut writer = GgufWriter::new();
    writer
        .set("general.architecture", "clip")
        .set("clip.has_vision_encoder", true)
        .set("clip.projector_type", "mlp")
        .set("clip.vision.image_size", 56u32)
        .set("clip.vision.patch_size", 14u32)
        .set("clip.vision.block_count", 3u32)
        .set("clip.vision.embedding_length", 32u32)
        .set("clip.vision.feed_forward_length", 64u32)
        .set("clip.vision.projection_dim", 32u32)
        .set("clip.vision.attention.head_count", 2u32)
        .set("clip.vision.feature_layer", vec![3i32]);
    writer
        .tensor("v.class_embd", &[32], GgmlType::F32)
        .tensor("mm.0.weight", &[32, 40], GgmlType::F32)
        .tensor("mm.2.weight", &[40, 48], GgmlType::F32);
    changes(&mut writer);
    let mut bytes = Vec::new();
    writer
        .write(&mut bytes, |tensor| elements(tensor.n_elements()))
        .unwrap();
    Gguf::parse("p.gguf", bytes.as_slice(), bytes.len() as u64).unwrap()
}

#[test]
fn shape_of_a_projector() {
    let shape = ProjectorShape::from_gguf(&projector(|w| w)).unwrap();
    assert_eq!(
        (shape.image_size, shape.patch_size, shape.patches_per_side()),
        (56, 14, 4)
    );
    assert_eq!(
        (shape.n_layer, shape.n_embd, shape.n_head, shape.n_ff),
        (3, 32, 2, 64)
    );
    assert_eq!((shape.n_tokens_per_image, shape.n_embd_out), (Some(16), Some(48)));
    assert!(shape.has_class_embedding);
    assert_eq!(shape.feature_layers, [3]);

    let tokens = |changes: fn(&mut GgufWriter) -> &mut GgufWriter| {
        ProjectorShape::from_gguf(&projector(changes))
            .unwrap()
            .n_tokens_per_image
    };
    assert_eq!(tokens(|w| w.set("clip.projector_type", "ldpv2")), Some(4));
    assert_eq!(tokens(|w| w.set("clip.projector_type", "gemma3")), Some(1));
    assert_eq!(tokens(|w| w.set("clip.projector_type", "qwen2vl_merger")), None);
    assert_eq!(
        tokens(|w| w.set("clip.vision.image_grid_pinpoints", vec![56i32, 112])),
        None
    );
}

#[test]
fn what_is_not_a_projector() {
    let message = |changes: fn(&mut GgufWriter) -> &mut GgufWriter| {
        ProjectorShape::from_gguf(&projector(changes))
            .unwrap_err()
            .to_string()
    };
    assert!(message(|w| w.set("general.architecture", "llama")).contains("a model of architecture 'llama'"));
    assert!(message(|w| w.set("clip.has_vision_encoder", false)).contains("has no vision encoder"));
    assert!(message(|w| w.set("clip.vision.patch_size", 57u32)).contains("is 57, expected 1 to 56"));
    assert!(message(|w| w.set("clip.vision.image_size", u32::MAX)).contains("expected 1 to 65535"));
    assert!(message(|w| w.set("clip.vision.feature_layer", vec![1f32])).contains("an array of float32"));
}

#[test]
fn a_projector_of_another_model() {
    let projector = projector(|w| w);
    let projector_shape = ProjectorShape::from_gguf(&projector).unwrap();
    let check = |n_embd: u32| {
        let model = llm(|w| w.set("llama.embedding_length", n_embd));
        let shape = LlmShape::from_gguf(&model).unwrap();
        check_pair((&model, &shape), (&projector, &projector_shape))
    };
    assert!(check(48).is_ok());
    assert_eq!(
        check(64).unwrap_err().to_string(),
        "p.gguf: this projector makes vectors of width 48, but x.gguf takes 64: it belongs to another model, give the \
         mmproj file of this one"
    );
}
