//! `visipruner demo`: the model that comes with the program, without and with pruning, side by side.

use std::io::{IsTerminal, stdout};

use visipruner::engine::{Image, Request, Session, SessionOptions, model_shape};
use visipruner::policy::{PolicyConfig, PolicyOverrides, presets};
use visipruner::report::{RunReport, summary};

use super::answer::{Loaded, ask, show_log};
use super::args::{ComputeArgs, DemoArgs, PolicyArgs};
use super::embedded::{self, ModelFiles};
use super::error::Error;
use super::image::{self, ImageSource};
use super::interrupt::Interrupt;
use super::mosaic::Kept;
use super::run::{model_options, projector_options, session_options};
use super::terminal::Terminal;
use super::{output, questions, units};

/// Tokens of an answer at most: the longest that the model was taught takes about 30.
const N_PREDICT: usize = 48;
/// Columns that pictures beside each other may take.
const MOSAIC_COLUMNS: usize = 100;

/// What is asked about which picture.
struct Scene {
    name: String,
    image: Image,
    questions: Vec<String>,
}

/// A question with both answers.
struct Comparison<'a> {
    question: &'a str,
    dense: RunReport,
    pruned: RunReport,
}

/// Asks the questions without and with pruning, and prints both answers with what they cost.
///
/// # Errors
/// A picture or a policy file that cannot be read, policy fields that do not fit the model, and what goes wrong in the
/// engine.
pub fn run(args: DemoArgs) -> Result<(), Error> {
    let mut terminal = Terminal::new(&args.output);
    show_log(args.output.verbose);
    let interrupt = Interrupt::listen();
    let scene = scene(&args)?;
    for question in &scene.questions {
        questions::check_places(&args.marker.chat(question), 1)?;
    }
    let mut loaded = load(&args.compute, &mut terminal, &interrupt)?;
    let policy = policy(&args.policy, &loaded)?;
    let mut dense = session(&loaded, &args.compute, &PolicyConfig::Off)?;
    let mut pruned = session(&loaded, &args.compute, &policy)?;
    let mut answer = |session: &mut Session, question: &str| {
        let request = Request {
            images: vec![scene.image.clone()],
            n_predict: N_PREDICT,
            cancel: interrupt.handle(),
            ..Request::new(args.marker.chat(question))
        };
        ask(
            session,
            loaded.projector.as_mut(),
            &request,
            &mut terminal,
            |_| Ok(true),
        )
        .map(|outcome| outcome.report)
    };

    output::print(&header(&scene))?;
    // The first request of a session sets up its graphs, which is not what the table compares.
    for session in [&mut dense, &mut pruned] {
        answer(session, &scene.questions[0])?;
    }
    let mut comparisons = Vec::new();
    for question in &scene.questions {
        let (dense, pruned) = (answer(&mut dense, question)?, answer(&mut pruned, question)?);
        if interrupt.is_pressed() {
            break;
        }
        let comparison = Comparison {
            question,
            dense,
            pruned,
        };
        output::print_lines(&rows(comparisons.len() + 1, &comparison))?;
        comparisons.push(comparison);
    }
    if comparisons.is_empty() {
        return Ok(());
    }
    output::print_lines(&totals(&comparisons))?;
    if stdout().is_terminal() {
        output::print_lines(&pictures(&scene.image, &comparisons))?;
    }
    Ok(())
}

fn scene(args: &DemoArgs) -> Result<Scene, Error> {
    let shipped = embedded::scenes().swap_remove(0);
    let (name, image) = match &args.image {
        Some(argument) => {
            let source = ImageSource::from(argument.as_path());
            (
                source.to_string(),
                image::read(&source, args.compute.pictures.background)?,
            )
        }
        None => (shipped.image.clone(), embedded::picture(&shipped.image)?),
    };
    let questions = if args.questions.is_empty() {
        shipped.questions
    } else {
        args.escape.read_all(&args.questions)?
    };
    Ok(Scene {
        name,
        image,
        questions,
    })
}

/// The files are needed only while they are loaded.
fn load(args: &ComputeArgs, terminal: &mut Terminal, interrupt: &Interrupt) -> Result<Loaded, Error> {
    let files = ModelFiles::write()?;
    Loaded::load(
        (&files.model(), &model_options(args)?),
        Some((&files.projector(), &projector_options(args))),
        terminal,
        interrupt,
    )
}

fn policy(args: &PolicyArgs, loaded: &Loaded) -> Result<PolicyConfig, Error> {
    let file = match &args.policy_file {
        Some(path) => PolicyOverrides::from_file(path)?,
        None => PolicyOverrides::from_toml(embedded::policy())?,
    };
    let n_vision = loaded
        .projector
        .as_ref()
        .and_then(|projector| projector.shape().n_tokens_per_image);
    let shape = model_shape(loaded.model.shape(), n_vision.map(|n| n as usize));
    Ok(presets::resolve(&shape, Some(&file), &args.overrides())?.policy)
}

fn session(loaded: &Loaded, args: &ComputeArgs, policy: &PolicyConfig) -> Result<Session, Error> {
    let options = SessionOptions {
        // the table compares reading a picture, not remembering one
        remember: false,
        ..session_options(args, loaded.model.shape().n_ctx_train, policy)
    };
    Ok(Session::new(&loaded.model, options)?)
}

fn header(scene: &Scene) -> String {
    format!(
        "A small model that comes with the program looks at {} ({} x {} pixels)\n\
         and answers without pruning (dense) and with it (pruned).\n\
         Rows are the tokens, of text and picture, that a layer computes for the prompt.\n\n{}\n",
        scene.name,
        scene.image.width(),
        scene.image.height(),
        table_line([
            "",
            "answer",
            "rows per layer",
            "work",
            "KV cache",
            "prefill",
            "decode"
        ])
    )
}

/// A question, and one line for each answer.
fn rows(number: usize, comparison: &Comparison) -> [String; 3] {
    [
        format!("{number}. {}", comparison.question),
        row("dense", &comparison.dense),
        row("pruned", &comparison.pruned),
    ]
}

fn row(name: &str, report: &RunReport) -> String {
    table_line([
        &format!("   {name}"),
        report.text.trim(),
        &rows_per_stage(report),
        &units::flops(report.flops.model.actual as f64),
        &units::bytes(report.kv_bytes.actual),
        &units::milliseconds(report.times_ms.prefill),
        &units::milliseconds(report.times_ms.decode),
    ])
}

fn table_line([name, answer, rows, work, kv, prefill, decode]: [&str; 7]) -> String {
    let answer = shortened(answer, 18);
    let line = format!("{name:<10}{answer:<19}{rows:<33}{work:>11}{kv:>10}{prefill:>9}{decode:>9}");
    line.trim_end().to_owned()
}

fn shortened(text: &str, n_chars: usize) -> String {
    if text.chars().count() > n_chars {
        text.chars().take(n_chars - 1).chain(['…']).collect()
    } else {
        text.to_owned()
    }
}

/// `81 in 0-3, 24 in 4-6, 17 in 7-9`: how many rows ran in which layers.
fn rows_per_stage(report: &RunReport) -> String {
    let runs = summary::row_runs(&report.layers);
    let spans = runs.iter().map(|run| {
        let (first, last) = (run.il_first, run.il_last);
        if first == last {
            format!("{} in {first}", run.n_rows)
        } else {
            format!("{} in {first}-{last}", run.n_rows)
        }
    });
    spans.collect::<Vec<_>>().join(", ")
}

fn totals(comparisons: &[Comparison]) -> Vec<String> {
    let n = comparisons.len();
    let n_same = comparisons
        .iter()
        .filter(|c| c.dense.text.trim() == c.pruned.text.trim())
        .count();
    let saved = |value: fn(&RunReport) -> f64| {
        let dense = comparisons.iter().map(|c| value(&c.dense)).sum();
        let pruned = comparisons.iter().map(|c| value(&c.pruned)).sum();
        units::saved(dense, pruned)
    };
    vec![
        String::new(),
        format!(
            "{n_same} of {n} answers are the same. Work {}, KV cache {}, prefill time {}.",
            saved(|report| report.flops.model.actual as f64),
            saved(|report| report.kv_bytes.actual as f64),
            saved(|report| report.times_ms.prefill)
        ),
        "Work counts the vision encoder too. On a model this small, times say little: try your own with visipruner run."
            .to_owned(),
    ]
}

/// For each question the picture with the tokens that were kept for it.
fn pictures(image: &Image, comparisons: &[Comparison]) -> Vec<String> {
    let shown: Vec<_> = comparisons
        .iter()
        .enumerate()
        .filter_map(|(i, c)| mosaic_of(image, i + 1, &c.pruned))
        .collect();
    let Some(width) = shown.first().map(|(n_columns, _)| n_columns + 3) else {
        return Vec::new();
    };
    let mut lines = vec![String::new(), "What was kept, dropped tokens dimmed:".to_owned()];
    for beside in shown.chunks((MOSAIC_COLUMNS / width).max(1)) {
        let n_lines = beside.iter().map(|(_, lines)| lines.len()).max().unwrap_or(0);
        lines.extend((0..n_lines).map(|i| {
            let parts: Vec<_> = beside.iter().map(|(_, lines)| lines[i].as_str()).collect();
            parts.join("   ")
        }));
        lines.push(String::new());
    }
    lines
}

/// Columns and lines of one picture, with a title; `None` without a square of tokens or where nothing was dropped.
fn mosaic_of(image: &Image, number: usize, report: &RunReport) -> Option<(usize, Vec<String>)> {
    let [_] = report.image_spans.as_slice() else {
        return None;
    };
    let kept = Kept::of(report, 0, image)?;
    let (n_columns, picture) = kept.picture?;
    let title = format!("{number}: {} of {}", kept.n_kept, kept.n_vision);
    let mut lines = vec![format!("{title:<n_columns$}")];
    lines.extend(picture);
    Some((n_columns, lines))
}
