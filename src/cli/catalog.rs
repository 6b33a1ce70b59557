//! `coffre catalog`.

use crate::{
    cli::{Run, output, seal},
    error::Result,
    ops,
};

/// Commands about the catalog.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Make it anew from the vault; it is made by itself when it is missing or damaged
    Rebuild,
}

/// Runs them.
pub fn run(run: &Run, command: &Command) -> Result<u8> {
    let Command::Rebuild = command;
    let opened = run.globals.open()?;
    let sealer = seal::sealer_keys(run, &opened)?;
    let context = seal::context(run, &opened, &sealer);
    let report = ops::catalog::rebuild(&context)?;
    run.screen.data(&report, || {
        format!(
            "catalog rebuilt: {} packs, {} chunks, {:.1} s\n",
            output::count(report.packs as u64),
            output::count(report.chunks),
            report.seconds
        )
    })?;
    Ok(0)
}
