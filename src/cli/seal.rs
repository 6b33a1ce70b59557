//! `coffre seal`.

use std::path::PathBuf;

use crate::{
    cli::{Opened, Run, exit, keys, output},
    error::Result,
    format::name_from,
    ops::seal::{self, Context, Options, Report},
    sys,
    vault::SealerKeys,
};

/// Add a snapshot.
#[derive(clap::Args)]
pub struct Args {
    /// What to seal: directories or files
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Tag the snapshot (repeatable)
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Name of the host in the snapshot (default: this host's name)
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Leave out what this pattern fits, by the rules of gitignore: a name at any depth, or an absolute path (repeatable)
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// zstd level: higher is smaller and slower
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(i32).range(1..=19))]
    level: i32,
}

/// Runs it.
pub fn run(run: &Run, args: &Args) -> Result<u8> {
    let opened = run.globals.open()?;
    let sealer = sealer_keys(run, &opened)?;
    let context = context(run, &opened, &sealer);
    let options = Options {
        paths: args.paths.clone(),
        exclude: args.exclude.clone(),
        never: vec![opened.path.clone()],
        host: args.host.clone().unwrap_or_else(sys::host_name),
        tags: args.tag.clone(),
        level: args.level,
        bytes_per_sec: None,
        workers: sys::available_cores(),
    };
    let report = seal::run(&context, &options)?;
    if run.globals.json || !run.globals.quiet {
        run.screen.data(&report, || text(&report, run.globals.verbose))?;
    }
    Ok(if report.unreadable.is_empty() { 0 } else { exit::INCOMPLETE })
}

/// What sealing works with.
pub fn context<'a>(run: &'a Run, opened: &'a Opened, sealer: &'a SealerKeys) -> Context<'a> {
    Context { vault: &opened.vault, sealer, state: &opened.state, clock: &*run.clock, sink: &**run.screen, cancel: &run.cancel }
}

/// This host's sealing keys. A host that has none is enrolled if an owner's key is at hand.
pub fn sealer_keys(run: &Run, opened: &Opened) -> Result<SealerKeys> {
    if opened.state.sealer()?.is_some() {
        return seal::sealer_keys(&opened.vault, &opened.state);
    }
    let unlocking = keys::unlocking(run.globals)?;
    if unlocking.is_empty() && !keys::can_ask() {
        return seal::sealer_keys(&opened.vault, &opened.state);
    }
    let owner = unlocking.open(&*opened.vault.store, opened.vault.config.id)?;
    let name = name_from(&sys::host_name());
    let sealer = opened.vault.enrol(&owner, &name)?;
    opened.state.keep_sealer(&sealer)?;
    opened.state.pin_owner(&owner.sign.public())?;
    run.screen.note(&format!("this host is enrolled as sealer {name}; from now on it seals without an owner's key"));
    Ok(sealer)
}

fn text(r: &Report, verbose: u8) -> String {
    let s = &r.stats;
    let mut text = format!(
        "sealed {}  {}  {}\n  {} entries, {}: {} files, {} directories, {} links, {} others\n  read {} files, {}; new {}, stored {}\n",
        &r.id[..8],
        r.time,
        output::visible(&r.paths.join(" ")),
        output::count(s.entries()),
        output::bytes(s.logical_bytes),
        output::count(s.files),
        output::count(s.directories),
        output::count(s.symlinks),
        output::count(s.others),
        output::count(r.files_read),
        output::bytes(r.bytes_read),
        output::bytes(s.new_bytes),
        output::bytes(s.stored_bytes),
    );
    for (what, problems) in [("could not be read", &r.unreadable), ("changed while being read", &r.changed)] {
        if !problems.is_empty() {
            text.push_str(&format!("  {} {what}\n", output::count(problems.len() as u64)));
        }
    }
    if s.sockets_skipped > 0 {
        text.push_str(&format!("  {} sockets left out\n", output::count(s.sockets_skipped)));
    }
    text.push_str(&format!("  {:.1} s, {} of memory\n", r.seconds, output::bytes(r.peak_memory_bytes)));
    if verbose > 0 {
        text.push_str(&format!("  snapshot {} {}\n", r.snapshot, r.id));
    }
    text
}
