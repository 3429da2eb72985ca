//! The command-line tool.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    let code = match cli::run(std::env::args_os()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", cli::error::in_one_line(&error));
            ExitCode::FAILURE
        }
    };
    cli::interrupt::end_as_signalled();
    code
}
