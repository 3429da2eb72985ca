//! Loading a model and asking it, with progress on the terminal.

use std::ops::ControlFlow;
use std::path::Path;

use visipruner::engine::{
    Event, LogLevel, Model, ModelOptions, Outcome, Projector, ProjectorOptions, Request, Session, StopReason,
    missing_gpu, set_log,
};
use visipruner::policy::Skipped;
use visipruner::report::{RunReport, summary};

use super::error::Error;
use super::interrupt::Interrupt;
use super::output;
use super::run::RunOptions;
use super::terminal::Terminal;

/// A model and its projector, ready to be asked.
pub struct Loaded {
    /// The language model.
    pub model: Model,
    /// Its projector.
    pub projector: Option<Projector>,
}

impl Loaded {
    /// Loads a model, and a projector if there is one.
    ///
    /// # Errors
    /// [`Error::Engine`], also for Ctrl-C.
    pub fn load(
        (model, options): (&Path, &ModelOptions),
        projector: Option<(&Path, &ProjectorOptions)>,
        terminal: &mut Terminal,
        interrupt: &Interrupt,
    ) -> Result<Self, Error> {
        warn_without_gpu(options, terminal);
        let mut progress = |what: &'static str, fraction: f32| {
            terminal.progress(what, fraction);
            if interrupt.is_pressed() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let model = Model::load(model, options, |fraction| progress("loading the model", fraction))?;
        let projector = projector
            .map(|(path, options)| {
                Projector::load(path, &model, options, |done| {
                    progress("loading the projector", done)
                })
            })
            .transpose()?;
        terminal.clear();
        Ok(Self { model, projector })
    }
}

/// Says so if layers would go to a GPU and there is none.
pub fn warn_without_gpu(options: &ModelOptions, terminal: &mut Terminal) {
    let is_on_cpu = options.n_gpu_layers == 0 || options.devices.as_ref().is_some_and(Vec::is_empty);
    if let Some(message) = missing_gpu().filter(|_| !is_on_cpu) {
        terminal.warn(message);
    }
}

/// Shows llama.cpp's log, or hides it.
pub fn show_log(is_verbose: bool) {
    set_log(is_verbose.then_some(LogLevel::Debug));
}

/// Asks a session. `on_text` gets the answer piece by piece and says whether it wants more.
///
/// # Errors
/// [`Error::Engine`], and what `on_text` returns.
pub fn ask(
    session: &mut Session,
    projector: Option<&mut Projector>,
    request: &Request,
    terminal: &mut Terminal,
    mut on_text: impl FnMut(&str) -> Result<bool, Error>,
) -> Result<Outcome, Error> {
    let mut text_error = None;
    let mut show = |event: Event<'_>| match event {
        Event::Warning(message) => {
            terminal.warn(message);
            true
        }
        Event::Encode { total: 1, .. } => {
            terminal.busy("encoding the picture");
            true
        }
        Event::Encode { done, total } => {
            terminal.progress("encoding pictures", done as f32 / total as f32);
            true
        }
        Event::Prefill(fraction) => {
            terminal.progress("reading the prompt", fraction);
            true
        }
        Event::Text(text) => {
            terminal.clear();
            on_text(text).unwrap_or_else(|error| {
                text_error = Some(error);
                false
            })
        }
        _ => true,
    };
    let outcome = session.generate(projector, request, |event| {
        if show(event) {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    });
    terminal.clear();
    match text_error {
        Some(error) => Err(error),
        None => Ok(outcome?),
    }
}

/// Does what `visipruner run` was asked to do.
///
/// # Errors
/// What goes wrong in the engine, and output that cannot be written.
pub fn answer(options: &RunOptions, terminal: &mut Terminal) -> Result<(), Error> {
    show_log(options.is_verbose);
    let interrupt = Interrupt::listen();
    let projector = options
        .projector_path
        .as_deref()
        .map(|path| (path, &options.projector));
    let mut loaded = Loaded::load(
        (&options.model_path, &options.model),
        projector,
        terminal,
        &interrupt,
    )?;
    let mut session = Session::new(&loaded.model, options.session.clone())?;
    let mut reports = Vec::new();
    let mut answered = Ok(());
    for prompt in &options.prompts {
        if interrupt.is_pressed() {
            break;
        }
        let request = Request {
            cancel: interrupt.handle(),
            ..options.request(session.n_ctx(), prompt)
        };
        match answer_one(options, &mut loaded, &mut session, &request, terminal) {
            Ok(report) => reports.push(report),
            // What was answered before is written all the same.
            Err(error) => {
                answered = Err(error);
                break;
            }
        }
    }
    write_reports(options, &reports)?;
    answered
}

/// Answers one of the questions, and prints the answer.
fn answer_one(
    options: &RunOptions,
    loaded: &mut Loaded,
    session: &mut Session,
    request: &Request,
    terminal: &mut Terminal,
) -> Result<RunReport, Error> {
    let is_text = !options.report.json;
    let is_one_of_many = options.prompts.len() > 1;
    let mut is_first = true;
    let outcome = ask(session, loaded.projector.as_mut(), request, terminal, |text| {
        // Most tokenizers put a space before the first word.
        let text = if std::mem::take(&mut is_first) {
            text.trim_start_matches(' ')
        } else {
            text
        };
        if is_text { output::print(text) } else { Ok(true) }
    })?;
    if is_text && !outcome.text.ends_with('\n') {
        output::print("\n")?;
    }
    say_why_it_ended(outcome.stop, request, session.n_ctx(), terminal);
    let report = completed(outcome.report, options, &loaded.model);
    match (is_text, is_one_of_many) {
        (true, _) => {}
        (false, false) => output::print_json(&report)?,
        (false, true) => output::print_json_line(&report)?,
    }
    terminal.say(summary::two_lines(&report));
    if options.is_verbose
        && let Some(line) = summary::fallbacks(&report.compute.fallbacks)
    {
        terminal.say(line);
    }
    Ok(report)
}

/// One report as one JSON object, several as JSON Lines.
fn write_reports(options: &RunOptions, reports: &[RunReport]) -> Result<(), Error> {
    let Some(path) = &options.report.report else {
        return Ok(());
    };
    match reports {
        [] => Ok(()),
        [report] if options.prompts.len() == 1 => output::write_json("the report", path, report),
        reports => output::write_json_lines("the report", path, reports),
    }
}

/// The report with what only the command line knows: where the policy came from, and that nobody chose `off`.
fn completed(mut report: RunReport, options: &RunOptions, model: &Model) -> RunReport {
    report.preset = options.policy.preset.map(str::to_owned);
    if options.policy.not_calibrated && report.skipped.is_some() {
        let reason = match model.supports_pruning() {
            _ if options.images.is_empty() => Skipped::NoImage,
            Ok(()) => Skipped::NotCalibrated,
            Err(unsupported) => Skipped::UnsupportedArch {
                arch: unsupported.arch,
            },
        };
        report.skipped = Some(reason.to_string());
    }
    report
}

/// An answer that does not end by itself looks as if the model had stopped in the middle of a sentence.
pub fn say_why_it_ended(stop: StopReason, request: &Request, n_ctx: u32, terminal: &mut Terminal) {
    match stop {
        StopReason::Length => {
            terminal.say(format_args!("(stopped at the limit of -n {})", request.n_predict));
        }
        StopReason::ContextFull => {
            terminal.say(format_args!(
                "(stopped: the context of {n_ctx} tokens is full, -c sets its size)"
            ));
        }
        StopReason::Cancelled => terminal.say("(stopped)"),
        _ => {}
    }
}
