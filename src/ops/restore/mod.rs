//! Restore: a snapshot, or a part of one, into a directory. What is there already and right is kept.
//!
//! `walk` goes through the tree and what stands in the target, and makes plans (`plan`), window by window; `apply` carries them out on all
//! cores: files straight from packs in pack order (`files`), then further names, then what directories are. `table` is the only way to a
//! directory of the target: from its root down, name by name, through no link. `metadata` sets what entries are, `wanted` says which are.

mod apply;
mod extras;
mod files;
mod in_order;
mod metadata;
mod pieces;
mod place;
mod plan;
mod preview;
mod read_back;
mod table;
mod tally;
mod walk;
mod wanted;

use std::{collections::HashMap, io, path::PathBuf, sync::Mutex};

use serde::Serialize;

use crate::{
    error::{Error, Result},
    event::{Silent, Sink},
    format::{Content, Entry},
    sys::{self, Cancel, Clock, Dir},
    vault::{Reader, Snapshot},
};

use apply::Apply;
use extras::Gather;
use metadata::Setter;
use place::Start;
use plan::Firsts;
use table::Table;
use tally::Tally;
use walk::Walk;

pub use extras::Extra;
pub use metadata::Owner;
pub use place::Place;
pub use preview::{Fate, Line, Preview};
pub use tally::{Done, Failed, Failures, NotSet};
pub use wanted::{Taken, Wanted};

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
    /// Where to: the directory that gets the content of that path, or the file itself.
    pub place: Place,
    /// Where the vault is, if it is a directory: nothing is restored into it, and nothing deleted around it.
    pub vault: Option<PathBuf>,
    /// Directories that nothing is restored into, and that no deletion reaches: this host's state.
    pub spared: Vec<PathBuf>,
    /// Whether what the snapshot lacks is to be deleted.
    pub delete: bool,
    /// Whether what was restored is read back.
    pub verify: bool,
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

/// Finds out what the target has and the snapshot lacks. Changes nothing.
pub fn extras(context: &Context, options: &Options) -> Result<Vec<Extra>> {
    let mut found = Vec::new();
    each_window(context, options, &mut |_| Ok(()), &mut found)?;
    Ok(found)
}

/// Tells what a restore would do, in order of paths; deletions first. Changes nothing.
pub fn preview(context: &Context, options: &Options, each: &mut dyn FnMut(&Line) -> Result<()>) -> Result<Preview> {
    let mut preview = Preview::default();
    if options.delete {
        for extra in extras(context, options)? {
            let line = Line { path: extra.path.into_bytes(), fate: Fate::Delete, directory: extra.directory, bytes: 0 };
            preview.add(&line, extra.entries);
            each(&line)?;
        }
    }
    let mut window = |apply: &Apply| {
        preview::window(apply)?.iter().try_for_each(|line| {
            preview.add(line, 1);
            each(line)
        })
    };
    each_window(context, options, &mut window, &mut Vec::new())?;
    Ok(preview)
}

/// Walks everything without changing anything.
fn each_window(context: &Context, options: &Options, each: &mut dyn FnMut(&Apply) -> Result<()>, found: &mut Vec<Extra>) -> Result<()> {
    let tally = Tally::new(&Silent, context.clock);
    let start = Start::find(context, options)?;
    place::check(context, options, &start)?;
    let Some(target) = place::open(options, &start)? else {
        // Nothing is there: as if it were empty.
        let nowhere = Dir::root().map_err(|e| failed("cannot open /", e))?;
        return windows(context, options, &start, None, nowhere, &tally, each, found).map(drop);
    };
    let again = target.again().map_err(|e| failed("cannot open the target", e))?;
    windows(context, options, &start, Some(&target), again, &tally, each, found).map(drop)
}

/// Restores, once `extras` are deleted. What fails for one file is in the report, not an error.
pub fn run(context: &Context, options: &Options, extras: &[Extra]) -> Result<Report> {
    let tally = Tally::new(context.sink, context.clock);
    let frames_before = context.reader.frames_decoded();
    let start = Start::find(context, options)?;
    place::check(context, options, &start)?;
    let setter = Setter::new(&tally, options.owner, options.xattrs);
    let target = place::make(context, options, &start, &setter)?;
    place::keep_others_out(&target, options, &start)?;
    extras::remove(context, &target, extras, &tally)?;
    let again = target.again().map_err(|e| failed("cannot open the target", e))?;
    let mut apply = |apply: &Apply| {
        apply.run()?;
        if options.verify {
            // What a file system cannot write to the disk it says when it is asked to, and never again.
            sys::sync_file_system(&target).map_err(|e| failed("cannot write everything to the disk", e))?;
            apply.read_back()?;
        }
        Ok(())
    };
    let took = windows(context, options, &start, Some(&target), again, &tally, &mut apply, &mut Vec::new())?;
    if !took && !options.wanted.is_all() && extras.is_empty() {
        return Err(options.wanted.fits_nothing(context.snapshot, &options.path));
    }
    let (done, lost, problems, not_set) = tally.result();
    Ok(Report {
        snapshot: context.snapshot.id.to_string(),
        path: String::from_utf8_lossy(&options.path).into_owned(),
        target: start.target(options).display().to_string(),
        done,
        frames: context.reader.frames_decoded() - frames_before,
        lost,
        problems,
        not_set,
        seconds: tally.elapsed().as_secs_f64(),
        peak_memory_bytes: sys::peak_memory_bytes(),
    })
}

/// Walks the tree beside the target, and calls `each` with every window. Whether there was anything that is wanted.
#[expect(clippy::too_many_arguments, reason = "all of it is what a walk is made of")]
fn windows(
    context: &Context,
    options: &Options,
    start: &Start,
    target: Option<&Dir>,
    root: Dir,
    tally: &Tally,
    each: &mut dyn FnMut(&Apply) -> Result<()>,
    found: &mut Vec<Extra>,
) -> Result<bool> {
    let keys = context.reader.keys(context.snapshot);
    let setter = Setter::new(tally, options.owner, options.xattrs);
    let mut table = Table::new(root)?;
    let keeps_its_own = match options.place {
        Place::Into(_) => target.is_some_and(place::is_shared),
        Place::Original => target.is_some() && extras::only_leads(context.snapshot, &start.base),
    };
    if let Some(entry) = start.entry.as_ref().filter(|entry| entry.is_dir() && !keeps_its_own) {
        table.set_entry(0, Some(Box::new(entry.clone())));
    }
    let mut walk = Walk::new(context, options, &keys, tally, start, target)?;
    walk.extras = options.delete.then(|| Gather::new(context, options, start, &place::spared(options, start)));
    let mut firsts = Firsts::default();
    let bad = Mutex::new(HashMap::new());
    let total = total(context, &start.entry);
    let (mut bytes, mut entries) = (0, 0);
    while let Some(plan) = walk.window(&mut table, &mut firsts)? {
        bytes += plan.bytes;
        entries += plan.entries;
        // What is not walked yet is taken to be like what is.
        tally.expect(match (total, walk.is_over()) {
            (Some(total), false) => ((bytes as f64 * total as f64 / entries.max(1) as f64) as u64).max(bytes),
            _ => bytes,
        });
        let token = u64::from_le_bytes(sys::random()?);
        let files = files::Files::new(&table, &firsts, &plan.jobs, &setter, token);
        let (keys, table_now, firsts, setter, bad) = (&*keys, &table, &firsts, &setter, &bad);
        each(&Apply {
            context,
            options,
            start,
            is_there: target.is_some(),
            keys,
            table: table_now,
            plan: &plan,
            files,
            firsts,
            setter,
            tally,
            bad,
        })?;
        for number in plan.finished {
            table.set_entry(number, None);
        }
    }
    found.extend(walk.extras.into_iter().flat_map(|gather| gather.found));
    Ok(walk.took)
}

/// Entries below the one that is restored, if they are counted.
fn total(context: &Context, start: &Option<Entry>) -> Option<u64> {
    match start {
        None => Some(context.snapshot.manifest.stats.entries()),
        Some(Entry { content: Content::Dir { below, .. }, .. }) => Some(*below),
        Some(_) => None,
    }
}

fn failed(what: &str, e: io::Error) -> Error {
    Error::io(what.to_owned(), e)
}
