//! What can be wrong with a GGUF.

use std::io;
use std::path::PathBuf;

/// A GGUF that cannot be used, and why, in one line.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct GgufError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a GGUF.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// No file of that name.
    #[error("no such file: check the path")]
    NotFound,

    /// The path names something else than a file.
    #[error("this is {kind}, not a file: give the path of a .gguf file")]
    NotFile {
        /// What it is.
        kind: &'static str,
    },

    /// The operating system refused.
    #[error("cannot {action} the file: {source}")]
    Io {
        /// What was attempted: "open", "read", "write".
        action: &'static str,
        /// What the operating system said.
        source: io::Error,
    },

    /// A file of no bytes.
    #[error("the file is empty: download or export it again")]
    Empty,

    /// Not a GGUF at all.
    #[error("not a GGUF file but {found}: {advice}")]
    NotGguf {
        /// What the first bytes look like.
        found: &'static str,
        /// What to do about it.
        advice: &'static str,
    },

    /// A picture was given where a model was expected.
    #[error("not a GGUF file but {found}: give it as a picture")]
    IsPicture {
        /// What the first bytes look like.
        found: &'static str,
    },

    /// Written for a machine of the other byte order.
    #[error(
        "a big-endian GGUF, this machine is little-endian: download or convert the little-endian variant"
    )]
    BigEndian,

    /// A version that llama.cpp does not read.
    #[error(
        "GGUF version {version}, versions 2 and 3 are supported: convert the model again with {advice} converter"
    )]
    Version {
        /// The version found.
        version: u32,
        /// "a newer" for old files, "an older" for new ones.
        advice: &'static str,
    },

    /// The file ends inside its header.
    #[error(
        "the file ends after {file_bytes} bytes, inside {inside}: the download is incomplete, fetch it again"
    )]
    HeaderTruncated {
        /// The length of the file.
        file_bytes: u64,
        /// What was being read.
        inside: String,
    },

    /// The file ends before the data of a tensor does.
    #[error(
        "tensor '{tensor}' ends at byte {end} but the file has {file_bytes}: the download is incomplete, fetch it again"
    )]
    TensorTruncated {
        /// The first tensor that is not there in full.
        tensor: String,
        /// The byte after its last one.
        end: u64,
        /// The length of the file.
        file_bytes: u64,
    },

    /// Something in the header contradicts the format.
    #[error("{what}: the file is corrupted, download or export it again")]
    Corrupted {
        /// The contradiction, with the values found.
        what: String,
    },

    /// A tensor type that this version of ggml does not have.
    #[error(
        "tensor '{tensor}' has ggml type {id}, which this version of llama.cpp does not know: use another quantization"
    )]
    UnknownTensorType {
        /// The tensor.
        tensor: String,
        /// The number of its type.
        id: u32,
    },

    /// A metadata key that is needed is missing.
    #[error("the metadata has no '{key}': not a complete model, convert it again")]
    MissingKey {
        /// The key.
        key: String,
    },

    /// A metadata value has another type than it should.
    #[error("metadata '{key}' is {found}, expected {expected}: convert the model again")]
    WrongType {
        /// The key.
        key: String,
        /// The type or value found.
        found: String,
        /// What was expected.
        expected: &'static str,
    },

    /// A value is out of its range.
    #[error("metadata '{key}' is {found}, expected {expected}: convert the model again")]
    OutOfRange {
        /// The key.
        key: String,
        /// The value found.
        found: String,
        /// The range.
        expected: String,
    },

    /// A tensor that is needed is missing.
    #[error("there is no tensor '{tensor}': not a complete model, convert it again")]
    MissingTensor {
        /// The tensor.
        tensor: String,
    },

    /// A tensor whose shape contradicts the metadata or another tensor.
    #[error("tensor '{tensor}' is {found}, expected {expected}: the file is damaged or of another kind")]
    TensorShape {
        /// The tensor.
        tensor: String,
        /// Its dimensions, row length first.
        found: String,
        /// What they should be.
        expected: String,
    },

    /// A tensor of a type that llama.cpp does not compute with in this place.
    #[error("tensor '{tensor}' is {found}, only {expected} works here: convert the model again")]
    TensorType {
        /// The tensor.
        tensor: String,
        /// Its type.
        found: &'static str,
        /// The types that work.
        expected: String,
    },

    /// A tensor of a type that cannot be decoded here.
    #[error("tensor '{tensor}' is {found}: only f32, f16, bf16 and q8_0 are decoded here")]
    Undecodable {
        /// The tensor.
        tensor: String,
        /// Its type.
        found: &'static str,
    },

    /// A later part of a split model was given.
    #[error(
        "this is part {part} of {n_parts} of a split model: give the first part, the others are found beside it"
    )]
    LaterPart {
        /// This part, counted from 1.
        part: u32,
        /// How many there are.
        n_parts: u32,
    },

    /// The first part of a split model whose name does not say where the others are.
    #[error(
        "this is the first of {n_parts} parts of a split model, its name must end in {expected} for the others to be \
         found: rename it back"
    )]
    PartName {
        /// How many there are.
        n_parts: u32,
        /// How the name must end.
        expected: String,
    },

    /// A part of a split model is missing or unusable.
    #[error("part {part} of {n_parts} of this split model: {source}")]
    Part {
        /// The part, counted from 1.
        part: u32,
        /// How many there are.
        n_parts: u32,
        /// What is wrong with it.
        source: Box<GgufError>,
    },

    /// A projector in several files.
    #[error(
        "this is one of {n_parts} parts of a split image projector, and llama.cpp reads projectors in one file: join the \
         parts with llama-gguf-split"
    )]
    SplitProjector {
        /// How many there are.
        n_parts: u32,
    },

    /// A projector was given where a language model was expected.
    #[error("this is an image projector (mmproj), not a language model: give it as the projector")]
    IsProjector,

    /// Something else was given where a projector was expected.
    #[error("this is a model of architecture '{arch}', not an image projector: give the model's mmproj file")]
    NotProjector {
        /// The architecture found.
        arch: String,
    },

    /// A projector without vision.
    #[error("this projector has no vision encoder (audio only): give a projector for images")]
    NoVision,

    /// A LoRA adapter, control vector or tokenizer in the place of a model.
    #[error("this is a GGUF of type '{kind}', not a model: give the model it belongs to")]
    NotModel {
        /// `general.type`
        kind: String,
    },

    /// Projector and language model do not fit each other.
    #[error(
        "this projector makes vectors of width {projector_width}, but {} takes {model_width}: it belongs to another \
         model, give the mmproj file of this one", model.display()
    )]
    OtherModel {
        /// The width of the projector's output.
        projector_width: u64,
        /// The language model.
        model: PathBuf,
        /// The width of its embeddings.
        model_width: u64,
    },
}
