//! A real mount: what programs see, how it begins and ends, and what it does with bad input and damage.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

mod common;
#[path = "mount/hard.rs"]
mod hard;
#[path = "mount/life.rs"]
mod life;
#[path = "mount/requests.rs"]
mod requests;
#[path = "mount/system.rs"]
mod system;
#[path = "mount/views.rs"]
mod views;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use common::{
    bin::{Attached, Home, Mounted, run_tool, shell, tool, until, within},
    tree,
};
use rustix::fs::SeekFrom;

/// Mounts at a point of the test's own.
fn mount_at(home: &Home, name: &str) -> Mounted {
    let point = home.path(name);
    fs::create_dir_all(&point).unwrap();
    Mounted::of(home, home.owner(["mount"]), &point)
}

#[test]
fn a_mount_shows_every_kind_of_entry_as_it_was() {
    let home = tree::sealed_everything();
    let mounted = mount_at(&home, "mnt-as-it-was");
    tree::assert_same(&home.source(), &mounted.latest(&home.source()));
}

#[test]
fn paths_longer_than_path_max_and_files_of_a_tebibyte_are_there() {
    let home = Home::new();
    tree::extremes(&home.source());
    home.seal();
    let mounted = Mounted::start(&home, &[]);
    tree::assert_same(&home.source(), &mounted.latest(&home.source()));
}

#[test]
fn cp_a_restores_everything() {
    let home = tree::sealed_everything();
    let mounted = mount_at(&home, "mnt-cp");
    let dest = home.path("copied-by-cp");
    run_tool("cp", "coreutils", &[OsStr::new("-a"), mounted.latest(&home.source()).as_os_str(), dest.as_os_str()]);
    tree::assert_same(&home.source(), &dest);
    tree::assert_same(&mounted.latest(&home.source()), &dest);
}

#[test]
fn rsync_restores_everything() {
    let home = tree::sealed_everything();
    let mounted = mount_at(&home, "mnt-rsync");
    let dest = home.path("copied-by-rsync");
    let from = mounted.latest(&home.source()).join("");
    run_tool("rsync", "rsync", &[OsStr::new("-aHAX"), from.as_os_str(), dest.as_os_str()]);
    // Without -S rsync writes zeros where holes were.
    tree::assert_same_but(&home.source(), &dest, "sparse");
    let again = run_tool("rsync", "rsync", &[OsStr::new("-aHAXni"), from.as_os_str(), dest.as_os_str()]);
    assert_eq!(again, "", "a second rsync finds nothing to do");
}

#[test]
fn tar_carries_everything() {
    let home = tree::sealed_everything();
    let mounted = mount_at(&home, "mnt-tar");
    let copied = |from: &Path, name: &str| {
        let dest = home.path(name);
        fs::create_dir(&dest).unwrap();
        let all = "--xattrs --xattrs-include='*' --acls -S --numeric-owner";
        shell(from, &format!("tar -c --format=posix {all} . | tar -x -p {all} -C {}", dest.display()));
        dest
    };
    let dest = copied(&mounted.latest(&home.source()), "copied-by-tar");
    // tar does not know that two fifos can be one; beyond that it brings back all.
    tree::assert_same_but(&home.source(), &dest, "links,nlink");
    tree::assert_same(&copied(&home.source(), "copied-from-source"), &dest);
}

#[test]
fn diff_finds_no_difference() {
    let home = tree::sealed_everything();
    let mounted = mount_at(&home, "mnt-diff");
    // diff takes two devices for different ones.
    for folder in ["contents", "links", "attributes", "names", "sparse", "many", "empty", "times", "repo"] {
        let (a, b) = (home.source().join(folder), mounted.latest(&home.source()).join(folder));
        assert_eq!(shell(Path::new("/"), &format!("diff -r --no-dereference {} {}", a.display(), b.display())), "");
    }
}

#[test]
fn git_works_inside_a_mounted_repository() {
    let home = tree::sealed_everything();
    let mounted = mount_at(&home, "mnt-git");
    let repo = mounted.latest(&home.source()).join("repo");
    let git = |args: &[&str]| run_tool("git", "git", &[&["-C", repo.to_str().unwrap()], args].concat());
    assert_eq!(git(&["status", "--porcelain"]), "");
    git(&["fsck", "--full", "--strict"]);
    assert_eq!(git(&["log", "--format=%s"]), "second\nfirst\n");
    assert_eq!(git(&["diff", "HEAD", "--stat"]), "");
}

#[test]
fn holes_are_holes_in_a_mount() {
    let home = tree::sealed_everything();
    let mounted = mount_at(&home, "mnt-holes");
    let spans = |file: PathBuf| {
        let (file, mut at, mut spans) = (fs::File::open(file).unwrap(), 0, Vec::new());
        while let Ok(data) = rustix::fs::seek(&file, SeekFrom::Data(at)) {
            at = rustix::fs::seek(&file, SeekFrom::Hole(data)).unwrap();
            spans.push((data, at));
        }
        spans
    };
    for name in ["hole-first", "hole-between", "hole-last", "all-hole", "many-holes"] {
        let there = spans(mounted.latest(&home.source()).join("sparse").join(name));
        assert_eq!(there, spans(home.source().join("sparse").join(name)), "{name}");
    }
}

#[test]
fn nothing_can_be_changed_by_anybody() {
    let home = tree::sealed_small();
    let mounted = Mounted::start(&home, &[]);
    let top = mounted.latest(&home.source());
    let places = [top.clone(), top.join("docs"), home.mnt(), home.mnt().join("snapshots"), home.mnt().join("latest")];
    let mut tried: Vec<(String, std::io::Result<()>)> = Vec::new();
    for place in &places {
        let shown = place.display();
        tried.push((format!("create in {shown}"), fs::write(place.join("new"), "x")));
        tried.push((format!("mkdir in {shown}"), fs::create_dir(place.join("new"))));
        tried.push((format!("symlink in {shown}"), symlink("x", place.join("new"))));
        tried.push((format!("chmod {shown}"), fs::set_permissions(place, fs::Permissions::from_mode(0o777))));
    }
    let file = top.join("hello");
    tried.push(("write".into(), fs::File::options().write(true).open(&file).map(drop)));
    tried.push(("append".into(), fs::File::options().append(true).open(&file).map(drop)));
    tried.push(("truncate".into(), fs::File::create(&file).map(drop)));
    tried.push(("delete".into(), fs::remove_file(&file)));
    tried.push(("rmdir".into(), fs::remove_dir_all(top.join("docs"))));
    tried.push(("rename".into(), fs::rename(&file, top.join("other"))));
    tried.push(("link".into(), fs::hard_link(&file, top.join("other"))));
    tried.push(("chmod".into(), fs::set_permissions(&file, fs::Permissions::from_mode(0o600))));
    tried.push(("chown".into(), std::os::unix::fs::chown(&file, Some(1), Some(1))));
    tried.push(("setxattr".into(), rustix::fs::setxattr(&file, "user.x", b"y", rustix::fs::XattrFlags::empty()).map_err(Into::into)));
    for (what, result) in tried {
        assert_eq!(result.map_err(|e| e.raw_os_error()), Err(Some(30)), "{what} answers EROFS");
    }
    tree::assert_same(&home.source(), &top);
    let options = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = options.lines().find(|line| line.contains(home.mnt().to_str().unwrap())).unwrap();
    for option in ["ro", "nosuid", "nodev", "fuse.coffre"] {
        assert!(line.split([' ', ',']).any(|word| word == option), "{option} in {line}");
    }
}

#[test]
fn a_plain_user_sees_what_the_modes_allow() {
    let home = Home::new();
    tree::write(home.source().join("public"), "for all\n");
    tree::write(home.source().join("private"), "for root\n");
    fs::set_permissions(home.source().join("private"), fs::Permissions::from_mode(0o600)).unwrap();
    home.seal();
    let mounted = Mounted::start(&home, &[]);
    fs::set_permissions(home.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let top = mounted.latest(&home.source());
    let nobody = |script: &str| {
        let args = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "sh", "-c", script];
        tool("setpriv").args(args).current_dir(&top).output().unwrap()
    };
    assert_eq!(nobody("cat public").stdout, b"for all\n");
    let refused = nobody("cat private");
    assert!(refused.stdout.is_empty() && String::from_utf8_lossy(&refused.stderr).contains("Permission denied"));
}

#[test]
fn a_new_snapshot_appears_while_mounted_and_latest_moves() {
    let home = Home::new();
    tree::write(home.source().join("file"), "first\n");
    home.seal();
    let mounted = Mounted::start(&home, &[]);
    let latest = mounted.latest(&home.source()).join("file");
    assert_eq!(fs::read_to_string(&latest).unwrap(), "first\n");

    // A process that is inside stays where it is.
    let mut inside = tool("sh");
    inside.args(["-c", "read go && cat file && ls && cat ../source/file"]).current_dir(mounted.latest(&home.source()));
    let mut inside = inside.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();

    tree::write(home.source().join("file"), "second, longer\n");
    tree::write(home.source().join("more"), "new\n");
    home.seal();
    let names = || fs::read_dir(home.mnt().join("snapshots")).unwrap().count();
    assert!(within(Duration::from_secs(2), || names() == 2), "the second snapshot is there within 2 s");
    assert!(within(Duration::from_secs(1), || fs::read_to_string(&latest).unwrap() == "second, longer\n"), "latest moves with it");
    assert_eq!(fs::read_to_string(mounted.latest(&home.source()).join("more")).unwrap(), "new\n");

    inside.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let output = inside.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "first\nfile\nfirst\n");
}

#[test]
fn snapshots_are_named_by_time_and_id() {
    let home = tree::sealed_small();
    home.seal();
    let mounted = Mounted::start(&home, &[]);
    let listing = fs::read_dir(home.mnt().join("snapshots")).unwrap();
    let names: Vec<String> = listing.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    let rows = home.snapshots();
    let listed: Vec<&str> = rows.iter().map(|row| row["directory"].as_str().unwrap()).collect();
    assert_eq!(names, listed, "oldest first");
    for row in &rows {
        let (time, id) = (row["time"].as_str().unwrap(), &row["id"].as_str().unwrap()[..8]);
        let name = row["directory"].as_str().unwrap();
        let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
        assert!(name.ends_with(&format!("Z-{id}")) && name.len() == "2025-11-08T02-00-00Z-1a2b3c4d".len(), "{name}");
        assert_eq!(digits(&name[..20])[..14], digits(time)[..14], "{name} of {time}");
        tree::assert_same(&home.source(), &home.inside(mounted.point.join("snapshots").join(name), home.source()));
    }
    let mut top: Vec<_> = fs::read_dir(home.mnt()).unwrap().map(|e| e.unwrap().file_name()).collect();
    top.sort();
    assert_eq!(top, ["at", "changes", "history", "hosts", "latest", "snapshots", "tags"]);
}

#[test]
fn an_empty_vault_can_be_mounted_and_shows_its_first_snapshot() {
    let home = Home::new();
    let mounted = Mounted::start(&home, &[]);
    assert_eq!(fs::read_dir(home.mnt().join("snapshots")).unwrap().count(), 0);
    tree::small(&home.source());
    home.seal();
    until("the first snapshot is there", || mounted.latest(&home.source()).exists());
    tree::assert_same(&home.source(), &mounted.latest(&home.source()));
}

#[test]
fn inode_numbers_are_the_same_in_every_mount() {
    let home = tree::sealed_everything();
    let numbers = |name: &str| {
        let mounted = mount_at(&home, name);
        let mut found: BTreeMap<PathBuf, u64> = BTreeMap::new();
        let mut folders = vec![mounted.point.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let entry = entry.unwrap();
                let meta = fs::symlink_metadata(entry.path()).unwrap();
                let by_listing = std::os::unix::fs::DirEntryExt::ino(&entry);
                assert_eq!(by_listing, meta.ino(), "readdir and stat agree on {}", entry.path().display());
                if meta.is_dir() {
                    folders.push(entry.path());
                }
                found.insert(entry.path().strip_prefix(&mounted.point).unwrap().to_owned(), meta.ino());
            }
        }
        found
    };
    let (first, second) = (numbers("mnt-inodes-1"), numbers("mnt-inodes-2"));
    assert!(first.len() > 2 * tree::MANY);
    assert!(first == second);
}

#[test]
fn a_read_only_vault_can_be_mounted_and_verified() {
    let home = tree::sealed_small();
    let place = home.path("read-only");
    fs::create_dir(&place).unwrap();
    let _bind = Attached::new(&["--bind", home.vault().to_str().unwrap()], &place);
    run_tool("mount", "mount", &["-o", "remount,bind,ro", place.to_str().unwrap()]);
    assert_eq!(fs::write(place.join("x"), "").map_err(|e| e.raw_os_error()), Err(Some(30)));

    let there = |args: &[&str]| home.bare(["--vault", place.to_str().unwrap(), "--identity", home.key().to_str().unwrap()]).args(args);
    let mounted = Mounted::of(&home, there(&["mount"]), &home.mnt());
    tree::assert_same(&home.source(), &mounted.latest(&home.source()));
    for depth in ["snapshots", "packs", "chunks"] {
        there(&["verify", "--depth", depth]).ok();
    }
    assert!(there(&["cat", &format!("latest:{}/hello", home.source().display())]).ok().text() == "hello, world\n");
}

#[test]
fn a_vault_is_never_sealed_through_its_own_mount() {
    let home = tree::sealed_small();
    let _mounted = Mounted::start(&home, &[]);
    let report = home.coffre(["--json", "seal"]).args([home.path("")]).ok().json();
    assert!(report["stats"]["files"].as_u64().unwrap() < 60, "neither the vault nor its mount is taken: {report}");
}

/// Which of `names` can be read out of `folder` as they were, and which answer EIO; anything else fails.
fn readable(folder: &Path, source: &Path, names: &[String]) -> (Vec<String>, Vec<String>) {
    let whole = |name: &&String| match fs::read(folder.join(name)) {
        Ok(content) => {
            assert!(content == fs::read(source.join(name)).unwrap(), "{name}: the right bytes or none");
            true
        }
        Err(e) => {
            assert_eq!(e.raw_os_error(), Some(5), "{name}: {e}");
            false
        }
    };
    let (good, bad) = names.iter().partition::<Vec<_>, _>(whole);
    (good.into_iter().cloned().collect(), bad.into_iter().cloned().collect())
}

/// The sidecar of the pack at `pack`.
fn sidecar_of(home: &Home, pack: &Path) -> PathBuf {
    let name = pack.file_stem().unwrap().to_str().unwrap();
    home.vault().join(format!("parity/{}/{name}.par", &name[..2]))
}

#[test]
fn a_pack_that_parity_can_mend_is_read_whole_said_once_and_left_alone() {
    let home = Home::new();
    let names: Vec<String> = (0..24).map(|n| format!("file-{n:02}")).collect();
    for (n, name) in names.iter().enumerate() {
        tree::write(home.source().join(name), tree::noise(n as u64, 300_000));
    }
    home.seal();
    let pack = home.objects("packs", ".age").into_iter().max_by_key(|p| fs::metadata(p).unwrap().len()).unwrap();
    let mut hurt = fs::read(&pack).unwrap();
    let len = hurt.len();
    for place in [len / 3, len / 2, len - 100_000] {
        hurt[place] ^= 0x10;
    }
    fs::write(&pack, &hurt).unwrap();
    let mounted = Mounted::start(&home, &[]);
    let (good, bad) = readable(&mounted.latest(&home.source()), &home.source(), &names);
    assert_eq!((good.len(), bad), (names.len(), Vec::new()));
    let name = pack.file_name().unwrap().to_str().unwrap();
    let said = mounted.said();
    let lines: Vec<&str> = said.lines().filter(|line| line.contains(name)).collect();
    assert!(matches!(lines[..], [line] if line.contains("3 places") && line.contains("mended in memory")), "{said}");
    assert!(fs::read(&pack).unwrap() == hurt, "nothing is written");
}

#[test]
fn a_damaged_pack_costs_its_own_files_only_and_heals_when_it_comes_back() {
    let home = Home::new();
    let names: Vec<String> = (0..24).map(|n| format!("file-{n:02}")).collect();
    for (n, name) in names.iter().enumerate() {
        tree::write(home.source().join(name), tree::noise(n as u64, 300_000));
    }
    home.seal();
    let pack = home.objects("packs", ".age").into_iter().max_by_key(|p| fs::metadata(p).unwrap().len()).unwrap();
    let whole = fs::read(&pack).unwrap();
    let mut hurt = whole.clone();
    let middle = hurt.len() / 2;
    hurt[middle] ^= 0x10;
    // With its sidecar one bit would cost nothing: see below.
    fs::remove_file(sidecar_of(&home, &pack)).unwrap();

    for (what, damage) in [("one bit", Some(&hurt[..])), ("cut short", Some(&whole[..middle])), ("gone", None)] {
        match damage {
            Some(bytes) => fs::write(&pack, bytes).unwrap(),
            None => fs::remove_file(&pack).unwrap(),
        }
        let report = home.owner(["--json", "verify", "--depth", "chunks"]).run().exits(4).json();
        let mut named: Vec<String> =
            report["damaged_files"].as_array().unwrap().iter().map(|f| f["path"].as_str().unwrap().to_owned()).collect();
        named.iter_mut().for_each(|path| *path = path.rsplit('/').next().unwrap().to_owned());
        named.sort();

        let mounted = Mounted::start(&home, &[]);
        let top = mounted.latest(&home.source());
        let (good, bad) = readable(&top, &home.source(), &names);
        assert_eq!(bad, named, "{what}: EIO for the files that verify names");
        assert!(!good.is_empty() && !bad.is_empty(), "{what}: {} good, {} bad", good.len(), bad.len());
        for name in &bad {
            assert!(mounted.said().lines().any(|line| line.contains(name)), "{what}: the log names {name}: {}", mounted.said());
        }
        fs::write(&pack, &whole).unwrap();
        until("the files heal in the same mount", || readable(&top, &home.source(), &names).1.is_empty());
    }
    home.owner(["verify", "--depth", "chunks"]).ok();
}
