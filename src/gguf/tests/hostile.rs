//! Files that are cut off, corrupted, made up, or something else: an error each time, with a reason.

use super::*;

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
            "not a GGUF file but a PNG image: give it as a picture",
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
