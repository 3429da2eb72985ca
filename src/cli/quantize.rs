//! `visipruner quantize`: a smaller copy of a model.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use visipruner::engine::{self, QuantizeOptions, Quantized, TypeShare};
use visipruner::gguf::FileType;

use super::answer::show_log;
use super::args::QuantizeArgs;
use super::error::Error;
use super::files::{without_part, without_quantization};
use super::interrupt::Interrupt;
use super::terminal::Terminal;
use super::{output, units};

/// Writes the copy, and says what came out.
///
/// # Errors
/// A file that is no model or quantized already, one that is there, and what the operating system refuses. Ctrl-C and errors
/// leave nothing behind.
pub fn run(args: &QuantizeArgs) -> Result<(), Error> {
    let mut terminal = Terminal::new(&args.output);
    show_log(args.output.verbose);
    let interrupt = Interrupt::listen();
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| default_name(&args.model, args.ty));
    let options = QuantizeOptions {
        n_threads: args.threads.map(u32::from),
        allow_requantize: args.allow_requantize,
        overwrite: args.force,
        ..QuantizeOptions::new(args.ty)
    };
    let quantized = engine::quantize(&args.model, out, &options, |done| {
        terminal.progress("quantizing", done);
        if interrupt.is_pressed() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    terminal.clear();
    let quantized = quantized?;
    if quantized.n_fallback > 0 {
        terminal.warn(fallback(&quantized, args.ty));
    }
    output::print_lines(&summary(&quantized))
}

/// `llava-Q4_K_M.gguf` beside `llava-f16.gguf`.
fn default_name(model: &Path, ty: FileType) -> PathBuf {
    let stem = model.file_stem().unwrap_or_default().to_string_lossy();
    let plain = without_quantization(without_part(&stem));
    model.with_file_name(format!("{plain}-{}.gguf", ty.name()))
}

fn summary(quantized: &Quantized) -> Vec<String> {
    let of_type = |share: &TypeShare| format!("{} in {}", share.n_tensors, share.ty.name());
    let types: Vec<String> = quantized.types.iter().map(of_type).collect();
    vec![
        format!(
            "model      {} ({}, {} weights, {:.2} bits per weight)",
            quantized.path.display(),
            units::bytes(quantized.file_bytes),
            units::count(quantized.n_params),
            quantized.bits_per_weight()
        ),
        format!("tensors    {}", types.join(", ")),
    ]
}

fn fallback(quantized: &Quantized, ty: FileType) -> String {
    format!(
        "{} matrices have rows that are no multiple of {}, as {} needs them: llama.cpp took other types for them",
        quantized.n_fallback,
        ty.base().block_len(),
        ty.name()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_is_called_after_model_and_type() {
        let name = |model: &str| default_name(Path::new(model), FileType::Q4_K_M);
        assert_eq!(name("a/llava-f16.gguf"), Path::new("a/llava-Q4_K_M.gguf"));
        assert_eq!(
            name("llava-v1.5-7b.BF16.gguf"),
            Path::new("llava-v1.5-7b-Q4_K_M.gguf")
        );
        assert_eq!(name("llava-v1.5-7b.gguf"), Path::new("llava-v1.5-7b-Q4_K_M.gguf"));
        assert_eq!(
            name("llava-f16-00001-of-00003.gguf"),
            Path::new("llava-Q4_K_M.gguf")
        );
        assert_eq!(name("one-of-00003.gguf"), Path::new("one-of-00003-Q4_K_M.gguf"));
    }
}
