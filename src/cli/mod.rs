//! The command line: one file per subcommand.
#![cfg_attr(
    not(feature = "native"),
    allow(
        dead_code,
        reason = "without an engine, flags and files are checked but nothing runs"
    )
)]

#[cfg(feature = "native")]
mod answer;
mod args;
mod argv;
#[cfg(feature = "native")]
mod bench;
#[cfg(feature = "native")]
mod calibrate;
#[cfg(feature = "native")]
mod chat;
#[cfg(feature = "native")]
mod demo;
#[cfg(feature = "native")]
mod devices;
#[cfg(feature = "native")]
mod embedded;
pub mod error;
#[cfg(feature = "native")]
mod eval;
mod files;
mod generate;
mod image;
mod info;
#[cfg(feature = "native")]
mod inspect;
pub mod interrupt;
#[cfg(feature = "native")]
mod mosaic;
mod output;
mod paths;
#[cfg(feature = "native")]
mod quantize;
mod questions;
mod run;
#[cfg(feature = "server")]
mod serve;
mod synth;
mod terminal;
mod units;

use std::ffi::OsString;
use std::io::IsTerminal;

use clap::Parser;
use clap::error::ErrorKind;

use args::{Cli, Command};
use error::Error;

/// Does what the arguments say; the first one is the program's name.
///
/// # Errors
/// Whatever keeps it from being done.
pub fn run(args: impl IntoIterator<Item = OsString>) -> Result<(), Error> {
    let cli = match Cli::try_parse_from(argv::expand(args)) {
        Ok(cli) => cli,
        Err(error) => return help_or_error(error),
    };
    match cli.command {
        Command::Run(args) => run::run(*args),
        #[cfg(feature = "native")]
        Command::Chat(args) => chat::run(*args),
        #[cfg(not(feature = "native"))]
        Command::Chat(_) => Err(Error::NoEngine),
        #[cfg(feature = "native")]
        Command::Demo(args) => demo::run(*args),
        #[cfg(not(feature = "native"))]
        Command::Demo(_) => Err(Error::NoEngine),
        Command::Info(args) => info::run(&args),
        #[cfg(feature = "native")]
        Command::Devices(args) => devices::run(&args),
        #[cfg(not(feature = "native"))]
        Command::Devices(_) => Err(Error::NoEngine),
        #[cfg(feature = "rpc")]
        Command::RpcServer(args) => devices::serve(&args),
        #[cfg(feature = "native")]
        Command::Bench(args) => bench::run(&args),
        #[cfg(not(feature = "native"))]
        Command::Bench(_) => Err(Error::NoEngine),
        #[cfg(feature = "native")]
        Command::Eval(args) => eval::run(&args),
        #[cfg(not(feature = "native"))]
        Command::Eval(_) => Err(Error::NoEngine),
        #[cfg(feature = "native")]
        Command::Inspect(args) => inspect::run(*args),
        #[cfg(not(feature = "native"))]
        Command::Inspect(_) => Err(Error::NoEngine),
        #[cfg(feature = "native")]
        Command::Calibrate(args) => calibrate::run(&args),
        #[cfg(not(feature = "native"))]
        Command::Calibrate(_) => Err(Error::NoEngine),
        #[cfg(feature = "native")]
        Command::Quantize(args) => quantize::run(&args),
        #[cfg(not(feature = "native"))]
        Command::Quantize(_) => Err(Error::NoEngine),
        #[cfg(feature = "server")]
        Command::Serve(args) => serve::run(*args),
        Command::Synth(args) => synth::run(&args),
        Command::Generate(args) => generate::run(&args),
    }
}

/// Help and version are no errors, although clap returns them as such.
fn help_or_error(error: clap::Error) -> Result<(), Error> {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let text = error.render();
            let text = if std::io::stdout().is_terminal() {
                text.ansi().to_string()
            } else {
                text.to_string()
            };
            output::print(&argv::show_in_help(&text)).map(drop)
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Err(Error::NoCommand),
        _ => Err(Error::usage(&error)),
    }
}
