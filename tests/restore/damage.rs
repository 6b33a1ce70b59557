//! Damage costs the files that it hits, and nothing else.

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt, path::Path, sync::Arc};

use coffre::{
    event::Silent,
    ops::restore::{self, Owner, Place, Wanted},
    store::{self, Key, Memory, Store},
    sys::SystemClock,
    vault::Reader,
};

use super::paths;
use crate::common::{
    bin::Home,
    library::{Host, temp, write_files},
    tree,
};

/// Options for the library.
pub fn options(path: &Path, target: &Path, workers: usize) -> restore::Options {
    use std::os::unix::ffi::OsStrExt;
    restore::Options {
        path: path.as_os_str().as_bytes().to_vec(),
        place: Place::Into(target.to_owned()),
        vault: None,
        spared: Vec::new(),
        delete: false,
        verify: false,
        wanted: Wanted::new(&[], &[]).unwrap(),
        owner: Owner::AsSealed,
        xattrs: true,
        by_content: false,
        workers,
    }
}

/// Restores the newest snapshot through the library.
pub fn restore_with(host: &Host, reader: &Reader, options: &restore::Options) -> coffre::error::Result<restore::Report> {
    let snapshot = host.latest();
    let context = restore::Context { reader, snapshot: &snapshot, clock: &SystemClock, sink: &Silent, cancel: &host.cancel };
    restore::run(&context, options, &[])
}

#[test]
fn damage_costs_its_files_which_are_named_and_nothing_else() {
    let home = Home::new();
    let source = home.source();
    for n in 0..200 {
        tree::write(source.join(format!("d{}/small-{n}", n % 7)), tree::prose(700 + n));
        tree::write(source.join(format!("d{}/noise-{n}", n % 7)), tree::noise(n as u64 + 100, 20_000));
    }
    tree::write(source.join("large"), tree::noise(3, 3_000_000));
    fs::hard_link(source.join("large"), source.join("large-too")).unwrap();
    home.seal();
    for pack in home.objects("packs", ".age").iter().filter(|p| fs::metadata(p).unwrap().len() > 500_000) {
        let mut bytes = fs::read(pack).unwrap();
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        let mode = fs::metadata(pack).unwrap().permissions();
        fs::remove_file(pack).unwrap();
        fs::write(pack, bytes).unwrap();
        fs::set_permissions(pack, mode).unwrap();
    }
    // They would mend it.
    fs::remove_dir_all(home.vault().join("parity")).unwrap();
    let said = home.owner(["--json", "verify", "--depth", "chunks"]).run().exits(4).json();
    let named: BTreeSet<String> =
        said["damaged_files"].as_array().unwrap().iter().map(|f| f["path"].as_str().unwrap().to_owned()).collect();
    assert!(!named.is_empty() && named.len() < 100, "some files are hit, most are not: {named:?}");
    let to = home.path("to");
    let done = super::restore(&home, &to, &[]).run().exits(4);
    assert!(done.err.contains("damaged in the vault"), "{}", done.err);
    let report = done.json();
    assert_eq!(paths(&report, "lost").into_iter().collect::<BTreeSet<_>>(), named);
    for path in &named {
        let above = Path::new(path).parent().unwrap();
        let before = fs::metadata(above).unwrap();
        fs::remove_file(path).unwrap();
        tree::set_mtime(above, before.mtime(), before.mtime_nsec());
    }
    tree::assert_same(&source, &to);
    // What is there is kept, and where something whole stood it stays.
    let lost = named.iter().next().unwrap();
    let there = to.join(Path::new(lost).strip_prefix(&source).unwrap());
    fs::write(&there, b"what somebody had").unwrap();
    super::restore(&home, &to, &[]).run().exits(4);
    assert_eq!(fs::read(&there).unwrap(), b"what somebody had");
}

#[test]
fn a_lost_directory_costs_what_is_in_it() {
    let (_guard, root) = temp();
    let host = Host::memory();
    write_files(&root, &[("a/one", b"1"), ("b/two", b"2")]);
    host.seal(&[&root]).unwrap();
    // Two packs of directories: the second seal stores what it changed.
    write_files(&root, &[("b/three", b"3")]);
    host.seal(&[&root]).unwrap();
    let node = host.latest_node(&root.join("a"));
    let reader = host.reader();
    let at = reader.with_index(|index| index.locate(&node))[0];
    host.vault.store.delete(&Key::pack(&at.pack)).unwrap();
    let (_guard, to) = temp();
    let report = restore_with(&host, &host.reader(), &options(&root, &to.join("to"), 2)).unwrap();
    assert_eq!(report.lost.files.iter().map(|f| f.path.clone()).collect::<Vec<_>>(), [format!("{}/a/", root.display())]);
    assert_eq!(fs::read(to.join("to/b/three")).unwrap(), b"3");
    assert_eq!(fs::read(to.join("to/b/two")).unwrap(), b"2");
    assert!(to.join("to/a").is_dir(), "its own entry is in the directory above");
}

#[test]
fn every_frame_is_decoded_once() {
    let (_guard, root) = temp();
    let mut host = Host::memory();
    host.workers = 2;
    tree::small(&root);
    for n in 0..300u64 {
        tree::write(root.join(format!("more/{}/{n}", n % 20)), tree::noise(n, 9_000));
        tree::write(root.join(format!("same/{n}")), tree::noise(n % 10, 9_000));
    }
    tree::write(root.join("large"), tree::noise(5, 5_000_000));
    host.seal(&[&root]).unwrap();
    let reader = host.reader();
    let packs = reader.with_index(|index| index.packs().count()) as u32;
    let frames =
        (0..packs).map(|pack| (0..).take_while(|frame| reader.with_index(|i| i.frame(pack, *frame)).is_some()).count()).sum::<usize>();
    assert!(frames > 40, "{frames}");
    for workers in [1, 3] {
        let (_guard, to) = temp();
        let report = restore_with(&host, &host.reader(), &options(&root, &to.join("to"), workers)).unwrap();
        assert_eq!(report.frames, frames as u64, "with {workers} workers");
        tree::assert_same(&root, &to.join("to"));
    }
}

#[test]
fn what_is_in_no_index_is_found_all_the_same() {
    let (_guard, root) = temp();
    let host = Host::memory();
    tree::small(&root);
    host.seal(&[&root]).unwrap();
    let bare = Memory::default();
    for (key, _) in store::list_all(&*host.vault.store, "").unwrap() {
        if !key.as_str().starts_with("index/") {
            bare.put(&key, &store::get_all(&*host.vault.store, &key, 1 << 30).unwrap()).unwrap();
        }
    }
    let host = host.through(Arc::new(bare));
    let (_guard, to) = temp();
    restore_with(&host, &host.reader(), &options(&root, &to.join("to"), 2)).unwrap();
    tree::assert_same(&root, &to.join("to"));
}
