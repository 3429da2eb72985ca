//! `visipruner synth`: models with random weights, to measure speed with.

use std::ops::ControlFlow;
use std::path::Path;

use visipruner::synth::{self, Files, Mix, SHAPES, Shape, Synth};

use super::args::{OutputArgs, SynthArgs};
use super::error::Error;
use super::interrupt::Interrupt;
use super::terminal::Terminal;
use super::{output, units};

/// Writes a language model and its projector, or lists the shapes that are known.
///
/// # Errors
/// More layers than the model has, files that are there, and what the operating system refuses.
pub fn run(args: &SynthArgs) -> Result<(), Error> {
    let Some(shape) = args.shape else {
        return output::print_lines(&table(args.mix));
    };
    let mut synth = Synth::new(shape).with_mix(args.mix).with_seed(args.seed);
    if let Some(n_layer) = args.layers {
        synth = synth.with_layers(n_layer)?;
    }
    let files = write(&synth, args)?;
    output::print_lines(&summary(&synth, &files))
}

fn write(synth: &Synth, args: &SynthArgs) -> Result<Files, synth::Error> {
    let mut terminal = Terminal::new(&OutputArgs {
        verbose: false,
        quiet: args.quiet,
    });
    let interrupt = Interrupt::listen();
    let written = synth.write(&args.output, args.force, |progress| {
        terminal.bytes("writing", progress.n_bytes, progress.n_bytes_total);
        if interrupt.is_pressed() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    terminal.clear();
    written
}

fn summary(synth: &Synth, files: &Files) -> Vec<String> {
    let line = |what: &str, path: &Path, n_params: u64| {
        let n_bytes = path.metadata().map_or(0, |metadata| metadata.len());
        let (size, n_params) = (units::bytes(n_bytes), units::count(n_params));
        format!("{what:<11}{} ({size}, {n_params} random weights)", path.display())
    };
    vec![
        line("model", &files.model, synth.llm().n_params()),
        line("projector", &files.mmproj, synth.mmproj().n_params()),
        format!(
            "try        visipruner bench -m {} --mmproj {}",
            quoted(&files.model),
            quoted(&files.mmproj)
        ),
    ]
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+:".contains(c);
    if text.chars().all(is_plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

fn table(mix: Mix) -> Vec<String> {
    let head = ["shape", "layers", "width", "heads", "vision tokens", "weights"];
    let mut lines = vec![row(&head.map(str::to_owned), mix.name(), "what")];
    lines.extend(SHAPES.iter().map(|shape| shape_row(shape, mix)));
    lines
}

fn shape_row(shape: &Shape, mix: Mix) -> String {
    let llm = &shape.llm;
    let heads = if llm.n_head == llm.n_head_kv {
        llm.n_head.to_string()
    } else {
        format!("{} on {}", llm.n_head, llm.n_head_kv)
    };
    let plan = Synth::new(shape).with_mix(mix).llm();
    let n_bytes = plan.file_bytes().unwrap_or(0);
    let columns = [
        shape.name.to_owned(),
        llm.n_layer.to_string(),
        llm.n_embd.to_string(),
        heads,
        shape.n_vision_tokens().to_string(),
        units::count(plan.n_params()),
    ];
    row(&columns, &units::bytes(n_bytes), shape.what)
}

fn row([name, layers, width, heads, tokens, weights]: &[String; 6], size: &str, what: &str) -> String {
    format!("{name:<17}{layers:>6}{width:>7}{heads:>9}{tokens:>15}{weights:>14}{size:>10}  {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_for_a_shell() {
        assert_eq!(quoted(Path::new("/tmp/a-b_1.gguf")), "/tmp/a-b_1.gguf");
        assert_eq!(quoted(Path::new("my models/it's")), r"'my models/it'\''s'");
    }
}
