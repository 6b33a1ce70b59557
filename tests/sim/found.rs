//! What the simulation found, each told again without it.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::fs;

use coffre::{
    format::PackKind,
    ops::verify::Depth,
    store::{Key, Memory, Store},
    vault::Vault,
};

use crate::common::library::{Host, assert_same, keys, named, noise, objects, read_snapshot, temp, write_files};

/// A host whose store can be hurt.
fn host() -> (Host, Memory) {
    let store = Memory::default();
    (Host::create(std::sync::Arc::new(store.clone())), store)
}

fn flip_middle(store: &Memory, key: &Key) {
    assert!(store.damage(key, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x20;
    }));
}

/// The packs of content that snapshot number `seq` brought.
fn data_packs(host: &Host, seq: u64) -> Vec<Key> {
    let snapshot = host.snapshots().into_iter().find(|s| s.key.seq == seq).unwrap();
    let reader = host.reader();
    let is_data = |pack: &&coffre::format::Digest| reader.pack_index(pack).unwrap().0 == PackKind::Data;
    snapshot.manifest.new_packs.iter().filter(is_data).map(Key::pack).collect()
}

/// A seal hashed the small public objects anew for its receipt, so a damaged key was what it should be from then on, and verify
/// said no more of it.
#[test]
fn a_damaged_key_is_named_after_later_seals_too() {
    let (_guard, root) = temp();
    write_files(&root, &[("a", b"a")]);
    let (host, store) = host();
    host.seal(&[&root]).unwrap();
    let key = keys(&store, "keys/owner-").remove(0);
    flip_middle(&store, &key);
    host.seal(&[&root]).unwrap();
    let second = Host::with(host.vault.clone(), host.owner.clone(), host.vault.enrol(&host.owner, "host2").unwrap());
    second.seal(&[&root]).unwrap();
    assert_eq!(named(&host.verify(Depth::Packs).unwrap().damage), [key.to_string()]);
    flip_middle(&store, &key);
    host.assert_clean();
}

/// The copy of a chunk in a pack whose index segment is lost was looked for only if no segment named another copy, sound or not.
#[test]
fn a_chunk_is_read_from_a_sound_pack_that_no_segment_names() {
    let (_guard, root) = temp();
    write_files(&root, &[("a", &noise(60_000, 1))]);
    let (host, store) = host();
    host.seal(&[&root]).unwrap();
    let before = read_snapshot(&host.reader(), &host.latest()).unwrap();
    let segment = keys(&store, "index/").remove(0);
    let first = objects(&store)[&segment].clone();
    // Without catalog and segment the host stores all of it again.
    store.delete(&segment).unwrap();
    fs::remove_dir_all(host.state.catalog()).unwrap();
    host.seal(&[&root]).unwrap();
    store.delete(&keys(&store, "index/")[0]).unwrap();
    store.put(&segment, &first).unwrap();
    let packs = data_packs(&host, 1);
    packs.iter().for_each(|pack| flip_middle(&store, pack));
    assert_same(&read_snapshot(&host.reader(), &host.snapshots()[0]).unwrap(), &before, "with a second copy");
    assert_eq!(host.verify(Depth::Chunks).unwrap().damaged_files, []);
}

/// A pack that only a damaged receipt names was looked at by nobody: the files of other snapshots in it were lost without a word.
#[test]
fn files_in_a_pack_whose_receipt_is_damaged_too_are_named() {
    let (_guard, root) = temp();
    write_files(&root, &[("a", &noise(60_000, 1))]);
    let (host, store) = host();
    host.seal(&[&root]).unwrap();
    write_files(&root, &[("b", b"b")]);
    host.seal(&[&root]).unwrap();
    for pack in data_packs(&host, 1) {
        flip_middle(&store, &pack);
    }
    flip_middle(&store, &keys(&store, "snaps/").into_iter().find(|key| key.as_str().ends_with("1.b3.sig")).unwrap());
    let files = host.verify(Depth::Chunks).unwrap().damaged_files;
    let paths: Vec<&str> = files.iter().map(|f| f.path.as_str()).collect();
    assert_eq!(paths, [root.join("a").to_str().unwrap()]);
}

/// What a reader had kept of a pack that was another one for a while, it believed for good.
#[test]
fn a_reader_takes_up_packs_that_are_mended() {
    let (_guard, root) = temp();
    let (host, store) = host();
    for (n, name) in [(1, "a"), (2, "b")] {
        write_files(&root, &[(name, &noise(60_000, n))]);
        host.seal(&[&root]).unwrap();
    }
    let (reader, before) = (host.reader(), read_snapshot(&host.reader(), &host.latest()).unwrap());
    let (a, b) = (data_packs(&host, 1).remove(0), data_packs(&host, 2).remove(0));
    let swap = || {
        let (there, here) = (objects(&store)[&a].clone(), objects(&store)[&b].clone());
        assert!(store.damage(&a, |bytes| *bytes = here) && store.damage(&b, |bytes| *bytes = there));
    };
    swap();
    read_snapshot(&reader, &host.latest()).unwrap_err();
    swap();
    assert_same(&read_snapshot(&reader, &host.latest()).unwrap(), &before, "mended");
}

/// The template opens, and is empty: a golden vault like the others.
#[test]
fn the_vault_of_the_simulation_is_one_without_snapshots() {
    let vault = Vault::open(std::sync::Arc::new(coffre::store::Local::new(super::world::template().join("vault")))).unwrap();
    assert_eq!(keys(&*vault.store, "snaps/"), []);
}
