//! What only moved: files, and directories with all that is in them, that stand elsewhere with the same content.

use std::collections::{HashMap, HashSet};

use crate::{
    error::Result,
    format::{ChunkId, Content, Data, Digester, Entry},
    ops::look::Look,
    sys::Cancel,
    vault::{Go, Pair, Side, walk_changes},
};

/// Paths, added and removed together, among which renames are looked for. About 200 MB of memory at most.
const PATHS_MAX: usize = 1 << 20;

/// Renames between two snapshots.
#[derive(Default)]
pub struct Renames {
    /// New path to old path and old entry.
    by_new: HashMap<Vec<u8>, (Vec<u8>, Entry)>,
    sources: HashSet<Vec<u8>>,
    /// There was too much to look.
    pub unknown: bool,
}

/// What makes two entries the same thing in two places.
#[derive(PartialEq, Eq, Hash, Clone, Copy)]
enum Same {
    Dir(ChunkId),
    File([u8; 16]),
}

struct Path {
    path: Vec<u8>,
    same: Option<Same>,
    entry: Option<Entry>,
}

impl Renames {
    /// Where what stands at `path` now stood before, and the entry there.
    pub fn of(&self, path: &[u8]) -> Option<(&[u8], &Entry)> {
        self.by_new.get(path).map(|(from, entry)| (&from[..], entry))
    }

    /// Whether what stood at `path` stands elsewhere now.
    pub fn is_source(&self, path: &[u8]) -> bool {
        self.sources.contains(path)
    }
}

/// Looks for renames below the directories `pair`, which stand at `top`.
pub fn find(look: &Look, sides: (&Side, &Side), pair: (Option<ChunkId>, Option<ChunkId>), top: &[u8], cancel: &Cancel) -> Result<Renames> {
    let (mut gone, mut come): (Vec<Path>, Vec<Path>) = (Vec::new(), Vec::new());
    let mut too_many = false;
    let each = |path: &[u8], pair: &Pair| {
        cancel.check()?;
        let note = |list: &mut Vec<Path>, entry: &Entry, keep: bool| {
            let same = same(entry);
            list.push(Path { path: [top, path].concat(), same, entry: (keep && same.is_some()).then(|| entry.clone()) });
        };
        match (&pair.old, &pair.new) {
            (Some(old), None) => note(&mut gone, old.entry(), true),
            (None, Some(new)) => note(&mut come, new.entry(), false),
            _ => (),
        }
        too_many = gone.len() + come.len() > PATHS_MAX;
        Ok(if too_many { Go::Stop } else { Go::In })
    };
    // What cannot be read is told by the walk that follows.
    walk_changes(&look.dirs, sides, pair, each, |_, _| Ok(()))?;
    match too_many {
        true => Ok(Renames { unknown: true, ..Renames::default() }),
        false => Ok(meet(gone, come)),
    }
}

/// Matches what is gone with what has come, in order of paths, directories before what is in them. Of several that are equal, one with the
/// same name is taken first.
fn meet(mut gone: Vec<Path>, come: Vec<Path>) -> Renames {
    let mut waiting: HashMap<Same, Vec<usize>> = HashMap::new();
    for (n, path) in gone.iter().enumerate() {
        if let Some(same) = path.same {
            waiting.entry(same).or_default().push(n);
        }
    }
    let mut found = Renames::default();
    let (mut taken_dir, mut arrived): (HashSet<Vec<u8>>, Option<Vec<u8>>) = (HashSet::new(), None);
    for path in &come {
        if arrived.as_ref().is_some_and(|dir| is_below(&path.path, dir)) {
            continue;
        }
        let Some(same) = path.same else { continue };
        let Some(candidates) = waiting.get_mut(&same) else { continue };
        candidates.retain(|n| !above(&gone[*n].path).any(|dir| taken_dir.contains(dir)));
        let named_alike = candidates.iter().position(|n| name(&gone[*n].path) == name(&path.path));
        if candidates.is_empty() {
            continue;
        }
        let n = candidates.remove(named_alike.unwrap_or(0));
        let Some(entry) = gone[n].entry.take() else { continue };
        if let Same::Dir(_) = same {
            taken_dir.insert(gone[n].path.clone());
            arrived = Some(path.path.clone());
        }
        found.sources.insert(gone[n].path.clone());
        found.by_new.insert(path.path.clone(), (gone[n].path.clone(), entry));
    }
    // A file may have been matched before the directory that it came from was.
    let lost: Vec<Vec<u8>> =
        found.by_new.iter().filter(|(_, (from, _))| above(from).any(|dir| taken_dir.contains(dir))).map(|(new, _)| new.clone()).collect();
    for new in lost {
        if let Some((from, _)) = found.by_new.remove(&new) {
            found.sources.remove(&from);
        }
    }
    found
}

fn is_below(path: &[u8], dir: &[u8]) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.starts_with(b"/"))
}

/// The directories above `path`, from the top.
fn above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().skip(1).filter(|(_, b)| **b == b'/').map(|(n, _)| &path[..n])
}

fn name(path: &[u8]) -> &[u8] {
    path.rsplit(|b| *b == b'/').next().unwrap_or_default()
}

/// What an entry is the same by; nothing for what is empty, or no file and no directory.
fn same(entry: &Entry) -> Option<Same> {
    match &entry.content {
        Content::Dir { node, below } if *below > 0 => Some(Same::Dir(*node)),
        Content::File { size, data, holes } if *size > 0 => {
            let mut digester = Digester::default();
            digester.update(&size.to_le_bytes());
            for hole in holes {
                digester.update(&hole.offset.to_le_bytes());
                digester.update(&hole.len.to_le_bytes());
            }
            match data {
                Data::Inline(bytes) => digester.update(&[&b"inline"[..], bytes].concat()),
                Data::Chunks(list) => digester.update(list.as_bytes()),
                Data::Lists(parts) => parts.iter().for_each(|part| digester.update(part.id.as_bytes())),
            }
            let digest = digester.finish();
            Some(Same::File(digest.as_bytes()[..16].try_into().expect("16 of 32 bytes")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Content;

    fn path(path: &str, same: Same) -> Path {
        let entry = Entry {
            name: name(path.as_bytes()).into(),
            mode: 0,
            uid: 0,
            gid: 0,
            mtime_ns: 0,
            ctime_ns: 0,
            source_inode: 0,
            hard_link: None,
            xattrs: Vec::new(),
            user: None,
            group: None,
            content: Content::Fifo,
        };
        Path { path: path.as_bytes().to_vec(), same: Some(same), entry: Some(entry) }
    }

    fn pairs(gone: Vec<Path>, come: Vec<Path>) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let found = meet(gone, come);
        let mut pairs: Vec<_> = found.by_new.iter().map(|(new, (old, _))| (text(old), text(new))).collect();
        assert!(found.by_new.values().all(|(old, _)| found.is_source(old)) && found.sources.len() == found.by_new.len());
        pairs.sort();
        pairs
    }

    #[test]
    fn a_directory_moves_as_a_whole_and_equal_files_by_their_names() {
        let (dir, file) = (|n| Same::Dir(ChunkId::from_bytes([n; 32])), |n| Same::File([n; 16]));
        let gone = vec![path("/media", dir(1)), path("/media/a", file(1)), path("/x", file(2)), path("/y", file(2)), path("/z", file(3))];
        let come = vec![path("/pictures", dir(1)), path("/pictures/a", file(1)), path("/w/y", file(2)), path("/w/z2", file(3))];
        let expected = [("/media", "/pictures"), ("/y", "/w/y"), ("/z", "/w/z2")];
        assert_eq!(pairs(gone, come), expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }

    #[test]
    fn nothing_comes_from_a_directory_that_moved() {
        let (dir, file) = (|n| Same::Dir(ChunkId::from_bytes([n; 32])), |n| Same::File([n; 16]));
        let gone = vec![path("/m", dir(1)), path("/m/a", file(1))];
        let come = vec![path("/copy", file(1)), path("/n", dir(1)), path("/n/a", file(1))];
        assert_eq!(pairs(gone, come), [("/m".to_owned(), "/n".to_owned())]);
    }
}
