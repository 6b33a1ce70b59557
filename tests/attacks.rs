//! Who attacks, what they do, and who finds it: a table. Printed with `--nocapture`. Add a row when you think of one.
//!
//! Three look: the host that was attacked, with its memory (`verify`); the storage side, with the owner's public key and the heads that
//! somebody wrote down (`audit`); and a stranger who has nothing (`fresh`). Each finds exactly what the row says, or the row says what is
//! left over, in the words of the table of threats in docs/FORMAT.md.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

mod common;

#[path = "attacks/revoke.rs"]
mod revoke;
#[path = "attacks/rows.rs"]
mod rows;
#[path = "attacks/storage.rs"]
mod storage;
#[path = "attacks/world.rs"]
mod world;

use std::{collections::BTreeSet, sync::Arc};

use coffre::{
    format::{Digest, Manifest, Receipt, SnapshotKey, VaultId, digest},
    ops::verify::Depth,
    pack,
    store::{Key, Memory, Store},
};
use common::library::{Forge, Host, Sketch, copy_of, objects, temp, write_files};
use rows::{HARMLESS, ROWS};
use world::{World, place};

/// From which state of the vault the attack starts.
#[derive(Clone, Copy)]
enum Start {
    /// host1 sealed three times, host2 twice.
    Plain,
    /// The same, and host1 was revoked after that; then host2 sealed once more.
    Revoked,
    /// A clone of host1 sealed at the same moment as host1.
    Raced,
}
use Start::{Plain, Raced, Revoked};

fn at(seq: u64, suffix: &str) -> Key {
    place("host1", seq, suffix)
}

fn flip(store: &Memory, key: &Key) {
    assert!(store.damage(key, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    }));
}

fn cut(store: &Memory, key: &Key) {
    assert!(store.damage(key, |bytes| bytes.truncate(bytes.len() / 2)));
}

fn put_over(store: &Memory, key: &Key, new: Vec<u8>) {
    assert!(store.damage(key, |bytes| *bytes = new));
}

fn swap(store: &Memory, a: &Key, b: &Key) {
    let all = objects(store);
    put_over(store, a, all[b].clone());
    put_over(store, b, all[a].clone());
}

fn remove(store: &Memory, seq: u64) {
    ["age", "b3", "b3.sig"].iter().for_each(|suffix| store.delete(&at(seq, suffix)).unwrap());
}

fn replay(store: &Memory, suffix: &str) {
    put_over(store, &at(2, suffix), objects(store)[&at(1, suffix)].clone());
}

fn copy(from: &Memory, to: &Memory, key: &Key) -> Key {
    to.put(key, &objects(from)[key]).unwrap();
    key.clone()
}

/// Stores `bytes` under their hash.
fn put_named(store: &Memory, folder: &str, bytes: &[u8]) -> Key {
    let hex = digest(bytes).to_string();
    let key = if folder == "packs/" { format!("packs/{}/{hex}.age", &hex[..2]) } else { format!("{folder}{hex}.age") };
    store.put(&Key::fixed(&key), bytes).unwrap();
    Key::fixed(key)
}

fn swap_snapshots(_: &World, store: &Memory) {
    ["age", "b3", "b3.sig"].iter().for_each(|suffix| swap(store, &at(1, suffix), &at(2, suffix)));
}

fn replay_snapshot(_: &World, store: &Memory) {
    ["b3", "b3.sig"].iter().for_each(|suffix| replay(store, suffix));
}

fn append_copy(_: &World, store: &Memory) {
    ["age", "b3", "b3.sig"].iter().for_each(|suffix| store.put(&at(4, suffix), &objects(store)[&at(2, suffix)]).unwrap());
}

fn foreign_snapshot(world: &World, store: &Memory) {
    let theirs = objects(&world.other.store);
    ["age", "b3", "b3.sig"].iter().for_each(|suffix| store.put(&at(4, suffix), &theirs[&at(3, suffix)]).unwrap());
}

fn foreign_pack(world: &World, store: &Memory) {
    put_over(store, &world.pack, objects(&world.other.store)[&world.other.pack].clone());
}

fn unnamed_pack(world: &World, store: &Memory) {
    let key = copy(&world.other.store, store, &world.other.pack);
    flip(store, &key);
}

fn foreign_signers(world: &World, store: &Memory) {
    let theirs = objects(&world.other.store);
    for (to, from) in
        [("signers/allowed_signers.0002", "signers/allowed_signers"), ("signers/allowed_signers.0002.sig", "signers/allowed_signers.sig")]
    {
        put_over(store, &Key::fixed(to), theirs[&Key::fixed(from)].clone());
    }
}

fn put_back(world: &World, store: &Memory) {
    objects(store).keys().filter(|key| !objects(&world.old).contains_key(*key)).for_each(|key| store.delete(key).unwrap());
}

fn take_revocation_back(_: &World, store: &Memory) {
    ["", ".sig"].iter().for_each(|end| store.delete(&Key::fixed(format!("signers/allowed_signers.0003{end}"))).unwrap());
}

fn replay_list(_: &World, store: &Memory) {
    for end in ["", ".sig"] {
        let old = objects(store)[&Key::fixed(format!("signers/allowed_signers.0002{end}"))].clone();
        store.put(&Key::fixed(format!("signers/allowed_signers.0009{end}")), &old).unwrap();
    }
}

fn take_signatures_away(_: &World, store: &Memory) {
    (1..=3).for_each(|n| store.delete(&at(n, "b3.sig")).unwrap());
}

/// A list that names host2 as the owner, signed by host2.
fn own_list(world: &World, store: &Memory) {
    let key = world.host2.sealer.sign.public();
    let list =
        format!("#list 0003\nowner namespaces=\"coffre-gc-v1,coffre-signers-v1\" {key}\nhost2 namespaces=\"coffre-receipt-v1\" {key}\n");
    let signature = world.host2.sealer.sign.sign("coffre-signers-v1", list.as_bytes()).unwrap();
    store.put(&Key::fixed("signers/allowed_signers.0003"), list.as_bytes()).unwrap();
    store.put(&Key::fixed("signers/allowed_signers.0003.sig"), &signature).unwrap();
}

fn add_segment(world: &World, store: &Memory) {
    let folder = format!("index/{}/", world.host1.sealer.domain.short());
    put_named(store, &folder, &world.forged());
}

/// Seals with host1's keys and none of its memory, whatever the list of signers says.
fn append_as_host1(world: &World, store: &Memory) {
    let thief = world.host1.twin(Arc::new(store.clone()));
    let mut sketch = Sketch::default();
    sketch.write("forged", "forged", 0);
    Forge::new(&thief).seal(&sketch, "test");
}

/// Writes a snapshot of `sealer` that goes on from `previous` of the same sealer, signed by `signer`.
fn forge(world: &World, store: &Memory, sealer: &str, seq: u64, previous: Option<u64>, signer: Option<&str>) {
    world.forge(store, sealer, seq, previous.map(|n| (sealer, n)), signer);
}

/// Puts one that goes on from the one before in place of another.
fn forge_over(world: &World, store: &Memory, seq: u64) {
    remove(store, seq);
    forge(world, store, "host1", seq, Some(seq - 1), Some("host1"));
}

fn others_chain(world: &World, store: &Memory) {
    world.forge(store, "host2", 3, Some(("host1", 3)), Some("host2"));
}

#[test]
fn every_attack_is_found_or_left_over_as_the_format_says() {
    let world = World::new();
    let format = include_str!("../docs/FORMAT.md");
    let (mut wrong, mut lines) = (Vec::new(), Vec::new());
    for (who, what, from, act, verify, audit, fresh) in ROWS {
        let store = world.start(*from);
        let untouched = (*verify == HARMLESS).then(|| world.contents(&store));
        act(&world, &store);
        let (clean, found) = world.verify(*from, &store);
        let seen = [("verify", found), ("audit", world.audit(&store, true)), ("fresh", world.audit(&store, false))];
        let mut cells = Vec::new();
        for ((look, found), expected) in seen.into_iter().zip([verify, audit, fresh]) {
            let said: BTreeSet<String> = expected.iter().map(|s| (*s).to_owned()).collect();
            let is_met = match expected {
                ["harmless"] => found.is_empty() && untouched.as_ref().is_some_and(|before| world.contents(&store) == *before),
                [one] if one.starts_with("left over: ") => found.is_empty() && format.contains(one.trim_start_matches("left over: ")),
                _ => found == said,
            };
            if !is_met {
                wrong.push(format!("{who}: {what}: {look} finds {found:?}, not {said:?}, or something reads differently"));
            }
            cells.push(expected.join(", "));
        }
        if !clean && world.deep_is_clean(*from, &store) {
            wrong.push(format!("{who}: {what}: verify with an owner's key does not agree with the one without"));
        }
        lines.push([(*who).to_owned(), (*what).to_owned(), cells[0].clone(), cells[1].clone(), cells[2].clone()]);
    }
    print(&lines);
    assert!(wrong.is_empty(), "{} of {} rows are not as they should be:\n{}", wrong.len(), ROWS.len(), wrong.join("\n"));
}

/// Only who can read manifests can tell: the receipt is as it should be.
#[test]
fn a_manifest_that_belongs_elsewhere_is_named_by_who_can_read_it() {
    let host = Host::memory();
    let (_guard, dir) = temp();
    write_files(&dir, &[("file", b"content")]);
    host.seal(&[&dir]).unwrap();
    let genuine = host.latest().manifest;
    let kinds = |change: &dyn Fn(&mut Manifest)| {
        let host = host.fork(Arc::new(copy_of(&*host.vault.store)));
        let mut manifest = Manifest { seq: 2, previous: Some(host.latest().id), ..genuine.clone() };
        change(&mut manifest);
        let sealed = pack::seal_whole(&[&host.sealer.meta], &pack::compress(&manifest.encode()).unwrap()).unwrap();
        let key = SnapshotKey { sealer: "host1".to_owned(), seq: 2 };
        let mut receipt = Receipt::default();
        receipt.push(Digest::from_bytes(*host.latest().id.as_bytes()), "snaps/host1/0000000001.b3");
        receipt.push(digest(&sealed), key.manifest());
        let store = &*host.vault.store;
        store.put(&Key::manifest(&key), &sealed).unwrap();
        store.put(&Key::receipt(&key), &receipt.encode()).unwrap();
        store.put(&Key::signature(&key), &host.sealer.sign.sign("coffre-receipt-v1", &receipt.encode()).unwrap()).unwrap();
        let report = host.verify(Depth::Chunks).unwrap();
        let offered = host.vault.snapshots(&host.owner).unwrap().0.len();
        (report.damage.iter().map(|f| format!("{} {}", f.kind.word(), f.object)).collect::<Vec<_>>(), offered)
    };
    assert_eq!(kinds(&|_| ()), (Vec::new(), 2));
    let named = |kind: &str| (vec![format!("{kind} snaps/host1/0000000002.age")], 1);
    assert_eq!(kinds(&|m| m.vault = VaultId([7; 16])), named("other-vault"));
    assert_eq!(kinds(&|m| m.seq = 3), named("snapshot-reordered"));
    assert_eq!(kinds(&|m| m.sealer = "host2".to_owned()), named("snapshot-reordered"));
    assert_eq!(kinds(&|m| m.previous = None), named("snapshot-reordered"));
}

fn print(lines: &[[String; 5]]) {
    let head = ["ATTACKER", "ACTION", "VERIFY ON THE HOST", "AUDIT WITH KEY AND HEADS", "AUDIT WITH NOTHING"].map(str::to_owned);
    let width = |n: usize| lines.iter().chain([&head]).map(|l| l[n].chars().count()).max().unwrap_or(0);
    for line in [&head].into_iter().chain(lines) {
        let cells: Vec<String> = (0..5).map(|n| format!("{:1$}", line[n], width(n))).collect();
        println!("{}", cells.join("  ").trim_end());
    }
}
