//! Seal, through the library: what was there reads back, whatever happens on the way and whatever the catalog believes.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

#[path = "seal/changes.rs"]
mod changes;
mod common;
#[path = "seal/races.rs"]
mod races;

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::{FileExt, MetadataExt, symlink},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use coffre::{
    error::ErrorKind,
    event::Event,
    format::{ChunkId, PackKind},
    store::{Local, Memory},
};
use common::library::{Host, assert_same, below, copy_dir, copy_of, keys, noise, objects, read_disk, read_snapshot, temp, write_files};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};

/// Some of everything that a test can make without being root.
fn mixed_tree(root: &Path) {
    write_files(
        root,
        &[
            ("empty", b""),
            ("inline", b"a short text"),
            ("limit-of-inline", &noise(256, 1)),
            ("beyond-inline", &noise(257, 2)),
            ("one-chunk", &noise(32 << 10, 3)),
            ("many-chunks", &noise((3 << 20) + 17, 4)),
            ("text", "the same line again and again\n".repeat(50_000).as_bytes()),
            ("dir/deeper/file", b"deep"),
            ("dir/.hidden", b"hidden"),
            ("\u{65e5}\u{672c} and spaces\n", b"a name"),
        ],
    );
    fs::create_dir_all(root.join("dir/empty")).unwrap();
    fs::write(root.join(std::ffi::OsStr::from_encoded(b"caf\xe9")), b"latin").unwrap();
    symlink("dir/deeper", root.join("link")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
    fs::hard_link(root.join("many-chunks"), root.join("dir/many-again")).unwrap();
    fs::hard_link(root.join("inline"), root.join("zz-inline-again")).unwrap();
    rustix::fs::mknodat(CWD, root.join("fifo"), rustix::fs::FileType::Fifo, Mode::from(0o640), 0).unwrap();
    drop(std::os::unix::net::UnixListener::bind(root.join("dir/socket")).unwrap());
    rustix::fs::lsetxattr(root.join("inline"), "user.colour", b"blue\0", rustix::fs::XattrFlags::empty()).unwrap();
    rustix::fs::lsetxattr(root.join("dir"), "user.empty", b"", rustix::fs::XattrFlags::empty()).unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(&noise(100_000, 5), 1 << 20).unwrap();
    sparse.set_len(5 << 20).unwrap();
    File::create(root.join("only-a-hole")).unwrap().set_len(1 << 20).unwrap();
}

trait FromEncoded {
    fn from_encoded(bytes: &[u8]) -> &Self;
}

impl FromEncoded for std::ffi::OsStr {
    fn from_encoded(bytes: &[u8]) -> &Self {
        std::os::unix::ffi::OsStrExt::from_bytes(bytes)
    }
}

/// Seals `root` and holds what is read back against the disk.
fn seal_and_compare(host: &Host, root: &Path, what: &str) -> coffre::ops::seal::Report {
    let report = host.seal(&[root]).unwrap();
    assert_eq!((report.unreadable.len(), report.changed.len()), (0, 0), "{what}: {:?} {:?}", report.unreadable, report.changed);
    assert_same(&host.read_latest(root), &read_disk(root), what);
    report
}

#[test]
fn a_sealed_tree_reads_back_exactly() {
    let (_guard, dir) = temp();
    let root = dir.join("source");
    mixed_tree(&root);
    for workers in [1, 4] {
        let mut host = Host::memory();
        host.workers = workers;
        let s = seal_and_compare(&host, &root, "first seal").stats;
        assert_eq!((s.files, s.symlinks, s.others, s.sockets_skipped, s.sparse_files, s.with_xattrs), (15, 2, 1, 1, 2, 3));
        assert_eq!(
            s.logical_bytes,
            read_disk(&root).values().filter(|(m, _)| m.mode & 0o170_000 == 0o100_000).map(|(m, _)| m.size).sum::<u64>()
        );
        seal_and_compare(&host, &root, "second seal");
        host.assert_clean();
    }
}

/// Times of the directories above `root`, which other tests change by working beside it.
fn above(root: &Path) -> Vec<(i64, i64, u64)> {
    root.ancestors().skip(1).map(|p| fs::metadata(p).unwrap()).map(|m| (m.ctime(), m.ctime_nsec(), m.nlink())).collect()
}

#[test]
fn the_same_tree_again_stores_nothing_and_has_the_same_root() {
    let (_guard, dir) = temp();
    let root = dir.join("source");
    mixed_tree(&root);
    let host = Host::memory();
    for _ in 0..200 {
        let before = above(&root);
        let first = host.seal(&[&root]).unwrap();
        let packs = keys(&*host.vault.store, "packs/");
        let second = host.seal(&[&root]).unwrap();
        if above(&root) != before {
            continue;
        }
        let snapshots = host.snapshots();
        let [.., a, b] = &snapshots[..] else { panic!("two seals, fewer snapshots") };
        assert_eq!(a.manifest.root, b.manifest.root);
        assert_eq!((second.stats.new_bytes, second.stats.stored_bytes, second.files_read), (0, 0, 0));
        assert_eq!(keys(&*host.vault.store, "packs/"), packs);
        let counts = |s: coffre::format::Stats| coffre::format::Stats { new_bytes: 0, stored_bytes: 0, duration_ns: 0, ..s };
        assert_eq!(counts(second.stats), counts(first.stats));
        return;
    }
    panic!("the directories above the source never stood still");
}

#[test]
fn changing_one_file_stores_only_that() {
    let (_guard, dir) = temp();
    for n in 0..30 {
        write_files(&dir, &[(&format!("d{}/f{n}", n % 3), &noise(40_000, n))]);
    }
    let host = Host::memory();
    seal_and_compare(&host, &dir, "first");
    fs::write(dir.join("d1/f4"), noise(40_000, 99)).unwrap();
    let report = seal_and_compare(&host, &dir, "one changed");
    assert_eq!((report.files_read, report.bytes_read), (1, 40_000));
    assert!((40_000..60_000).contains(&report.stats.new_bytes), "{} new bytes", report.stats.new_bytes);
    // A byte put into the middle of a large file costs the chunks around it.
    let mut large = noise(6 << 20, 7);
    fs::write(dir.join("large"), &large).unwrap();
    seal_and_compare(&host, &dir, "a large one");
    large.insert(3 << 20, b'!');
    fs::write(dir.join("large"), &large).unwrap();
    let report = seal_and_compare(&host, &dir, "a byte in the middle");
    assert!(report.stats.new_bytes < 1_200_000, "{} new bytes", report.stats.new_bytes);
}

#[test]
fn a_renamed_directory_is_not_stored_again() {
    let (_guard, dir) = temp();
    for n in 0..20 {
        write_files(&dir, &[(&format!("old/name/f{n}"), &noise(50_000, n))]);
    }
    let host = Host::memory();
    seal_and_compare(&host, &dir, "first");
    fs::rename(dir.join("old"), dir.join("new")).unwrap();
    let report = seal_and_compare(&host, &dir, "renamed");
    assert!(report.stats.new_bytes < 20_000, "{} new bytes", report.stats.new_bytes);
}

#[test]
fn a_change_right_after_a_seal_is_seen_even_with_size_and_time_restored() {
    let (_guard, dir) = temp();
    let host = Host::memory();
    host.clock.ahead_ns.store(0, Ordering::SeqCst);
    let file = dir.join("d/file");
    for round in 0..20u8 {
        write_files(&dir, &[("d/file", &[round; 1000]), ("d/other", b"still")]);
        let time = fs::metadata(&file).unwrap().modified().unwrap();
        seal_and_compare(&host, &dir, "before");
        let mut open = File::options().write(true).open(&file).unwrap();
        open.write_all(&[round + 100; 1000]).unwrap();
        open.set_modified(time).unwrap();
        drop(open);
        assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), time);
        seal_and_compare(&host, &dir, "after");
    }
}

fn files_in(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(|e| e.unwrap()) {
        if entry.file_type().unwrap().is_dir() { all.extend(files_in(&entry.path())) } else { all.push(entry.path()) }
    }
    all.sort();
    all
}

#[test]
fn no_state_of_the_catalog_changes_what_is_sealed() {
    let (_guard, dir) = temp();
    let root = dir.join("source");
    mixed_tree(&root);
    let vault = Memory::default();
    let host = Host::create(Arc::new(vault.clone()));
    let catalog = host.state.catalog();
    seal_and_compare(&host, &root, "first");
    copy_dir(&catalog, &dir.join("oldest"));
    write_files(&root, &[("dir/second", &noise(70_000, 20)), ("dir/deeper/file", b"DEEP")]);
    seal_and_compare(&host, &root, "second");
    copy_dir(&catalog, &dir.join("newest"));
    // The state that is sealed in every case: one file changed, one new, one gone, one renamed.
    write_files(&root, &[("dir/second", &noise(70_000, 21)), ("dir/third", &noise(90_000, 22))]);
    fs::remove_file(root.join("text")).unwrap();
    fs::rename(root.join("dir/deeper"), root.join("dir/shallow")).unwrap();
    let expected = read_disk(&root);
    let before = copy_of(&vault);
    let fresh = host.twin(Arc::new(copy_of(&before)));
    fresh.seal(&[&root]).unwrap();
    let node = fresh.latest_node(&root);

    let other = Host::memory();
    other.seal(&[&root]).unwrap();
    other.seal(&[&root]).unwrap();

    let put = |from: &Path| {
        fs::remove_dir_all(&catalog).unwrap();
        copy_dir(from, &catalog);
    };
    let newest = || put(&dir.join("newest"));
    let mut cases: Vec<(String, Box<dyn Fn() + '_>)> = vec![
        ("newest".into(), Box::new(newest)),
        ("deleted".into(), Box::new(|| fs::remove_dir_all(&catalog).unwrap())),
        ("rolled back".into(), Box::new(|| put(&dir.join("oldest")))),
        ("another vault's".into(), Box::new(|| put(&other.state.catalog()))),
    ];
    for (what, state_from, database_from) in [
        ("new state over an old database", dir.join("newest"), dir.join("oldest")),
        ("old state over a new database", dir.join("oldest"), dir.join("newest")),
        ("own state over another vault's database", dir.join("newest"), other.state.catalog()),
    ] {
        let (put, catalog) = (&put, &catalog);
        cases.push((
            what.into(),
            Box::new(move || {
                put(&database_from);
                fs::copy(state_from.join("state"), catalog.join("state")).unwrap();
            }),
        ));
    }
    for file in files_in(&dir.join("newest")) {
        let name = file.strip_prefix(dir.join("newest")).unwrap().to_owned();
        let (at, len) = (catalog.join(&name), fs::metadata(&file).unwrap().len());
        let set_len = move |at: &Path, len: u64| File::options().write(true).open(at).unwrap().set_len(len).unwrap();
        let (a, b, c, d, e) = (at.clone(), at.clone(), at.clone(), at.clone(), at.clone());
        let (newest, show) = (&newest, name.display().to_string());
        cases.push((format!("{show} deleted"), Box::new(move || (newest(), fs::remove_file(&a).unwrap()).1)));
        cases.push((format!("{show} empty"), Box::new(move || (newest(), set_len(&b, 0)).1)));
        cases.push((format!("{show} cut in half"), Box::new(move || (newest(), set_len(&c, len / 2)).1)));
        cases.push((format!("{show} garbage"), Box::new(move || (newest(), fs::write(&d, noise(len as usize, 5)).unwrap()).1)));
        cases.push((
            format!("{show} with a hole"),
            Box::new(move || {
                newest();
                File::options().write(true).open(&e).unwrap().write_all_at(&vec![0; len as usize / 3], len / 3).unwrap();
            }),
        ));
    }
    assert!(cases.len() >= 20, "{} cases", cases.len());
    for (what, prepare) in &cases {
        prepare();
        let store = Arc::new(copy_of(&before));
        let vault = coffre::vault::Vault { store: store.clone(), config: host.vault.config.clone() };
        let context = coffre::ops::seal::Context {
            vault: &vault,
            sealer: &host.sealer,
            state: &host.state,
            clock: &host.clock,
            sink: &host.told,
            cancel: &host.cancel,
        };
        coffre::ops::seal::run(&context, &host.options(&[&root])).unwrap_or_else(|e| panic!("catalog {what}: {}", e.chain()));
        let twin = host.twin(store);
        assert_same(&twin.read_latest(&root), &expected, what);
        assert_eq!(twin.latest_node(&root), node, "catalog {what}");
        twin.assert_clean();
    }
}

#[test]
fn a_catalog_ahead_of_a_vault_that_was_rolled_back_is_not_believed() {
    let (_guard, dir) = temp();
    write_files(&dir, &[("a", &noise(50_000, 1))]);
    let host = Host::memory();
    host.seal(&[&dir]).unwrap();
    let before = copy_of(&*host.vault.store);
    write_files(&dir, &[("b", &noise(50_000, 2))]);
    host.seal(&[&dir]).unwrap();
    let host = host.through(Arc::new(before));
    seal_and_compare(&host, &dir, "into the older copy of the vault");
    assert!(host.told.lock().unwrap().iter().any(|e| matches!(e, Event::Note(text) if text.contains("rebuilt"))));
}

#[test]
fn a_tree_deeper_than_any_path_is_sealed_whole() {
    let (_guard, dir) = temp();
    let root = dir.join("source");
    fs::create_dir(&root).unwrap();
    let open = |at: &std::os::fd::OwnedFd, name: &str| openat(at, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let mut at = openat(CWD, &root, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    for n in 0..150 {
        let name = format!("{n:03}-{}", "x".repeat(60));
        for (file, bytes) in [("before", b"b"), ("zz-after", b"a")] {
            let fd = openat(&at, file, OFlags::WRONLY | OFlags::CREATE, Mode::from(0o600)).unwrap();
            File::from(fd).write_all(bytes).unwrap();
        }
        mkdirat(&at, name.as_str(), Mode::from(0o755)).unwrap();
        at = open(&at, &name);
    }
    let host = Host::memory();
    let stats = seal_and_compare(&host, &root, "deep").stats;
    assert_eq!((stats.files, host.read_latest(&root).len()), (300, 451));
    assert!(host.read_latest(&root).keys().any(|path| path.len() > 9000));
    host.assert_clean();
}

#[test]
fn overlapping_and_linked_sources_are_sealed_once_and_files_can_be_sources() {
    let (_guard, dir) = temp();
    let root = dir.join("source");
    write_files(&root, &[("a/b/file", b"x"), ("c", &noise(10_000, 1))]);
    symlink("source/a", dir.join("link")).unwrap();
    let host = Host::memory();
    let paths = [root.clone(), root.join("a/b"), dir.join("link"), root.join("a/../c"), root.clone()];
    let report = host.seal(&paths.iter().map(PathBuf::as_path).collect::<Vec<_>>()).unwrap();
    let link = dir.join("link");
    assert_eq!(report.paths, [link.to_str().unwrap(), root.to_str().unwrap()]);
    let mut tree = read_snapshot(&host.reader(), &host.latest()).unwrap();
    assert_eq!(tree.remove(link.as_os_str().as_encoded_bytes()).unwrap().0.target, b"source/a", "the link is taken as a link");
    assert_same(&below(&tree, &root), &read_disk(&root), "overlapping");

    let (one, two) = (root.join("a/b/file"), root.join("c"));
    host.seal(&[&two, &one]).unwrap();
    let files = read_snapshot(&host.reader(), &host.latest()).unwrap();
    let files: Vec<_> =
        files.iter().filter(|(_, (m, _))| m.mode & 0o170_000 == 0o100_000).map(|(p, (_, b))| (p.clone(), b.clone())).collect();
    let bytes = |p: &Path| (p.as_os_str().as_encoded_bytes().to_vec(), fs::read(p).unwrap());
    assert_eq!(files, [bytes(&one), bytes(&two)]);

    let missing = host.seal(&[&root, &dir.join("none")]).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert_eq!(host.snapshots().len(), 2, "nothing was sealed of a wrong command");
}

#[test]
fn the_vault_and_the_state_directory_inside_the_source_are_left_out() {
    let (_guard, dir) = temp();
    write_files(&dir, &[("documents/a", b"a")]);
    let vault = dir.join("vault");
    let host = Host::create(Arc::new(Local::new(&vault)));
    let mut options = host.options(&[&dir, host.state.path().parent().unwrap()]);
    options.never = vec![vault];
    for _ in 0..2 {
        host.seal_with(&options).unwrap();
        let tree = read_snapshot(&host.reader(), &host.latest()).unwrap();
        let files: Vec<_> = tree.iter().filter(|(_, (m, _))| m.mode & 0o170_000 != 0o040_000).map(|(p, _)| p.clone()).collect();
        assert_eq!(files, [dir.join("documents/a").as_os_str().as_encoded_bytes()]);
        assert!(!tree.contains_key(dir.join("vault").as_os_str().as_encoded_bytes()));
        assert!(!tree.contains_key(host.state.path().as_os_str().as_encoded_bytes()));
    }
}

/// The frames of all new packs of the newest snapshot, pack by pack: the chunks in each.
fn frames_by_pack(host: &Host) -> Vec<(PackKind, Vec<Vec<ChunkId>>)> {
    let reader = host.reader();
    let of_pack = |digest: &_| {
        let (kind, index) = reader.pack_index(digest).unwrap();
        let mut ids = index.chunks.into_iter().map(|(id, _)| id);
        (kind, index.frames.iter().map(|f| ids.by_ref().take(f.chunks as usize).collect()).collect())
    };
    host.latest().manifest.new_packs.iter().map(of_pack).collect()
}

#[test]
fn one_worker_makes_the_same_frames_in_the_same_order_every_time() {
    let (_guard, dir) = temp();
    mixed_tree(&dir);
    let empty = Host::memory();
    // Directories above the source are the last nodes; other tests change their times.
    let above = dir.components().count();
    let seal = || {
        let host = empty.twin(Arc::new(copy_of(&*empty.vault.store)));
        host.seal(&[&dir]).unwrap();
        let (data, meta): (Vec<_>, Vec<_>) = frames_by_pack(&host).into_iter().partition(|(kind, _)| *kind == PackKind::Data);
        let mut nodes: Vec<ChunkId> = meta.into_iter().flat_map(|(_, frames)| frames.concat()).collect();
        nodes.truncate(nodes.len() - above + 1);
        (data.into_iter().map(|(_, frames)| frames).collect::<Vec<_>>(), nodes)
    };
    let sorted = |packs: &[Vec<Vec<ChunkId>>]| {
        let mut frames = packs.concat();
        frames.sort();
        frames
    };
    let (first, nodes) = seal();
    assert!(first.concat().len() > 10 && nodes.len() == 4, "{} frames, {} nodes", first.concat().len(), nodes.len());
    let place =
        |packs: &[Vec<Vec<ChunkId>>], frame| packs.iter().enumerate().find_map(|(p, f)| Some((p, f.iter().position(|x| x == frame)?)));
    for _ in 0..4 {
        let (again, nodes_again) = seal();
        assert_eq!(nodes_again, nodes);
        assert_eq!(sorted(&again), sorted(&first));
        // Which of two packs a data frame goes to is drawn by lot, so that nothing can be told from it; its order in there is not.
        for a in first.iter().flatten() {
            for b in first.iter().flatten() {
                let order = |packs| match (place(packs, a), place(packs, b)) {
                    (Some((p, a)), Some((q, b))) if p == q => Some(a.cmp(&b)),
                    _ => None,
                };
                assert!(order(&first).is_none() || order(&again).is_none() || order(&first) == order(&again));
            }
        }
    }
}

#[test]
fn what_was_sealed_before_is_never_touched_again() {
    let (_guard, dir) = temp();
    mixed_tree(&dir);
    let host = Host::memory();
    host.seal(&[&dir]).unwrap();
    let before = objects(&*host.vault.store);
    write_files(&dir, &[("more", &noise(100_000, 9))]);
    host.seal(&[&dir]).unwrap();
    let after = objects(&*host.vault.store);
    assert!(before.iter().all(|(key, bytes)| after.get(key) == Some(bytes)));
}
