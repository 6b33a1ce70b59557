//! Views of a mount without a kernel: history and changes held against a plain look at every snapshot, and what they cost.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

mod common;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::OsStr,
    fs,
    ops::ControlFlow,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::Ordering},
};

use coffre::{
    event::Event,
    format::{ChunkId, Content, Entry},
    mount::{Node, ROOT, Views},
    store::Memory,
    sys::{Clock, SystemClock},
    vault::{self, Dirs, Kind, Past, Side, SignerList, Snapshot, Timeline},
};

use common::library::{Forge, Host, Sketch, TestClock, keys, noise, temp, write_files};

const HOUR_NS: i64 = 3_600_000_000_000;
/// Bytes of decoded directories that these mounts keep.
const DIRS_BYTES: u64 = 48 << 20;

/// Seals `root` an hour after the last time.
fn seal_later(host: &Host, root: &Path) {
    host.clock.ahead_ns.fetch_add(HOUR_NS, Ordering::SeqCst);
    host.seal(&[root]).unwrap();
}

/// A mount without a kernel, as a process has it that has just started, and what it says.
fn views(host: &Host) -> (Views, Arc<Mutex<Vec<Event>>>) {
    let told = Arc::new(Mutex::default());
    let clock = TestClock::default();
    clock.ahead_ns.store(host.clock.ahead_ns.load(Ordering::SeqCst), Ordering::SeqCst);
    let views = Views::new(Arc::new(host.reader()), "test".to_owned(), DIRS_BYTES, Arc::new(clock), told.clone());
    let signers = SignerList::load(&*host.vault.store, Some(&host.owner.sign.public())).unwrap();
    assert_eq!(views.update(&signers, host.snapshots()), [] as [String; 0]);
    (views, told)
}

/// The number at `path` below the top.
fn resolve(views: &Views, path: impl AsRef<Path>) -> Option<u64> {
    path.as_ref().iter().filter(|name| *name != "/").try_fold(ROOT, |ino, name| Some(views.lookup(ino, name).unwrap().node?.ino()))
}

fn list(views: &Views, path: impl AsRef<Path>) -> Vec<(String, u64)> {
    let ino = resolve(views, path.as_ref()).unwrap_or_else(|| panic!("{} is there", path.as_ref().display()));
    let mut names = Vec::new();
    views
        .list_dir(ino, 2, |listed, _| {
            names.push((String::from_utf8_lossy(&listed.name).into_owned(), listed.node.ino()));
            true
        })
        .unwrap();
    names
}

fn read(views: &Views, ino: u64) -> Vec<u8> {
    let size = views.node(ino).unwrap().entry().unwrap().size();
    let mut bytes = vec![0; usize::try_from(size).unwrap()];
    assert_eq!(views.read(ino, 0, &mut bytes).unwrap(), bytes.len());
    bytes
}

fn below(view: &str, path: &Path) -> PathBuf {
    Path::new(view).join(path.strip_prefix("/").unwrap())
}

#[test]
fn a_thousand_snapshots_cost_no_more_than_what_changed_in_them() {
    const SNAPSHOTS: usize = 1000;
    let host = Host::memory();
    let mut forge = Forge::new(&host);
    let mut tree = Sketch::default();
    // As in a tree that people work in: the file lies some directories deep, beside others that never change.
    for n in 0..50 {
        tree.write(&format!("home/u/studio/lib-{n:02}/file"), "always the same", 0);
        tree.write(&format!("etc/{n}"), "the same", 0);
    }
    let start = SystemClock.monotonic();
    for n in 0..SNAPSHOTS {
        // One in four is a new version; in every second something else is new; nothing in the rest.
        if n % 4 == 0 {
            tree.write("home/u/studio/app/app.py", &format!("print({n})"), n);
        }
        if n % 2 == 0 {
            tree.write("home/u/studio/lib-07/file", &format!("{n}"), n);
        }
        forge.seal(&tree, "test");
    }
    println!("{SNAPSHOTS} snapshots made in {:?}", SystemClock.monotonic() - start);
    let (views, told) = views(&host);
    let cost = |what: &str, f: &dyn Fn()| {
        let (before, start) = (views.loads(), SystemClock.monotonic());
        f();
        let loads = views.loads() - before;
        println!("{what}: {loads} directories decoded, {:?}", SystemClock.monotonic() - start);
        loads as usize
    };
    let history = |path: &str, n: usize| {
        let path = Path::new("history").join(path);
        assert_eq!(list(&views, &path).len(), n, "{}", path.display());
    };
    // What changed: root, home, u and studio in every second snapshot, app in every fourth.
    let first = cost("history of a file, cold", &|| history("home/u/studio/app/app.py", SNAPSHOTS / 4));
    assert!(first <= SNAPSHOTS / 2 * 4 + SNAPSHOTS / 4, "{first} directories were decoded, more than changed");
    let second = cost("history of a file beside it", &|| history("home/u/studio/lib-07/file", SNAPSHOTS / 2));
    assert!(second <= SNAPSHOTS / 2, "{second}: only its own directory is new");
    assert_eq!(cost("history of a file that never changed", &|| history("home/u/studio/lib-08/file", 1)), 1);
    assert_eq!(cost("the same once more", &|| history("home/u/studio/app/app.py", SNAPSHOTS / 4)), 0);
    // All that a new snapshot costs who looks again: nothing is known of this list of snapshots, but every directory.
    let again = cost("and when a snapshot has come", &|| {
        let signers = SignerList::load(&*host.vault.store, Some(&host.owner.sign.public())).unwrap();
        views.update(&signers, host.snapshots());
        let start = SystemClock.monotonic();
        history("home/u/studio/app/app.py", SNAPSHOTS / 4);
        println!("history of a file, warm: {:?}", SystemClock.monotonic() - start);
    });
    assert_eq!(again, 0);
    cost("names in a directory", &|| history("home/u/studio", 52));
    let changes = cost("the first and the last compared", &|| {
        assert_eq!(list(&views, format!("changes/latest~{}..latest/modified/home/u/studio", SNAPSHOTS - 1)).len(), 2);
    });
    assert!(changes <= 8, "{changes}: the way to two files");
    assert_eq!(*told.lock().unwrap(), [], "nothing to complain about");
}

/// What stands at `path` in each snapshot, found by looking.
fn by_looking(host: &Host, snapshots: &[Snapshot], path: &Path) -> Vec<Option<Entry>> {
    let reader = host.reader();
    snapshots.iter().map(|s| vault::resolve_path(&reader, s, path.as_os_str().as_bytes()).ok().flatten()).collect()
}

/// A small random life of a tree.
struct Life {
    state: u64,
}

impl Life {
    fn below(&mut self, n: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) % n
    }

    /// Does something to the tree.
    fn step(&mut self, root: &Path) {
        let dirs = ["a", "a/b", "a/b/c", "d", "d/\u{e9}"];
        let names = ["x", "y", "z", "@versions", "b"];
        let dir = root.join(dirs[self.below(5) as usize]);
        let name = dir.join(OsStr::new(names[self.below(5) as usize]));
        let clear = |path: &Path| {
            let _ = fs::remove_file(path);
            let _ = fs::remove_dir_all(path);
        };
        // A file may stand where a directory is wanted.
        if fs::create_dir_all(&dir).is_err() {
            return clear(&root.join("a/b"));
        }
        match self.below(8) {
            0..=2 => {
                clear(&name);
                fs::write(&name, format!("{}", self.below(1000))).unwrap();
            }
            3 => clear(&name),
            4 => {
                clear(&name);
                fs::create_dir_all(name.join("inner")).unwrap();
                fs::write(name.join("inner/leaf"), "leaf").unwrap();
            }
            5 => {
                clear(&name);
                std::os::unix::fs::symlink("somewhere", &name).unwrap();
            }
            6 => {
                let to = root.join("d").join(names[self.below(3) as usize]);
                clear(&to);
                let _ = fs::rename(&name, &to);
            }
            _ => drop(fs::remove_dir_all(&dir)),
        }
    }
}

/// Every path of a snapshot.
fn entries(dirs: &Dirs, host: &Host, snapshot: &Snapshot) -> BTreeMap<PathBuf, Entry> {
    let keys = dirs.reader().keys(snapshot);
    let (mut found, mut stack) = (BTreeMap::new(), vec![(PathBuf::from("/"), snapshot.manifest.root)]);
    while let Some((path, node)) = stack.pop() {
        for entry in host.reader().dir(&keys, &node).unwrap() {
            let path = path.join(OsStr::from_bytes(&entry.name));
            if let Content::Dir { node, .. } = &entry.content {
                stack.push((path.clone(), *node));
            }
            found.insert(path, entry);
        }
    }
    found
}

#[test]
fn history_and_changes_say_what_a_look_at_every_snapshot_says() {
    for seed in 1..=6u64 {
        let (_temp, root) = temp();
        let host = Host::memory();
        let mut life = Life { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) };
        for _ in 0..14 {
            (0..life.below(6)).for_each(|_| life.step(&root));
            seal_later(&host, &root);
        }
        let snapshots = host.snapshots();
        let reader = Arc::new(host.reader());
        let dirs = Dirs::new(reader.clone(), DIRS_BYTES);
        let line = Timeline::new(&reader, snapshots.iter().cloned().map(Arc::new));
        let trees: Vec<_> = snapshots.iter().map(|s| entries(&dirs, &host, s)).collect();
        let paths: BTreeSet<&PathBuf> = trees.iter().flat_map(|tree| tree.keys()).collect();
        for path in &paths {
            let looked = by_looking(&host, &snapshots, path);
            let mut expected: Vec<(usize, usize, &Entry)> = Vec::new();
            for (n, entry) in looked.iter().enumerate() {
                let Some(entry) = entry else { continue };
                match expected.last_mut() {
                    Some((_, last, before)) if vault::is_same(before, entry, true) => *last = n,
                    _ => expected.push((n, n, entry)),
                }
            }
            let past = Past::of(&dirs, &line, path.as_os_str().as_bytes()).unwrap();
            let got: Vec<_> = past.versions.iter().map(|v| (v.first, v.last, v.mtime_ns, v.mode, v.size)).collect();
            let expected: Vec<_> = expected.iter().map(|(f, l, e)| (*f, *l, e.mtime_ns, e.mode, e.size())).collect();
            assert_eq!(got, expected, "seed {seed}: {}", path.display());
        }
        for (a, b) in [(0, 13), (13, 0), (3, 4), (5, 9), (7, 7)] {
            let sides = (Side::of(&reader, &snapshots[a]), Side::of(&reader, &snapshots[b]));
            let mut got: BTreeMap<PathBuf, Kind> = BTreeMap::new();
            vault::each_change(&dirs, (&sides.0, &sides.1), (Some(sides.0.root), Some(sides.1.root)), |path, pair| {
                let kinds = Kind::ALL.into_iter().filter(|kind| pair.is(*kind));
                got.extend(kinds.map(|kind| (PathBuf::from(OsStr::from_bytes(path)), kind)));
                Ok(ControlFlow::Continue(()))
            })
            .unwrap();
            let file = |n: usize, path: &PathBuf| trees[n].get(path).filter(|e| !e.is_dir());
            let expected: BTreeMap<PathBuf, Kind> = paths
                .iter()
                .filter_map(|path| match (file(a, path), file(b, path)) {
                    (None, Some(_)) => Some(((*path).clone(), Kind::Added)),
                    (Some(_), None) => Some(((*path).clone(), Kind::Removed)),
                    (Some(x), Some(y)) if !vault::is_same(x, y, true) => Some(((*path).clone(), Kind::Modified)),
                    _ => None,
                })
                .collect();
            assert_eq!(got, expected, "seed {seed}: {a}..{b}");
        }
    }
}

/// Every directory below the top, and every number of a directory with its path; nothing may have two paths.
fn walk(views: &Views) -> BTreeMap<PathBuf, u64> {
    let (mut all, mut dirs) = (BTreeMap::new(), HashMap::new());
    let mut stack = vec![(PathBuf::from("/"), ROOT)];
    while let Some((path, dir)) = stack.pop() {
        if let Some(other) = dirs.insert(dir, path.clone()) {
            panic!("{} and {} share a number", other.display(), path.display());
        }
        assert_eq!(views.node(dir).unwrap().ino(), dir, "{}", path.display());
        let mut names = Vec::new();
        views
            .list_dir(dir, 0, |listed, cookie| {
                let is_dir = match &listed.node {
                    Node::Made { .. } | Node::Root(..) => true,
                    Node::Link { .. } => false,
                    Node::Entry(_, _, spot) => spot.entry().is_dir(),
                };
                names.push((listed.name, listed.node.ino(), is_dir, cookie));
                true
            })
            .unwrap();
        for (n, (name, ino, is_dir, cookie)) in names.into_iter().enumerate() {
            let name = std::ffi::OsString::from_vec(name);
            assert_eq!(cookie, n as u64 + 1);
            let found = views.lookup(dir, &name).unwrap().node.unwrap_or_else(|| panic!("{name:?} is in {}", path.display()));
            assert_eq!(found.ino(), ino, "{name:?} in {}", path.display());
            if name == ".." {
                let up = path.parent().unwrap_or(Path::new("/"));
                assert_eq!(dirs.get(&ino).map(PathBuf::as_path), Some(up), "the directory above {}", path.display());
            } else if name != "." {
                let path = path.join(name);
                all.insert(path.clone(), ino);
                if is_dir {
                    stack.push((path, ino));
                }
            }
        }
    }
    all
}

#[test]
fn every_number_is_found_again_and_is_the_same_in_the_next_mount() {
    let (_temp, root) = temp();
    let host = Host::memory();
    let mut life = Life { state: 77 };
    for _ in 0..5 {
        (0..6).for_each(|_| life.step(&root));
        fs::hard_link(root.join("a"), root.join("never")).unwrap_err();
        let _ = fs::write(root.join("linked"), "linked");
        let _ = fs::hard_link(root.join("linked"), root.join("linked-too"));
        seal_later(&host, &root);
    }
    let first = walk(&views(&host).0);
    assert!(first.len() > 300, "{}", first.len());
    assert!(first == walk(&views(&host).0));
    let number = |path: PathBuf| first[&Path::new("/").join(path)];
    assert_eq!(number(below("latest", &root.join("linked"))), number(below("latest", &root.join("linked-too"))));
    assert_ne!(number(below("latest", &root)), number(below("history", &root)));
}

#[test]
fn a_name_in_a_huge_directory_is_found_by_reading_one_part_of_it() {
    let (_temp, root) = temp();
    let host = Host::memory();
    let many: Vec<String> = (0..20_000).map(|n| format!("many/{n:06}")).collect();
    write_files(&root, &many.iter().map(|path| (path.as_str(), &b"x"[..])).collect::<Vec<_>>());
    seal_later(&host, &root);
    write_files(&root, &[("many/010000", b"changed"), ("many/zzz", b"new")]);
    seal_later(&host, &root);
    let snapshots = host.snapshots();
    let reader = Arc::new(host.reader());
    let line = Timeline::new(&reader, snapshots.iter().cloned().map(Arc::new));
    let node = |n: usize| -> ChunkId {
        match by_looking(&host, &snapshots, &root.join("many"))[n].as_ref().unwrap().content {
            Content::Dir { node, .. } => node,
            _ => panic!("a directory"),
        }
    };
    let depth = root.iter().count() as u64;
    let dirs = Dirs::new(reader.clone(), DIRS_BYTES);
    let past = Past::of(&dirs, &line, root.join("many/010000").as_os_str().as_bytes()).unwrap();
    assert_eq!(past.versions.len(), 2);
    assert!(dirs.loads() <= 2 * (depth + 2), "{} nodes for one name in two snapshots", dirs.loads());

    let dirs = Dirs::new(reader.clone(), DIRS_BYTES);
    let sides = (Side::of(&reader, &snapshots[0]), Side::of(&reader, &snapshots[1]));
    let mut differing = vault::Differing::new(&dirs, &sides.0, &sides.1, Some(node(0)), Some(node(1)));
    let mut names = Vec::new();
    while let Some(pair) = differing.next_pair().unwrap() {
        names.push(String::from_utf8(pair.entry().unwrap().name.to_vec()).unwrap());
    }
    assert_eq!(names, ["010000", "zzz"]);
    assert!(dirs.loads() <= 6, "{} nodes to compare two directories of 20,000", dirs.loads());
    // And what lists it whole finds everything in order, from any place.
    let (views, _) = views(&host);
    let listed = list(&views, below("history", &root.join("many")));
    assert_eq!(listed.len(), 20_002);
    assert!(listed[1..].is_sorted_by(|a, b| a.0 < b.0));
    let ino = resolve(&views, below("history", &root.join("many"))).unwrap();
    let mut rest = Vec::new();
    views
        .list_dir(ino, 15_000, |listed, _| {
            rest.push(listed.node.ino());
            rest.len() < 5
        })
        .unwrap();
    assert_eq!(rest, listed[14_998..15_003].iter().map(|(_, ino)| *ino).collect::<Vec<_>>());
    assert_eq!(resolve(&views, below("history", &root.join("many/010000"))), Some(listed.iter().find(|(n, _)| n == "010000").unwrap().1));
}

#[test]
fn large_directories_are_compared_part_by_part_whatever_moved_in_them() {
    let mut life = Life { state: 4711 };
    for round in 0..12 {
        let host = Host::memory();
        let mut forge = Forge::new(&host);
        let (mut sketch, mut tree) = (Sketch::default(), BTreeMap::new());
        let first = life.below(12_000);
        for _ in 0..first {
            let name = format!("{:06}", life.below(1_000_000));
            sketch.write(&name, "old", 0);
            tree.insert(name, "old");
        }
        forge.seal(&sketch, "test");
        let before = tree.clone();
        // A few names anywhere, or whole runs, appear, vanish and change.
        for _ in 0..life.below(30) {
            let start = life.below(1_000_000);
            for n in start..start + life.below(3) * life.below(2000) + 1 {
                let name = format!("{n:06}");
                match life.below(3) {
                    0 => {
                        sketch.remove(&name);
                        tree.remove(&name);
                    }
                    _ => {
                        sketch.write(&name, "new", 1);
                        tree.insert(name, "new");
                    }
                }
            }
        }
        forge.seal(&sketch, "test");
        let snapshots = host.snapshots();
        let reader = Arc::new(host.reader());
        let dirs = Dirs::new(reader.clone(), DIRS_BYTES);
        for (a, b, old, new) in [(0, 1, &before, &tree), (1, 0, &tree, &before)] {
            let sides = (Side::of(&reader, &snapshots[a]), Side::of(&reader, &snapshots[b]));
            let mut differing = vault::Differing::new(&dirs, &sides.0, &sides.1, Some(sides.0.root), Some(sides.1.root));
            let mut got = Vec::new();
            while let Some(pair) = differing.next_pair().unwrap() {
                let name = String::from_utf8(pair.entry().unwrap().name.to_vec()).unwrap();
                got.push((name, pair.old.is_some(), pair.new.is_some()));
            }
            let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            let differ = names.into_iter().filter(|name| old.get(*name) != new.get(*name));
            let expected: Vec<_> = differ.map(|name| (name.clone(), old.contains_key(name), new.contains_key(name))).collect();
            assert!(got == expected, "round {round}: {} of {}", got.len(), expected.len());
        }
        // And the history has every name of both.
        let (views, _) = views(&host);
        let listed: Vec<String> = list(&views, "history").into_iter().map(|(name, _)| name).collect();
        let union: BTreeSet<&String> = before.keys().chain(tree.keys()).collect();
        assert!(listed.iter().eq(union), "round {round}");
    }
}

#[test]
fn a_damaged_directory_costs_its_own_versions_only_and_is_said() {
    let (_temp, root) = temp();
    let memory = Memory::default();
    let host = Host::create(Arc::new(memory.clone()));
    let mut packs = Vec::new();
    for n in 0..3 {
        write_files(&root, &[("dir/file", format!("version {n}").as_bytes()), ("dir/large", &noise(2000, n))]);
        let before: BTreeSet<_> = keys(&memory, "packs").into_iter().collect();
        seal_later(&host, &root);
        packs.push(keys(&memory, "packs").into_iter().filter(|key| !before.contains(key)).collect::<Vec<_>>());
    }
    // Everything of the second seal is hurt.
    for key in &packs[1] {
        assert!(memory.damage(key, |bytes| bytes.iter_mut().skip(300).for_each(|b| *b ^= 1)));
    }
    let (views, told) = views(&host);
    let versions = list(&views, below("history", &root.join("dir/file")));
    let texts: Vec<_> = versions.iter().map(|(_, ino)| String::from_utf8(read(&views, *ino)).unwrap()).collect();
    assert_eq!(texts, ["version 0", "version 2"]);
    let told = told.lock().unwrap();
    assert!(told.iter().any(|e| matches!(e, Event::Warning(text) if text.contains("is not whole"))), "{told:?}");
}

#[test]
fn typed_names_are_forgotten_in_time_and_no_number_is_used_twice() {
    let (_temp, root) = temp();
    let host = Host::memory();
    write_files(&root, &[("file", b"x")]);
    seal_later(&host, &root);
    let (views, _) = views(&host);
    let at = resolve(&views, "at").unwrap();
    let held = resolve(&views, "at/latest").unwrap();
    views.told(held);
    let mut seen = BTreeSet::from([held]);
    let hour = |n: u64| format!("{:04}-01-01T{:02}:{:02}", 2100 + n / 1440, n / 60 % 24, n % 60);
    for n in 0..20_000u64 {
        let ino = views.lookup(at, OsStr::new(&hour(n))).unwrap().node.unwrap().ino();
        assert!(seen.insert(ino), "{n}");
    }
    assert!(views.node(held).is_ok(), "the kernel holds this one");
    let first = *seen.iter().nth(2).unwrap();
    assert_eq!(views.node(first).map(|n| n.ino()).map_err(|e| e.kind()), Err(coffre::error::ErrorKind::NotFound));
    let again = views.lookup(at, OsStr::new(&hour(1))).unwrap().node.unwrap().ino();
    assert!(seen.insert(again), "a new number");
}
