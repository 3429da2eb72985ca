//! What came out: the picture of the layers and the policy on standard output, files as asked for.

use serde::Serialize;
use visipruner::calibrate::{Calibration, Closest};
use visipruner::policy::PolicyConfig;

use super::prompts::Prompts;
use crate::cli::args::calibrate::CalibrateResultArgs;
use crate::cli::error::Error;
use crate::cli::files::Files;
use crate::cli::output;
use crate::cli::terminal::Terminal;

/// The JSON object.
#[derive(Serialize)]
struct Report<'a> {
    model: String,
    questions: &'a str,
    #[serde(flatten)]
    calibration: &'a Calibration,
}

/// Prints the layer profile and what was found, and writes the files. Without a policy there is no policy file; what was
/// measured is written all the same.
///
/// # Errors
/// Files that cannot be written, and [`Error::TargetNotMet`].
pub fn write(
    results: &CalibrateResultArgs,
    files: &Files,
    (calibration, prompts): (&Calibration, &Prompts),
    terminal: &mut Terminal,
) -> Result<(), Error> {
    let model = name(files);
    output::print_lines(&calibration.profile_lines())?;
    if let Some(path) = &results.plot {
        output::write("the plot", path, &calibration.profile_svg(&model))?;
    }
    if let Some(path) = &results.report {
        let report = Report {
            model: model.clone(),
            questions: &prompts.source,
            calibration,
        };
        output::write_json("the results", path, &report)?;
    }
    let file = calibration.policy_file(&model, &prompts.source);
    let (Some(found), Some(file)) = (&calibration.found, file) else {
        return Err(Error::TargetNotMet {
            target: calibration.target.to_string(),
            closest: calibration.closest.as_ref().map_or_else(too_few_layers, closest),
        });
    };
    output::write("the policy", &results.out, &file)?;
    let mut lines = vec![String::new()];
    lines.extend(calibration.measured(found, &prompts.source));
    lines.push(String::new());
    let policy = PolicyConfig::VisiPruner(found.policy.clone()).to_toml();
    lines.extend(policy.lines().map(str::to_owned));
    output::print_lines(&lines)?;
    if calibration.n_untried > 0 {
        terminal.say(format_args!(
            "{} candidates that might be cheaper were not tried: --max-runs gives the search more",
            calibration.n_untried
        ));
    }
    if calibration.target.is_clearly_missed(&found.held_out) {
        terminal.warn(
            "the questions held out miss the target when they are taken alone: more questions would tell whether by chance",
        );
    }
    terminal.say(format_args!("the policy is in {}", results.out.display()));
    Ok(())
}

fn name(files: &Files) -> String {
    let path = files.model.0.path();
    let file = path.file_stem().unwrap_or_default().to_string_lossy();
    files.model.1.name.clone().unwrap_or_else(|| file.into_owned())
}

fn too_few_layers() -> String {
    String::from(": the model has too few layers to drop anything between them")
}

fn closest(closest: &Closest) -> String {
    let score = &closest.score;
    format!(
        ": the closest has {} of {} answers changed and a mean KL of {:.4} nats, with {:.0} % of the vision rows; allow more \
         with --max-changed or --max-kl, or look at the profile above",
        score.n_changed,
        score.n,
        score.mean_kl,
        100.0 * closest.rows
    )
}
