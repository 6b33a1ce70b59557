//! `coffre verify`.

use std::sync::Arc;

use crate::{
    cli::{Run, exit, keys, output},
    error::{Error, Result},
    ops::verify::{self, Context, Depth, Report},
    sys,
    vault::Reader,
};

/// Frames kept while everything is read once.
const CACHE_BYTES: u64 = 32 << 20;

/// Check the vault.
#[derive(clap::Args)]
pub struct Args {
    /// How deep: signatures and that every object is there; every object read (no owner's key needed); everything decrypted and checked
    #[arg(long, value_name = "DEPTH", default_value = "packs", value_enum)]
    depth: DepthArg,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum DepthArg {
    Snapshots,
    Packs,
    Chunks,
}

/// Runs it.
pub fn run(run: &Run, args: &Args) -> Result<u8> {
    let depth = match args.depth {
        DepthArg::Snapshots => Depth::Snapshots,
        DepthArg::Packs => Depth::Packs,
        DepthArg::Chunks => Depth::Chunks,
    };
    let opened = run.globals.open()?;
    let unlocking = keys::unlocking(run.globals)?;
    // Only decoding needs a key; if one was brought all the same, damage is followed to the files.
    let owner = match depth == Depth::Chunks || !unlocking.is_empty() {
        true => Some(Arc::new(keys::open(&opened.vault, unlocking).map_err(|e| match depth {
            Depth::Chunks if e.hint_text().is_none() => e.hint("--depth packs needs no key"),
            _ => e,
        })?)),
        false => None,
    };
    let reader = owner.map(|owner| Reader::open(opened.vault.clone(), owner, CACHE_BYTES)).transpose()?;
    let context = Context {
        vault: &opened.vault,
        reader: reader.as_ref().map(|(reader, _)| reader),
        state: &opened.state,
        clock: &*run.clock,
        sink: &**run.screen,
        cancel: &run.cancel,
        workers: sys::available_cores(),
    };
    let has_key = reader.is_some();
    let mut report = verify::run(&context, depth)?;
    report.damage.extend(reader.into_iter().flat_map(|(_, findings)| findings));
    report.damage.sort();
    report.damage.dedup_by(|a, b| a.object == b.object && a.text == b.text);
    run.screen.data(&report, || text(&report))?;
    if report.is_clean() {
        return Ok(0);
    }
    let objects = match report.damaged_objects() {
        1 => "1 object is damaged or missing".to_owned(),
        n => format!("{n} objects are damaged or missing"),
    };
    let error = Error::corrupt(match report.damaged_files.len() {
        0 => objects,
        1 => format!("{objects}, and 1 file with it"),
        n => format!("{objects}, and {n} files with them"),
    });
    let hint = match (report.damaged_files.is_empty(), has_key) {
        (true, false) => "copy what is named above back from another copy of the vault; with an owner's key verify names the files too",
        (true, true) => "no file is lost with it; copy what is named above back from another copy of the vault if there is one",
        (false, _) => "copy what is named above back from another copy of the vault; every file not named can be restored",
    };
    run.screen.error(&error.hint(hint));
    Ok(exit::DAMAGE)
}

fn text(r: &Report) -> String {
    let mut text = String::new();
    for finding in &r.damage {
        text.push_str(&format!("damaged  {}  {}\n", finding.object, output::visible(&finding.text)));
    }
    for file in &r.damaged_files {
        text.push_str(&format!("lost     {}:{}  {}\n", &file.snapshot[..8], output::visible(&file.path), output::visible(&file.text)));
    }
    if r.damaged_files_more > 0 {
        text.push_str(&format!("lost     and {} more files\n", output::count(r.damaged_files_more)));
    }
    let what = match r.depth {
        Depth::Snapshots => "signatures, chain and presence",
        Depth::Packs => "every object read",
        Depth::Chunks => "every object read, every chunk and tree decoded",
    };
    text.push_str(&format!(
        "{}: {} snapshots, {} objects, {}{}, {:.1} s ({what})\n",
        if r.is_clean() { "no damage" } else { "DAMAGE" },
        output::count(r.snapshots),
        output::count(r.objects),
        output::bytes(r.bytes),
        if r.chunks > 0 { format!(", {} chunks", output::count(r.chunks)) } else { String::new() },
        r.seconds
    ));
    if !r.forks.is_empty() {
        text.push_str(&format!(
            "note: {} snapshots fork their chain ({}): two machines seal under one name\n",
            r.forks.len(),
            r.forks.join(", ")
        ));
    }
    if r.unreferenced > 0 {
        text.push_str(&format!(
            "{} objects are in no snapshot: left by a seal that did not finish, reused by the next\n",
            output::count(r.unreferenced)
        ));
    }
    text
}
