//! `coffre cat`.

use crate::{
    cli::{DISK_CACHE_BYTES, Run, complete, look, split_snap_path},
    error::{Error, Result},
    ops,
    vault::Selector,
};

/// Frames kept while one file is read.
const CACHE_BYTES: u64 = 16 << 20;

/// Print a file of a snapshot.
#[derive(clap::Args)]
pub struct Args {
    /// Snapshot and path: `latest:/etc/hosts`, `1a2b3c4d:/etc/hosts`, `yesterday:/etc/hosts`
    #[arg(value_name = "SNAP:PATH", add = complete::snap_path())]
    what: String,
}

/// Runs it.
pub fn run(run: &Run, args: &Args) -> Result<u8> {
    let (snap, path) = split_snap_path(&args.what);
    if path.is_empty() {
        return Err(Error::usage(format!("`{}` names no file", args.what)).hint("write SNAP:PATH, such as latest:/etc/hosts"));
    }
    let selector = Selector::parse(snap, run.clock.now_ns())?;
    let opened = run.globals.open_to_read(DISK_CACHE_BYTES)?;
    let (reader, snapshot) = look::one(run, &opened, &selector, CACHE_BYTES)?;
    ops::cat::run(&reader, &snapshot, path.as_bytes(), &mut std::io::stdout().lock(), &run.cancel)?;
    Ok(0)
}
