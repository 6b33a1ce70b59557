//! What a target has and the snapshot lacks: found out and listed before anything is removed.
//!
//! Not among it: what lies outside the sources of the snapshot, what patterns leave alone, what the seal could not read, sockets (which are
//! never sealed), what is mounted, and the names of unfinished files of ours.

use std::rc::Rc;

use serde::Serialize;

use crate::{
    error::Result,
    ops::restore::{Context, LEFTOVER, Options, place::Start, tally::Tally},
    sys::{Dir, FileType, Found},
    vault::{Snapshot, parts_of},
};

/// Something that the snapshot does not have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Extra {
    /// Path below the target.
    #[serde(skip)]
    pub below: Vec<u8>,
    /// Path in the snapshot, if it had it; what is not UTF-8 replaced.
    pub path: String,
    /// It is a directory.
    pub directory: bool,
    /// Entries, itself and all below.
    pub entries: u64,
}

/// Gathers extras while a tree is walked.
pub struct Gather<'a> {
    context: &'a Context<'a>,
    options: &'a Options,
    start: &'a Start,
    spared: Vec<Vec<u8>>,
    /// In order of the walk.
    pub found: Vec<Extra>,
}

impl<'a> Gather<'a> {
    /// Nothing yet.
    pub fn new(context: &'a Context<'a>, options: &'a Options, start: &'a Start, spared: &[Vec<u8>]) -> Self {
        Self { context, options, start, spared: spared.to_vec(), found: Vec::new() }
    }

    /// Takes what `listing`, of the directory at `path` in the snapshot, has more than `matched` says.
    pub fn directory(&mut self, path: &[u8], dir: &Rc<Dir>, listing: &[Found], matched: &[bool], within: bool) {
        if !is_claimed(self.context.snapshot, path) {
            return;
        }
        let device = dir.stat().map_or(0, |stat| stat.device);
        for (found, matched) in listing.iter().zip(matched) {
            let Ok(stat) = found.stat else { continue };
            let full = [path, &b"/"[..], &found.name].concat();
            let kind = stat.file_type();
            let other = kind == FileType::Socket || stat.device != device || found.name.starts_with(LEFTOVER);
            let unread = || self.context.snapshot.manifest.problems.iter().any(|problem| is_at_or_below(&full, &problem.path));
            let is_dir = kind == FileType::Dir;
            if !matched && !other && self.options.wanted.may_go(&full, &found.name, is_dir, within) && !unread() {
                self.add(full, dir, &found.name, is_dir, device);
            }
        }
    }

    /// Takes a directory that stands where something else is wanted.
    pub fn in_the_way(&mut self, path: &[u8], dir: &Rc<Dir>, name: &[u8]) {
        let device = dir.stat().map_or(0, |stat| stat.device);
        self.add([path, &b"/"[..], name].concat(), dir, name, true, device);
    }

    fn add(&mut self, full: Vec<u8>, dir: &Dir, name: &[u8], directory: bool, device: u64) {
        let below = full[self.start.base.len() + 1..].to_vec();
        if self.spared.iter().any(|spared| is_at_or_below(spared, &below)) {
            return;
        }
        let entries = if directory { count(dir, name, device, 0) } else { 1 };
        self.found.push(Extra { below, path: String::from_utf8_lossy(&full).into_owned(), directory, entries });
    }
}

/// Entries of a directory with all below it, on one device.
fn count(dir: &Dir, name: &[u8], device: u64, depth: usize) -> u64 {
    let Some((child, listing)) = dir.child(name).ok().and_then(|child| child.list().ok().map(|listing| (child, listing))) else { return 1 };
    let below = listing.iter().map(|found| match found.stat {
        Ok(stat) if stat.file_type() == FileType::Dir && stat.device == device && depth < crate::format::DIR_DEPTH_MAX => {
            count(&child, &found.name, device, depth + 1)
        }
        _ => 1,
    });
    1 + below.sum::<u64>()
}

/// Whether the snapshot says all that is in the directory at `path`: it is a source or lies in one.
pub fn is_claimed(snapshot: &Snapshot, path: &[u8]) -> bool {
    snapshot.manifest.sources.iter().any(|source| is_at_or_below(path, source))
}

/// Whether a directory is only on the way to a source: of what it is the snapshot has no say where it stands.
pub fn only_leads(snapshot: &Snapshot, path: &[u8]) -> bool {
    let sources = &snapshot.manifest.sources;
    sources.iter().any(|source| is_at_or_below(source, path)) && !is_claimed(snapshot, path)
}

fn is_at_or_below(path: &[u8], above: &[u8]) -> bool {
    let above = above.strip_suffix(b"/").unwrap_or(above);
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// Removes extras. What cannot be removed is a problem of its own.
pub fn remove(context: &Context, target: &Dir, extras: &[Extra], tally: &Tally) -> Result<()> {
    for extra in extras {
        context.cancel.check()?;
        let gone = remove_one(target, &extra.below);
        match gone {
            Ok(n) => drop(tally.counts.deleted.fetch_add(n, std::sync::atomic::Ordering::Relaxed)),
            Err(e) => tally.problem(extra.path.as_bytes(), format!("could not be deleted: {e}")),
        }
    }
    Ok(())
}

fn remove_one(target: &Dir, below: &[u8]) -> std::io::Result<u64> {
    let mut dir = target.again()?;
    let mut names = parts_of(below).peekable();
    while let Some(name) = names.next() {
        if names.peek().is_none() {
            let device = dir.stat()?.device;
            return dir.remove_tree(name, device);
        }
        dir = dir.child(name)?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_below_another_by_whole_names() {
        for (path, above, yes) in [
            (&b"/a/b"[..], &b"/a"[..], true),
            (b"/a", b"/a", true),
            (b"/ab", b"/a", false),
            (b"/", b"/a", false),
            (b"", b"/", true),
            (b"/x", b"/", true),
        ] {
            assert_eq!(is_at_or_below(path, above), yes);
        }
    }
}
