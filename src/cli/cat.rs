//! `coffre cat`.

use std::ffi::OsString;

use crate::{
    cli::{DISK_CACHE_BYTES, Run, complete, look},
    error::{Error, Result},
    ops,
};

/// Frames kept while one file is read.
const CACHE_BYTES: u64 = 16 << 20;

/// Print a file of a snapshot.
#[derive(clap::Args)]
pub struct Args {
    /// Snapshot and path: `latest:/etc/hosts`, `1a2b3c4d:/etc/hosts`, `yesterday:/etc/hosts`
    #[arg(value_name = "SNAP:PATH", add = complete::snap_path())]
    what: OsString,
}

/// Runs it.
pub fn run(run: &Run, args: &Args) -> Result<u8> {
    let (selector, path) = look::snap_path(run, &args.what)?;
    if path.is_empty() {
        let typed = args.what.to_string_lossy();
        return Err(Error::usage(format!("`{typed}` names no file")).hint("write SNAP:PATH, such as latest:/etc/hosts"));
    }
    let opened = run.globals.open_to_read(DISK_CACHE_BYTES)?;
    let (reader, snapshot) = look::one(run, &opened, &selector, CACHE_BYTES, None)?;
    ops::cat::run(&reader, &snapshot, &path, &mut std::io::stdout().lock(), &run.cancel)?;
    Ok(0)
}
