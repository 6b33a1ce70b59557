//! The same command again: after a kill, after changes, over what is already right.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};

use rustix::process::Signal;

use super::{number, restore};
use crate::common::{
    bin::{Home, run_tool, send, until},
    tree,
};

/// Files below a directory that have their final time: those that are whole.
fn count(dir: &Path) -> usize {
    let mut found = 0;
    let mut stack = vec![dir.to_owned()];
    while let Some(dir) = stack.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => stack.push(entry.path()),
                _ => found += 1,
            }
        }
    }
    found
}

#[test]
fn a_killed_restore_goes_on_where_it_was() {
    let home = tree::sealed_everything();
    let all = count(&home.source());
    for (n, share) in [1, 40, 75, 97].into_iter().enumerate() {
        let to = home.path(format!("killed-{n}"));
        let mut child = restore(&home, &to, &[]).spawn(&home.path(format!("killed-{n}.log")));
        until("some files are there", || count(&to) >= all * share / 100 || child.try_wait().unwrap().is_some());
        send(&child, Signal::KILL);
        child.wait().unwrap();
        let whole = count(&to);
        let report = restore(&home, &to, &[]).ok().json();
        tree::assert_same(&home.source(), &to);
        // Files that were being written are few: one or two a thread, and what shares a frame with them.
        let kept = number(&report, "files_unchanged") + number(&report, "metadata_only");
        assert!(kept + 64 >= (whole as u64).saturating_sub(100), "{share} %: {whole} were there, {report}");
    }
}

#[test]
fn what_is_right_is_not_fetched_again() {
    let home = tree::sealed_everything();
    let to = home.path("twice");
    let first = restore(&home, &to, &[]).ok().json();
    let second = restore(&home, &to, &[]).ok().json();
    tree::assert_same(&home.source(), &to);
    let written = ["files", "bytes", "directories", "others", "replaced", "metadata_only"];
    assert_eq!(written.map(|name| number(&second, name)), [0; 6], "{second}");
    assert_eq!(number(&second, "files_unchanged"), number(&first, "files"));
    assert!(number(&second, "frames") < number(&first, "frames"), "directories alone are read");
}

#[test]
fn a_target_that_differs_in_every_way_becomes_what_the_snapshot_is() {
    let home = tree::sealed_everything();
    let to = home.path("differs");
    restore(&home, &to, &[]).ok();
    // Content, with and without another size; kinds; attributes; holes; hard links that are none, and joined ones.
    fs::write(to.join("contents/noise-6M"), b"short").unwrap();
    let mut prose = fs::read(to.join("contents/prose-9M")).unwrap();
    prose[4_000_000] ^= 1;
    fs::write(to.join("contents/prose-9M"), prose).unwrap();
    fs::remove_file(to.join("contents/zeros")).unwrap();
    symlink("/etc/passwd", to.join("contents/zeros")).unwrap();
    fs::remove_file(to.join("links/relative")).unwrap();
    fs::write(to.join("links/relative"), b"a file").unwrap();
    fs::remove_dir_all(to.join("empty")).unwrap();
    fs::write(to.join("empty"), b"no directory").unwrap();
    fs::remove_file(to.join("links/second")).unwrap();
    fs::write(to.join("links/second"), b"its own").unwrap();
    fs::remove_file(to.join("many/00002")).unwrap();
    fs::hard_link(to.join("many/00001"), to.join("many/00002")).unwrap();
    fs::remove_file(to.join("special/fifo-too")).unwrap();
    fs::set_permissions(to.join("modes/setuid"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(to.join("many"), fs::Permissions::from_mode(0o777)).unwrap();
    run_tool("setfattr", "attr", &[Path::new("-n"), Path::new("user.more"), Path::new("-v"), Path::new("x"), &to.join("attributes/plain")]);
    run_tool("setfattr", "attr", &[Path::new("-x"), Path::new("user.empty"), &to.join("attributes/plain")]);
    run_tool("setfacl", "acl", &[Path::new("-b"), &to.join("attributes/shared")]);
    run_tool("setfacl", "acl", &[Path::new("-m"), Path::new("d:u:7:rwx"), &to.join("many")]);
    let report = restore(&home, &to, &[]).ok().json();
    tree::assert_same(&home.source(), &to);
    assert!(number(&report, "bytes") < 10_000_000, "of files that were right in most places, only the rest is fetched: {report}");
    assert!(number(&report, "bytes_unchanged") > 20_000_000, "{report}");
}

#[test]
fn content_with_the_right_size_and_time_is_seen_when_asked_for() {
    let home = tree::sealed_everything();
    let to = home.path("by-content");
    restore(&home, &to, &[]).ok();
    for (name, at) in [("contents/prose-9M", 5_000_000), ("contents/noise-256", 3), ("many/00007", 1)] {
        let path = to.join(name);
        let before = fs::metadata(&path).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        tree::set_mtime(&path, before.mtime(), before.mtime_nsec());
    }
    let report = restore(&home, &to, &[]).ok().json();
    assert_eq!(number(&report, "files"), 0, "size and time say that they are right");
    let report = restore(&home, &to, &["--by-content"]).ok().json();
    assert_eq!(number(&report, "files"), 3, "{report}");
    assert!(number(&report, "bytes") < 1_000_000, "{report}");
    tree::assert_same(&home.source(), &to);
}

#[test]
fn a_full_disk_is_said_and_the_same_command_goes_on() {
    let home = Home::new();
    tree::small(&home.source());
    tree::write(home.source().join("big"), tree::noise(9, 3_000_000));
    home.seal();
    let point = home.path("tiny");
    fs::create_dir(&point).unwrap();
    let tiny = crate::common::bin::Attached::new(&["-t", "tmpfs", "-o", "size=2m", "none"], &point);
    let done = restore(&home, &point.join("to"), &[]).run().exits(1);
    assert!(done.err.contains("No space left") && done.err.contains("goes on"), "{}", done.err);
    tiny.remount("size=32m");
    let report = restore(&home, &point.join("to"), &[]).ok().json();
    assert!(number(&report, "files_unchanged") > 0, "{report}");
    tree::assert_same(&home.source(), &point.join("to"));
}

/// A disk that filled up while a file was replaced stayed full: what had been written under a name of ours was left there.
#[test]
fn a_full_disk_keeps_the_old_files_and_gets_its_room_back() {
    let home = Home::new();
    tree::write(home.source().join("one"), tree::noise(1, 6_000_000));
    tree::write(home.source().join("two"), tree::noise(2, 5_000_000));
    home.seal();
    let point = home.path("tiny");
    fs::create_dir(&point).unwrap();
    let _tiny = crate::common::bin::Attached::new(&["-t", "tmpfs", "-o", "size=14m", "none"], &point);
    let to = point.join("to");
    tree::write(to.join("one"), tree::prose(6_000_001));
    tree::write(to.join("two"), tree::prose(6_000_002));
    for args in [&[][..], &["--by-content"], &["--exclude", "two"]] {
        let done = restore(&home, &to, args).run().exits(1);
        assert!(done.err.contains(&format!("cannot write {}", to.display())) && done.err.contains("make room"), "{}", done.err);
        let names: Vec<_> = fs::read_dir(&to).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "nothing is left beside the files: {names:?}");
        assert_eq!(fs::read(to.join("one")).unwrap(), tree::prose(6_000_001), "a file stays until the new one is whole");
        assert_eq!(fs::read(to.join("two")).unwrap(), tree::prose(6_000_002));
    }
}

#[test]
fn what_cannot_be_written_to_is_said_to_be_so() {
    let home = tree::sealed_small();
    let point = home.path("read-only");
    fs::create_dir(&point).unwrap();
    let place = crate::common::bin::Attached::new(&["-t", "tmpfs", "-o", "size=2m", "none"], &point);
    place.remount("ro");
    let done = restore(&home, &point, &[]).run().exits(1);
    assert!(done.err.contains("Read-only file system") && done.err.contains("rw") && !done.err.contains("make room"), "{}", done.err);
    let file = home.path("a-file");
    fs::write(&file, "precious").unwrap();
    restore(&home, &file, &[]).run().exits(1).says("is no directory");
    assert_eq!(fs::read(&file).unwrap(), b"precious");
}
