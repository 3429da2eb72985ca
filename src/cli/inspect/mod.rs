//! `visipruner inspect`: what each layer does with a picture, as a report for people.
//!
//! ```text
//! prompt ─► measured without pruning, layer by layer ─┐
//!        ─► answered without pruning                  ├─► Inspection ─► HTML, JSON, figures
//!        ─► answered under each policy ─► what it kept┘
//! ```

mod picture;

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::PathBuf;

use visipruner::engine::{
    Cuts, EncodedPrompt, Event, Image, Inspector, Model, Projector, Request, Session, SessionOptions,
    StopReason, encode,
};
use visipruner::inspect::{InspectedImage, InspectedLayer, InspectedPolicy, Inspection, KeptBy, PromptPiece};
use visipruner::policy::PolicyConfig;
use visipruner::report::RunReport;

use super::answer::{Loaded, show_log};
use super::args::{InspectArgs, RunArgs};
use super::error::Error;
use super::eval::plan::{self, Candidate};
use super::files::Files;
use super::interrupt::Interrupt;
use super::output;
use super::run::RunOptions;
use super::terminal::Terminal;

/// Measures, and writes the report.
///
/// # Errors
/// Files, flags and pictures that cannot be used, what goes wrong in the engine, and output that cannot be written.
/// Ctrl-C ends it without a report.
pub fn run(args: InspectArgs) -> Result<(), Error> {
    let mut terminal = Terminal::new(&args.output);
    show_log(args.output.verbose);
    let interrupt = Interrupt::listen();
    check_outputs(&args)?;
    let files = Files::open(&args.model, true, &mut terminal)?;
    let compared = compared(&args, &files)?;
    let options = RunOptions::check(
        RunArgs {
            model: files.paths().as_args(),
            ..args.as_run()
        },
        &mut terminal,
    )?;
    let loaded = load(&options, &mut terminal, &interrupt)?;
    let inspection = Inspecting {
        args: &args,
        options: &options,
        loaded,
        terminal: &mut terminal,
        interrupt: &interrupt,
        session: None,
        warned: HashSet::new(),
    }
    .inspection(&compared)?;
    terminal.clear();
    write(&args, &inspection)?;
    output::print_lines(&summary(&args, &inspection))
}

fn check_outputs(args: &InspectArgs) -> Result<(), Error> {
    if args.prompt.images.is_empty() {
        return Err(Error::Usage(
            "inspect looks at pictures: give one with --image".to_owned(),
        ));
    }
    output::check_writable("the report", &args.results.output)?;
    match &args.results.json {
        Some(path) => output::check_writable("the numbers", path),
        None => Ok(()),
    }
}

/// The policies of `--compare`, with the fields that they have on this model.
fn compared(args: &InspectArgs, files: &Files) -> Result<Vec<Candidate>, Error> {
    let candidate = |spec| {
        let candidate = plan::candidate(spec, String::new(), String::new(), files)?;
        let series = plan::series(spec, candidate.policy.name());
        Ok(Candidate { series, ..candidate })
    };
    args.compared.iter().map(candidate).collect()
}

fn load(options: &RunOptions, terminal: &mut Terminal, interrupt: &Interrupt) -> Result<Loaded, Error> {
    let projector = options.projector_path.as_deref();
    Loaded::load(
        (&options.model_path, &options.model),
        projector.map(|path| (path, &options.projector)),
        terminal,
        interrupt,
    )
}

/// An inspection under way.
struct Inspecting<'a> {
    args: &'a InspectArgs,
    options: &'a RunOptions,
    loaded: Loaded,
    terminal: &'a mut Terminal,
    interrupt: &'a Interrupt,
    /// What answers under every policy; made when the first is asked.
    session: Option<Session>,
    /// Warnings that the user has seen: every policy has those of the prompt.
    warned: HashSet<String>,
}

impl Inspecting<'_> {
    fn inspection(mut self, compared: &[Candidate]) -> Result<Inspection, Error> {
        let (prompt, images, layers) = self.measure()?;
        let dense = self.answer(&prompt, &PolicyConfig::Off)?;
        let policy = match &self.options.session.policy {
            PolicyConfig::Off => None,
            policy => Some(InspectedPolicy::of_report(&self.answer(&prompt, policy)?)),
        };
        let kept_by = |candidate: &Candidate| {
            let report = self.answer(&prompt, &candidate.policy)?;
            Ok(KeptBy::of_report(&candidate.name(), &report))
        };
        let others = compared.iter().map(kept_by).collect::<Result<_, Error>>()?;
        let model = &self.loaded.model;
        Ok(Inspection {
            model: name(model),
            arch: model.shape().arch.clone(),
            n_layer: model.n_layer(),
            question: self.options.texts[0].clone(),
            answer: dense.text.trim().to_owned(),
            images,
            prompt: Some(pieces(&self.loaded, &prompt)),
            layers,
            policy,
            others,
        })
    }

    /// Encodes the prompt, and measures every layer.
    fn measure(&mut self) -> Result<(EncodedPrompt, Vec<InspectedImage>, Vec<InspectedLayer>), Error> {
        let mut inspector = Inspector::new(&self.loaded.model, self.options.session.clone())?;
        let terminal = &mut *self.terminal;
        let mut show = |event: Event<'_>| {
            match event {
                Event::Encode { done, total } => {
                    terminal.progress("encoding pictures", done as f32 / total as f32)
                }
                Event::Prefill(done) => terminal.progress("looking into layers", done),
                Event::Warning(message) => terminal.warn(message),
                _ => {}
            }
            ControlFlow::Continue(())
        };
        let request = Request {
            cancel: self.interrupt.handle(),
            ..self.options.request(inspector.n_ctx(), &self.options.prompts[0])
        };
        let prompt = encode(
            &self.loaded.model,
            self.loaded.projector.as_mut(),
            &request,
            &mut show,
        )?
        .ok_or(Error::NothingWritten)?;
        let pictures = (&self.options.images[..], &self.args.prompt.images[..]);
        let images = inspected_images(pictures, self.loaded.projector.as_ref(), &prompt)?;
        let n_words = usize::from(self.args.results.words);
        let layers = inspector
            .layers(&prompt, n_words, &request.cancel, &mut show)?
            .ok_or(Error::NothingWritten)?;
        Ok((prompt, images, layers))
    }

    /// What a policy makes of the prompt.
    fn answer(&mut self, prompt: &EncodedPrompt, policy: &PolicyConfig) -> Result<RunReport, Error> {
        let session = match &mut self.session {
            Some(session) => session,
            none => {
                // One for all policies, so that the picture is read once.
                let options = SessionOptions {
                    policy: PolicyConfig::Off,
                    cuts: Cuts::EveryLayer,
                    ..self.options.session.clone()
                };
                none.insert(Session::new(&self.loaded.model, options)?)
            }
        };
        let request = Request {
            policy: Some(policy.clone().into()),
            cancel: self.interrupt.handle(),
            ..self.options.request(session.n_ctx(), &self.options.prompts[0])
        };
        let (terminal, warned) = (&mut *self.terminal, &mut self.warned);
        let outcome = session.generate_encoded(prompt, &request, |event| {
            match event {
                Event::Warning(message) if warned.insert(message.to_owned()) => terminal.warn(message),
                _ => terminal.busy("answering"),
            }
            ControlFlow::Continue(())
        })?;
        match outcome.stop {
            StopReason::Cancelled => Err(Error::NothingWritten),
            _ => Ok(outcome.report),
        }
    }
}

/// The pictures as the vision encoder saw them, and their tiles.
fn inspected_images(
    (images, names): (&[Image], &[PathBuf]),
    projector: Option<&Projector>,
    prompt: &EncodedPrompt,
) -> Result<Vec<InspectedImage>, Error> {
    let mut inspected = Vec::new();
    let mut first_token = 0;
    for (i, image) in images.iter().enumerate() {
        let spans: Vec<_> = prompt.media().iter().filter(|media| media.item == i).collect();
        let fitted = projector.map(|projector| projector.fitted(image)).transpose()?;
        let shown = picture::shown(image, fitted.flatten(), spans.len()).ok_or_else(|| {
            Error::Usage(
                "llama.cpp cuts pictures of this model into tiles, and inspect can only show those that are encoded \
                 whole: give a smaller picture, or another model"
                    .to_owned(),
            )
        })?;
        let file = names[i].file_name().unwrap_or_default().to_string_lossy();
        for (media, shown) in spans.iter().zip(&shown) {
            let n_tokens = media.rows.len();
            let grid = media.grid.ok_or_else(|| {
                Error::Usage(format!(
                    "{file} became {n_tokens} vision tokens, which form no grid: inspect cannot place them on the picture"
                ))
            })?;
            let name = match spans.len() {
                1 => file.to_string(),
                n => format!("{file}, {} of {n}", media.tile + 1),
            };
            inspected.push(picture::inspected(shown, &name, first_token, grid));
            first_token += n_tokens;
        }
    }
    Ok(inspected)
}

/// What the model's file calls it, else what llama.cpp does.
fn name(model: &Model) -> String {
    let name = model.gguf().opt_str("general.name").ok().flatten();
    name.map_or_else(|| model.description(), str::to_owned)
}

/// The prompt in text tokens and pictures.
fn pieces(loaded: &Loaded, prompt: &EncodedPrompt) -> Vec<PromptPiece> {
    let spans = &prompt.layout().vision;
    let piece = |(row, &token): (usize, &i32)| match spans.iter().position(|span| span.contains(&row)) {
        None => Some(PromptPiece::Text(loaded.model.detokenize(&[token], true))),
        Some(image) => (spans[image].start == row).then_some(PromptPiece::Image(image)),
    };
    prompt.tokens().iter().enumerate().filter_map(piece).collect()
}

fn write(args: &InspectArgs, inspection: &Inspection) -> Result<(), Error> {
    output::write("the report", &args.results.output, &inspection.to_html()?)?;
    if let Some(path) = &args.results.json {
        output::write("the numbers", path, &inspection.to_json()?)?;
    }
    if let Some(folder) = &args.results.parts {
        inspection.write_parts(folder)?;
    }
    Ok(())
}

/// The answers, and where the report is.
fn summary(args: &InspectArgs, inspection: &Inspection) -> Vec<String> {
    let answer = |who: &str, answer: &str| format!("{who}: {answer}");
    let mut lines = vec![answer("off", &inspection.answer)];
    if let Some(policy) = &inspection.policy {
        lines.push(answer(
            &policy.label,
            policy.answer.as_deref().unwrap_or_default(),
        ));
    }
    let others = inspection.others.iter();
    lines.extend(others.map(|other| answer(&other.policy, other.answer.as_deref().unwrap_or_default())));
    lines.push(format!("report: {}", args.results.output.display()));
    lines
}
