//! Stock llama.cpp beside us: the program `stock-eval` (tests/stock), which runs the same prompt on the unpatched library
//! whenever it is told to.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use visipruner::engine::Image;

use super::series::Answered;
use crate::cli::args::BenchArgs;
use crate::cli::error::Error;
use crate::cli::files::Files;

const HAS_ENDED: &str = "it has ended; --verbose shows what it said";

/// A running `stock-eval --bench 1`.
pub struct Stock {
    process: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

/// What it is told to do.
pub struct StockParams<'a> {
    /// The program.
    pub program: &'a Path,
    /// The model.
    pub files: &'a Files,
    /// The prompts: all begin with the same text up to the last `<__media__>`, the place of the last picture.
    pub questions: Vec<&'a [String; 2]>,
    /// Its pictures.
    pub images: &'a [Image],
    /// Size of the context.
    pub n_ctx: u32,
    /// Threads.
    pub n_threads: u32,
}

impl Stock {
    /// Starts the program, and waits until it has loaded the model and encoded the pictures.
    ///
    /// # Errors
    /// [`Error::Stock`]
    pub fn start(args: &BenchArgs, params: &StockParams<'_>) -> Result<Self, Error> {
        let failed = |reason: String| Error::Stock {
            program: params.program.to_owned(),
            reason,
        };
        let folder = tempfile::tempdir().map_err(|error| failed(error.to_string()))?;
        let mut command = Command::new(params.program);
        command.arg("-m").arg(params.files.model_path());
        if let Some(projector) = params.files.projector_path() {
            command.arg("--mmproj").arg(projector);
        }
        for (i, image) in params.images.iter().enumerate() {
            let path = folder.path().join(format!("{i}.ppm"));
            let header = format!("P6\n{} {}\n255\n", image.width(), image.height());
            std::fs::write(&path, [header.as_bytes(), image.data()].concat())
                .map_err(|error| failed(error.to_string()))?;
            command.arg("--image").arg(path);
        }
        if let Some((first, further)) = params.questions.split_first() {
            command.arg("-p").arg(first.concat());
            for [_, question] in further {
                command.arg("--question").arg(question);
            }
        }
        let compute = &args.compute;
        let flags = [
            ("-n", args.n_gen.to_string()),
            ("-c", params.n_ctx.to_string()),
            ("-t", params.n_threads.to_string()),
            ("-b", compute.batch_size.to_string()),
            ("-ub", compute.ubatch_size.to_string()),
            ("-fa", compute.flash_attn.to_string()),
            ("-ctk", compute.cache_type_k.to_string()),
            ("-ctv", compute.cache_type_v.to_string()),
            ("-ngl", crate::cli::run::n_gpu_layers(compute).to_string()),
            ("--bench", "1".to_owned()),
        ];
        for (flag, value) in flags {
            command.arg(flag).arg(value);
        }
        let log = if args.output.verbose {
            Stdio::inherit()
        } else {
            Stdio::null()
        };
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let (Some(stdin), Some(stdout)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(failed("it has no pipes".to_owned()));
        };
        let mut stock = Self {
            process,
            stdin,
            stdout: BufReader::new(stdout),
        };
        stock.read_until("encoded").map_err(failed)?;
        Ok(stock)
    }

    /// Asks all questions once.
    ///
    /// # Errors
    /// In words, if the program has ended.
    pub fn run(&mut self, n_questions: usize) -> Result<Vec<Answered>, String> {
        writeln!(self.stdin).map_err(|_| HAS_ENDED.to_owned())?;
        (0..n_questions).map(|_| self.answer()).collect()
    }

    fn answer(&mut self) -> Result<Answered, String> {
        let lines = self.read_until("times")?;
        let [prefill_ms, decode_ms] = numbers(&lines, "times")[..] else {
            return Err("it printed no times".to_owned());
        };
        Ok(Answered {
            prefill_ms,
            decode_ms,
            generated: numbers(&lines, "generated"),
            report: None,
        })
    }

    /// The lines up to the one that begins with `word`.
    fn read_until(&mut self, word: &str) -> Result<Vec<String>, String> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            match self.stdout.read_line(&mut line) {
                Ok(0) => return Err(HAS_ENDED.to_owned()),
                Ok(_) => lines.push(line),
                Err(error) => return Err(error.to_string()),
            }
            if lines.last().is_some_and(|line| line.starts_with(word)) {
                return Ok(lines);
            }
        }
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The numbers in the line that begins with `word`.
fn numbers<T: std::str::FromStr>(lines: &[String], word: &str) -> Vec<T> {
    let line = lines.iter().find_map(|line| line.strip_prefix(word));
    line.into_iter()
        .flat_map(str::split_whitespace)
        .filter_map(|number| number.parse().ok())
        .collect()
}
