//! What the rest of the crate needs to know of a language model and of an image projector.

mod projector;

use std::path::Path;

use super::{Gguf, GgufError, Problem, TensorInfo, Value, encoders, language, llava};
pub use projector::ProjectorShape;

/// `llama-hparams.h: LLAMA_MAX_LAYERS`
const MAX_LAYERS: u32 = 512;

/// The shape of a language model.
#[derive(Debug, Clone, PartialEq)]
pub struct LlmShape {
    /// `general.architecture`, such as `llama`.
    pub arch: String,
    /// `general.name`, if it has one.
    pub name: Option<String>,
    /// `general.file_type`: the quantization of most tensors, see [`file_type_name`](super::file_type_name).
    pub file_type: Option<u32>,
    /// Layers.
    pub n_layer: u32,
    /// Width of the hidden rows.
    pub n_embd: u32,
    /// Query heads of each layer, `[n_layer]`.
    pub n_head: Vec<u32>,
    /// Key and value heads of each layer, `[n_layer]`.
    pub n_head_kv: Vec<u32>,
    /// Width of a key vector of one head.
    pub head_dim_k: u32,
    /// Width of a value vector of one head.
    pub head_dim_v: u32,
    /// Width of the feed-forward network of each layer, `[n_layer]`.
    pub n_ff: Vec<u32>,
    /// The longest context that the model was trained with, in tokens.
    pub n_ctx_train: u32,
    /// Tokens in the vocabulary.
    pub n_vocab: u32,
    /// Experts per layer, 0 for a dense model.
    pub n_expert: u32,
    /// The model's chat template, if it has one.
    pub chat_template: Option<String>,
    /// Weights. [`open_llm`] counts all parts of a split model, [`LlmShape::from_gguf`] those of the first.
    pub n_params: u64,
    /// The length of the file in bytes, or of all files as above.
    pub file_bytes: u64,
}

impl LlmShape {
    /// Reads the shape from the metadata.
    ///
    /// # Errors
    /// [`Problem::IsProjector`], [`Problem::NotModel`] and [`Problem::LaterPart`] where the file is something
    /// else; [`Problem::MissingKey`], [`Problem::WrongType`] and [`Problem::OutOfRange`] where the metadata
    /// is not that of a transformer.
    pub fn from_gguf(gguf: &Gguf) -> Result<LlmShape, GgufError> {
        refuse_later_part(gguf)?;
        let arch = arch_of_model(gguf)?;
        if arch == "clip" {
            return Err(gguf.error(Problem::IsProjector));
        }
        let key = |suffix: &str| format!("{arch}.{suffix}");
        let n_layer = positive(gguf, &key("block_count"), MAX_LAYERS)?;
        let n_embd = positive(gguf, &key("embedding_length"), u32::MAX)?;
        let n_head = per_layer(gguf, &key("attention.head_count"), n_layer)?;
        let n_head = n_head.ok_or_else(|| missing(gguf, key("attention.head_count")))?;
        let n_head_kv = per_layer(gguf, &key("attention.head_count_kv"), n_layer)?;
        for norm in ["attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon"] {
            not_negative(gguf, &key(norm))?;
        }
        let head_dim = n_head
            .iter()
            .max()
            .map_or(0, |&n| n_embd.checked_div(n).unwrap_or(0));
        Ok(LlmShape {
            name: gguf.opt_str("general.name")?.map(str::to_owned),
            file_type: gguf.opt_u32("general.file_type")?,
            n_layer,
            n_embd,
            n_head_kv: n_head_kv.unwrap_or_else(|| n_head.clone()),
            n_head,
            head_dim_k: gguf.opt_u32(&key("attention.key_length"))?.unwrap_or(head_dim),
            head_dim_v: gguf.opt_u32(&key("attention.value_length"))?.unwrap_or(head_dim),
            n_ff: per_layer(gguf, &key("feed_forward_length"), n_layer)?
                .unwrap_or_else(|| vec![0; n_layer as usize]),
            n_ctx_train: gguf.u32(&key("context_length"))?,
            n_vocab: n_vocab(gguf, &key("vocab_size"))?,
            n_expert: gguf.opt_u32(&key("expert_count"))?.unwrap_or(0),
            chat_template: gguf.opt_str("tokenizer.chat_template")?.map(str::to_owned),
            n_params: n_params(gguf),
            file_bytes: gguf.file_bytes(),
            arch: arch.to_owned(),
        })
    }

    /// Whether some layer has fewer key-value heads than query heads (grouped-query attention).
    pub fn is_gqa(&self) -> bool {
        self.n_head != self.n_head_kv
    }
}

/// Where a file stands in a model that is split into several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// The part, counted from 0.
    pub no: u32,
    /// The number of parts, at least 2.
    pub count: u32,
}

impl Split {
    /// Reads `split.no` and `split.count`; `None` for a model in one file.
    ///
    /// # Errors
    /// [`Problem::WrongType`] or [`Problem::OutOfRange`].
    pub fn from_gguf(gguf: &Gguf) -> Result<Option<Split>, GgufError> {
        let count = gguf.opt_u32("split.count")?.unwrap_or(0);
        if count < 2 {
            return Ok(None);
        }
        // part numbers have 5 digits in file names
        within(gguf, "split.count", count, 2, 99_999)?;
        let no = gguf.opt_u32("split.no")?.unwrap_or(0);
        within(gguf, "split.no", no, 0, count - 1)?;
        Ok(Some(Split { no, count }))
    }
}

/// Opens a language model: reads its header, checks it and what llama.cpp would find out too late; where it is split into
/// several files, checks that the others are there and complete.
///
/// # Errors
/// As [`Gguf::open`] and [`LlmShape::from_gguf`]; [`Problem::TensorType`] where a tensor has a type that does not work
/// in its place; [`Problem::PartName`] and [`Problem::Part`] for split models.
pub fn open_llm(path: impl AsRef<Path>) -> Result<(Gguf, LlmShape), GgufError> {
    let gguf = Gguf::open(path)?;
    let mut shape = LlmShape::from_gguf(&gguf)?;
    let later = later_parts(&gguf)?;
    for part in &later {
        shape.n_params = shape.n_params.saturating_add(n_params(part));
        shape.file_bytes = shape.file_bytes.saturating_add(part.file_bytes());
    }
    let parts: Vec<&Gguf> = std::iter::once(&gguf).chain(&later).collect();
    language::check(&parts, &shape)?;
    Ok((gguf, shape))
}

/// The parts of a split model after its first; none of a model in one file.
///
/// # Errors
/// [`Problem::PartName`] and [`Problem::Part`].
pub fn later_parts(first: &Gguf) -> Result<Vec<Gguf>, GgufError> {
    match Split::from_gguf(first)? {
        Some(split) => open_parts(first, split),
        None => Ok(Vec::new()),
    }
}

/// Opens an image projector: reads its header and checks it; for LLaVA's kinds every tensor's shape too, for others that are
/// known what llama.cpp would find out too late.
///
/// # Errors
/// As [`Gguf::open`] and [`ProjectorShape::from_gguf`]; [`Problem::MissingTensor`], [`Problem::TensorShape`] and
/// [`Problem::TensorType`] where tensors don't fit each other.
pub fn open_projector(path: impl AsRef<Path>) -> Result<(Gguf, ProjectorShape), GgufError> {
    let gguf = Gguf::open(path)?;
    if let Some(Split { count, .. }) = Split::from_gguf(&gguf)?.filter(|_| is_projector(&gguf)) {
        return Err(gguf.error(Problem::SplitProjector { n_parts: count }));
    }
    let shape = ProjectorShape::from_gguf(&gguf)?;
    llava::check(&gguf, &shape)?;
    encoders::check(&gguf, &shape)?;
    Ok((gguf, shape))
}

/// Whether it is a part of a projector: later parts have no metadata, but the names of encoders' tensors.
fn is_projector(gguf: &Gguf) -> bool {
    let is_encoders = |tensor: &TensorInfo| {
        ["v.", "mm.", "a."]
            .iter()
            .any(|begin| tensor.name.starts_with(begin))
    };
    match gguf.get("general.architecture") {
        Some(Value::String(arch)) => arch == "clip",
        _ => gguf.tensors().iter().any(is_encoders),
    }
}

/// Checks that a projector makes vectors of the width that a language model takes. Projectors of a kind that
/// is not known here pass: llama.cpp compares them itself.
///
/// # Errors
/// [`Problem::OtherModel`].
pub fn check_pair(model: (&Gguf, &LlmShape), projector: (&Gguf, &ProjectorShape)) -> Result<(), GgufError> {
    let model_width = u64::from(model.1.n_embd);
    match projector.1.n_embd_out {
        Some(projector_width) if projector_width != model_width => {
            Err(projector.0.error(Problem::OtherModel {
                projector_width,
                model: model.0.path().to_owned(),
                model_width,
            }))
        }
        _ => Ok(()),
    }
}

/// The architecture, if the file is a model at all.
fn arch_of_model(gguf: &Gguf) -> Result<&str, GgufError> {
    match gguf.opt_str("general.type")? {
        None | Some("model" | "mmproj" | "clip-vision") => gguf.str("general.architecture"),
        Some(kind) => Err(gguf.error(Problem::NotModel {
            kind: kind.to_owned(),
        })),
    }
}

fn refuse_later_part(gguf: &Gguf) -> Result<(), GgufError> {
    match Split::from_gguf(gguf)? {
        Some(Split { no, count }) if no > 0 => Err(gguf.error(Problem::LaterPart {
            part: no + 1,
            n_parts: count,
        })),
        _ => Ok(()),
    }
}

/// Opens every further part, as `llama.cpp: llama_split_path` names them.
fn open_parts(first: &Gguf, split: Split) -> Result<Vec<Gguf>, GgufError> {
    let part_name = |no: u32| format!("-{:05}-of-{:05}.gguf", no + 1, split.count);
    let name = first.path().file_name().unwrap_or_default().to_string_lossy();
    let Some(prefix) = name.strip_suffix(&part_name(0)) else {
        let problem = Problem::PartName {
            n_parts: split.count,
            expected: part_name(0),
        };
        return Err(first.error(problem));
    };
    let open = |no: u32| {
        let path = first.path().with_file_name(format!("{prefix}{}", part_name(no)));
        Gguf::open(path).map_err(|source| {
            first.error(Problem::Part {
                part: no + 1,
                n_parts: split.count,
                source: Box::new(source),
            })
        })
    };
    (1..split.count).map(open).collect()
}

/// An integer of at least 1 and at most `max`.
fn positive(gguf: &Gguf, key: &str, max: u32) -> Result<u32, GgufError> {
    let value = gguf.u32(key)?;
    within(gguf, key, value, 1, max)?;
    Ok(value)
}

pub(crate) fn within(gguf: &Gguf, key: &str, value: u32, min: u32, max: u32) -> Result<(), GgufError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(gguf.error(Problem::OutOfRange {
        key: key.to_owned(),
        found: value.to_string(),
        expected: format!("{min} to {max}"),
    }))
}

fn missing(gguf: &Gguf, key: String) -> GgufError {
    gguf.error(Problem::MissingKey { key })
}

/// One integer for all layers, or an array of one for each; `None` where there is no such key.
fn per_layer(gguf: &Gguf, key: &str, n_layer: u32) -> Result<Option<Vec<u32>>, GgufError> {
    let Some(Value::Array(array)) = gguf.get(key) else {
        return Ok(gguf.opt_u32(key)?.map(|n| vec![n; n_layer as usize]));
    };
    let wrong = |found: String| {
        let expected = "an integer, or an array of one for each layer";
        gguf.error(Problem::WrongType {
            key: key.to_owned(),
            found,
            expected,
        })
    };
    let Some(integers) = array.as_integers() else {
        return Err(wrong(format!("an array of {}", array.type_name())));
    };
    if integers.len() < n_layer as usize {
        return Err(wrong(format!(
            "an array of {} for {n_layer} layers",
            integers.len()
        )));
    }
    let fitting = integers.iter().take(n_layer as usize).map(|&n| u32::try_from(n));
    fitting
        .collect::<Result<_, _>>()
        .map(Some)
        .map_err(|_| wrong("an array with numbers beyond 32 bits".to_owned()))
}

/// The vocabulary's size as the model states it, else as its tokenizer has it.
fn n_vocab(gguf: &Gguf, key: &str) -> Result<u32, GgufError> {
    if let Some(n) = gguf.opt_u32(key)? {
        return Ok(n);
    }
    match gguf.opt_array("tokenizer.ggml.tokens")? {
        // arrays that were read are far shorter than 2^32
        Some(tokens) => Ok(tokens.len() as u32),
        None => Err(missing(gguf, "tokenizer.ggml.tokens".to_owned())),
    }
}

fn n_params(gguf: &Gguf) -> u64 {
    gguf.tensors()
        .iter()
        .fold(0, |n, tensor| n.saturating_add(tensor.n_elements()))
}

/// What is added under a root: ggml asserts that it is not negative.
fn not_negative(gguf: &Gguf, key: &str) -> Result<(), GgufError> {
    match gguf.opt_f32(key)? {
        Some(number) if !(0.0..f32::INFINITY).contains(&number) => Err(gguf.error(Problem::OutOfRange {
            key: key.to_owned(),
            found: number.to_string(),
            expected: "a number that is not negative".to_owned(),
        })),
        _ => Ok(()),
    }
}
