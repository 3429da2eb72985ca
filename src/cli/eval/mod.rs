//! `visipruner eval`: a set of questions under several policies.
//!
//! ```text
//! flags ─ plan: questions, policies of each model ─► budgets at equal cost ─► ask: every question, every policy
//!                                                                              │
//!                    tables, CSV, JSON, plot ◄─ output ◄─ Summary ◄─ Store ◄───┘
//! ```

mod ask;
mod budget;
mod equal_cost;
mod output;
pub mod plan;

use visipruner::eval::{Question, Store, check_images, select};

use super::answer::show_log;
use super::args::EvalArgs;
use super::args::eval::ResultArgs;
use super::error::{Error, in_one_line};
use super::interrupt::Interrupt;
use super::output::check_writable;
use super::questions;
use super::terminal::Terminal;
use ask::Run;
use plan::Plan;

/// Asks, and prints what came out.
///
/// # Errors
/// Files and flags that cannot be used, and what goes wrong in the engine. Every answer is in the store before the next
/// question is asked, and answers given before an error are in the tables, as after Ctrl-C.
pub fn run(args: &EvalArgs) -> Result<(), Error> {
    let mut terminal = Terminal::new(&args.output);
    show_log(args.output.verbose);
    let interrupt = Interrupt::listen();
    check_files(&args.results)?;
    let questions = read_questions(args)?;
    let mut plan = Plan::new(args, &questions, &mut terminal)?;
    // Without a file of its own the store is as short-lived as the run.
    let folder = tempfile::tempdir().map_err(|source| Error::Write {
        what: "to",
        path: std::env::temp_dir(),
        source,
    })?;
    let path = args.results.out.clone();
    let mut store = Store::open(
        path.unwrap_or_else(|| folder.path().join("answers.jsonl")),
        &plan::settings(args, &plan)?,
    )?;
    let n_before = store.contents().records.len();
    let mut run = Run {
        args,
        questions: &questions,
        store: &mut store,
        terminal: &mut terminal,
        interrupt: &interrupt,
    };
    let failed = ask(&mut run, &mut plan);
    let has_new = store.contents().records.len() > n_before;
    let Some(error) = failed else {
        return output::write(args, &plan, &questions, store.contents(), &mut terminal);
    };
    if has_new && let Err(unwritten) = output::write(args, &plan, &questions, store.contents(), &mut terminal)
    {
        terminal.warn(in_one_line(&unwritten));
    }
    Err(error)
}

/// Asks every model, until Ctrl-C or an error, which is returned.
fn ask(run: &mut Run, plan: &mut Plan) -> Option<Error> {
    for model in &mut plan.models {
        let failed = run.model(model).err();
        let failed = failed.filter(|error| !is_stop(error, run.interrupt));
        if failed.is_some() || run.interrupt.is_pressed() {
            return failed;
        }
    }
    None
}

/// Whether an error only says that Ctrl-C was pressed. Any other one counts, Ctrl-C or not.
fn is_stop(error: &Error, interrupt: &Interrupt) -> bool {
    interrupt.is_pressed() && error.is_stop()
}

fn check_files(results: &ResultArgs) -> Result<(), Error> {
    let files = [
        &results.out,
        &results.markdown,
        &results.csv,
        &results.json,
        &results.plot,
    ];
    let mut files = files.into_iter().flatten();
    files.try_for_each(|path| check_writable("the results", path))
}

/// The questions in the order in which they are asked; their pictures are there, and so are places for them.
fn read_questions(args: &EvalArgs) -> Result<Vec<Question>, Error> {
    let questions = select(
        plan::question_file(&args.questions).read()?,
        args.questions.shuffle,
        args.questions.limit,
    );
    check_images(&questions)?;
    for question in &questions {
        let prompt = args.questions.marker.chat(&question.prompt);
        questions::check(&question.id, &prompt, question.images.len())?;
    }
    Ok(questions)
}
