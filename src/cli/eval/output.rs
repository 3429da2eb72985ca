//! What came out: tables on standard output, files as asked for.

use serde::Serialize;
use serde_json::Value;
use visipruner::eval::curve::{CostAxis, OnCurve, accuracy_curve};
use visipruner::eval::table::{self, Table};
use visipruner::eval::{Contents, Question, Settings, Summary};

use super::plan::{Candidate, ModelPlan, Plan};
use crate::cli::args::EvalArgs;
use crate::cli::error::Error;
use crate::cli::output;
use crate::cli::terminal::Terminal;

/// The JSON object.
#[derive(Serialize)]
struct Report<'a> {
    settings: &'a Settings,
    /// By label: the model, and the policy's fields.
    fields: serde_json::Map<String, Value>,
    #[serde(flatten)]
    summary: &'a Summary,
}

/// Prints the tables and writes the files.
///
/// # Errors
/// Files that cannot be written, and [`Error::NothingAnswered`].
pub fn write(
    args: &EvalArgs,
    plan: &Plan,
    questions: &[Question],
    contents: &Contents,
    terminal: &mut Terminal,
) -> Result<(), Error> {
    let labels = plan.labels();
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    let summary = Summary::new(questions, &contents.records, &labels, &baseline(plan));
    if summary.policies.is_empty() {
        return Err(Error::NothingAnswered);
    }
    let tables = table::tables(&summary);
    let texts: Vec<String> = tables.iter().map(Table::to_terminal).collect();
    output::print(&texts.join("\n"))?;
    say_what_is_open(args, &summary, (labels.len(), questions.len()), terminal);
    let results = &args.results;
    if let Some(path) = &results.markdown {
        let texts: Vec<String> = tables.iter().map(Table::to_markdown).collect();
        output::write("the tables", path, &texts.join("\n"))?;
    }
    if let Some(path) = &results.csv {
        output::write("the figures", path, &table::to_csv(&summary))?;
    }
    if let Some(path) = &results.json {
        let asked = contents.policies.iter();
        let report = Report {
            settings: &contents.settings,
            fields: asked
                .filter(|(label, _)| labels.contains(&label.as_str()))
                .cloned()
                .collect(),
            summary: &summary,
        };
        output::write_json("the figures", path, &report)?;
    }
    if let Some(path) = &results.plot {
        output::write("the plot", path, &curve(args, plan, questions.len(), &summary))?;
    }
    Ok(())
}

/// `off` of the first model, or its first policy.
fn baseline(plan: &Plan) -> String {
    let of_model = |model: &ModelPlan| {
        let off = model.policies.iter().find(|candidate| candidate.name() == "off");
        off.or(model.policies.first())
            .map(|candidate| model.label(candidate))
    };
    plan.models.first().and_then(of_model).unwrap_or_default()
}

fn say_what_is_open(
    args: &EvalArgs,
    summary: &Summary,
    (n_policies, n_questions): (usize, usize),
    terminal: &mut Terminal,
) {
    let n_asked = n_policies * n_questions;
    let n_answered: usize = summary.policies.iter().map(|policy| policy.all.n).sum();
    if n_answered == n_asked {
        return;
    }
    let hint = match &args.results.out {
        Some(path) => format!(
            "the same command goes on with them, they are in {}",
            path.display()
        ),
        None => "with --out they are kept, and the same command goes on with them".to_owned(),
    };
    terminal.say(format_args!("{n_answered} of {n_asked} answers; {hint}"));
}

fn curve(args: &EvalArgs, plan: &Plan, n_questions: usize, summary: &Summary) -> String {
    let name = |model: &ModelPlan| {
        let name = model.files.model.1.name.clone();
        name.unwrap_or_else(|| model.files.model.0.path().display().to_string())
    };
    let file = args.questions.questions.file_name().unwrap_or_default();
    let subtitle = format!(
        "{}, {n_questions} questions of {}",
        plan.models.first().map(name).unwrap_or_default(),
        file.to_string_lossy()
    );
    let all = || {
        plan.models.iter().flat_map(|model| {
            let with_model = move |candidate| (model, candidate);
            model.policies.iter().map(with_model)
        })
    };
    let on_curve = |label: &str| {
        let found: Option<(&ModelPlan, &Candidate)> =
            all().find(|(model, candidate)| model.label(candidate) == label);
        found.map_or_else(
            || OnCurve {
                series: label.to_owned(),
                note: String::new(),
            },
            |(model, candidate)| OnCurve {
                series: model.series(candidate),
                note: candidate.note.clone(),
            },
        )
    };
    accuracy_curve(summary, CostAxis::VisionAttention, &subtitle, on_curve).to_svg()
}
