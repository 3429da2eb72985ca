//! Smaller copies of a model, by llama.cpp's own quantizer.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::engine::options::{MAX_THREADS, in_range};
use crate::engine::{Error, n_threads};
use crate::ffi::{self, Status};
use crate::gguf::{FileType, GgmlType, Gguf, GgufError, Problem, TensorInfo, later_parts, open_llm};
use crate::part_file::PartFile;

/// The alignment of what llama.cpp's quantizer writes: it copies a file's own alignment as metadata, and does not keep it
/// (llama-quant.cpp@0.1.161: `GGUF_DEFAULT_ALIGNMENT`).
const ALIGNMENT: u64 = 32;

/// What is made of a model, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuantizeOptions {
    /// The quantization.
    pub ty: FileType,
    /// Threads. Default: as many as the machine has.
    pub n_threads: Option<u32>,
    /// Take a model that is quantized already. What it has lost stays lost. Default: no.
    pub allow_requantize: bool,
    /// Replace a file of the output's name. Default: no.
    pub overwrite: bool,
}

impl QuantizeOptions {
    /// The defaults, for a quantization.
    pub fn new(ty: FileType) -> Self {
        Self {
            ty,
            n_threads: None,
            allow_requantize: false,
            overwrite: false,
        }
    }
}

/// A file that was made, and what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantized {
    /// The file.
    pub path: PathBuf,
    /// Its length in bytes.
    pub file_bytes: u64,
    /// Weights.
    pub n_params: u64,
    /// Its tensors by type, the type with most bytes first.
    pub types: Vec<TypeShare>,
    /// Matrices whose rows are no whole blocks of the quantization's own type ([`FileType::base`]): llama.cpp gives them
    /// another one, mostly with more bits.
    pub n_fallback: usize,
}

/// The tensors of one type in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypeShare {
    /// The type.
    pub ty: GgmlType,
    /// How many tensors have it.
    pub n_tensors: usize,
    /// Their data in bytes.
    pub n_bytes: u64,
}

impl Quantized {
    /// Bits per weight, of all tensors together.
    pub fn bits_per_weight(&self) -> f64 {
        let n_bytes: u64 = self.types.iter().map(|share| share.n_bytes).sum();
        n_bytes as f64 * 8.0 / self.n_params as f64
    }

    fn of(path: PathBuf, before: &[Gguf], after: &Gguf, ty: FileType) -> Self {
        let mut types: Vec<TypeShare> = Vec::new();
        for tensor in after.tensors() {
            match types.iter_mut().find(|share| share.ty == tensor.ty) {
                Some(share) => {
                    share.n_tensors += 1;
                    share.n_bytes += tensor.n_bytes;
                }
                None => types.push(TypeShare {
                    ty: tensor.ty,
                    n_tensors: 1,
                    n_bytes: tensor.n_bytes,
                }),
            }
        }
        types.sort_by_key(|share| std::cmp::Reverse(share.n_bytes));
        let types_before: HashMap<&str, GgmlType> = tensors(before)
            .map(|tensor| (tensor.name.as_str(), tensor.ty))
            .collect();
        let is_fallback = |tensor: &&TensorInfo| {
            let is_new = types_before.get(tensor.name.as_str()) != Some(&tensor.ty);
            is_new && !tensor.dims[0].is_multiple_of(ty.base().block_len())
        };
        Self {
            path,
            file_bytes: after.file_bytes(),
            n_params: after.tensors().iter().map(TensorInfo::n_elements).sum(),
            types,
            n_fallback: after.tensors().iter().filter(is_fallback).count(),
        }
    }
}

/// Writes a quantized copy of a language model, in one file even if the model is split over several. `progress` hears how
/// much is done, from 0 to 1, and may stop the work. The copy gets its name once it is complete; whatever goes wrong before
/// that leaves nothing behind.
///
/// ```no_run
/// use std::ops::ControlFlow;
/// use visipruner::engine::{QuantizeOptions, quantize};
/// use visipruner::gguf::FileType;
///
/// let options = QuantizeOptions::new(FileType::Q4_K_M);
/// let made = quantize("llava-f16.gguf", "llava-Q4_K_M.gguf", &options, |_| ControlFlow::Continue(()))?;
/// println!("{:.2} bits per weight", made.bits_per_weight());
/// # Ok::<(), visipruner::engine::Error>(())
/// ```
///
/// # Errors
/// [`Error::File`] for an input that is missing, damaged or no model; [`Error::Quantize`] for one that cannot be quantized
/// (a projector) and where llama.cpp fails; [`Error::QuantizedAlready`] unless `allow_requantize`; [`Error::FileExists`]
/// unless `overwrite`; [`Error::Write`]; [`Error::QuantizeStopped`]; [`Error::OptionRange`].
pub fn quantize(
    input: impl AsRef<Path>,
    output: impl AsRef<Path>,
    options: &QuantizeOptions,
    progress: impl FnMut(f32) -> ControlFlow<()>,
) -> Result<Quantized, Error> {
    let (input, output) = (input.as_ref(), output.as_ref());
    in_range("n_threads", options.n_threads.unwrap_or(1), 1..=MAX_THREADS)?;
    let failed = |reason: String| Error::Quantize {
        path: input.to_owned(),
        ty: options.ty.name(),
        reason,
    };
    let before = match open_llm(input) {
        Ok((gguf, _)) => gguf,
        Err(GgufError {
            problem: Problem::IsProjector,
            ..
        }) => return Err(failed(PROJECTOR.to_owned())),
        Err(error) => return Err(error.into()),
    };
    let mut parts = later_parts(&before)?;
    parts.insert(0, before);
    parts.iter().try_for_each(check_input).map_err(failed)?;
    let quantized = tensors(&parts).find(|tensor| tensor.ty.block_len() > 1);
    if let Some(tensor) = quantized.filter(|_| !options.allow_requantize) {
        return Err(Error::QuantizedAlready {
            path: input.to_owned(),
            ty: options.ty.name(),
            tensor: tensor.name.clone(),
            tensor_ty: tensor.ty.name(),
        });
    }
    if is_same_file(input, output) {
        return Err(failed(
            "the output is the model itself: give another name".to_owned(),
        ));
    }
    if output.exists() && !options.overwrite {
        return Err(Error::FileExists {
            path: output.to_owned(),
        });
    }
    let part = PartFile::new(output.to_owned());
    let write_failed = |source| Error::Write {
        path: output.to_owned(),
        source,
    };
    // the system's own reason why a file cannot be written; llama.cpp has none
    File::create(part.part()).map_err(write_failed)?;
    write(input, part.part(), options, progress).map_err(|error| match error {
        Error::Quantize { .. } => takes_no_more(part.part()).map_or(error, write_failed),
        _ => error,
    })?;
    // llama.cpp does not notice a disk that gets full while it closes the file
    let after = Gguf::open(part.part()).map_err(|error| {
        failed(format!(
            "what came out is damaged ({}): is the disk full?",
            error.problem
        ))
    })?;
    let path = part.name().map_err(write_failed)?;
    Ok(Quantized::of(path, &parts, &after, options.ty))
}

/// Why a file takes no more bytes, if it does not.
fn takes_no_more(path: &Path) -> Option<io::Error> {
    let mut file = File::options().append(true).open(path).ok()?;
    file.write_all(&[0; 4096]).err()
}

/// The tensors of all parts.
fn tensors(parts: &[Gguf]) -> impl Iterator<Item = &TensorInfo> {
    parts.iter().flat_map(Gguf::tensors)
}

const PROJECTOR: &str = "it is an image projector (mmproj), and language models are quantized: give the model that it \
                         belongs to; the projector goes with every quantization of it";

/// What llama.cpp would assert, write wrongly, or say in its own words only.
fn check_input(gguf: &Gguf) -> Result<(), String> {
    if gguf.alignment() != ALIGNMENT {
        let alignment = gguf.alignment();
        return Err(format!(
            "its tensors are aligned to {alignment} bytes, and llama.cpp quantizes files with {ALIGNMENT}: convert the \
             model again"
        ));
    }
    for tensor in gguf.tensors() {
        if tensor.dims.get(3).is_some_and(|&n| n > 1) {
            return Err(format!("tensor '{}' has four dimensions", tensor.name));
        }
    }
    Ok(())
}

/// Whether both paths lead to one file, through whatever links.
fn is_same_file(a: &Path, b: &Path) -> bool {
    matches!((fs::canonicalize(a), fs::canonicalize(b)), (Ok(a), Ok(b)) if a == b)
}

fn write(
    input: &Path,
    part: &Path,
    options: &QuantizeOptions,
    mut progress: impl FnMut(f32) -> ControlFlow<()>,
) -> Result<(), Error> {
    let failed = |reason: String| Error::Quantize {
        path: input.to_owned(),
        ty: options.ty.name(),
        reason,
    };
    let (Some(c_input), Some(c_part)) = (ffi::c_path(input), ffi::c_path(part)) else {
        return Err(failed("a name holds a NUL byte".to_owned()));
    };
    let params = ffi::QuantizeParams {
        ftype: options.ty.id(),
        n_threads: n_threads(options.n_threads),
        allow_requantize: options.allow_requantize,
    };
    let mut go_on = |done: f32| progress(done).is_continue();
    ffi::quantize(&c_input, &c_part, &params, &mut go_on).map_err(|error| match error.status {
        Status::Aborted => Error::QuantizeStopped {
            path: input.to_owned(),
        },
        _ => failed(error.message),
    })
}
