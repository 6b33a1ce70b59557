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
    /// Add a way in, or a sealer
    Add(add::Args),
    /// Take a way in out of the vault
    Remove(change::RemoveArgs),
    /// Change a passphrase
    Passphrase(change::PassphraseArgs),
    /// Seal with new keys from now on
    Rotate,
    /// Print the recovery kit
    Kit(kit::Args),
    /// Put a way in back into a vault whose keys/ is gone
    Restore(kit::RestoreArgs),
    /// Take back a sealer's right to seal, from a moment on
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
