//! Quantized copies of random models: the types of their tensors, their values, and what is refused.

use visipruner::engine::{QuantizeOptions, Quantized, TypeShare, quantize};
use visipruner::gguf::{FileType, GgmlType, Gguf, GgufWriter};

use super::*;

/// A random model in a folder of its own.
struct Source {
    folder: TempDir,
    model: PathBuf,
}

impl Source {
    fn new(llm: &RandomLlm) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let model = folder.path().join("model-f32.gguf");
        llm.write(&model);
        Self { folder, model }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The names in the folder, sorted.
    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).expect("a folder");
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("an entry").file_name();
        let mut names: Vec<_> = entries
            .map(|entry| name(entry).into_string().expect("text"))
            .collect();
        names.sort();
        names
    }

    fn quantize(&self, ty: FileType) -> Quantized {
        quantize(
            &self.model,
            self.path("copy.gguf"),
            &options(ty),
            |_| Continue(()),
        )
        .expect("quantizes")
    }

    /// Asserts that nothing is made, and returns why.
    #[track_caller]
    fn refused(&self, model: &Path, options: &QuantizeOptions) -> String {
        let before = self.names();
        let refused = quantize(model, self.path("refused.gguf"), options, |_| Continue(()));
        assert_eq!(self.names(), before, "something is left behind");
        refused.expect_err("it is refused").to_string()
    }
}

fn options(ty: FileType) -> QuantizeOptions {
    QuantizeOptions {
        n_threads: Some(1),
        ..QuantizeOptions::new(ty)
    }
}

/// A width and a feed-forward width of whole blocks of 256.
fn wide() -> RandomLlm {
    RandomLlm {
        n_head: 8,
        n_ff: 512,
        ..RandomLlm::new(Arch::Llama, 3)
    }
}

fn is_matrix(name: &str) -> bool {
    name.ends_with(".weight") && !name.contains("norm")
}

fn type_of(gguf: &Gguf, name: &str) -> GgmlType {
    gguf.tensor(name).unwrap_or_else(|| panic!("no {name}")).ty
}

#[test]
fn q8_0_of_every_architecture_is_near_the_original_and_answers() {
    for arch in Arch::ALL {
        let source = Source::new(&RandomLlm::new(arch, 5));
        let copy = source.quantize(FileType::Q8_0);
        assert_eq!(source.names(), ["copy.gguf", "model-f32.gguf"]);
        let (before, after) = (Gguf::open(&source.model), Gguf::open(&copy.path));
        let (before, after) = (before.expect("opens"), after.expect("opens"));
        assert_eq!(after.tensors().len(), before.tensors().len());
        for tensor in before.tensors() {
            let name = &tensor.name;
            let [exact, rounded] = [&before, &after].map(|gguf| gguf.read_tensor_f32(name).expect("decodes"));
            if !is_matrix(name) {
                assert_eq!(exact, rounded, "{name}");
                continue;
            }
            assert_eq!(type_of(&after, name), GgmlType::Q8_0, "{name}");
            for (exact, rounded) in exact.chunks(32).zip(rounded.chunks(32)) {
                let largest = exact.iter().fold(0f32, |a, b| a.max(b.abs()));
                // half a step of the block, and the rounding of its scale to F16
                let tolerance = largest / 127.0 * 0.5 + largest / 2048.0 * 1.01;
                for (a, b) in exact.iter().zip(rounded) {
                    assert!(
                        (a - b).abs() <= tolerance,
                        "{name}: {a} became {b} beside {largest}"
                    );
                }
            }
        }
        for (key, value) in before.metadata() {
            if key != "general.file_type" {
                assert_eq!(after.get(key), Some(value), "{key}");
            }
        }
        assert_eq!(after.u32("general.file_type").expect("a number"), 7);

        let model = load(&copy.path).expect("the copy loads");
        let options = SessionOptions {
            n_threads: Some(1),
            ..SessionOptions::default()
        };
        let mut session = Session::new(&model, options).expect("a session");
        let request = Request {
            n_predict: 3,
            ignore_eos: true,
            ..Request::new(Prompt::raw("What colour?"))
        };
        let outcome = session.generate(None, &request, ignore).expect("an answer");
        assert_eq!(outcome.tokens.len(), 3, "{arch:?}");
    }
}

/// The first and the last eighth of the values and of the second feed-forward matrices, and every third between, have six
/// bits; so has the output.
#[test]
fn q4_k_m_gives_more_bits_to_what_needs_them() {
    let source = Source::new(&wide());
    let copy = source.quantize(FileType::Q4_K_M);
    let after = Gguf::open(&copy.path).expect("opens");
    for il in 0..8 {
        let better = if [0, 3, 6, 7].contains(&il) {
            GgmlType::Q6_K
        } else {
            GgmlType::Q4_K
        };
        for (name, expected) in [
            ("attn_v", better),
            ("ffn_down", better),
            ("attn_q", GgmlType::Q4_K),
            ("attn_k", GgmlType::Q4_K),
            ("attn_output", GgmlType::Q4_K),
            ("ffn_gate", GgmlType::Q4_K),
            ("ffn_up", GgmlType::Q4_K),
            ("attn_norm", GgmlType::F32),
        ] {
            let name = format!("blk.{il}.{name}.weight");
            assert_eq!(type_of(&after, &name), expected, "{name}");
        }
    }
    assert_eq!(type_of(&after, "output.weight"), GgmlType::Q6_K);
    assert_eq!(type_of(&after, "token_embd.weight"), GgmlType::Q4_K);
    assert_eq!(copy.n_fallback, 0);

    let n_bytes = |ty: GgmlType| {
        let of_type = after.tensors().iter().filter(|tensor| tensor.ty == ty);
        let n_bytes: Vec<u64> = of_type.map(|tensor| tensor.n_bytes).collect();
        TypeShare {
            ty,
            n_tensors: n_bytes.len(),
            n_bytes: n_bytes.iter().sum(),
        }
    };
    let expected = [GgmlType::Q4_K, GgmlType::Q6_K, GgmlType::F32].map(n_bytes);
    assert_eq!(copy.types, expected);
    assert_eq!(expected.map(|share| share.n_tensors), [49, 9, 17]);
    assert_eq!(
        copy.file_bytes,
        std::fs::metadata(&copy.path).expect("a file").len()
    );
    let bits = copy.bits_per_weight();
    assert!((4.5..6.6).contains(&bits), "{bits}");
}

/// Rows of 128 and 192 are no whole blocks of 256.
#[test]
fn rows_that_do_not_fit_get_another_type() {
    let source = Source::new(&RandomLlm::new(Arch::Llama, 5));
    let copy = source.quantize(FileType::Q4_K_M);
    let after = Gguf::open(&copy.path).expect("opens");
    assert_eq!(type_of(&after, "blk.1.attn_q.weight"), GgmlType::Q5_0);
    assert_eq!(type_of(&after, "blk.0.ffn_down.weight"), GgmlType::Q8_0);
    assert_eq!(copy.n_fallback, 8 * 7 + 2);
}

#[test]
fn every_type_on_offer_can_be_made_and_loads() {
    let source = Source::new(&RandomLlm { n_layer: 2, ..wide() });
    for &ty in FileType::ALL {
        let path = source.path(&format!("{}.gguf", ty.name()));
        let made = quantize(&source.model, &path, &options(ty), |_| Continue(()));
        let made = made.unwrap_or_else(|error| panic!("{ty:?}: {error}"));
        let model = load(&path).unwrap_or_else(|error| panic!("{ty:?}: {error}"));
        assert_eq!(model.n_params(), made.n_params);
        assert!(
            made.types.iter().any(|share| share.ty == ty.base()),
            "{ty:?}: {:?}",
            made.types
        );
    }
}

#[test]
fn progress_is_heard_and_can_stop_it() {
    let source = Source::new(&RandomLlm::new(Arch::Qwen2, 5));
    let mut heard = Vec::new();
    let copy = quantize(
        &source.model,
        source.path("copy.gguf"),
        &options(FileType::Q4_0),
        |done| {
            heard.push(done);
            Continue(())
        },
    );
    let n_tensors: usize = copy
        .expect("quantizes")
        .types
        .iter()
        .map(|share| share.n_tensors)
        .sum();
    assert_eq!((heard.len(), heard[0]), (n_tensors, 0.0));
    assert!(heard.windows(2).all(|pair| pair[0] < pair[1]) && heard[n_tensors - 1] < 1.0);

    let before = source.names();
    for n_more in [0, 3] {
        let mut n_heard = 0;
        let stopped = quantize(
            &source.model,
            source.path("stopped.gguf"),
            &options(FileType::Q4_0),
            |_| {
                n_heard += 1;
                if n_heard > n_more { Break(()) } else { Continue(()) }
            },
        );
        assert!(
            matches!(stopped, Err(Error::QuantizeStopped { .. })),
            "{stopped:?}"
        );
        assert_eq!((n_heard, source.names()), (n_more + 1, before.clone()));
    }
}

#[test]
fn a_split_model_becomes_one_file() {
    let source = Source::new(&RandomLlm::new(Arch::Llama, 5));
    let whole = Gguf::open(&source.model).expect("opens");
    let n = whole.tensors().len();
    for (no, tensors) in [0..n / 2, n / 2..n].into_iter().enumerate() {
        let mut writer = GgufWriter::new();
        if no == 0 {
            copy_metadata(&whole, &mut writer);
        }
        writer.set("split.no", no as u16).set("split.count", 2u16);
        writer.set("split.tensors.count", n as i32);
        let path = source.path(&format!("parts-0000{}-of-00002.gguf", no + 1));
        copy_tensors(&whole, tensors, writer, &path);
    }
    let parts = source.path("parts-00001-of-00002.gguf");
    let copy = quantize(
        &parts,
        source.path("from-parts.gguf"),
        &options(FileType::Q8_0),
        |_| Continue(()),
    );
    let copy = Gguf::open(copy.expect("quantizes").path).expect("opens");
    let expected = Gguf::open(source.quantize(FileType::Q8_0).path).expect("opens");
    assert_eq!(copy.metadata(), expected.metadata());
    assert_eq!(copy.tensors().len(), n);
    for tensor in expected.tensors() {
        let [a, b] = [&copy, &expected].map(|gguf| gguf.read_tensor(&tensor.name).expect("reads"));
        assert!(a == b, "{}", tensor.name);
    }
}

#[test]
fn what_is_no_model_or_damaged_is_refused() {
    let source = Source::new(&RandomLlm::new(Arch::Llama, 5));
    let q8_0 = options(FileType::Q8_0);
    RandomProjector::new(1, 128).write(source.path("mmproj.gguf"));
    let message = source.refused(&source.path("mmproj.gguf"), &q8_0);
    assert!(
        message.contains("mmproj.gguf to Q8_0: it is an image projector"),
        "{message}"
    );
    let bytes = std::fs::read(&source.model).expect("reads");
    std::fs::write(source.path("cut.gguf"), &bytes[..bytes.len() / 2]).expect("writes");
    let message = source.refused(&source.path("cut.gguf"), &q8_0);
    assert!(message.contains("incomplete"), "{message}");
    assert!(
        source
            .refused(&source.path("gone.gguf"), &q8_0)
            .contains("no such file")
    );
    let none = QuantizeOptions {
        n_threads: Some(0),
        ..q8_0.clone()
    };
    assert_eq!(
        source.refused(&source.model, &none),
        "n_threads is 0: expected 1 to 512"
    );
}

/// Not a number among the weights: llama.cpp sees it, and nothing is left behind.
#[test]
fn weights_that_are_no_numbers_are_refused() {
    let source = Source::new(&RandomLlm::new(Arch::Llama, 5));
    let whole = Gguf::open(&source.model).expect("opens");
    let offset = whole.tensor("blk.3.ffn_up.weight").expect("a tensor").file_offset as usize;
    let mut bytes = std::fs::read(&source.model).expect("reads");
    bytes[offset..offset + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(source.path("nan.gguf"), bytes).expect("writes");
    let message = source.refused(&source.path("nan.gguf"), &options(FileType::Q4_0));
    assert!(
        message.contains("nan.gguf to Q4_0: ") && message.contains("blk.3.ffn_up.weight"),
        "{message}"
    );
}

#[test]
fn a_quantized_model_is_refused_unless_allowed() {
    let llm = RandomLlm {
        ty: GgmlType::Q8_0,
        ..RandomLlm::new(Arch::Llama, 5)
    };
    let source = Source::new(&llm);
    let message = source.refused(&source.model, &options(FileType::Q4_0));
    assert!(
        message.contains("quantized already")
            && message.contains("q8_0")
            && message.ends_with("or allow requantizing"),
        "{message}"
    );
    let allowed = QuantizeOptions {
        allow_requantize: true,
        ..options(FileType::Q4_0)
    };
    let copy = quantize(
        &source.model,
        source.path("copy.gguf"),
        &allowed,
        |_| Continue(()),
    );
    let after = Gguf::open(copy.expect("quantizes").path).expect("opens");
    assert_eq!(type_of(&after, "blk.1.attn_q.weight"), GgmlType::Q4_0);
}

/// llama.cpp would write the first wrongly, and stop the process at the second.
#[test]
fn what_llama_cpp_cannot_quantize_is_refused() {
    let source = Source::new(&RandomLlm::new(Arch::Llama, 5));
    let whole = Gguf::open(&source.model).expect("opens");
    let mut writer = GgufWriter::new();
    copy_metadata(&whole, &mut writer);
    writer.align(64);
    copy_tensors(
        &whole,
        0..whole.tensors().len(),
        writer,
        &source.path("wide.gguf"),
    );
    let message = source.refused(&source.path("wide.gguf"), &options(FileType::Q8_0));
    assert!(message.contains("aligned to 64 bytes"), "{message}");

    let mut writer = GgufWriter::new();
    copy_metadata(&whole, &mut writer);
    writer.tensor("films.weight", &[32, 2, 2, 2], GgmlType::F32);
    copy_tensors(
        &whole,
        0..whole.tensors().len(),
        writer,
        &source.path("films.gguf"),
    );
    let message = source.refused(&source.path("films.gguf"), &options(FileType::Q8_0));
    assert!(
        message.contains("'films.weight' has four dimensions"),
        "{message}"
    );
}

#[test]
fn files_that_are_there_stay() {
    let source = Source::new(&RandomLlm::new(Arch::Llama, 5));
    let to = |output: &Path, options: &QuantizeOptions| {
        quantize(&source.model, output, options, |_| Continue(())).map_err(|error| error.to_string())
    };
    let q8_0 = options(FileType::Q8_0);
    let overwrite = QuantizeOptions {
        overwrite: true,
        ..q8_0.clone()
    };
    let before = std::fs::read(&source.model).expect("reads");
    let copy = source.path("copy.gguf");
    std::fs::write(&copy, "mine").expect("writes");
    let message = to(&copy, &q8_0).expect_err("it is there");
    assert!(message.contains("copy.gguf is there already"), "{message}");
    assert_eq!(std::fs::read(&copy).expect("reads"), b"mine");
    to(&copy, &overwrite).expect("replaces it");
    assert_eq!(
        Gguf::open(&copy)
            .expect("opens")
            .u32("general.file_type")
            .expect("a number"),
        7
    );

    let roundabout = source
        .folder
        .path()
        .join("..")
        .join(source.folder.path().file_name().expect("a name"));
    let message = to(&roundabout.join("model-f32.gguf"), &overwrite).expect_err("it is the model");
    assert!(message.contains("the output is the model itself"), "{message}");
    let message = to(&source.path("no/such/folder.gguf"), &q8_0).expect_err("no folder");
    assert!(
        message.contains("cannot write") && message.contains("folder.gguf"),
        "{message}"
    );
    assert_eq!(std::fs::read(&source.model).expect("reads"), before);
    assert_eq!(source.names(), ["copy.gguf", "model-f32.gguf"]);
}

fn copy_metadata(from: &Gguf, writer: &mut GgufWriter) {
    for (key, value) in from.metadata() {
        writer.set(key, value.clone());
    }
}

/// Adds some of a model's tensors, and writes the file; tensors that are not the model's are zeros.
fn copy_tensors(from: &Gguf, tensors: std::ops::Range<usize>, mut writer: GgufWriter, path: &Path) {
    for tensor in &from.tensors()[tensors] {
        let dims: Vec<usize> = tensor.dims.iter().map(|&n| n as usize).collect();
        writer.tensor(&tensor.name, &dims, tensor.ty);
    }
    let elements = |tensor: &visipruner::gguf::PlannedTensor| match from.read_tensor_f32(&tensor.name) {
        Ok(values) => values,
        Err(_) => vec![0.0; tensor.n_elements()],
    };
    writer.write_file(path, elements).expect("writes");
}
