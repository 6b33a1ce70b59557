//! `coffre key`: who can read, who can seal. One subcommand a file; here is only which is which.

mod add;
mod list;
mod revoke;

use crate::{cli::Run, error::Result};

/// Who can read the vault, and who can seal into it.
#[derive(clap::Subcommand)]
pub enum Command {
    /// List the ways in and the sealers
    List,
    /// Add a sealer
    Add(add::Args),
    Revoke(revoke::Args),
}

/// Runs it.
pub fn run(run: &Run, command: &Command) -> Result<u8> {
    match command {
        Command::List => list::run(run),
        Command::Add(args) => add::run(run, args),
        Command::Revoke(args) => revoke::run(run, args),
    }
}
