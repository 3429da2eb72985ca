//! The measurements: every variant in turn, round after round, so that all see the same machine.

use std::ops::ControlFlow;

use visipruner::engine::{
    self, EncodedPrompt, Event, Image, Prompt, Request, Session, SessionOptions, vision_shape,
};
use visipruner::policy::cost::encoder_flops;
use visipruner::report::RunReport;

use super::super::answer::Loaded;
use super::super::args::BenchArgs;
use super::super::error::Error;
use super::super::files::Files;
use super::super::interrupt::Interrupt;
use super::super::run::{model_options, session_options};
use super::super::terminal::Terminal;
use super::memory;
use super::plan::{Plan, Variant, prompt_text};
use super::result::{BenchReport, Case, Compute, Measured, VariantResult, Work};
use super::rounds::{self, Ended};
use super::stock::{Stock, StockParams};

/// Contexts are a multiple of this long.
const N_CTX_STEP: usize = 256;

/// A benchmark under way.
pub struct Bench<'a> {
    pub args: &'a BenchArgs,
    pub files: &'a Files,
    pub plan: &'a Plan,
    /// At least one; prompts take them in turn.
    pub images: &'a [Image],
    pub loaded: Loaded,
    pub terminal: &'a mut Terminal,
    pub interrupt: &'a Interrupt,
}

/// What a prompt is run with.
struct Setup {
    text: String,
    images: Vec<Image>,
    prompt: EncodedPrompt,
    request: Request,
    n_ctx: u32,
}

/// What runs a variant.
enum Runner {
    Session(Box<Session>),
    Stock(Stock),
}

/// One variant, round after round.
struct Series {
    label: String,
    prefill_ms: Vec<f64>,
    decode_ms: Vec<f64>,
    generated: Vec<i32>,
    report: Option<RunReport>,
    peak: Option<u64>,
}

impl Bench<'_> {
    /// Measures every case of the plan.
    ///
    /// # Errors
    /// What goes wrong in the engine, and Ctrl-C, before the first round is complete. Later both end the measuring: the
    /// error comes with what there is.
    pub fn run(&mut self) -> Result<(BenchReport, Option<Error>), Error> {
        let plan = self.plan;
        let (cases, failed) = rounds::cases(&plan.n_images, |n_images| self.case(n_images))?;
        Ok((self.report(cases), failed))
    }

    /// The case of so many pictures. Nothing is complete if it was interrupted before its first round was.
    fn case(&mut self, n_images: usize) -> Result<Ended<Case>, Error> {
        let interrupted = || Ended {
            complete: None,
            failed: None,
        };
        let Some(setup) = self.setup(n_images)? else {
            return Ok(interrupted());
        };
        let mut series = Vec::new();
        for variant in &self.plan.variants {
            self.terminal.busy("warming up");
            let Some(warm) = self.warm_up(variant, &setup)? else {
                return Ok(interrupted());
            };
            series.push(warm);
        }
        let mut runners = Vec::new();
        for variant in &self.plan.variants {
            runners.push(Runner::Session(Box::new(self.session(variant, setup.n_ctx)?)));
        }
        if let Some(stock) = self.start_stock(&setup)? {
            runners.push(Runner::Stock(stock));
            series.push(Series::new("stock".to_owned()));
        }
        let n_rounds = self.args.repetitions;
        let (runs, failed) = rounds::rounds(n_rounds, |round| {
            self.terminal
                .progress("measuring", round as f32 / n_rounds as f32);
            self.round(round, &mut runners, &setup)
        });
        self.terminal.clear();
        for runs in runs {
            series
                .iter_mut()
                .zip(runs)
                .for_each(|(series, run)| series.push(run));
        }
        let is_measured = !series[0].prefill_ms.is_empty();
        Ok(Ended {
            complete: is_measured.then(|| self.results(&setup, &series)),
            failed,
        })
    }

    /// Runs every variant once; each round begins with another one, so that none always comes after the same. `None` if it
    /// was interrupted.
    fn round(&self, round: usize, runners: &mut [Runner], setup: &Setup) -> Result<Option<Vec<Run>>, Error> {
        let n = runners.len();
        let mut runs: Vec<Option<Run>> = runners.iter().map(|_| None).collect();
        for i in (0..n).map(|i| (i + round) % n) {
            let run = match &mut runners[i] {
                Runner::Stock(stock) => match self.run_stock(stock) {
                    Ok(run) => Some(run),
                    // Ctrl-C ends the other process, too.
                    Err(_) if self.interrupt.is_pressed() => None,
                    Err(error) => return Err(error),
                },
                Runner::Session(session) => measure(session, setup)?.map(Run::of),
            };
            if run.is_none() || self.interrupt.is_pressed() {
                return Ok(None);
            }
            runs[i] = run;
        }
        Ok(runs.into_iter().collect())
    }

    /// A prompt of the length that was asked for, encoded.
    fn setup(&mut self, n_images: usize) -> Result<Option<Setup>, Error> {
        let images: Vec<Image> = self.images.iter().cycle().take(n_images).cloned().collect();
        let mut correction = 0;
        loop {
            let text = prompt_text(self.plan.n_text, n_images, correction);
            let request = Request {
                images: images.clone(),
                n_predict: self.args.n_gen,
                ignore_eos: true,
                cancel: self.interrupt.handle(),
                ..Request::new(Prompt::raw(&text))
            };
            let Some(encoded) = self.encode(&request)? else {
                return Ok(None);
            };
            let layout = encoded.layout();
            let n_text = layout.n_rows - layout.n_vision();
            if n_text != self.plan.n_text && correction == 0 {
                correction = self.plan.n_text as isize - n_text as isize;
                continue;
            }
            let n_ctx = (layout.n_rows + self.args.n_gen).next_multiple_of(N_CTX_STEP) as u32;
            return Ok(Some(Setup {
                text,
                images,
                n_ctx: self.args.compute.ctx_size.map_or(n_ctx, |asked| asked.max(n_ctx)),
                prompt: encoded,
                request,
            }));
        }
    }

    fn encode(&mut self, request: &Request) -> Result<Option<EncodedPrompt>, Error> {
        let projector = self.loaded.projector.as_mut();
        let encoded = engine::encode(&self.loaded.model, projector, request, |event| {
            if let Event::Encode { done, total } = event {
                self.terminal
                    .progress("encoding pictures", done as f32 / total as f32);
            }
            ControlFlow::Continue(())
        });
        self.terminal.clear();
        Ok(encoded?)
    }

    fn session(&self, variant: &Variant, n_ctx: u32) -> Result<Session, Error> {
        let options = SessionOptions {
            n_ctx: Some(n_ctx),
            remember: false,
            ..session_options(&self.args.compute, n_ctx, &variant.policy)
        };
        Ok(Session::new(&self.loaded.model, options)?)
    }

    /// One run that is not measured, of this variant alone: what it holds, and the memory that it takes.
    fn warm_up(&self, variant: &Variant, setup: &Setup) -> Result<Option<Series>, Error> {
        let can_tell = memory::reset_peak();
        let mut session = self.session(variant, setup.n_ctx)?;
        let report = measure(&mut session, setup)?;
        Ok(report.map(|report| Series {
            peak: can_tell.then(memory::peak).flatten(),
            generated: report.generated.clone(),
            report: Some(report),
            ..Series::new(variant.label.clone())
        }))
    }

    fn start_stock(&mut self, setup: &Setup) -> Result<Option<Stock>, Error> {
        let Some(program) = &self.args.stock else {
            return Ok(None);
        };
        self.terminal.busy("starting stock");
        let params = StockParams {
            program,
            prompt: &setup.text,
            images: &setup.images,
            n_ctx: setup.n_ctx,
            n_threads: self.n_threads(),
        };
        Stock::start(self.args, &params).map(Some)
    }

    fn run_stock(&self, stock: &mut Stock) -> Result<Run, Error> {
        let run = stock.run().map_err(|reason| Error::Stock {
            program: self.args.stock.clone().unwrap_or_default(),
            reason,
        })?;
        Ok(Run {
            prefill_ms: run.prefill_ms,
            decode_ms: run.decode_ms,
            generated: run.generated,
            report: None,
        })
    }

    fn n_threads(&self) -> u32 {
        let all = || std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        self.args.compute.threads.map_or_else(all, u32::from)
    }

    fn results(&self, setup: &Setup, series: &[Series]) -> Case {
        let layout = setup.prompt.layout();
        let encoder_flops: u64 = self.files.projector.as_ref().map_or(0, |(gguf, shape)| {
            let shape = vision_shape(gguf, shape, self.args.compute.vision_encoder);
            let of_image = |span: &std::ops::Range<usize>| encoder_flops(&shape, span.len());
            layout.vision.iter().map(of_image).sum()
        });
        let dense = &series[0];
        Case {
            n_images: setup.images.len(),
            n_rows: layout.n_rows,
            n_vision: layout.n_vision(),
            n_gen: self.args.n_gen,
            n_ctx: setup.n_ctx,
            encode_ms: setup.prompt.encode_time().as_secs_f64() * 1e3,
            n_rounds: dense.prefill_ms.len(),
            variants: series
                .iter()
                .map(|series| series.result(dense, encoder_flops))
                .collect(),
        }
    }

    fn report(&self, cases: Vec<Case>) -> BenchReport {
        let (gguf, shape) = &self.files.model;
        let compute = &self.args.compute;
        BenchReport {
            version: env!("CARGO_PKG_VERSION"),
            model: gguf.path().display().to_string(),
            mmproj: self
                .files
                .projector
                .as_ref()
                .map(|(gguf, _)| gguf.path().display().to_string())
                .unwrap_or_default(),
            name: shape.name.clone().unwrap_or_default(),
            arch: shape.arch.clone(),
            n_layer: shape.n_layer as usize,
            file_bytes: std::fs::metadata(gguf.path()).map_or(0, |file| file.len()),
            compute: Compute {
                devices: engine::devices(),
                n_threads: self.n_threads(),
                n_gpu_layers: model_options(compute).n_gpu_layers,
                flash_attn: compute.flash_attn.to_string(),
                kv_types: [compute.cache_type_k, compute.cache_type_v].map(|ty| ty.to_string()),
                batch: [compute.batch_size, compute.ubatch_size],
            },
            cases,
        }
    }
}

/// Runs the prompt once. `None` if Ctrl-C was pressed.
fn measure(session: &mut Session, setup: &Setup) -> Result<Option<RunReport>, Error> {
    let outcome = session.generate_encoded(&setup.prompt, &setup.request, |_| ControlFlow::Continue(()))?;
    let is_complete = outcome.tokens.len() == setup.request.n_predict;
    Ok(is_complete.then_some(outcome.report))
}

/// One run of one variant.
struct Run {
    prefill_ms: f64,
    decode_ms: f64,
    generated: Vec<i32>,
    report: Option<RunReport>,
}

impl Run {
    fn of(report: RunReport) -> Self {
        Self {
            prefill_ms: report.times_ms.prefill,
            decode_ms: report.times_ms.decode,
            generated: report.generated.clone(),
            report: Some(report),
        }
    }
}

impl Series {
    fn new(label: String) -> Self {
        Self {
            label,
            prefill_ms: Vec::new(),
            decode_ms: Vec::new(),
            generated: Vec::new(),
            report: None,
            peak: None,
        }
    }

    fn push(&mut self, run: Run) {
        self.prefill_ms.push(run.prefill_ms);
        self.decode_ms.push(run.decode_ms);
        self.generated = run.generated;
        self.report = run.report;
    }

    fn result(&self, dense: &Self, encoder_flops: u64) -> VariantResult {
        // The first token comes from the prefill, so one fewer is decoded than is generated.
        let n_decoded = self.generated.len().saturating_sub(1);
        let per_token =
            |series: &Self| Measured::of(series.decode_ms.iter().map(|ms| ms / n_decoded as f64).collect());
        let prefill_ms = Measured::of(self.prefill_ms.clone());
        let prefill_speedup = Measured::of(dense.prefill_ms.clone()).ratio(&prefill_ms);
        VariantResult {
            label: self.label.clone(),
            prefill_speedup,
            decode_ms_per_token: (n_decoded > 0).then(|| per_token(self)),
            decode_speedup: (n_decoded > 0).then(|| per_token(dense).ratio(&per_token(self))),
            work: self
                .report
                .as_ref()
                .map(|report| work(report, prefill_speedup, encoder_flops)),
            peak_memory_bytes: self.peak,
            same_tokens: self.generated == dense.generated,
            prefill_ms,
        }
    }
}

fn work(report: &RunReport, prefill_speedup: f64, encoder_flops: u64) -> Work {
    let rows: Vec<usize> = report.layers.iter().map(|layer| layer.rows).collect();
    let n_dense = report.n_tokens * report.n_layer;
    let ideal_by_rows = n_dense as f64 / rows.iter().sum::<usize>() as f64;
    let llm_flops = |flops: u64| flops.saturating_sub(encoder_flops) as f64;
    let ideal_by_flops = llm_flops(report.flops.model.dense) / llm_flops(report.flops.model.actual);
    Work {
        rows,
        ideal_by_rows,
        ideal_by_flops,
        efficiency_by_rows: prefill_speedup / ideal_by_rows,
        efficiency_by_flops: prefill_speedup / ideal_by_flops,
        kv_held_bytes: report.kv_bytes.actual,
        kv_allocated_bytes: report.kv_allocated_bytes,
        policy_ms: report.times_ms.policy,
    }
}
