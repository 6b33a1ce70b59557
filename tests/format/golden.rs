//! The shelf: vaults of format 1 as they were written once, each with what is hard about it. Read by the code, and by RESTORE.py.
//!
//! `v1` every kind of entry · `empty` two sealers and no snapshot · `many` a directory of 10,000 entries · `forked` a chain with a fork
//! that closes again · `pruned` with parity, a snapshot forgotten, one prune carried out and one that waits.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use age::secrecy::ExposeSecret;
use coffre::{
    error::ErrorKind,
    event::Silent,
    format::digest,
    ops::{
        forget, prune, repair,
        verify::{self, Depth},
    },
    store::{Key, Local},
    sys::{Calendar, Cancel, Clock, SystemClock},
    vault::{self, Journal, OwnerKeys, Reader, Selector, Snapshot, StateDir, Unlocking, Vault, Way},
};

use crate::common::{
    bin::tool,
    library::{
        Hooked, Host, Meta, Tree, below, copy_dir, copy_of, identity, keys, noise, objects, read_disk, read_snapshot, temp, write_files,
    },
};

const SHELF: [&str; 5] = ["v1", "empty", "many", "forked", "pruned"];
/// Longest vault of the shelf, in bytes: the one with parity keeps everything twice.
const LEN_MAX: u64 = 600_000;

fn at(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/vaults").join(name)
}

struct Golden {
    vault: Vault,
    owner: Arc<OwnerKeys>,
    reader: Reader,
    snapshots: Vec<Snapshot>,
}

fn open(name: &str) -> Golden {
    let vault = Vault::open(Arc::new(Local::new(at(name).join("vault")))).unwrap();
    let mut unlocking = Unlocking::default();
    unlocking.add_identity_file("identity", &fs::read_to_string(at(name).join("identity")).unwrap()).unwrap();
    let owner = Arc::new(unlocking.open(&*vault.store, vault.config.id).unwrap());
    let (snapshots, findings) = vault.snapshots(&owner).unwrap();
    assert_eq!(findings, [], "{name}");
    let reader = Reader::open(vault.clone(), owner.clone(), 1 << 20).unwrap().0;
    Golden { vault, owner, reader, snapshots }
}

/// What a snapshot holds below its source, without what differs between machines.
fn tree_of(golden: &Golden, snapshot: &Snapshot) -> Tree {
    let root = PathBuf::from(String::from_utf8(snapshot.manifest.sources[0].clone()).unwrap());
    bare(&root, below(&read_snapshot(&golden.reader, snapshot).unwrap(), &root))
}

/// Paths below `root`; inodes are not what is restored.
fn bare(root: &Path, tree: Tree) -> Tree {
    use std::os::unix::ffi::OsStrExt;
    let cut = |path: Vec<u8>| path.strip_prefix(root.as_os_str().as_bytes()).map_or(path.clone(), <[u8]>::to_vec);
    let entry = |(path, (meta, bytes)): (Vec<u8>, (Meta, Vec<u8>))| {
        let names = meta.names.map(|(n, first)| (n, cut(first)));
        (cut(path), (Meta { inode: 0, names, ..meta }, bytes))
    };
    tree.into_iter().map(entry).collect()
}

/// One number for a tree.
fn sum(tree: &Tree) -> String {
    let line = |(path, (meta, bytes)): (&Vec<u8>, &(Meta, Vec<u8>))| {
        let Meta { mode, owner, mtime_ns, size, names, xattrs, target, device, holes, .. } = meta;
        format!("{path:?} {mode:o} {owner:?} {mtime_ns} {size} {names:?} {xattrs:?} {target:?} {device:?} {holes:?} {}\n", digest(bytes))
    };
    digest(tree.iter().map(line).collect::<String>().as_bytes()).to_string()
}

fn lines_of(name: &str) -> String {
    let golden = open(name);
    golden.snapshots.iter().map(|s| format!("{} {} {}\n", s.key, s.id, sum(&tree_of(&golden, s)))).collect()
}

#[test]
fn every_vault_of_the_shelf_holds_what_it_always_held() {
    for name in SHELF {
        assert_eq!(lines_of(name), fs::read_to_string(at(name).join("snapshots.txt")).unwrap(), "{name}");
        let golden = open(name);
        let (cancel, state) = (Cancel::default(), StateDir::new(Path::new("/nonexistent/coffre-test"), golden.vault.config.id));
        let context = verify::Context {
            vault: &golden.vault,
            reader: Some(&golden.reader),
            state: &state,
            clock: &SystemClock,
            sink: &Silent,
            cancel: &cancel,
            workers: 1,
            expect: &[],
        };
        let report = verify::run(&context, Depth::Chunks).unwrap();
        assert!(report.is_clean(), "{name}: {:?} {:?}", report.damage, report.damaged_files);
        let len: u64 = keys(&*golden.vault.store, "").iter().map(|key| golden.vault.store.stat(key).unwrap().unwrap()).sum();
        assert!(len < LEN_MAX, "{name} takes {len} bytes");
        assert!(golden.owner.identities().len() >= 2);
    }
}

#[test]
fn the_shelf_is_what_it_is_called() {
    assert_eq!(open("empty").snapshots.len(), 0);
    let many = open("many");
    assert!(tree_of(&many, &many.snapshots[0]).len() > 10_000);
    let forked = open("forked").snapshots;
    let previous: Vec<_> = forked.iter().map(|s| s.manifest.previous).collect();
    assert_eq!((forked.len(), previous[1] == previous[2], previous[1].is_some()), (4, true, true), "two go on from the first");
    let pruned = open("pruned");
    let journal = Journal::load(&pruned.vault, None).unwrap();
    let settled: Vec<bool> = journal.condemnations.iter().map(|c| c.settled).collect();
    assert_eq!((pruned.vault.config.parity, pruned.snapshots.len(), settled), (5, 1, vec![true, false]));
    let waits = journal.condemned(&pruned.vault, &journal.condemnations[1]).unwrap();
    assert!(waits.iter().any(|line| line.path.starts_with("packs/")), "packs wait to be deleted");
}

/// What was kept beside objects in format 1 mends them for ever, packs that took the place of others among them.
#[test]
fn the_vault_with_parity_mends_itself() {
    let whole = copy_of(&Local::new(at("pruned").join("vault")));
    let golden = open("pruned");
    let journal = Journal::load(&golden.vault, None).unwrap();
    let condemned: Vec<String> =
        journal.condemnations.iter().flat_map(|c| journal.condemned(&golden.vault, c).unwrap()).map(|line| line.path).collect();
    let wanted = |key: &&Key| !key.as_str().starts_with("parity/") && !condemned.iter().any(|path| path == key.as_str());
    for key in objects(&whole).keys().filter(wanted) {
        let store = copy_of(&whole);
        store.damage(key, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        });
        let cancel = Cancel::default();
        let context = repair::Context {
            store: Arc::new(store.clone()),
            from: &[],
            owner: None,
            clock: &SystemClock,
            sink: &Silent,
            cancel: &cancel,
            workers: 1,
        };
        let report = repair::run(&context, &repair::Scope::Everything).unwrap();
        assert_eq!((report.repaired.len(), &report.lost), (1, &Vec::new()), "{key}: {report:?}");
        assert!(objects(&store)[key] == objects(&whole)[key], "{key}");
    }
}

#[test]
fn the_recipe_reads_every_vault_of_the_shelf() {
    let (_guard, dir) = temp();
    for name in SHELF {
        let golden = open(name);
        for (n, snapshot) in golden.snapshots.iter().enumerate() {
            let dest = dir.join(format!("{name}-{n}"));
            let recipe = at(name).join("vault/RESTORE.py");
            let done =
                tool("python3").arg(recipe).arg(at(name).join("identity")).arg(&dest).arg(snapshot.key.to_string()).output().unwrap();
            assert!(done.status.success(), "{name} {}: {}", snapshot.key, String::from_utf8_lossy(&done.stderr));
            let source = String::from_utf8(snapshot.manifest.sources[0].clone()).unwrap();
            let root = dest.join(source.strip_prefix('/').unwrap());
            let got = bare(&root, read_disk(&root));
            crate::common::library::assert_same(&got, &tree_of(&golden, snapshot), &format!("{name} {}", snapshot.key));
        }
    }
}

/// A vault of a format that is not there yet: refused by everybody, and not called damaged.
#[test]
fn a_vault_of_version_2_is_refused_as_unsupported() {
    let (_guard, dir) = temp();
    let vault = dir.join("vault");
    copy_dir(&at("v1").join("vault"), &vault);
    let text = fs::read_to_string(vault.join("VAULT")).unwrap();
    for newer in [text.replacen("coffre-vault 1", "coffre-vault 2", 1), format!("{text}need something-new\n")] {
        fs::remove_file(vault.join("VAULT")).unwrap();
        fs::write(vault.join("VAULT"), newer).unwrap();
        assert_eq!(Vault::open(Arc::new(Local::new(&vault))).map(drop).unwrap_err().kind(), ErrorKind::Unsupported);
        let identity = at("v1").join("identity");
        for arguments in [&["snapshots"][..], &["verify"], &["restore", "latest", "--to", "restored"]] {
            let mut command = tool(env!("CARGO_BIN_EXE_coffre"));
            command.env("COFFRE_STATE_DIR", dir.join("state")).current_dir(&dir);
            command.arg("--vault").arg(&vault).arg("--identity").arg(&identity).args(arguments);
            let done = command.output().unwrap();
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert_eq!(done.status.code(), Some(1), "{arguments:?}: {said}");
            assert!(said.contains("error: ") && !said.contains("damage"), "{arguments:?}: {said}");
        }
        let done = tool("python3").arg(vault.join("RESTORE.py")).arg(&identity).arg(dir.join("dest")).output().unwrap();
        assert!(!done.status.success(), "RESTORE.py reads a format that it does not know");
    }
}

/// Writes the shelf, and what is expected of it: run once. `COFFRE_SHELF=many cargo test --test format make -- --ignored`.
#[test]
#[ignore = "writes into the project"]
fn make() {
    let name = std::env::var("COFFRE_SHELF").unwrap();
    if !at(&name).join("identity").exists() {
        let identity = identity();
        let store = Arc::new(Local::new(at(&name).join("vault")));
        let parity = if name == "pruned" { 5 } else { 0 };
        let made =
            vault::create_with(store, &[Way::Age(identity.to_public())], "host1", vault::Promise { parity, ..Default::default() }).unwrap();
        let host = Host::with(made.vault, Arc::new(made.owner), made.sealer);
        match name.as_str() {
            "many" => make_many(&host),
            "forked" => make_forked(&host),
            "pruned" => make_pruned(&host),
            _ => panic!("it is not known how {name} was made"),
        }
        fs::write(at(&name).join("identity"), identity.to_string().expose_secret()).unwrap();
    }
    fs::write(at(&name).join("snapshots.txt"), lines_of(&name)).unwrap();
}

fn make_many(host: &Host) {
    let (_guard, root) = temp();
    for n in 0..10_000 {
        write_files(&root, &[(&format!("many/{n:05}"), b"")]);
    }
    host.seal(&[&root]).unwrap();
}

/// A clone seals in the middle of a seal; the next snapshot goes on from both.
fn make_forked(host: &Host) {
    let (_guard, root) = temp();
    let write = |text: &str| write_files(&root, &[("file", text.as_bytes())]);
    write("first");
    host.seal(&[&root]).unwrap();
    let clone = Mutex::new(Some(host.fork(host.vault.store.clone())));
    let here = root.clone();
    let hook = move |_: Key| {
        let clone = clone.lock().unwrap().take().unwrap();
        write_files(&here, &[("file", b"of the clone")]);
        clone.seal(&[&here]).unwrap();
    };
    let hooked = Hooked { inner: host.vault.store.clone(), prefix: "snaps/", suffix: ".age", hook: Mutex::new(Some(Box::new(hook))) };
    write("second");
    host.fork(Arc::new(hooked)).seal(&[&root]).unwrap();
    write("fourth");
    host.seal(&[&root]).unwrap();
}

/// One snapshot stays; one was forgotten and is deleted, another waits for its grace.
fn make_pruned(host: &Host) {
    let (_guard, root) = temp();
    for n in 0..3 {
        write_files(&root, &[("file", &noise(9_000, n)), ("stays", &noise(3_000, 9)), ("small", format!("day {n}").as_bytes())]);
        host.seal(&[&root]).unwrap();
        if n > 0 {
            forget_the_one_before(host);
            prune_with(host, if n == 1 { 0 } else { 14 * 86_400 });
        }
    }
}

fn forget_the_one_before(host: &Host) {
    let options = forget::Options {
        policy: forget::Policy::default(),
        by: forget::GroupBy { host: true, paths: true, tags: false },
        named: vec![Selector::parse("latest~1", 0).unwrap()],
        hosts: Vec::new(),
        calendar: Calendar::named("UTC").unwrap(),
        dry_run: false,
        force: true,
    };
    forget::run(&host.vault, &host.owner, host.clock.now_ns(), &options).unwrap();
}

fn prune_with(host: &Host, grace_secs: u64) {
    let reader = host.reader();
    let context =
        prune::Context { vault: &host.vault, reader: &reader, clock: &host.clock, sink: &Silent, cancel: &host.cancel, workers: 1 };
    let options = prune::Options {
        max_unused_permille: 0,
        max_rewrite: None,
        repack_small: false,
        grace_secs,
        shorten: false,
        dry_run: false,
        force: true,
    };
    prune::run(&context, &options).unwrap();
}
