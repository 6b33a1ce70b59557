//! Restore: a snapshot, or a part of one, into a directory. What is there already and right is kept.
//!
//! `walk` goes through the tree and what stands in the target, and makes plans (`plan`), window by window; `apply` carries them out on all
//! cores: files straight from packs in pack order (`files`), then further names, then what directories are. `table` is the only way to a
//! directory of the target: from its root down, name by name, through no link. `metadata` sets what entries are, `wanted` says which are.

mod apply;
mod files;
mod in_order;
mod metadata;
mod pieces;
mod plan;
mod table;
mod tally;
mod walk;
mod wanted;

use std::{collections::HashMap, io, path::PathBuf, sync::Mutex};

use serde::Serialize;

use crate::{
    error::{Error, Result},
    event::Sink,
    format::{Content, Entry},
    sys::{self, Cancel, Clock, Dir},
    vault::{Reader, Snapshot, resolve_path},
};

use apply::Apply;
use metadata::Setter;
use plan::Firsts;
use table::Table;
use tally::Tally;
use walk::Walk;

pub use metadata::Owner;
pub use tally::{Done, Failed, Failures, NotSet};
pub use wanted::Wanted;

/// How names of ours begin: of files that are not whole yet, followed by 24 hexadecimal digits.
const LEFTOVER: &[u8] = b".coffre-restore-";

/// What a restore works with.
pub struct Context<'a> {
    /// The content of the vault.
    pub reader: &'a Reader,
    /// What is restored.
    pub snapshot: &'a Snapshot,
    /// Time.
    pub clock: &'a dyn Clock,
    /// Where events go.
    pub sink: &'a dyn Sink,
    /// Stops the work.
    pub cancel: &'a Cancel,
}

/// What is restored, where to and how.
pub struct Options {
    /// Path in the snapshot, without a slash at its end; empty for all of it.
    pub path: Vec<u8>,
    /// The directory that gets the content of that path, or the file itself.
    pub target: PathBuf,
    /// Which entries.
    pub wanted: Wanted,
    /// Whose they shall be.
    pub owner: Owner,
    /// Whether extended attributes and ACLs are set.
    pub xattrs: bool,
    /// Whether files that seem to be right are read.
    pub by_content: bool,
    /// Threads.
    pub workers: usize,
}

impl Options {
    /// A path below the target as it stands in the snapshot.
    fn path_in_snapshot(&self, below: &[u8]) -> Vec<u8> {
        [&self.path, &b"/"[..], below].concat()
    }
}

/// What was restored.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Snapshot id.
    pub snapshot: String,
    /// What of it.
    pub path: String,
    /// Where to.
    pub target: String,
    /// What was done.
    #[serde(flatten)]
    pub done: Done,
    /// Frames decoded.
    pub frames: u64,
    /// Files whose content is damaged in the vault: not restored.
    pub lost: Failures,
    /// Files that the target did not take: not restored.
    pub problems: Failures,
    /// What could not be set of those that were.
    pub not_set: NotSet,
    /// How long it took.
    pub seconds: f64,
    /// Most memory resident.
    pub peak_memory_bytes: u64,
}

/// Restores. What fails for one file is in the report, not an error.
pub fn run(context: &Context, options: &Options) -> Result<Report> {
    let tally = Tally::new(context.sink, context.clock);
    let frames_before = context.reader.frames_decoded();
    let start = resolve_path(context.reader, context.snapshot, &options.path)?;
    let keys = context.reader.keys(context.snapshot);
    let target = open_target(options)?;
    let mut table = Table::new(target.again().map_err(|e| failed("cannot open the target", e))?)?;
    if let Some(entry) = start.as_ref().filter(|entry| entry.is_dir() && !is_shared(&target)) {
        table.set_entry(0, Some(Box::new(entry.clone())));
    }
    let total = total(context, &start);
    let setter = Setter::new(&tally, options.owner, options.xattrs);
    let mut walk = Walk::new(context, options, &keys, &tally, start, &target)?;
    let mut firsts = Firsts::default();
    let bad = Mutex::new(HashMap::new());
    let (mut bytes, mut entries) = (0, 0);
    while let Some(plan) = walk.window(&mut table, &mut firsts)? {
        bytes += plan.bytes;
        entries += plan.entries;
        // What is not walked yet is taken to be like what is.
        tally.expect(total.map_or(bytes, |total| (bytes as f64 * total as f64 / entries.max(1) as f64) as u64).max(bytes));
        let token = u64::from_le_bytes(sys::random()?);
        let files = files::Files::new(&table, &firsts, &plan.jobs, &setter, token);
        let apply = Apply {
            context,
            options,
            keys: &keys,
            table: &table,
            plan: &plan,
            files,
            firsts: &firsts,
            setter: &setter,
            tally: &tally,
            bad: &bad,
        };
        apply.run()?;
        for number in plan.finished {
            table.set_entry(number, None);
        }
    }
    let (done, lost, problems, not_set) = tally.result();
    Ok(Report {
        snapshot: context.snapshot.id.to_string(),
        path: String::from_utf8_lossy(&options.path).into_owned(),
        target: options.target.display().to_string(),
        done,
        frames: context.reader.frames_decoded() - frames_before,
        lost,
        problems,
        not_set,
        seconds: tally.elapsed().as_secs_f64(),
        peak_memory_bytes: sys::peak_memory_bytes(),
    })
}

/// Entries below the one that is restored, if they are counted.
fn total(context: &Context, start: &Option<Entry>) -> Option<u64> {
    match start {
        None => Some(context.snapshot.manifest.stats.entries()),
        Some(Entry { content: Content::Dir { below, .. }, .. }) => Some(*below),
        Some(_) => None,
    }
}

/// Opens the target directory, and makes it if it is not there, the ones above it too.
fn open_target(options: &Options) -> Result<Dir> {
    let shown = options.target.display();
    std::fs::create_dir_all(&options.target).map_err(|e| Error::io(format!("cannot make {shown}"), e))?;
    Dir::open(&options.target).map_err(|e| Error::io(format!("cannot open {shown}"), io::Error::from(e)))
}

/// Whether the target is a place for many things, as `/tmp` is or a disk that is mounted: such a directory stays as it is.
fn is_shared(target: &Dir) -> bool {
    let sticky = target.stat().is_ok_and(|stat| stat.mode & 0o1000 != 0);
    sticky || target.parent().is_ok_and(|above| above.mount_id() != target.mount_id())
}

fn failed(what: &str, e: io::Error) -> Error {
    Error::io(what.to_owned(), e)
}
