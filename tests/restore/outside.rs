//! Nothing is ever written outside the target: whatever is in it, before and during a restore, and whatever a vault says.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use coffre::{
    error::{ErrorKind, Result},
    store::{Key, Store, Upload},
};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::{
    damage::{options, restore_with},
    restore,
};
use crate::common::{
    library::{Forge, Host, Sketch, temp},
    tree,
};

/// Mode, owner, links, time and content by path.
pub type Seen = BTreeMap<PathBuf, (u32, u32, u64, i64, i64, Vec<u8>)>;

/// All that one can see of a directory, with all below it.
pub fn seen(top: &Path) -> Seen {
    let mut found = BTreeMap::new();
    let mut stack = vec![top.to_owned()];
    while let Some(path) = stack.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        found.insert(path.clone(), (meta.mode(), meta.uid(), meta.nlink(), meta.mtime(), meta.mtime_nsec(), content));
        if meta.is_dir() {
            stack.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
    }
    found
}

/// A directory outside with a file in it that is not to be touched.
fn outside(home: &Path) -> PathBuf {
    let outside = home.join("outside");
    tree::write(outside.join("file"), "untouched\n");
    tree::write(outside.join("src/1.rs"), "untouched too\n");
    outside
}

#[test]
fn links_that_stand_in_the_target_lead_nowhere() {
    let home = tree::sealed_small();
    let outside = outside(&home.path(""));
    let to = home.path("to");
    fs::create_dir(&to).unwrap();
    // A link where a directory goes, where files go, absolute and relative, dangling, and as the name of a link.
    symlink(&outside, to.join("src")).unwrap();
    symlink("../outside", to.join("docs")).unwrap();
    symlink(outside.join("file"), to.join("hello")).unwrap();
    symlink(outside.join("new"), to.join("empty")).unwrap();
    symlink(&outside, to.join("link")).unwrap();
    let before = seen(&outside);
    restore(&home, &to, &[]).ok();
    assert_eq!(seen(&outside), before);
    tree::assert_same(&home.source(), &to);
}

#[test]
fn a_hard_link_to_a_file_outside_is_cut_and_not_written_through() {
    let home = tree::sealed_small();
    let outside = outside(&home.path(""));
    let to = home.path("to");
    restore(&home, &to, &[]).ok();
    // The same content, size and time, and another mode: only that would have to be set.
    let source = home.source();
    for name in ["hello", "docs/noise", "src/3.rs"] {
        let (victim, meta) = (outside.join(name.replace('/', "-")), fs::metadata(source.join(name)).unwrap());
        fs::copy(source.join(name), &victim).unwrap();
        tree::set_mtime(&victim, meta.mtime(), meta.mtime_nsec());
        fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).unwrap();
        fs::remove_file(to.join(name)).unwrap();
        fs::hard_link(&victim, to.join(name)).unwrap();
    }
    // Another one, of which the content differs.
    fs::remove_file(to.join("src/1.rs")).unwrap();
    fs::hard_link(outside.join("src/1.rs"), to.join("src/1.rs")).unwrap();
    let content = |seen: Seen| {
        seen.into_iter().filter(|(_, s)| s.0 & 0o170_000 == 0o100_000).map(|(path, s)| (path, s.0, s.1, s.3, s.4, s.5)).collect::<Vec<_>>()
    };
    let before = content(seen(&outside));
    restore(&home, &to, &[]).ok();
    assert_eq!(content(seen(&outside)), before);
    tree::assert_same(&home.source(), &to);
}

#[test]
fn fifos_and_devices_in_the_target_are_neither_opened_nor_written() {
    let home = tree::sealed_small();
    let to = home.path("to");
    fs::create_dir_all(to.join("docs")).unwrap();
    // Nobody reads the fifo: who opened it would wait for ever.
    mknodat(CWD, to.join("hello"), FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
    mknodat(CWD, to.join("docs/text"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), rustix::fs::makedev(1, 5)).unwrap();
    restore(&home, &to, &[]).ok();
    tree::assert_same(&home.source(), &to);
}

/// A store that does something once, at the first read after the target has a certain file.
pub struct Planting {
    pub inner: Arc<dyn Store>,
    pub when: PathBuf,
    pub plant: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Store for Planting {
    fn put(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        self.inner.put(key, bytes)
    }
    fn begin(&self) -> Result<Box<dyn Upload>> {
        self.inner.begin()
    }
    fn get(&self, key: &Key, offset: u64, buf: &mut [u8]) -> Result<()> {
        if self.when.symlink_metadata().is_ok()
            && let Some(plant) = self.plant.lock().unwrap().take()
        {
            plant();
        }
        self.inner.get(key, offset, buf)
    }
    fn stat(&self, key: &Key) -> Result<Option<u64>> {
        self.inner.stat(key)
    }
    fn list(&self, prefix: &str, each: &mut dyn FnMut(Key, u64) -> Result<()>) -> Result<()> {
        self.inner.list(prefix, each)
    }
    fn delete(&self, key: &Key) -> Result<()> {
        self.inner.delete(key)
    }
    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[test]
fn links_planted_while_it_runs_lead_nowhere() {
    let (_guard, top) = temp();
    let (source, to, outside) = (top.join("source"), top.join("to"), outside(&top));
    for dir in ["made", "later", "moved"] {
        tree::write(source.join(dir).join("inline"), "short");
        for n in 0..30u64 {
            tree::write(source.join(dir).join(format!("file-{n:02}")), tree::noise(n, 40_000));
        }
    }
    tree::write(source.join("zz-large"), tree::noise(77, 4_000_000));
    let host = Host::memory();
    host.seal(&[&source]).unwrap();
    // Small files that need no pack are there first; at the first read of a pack after that, an attacker strikes.
    let (target, away) = (to.clone(), outside.clone());
    let plant = move || {
        fs::rename(target.join("moved"), target.join("was-moved")).unwrap();
        symlink(&away, target.join("moved")).unwrap();
        symlink(away.join("planted"), target.join("made/file-29")).unwrap();
        fs::hard_link(away.join("file"), target.join("made/file-28")).unwrap();
        symlink(away.join("planted-large"), target.join("zz-large")).unwrap();
    };
    let before = seen(&outside);
    let store = Planting { inner: host.vault.store.clone(), when: to.join("moved/inline"), plant: Mutex::new(Some(Box::new(plant))) };
    let host = host.through(Arc::new(store));
    let report = restore_with(&host, &host.reader(), &options(&source, &to, 1)).unwrap();
    let strip = |seen: Seen| seen.into_iter().map(|(p, s)| (p, (s.0, s.1, s.3, s.5))).collect::<BTreeMap<_, _>>();
    assert_eq!(strip(seen(&outside)), strip(before));
    assert_eq!(report.lost.count(), 0);
    assert_eq!(fs::read(to.join("made/file-29")).unwrap(), tree::noise(29, 40_000), "what was planted is replaced");
    assert_eq!(fs::read(to.join("made/file-28")).unwrap(), tree::noise(28, 40_000));
    // Once he is gone the same command puts everything right.
    fs::remove_dir_all(to.join("was-moved")).unwrap();
    restore_with(&host, &host.reader(), &options(&source, &to, 2)).unwrap();
    tree::assert_same(&source, &to);
}

/// A restore that found another file in the place of its own gave it up, and then removed the file that had been put there: two restores into
/// one target at once each deleted what the other had just made whole.
#[test]
fn what_somebody_puts_in_a_place_meanwhile_stays() {
    let (_guard, top) = temp();
    let (source, to) = (top.join("source"), top.join("to"));
    tree::write(source.join("large"), tree::noise(7, 24_000_000));
    let host = Host::memory();
    host.seal(&[&source]).unwrap();
    let target = to.clone();
    let plant = move || {
        fs::write(target.join("new"), "theirs").unwrap();
        fs::rename(target.join("new"), target.join("large")).unwrap();
    };
    let store = Planting { inner: host.vault.store.clone(), when: to.join("large"), plant: Mutex::new(Some(Box::new(plant))) };
    let host = host.through(Arc::new(store));
    let report = restore_with(&host, &host.reader(), &options(&source, &to, 1)).unwrap();
    assert_eq!((report.problems.count(), report.lost.count()), (1, 0), "{report:?}");
    assert_eq!(fs::read(to.join("large")).unwrap(), b"theirs");
    restore_with(&host, &host.reader(), &options(&source, &to, 2)).unwrap();
    tree::assert_same(&source, &to);
}

#[test]
fn two_restores_into_one_directory_at_once_are_one_too_many() {
    let (_guard, top) = temp();
    let (source, to) = (top.join("source"), top.join("to"));
    for name in ["a", "b"] {
        tree::write(source.join(name), tree::noise(3, 3_000_000));
    }
    let host = Host::memory();
    host.seal(&[&source]).unwrap();
    let (other, from, target) = (host.twin(host.vault.store.clone()), source.clone(), to.clone());
    let (told, said) = std::sync::mpsc::channel();
    let second = move || {
        let run = move |path: &Path| restore_with(&other, &other.reader(), &options(path, &target, 1)).map(drop).map_err(|e| e.kind());
        // In a thread of its own: each has its own buffers.
        std::thread::spawn(move || told.send((run(&from), run(&from.join("a")))).unwrap()).join().unwrap();
    };
    let store = Planting { inner: host.vault.store.clone(), when: to.join("a"), plant: Mutex::new(Some(Box::new(second))) };
    let host = host.through(Arc::new(store));
    restore_with(&host, &host.reader(), &options(&source, &to, 1)).unwrap();
    assert_eq!(said.recv().unwrap(), (Err(ErrorKind::Locked), Err(ErrorKind::Locked)));
    tree::assert_same(&source, &to);
}

#[test]
fn a_vault_whose_names_lead_outside_is_not_followed() {
    // Names with a slash in them are refused by the same check: `what_a_writer_would_not_write_is_refused` in `format/tree`.
    for name in ["..", ".", "nul\0"] {
        let host = Host::memory();
        let mut sketch = Sketch::default();
        sketch.write(&format!("dir/{name}"), "evil", 0);
        sketch.write("good", "good", 0);
        Forge::new(&host).seal(&sketch, "evil");
        let (_guard, top) = temp();
        let report = restore_with(&host, &host.reader(), &options(Path::new(""), &top.join("deep/to"), 1)).unwrap();
        assert_eq!(report.lost.files.iter().map(|f| f.path.as_str()).collect::<Vec<_>>(), ["/dir/"], "{name:?}");
        let there: Vec<PathBuf> = seen(&top).into_keys().collect();
        assert_eq!(there, ["", "deep", "deep/to", "deep/to/dir", "deep/to/good"].map(|p| top.join(p)), "{name:?}");
    }
}
