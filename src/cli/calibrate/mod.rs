//! `visipruner calibrate`: finds a policy for a model.
//!
//! ```text
//! prompts: questions with pictures ─► ask: one session, encoded once ─► visipruner::calibrate ─► output
//! ```

mod ask;
mod output;
mod prompts;

use visipruner::calibrate::{Planned, Settings, Target, calibrate};

use super::answer::{Loaded, show_log};
use super::args::CalibrateArgs;
use super::args::calibrate::{CalibrateResultArgs, TargetArgs};
use super::error::Error;
use super::files::Files;
use super::interrupt::Interrupt;
use super::output::check_writable;
use super::run::{model_options, projector_options};
use super::terminal::Terminal;
use ask::Asking;
use prompts::Prompts;

/// What is allowed unless something is said: one changed answer in a hundred, and, as few questions cannot tell that from
/// none, a divergence at which that is so on the model that ships.
const DEFAULT_TARGET: Target = Target {
    max_kl: Some(0.002),
    max_changed: Some(0.01),
};
/// Fewer questions than this say little.
const FEW: usize = 24;

/// Measures, writes the policy and prints what it is made from.
///
/// # Errors
/// Files and flags that cannot be used, a model that cannot be pruned, what goes wrong in the engine,
/// [`Error::TargetNotMet`], and [`Error::CalibrationInterrupted`]. No policy file is written then.
pub fn run(args: &CalibrateArgs) -> Result<(), Error> {
    let mut terminal = Terminal::new(&args.output);
    show_log(args.output.verbose);
    let interrupt = Interrupt::listen();
    check_files(&args.results)?;
    let files = Files::open(&args.model, true, &mut terminal)?;
    let prompts = Prompts::read(&args.prompts, args.compute.pictures.background, &mut terminal)?;
    let settings = settings(&args.target);
    let n_layer = files.shape().n_layer;
    say_plan(
        &settings.planned(n_layer, prompts.list.len()),
        &prompts,
        &mut terminal,
    );

    let projector = projector_options(&args.compute);
    let loaded = Loaded::load(
        (files.model_path(), &model_options(&args.compute)?),
        files.projector_path().map(|path| (path, &projector)),
        &mut terminal,
        &interrupt,
    );
    // A failure beside Ctrl-C is told as what it is.
    let or_interrupted = |error: Error| {
        if interrupt.is_pressed() && error.is_stop() {
            Error::CalibrationInterrupted
        } else {
            error
        }
    };
    let mut loaded = loaded.map_err(or_interrupted)?;
    let mut asking =
        Asking::new(args, &mut loaded, &prompts, (&mut terminal, &interrupt)).map_err(or_interrupted)?;
    let calibration = calibrate(&mut asking, &prompts.pictures(), &settings).map_err(or_interrupted)?;
    terminal.clear();
    output::write(&args.results, &files, (&calibration, &prompts), &mut terminal)
}

fn check_files(results: &CalibrateResultArgs) -> Result<(), Error> {
    check_writable("the policy", &results.out)?;
    if results.out.exists() && !results.force {
        return Err(Error::PolicyFileExists {
            path: results.out.clone(),
        });
    }
    let mut files = [&results.report, &results.plot].into_iter().flatten();
    files.try_for_each(|path| check_writable("the results", path))
}

fn settings(args: &TargetArgs) -> Settings {
    let asked = Target {
        max_kl: args.max_kl,
        max_changed: args.max_changed,
    };
    let is_asked = asked != Target::default();
    Settings {
        target: if is_asked { asked } else { DEFAULT_TARGET },
        n_profile: args.profile_questions,
        stride: args.stride,
        max_runs: args.max_runs,
    }
}

fn say_plan(planned: &Planned, prompts: &Prompts, terminal: &mut Terminal) {
    terminal.say(format_args!(
        "{} questions: {} answers without pruning, at most {} for the layer profile (--profile-questions, --stride) and {} \
         for the search (--max-runs)",
        prompts.list.len(),
        planned.n_dense,
        planned.n_profile,
        planned.n_search
    ));
    if prompts.list.len() < FEW {
        terminal.say(
            "hint: a few dozen questions about pictures of your own kind find a policy that is worth more",
        );
    }
}
