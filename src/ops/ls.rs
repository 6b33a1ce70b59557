//! Ls: the entries of a directory of a snapshot, or of everything below it.

use std::ops::ControlFlow;

use serde::Serialize;

use crate::{
    error::{Error, Result},
    format::{ChunkId, Content, DIR_DEPTH_MAX, Entry},
    ops::{
        look::Look,
        row::{Facts, PathText},
    },
    sys::Cancel,
    vault::parts_of,
};

/// One entry.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its full path.
    #[serde(flatten)]
    pub path: PathText,
    /// The rest.
    #[serde(flatten)]
    pub facts: Facts,
}

impl Row {
    fn of(path: &[u8], entry: &Entry) -> Self {
        Self { path: PathText::new(path), facts: Facts::of(entry) }
    }
}

/// A directory that is being listed: its parts yet to be read, the next one last, and the entries yet to be told, likewise.
struct Level {
    parts: Vec<ChunkId>,
    entries: Vec<Entry>,
    path_len: usize,
}

impl Level {
    fn new(look: &Look, n: usize, node: &ChunkId, path_len: usize) -> Result<Self> {
        let keys = look.line.keys(n);
        let dir = look.dirs.dir(keys, node)?;
        let parts = look.dirs.parts(keys, &dir)?.into_iter().rev().map(|(id, _)| id).collect();
        Ok(Self { parts, entries: Vec::new(), path_len })
    }

    fn next(&mut self, look: &Look, n: usize) -> Result<Option<Entry>> {
        while self.entries.is_empty() {
            let Some(part) = self.parts.pop() else { return Ok(None) };
            let node = look.dirs.node(look.line.keys(n), &part)?;
            look.dirs.each_of(&node, |entry, _| {
                self.entries.push(entry.clone());
                Ok(())
            })?;
            self.entries.reverse();
        }
        Ok(self.entries.pop())
    }
}

/// Calls `each` with what is in the directory `path` of snapshot number `n`, in order of names, and below it if `recursive`; with the entry
/// itself if it is no directory. Stops when `each` breaks.
///
/// # Errors
/// `NotFound` if the snapshot has no such path.
///
/// Memory: one part of a directory a level.
pub fn run(
    look: &Look,
    n: usize,
    path: &[u8],
    recursive: bool,
    cancel: &Cancel,
    mut each: impl FnMut(Row) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let (snapshot, keys) = (look.line.snapshot(n), look.line.keys(n));
    let mut shown: Vec<u8> = parts_of(path).flat_map(|part| [b"/", part].concat()).collect();
    let node = match shown.is_empty() {
        true => snapshot.manifest.root,
        false => {
            let spot = look.dirs.place(keys, &snapshot.manifest.root, parts_of(path))?.ok_or_else(|| missing(look, n, path))?;
            match spot.entry().content {
                Content::Dir { node, .. } => node,
                _ => return each(Row::of(&shown, spot.entry())).map(drop),
            }
        }
    };
    let mut levels = vec![Level::new(look, n, &node, shown.len())?];
    while let Some(level) = levels.last_mut() {
        cancel.check()?;
        shown.truncate(level.path_len);
        let Some(entry) = level.next(look, n)? else {
            levels.pop();
            continue;
        };
        shown.push(b'/');
        shown.extend_from_slice(&entry.name);
        if each(Row::of(&shown, &entry))?.is_break() {
            return Ok(());
        }
        if let Content::Dir { node, .. } = entry.content
            && recursive
        {
            if levels.len() > DIR_DEPTH_MAX {
                return Err(Error::corrupt("directories are nested too deep"));
            }
            levels.push(Level::new(look, n, &node, shown.len())?);
        }
    }
    Ok(())
}

/// The error for a path that snapshot number `n` does not have.
pub fn missing(look: &Look, n: usize, path: &[u8]) -> Error {
    let (snapshot, shown) = (look.line.snapshot(n), String::from_utf8_lossy(path));
    let sources: Vec<String> = snapshot.manifest.sources.iter().map(|s| String::from_utf8_lossy(s).into_owned()).collect();
    Error::not_found(format!("{shown} is not in snapshot {}", snapshot.id.short()))
        .hint(format!("paths in a snapshot are full paths; this one holds {}", sources.join(", ")))
}
