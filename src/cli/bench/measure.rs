//! The measurements: every variant in turn, round after round, so that all see the same machine.

use std::ops::ControlFlow;
use std::time::Instant;

use visipruner::engine::{
    self, Cache, EncodedPrompt, Event, Generation, IMAGE_MARKERS, Image, Part, Prompt, Request,
    SessionOptions, vision_shape,
};
use visipruner::gguf::Gguf;
use visipruner::policy::cost::encoder_flops;

use super::memory;
use super::plan::{Plan, Variant, prompt_text};
use super::result::{BenchReport, Case, Compute};
use super::rounds::{self, Ended};
use super::series::{Answered, Run, Series};
use super::stock::{Stock, StockParams};
use crate::cli::answer::Loaded;
use crate::cli::args::BenchArgs;
use crate::cli::error::Error;
use crate::cli::files::Files;
use crate::cli::interrupt::Interrupt;
use crate::cli::run::{n_gpu_layers, session_options};
use crate::cli::terminal::Terminal;

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

/// What is asked.
struct Setup {
    images: Vec<Image>,
    /// One for each question, all about the same pictures.
    questions: Vec<Question>,
    request: Request,
    n_ctx: u32,
    n_sequences: u32,
}

struct Question {
    /// Up to the last picture, and after it.
    text: [String; 2],
    prompt: EncodedPrompt,
}

/// What runs a variant.
enum Runner {
    Engine(Box<Cache>),
    Stock(Stock),
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
            runners.push(Runner::Engine(Box::new(self.cache(variant, &setup)?)));
        }
        if let Some(stock) = self.start_stock(&setup)? {
            runners.push(Runner::Stock(stock));
            series.push(Series::new("stock".to_owned(), None));
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
        let is_measured = series[0].n_rounds() > 0;
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
                Runner::Engine(cache) => run(cache, setup)?,
            };
            if run.is_none() || self.interrupt.is_pressed() {
                return Ok(None);
            }
            runs[i] = run;
        }
        Ok(runs.into_iter().collect())
    }

    /// The questions, encoded.
    fn setup(&mut self, n_images: usize) -> Result<Option<Setup>, Error> {
        let (n_gen, n_sequences) = (self.args.n_gen, self.plan.n_sequences);
        let images: Vec<Image> = self.images.iter().cycle().take(n_images).cloned().collect();
        let request = Request {
            images: images.clone(),
            n_predict: n_gen,
            ignore_eos: true,
            cancel: self.interrupt.handle(),
            ..Request::new(Prompt::raw(""))
        };
        let mut questions = Vec::new();
        for i in 0..self.plan.n_questions {
            let Some(question) = self.question(i, &request)? else {
                return Ok(None);
            };
            questions.push(question);
        }
        let n_rows = questions[0].prompt.layout().n_rows;
        let n_beside = questions.len() + n_sequences as usize - 2;
        let n_ctx = n_rows + n_gen + n_beside * (self.plan.n_text + n_gen);
        let n_ctx = n_ctx.next_multiple_of(N_CTX_STEP) as u32;
        Ok(Some(Setup {
            images,
            questions,
            request,
            n_ctx: self.args.compute.ctx_size.map_or(n_ctx, |asked| asked.max(n_ctx)),
            n_sequences,
        }))
    }

    /// A prompt of the length that was asked for, as far as the tokenizer lets it.
    fn question(&mut self, number: usize, request: &Request) -> Result<Option<Question>, Error> {
        let n_asked = self.plan.n_text;
        let mut correction = 0;
        loop {
            let text = prompt_text(n_asked, request.images.len(), number, correction);
            let request = Request {
                prompt: Prompt::Raw(Part::split(&text.concat(), &IMAGE_MARKERS)),
                ..request.clone()
            };
            let Some(prompt) = self.encode(&request)? else {
                return Ok(None);
            };
            let n_text = prompt.layout().n_rows - prompt.layout().n_vision();
            if n_text == n_asked || correction != 0 {
                return Ok(Some(Question { text, prompt }));
            }
            correction = n_asked as isize - n_text as isize;
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

    fn cache(&self, variant: &Variant, setup: &Setup) -> Result<Cache, Error> {
        let options = SessionOptions {
            n_ctx: Some(setup.n_ctx),
            n_sequences: setup.n_sequences,
            ..session_options(&self.args.compute, setup.n_ctx, &variant.policy)
        };
        Ok(Cache::new(&self.loaded.model, &options)?)
    }

    /// One round that is not measured, of this variant alone, for the memory that it takes.
    fn warm_up(&self, variant: &Variant, setup: &Setup) -> Result<Option<Series>, Error> {
        let can_tell = memory::reset_peak();
        let run = run(&mut self.cache(variant, setup)?, setup)?;
        Ok(run.map(|_| {
            let peak = can_tell.then(memory::peak).flatten();
            Series::new(variant.label.clone(), peak)
        }))
    }

    fn start_stock(&mut self, setup: &Setup) -> Result<Option<Stock>, Error> {
        let Some(program) = &self.args.stock else {
            return Ok(None);
        };
        self.terminal.busy("starting stock");
        let params = StockParams {
            program,
            files: self.files,
            questions: setup.questions.iter().map(|question| &question.text).collect(),
            images: &setup.images,
            n_ctx: setup.n_ctx,
            n_threads: self.n_threads(),
        };
        Stock::start(self.args, &params).map(Some)
    }

    fn run_stock(&self, stock: &mut Stock) -> Result<Run, Error> {
        let answers = stock.run(self.plan.n_questions).map_err(|reason| Error::Stock {
            program: self.args.stock.clone().unwrap_or_default(),
            reason,
        })?;
        Ok(Run {
            answers,
            together_ms: None,
        })
    }

    fn n_threads(&self) -> u32 {
        let all = || std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        self.args.compute.threads.map_or_else(all, u32::from)
    }

    fn results(&self, setup: &Setup, series: &[Series]) -> Case {
        let prompt = &setup.questions[0].prompt;
        let layout = prompt.layout();
        let encoder_flops: u64 = self.files.projector.as_ref().map_or(0, |(gguf, shape)| {
            let shape = vision_shape(gguf, shape, self.args.compute.pictures.vision_encoder);
            let of_image = |span: &std::ops::Range<usize>| encoder_flops(&shape, span.len());
            layout.vision.iter().map(of_image).sum()
        });
        let dense = &series[0];
        Case {
            n_images: setup.images.len(),
            n_rows: layout.n_rows,
            n_vision: layout.n_vision(),
            n_gen: self.args.n_gen,
            n_questions: setup.questions.len(),
            n_ctx: setup.n_ctx,
            encode_ms: prompt.encode_time().as_secs_f64() * 1e3,
            n_rounds: dense.n_rounds(),
            variants: series
                .iter()
                .map(|series| {
                    series.result(
                        dense,
                        encoder_flops,
                        setup.n_sequences,
                        layer_share(&self.files.model.0),
                    )
                })
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
            file_bytes: shape.file_bytes,
            compute: Compute {
                devices: engine::devices().iter().map(ToString::to_string).collect(),
                n_threads: self.n_threads(),
                n_gpu_layers: n_gpu_layers(compute),
                flash_attn: compute.flash_attn.to_string(),
                kv_types: [compute.cache_type_k, compute.cache_type_v].map(|ty| ty.to_string()),
                batch: [compute.batch_size, compute.ubatch_size],
            },
            cases,
        }
    }
}

/// Asks everything once, of a cache that knows nothing. `None` if Ctrl-C was pressed.
fn run(cache: &mut Cache, setup: &Setup) -> Result<Option<Run>, Error> {
    cache.forget();
    let mut answers = Vec::new();
    for question in &setup.questions {
        let Some(answer) = answer(cache, question, setup)? else {
            return Ok(None);
        };
        answers.push(answer);
    }
    let mut together_ms = None;
    if setup.n_sequences > 1 {
        together_ms = answer_together(cache, setup)?;
        if together_ms.is_none() {
            return Ok(None);
        }
    }
    Ok(Some(Run { answers, together_ms }))
}

fn answer(cache: &mut Cache, question: &Question, setup: &Setup) -> Result<Option<Answered>, Error> {
    let mut answer = begin(cache, question, setup)?;
    while answer.stop().is_none() {
        cache.step(&mut [&mut answer])?;
    }
    let outcome = cache.finish(answer);
    let is_complete = outcome.tokens.len() == setup.request.n_predict;
    Ok(is_complete.then_some(Answered {
        prefill_ms: outcome.report.times_ms.prefill,
        decode_ms: outcome.report.times_ms.decode,
        generated: outcome.tokens,
        report: Some(outcome.report),
    }))
}

/// Milliseconds for each of the tokens that several answers come to after their first.
fn answer_together(cache: &mut Cache, setup: &Setup) -> Result<Option<f64>, Error> {
    let mut answers = Vec::new();
    for i in 0..setup.n_sequences as usize {
        answers.push(begin(cache, &setup.questions[i % setup.questions.len()], setup)?);
    }
    let began = Instant::now();
    while answers.iter().any(|answer| answer.stop().is_none()) {
        cache.step(&mut answers.iter_mut().collect::<Vec<_>>())?;
    }
    let ms = began.elapsed().as_secs_f64() * 1e3;
    let n_decoded = setup.request.n_predict.saturating_sub(1);
    let is_complete = |answer: &Generation| answer.tokens().len() == setup.request.n_predict;
    Ok(answers
        .iter()
        .all(is_complete)
        .then_some(ms / (n_decoded * answers.len()) as f64))
}

fn begin(cache: &mut Cache, question: &Question, setup: &Setup) -> Result<Generation, Error> {
    Ok(cache.begin(&question.prompt, &setup.request, |_| ControlFlow::Continue(()))?)
}

/// The share of the layers in the bytes of weights that a token reads: the rest is the output head, in models without one of its
/// own the token embedding.
fn layer_share(gguf: &Gguf) -> f64 {
    let bytes = |is_read: &dyn Fn(&str) -> bool| {
        let read = gguf.tensors().iter().filter(|tensor| is_read(&tensor.name));
        read.map(|tensor| tensor.n_bytes).sum::<u64>() as f64
    };
    let layers = bytes(&|name| name.starts_with("blk."));
    let head = bytes(&|name| name == "output.weight");
    let head = if head > 0.0 {
        head
    } else {
        bytes(&|name| name == "token_embd.weight")
    };
    layers / (layers + head)
}
