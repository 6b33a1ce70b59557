//! `coffre key`: who can read, who can seal. One subcommand a file; here is only which is which.

mod add;
mod change;
mod kit;
mod list;
mod revoke;

use crate::{cli::Run, error::Result};

/// Who can read the vault, and who can seal into it.
#[derive(clap::Subcommand)]
pub enum Command {
    /// List the ways in and the sealers
    List,
    Add(add::Args),
    Remove(change::RemoveArgs),
    Passphrase(change::PassphraseArgs),
    /// Seal with new keys from now on
    ///
    /// Every way in that there is gets them; each host hears of it at its next seal, and needs nobody. What was sealed before stays as it
    /// is, and who was removed before still reads that.
    Rotate,
    Kit(kit::Args),
    Restore(kit::RestoreArgs),
    Revoke(revoke::Args),
}

/// Runs it.
pub fn run(run: &Run, command: &Command) -> Result<u8> {
    match command {
        Command::List => list::run(run),
        Command::Add(args) => add::run(run, args),
        Command::Remove(args) => change::remove(run, args),
        Command::Passphrase(args) => change::passphrase(run, args),
        Command::Rotate => change::rotate(run),
        Command::Kit(args) => kit::run(run, args),
        Command::Restore(args) => kit::restore(run, args),
        Command::Revoke(args) => revoke::run(run, args),
    }
}
