//! `coffre key`: who can read, and who can seal. One subcommand a file; here is only which is which.

mod revoke;

use crate::{cli::Run, error::Result};

/// Commands about keys.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Take back a sealer's right to seal, from a moment on
    Revoke(revoke::Args),
}

/// Runs them.
pub fn run(run: &Run, command: &Command) -> Result<u8> {
    match command {
        Command::Revoke(args) => revoke::run(run, args),
    }
}
