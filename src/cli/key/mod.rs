//! `coffre key`: who can read, who can seal.

mod add;
mod list;

use crate::{cli::Run, error::Result};

/// Who can read the vault, and who can seal into it.
#[derive(clap::Subcommand)]
pub enum Command {
    /// List the ways in and the sealers
    List,
    /// Add a sealer
    Add(add::Args),
}

/// Runs it.
pub fn run(run: &Run, command: &Command) -> Result<u8> {
    match command {
        Command::List => list::run(run),
        Command::Add(args) => add::run(run, args),
    }
}
