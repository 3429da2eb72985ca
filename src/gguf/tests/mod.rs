//! What is written is read back.

mod hostile;
mod shapes;

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
