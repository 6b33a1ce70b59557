//! What a disk may hold after a crash: the log up to some point, with what was not synced there, gone, torn, or in another order.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    fs::{self, Permissions},
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::fs::PermissionsExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::device::{Op, ROOT, put};

/// What became of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsynced {
    /// The process died, and the machine went on.
    Kept,
    /// The power went.
    Lost,
    /// The power went, and the disk had written some of it, in no order: the seed says what.
    Some(u64),
}

/// Files and directories of an image.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Thing {
    Dir(BTreeMap<OsString, Thing>),
    File(u32, Vec<u8>),
}

/// The disk after `log`.
pub fn image(log: &[Op], unsynced: Unsynced) -> Thing {
    let mut dice = Chance(match unsynced {
        Unsynced::Some(seed) => seed | 1,
        _ => 1,
    });
    // Where each inode was synced last.
    let mut synced: HashMap<u64, usize> = HashMap::new();
    for (at, op) in log.iter().enumerate() {
        if let Op::Sync { ino } = op {
            synced.insert(*ino, at);
        }
    }
    let mut dirs: HashMap<u64, BTreeMap<OsString, Option<u64>>> = HashMap::from([(ROOT, BTreeMap::new())]);
    let mut files: HashMap<u64, Vec<u8>> = HashMap::new();
    let mut modes: HashMap<u64, u32> = HashMap::new();
    for (at, op) in log.iter().enumerate() {
        let of = match op {
            Op::Name { dir, .. } => *dir,
            Op::Write { ino, .. } | Op::Size { ino, .. } | Op::Mode { ino, .. } | Op::Born { ino, .. } | Op::Sync { ino } => *ino,
        };
        let lasts = synced.get(&of).is_some_and(|sync| at < *sync);
        let takes = lasts
            || match unsynced {
                Unsynced::Kept => true,
                Unsynced::Lost => false,
                Unsynced::Some(_) => dice.next().is_multiple_of(2),
            };
        match op {
            Op::Born { ino, is_dir: true } => drop(dirs.entry(*ino).or_default()),
            Op::Born { ino, is_dir: false } => drop(files.entry(*ino).or_default()),
            Op::Name { dir, name, ino } if takes => drop(dirs.entry(*dir).or_default().insert(name.clone(), *ino)),
            Op::Write { ino, offset, bytes } if takes => {
                // Of what nobody promised, sectors.
                let torn = !lasts && unsynced != Unsynced::Kept && dice.next().is_multiple_of(3);
                let len = if torn { bytes.len() / 512 * 512 / 2 } else { bytes.len() };
                put(files.entry(*ino).or_default(), *offset, &bytes[..len]);
            }
            Op::Size { ino, len } if takes => files.entry(*ino).or_default().resize(*len as usize, 0),
            // Belongs to what made it: not what this is about.
            Op::Mode { ino, mode } => drop(modes.insert(*ino, *mode)),
            _ => (),
        }
    }
    thing(ROOT, &dirs, &files, &modes)
}

fn thing(
    ino: u64,
    dirs: &HashMap<u64, BTreeMap<OsString, Option<u64>>>,
    files: &HashMap<u64, Vec<u8>>,
    modes: &HashMap<u64, u32>,
) -> Thing {
    match dirs.get(&ino) {
        Some(names) => {
            let below = names.iter().filter_map(|(name, ino)| Some((name.clone(), thing((*ino)?, dirs, files, modes))));
            Thing::Dir(below.collect())
        }
        None => Thing::File(modes.get(&ino).copied().unwrap_or(0o644), files.get(&ino).cloned().unwrap_or_default()),
    }
}

impl Thing {
    /// One number for all of it, to pass over images that were there before.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = DefaultHasher::new();
        self.hash(&mut hash);
        hash.finish()
    }

    /// Makes it below `at`, which does not exist.
    pub fn write_to(&self, at: &Path) {
        match self {
            Self::Dir(below) => {
                fs::create_dir_all(at).unwrap();
                below.iter().for_each(|(name, thing)| thing.write_to(&at.join(name)));
            }
            Self::File(mode, bytes) => {
                fs::write(at, bytes).unwrap();
                fs::set_permissions(at, Permissions::from_mode(mode & 0o777)).unwrap();
            }
        }
    }
}

/// Xorshift.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 20
    }
}

/// Writes the disk of each of `points` and has it checked, two at a time; all that are not as they should be are named.
pub fn check_all(log: &[Op], points: &[(usize, Unsynced)], check: impl Fn(usize, Unsynced, &Path) + Sync) {
    let place = if Path::new("/dev/shm").is_dir() { PathBuf::from("/dev/shm") } else { std::env::temp_dir() };
    let images = tempfile::Builder::new().prefix("coffre-test-").tempdir_in(place).unwrap();
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let worker = || {
        while let Some((point, unsynced)) = points.get(next.fetch_add(1, Ordering::Relaxed)) {
            let at = images.path().join(format!("{point}-{unsynced:?}"));
            image(&log[..*point], *unsynced).write_to(&at);
            if catch_unwind(AssertUnwindSafe(|| check(*point, *unsynced, &at))).is_err() {
                failed.lock().unwrap().push((*point, *unsynced));
            }
            fs::remove_dir_all(&at).unwrap();
        }
    };
    thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(worker))));
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} of {} disks are not as they should be: {failed:?}", failed.len(), points.len());
}
