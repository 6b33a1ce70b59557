//! What no copy has any more, from the files themselves, where they still are what they were.
//!
//! The chunks of lost packs are struck from this host's catalog, so its next seal stores them again when it meets them. Files that need one
//! and still have their size are sealed at once, and that snapshot is forgotten: what is in it is kept, as older snapshots need it. A chunk is
//! right when its id says so, so a file that changed helps nobody and harms nothing. Packs that nobody misses any more are condemned.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    error::Result,
    event::Event,
    format::{Content, Decision, Digest, Line},
    ops::{
        seal,
        verify::{self, DamagedFile, Depth, Report},
    },
    store::Key,
    vault::{Finding, Journal, OwnerKeys, Reader, Snapshot, resolve_path},
};

/// Frames kept while files are looked at.
const CACHE_BYTES: u64 = 32 << 20;
/// How long a pack that nobody misses can still be asked for, in seconds: that of a prune.
const GRACE_SECS: u64 = 14 * 86_400;

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct FromSource {
    /// Files that were read again.
    pub files: u64,
    /// Lost packs that nothing needs any more: they are condemned.
    pub replaced: BTreeSet<String>,
}

/// Stores again what was in the `lost` packs, as far as this host has it. Without an owner's key nobody knows which files those are: then only
/// the catalog is told, and the next seal does it.
///
/// # Errors
/// Those of a seal.
pub fn from_source(
    context: &seal::Context,
    owner: Option<&Arc<OwnerKeys>>,
    options: &seal::Options,
    lost: &[Finding],
) -> Result<FromSource> {
    let packs: BTreeMap<String, Digest> = lost
        .iter()
        .filter(|f| f.object.starts_with("packs/"))
        .filter_map(|f| Some((f.object.clone(), Key::parse(&f.object)?.digest()?)))
        .collect();
    if packs.is_empty() {
        return Ok(FromSource::default());
    }
    seal::distrust(context, packs.values())?;
    let Some(owner) = owner else {
        let text = "the next seal of this host stores again what it still has of the lost packs; with an owner's key that is done at once";
        context.sink.send(Event::Note(text.to_owned()));
        return Ok(FromSource::default());
    };
    let (snapshots, _) = context.vault.snapshots(owner)?;
    let known: Vec<Finding> = lost.iter().filter(|f| packs.contains_key(&f.object)).cloned().collect();
    let look = || -> Result<(Reader, Report)> {
        let reader = Reader::open(context.vault.clone(), owner.clone(), CACHE_BYTES)?.0;
        let report = verify::run_knowing(&verify_context(context, &reader, options.workers), Depth::Snapshots, known.clone())?;
        Ok((reader, report))
    };
    let (reader, report) = look()?;
    let files: BTreeSet<PathBuf> = report.damaged_files.iter().filter_map(|file| still_there(&reader, &snapshots, file)).collect();
    let mut done = FromSource { files: files.len() as u64, ..FromSource::default() };
    let mut after = report;
    if !files.is_empty() {
        let options = seal::Options { paths: Vec::new(), listed: files.into_iter().collect(), ..options.clone() };
        let sealed = seal::run(context, &options)?;
        let (all, _) = context.vault.snapshots(owner)?;
        let forget = all.iter().filter(|s| s.id.to_string() == sealed.id).map(|s| Decision::Forget(s.key.clone(), s.id)).collect();
        Journal::append(context.vault, owner, context.clock.now_ns(), forget)?;
        after = look()?.1;
    }
    if after.damaged_files.is_empty() && after.damaged_files_more == 0 {
        let lines = packs.iter().map(|(path, digest)| Line { digest: *digest, path: path.clone() }).collect();
        let list = Journal::put_list(context.vault, lines)?;
        let condemn = Decision::Condemn { list, fresh: None, grace_secs: GRACE_SECS };
        // All that anybody needs of them is elsewhere now: that they are damaged is no damage any more.
        let decisions = packs.keys().cloned().map(Decision::Loose).chain([condemn]).collect();
        Journal::append(context.vault, owner, context.clock.now_ns(), decisions)?;
        done.replaced = packs.into_keys().collect();
    }
    Ok(done)
}

fn verify_context<'a>(context: &'a seal::Context, reader: &'a Reader, workers: usize) -> verify::Context<'a> {
    let seal::Context { vault, state, clock, sink, cancel, .. } = context;
    verify::Context { vault, reader: Some(reader), state, expect: &[], clock: *clock, sink: *sink, cancel, workers }
}

/// Where the file is, if one of that size is there.
fn still_there(reader: &Reader, snapshots: &[Snapshot], file: &DamagedFile) -> Option<PathBuf> {
    let snapshot = snapshots.iter().find(|s| s.id.to_string() == file.snapshot)?;
    let entry = resolve_path(reader, snapshot, file.path.as_bytes()).ok().flatten()?;
    let Content::File { size, .. } = entry.content else { return None };
    let path = Path::new(&file.path);
    let there = fs::symlink_metadata(path).ok()?;
    (there.is_file() && there.len() == size).then(|| path.to_owned())
}
