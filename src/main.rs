//! Parse, run, print the error, return its exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    coffre::cli::main()
}
