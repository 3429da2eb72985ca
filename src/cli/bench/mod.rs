//! `visipruner bench`: what pruning buys on this machine, side by side with the model as it is.
//!
//! ```text
//! plan: variants, prompts ──► measure: A B A B … ──► result: medians, ratios to dense ──► table, JSON, plot
//! ```

mod measure;
mod memory;
mod plan;
mod plot;
mod result;
mod roofline;
mod rounds;
mod series;
mod stock;
mod table;

use visipruner::engine::Image;

use super::answer::{Loaded, show_log};
use super::args::BenchArgs;
use super::error::{Error, in_one_line};
use super::files::Files;
use super::interrupt::Interrupt;
use super::run::{model_options, projector_options};
use super::terminal::Terminal;
use super::{embedded, image, output};
use measure::Bench;
use plan::Plan;
use result::BenchReport;

/// Measures, and prints what came out.
///
/// # Errors
/// Files and flags that cannot be used, and what goes wrong in the engine. Nothing that was measured before that, or before
/// Ctrl-C, is lost: it is printed and written first.
pub fn run(args: &BenchArgs) -> Result<(), Error> {
    let mut terminal = Terminal::new(&args.output);
    show_log(args.output.verbose);
    let interrupt = Interrupt::listen();
    for path in [&args.report, &args.plot].into_iter().flatten() {
        output::check_writable("the results", path)?;
    }
    let files = Files::open(&args.model, true, &mut terminal)?;
    let plan = Plan::new(args, &files)?;
    let images = images(args)?;
    let projector = projector_options(&args.compute);
    let loaded = Loaded::load(
        (files.model_path(), &model_options(&args.compute)?),
        files.projector_path().map(|path| (path, &projector)),
        &mut terminal,
        &interrupt,
    )?;
    let mut bench = Bench {
        args,
        files: &files,
        plan: &plan,
        images: &images,
        loaded,
        terminal: &mut terminal,
        interrupt: &interrupt,
    };
    let (report, failed) = bench.run()?;
    let shown = show(args, &report);
    match failed {
        None => shown,
        Some(error) => {
            if let Err(unwritten) = shown {
                terminal.warn(in_one_line(&unwritten));
            }
            Err(error)
        }
    }
}

fn show(args: &BenchArgs, report: &BenchReport) -> Result<(), Error> {
    if args.json {
        output::print_json(report)?;
    } else {
        output::print_lines(&table::lines(report))?;
    }
    if let Some(path) = &args.plot {
        output::write("the plot", path, &plot::svg(report))?;
    }
    if let Some(path) = &args.report {
        output::write_json("the results", path, report)?;
    }
    Ok(())
}

/// The pictures given, or the one that comes with the program.
fn images(args: &BenchArgs) -> Result<Vec<Image>, Error> {
    if args.images.is_empty() {
        let shipped = embedded::scenes().swap_remove(0);
        return Ok(vec![embedded::picture(&shipped.image)?]);
    }
    let sources = image::sources(&args.images)?;
    image::read_all(&sources, args.compute.pictures.background)
}
