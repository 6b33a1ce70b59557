//! Seal, against the snapshot before: what changed, what looks like an accident or an attack, how it is told and pinned.

use std::{fs, path::Path};

use coffre::{
    event::Event,
    format::SuspicionKind,
    ops::seal::{Changes, Compression},
};

use crate::common::library::{Host, assert_same, noise, read_disk, temp, write_files};

fn names(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("d{}/f{i}", i % 7)).collect()
}

/// A tree of `n` files of text, settled.
fn tree(root: &Path, n: usize) {
    for name in names(n) {
        write_files(root, &[(&name, format!("text of {name}\n").repeat(2000).as_bytes())]);
    }
}

fn warnings(host: &Host) -> Vec<String> {
    let told = host.told.lock().unwrap();
    told.iter().filter_map(|e| if let Event::Warning(text) = e { Some(text.clone()) } else { None }).collect()
}

#[test]
fn files_are_counted_as_new_changed_unchanged_and_removed() {
    let (_guard, dir) = temp();
    let root = dir.join("source");
    tree(&root, 70);
    let host = Host::memory();
    host.clock.ahead_ns.store(0, std::sync::atomic::Ordering::SeqCst);
    let first = host.seal(&[&root]).unwrap();
    assert_eq!(first.before, None);
    assert_eq!(first.changes, Some(Changes { new: 70, ..Changes::default() }));

    // What was written less than two seconds ago is read again, and is no change for that.
    let second = host.seal(&[&root]).unwrap();
    assert_eq!(second.before, Some(first.id));
    assert_eq!((second.files_read, second.changes), (70, Some(Changes { unchanged: 70, ..Changes::default() })));
    host.clock.ahead_ns.store(10_000_000_000, std::sync::atomic::Ordering::SeqCst);

    write_files(&root, &[("d0/f0", b"changed"), ("d1/f1", b"changed too"), ("new/one", b"1")]);
    fs::remove_file(root.join("d2/f2")).unwrap();
    fs::remove_dir_all(root.join("d3")).unwrap();
    let third = host.seal(&[&root]).unwrap();
    assert_eq!(third.changes, Some(Changes { new: 1, changed: 2, unchanged: 70 - 2 - 11, removed: 11 }));
    assert_same(&host.read_latest(&root), &read_disk(&root), "third");

    // Another selection of sources has a history of its own.
    write_files(&dir, &[("elsewhere/file", b"1")]);
    let other = host.seal(&[&dir.join("elsewhere")]).unwrap();
    assert_eq!(other.before, None);
    let fourth = host.seal(&[&root]).unwrap();
    assert_eq!(fourth.before, Some(third.id));
    assert_eq!(fourth.changes, Some(Changes { unchanged: 60, ..Changes::default() }));

    // With the catalog the listings are lost: better no count than a wrong alarm.
    fs::remove_dir_all(host.state.catalog()).unwrap();
    let fifth = host.seal(&[&root]).unwrap();
    assert_eq!((fifth.changes, fifth.suspicions.len()), (None, 0));
    assert_eq!(warnings(&host), [""; 0]);
}

#[test]
fn a_loss_of_most_files_is_said_recorded_and_pins_the_snapshot_before() {
    let (_guard, dir) = temp();
    let root = dir.join("source");
    tree(&root, 40);
    let host = Host::memory();
    let good = host.seal(&[&root]).unwrap();
    for name in &names(40)[..25] {
        fs::remove_file(root.join(name)).unwrap();
    }
    let bad = host.seal(&[&root]).unwrap();
    assert_eq!(bad.suspicions, ["25 of 40 files are gone since the snapshot before"]);
    let said = warnings(&host);
    assert!(said.len() == 1 && said[0].starts_with("this looks like an accident or an attack: 25 of 40"), "{said:?}");
    let manifest = host.latest().manifest;
    assert_eq!(manifest.suspicions[0].kind, SuspicionKind::MostGone);
    assert_eq!(manifest.pins.iter().map(ToString::to_string).collect::<Vec<_>>(), [good.id]);
    assert_same(&host.read_latest(&root), &read_disk(&root), "what is there is sealed all the same");

    // The next one has nothing to say: it is as small as the one before.
    let next = host.seal(&[&root]).unwrap();
    assert_eq!((next.suspicions.len(), host.latest().manifest.pins.len()), (0, 0));
    host.assert_clean();
}

#[test]
fn files_rewritten_with_noise_are_suspicious_and_an_upgrade_is_not() {
    let (_guard, dir) = temp();
    let root = dir.join("source");
    tree(&root, 40);
    let host = Host::memory();
    host.seal(&[&root]).unwrap();
    let rewrite = |content: &dyn Fn(usize) -> Vec<u8>| {
        for (i, name) in names(40).iter().enumerate() {
            fs::write(root.join(name), content(i)).unwrap();
        }
    };
    rewrite(&|i| format!("another text {i}\n").repeat(3000).into_bytes());
    assert_eq!(host.seal(&[&root]).unwrap().suspicions, [""; 0]);

    rewrite(&|i| noise(60_000, i as u64 + 1));
    let found = host.seal(&[&root]).unwrap().suspicions;
    assert_eq!(found, ["40 of 40 files were rewritten, with content that does not compress, as encrypted files do not"]);

    rewrite(&|i| noise(60_000, i as u64 + 1000));
    let accepted = host.seal_with(&coffre::ops::seal::Options { accept_changes: true, ..host.options(&[&root]) }).unwrap();
    assert_eq!((accepted.suspicions.len(), host.latest().manifest.pins.len()), (0, 0));
    assert_eq!(warnings(&host).len(), 1);
}

/// Frames of tens of MiB, and content that does not compress among it, which falls into shorter ones.
#[test]
fn an_archive_reads_back_and_its_frames_are_large() {
    let (_guard, dir) = temp();
    let root = dir.join("source");
    let lines =
        |n: u64| (0..60_000u64).flat_map(|i| format!("{:x} of {n}\n", i.wrapping_mul(n * 7919 + 1)).into_bytes()).collect::<Vec<u8>>();
    for n in 0..12 {
        write_files(&root, &[(&format!("text{n}"), &lines(n)), (&format!("noise{n}"), &noise(2_000_000, n + 1))]);
    }
    let host = Host::memory();
    let standard = host.seal(&[&root]).unwrap();
    let archived = Host::memory();
    let options = coffre::ops::seal::Options { compression: Compression::archive(Some(5)), ..archived.options(&[&root]) };
    archived.seal_with(&options).unwrap();
    assert_same(&archived.read_latest(&root), &read_disk(&root), "archive");
    archived.assert_clean();
    let frames = |host: &Host| -> Vec<u32> {
        let reader = host.reader();
        let packs = host.latest().manifest.new_packs;
        packs.iter().flat_map(|pack| reader.pack_index(pack).unwrap().1.frames.iter().map(|f| f.raw_len).collect::<Vec<_>>()).collect()
    };
    assert!(frames(&host).into_iter().max() <= Some(1 << 20), "{standard:?}");
    let large = frames(&archived);
    assert!(large.iter().all(|len| *len <= 64 << 20) && large.iter().max() > Some(&(3 << 20)) && large.len() < 20, "{large:?}");
}

#[test]
fn progress_says_how_much_there_is_and_ends_there() {
    let (_guard, dir) = temp();
    let root = dir.join("source");
    tree(&root, 300);
    write_files(&root, &[("large", &noise(8 << 20, 3))]);
    let mut host = Host::memory();
    host.workers = 2;
    let bytes: u64 = read_disk(&root).values().filter(|(m, _)| m.mode & 0o170_000 == 0o100_000).map(|(m, _)| m.size).sum();
    for round in ["counted", "estimated"] {
        host.told.lock().unwrap().clear();
        host.seal(&[&root]).unwrap();
        let told = host.told.lock().unwrap();
        let steps: Vec<_> = told.iter().filter_map(|e| if let Event::Progress(far) = e { Some(far) } else { None }).collect();
        assert!(!steps.is_empty(), "{round}");
        assert!(steps.is_sorted_by_key(|far| (far.elapsed_ms, far.bytes, far.entries, far.bytes_read)), "{round}: {steps:?}");
        assert!(steps.iter().all(|far| far.bytes <= bytes && far.bytes_total.is_none_or(|total| total == bytes)), "{round}: {steps:?}");
        assert!(steps.iter().all(|far| far.current.as_ref().is_none_or(|path| path.starts_with('/'))), "{round}: {steps:?}");
        assert!(round == "counted" || steps.iter().all(|far| far.bytes_total == Some(bytes)), "{round}: {steps:?}");
    }
}

/// A directory lost its last file (or came down to exactly a piece of the catalog's list), and the longer list of before stayed behind: every
/// later change below it made the seal read everything, and kept its alarm silent.
#[test]
fn a_directory_that_became_shorter_is_remembered_as_it_is() {
    let (_guard, dir) = temp();
    for (files, kept) in [(1, 0), (4100, 4096)] {
        let root = dir.join(format!("source{files}"));
        write_files(&root, &[("d/sub/x", b"0"), ("other/y", b"0")]);
        (0..files).for_each(|n| write_files(&root, &[(&format!("d/f{n:04}"), b"1")]));
        let host = Host::memory();
        host.seal(&[&root]).unwrap();
        (kept..files).for_each(|n| fs::remove_file(root.join(format!("d/f{n:04}"))).unwrap());
        host.seal(&[&root]).unwrap();
        for round in [b"1", b"2"] {
            write_files(&root, &[("d/sub/x", round)]);
            let report = host.seal(&[&root]).unwrap();
            assert_eq!(report.files_read, 1, "{files} files");
            assert_eq!(report.changes, Some(Changes { changed: 1, unchanged: kept + 1, ..Changes::default() }), "{files} files");
        }
        assert_same(&host.read_latest(&root), &read_disk(&root), "shorter");
        assert!(!host.told.lock().unwrap().iter().any(|e| matches!(e, Event::Note(_))), "nothing was lost: {:?}", host.told);
    }
}

#[test]
fn what_cannot_be_compared_is_not_counted_and_alarms_nobody() {
    let (_guard, dir) = temp();
    let root = dir.join("source");
    tree(&root, 40);
    let host = Host::memory();
    // Files named one by one stand in directories that nothing is remembered of.
    let paths: Vec<_> = names(40).iter().map(|name| root.join(name)).collect();
    let files: Vec<&Path> = paths.iter().map(std::path::PathBuf::as_path).collect();
    for _ in 0..2 {
        let report = host.seal(&files).unwrap();
        assert_eq!((report.changes, report.suspicions.len()), (None, 0));
    }
    // Another seal of a directory above has written over what was remembered of this one.
    host.seal(&[&root.join("d0")]).unwrap();
    fs::write(root.join("d0/f0"), b"changed").unwrap();
    host.seal(&[&root]).unwrap();
    assert_eq!(host.seal(&[&root.join("d0")]).unwrap().changes, None);
    // A rename takes nothing away.
    host.seal(&[&root]).unwrap();
    host.seal(&[&root]).unwrap();
    for n in 0..7 {
        fs::rename(root.join(format!("d{n}")), root.join(format!("moved{n}"))).unwrap();
    }
    let moved = host.seal(&[&root]).unwrap();
    assert_eq!(moved.changes, Some(Changes { new: 40, removed: 40, ..Changes::default() }));
    assert_eq!((moved.suspicions.len(), warnings(&host).len()), (0, 0));
}
