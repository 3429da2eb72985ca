//! `visipruner generate`: what packages of the program install beside it.

use std::path::Path;

use clap::CommandFactory;
use clap_mangen::Man;

use super::args::{Cli, GenerateArgs};
use super::error::Error;
use super::{argv, output};

const NAME: &str = "visipruner";

/// Completions of a shell to standard output, or man pages into a folder.
///
/// # Errors
/// [`Error::Write`], [`Error::Stdout`]
pub fn run(args: &GenerateArgs) -> Result<(), Error> {
    match args {
        GenerateArgs::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), NAME, &mut script);
            output::print(&String::from_utf8_lossy(&script)).map(drop)
        }
        GenerateArgs::Man { folder } => write_man_pages(folder),
    }
}

/// A page for the program, and one for each subcommand.
fn write_man_pages(folder: &Path) -> Result<(), Error> {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    let subcommands = program.get_subcommands().filter(|command| !command.is_hide_set());
    for command in std::iter::once(&program).chain(subcommands) {
        let page = Man::new(command.clone());
        let path = folder.join(page.get_filename());
        output::write("a man page to", &path, &rendered(&page))?;
    }
    Ok(())
}

fn rendered(page: &Man) -> String {
    let mut text = Vec::new();
    page.render(&mut text).expect("memory takes what is written");
    argv::show_in_man_page(&String::from_utf8_lossy(&text))
}
