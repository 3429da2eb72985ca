use super::*;

/// A small file with every type of metadata and several types of tensors.
fn sample() -> Vec<u8> {
    let mut writer = GgufWriter::new();
    writer
        .set("general.architecture", "llama")
        .set("general.name", "sample")
        .set("general.file_type", 7u32)
        .set("llama.block_count", 2u32)
        .set("llama.embedding_length", 64u32)
        .set("llama.context_length", 128u16)
        .set("llama.attention.head_count", 4u32)
        .set("llama.attention.head_count_kv", vec![2i32, 4])
        .set("llama.feed_forward_length", 96u64)
        .set("llama.rope.freq_base", 1e4f32)
        .set(
            "tokenizer.ggml.tokens",
            vec!["<unk>".to_owned(), "<s>".to_owned(), "\u{2581}a".to_owned()],
        )
        .set("tokenizer.ggml.scores", vec![0f32, 0.0, -1.0])
        .set("tokenizer.ggml.add_bos_token", true)
        .set("test.u8", 200u8)
        .set("test.i8", -3i8)
        .set("test.i16", -300i16)
        .set("test.i32", -70_000i32)
        .set("test.i64", i64::MIN)
        .set("test.f64", 0.1f64)
        .set("test.bools", vec![true, false])
        .set("test.none", Vec::<u8>::new());
    writer
        .tensor("token_embd.weight", &[64, 3], GgmlType::Q8_0)
        .tensor("blk.0.ffn_up.weight", &[64, 5], GgmlType::F16)
        .tensor("output_norm.weight", &[7], GgmlType::F32)
        .tensor("scalar", &[], GgmlType::BF16);
    let mut bytes = Vec::new();
    writer
        .write(&mut bytes, |tensor| elements(tensor.n_elements()))
        .unwrap();
    bytes
}

fn elements(n: usize) -> Vec<f32> {
    (0..n).map(|i| i as f32 - 3.0).collect()
}

fn parse(bytes: &[u8]) -> Result<Gguf, GgufError> {
    Gguf::parse("x.gguf", bytes, bytes.len() as u64)
}

fn message(bytes: &[u8]) -> String {
    parse(bytes).unwrap_err().to_string()
}

/// A header of version 3 with the given counts, then `rest`.
fn header(n_tensors: u64, n_keys: u64, rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend(n_tensors.to_le_bytes());
    bytes.extend(n_keys.to_le_bytes());
    bytes.extend(rest);
    bytes
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// A tensor description.
fn tensor(name: &str, dims: &[u64], ty: u32, offset: u64) -> Vec<u8> {
    let mut bytes = string(name);
    bytes.extend((dims.len() as u32).to_le_bytes());
    bytes.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
    bytes.extend(ty.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

#[test]
fn what_was_written_is_read() {
    let bytes = sample();
    let gguf = parse(&bytes).unwrap();
    assert_eq!(
        (gguf.version(), gguf.alignment(), gguf.metadata().len()),
        (3, 32, 21)
    );
    assert_eq!(gguf.get("test.u8"), Some(&Value::U8(200)));
    assert_eq!(gguf.get("test.i8"), Some(&Value::I8(-3)));
    assert_eq!(gguf.get("test.i16"), Some(&Value::I16(-300)));
    assert_eq!(gguf.get("test.i32"), Some(&Value::I32(-70_000)));
    assert_eq!(gguf.get("test.i64"), Some(&Value::I64(i64::MIN)));
    assert_eq!(gguf.get("test.f64"), Some(&Value::F64(0.1)));
    assert_eq!(
        gguf.get("test.bools"),
        Some(&Value::Array(Array::Bool(vec![true, false])))
    );
    assert_eq!(gguf.get("test.none"), Some(&Value::Array(Array::U8(vec![]))));
    assert_eq!(gguf.opt_bool("tokenizer.ggml.add_bos_token").unwrap(), Some(true));
    assert_eq!(gguf.f32("llama.rope.freq_base").unwrap(), 1e4);
    let tokens = Array::String(vec!["<unk>".into(), "<s>".into(), "\u{2581}a".into()]);
    assert_eq!(gguf.opt_array("tokenizer.ggml.tokens").unwrap(), Some(&tokens));

    let names: Vec<_> = gguf.tensors().iter().map(|t| t.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "token_embd.weight",
            "blk.0.ffn_up.weight",
            "output_norm.weight",
            "scalar"
        ]
    );
    let norm = gguf.tensor("output_norm.weight").unwrap();
    assert_eq!(
        (norm.ty, norm.dims.as_slice(), norm.n_bytes),
        (GgmlType::F32, &[7][..], 28)
    );
    assert_eq!(gguf.data_offset() % 32, 0);
    assert_eq!(gguf.tensor("scalar").unwrap().n_elements(), 1);
}

#[test]
fn tensors_are_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sample.gguf");
    fs::write(&path, sample()).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    assert_eq!(gguf.read_tensor_f32("output_norm.weight").unwrap(), elements(7));
    assert_eq!(
        gguf.read_tensor_f32("blk.0.ffn_up.weight").unwrap(),
        elements(320)
    );
    for (x, y) in gguf
        .read_tensor_f32("token_embd.weight")
        .unwrap()
        .iter()
        .zip(elements(192))
    {
        assert!((x - y).abs() < 0.8, "{x} {y}");
    }
    let missing = gguf.read_tensor("output.weight").unwrap_err().to_string();
    assert!(missing.ends_with("there is no tensor 'output.weight': not a complete model, convert it again"));
}

#[test]
fn another_alignment_is_kept() {
    let mut writer = GgufWriter::new();
    writer
        .align(256)
        .tensor("a", &[3], GgmlType::F32)
        .tensor("b", &[3], GgmlType::F32);
    let mut bytes = Vec::new();
    writer
        .write(&mut bytes, |tensor| elements(tensor.n_elements()))
        .unwrap();
    let gguf = parse(&bytes).unwrap();
    assert_eq!((gguf.alignment(), gguf.data_offset()), (256, 256));
    assert_eq!(gguf.tensor("b").unwrap().file_offset, 512);
}

#[test]
fn the_writer_refuses_what_cannot_be_stored() {
    let mut writer = GgufWriter::new();
    writer.tensor("odd", &[31, 2], GgmlType::Q8_0);
    let refused = writer
        .write(io::sink(), |t| elements(t.n_elements()))
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "tensor 'odd' of shape [31, 2] cannot be stored as q8_0"
    );
    let mut writer = GgufWriter::new();
    writer.tensor("short", &[4], GgmlType::F32);
    assert!(writer.write(io::sink(), |_| vec![0.0; 3]).is_err());
}

/// Cut anywhere, the file is refused, with a message that says it is incomplete; but padding behind the last
/// tensor is not missed.
#[test]
fn truncated_anywhere() {
    let bytes = sample();
    let last = parse(&bytes).unwrap().tensors().last().cloned().unwrap();
    let needed = (last.file_offset + last.n_bytes) as usize;
    assert_eq!(
        message(&[]),
        "x.gguf: the file is empty: download or export it again"
    );
    for len in 1..needed {
        let message = message(&bytes[..len]);
        assert!(
            message.ends_with("the download is incomplete, fetch it again"),
            "{len}: {message}"
        );
        assert!(!message.contains('\n'));
    }
    for len in needed..=bytes.len() {
        assert!(parse(&bytes[..len]).is_ok());
    }
}

#[test]
fn truncation_says_where() {
    let bytes = sample();
    let gguf = parse(&bytes).unwrap();
    let up = gguf.tensor("blk.0.ffn_up.weight").unwrap();
    let (end, cut) = (up.file_offset + up.n_bytes, up.file_offset + 10);
    assert_eq!(
        message(&bytes[..cut as usize]),
        format!(
            "x.gguf: tensor 'blk.0.ffn_up.weight' ends at byte {end} but the file has {cut}: the download is \
             incomplete, fetch it again"
        )
    );
    assert_eq!(
        message(&bytes[..70]),
        "x.gguf: the file ends after 70 bytes, inside metadata key 2 of 21: the download is incomplete, fetch it again"
    );
    assert_eq!(
        message(&bytes[..40]),
        "x.gguf: the file ends after 40 bytes, inside metadata key 1 of 21: the download is incomplete, fetch it again"
    );
}

/// Every byte of the header set to several other values: an answer each time, and none that takes memory.
#[test]
fn flipped_anywhere() {
    let bytes = sample();
    let header_bytes = parse(&bytes).unwrap().data_offset() as usize;
    for at in 0..header_bytes {
        for flip in [0x01, 0x80, 0xff, bytes[at]] {
            let mut flipped = bytes.clone();
            flipped[at] ^= flip;
            if let Ok(gguf) = parse(&flipped) {
                let _ = LlmShape::from_gguf(&gguf);
                let _ = ProjectorShape::from_gguf(&gguf);
                let _ = Split::from_gguf(&gguf);
            }
        }
    }
}

/// Pseudo-random bytes behind a valid start, and in its middle.
#[test]
fn noise() {
    let mut state = 1u64;
    let mut next = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let bytes = sample();
    for _ in 0..2000 {
        let random: Vec<u8> = (0..200).map(|_| next()).collect();
        let _ = parse(&random);
        let _ = parse(&header(next().into(), next().into(), &random));
        let mut patched = bytes.clone();
        let at = usize::from(next()) * 8 % bytes.len();
        for byte in patched[at..].iter_mut().take(12) {
            *byte = next();
        }
        let _ = parse(&patched);
    }
}

#[test]
fn hostile_lengths() {
    let huge = u64::MAX.to_le_bytes();
    let plausible = (1u64 << 24).to_le_bytes();
    assert_eq!(
        message(&header(u64::MAX, 0, &[])),
        "x.gguf: the header counts 18446744073709551615 tensors, at most 1048576 are plausible: the file is corrupted, \
         download or export it again"
    );
    assert!(message(&header(0, u64::MAX, &[])).contains("metadata keys, at most"));
    assert!(message(&header(1 << 20, 1 << 16, &[0; 100])).contains("metadata key 1 of 65536 is empty"));
    assert!(
        message(&header(0, 1, &huge))
            .contains("metadata key 1 of 1 has a string of 18446744073709551615 bytes")
    );
    assert!(
        message(&header(0, 1, &plausible)).contains("inside metadata key 1 of 1: the download is incomplete")
    );
    for type_id in 0..13u32 {
        let array = [
            &string("k")[..],
            &9u32.to_le_bytes(),
            &type_id.to_le_bytes(),
            &huge,
        ]
        .concat();
        assert!(message(&header(0, 1, &array)).contains("elements, at most 16777216 are plausible"));
    }
    let array = [
        &string("k")[..],
        &9u32.to_le_bytes(),
        &4u32.to_le_bytes(),
        &plausible,
    ]
    .concat();
    assert!(message(&header(0, 1, &array)).contains("inside metadata 'k'"));
    let nested = [
        &string("k")[..],
        &9u32.to_le_bytes(),
        &9u32.to_le_bytes(),
        &[0; 8],
    ]
    .concat();
    assert!(message(&header(0, 1, &nested)).contains("metadata 'k' is an array of type 9"));
    let strange = [&string("k")[..], &13u32.to_le_bytes()].concat();
    assert!(message(&header(0, 1, &strange)).contains("metadata 'k' has type 13, 0 to 12 exist"));
}

#[test]
fn impossible_tensors() {
    let one = |tensor: Vec<u8>| message(&header(1, 0, &[tensor, vec![0; 64]].concat()));
    assert!(one(tensor("t", &[2; 5], 0, 0)).contains("tensor 't' has 5 dimensions, at most 4 are allowed"));
    assert!(
        one(tensor("t", &[1 << 40; 2], 0, 0)).contains("[1099511627776, 1099511627776], which is too large")
    );
    assert!(one(tensor("t", &[1 << 63], 24, 0)).contains("too large to exist"));
    assert!(one(tensor("t", &[1 << 62], 0, 0)).contains("cannot store"));
    assert!(one(tensor("t", &[31], 8, 0)).contains("which q8_0 (blocks of 32 elements) cannot store"));
    assert!(one(tensor("t", &[1 << 62], 24, 0)).contains("tensor 't' ends at byte"));
    assert!(one(tensor("t", &[1], 0, 32)).contains("tensor 't' has offset 32, expected 0"));
    assert!(one(tensor(&"t".repeat(64), &[1], 0, 0)).contains("has a name of 64 bytes"));
    assert_eq!(
        one(tensor("t", &[1], 99, 0)),
        "x.gguf: tensor 't' has ggml type 99, which this version of llama.cpp does not know: use another quantization"
    );
    let twice = [tensor("t", &[8], 0, 0), tensor("t", &[8], 0, 32), vec![0; 128]].concat();
    assert!(message(&header(2, 0, &twice)).contains("tensors 1 and 2 are both named 't'"));
}

#[test]
fn impossible_metadata() {
    let key = |name: &str| [&string(name)[..], &0u32.to_le_bytes(), &[5]].concat();
    let twice = [key("k"), key("k")].concat();
    assert!(message(&header(0, 2, &twice)).contains("metadata 'k' occurs twice"));
    let alignment = |n: u32| {
        [
            &string("general.alignment")[..],
            &4u32.to_le_bytes(),
            &n.to_le_bytes(),
        ]
        .concat()
    };
    assert!(message(&header(0, 1, &alignment(48))).contains("the alignment is 48, not a power of two"));
    assert!(message(&header(0, 1, &alignment(0))).contains("the alignment is 0"));
    assert!(message(&header(0, 1, &key("general.alignment"))).contains("of type uint8, not uint32"));
}

#[test]
fn other_versions() {
    let version = |n: u32| message(&[b"GGUF", &n.to_le_bytes()[..], &[0; 16]].concat());
    assert!(version(1).contains("GGUF version 1, versions 2 and 3 are supported"));
    assert!(version(1).ends_with("with a newer converter"));
    assert!(version(4).ends_with("with an older converter"));
    assert!(version(3u32.swap_bytes()).contains("a big-endian GGUF"));
    let mut v2 = sample();
    v2[4] = 2;
    assert_eq!(parse(&v2).unwrap().version(), 2);
}

#[test]
fn other_formats() {
    let safetensors = [&200u64.to_le_bytes()[..], b"{\"__metadata__\":{}}"].concat();
    for (bytes, expected) in [
        (
            &b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"[..],
            "a PNG image: images are given with --image",
        ),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG image"),
        (
            b"PK\x03\x04data",
            "a ZIP archive or a PyTorch checkpoint: convert",
        ),
        (b"lmgg\0\0\0\0", "a GGML file, the predecessor"),
        (b"tjgg\x03\0\0\0", "a GGJT file"),
        (&safetensors, "a safetensors file: convert"),
        (
            b"version https://git-lfs.github.com/spec/v1",
            "a Git LFS pointer to the model: fetch it",
        ),
        (
            b"<!DOCTYPE html><html>",
            "a web page: download the model's .gguf file itself",
        ),
        (b"# My model\n\nIt is good.\n", "a text file"),
        (b"Modell f\xc3\xbcr", "a text file"),
        (b"x", "a text file"),
        (&[0; 100], "a file of zeros"),
        (b"\x01\x02\x03\x04\x05\xfe\xff", "data of an unknown kind"),
    ] {
        let message = message(bytes);
        assert!(message.starts_with("x.gguf: not a GGUF file but "), "{message}");
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn not_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let message = |path: &Path| Gguf::open(path).unwrap_err().to_string();
    assert!(message(folder.path()).ends_with("this is a folder, not a file: give the path of a .gguf file"));
    assert!(message(&folder.path().join("none.gguf")).ends_with("none.gguf: no such file: check the path"));
}

#[test]
fn getters_say_what_is_wrong() {
    let bytes = sample();
    let gguf = parse(&bytes).unwrap();
    assert_eq!(gguf.u32("llama.context_length").unwrap(), 128);
    assert_eq!(gguf.u32("llama.feed_forward_length").unwrap(), 96);
    assert_eq!(gguf.opt_u32("llama.nothing").unwrap(), None);
    assert_eq!(
        gguf.u32("llama.nothing").unwrap_err().to_string(),
        "x.gguf: the metadata has no 'llama.nothing': not a complete model, convert it again"
    );
    assert_eq!(
        gguf.u32("general.name").unwrap_err().to_string(),
        "x.gguf: metadata 'general.name' is of type string, expected an unsigned integer: convert the model again"
    );
    assert_eq!(
        gguf.u32("test.i8").unwrap_err().to_string(),
        "x.gguf: metadata 'test.i8' is I8(-3), expected 0 to 4294967295: convert the model again"
    );
    assert!(gguf.str("test.i8").is_err());
    assert!(gguf.f32("test.i8").is_err());
    assert!(gguf.opt_bool("test.i8").is_err());
    assert!(gguf.opt_array("test.i8").is_err());
}

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
    assert!(open_llm(&first).is_ok());
    fs::write(&second, &fs::read(&second).unwrap()[..60]).unwrap();
    assert!(message(&first).ends_with("the download is incomplete, fetch it again"));
    let renamed = part(0, "first.gguf");
    assert!(message(&renamed).contains("its name must end in -00001-of-00002.gguf"));
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

/// Counts up, so that every byte shows its place.
#[test]
fn blocks_come_in_whole_rows_one_behind_the_other() {
    let mut writer = GgufWriter::new();
    writer
        .tensor("a", &[300_000, 3], GgmlType::F32)
        .tensor("b", &[256, 3000], GgmlType::Q6_K)
        .tensor("c", &[5], GgmlType::F16);
    let mut bytes = Vec::new();
    writer
        .write_blocks(&mut bytes, |tensor| {
            let row_bytes = tensor.row_bytes().unwrap() as usize;
            let mut n = 0usize;
            Ok(move |rows: &mut [u8]| {
                assert!(rows.len().is_multiple_of(row_bytes) && !rows.is_empty());
                for byte in rows {
                    *byte = (n % 251) as u8;
                    n += 1;
                }
            })
        })
        .unwrap();
    assert_eq!(writer.file_bytes().unwrap(), bytes.len() as u64);
    let gguf = Gguf::parse("x.gguf", bytes.as_slice(), bytes.len() as u64).unwrap();
    for (tensor, n_bytes) in gguf.tensors().iter().zip([3_600_000, 630_000, 10]) {
        assert_eq!(tensor.n_bytes, n_bytes);
        let data = &bytes[tensor.file_offset as usize..][..n_bytes as usize];
        assert!(
            data.iter().enumerate().all(|(i, &byte)| byte == (i % 251) as u8),
            "{}",
            tensor.name
        );
    }
}

#[test]
fn blocks_that_cannot_be_had_stop_the_writing() {
    let mut writer = GgufWriter::new();
    writer.tensor("a", &[32], GgmlType::Q8_0);
    let refuse = |_: &PlannedTensor| -> io::Result<fn(&mut [u8])> { Err(io::Error::other("none")) };
    assert_eq!(
        writer.write_blocks(Vec::new(), refuse).unwrap_err().to_string(),
        "none"
    );
    writer.tensor("b", &[31], GgmlType::Q8_0);
    let fill = |_: &PlannedTensor| Ok(|rows: &mut [u8]| rows.fill(0));
    let error = writer.write_blocks(Vec::new(), fill).unwrap_err();
    assert_eq!(
        error.to_string(),
        "tensor 'b' of shape [31] cannot be stored as q8_0"
    );
    assert_eq!(
        writer.file_bytes().unwrap_err().kind(),
        io::ErrorKind::InvalidInput
    );
}
