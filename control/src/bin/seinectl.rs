//! `seinectl`: the operator's command. `seinectl --help` explains it.

use std::io;
use std::process::ExitCode;

use clap::Parser as _;
use seine_control::ctl::arguments::Arguments;
use seine_control::ctl::{Failure, run};

fn main() -> ExitCode {
    // Ends by itself, with status 2, on a wrong command line.
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("seinectl: cannot start an event loop: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(&arguments, &mut io::stdout().lock())) {
        Ok(()) => ExitCode::SUCCESS,
        // `seinectl ... | head` closes the pipe: nobody is left to tell.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("seinectl: {failure}");
            ExitCode::from(failure.exit_status())
        }
    }
}
