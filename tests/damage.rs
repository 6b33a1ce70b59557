//! What is hurt, how, what verify says of it at each depth, and what still reads. Add a row when you think of one.
//!
//! The vault of the table has two snapshots. The first holds `a` (chunks) and `dir/inline` (kept in the tree), the second
//! a `c` besides. A read gives the right bytes or an error, whatever the table says.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use age::secrecy::ExposeSecret;
use coffre::{
    error::{Error, ErrorKind, Result},
    event::Silent,
    format::PackKind,
    ops::verify::{self, Depth, Report},
    store::{Key, Memory, Store},
    sys::{Cancel, SystemClock},
    vault::{self, Finding, Reader, StateDir, Unlocking, Vault, Way},
};
use common::library::{Host, Tree, copy_of, identity, noise, objects, read_snapshot, temp, write_files};

/// A vault to hurt: its objects by role, and what its snapshots hold.
struct Subject {
    _guard: tempfile::TempDir,
    root: PathBuf,
    host: Host,
    identity: String,
    store: Memory,
    roles: BTreeMap<&'static str, Key>,
    trees: Vec<Tree>,
}

impl Subject {
    fn new(seals: &[&[(&str, &[u8])]]) -> Self {
        let (guard, root) = temp();
        let (identity, store) = (identity(), Memory::default());
        let ways = [Way::Age(identity.to_public()), Way::Age(common::library::identity().to_public())];
        let made = vault::create(Arc::new(store.clone()), &ways, "host1").unwrap();
        let host = Host::with(made.vault, Arc::new(made.owner), made.sealer);
        for files in seals {
            write_files(&root, files);
            host.seal(&[&root]).unwrap();
        }
        let reader = host.reader();
        let snapshots = host.snapshots();
        let mut roles: BTreeMap<&'static str, Key> = [
            ("VAULT", "VAULT"),
            ("README", "README.txt"),
            ("RESTORE", "RESTORE.py"),
            ("owner1", "keys/owner-0001-age.age"),
            ("owner2", "keys/owner-0002-age.age"),
            ("sealer", "keys/sealer-host1.age"),
            ("signers", "signers/allowed_signers"),
            ("signers.sig", "signers/allowed_signers.sig"),
        ]
        .into_iter()
        .map(|(role, path)| (role, Key::fixed(path)))
        .collect();
        let names: [[&'static str; 6]; 3] = [
            ["data1", "meta1", "segment1", "manifest1", "receipt1", "sig1"],
            ["data2", "meta2", "segment2", "manifest2", "receipt2", "sig2"],
            ["data3", "meta3", "segment3", "manifest3", "receipt3", "sig3"],
        ];
        for (snapshot, [data, meta, segment, manifest, receipt, sig]) in snapshots.iter().zip(names) {
            let receipt_text = String::from_utf8(objects(&store)[&Key::receipt(&snapshot.key)].clone()).unwrap();
            let index = receipt_text.lines().find_map(|l| l.split_once("  ").filter(|(_, p)| p.starts_with("index/"))).unwrap().1;
            roles.insert(segment, Key::fixed(index));
            roles.insert(manifest, Key::manifest(&snapshot.key));
            roles.insert(receipt, Key::receipt(&snapshot.key));
            roles.insert(sig, Key::signature(&snapshot.key));
            for pack in &snapshot.manifest.new_packs {
                let kind = reader.pack_index(pack).unwrap().0;
                let before = roles.insert(if kind == PackKind::Data { data } else { meta }, Key::pack(pack));
                assert!(before.is_none(), "more packs than the table has roles for");
            }
        }
        let trees = snapshots.iter().map(|s| read_snapshot(&reader, s).unwrap()).collect();
        let identity = identity.to_string().expose_secret().to_owned();
        Self { _guard: guard, root, host, identity, store, roles, trees }
    }

    fn two() -> Self {
        Self::new(&[&[("a", &noise(60_000, 1)), ("dir/inline", b"inline")], &[("c", &noise(80_000, 2))]])
    }

    fn get(&self, role: &str) -> Vec<u8> {
        objects(&self.store)[&self.roles[role]].clone()
    }

    /// The role of an object; a receipt stands for its signature too, as nothing tells which of the two was hurt.
    fn role(&self, path: &str) -> String {
        let path = path.strip_suffix(".sig").unwrap_or(path);
        self.roles.iter().find(|(_, key)| key.as_str() == path).map_or_else(|| path.to_owned(), |(role, _)| (*role).to_owned())
    }

    fn roles_of(&self, findings: &[Finding]) -> BTreeSet<String> {
        findings.iter().map(|f| self.role(&f.object)).collect()
    }
}

/// What a stranger with an identity finds in `store`.
struct Look {
    vault: Vault,
    reader: Reader,
    state: StateDir,
}

impl Look {
    fn at(store: &Memory, identity: &str) -> Result<Self> {
        let vault = Vault::open(Arc::new(store.clone()))?;
        let mut unlocking = Unlocking::default();
        unlocking.add_identity_file("test", identity)?;
        let owner = unlocking.open(store, vault.config.id)?;
        let reader = Reader::open(vault.clone(), Arc::new(owner), 32 << 20)?.0;
        let state = StateDir::new(Path::new("/nonexistent/coffre-test"), vault.config.id);
        Ok(Self { vault, reader, state })
    }

    fn verify(&self, depth: Depth, keyless: bool) -> Result<Report> {
        let reader = (!keyless).then_some(&self.reader);
        let (clock, cancel) = (SystemClock, Cancel::default());
        let (vault, state) = (&self.vault, &self.state);
        verify::run(
            &verify::Context { vault, reader, state, expect: &[], clock: &clock, sink: &Silent, cancel: &cancel, workers: 1 },
            depth,
        )
    }

    /// Reads every snapshot, file by file: number of the snapshot among `trees`, and the paths in it that cannot be read.
    ///
    /// Panics on a wrong byte, or a wrong fact.
    fn lost(&self, trees: &[Tree]) -> Result<BTreeSet<(usize, String)>> {
        let snapshots = self.vault.snapshots(&self.reader.owner)?.0;
        let mut lost = BTreeSet::new();
        for (n, tree) in trees.iter().enumerate() {
            let Some(snapshot) = snapshots.iter().find(|s| s.key.seq == n as u64 + 1) else {
                lost.insert((n + 1, "/".to_owned()));
                continue;
            };
            for (path, (meta, bytes)) in tree {
                let read = vault::resolve_path(&self.reader, snapshot, path).and_then(|entry| {
                    let entry = entry.ok_or_else(|| Error::bug("no entry"))?;
                    if let coffre::format::Content::Dir { node, .. } = &entry.content {
                        self.reader.dir(&self.reader.keys(snapshot), node)?;
                    }
                    Ok((entry.mode, entry.mtime_ns, common::library::read_entry(&self.reader, snapshot, &entry)?))
                });
                match read {
                    Ok(got) => assert!(got == (meta.mode, meta.mtime_ns, bytes.clone()), "wrong: {}", String::from_utf8_lossy(path)),
                    Err(_) => drop(lost.insert((n + 1, String::from_utf8_lossy(path).into_owned()))),
                }
            }
        }
        Ok(lost)
    }
}

/// How an object is hurt.
#[derive(Debug)]
enum Hurt {
    Flip,
    Cut,
    Empty,
    Grow,
    Delete,
    Swap(&'static str),
    Foreign,
}
use Hurt::{Cut, Delete, Empty, Flip, Foreign, Grow, Swap};

fn hurt(store: &Memory, subject: &Subject, other: &Subject, role: &str, how: &Hurt) {
    let key = &subject.roles[role];
    let replace = |key: &Key, bytes: Vec<u8>| assert!(store.damage(key, |there| *there = bytes));
    let bytes = subject.get(role);
    match how {
        Flip => drop(store.damage(key, |b| b[bytes.len() / 2] ^= 0x20)),
        Cut => replace(key, bytes[..bytes.len() / 2].to_vec()),
        Empty => replace(key, Vec::new()),
        Grow => replace(key, [&bytes[..], b"\n"].concat()),
        Delete => store.delete(key).unwrap(),
        Foreign => replace(key, other.get(role)),
        Swap(with) => {
            replace(key, subject.get(with));
            replace(&subject.roles[with], bytes);
        }
    }
}

/// A row: what is hurt, how, whether the depth `snapshots` sees it, and what is lost: (snapshot, path below the source).
type Row = (&'static str, Hurt, bool, &'static [(usize, &'static str)]);

const NONE: &[(usize, &str)] = &[];
/// The root of a snapshot: all of it.
const FIRST: &[(usize, &str)] = &[(1, "/")];
const SECOND: &[(usize, &str)] = &[(2, "/")];
const BOTH: &[(usize, &str)] = &[(1, "/"), (2, "/")];
const A: &[(usize, &str)] = &[(1, "a"), (2, "a")];
const C: &[(usize, &str)] = &[(2, "c")];
const A_AND_C: &[(usize, &str)] = &[(1, "a"), (2, "a"), (2, "c")];
/// The first snapshot's nodes: all of it, and what the second one shares with it.
const NODES: &[(usize, &str)] = &[(1, "/"), (2, "dir")];

/// Runs rows and returns what is not as it should be.
fn run(rows: &[Row]) -> Vec<String> {
    let (subject, other) = (Subject::two(), Subject::two());
    let mut wrong = Vec::new();
    for (role, how, seen_at_once, lost) in rows {
        let store = copy_of(&subject.store);
        hurt(&store, &subject, &other, role, how);
        let also = if let Swap(with) = how { Some(with) } else { None };
        let named = [role].into_iter().chain(also).map(|role| subject.role(subject.roles[role].as_str())).collect();
        let what = match how {
            Swap(with) => format!("{role} and {with} swapped"),
            _ => format!("{role}: {how:?}"),
        };
        // Each on a thread of its own, which has decrypted nothing yet: a block that it has, it does not read again.
        let found = thread::scope(|s| s.spawn(|| row(&subject, &store, &named, *seen_at_once, lost)).join()).unwrap();
        wrong.extend(found.into_iter().map(|w| format!("{what}: {w}")));
    }
    wrong
}

fn row(subject: &Subject, store: &Memory, named: &BTreeSet<String>, seen_at_once: bool, lost: &[(usize, &str)]) -> Vec<String> {
    let mut wrong = Vec::new();
    let look = match Look::at(store, &subject.identity) {
        Ok(look) => look,
        Err(e) => return vec![format!("does not open: {}", e.chain())],
    };
    for (depth, keyless) in [(Depth::Snapshots, true), (Depth::Packs, true), (Depth::Packs, false), (Depth::Chunks, false)] {
        let expected = if depth > Depth::Snapshots || seen_at_once { named.clone() } else { BTreeSet::new() };
        match look.verify(depth, keyless) {
            Err(e) => wrong.push(format!("verify {depth:?} failed: {}", e.chain())),
            Ok(report) => {
                let found = subject.roles_of(&report.damage);
                if found != expected {
                    wrong.push(format!("verify {depth:?} keyless {keyless} names {found:?}, not {expected:?}: {:?}", report.damage));
                }
                if depth == Depth::Chunks {
                    wrong.extend(files_named(subject, &look, &report));
                }
            }
        }
    }
    match look.lost(&subject.trees) {
        Err(e) if lost == BOTH => drop(e),
        Err(e) => wrong.push(format!("nothing can be read: {}", e.chain())),
        Ok(found) => {
            let root = subject.root.to_str().unwrap();
            let path = |p: &str| if p == "/" { p.to_owned() } else { format!("{root}/{p}") };
            let is_lost = |n: usize, at: &str| lost.iter().any(|(m, p)| *m == n && (at.starts_with(&path(p))));
            for (n, tree) in subject.trees.iter().enumerate() {
                for at in tree.keys().map(|at| String::from_utf8_lossy(at)) {
                    let gone = found.contains(&(n + 1, "/".to_owned())) || found.contains(&(n + 1, at.to_string()));
                    if gone != is_lost(n + 1, &at) {
                        wrong.push(format!("snapshot {} {at} can{} be read", n + 1, if gone { "not" } else { "" }));
                    }
                }
            }
        }
    }
    wrong
}

/// Whether verify names the files that cannot be read, in the snapshots whose manifests can.
fn files_named(subject: &Subject, look: &Look, report: &Report) -> Vec<String> {
    let Ok((snapshots, _)) = look.vault.snapshots(&look.reader.owner) else { return Vec::new() };
    let Ok(lost) = look.lost(&subject.trees) else { return Vec::new() };
    let mut wrong = Vec::new();
    for snapshot in &snapshots {
        let n = snapshot.key.seq as usize;
        let named: BTreeSet<String> =
            report.damaged_files.iter().filter(|f| f.snapshot == snapshot.id.to_string()).map(|f| f.path.clone()).collect();
        // A directory with a slash at its end stands for all below it.
        let covers = |path: &str| named.iter().any(|n| n == path || (n.ends_with('/') && format!("{path}/").starts_with(n.as_str())));
        for path in subject.trees[n - 1].keys().map(|p| String::from_utf8_lossy(p).into_owned()) {
            let (gone, named) = (lost.contains(&(n, path.clone())), covers(&path));
            if gone != named {
                wrong.push(format!("snapshot {n} {path}: lost {gone}, named by verify {named}"));
            }
        }
    }
    wrong
}

#[test]
fn damage_is_named_and_what_it_does_not_touch_reads() {
    let rows: Vec<Row> = vec![
        ("data1", Flip, false, A),
        ("data1", Cut, false, A),
        ("data1", Empty, false, A),
        ("data1", Delete, true, A),
        ("data1", Foreign, false, A),
        ("data2", Flip, false, C),
        ("data2", Delete, true, C),
        ("meta1", Flip, false, NODES),
        ("meta1", Cut, false, NODES),
        ("meta1", Delete, true, NODES),
        ("meta1", Foreign, false, NODES),
        ("meta2", Flip, false, SECOND),
        ("meta2", Delete, true, SECOND),
        ("segment1", Flip, false, NONE),
        ("segment1", Cut, false, NONE),
        ("segment1", Delete, true, NONE),
        ("segment1", Foreign, false, NONE),
        ("segment1", Swap("segment2"), false, NONE),
        ("manifest1", Flip, false, FIRST),
        ("manifest1", Delete, true, FIRST),
        ("manifest2", Flip, false, SECOND),
        ("manifest2", Empty, false, SECOND),
        ("manifest2", Foreign, false, SECOND),
        ("receipt2", Flip, true, SECOND),
        ("receipt2", Cut, true, SECOND),
        ("receipt2", Delete, true, SECOND),
        ("receipt2", Foreign, true, SECOND),
        ("sig2", Flip, true, SECOND),
        ("sig2", Cut, true, SECOND),
        ("sig2", Foreign, true, SECOND),
        ("receipt1", Swap("receipt2"), true, BOTH),
        ("sig1", Swap("sig2"), true, BOTH),
        ("owner1", Flip, false, NONE),
        ("owner1", Empty, false, NONE),
        ("owner1", Delete, true, NONE),
        ("owner1", Foreign, false, NONE),
        ("owner1", Swap("owner2"), false, NONE),
        ("sealer", Flip, false, NONE),
        ("sealer", Delete, true, NONE),
        ("sealer", Foreign, false, NONE),
        ("signers", Flip, true, BOTH),
        ("signers", Cut, true, BOTH),
        ("signers", Delete, true, BOTH),
        ("signers", Foreign, true, BOTH),
        ("signers.sig", Flip, true, BOTH),
        ("signers.sig", Delete, true, BOTH),
        ("VAULT", Grow, false, NONE),
        ("README", Flip, false, NONE),
        ("README", Delete, true, NONE),
        ("RESTORE", Flip, false, NONE),
    ];
    assert_holds(&rows);
}

fn assert_holds(rows: &[Row]) {
    let wrong = run(rows);
    assert!(wrong.is_empty(), "{} of {} rows are not as they should be:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

/// Found by this row: each pack proved sound under the other's name, so no file was named, and none could be read.
#[test]
fn files_in_packs_that_were_swapped_are_named() {
    assert_holds(&[("data1", Swap("data2"), false, A_AND_C), ("meta1", Swap("meta2"), false, BOTH)]);
}

/// Found by this row: without a readable manifest no dedup domain was known, and every chunk of every sound pack was called damaged.
#[test]
fn manifests_that_cannot_be_read_do_not_make_sound_packs_damaged() {
    assert_holds(&[("manifest1", Swap("manifest2"), false, BOTH)]);
}

/// Found by these rows: the snapshot after the gap was named as well, though nothing is wrong with it.
#[test]
fn a_break_in_the_chain_is_named_where_it_is() {
    assert_holds(&[
        ("receipt1", Flip, true, FIRST),
        ("receipt1", Cut, true, FIRST),
        ("receipt1", Delete, true, FIRST),
        ("receipt1", Foreign, true, FIRST),
        ("sig1", Flip, true, FIRST),
        ("sig1", Foreign, true, FIRST),
    ]);
}

/// The signature of a snapshot in the middle of a chain is gone: the snapshot after it proves that there was one.
#[test]
fn a_signature_that_is_gone_from_the_middle_is_named() {
    assert_holds(&[("sig1", Delete, true, FIRST)]);
}

#[test]
fn a_snapshot_that_is_gone_from_the_middle_is_named() {
    let subject = Subject::new(&[&[("a", b"1")], &[("a", b"2")], &[("a", b"3")]]);
    for roles in [&["manifest2", "receipt2", "sig2"][..], &["receipt2", "sig2"], &["receipt2"]] {
        let store = copy_of(&subject.store);
        roles.iter().for_each(|role| store.delete(&subject.roles[role]).unwrap());
        let look = Look::at(&store, &subject.identity).unwrap();
        for depth in [Depth::Snapshots, Depth::Chunks] {
            let report = look.verify(depth, false).unwrap();
            let found = subject.roles_of(&report.damage);
            assert_eq!(found, BTreeSet::from(["receipt2".to_owned()]), "{roles:?} deleted, {depth:?}: {:?}", report.damage);
        }
    }
}

#[test]
fn a_rollback_is_seen_by_the_host_that_remembers_and_by_no_other() {
    let subject = Subject::new(&[&[("a", b"1")], &[("a", b"2")], &[("a", b"3")]]);
    for gone in [1, 2] {
        let store = copy_of(&subject.store);
        let roles = [["manifest3", "receipt3", "sig3", "segment3"], ["manifest2", "receipt2", "sig2", "segment2"]];
        roles[..gone].iter().flatten().for_each(|role| store.delete(&subject.roles[role]).unwrap());
        let stranger = Look::at(&store, &subject.identity).unwrap();
        let report = stranger.verify(Depth::Chunks, false).unwrap();
        assert!(report.is_clean(), "{report:?}");
        assert_eq!((report.snapshots, stranger.lost(&subject.trees[..3 - gone]).unwrap().len()), (3 - gone as u64, 0));
        let remembering = Look { state: subject.host.state.clone(), ..stranger };
        for keyless in [true, false] {
            let report = remembering.verify(Depth::Snapshots, keyless).unwrap();
            assert_eq!(subject.roles_of(&report.damage), BTreeSet::from(["receipt3".to_owned()]), "{:?}", report.damage);
        }
    }
}

#[test]
fn a_vault_without_index_segments_reads_from_the_packs_themselves() {
    let subject = Subject::two();
    let store = copy_of(&subject.store);
    for role in ["segment1", "segment2"] {
        store.delete(&subject.roles[role]).unwrap();
    }
    let look = Look::at(&store, &subject.identity).unwrap();
    assert_eq!(look.lost(&subject.trees).unwrap(), BTreeSet::new());
    let report = look.verify(Depth::Chunks, false).unwrap();
    assert_eq!(subject.roles_of(&report.damage), BTreeSet::from(["segment1".to_owned(), "segment2".to_owned()]));
    assert_eq!(report.damaged_files, []);
}

#[test]
fn a_vault_file_that_is_hurt_is_an_error_that_says_so_or_changes_nothing() {
    let subject = Subject::two();
    let whole = subject.get("VAULT");
    for at in 0..whole.len() {
        for bit in 0..8 {
            let store = copy_of(&subject.store);
            store.damage(&subject.roles["VAULT"], |bytes| bytes[at] ^= 1 << bit);
            match Look::at(&store, &subject.identity) {
                Err(e) => assert!(matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported), "byte {at} bit {bit}: {}", e.chain()),
                Ok(look) => {
                    let report = look.verify(Depth::Packs, true).unwrap();
                    assert_eq!(subject.roles_of(&report.damage), BTreeSet::from(["VAULT".to_owned()]), "byte {at} bit {bit}");
                    assert_eq!(look.lost(&subject.trees).unwrap(), BTreeSet::new(), "byte {at} bit {bit}");
                }
            }
        }
    }
    let store = copy_of(&subject.store);
    store.delete(&subject.roles["VAULT"]).unwrap();
    assert_eq!(Look::at(&store, &subject.identity).err().unwrap().kind(), ErrorKind::NoVault);
}

/// Each byte flipped in turn: every one of keys, receipts, signatures, manifests, segments and of the heads of packs; every 61st of the
/// rest of packs and of the two public texts (COFFRE_FLIP_STEP=1 for all of them, which takes half an hour).
#[test]
fn no_flipped_byte_goes_unseen_or_changes_what_is_read() {
    let subject = Subject::new(&[&[("inline", b"kept in the tree"), ("d/chunk", &noise(3000, 1)), ("d/again", &noise(3000, 1))]]);
    let step = std::env::var("COFFRE_FLIP_STEP").map_or(61, |n| n.parse().unwrap());
    let mut work = Vec::new();
    for (key, bytes) in objects(&subject.store) {
        let head = if key.as_str().starts_with("packs/") || bytes.len() > 10_000 { 300 } else { bytes.len() };
        work.extend((0..head).chain((head..bytes.len()).step_by(step)).map(|at| (key.clone(), at)));
    }
    let (next, seen, harmless) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let flip = |store: &Memory, key: &Key, at: usize| assert!(store.damage(key, |bytes| bytes[at] ^= 1 << (at % 8)));
    let verdict = |store: &Memory| -> bool {
        let Ok(look) = Look::at(store, &subject.identity) else { return true };
        let reported = look.verify(Depth::Chunks, false).map_or(true, |report| !report.is_clean());
        let lost = look.lost(&subject.trees).map_or(true, |lost| !lost.is_empty());
        assert!(reported || !lost, "something cannot be read, and verify says that all is well");
        reported
    };
    let worker = || {
        let store = copy_of(&subject.store);
        while let Some((key, at)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
            flip(&store, key, *at);
            match catch_unwind(AssertUnwindSafe(|| verdict(&store))) {
                Ok(true) => seen.fetch_add(1, Ordering::Relaxed),
                Ok(false) => harmless.fetch_add(1, Ordering::Relaxed),
                Err(_) => panic!("with byte {at} of {key} flipped"),
            };
            flip(&store, key, *at);
        }
    };
    thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(worker))));
    let (seen, harmless) = (seen.into_inner(), harmless.into_inner());
    println!("{} bytes flipped: {seen} reported, {harmless} changed nothing", work.len());
    assert_eq!(seen + harmless, work.len());
    // Second copies of keys are in no receipt, and a signature's line breaks may differ; everything else is seen.
    let second_copies = work.iter().filter(|(key, _)| key.as_str().starts_with("parity/")).count();
    assert!(harmless <= second_copies + 100, "{harmless} flips went unseen, {second_copies} of them in second copies");
}
