//! Back to where it was, and deleting what the snapshot lacks.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use rustix::process::Signal;
use serde_json::Value;

use super::{
    as_another_user,
    damage::{options, restore_with},
    number,
    outside::{Planting, seen},
    paths, restore,
};
use crate::common::{
    bin::{Coffre, Home, run_tool, send, until},
    library::{Host, temp},
    tree,
};

/// `coffre --json restore latest:PATH --in-place ARGS`.
fn in_place(home: &Home, path: &Path, args: &[&str]) -> Coffre {
    home.owner(["--json", "restore", &format!("latest:{}", path.display()), "--in-place"]).args(args)
}

#[test]
fn one_file_goes_back_to_its_place_with_its_owner() {
    let home = Home::new();
    tree::every_kind(&home.source());
    home.seal();
    let to = home.path("copy-of-source");
    restore(&home, &to, &[]).ok();
    home.coffre(["seal"]).args([&to]).ok();
    let path = to.join("modes/setuid");
    let before = fs::metadata(&path).unwrap();
    fs::write(&path, b"somebody else's, and longer").unwrap();
    std::os::unix::fs::chown(&path, Some(7), Some(8)).unwrap();
    let mut reader = fs::File::open(&path).unwrap();
    in_place(&home, &path, &[]).ok();
    tree::assert_same_but(&home.source().join("modes"), &to.join("modes"), "mtime");
    let after = fs::metadata(&path).unwrap();
    assert_eq!((after.mode(), after.uid(), after.gid(), after.mtime()), (before.mode(), before.uid(), before.gid(), before.mtime()));
    let mut whole = Vec::new();
    reader.read_to_end(&mut whole).unwrap();
    assert_eq!(whole, b"somebody else's, and longer", "who had it open reads on in what he opened");
    // A directory that is gone comes back, with those above it.
    fs::remove_dir_all(to.join("contents")).unwrap();
    fs::remove_dir_all(to.join("names")).unwrap();
    in_place(&home, &to.join("contents"), &[]).ok();
    in_place(&home, &to.join("names/directories/.hidden/inside"), &[]).ok();
    assert!(to.join("names/directories/.hidden/inside").exists());
    in_place(&home, &to, &[]).ok();
    tree::assert_same(&home.source(), &to);
}

#[test]
fn nothing_is_deleted_unseen_and_unasked() {
    let home = tree::sealed_small();
    let to = home.path("to");
    restore(&home, &to, &[]).ok();
    tree::write(to.join("new/deep/file"), "1");
    tree::write(to.join("src/new.log"), "2");
    fs::remove_file(to.join("hello")).unwrap();
    tree::write(to.join("hello/was/a/file"), "3");
    let _socket = UnixListener::bind(to.join("socket")).unwrap();
    let before = seen(&to);
    // Without --delete it stays; a directory in the way is said, and costs that file.
    let report = restore(&home, &to, &[]).run().exits(3).json();
    assert_eq!(paths(&report, "problems"), [format!("{}/hello", home.source().display())]);
    let strip = |seen: &super::outside::Seen| seen.iter().map(|(p, s)| (p.clone(), s.5.clone())).collect::<BTreeMap<_, _>>();
    assert_eq!(strip(&seen(&to)), strip(&before));
    let done = restore(&home, &to, &["--delete"]).run().exits(2);
    for line in ["/new/ and 2 entries in it", "/src/new.log", "/hello/ and 3 entries in it"] {
        assert!(done.err.contains(line), "{line}: {}", done.err);
    }
    assert_eq!(strip(&seen(&to)), strip(&before), "asked first");
    // What patterns leave alone is left alone here too.
    let report = restore(&home, &to, &["--delete", "--yes", "--exclude", "*.log", "--exclude", "new"]).ok().json();
    assert_eq!(number(&report, "deleted"), 4);
    assert!(to.join("src/new.log").exists() && to.join("new/deep/file").exists() && to.join("hello").is_file());
    let report = restore(&home, &to, &["--delete", "--yes"]).ok().json();
    assert_eq!(number(&report, "deleted"), 4);
    assert!(to.join("socket").exists(), "sockets are never sealed, so nobody knows whether it was there");
    fs::remove_file(to.join("socket")).unwrap();
    restore(&home, &to, &[]).ok();
    tree::assert_same(&home.source(), &to);
}

/// Answers the question at a terminal.
const ANSWER: &str = r"
import os, pty, sys
pid, fd = pty.fork()
if pid == 0:
    os.execvp(sys.argv[2], sys.argv[2:])
seen = b''
while True:
    try:
        data = os.read(fd, 65536)
    except OSError:
        data = b''
    if not data:
        break
    seen += data
    if b'[y/N]' in seen and sys.argv[1]:
        os.write(fd, sys.argv[1].encode() + b'\r')
        sys.argv[1] = ''
sys.stdout.buffer.write(seen)
sys.stdout.flush()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";

#[test]
fn a_person_is_asked_and_may_say_no() {
    let home = tree::sealed_small();
    let to = home.path("to");
    restore(&home, &to, &[]).ok();
    tree::write(to.join("precious"), "1");
    fs::remove_file(to.join("docs/text")).unwrap();
    let answer = |answer: &str| restore(&home, &to, &["--delete"]).under("python3", &["-c", ANSWER, answer]).run();
    let done = answer("n").exits(130);
    assert!(String::from_utf8_lossy(&done.out).contains("nothing was deleted or restored"), "{done:?}");
    assert!(to.join("precious").exists() && !to.join("docs/text").exists());
    answer("y").exits(0);
    assert!(!to.join("precious").exists());
    tree::assert_same(&home.source(), &to);
}

#[test]
fn only_what_was_sealed_is_deleted_from() {
    let home = Home::new();
    let dir = home.path("etc");
    let (a, b) = (dir.join("one"), dir.join("two/file"));
    tree::write(a.join("kept"), "1");
    tree::write(&b, "2");
    tree::write(dir.join("two/neighbour"), "never sealed");
    tree::write(dir.join("three/neighbour"), "never sealed");
    home.coffre(["seal"]).args([&a, &b]).ok();
    tree::write(a.join("extra"), "3");
    fs::write(&b, "changed").unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o711)).unwrap();
    home.owner(["restore", "latest", "--in-place", "--delete"]).refused(2).says("--yes");
    home.owner(["restore", "latest", "--in-place", "--delete", "--yes"]).ok();
    assert!(!a.join("extra").exists() && a.join("kept").exists());
    assert_eq!(fs::read(&b).unwrap(), b"2");
    assert!(dir.join("two/neighbour").exists() && dir.join("three/neighbour").exists() && home.key().exists() && home.vault().exists());
    assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o711, "a directory on the way to what was sealed stays as it is");
}

#[test]
fn what_the_seal_could_not_read_is_not_deleted() {
    let home = Home::new();
    tree::small(&home.source());
    tree::write(home.source().join("closed/file"), "nobody read this");
    run_tool("chown", "coreutils", &[Path::new("-R"), Path::new("65534:65534"), &home.source()]);
    for name in ["docs/noise", "closed"] {
        fs::set_permissions(home.source().join(name), fs::Permissions::from_mode(0o000)).unwrap();
    }
    as_another_user(&home, &["seal", "source"]).run().exits(3);
    tree::write(home.source().join("extra"), "1");
    let report = in_place(&home, &home.source(), &["--delete", "--yes"]).ok().json();
    assert_eq!(number(&report, "deleted"), 1);
    assert!(home.source().join("docs/noise").exists() && home.source().join("closed/file").exists());
}

#[test]
fn dangerous_targets_are_refused() {
    let home = tree::sealed_small();
    let vault = home.vault();
    for inside in [vault.join("packs"), vault.clone(), home.state().join("x/y")] {
        restore(&home, &inside, &[]).run().exits(2).says("a place of the vault itself");
    }
    symlink(&vault, home.path("innocent")).unwrap();
    restore(&home, &home.path("innocent/new"), &[]).run().exits(2).says("a place of the vault itself");
    // The vault lies below what is cleaned up.
    restore(&home, &home.path(""), &["--delete", "--yes"]).run().exits(2).says("the vault lies below");
    home.owner(["verify"]).ok();
    // The state directory is spared, and what is in none of the sources too.
    let report = in_place(&home, &home.source(), &["--delete", "--yes"]).ok().json();
    assert_eq!(number(&report, "deleted"), 0);
    // A link on the way back leads elsewhere.
    fs::rename(home.source(), home.path("moved")).unwrap();
    fs::create_dir(home.path("elsewhere")).unwrap();
    symlink(home.path("elsewhere"), home.source()).unwrap();
    for path in ["", "src", "hello"] {
        in_place(&home, &home.source().join(path), &[]).run().exits(1);
    }
    assert_eq!(fs::read_dir(home.path("elsewhere")).unwrap().count(), 0);
    home.owner(["restore", &format!("latest:{}/hello", home.source().display()), "--in-place"]).refused(1).says("are not followed");
}

#[test]
fn a_dry_run_tells_all_and_changes_nothing() {
    let home = tree::sealed_everything();
    let to = home.path("dry");
    let rows = |args: &[&str]| -> Vec<Value> {
        let out = restore(&home, &to, &[&["--dry-run"], args].concat()).ok().text();
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let all = rows(&[]);
    assert!(!to.exists(), "not even the target is made");
    let total = all.last().unwrap();
    let report = restore(&home, &to, &[]).ok().json();
    let made = number(&report, "files") + number(&report, "directories") + number(&report, "others") + 1;
    assert_eq!((number(total, "create"), number(total, "bytes")), (made, number(&report, "bytes")), "{total} {report}");
    assert_eq!(all.len() as u64, made + 1);
    assert_eq!(rows(&[]).len(), 1, "nothing would change any more");
    fs::write(to.join("many/00001"), "other").unwrap();
    fs::remove_file(to.join("many/00002")).unwrap();
    fs::set_permissions(to.join("many/00003"), fs::Permissions::from_mode(0o600)).unwrap();
    tree::write(to.join("many/x/y"), "extra");
    let before = seen(&to);
    let lines: Vec<(String, String)> = rows(&["--delete"])
        .iter()
        .filter(|row| row["path"].is_string())
        .map(|row| (row["would"].as_str().unwrap().to_owned(), row["path"].as_str().unwrap().rsplit("/many").next().unwrap().to_owned()))
        .collect();
    let expected = [("delete", "/x"), ("update", ""), ("replace", "/00001"), ("create", "/00002"), ("update", "/00003")];
    assert_eq!(lines, expected.map(|(would, path)| (would.to_owned(), path.to_owned())));
    assert_eq!(seen(&to), before);
}

#[test]
fn what_is_read_back_is_what_the_snapshot_says_or_is_named() {
    let home = tree::sealed_everything();
    let to = home.path("verified");
    let report = restore(&home, &to, &["--verify"]).ok().json();
    assert_eq!(number(&report, "verified"), number(&report, "files"));
    // A disk that does not keep what it was given: a file changes under way, at the same size.
    let (_guard, top) = temp();
    let (source, target) = (top.join("source"), top.join("to"));
    tree::write(source.join("a"), "short");
    tree::write(source.join("b"), tree::noise(3, 100_000));
    let host = Host::memory();
    host.seal(&[&source]).unwrap();
    let victim = target.join("a");
    let store = Planting {
        inner: host.vault.store.clone(),
        when: victim.clone(),
        plant: Mutex::new(Some(Box::new(move || fs::write(&victim, "shOrt").unwrap()))),
    };
    let host = host.through(Arc::new(store));
    let options = coffre::ops::restore::Options { verify: true, ..options(&source, &target, 1) };
    let report = restore_with(&host, &host.reader(), &options).unwrap();
    assert_eq!((report.done.verified, report.problems.files.len()), (1, 1), "{report:?}");
    assert!(report.problems.files[0].path.ends_with("/a") && report.problems.files[0].text.contains("read back"), "{report:?}");
}

#[test]
fn a_kill_leaves_every_file_as_it_was_or_as_it_shall_be() {
    let home = Home::new();
    let new = |n: u64| tree::noise(n, 150_000);
    for n in 0..120 {
        tree::write(home.source().join(format!("{}/{n}", n % 5)), new(n));
    }
    home.seal();
    let to = home.path("to");
    let old = |n: u64| tree::prose(90_000 + n as usize);
    for n in 0..120 {
        tree::write(to.join(format!("{}/{n}", n % 5)), old(n));
    }
    let path = |n: u64| -> PathBuf { to.join(format!("{}/{n}", n % 5)) };
    let is_new = |n: u64| fs::metadata(path(n)).is_ok_and(|meta| meta.len() == 150_000);
    let mut child = restore(&home, &to, &[]).spawn(&home.path("log"));
    until("some are replaced", || (0..120).filter(|n| is_new(*n)).count() > 20 || child.try_wait().unwrap().is_some());
    send(&child, Signal::KILL);
    child.wait().unwrap();
    for n in 0..120 {
        let content = fs::read(path(n)).unwrap();
        assert!(content == old(n) || content == new(n), "{n} is whole");
    }
    fs::write(to.join("1/.coffre-restore-0123456789abcdef00000001"), "left by one that was killed").unwrap();
    restore(&home, &to, &[]).ok();
    tree::assert_same(&home.source(), &to);
}

#[test]
fn a_file_system_that_knows_no_attributes_is_said_to_be_one() {
    let home = Home::new();
    tree::small(&home.source());
    let plain = home.source().join("hello");
    run_tool("setfattr", "attr", &[Path::new("-n"), Path::new("user.a"), Path::new("-v"), Path::new("x"), &plain]);
    home.seal();
    let point = home.path("ramfs");
    fs::create_dir(&point).unwrap();
    let _ramfs = crate::common::bin::Attached::new(&["-t", "ramfs", "none"], &point);
    let done = restore(&home, &point.join("to"), &[]).run().exits(3);
    assert!(done.err.contains("1 sets of attributes") && done.err.contains("the file system of the target knows none"), "{}", done.err);
    tree::assert_same_but(&home.source(), &point.join("to"), "xattr");
    restore(&home, &point.join("to"), &["--no-xattrs"]).ok();
}

/// In a vault of several hosts `latest` may be another one's: its file must not take the place of ours unasked.
#[test]
fn another_hosts_files_are_put_in_place_only_if_that_host_is_named() {
    let home = Home::new();
    let file = home.source().join("nginx.conf");
    tree::write(&file, "ours");
    home.seal();
    tree::write(&file, "theirs");
    home.coffre(["seal", "--host", "web2", "-q"]).args([home.source()]).ok();
    tree::write(&file, "broken");
    let host = home.snapshots()[0]["host"].as_str().unwrap().to_owned();
    let what = |snap: &str| format!("{snap}:{}", file.display());
    for snap in ["latest", "now", "today"] {
        let hint = format!("{host}@latest is the newest of this host");
        home.owner(["restore", &what(snap), "--in-place"]).refused(2).says("was sealed on web2").says(&hint);
    }
    assert_eq!(fs::read(&file).unwrap(), b"broken");
    home.owner(["restore", &what("latest~1"), "--in-place"]).ok();
    assert_eq!(fs::read(&file).unwrap(), b"ours");
    home.owner(["restore", &what("web2@latest"), "--in-place"]).ok();
    assert_eq!(fs::read(&file).unwrap(), b"theirs");
    home.owner(["restore", &what("latest"), "--to"]).args([home.path("elsewhere")]).ok();
}
