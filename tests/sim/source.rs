//! What is sealed: a directory on the disk, and the plain map that says what is in it.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use super::dice::Dice;
use crate::common::{library::noise, tree::set_mtime};

/// One entry, as far as the model goes. Times of directories are not part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    Dir,
    /// Seconds of its mtime, and its content.
    File(i64, Vec<u8>),
    /// The same of a link, and its target.
    Link(i64, Vec<u8>),
}

/// Every path below the source with what it is.
pub type Plain = BTreeMap<String, What>;

const FIRST_MTIME: i64 = 1_600_000_000;

pub struct Source {
    pub root: PathBuf,
    pub plain: Plain,
    /// Every write has a time of its own: no two states of a file look alike, whatever the tick of the file system.
    stamp: i64,
}

impl Source {
    pub fn new(root: PathBuf) -> Self {
        fs::create_dir_all(&root).unwrap();
        Self { root, plain: Plain::new(), stamp: FIRST_MTIME }
    }

    /// Changes a few things.
    pub fn edit(&mut self, dice: &mut Dice) -> String {
        let files: Vec<String> = self
            .plain
            .iter()
            .filter(|(_, what)| matches!(what, What::File(_, bytes) if bytes.len() > 256))
            .map(|(p, _)| p.clone())
            .collect();
        if dice.chance(25)
            && let Some(path) = dice.pick(&files)
            && let Some(What::File(_, bytes)) = self.plain.get(path)
        {
            // The same length: its pack looks like the one before, and can be taken for it.
            let mut bytes = bytes.clone();
            bytes[0] ^= 1 + dice.below(255) as u8;
            return self.write(path, bytes);
        }
        let n = 1 + dice.below(6);
        let said: Vec<String> = (0..n).map(|_| self.change(dice)).collect();
        said.join(", ")
    }

    fn change(&mut self, dice: &mut Dice) -> String {
        let path = some_path(dice);
        let paths: Vec<String> = self.plain.keys().cloned().collect();
        match dice.below(20) {
            0..=8 => {
                let bytes = some_content(dice);
                self.write(&path, bytes)
            }
            9..=11 => match dice.pick(&paths).map(|old| (old.clone(), self.plain[old].clone())) {
                Some((old, What::File(_, mut bytes))) if !bytes.is_empty() => {
                    let at = dice.below(bytes.len());
                    bytes[at] ^= 1 + (dice.below(255) as u8);
                    self.write(&old, bytes)
                }
                Some((_, What::File(_, bytes))) => self.write(&path, bytes),
                _ => self.make_dir(&path),
            },
            12..=13 => match dice.pick(&paths).map(|old| self.plain[old].clone()) {
                // The same content in another place.
                Some(What::File(_, bytes)) => self.write(&path, bytes),
                _ => self.link(&path),
            },
            14..=16 => match dice.pick(&paths) {
                Some(old) => {
                    self.remove(&old.clone());
                    format!("rm {old}")
                }
                None => self.make_dir(&path),
            },
            17..=18 => match dice.pick(&paths) {
                Some(old) if !path.starts_with(&format!("{old}/")) && *old != path => self.rename(&old.clone(), &path),
                _ => self.make_dir(&path),
            },
            _ => self.link(&path),
        }
    }

    fn write(&mut self, path: &str, bytes: Vec<u8>) -> String {
        self.clear_way(path);
        let at = self.root.join(path);
        fs::write(&at, &bytes).unwrap();
        let stamp = self.touch(&at);
        let said = format!("write {path} {}", bytes.len());
        self.plain.insert(path.to_owned(), What::File(stamp, bytes));
        said
    }

    fn link(&mut self, path: &str) -> String {
        self.clear_way(path);
        let (at, target) = (self.root.join(path), format!("to/{}", self.stamp));
        symlink(&target, &at).unwrap();
        let stamp = self.touch(&at);
        self.plain.insert(path.to_owned(), What::Link(stamp, target.into_bytes()));
        format!("link {path}")
    }

    fn make_dir(&mut self, path: &str) -> String {
        self.clear_way(&format!("{path}/x"));
        format!("mkdir {path}")
    }

    fn rename(&mut self, from: &str, to: &str) -> String {
        self.clear_way(to);
        // The way to the new place may have led through the old one.
        if !self.plain.contains_key(from) {
            return format!("mkdir over {from}");
        }
        fs::rename(self.root.join(from), self.root.join(to)).unwrap();
        let moved: Vec<String> = self.plain.keys().filter(|p| is_at_or_below(p, from)).cloned().collect();
        for path in moved {
            let what = self.plain.remove(&path).unwrap();
            self.plain.insert(format!("{to}{}", &path[from.len()..]), what);
        }
        format!("mv {from} {to}")
    }

    fn remove(&mut self, path: &str) {
        let at = self.root.join(path);
        match self.plain.get(path) {
            None => return,
            Some(What::Dir) => fs::remove_dir_all(at).unwrap(),
            Some(_) => fs::remove_file(at).unwrap(),
        }
        self.plain.retain(|p, _| !is_at_or_below(p, path));
    }

    /// Takes away what is at `path`, and makes directories of all above it.
    fn clear_way(&mut self, path: &str) {
        self.remove(path);
        for (at, _) in path.match_indices('/') {
            let above = &path[..at];
            if self.plain.get(above) != Some(&What::Dir) {
                self.remove(above);
                fs::create_dir(self.root.join(above)).unwrap();
                self.plain.insert(above.to_owned(), What::Dir);
            }
        }
    }

    fn touch(&mut self, at: &Path) -> i64 {
        self.stamp += 1;
        set_mtime(at, self.stamp, 0);
        self.stamp
    }
}

pub fn is_at_or_below(path: &str, top: &str) -> bool {
    path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn some_path(dice: &mut Dice) -> String {
    let dir = ["", "", "a/", "a/", "b/", "a/deep/", "b/deep/er/"][dice.below(7)];
    format!("{dir}{}", ["v", "w", "x", "y", "z"][dice.below(5)])
}

fn some_content(dice: &mut Dice) -> Vec<u8> {
    // Few different ones, so that content comes back.
    let seed = dice.next() % 50;
    match dice.below(24) {
        0 => Vec::new(),
        1..=6 => noise(1 + dice.below(256), seed),
        7..=14 => noise(257 + dice.below(4000), seed),
        15..=18 => vec![b'a' + (seed % 26) as u8; 1000 + dice.below(60_000)],
        19..=21 => noise(20_000 + dice.below(30_000), seed),
        22 => noise(100_000 + dice.below(100_000), seed),
        _ => noise(300_000 + dice.below(200_000), seed),
    }
}
