//! `hosts/`, `tags/`, `at/`, `history/` and `changes/` of a real mount, with the programs that people use there.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::Signal;

use crate::common::{
    bin::{Home, Mounted, run_tool, send, shell, tool, until, within},
    tree,
};

fn names(dir: impl AsRef<Path>) -> Vec<String> {
    let dir = dir.as_ref();
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("{} can be listed: {e}", dir.display()));
    entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

fn sorted(dir: impl AsRef<Path>) -> Vec<String> {
    let mut names = names(dir);
    names.sort();
    names
}

/// Seals the source as somebody else, or with tags.
fn seal(home: &Home, args: &[&str]) {
    home.coffre(["seal"]).args(args).args([home.source()]).ok();
}

fn inside(mounted: &Mounted, view: &str, path: PathBuf) -> PathBuf {
    mounted.point.join(view).join(path.strip_prefix("/").unwrap())
}

fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> Option<i32> {
    result.unwrap_err().raw_os_error()
}

const ENOENT: Option<i32> = Some(2);

#[test]
fn a_file_has_every_version_once_and_a_deleted_one_too() {
    let home = Home::new();
    let file = home.source().join("app/app.py");
    for (n, text) in ["one", "two", "three", "four"].iter().enumerate() {
        tree::write(&file, format!("print('{text}')\n"));
        home.seal();
        // Nothing new about it in these.
        tree::write(home.source().join("other"), n.to_string());
        home.seal();
    }
    fs::remove_file(&file).unwrap();
    home.seal();
    tree::write(&file, "print('five')\n");
    home.seal();
    fs::remove_file(&file).unwrap();
    home.seal();

    let mounted = Mounted::start(&home, &[]);
    let history = inside(&mounted, "history", file.clone());
    let listed = sorted(&history);
    assert_eq!(listed.len(), 5, "{listed:?}");
    assert!(listed.iter().all(|name| name.starts_with("20") && name.contains("Z") && name.ends_with(".app.py")), "{listed:?}");
    let in_order: Vec<String> = names(&history).iter().map(|name| fs::read_to_string(history.join(name)).unwrap()).collect();
    assert_eq!(in_order, ["one", "two", "three", "four", "five"].map(|text| format!("print('{text}')\n")));
    // As `ls -l` shows them.
    let sizes = shell(&history, "ls -lU | tail -n +2 | awk '{print $5}'");
    assert_eq!(sizes, "13\n13\n15\n14\n14\n");
    assert_eq!(errno(fs::metadata(history.join("2025-11-08T02-00-00Z.app.py"))), ENOENT);
    assert_eq!(errno(fs::metadata(inside(&mounted, "history", home.source().join("app/nothing")))), ENOENT);
    // It is the file in its snapshot: the same inode, and the same bytes by cp.
    let first = names(&history)[0].clone();
    let snapshot = mounted.point.join("snapshots").join(&names(mounted.point.join("snapshots"))[0]);
    let there = home.inside(snapshot, &file);
    assert_eq!(fs::metadata(history.join(&first)).unwrap().ino(), fs::metadata(&there).unwrap().ino());
    let copy = home.path("copy");
    run_tool("cp", "coreutils", &[Path::new("-a"), &history.join(&first), &copy]);
    assert_eq!(fs::read_to_string(&copy).unwrap(), "print('one')\n");
    assert_eq!(fs::metadata(&copy).unwrap().mtime_nsec(), fs::metadata(&there).unwrap().mtime_nsec());
}

#[test]
fn one_walks_down_history_as_down_the_tree_and_a_directory_keeps_its_versions_aside() {
    let home = Home::new();
    let top = home.source();
    tree::write(top.join("lib/a"), "a");
    tree::write(top.join("lib/@versions"), "mine");
    home.seal();
    // The directory is renamed; a file becomes a directory, and a link.
    fs::rename(top.join("lib"), top.join("src")).unwrap();
    tree::write(top.join("shape"), "a file");
    home.seal();
    fs::remove_file(top.join("shape")).unwrap();
    tree::write(top.join("shape/inner"), "in a directory");
    home.seal();
    fs::remove_dir_all(top.join("shape")).unwrap();
    std::os::unix::fs::symlink("src/a", top.join("shape")).unwrap();
    home.seal();

    let mounted = Mounted::start(&home, &[]);
    let history = |path: &str| inside(&mounted, "history", top.join(path));
    assert_eq!(sorted(history("")), ["@versions", "lib", "shape", "src"]);
    assert_eq!(names(history(""))[0], "@versions", "first, where one sees it");
    assert_eq!(sorted(history("lib")), ["@versions", "@versions@", "a"]);
    let escaped = history("lib").join("@versions@");
    assert_eq!(fs::read_to_string(escaped.join(&names(&escaped)[0])).unwrap(), "mine");
    assert_eq!(sorted(history("shape")), ["@versions", "inner"]);

    // Each of the three shapes, in order.
    let versions = history("shape").join("@versions");
    let shapes: Vec<PathBuf> = names(&versions).into_iter().map(|name| versions.join(name)).collect();
    assert_eq!(shapes.len(), 3);
    assert_eq!(fs::read_to_string(&shapes[0]).unwrap(), "a file");
    assert_eq!(fs::read_to_string(shapes[1].join("inner")).unwrap(), "in a directory");
    assert_eq!(fs::read_link(&shapes[2]).unwrap(), Path::new("src/a"));

    // A version of a directory is that directory.
    let versions = history("").join("@versions");
    let newest = versions.join(names(&versions).pop().unwrap());
    tree::assert_same(&top, &newest);
    tree::assert_same(&mounted.latest(&top), &newest);
    assert_eq!(names(&versions).len(), 4);
    // `..` leads back, and no two directories share a number.
    assert_eq!(fs::canonicalize(newest.join("src/..")).unwrap(), newest);
    assert_eq!(shell(&newest, "cd src && cd ../.. && pwd -P").trim(), versions.to_str().unwrap());
    let all = shell(&mounted.point, "find . -type d -printf '%i %p\\n' | sort -n | awk '{print $1}' | uniq -d");
    assert_eq!(all, "", "directories that share a number");
}

#[test]
fn what_a_closed_directory_kept_is_not_had_by_its_history() {
    let home = Home::new();
    tree::write(home.source().join("closed/secret"), "secret\n");
    tree::write(home.source().join("open/public"), "public\n");
    fs::set_permissions(home.source().join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    home.seal();
    fs::set_permissions(home.source().join("closed"), fs::Permissions::from_mode(0o755)).unwrap();
    home.seal();
    let mounted = Mounted::start(&home, &[]);
    fs::set_permissions(home.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let cat = |path: PathBuf| {
        let args = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "sh", "-c", "cat \"$0\"/*"];
        tool("setpriv").args(args).arg(path).output().unwrap().stdout
    };
    assert_eq!(cat(inside(&mounted, "history", home.source().join("open/public"))), b"public\n");
    assert_eq!(cat(inside(&mounted, "history", home.source().join("closed/secret"))), b"");
    let mode = |path: &str| fs::metadata(inside(&mounted, "history", home.source().join(path))).unwrap().mode() & 0o777;
    assert_eq!((mode("closed"), mode("open")), (0o700, 0o755), "by stat");
    let listed = shell(&inside(&mounted, "history", home.source()), "ls -l | awk '/closed/ {print $1}'");
    assert_eq!(listed, "drwx------\n", "and by a listing");
}

#[test]
fn any_time_that_one_types_is_a_directory_and_stays_the_same_inside() {
    let home = Home::new();
    let file = home.source().join("file");
    tree::write(&file, "first\n");
    home.seal();
    let mounted = Mounted::start(&home, &[]);
    let at = |name: &str| inside(&mounted, &format!("at/{name}"), file.clone());
    let read = |name: &str| fs::read_to_string(at(name)).unwrap();
    let id = home.snapshots()[0]["id"].as_str().unwrap()[..8].to_owned();
    let host = home.snapshots()[0]["host"].as_str().unwrap().to_owned();
    let days = names(mounted.point.join("at"));
    assert_eq!(days.len(), 1, "{days:?}");
    assert_eq!(days[0].len(), "2025-11-08".len());
    let typed = ["latest", "today", "now", "0 days ago", &id, &format!("{host}@latest"), &days[0], &days[0].replace('-', "")];
    for name in typed {
        assert_eq!(read(name), "first\n", "{name}");
        assert!(fs::symlink_metadata(mounted.point.join("at").join(name)).unwrap().is_dir(), "{name} is no link");
    }
    for name in ["2001-01-01", "tomorrow", "latest~1", "nobody@latest", "beef", "..."] {
        assert_eq!(errno(fs::metadata(mounted.point.join("at").join(name))), ENOENT, "{name}");
    }
    tree::assert_same(&home.source(), &inside(&mounted, "at/today", home.source()));

    // A name that moves moves; who stands in it does not.
    let mut stays = tool("sh");
    stays.args(["-c", "read go && cat file"]).current_dir(at("latest").parent().unwrap());
    let mut stays = stays.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    tree::write(&file, "second, longer\n");
    home.seal();
    assert!(within(Duration::from_secs(2), || read("latest") == "second, longer\n"));
    assert_eq!((read("latest~1"), read(&id)), ("first\n".to_owned(), "first\n".to_owned()));
    std::io::Write::write_all(&mut stays.stdin.take().unwrap(), b"go\n").unwrap();
    assert_eq!(stays.wait_with_output().unwrap().stdout, b"first\n");
}

#[test]
fn hosts_and_tags_link_to_the_snapshots_whatever_they_are_called() {
    let home = Home::new();
    tree::write(home.source().join("file"), "x");
    let long = "h".repeat(300);
    seal(&home, &["--host", "web1", "--tag", "release", "--tag", "a/b"]);
    seal(&home, &["--host", "..", "--tag", "release"]);
    seal(&home, &["--host", &long]);
    let mounted = Mounted::start(&home, &[]);
    let snapshots = names(mounted.point.join("snapshots"));
    let hosts = sorted(mounted.point.join("hosts"));
    assert_eq!((&hosts[0][..], hosts[1].len(), &hosts[2][..]), ("%2E.", 255, "web1"));
    assert_eq!(sorted(mounted.point.join("tags")), ["a%2Fb", "release"]);
    assert_eq!(names(mounted.point.join("tags/release")), snapshots[..2]);
    assert_eq!(names(mounted.point.join("hosts/web1")), snapshots[..1]);
    for dir in ["hosts/web1", "tags/release", "tags/a%2Fb"] {
        let link = mounted.point.join(dir).join(&snapshots[0]);
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("../../snapshots").join(&snapshots[0]));
        assert_eq!(fs::canonicalize(&link).unwrap(), mounted.point.join("snapshots").join(&snapshots[0]));
        assert_eq!(fs::symlink_metadata(&link).unwrap().nlink(), 3, "for the host and both tags");
    }
    assert_eq!(errno(fs::metadata(mounted.point.join("hosts/web2"))), ENOENT);
    assert_eq!(errno(fs::symlink_metadata(mounted.point.join("hosts/web1").join(&snapshots[1]))), ENOENT);

    // One path on several hosts: each has a history of its own, which says whose it is.
    let history = inside(&mounted, "history", home.source().join("file"));
    let versions = names(&history);
    assert_eq!(versions.len(), 3, "{versions:?}");
    assert!(versions[0].ends_with("Z@web1.file") && versions[1].contains("Z@%2E..") && versions[2].ends_with("h.file"), "{versions:?}");
}

#[test]
fn changes_are_files_in_three_directories() {
    let home = Home::new();
    let top = home.source();
    for dir in ["same/deep/deeper", "touched/deep", "gone/deep", "stays"] {
        tree::write(top.join(dir).join("file"), dir);
    }
    tree::write(top.join("shape"), "was a file");
    tree::write(top.join("kind"), "becomes a link");
    fs::create_dir_all(top.join("gone-empty")).unwrap();
    home.seal();
    tree::write(top.join("touched/deep/file"), "touched, longer");
    tree::write(top.join("touched/deep/new"), "new");
    fs::remove_dir_all(top.join("gone")).unwrap();
    fs::remove_dir(top.join("gone-empty")).unwrap();
    fs::create_dir_all(top.join("new-empty/deep")).unwrap();
    tree::write(top.join("new/deep/file"), "new");
    fs::remove_file(top.join("shape")).unwrap();
    tree::write(top.join("shape/inner"), "in a directory");
    fs::remove_file(top.join("kind")).unwrap();
    std::os::unix::fs::symlink("stays", top.join("kind")).unwrap();
    home.seal();

    let mounted = Mounted::start(&home, &[]);
    let changes = mounted.point.join("changes");
    assert_eq!(sorted(changes.join("latest~1..latest")), ["added", "modified", "removed"]);
    let found = |name: &str, kind: &str| {
        let top = inside(&mounted, &format!("changes/{name}/{kind}"), top.clone());
        match top.exists() {
            true => shell(&top, "find . -mindepth 1 | LC_ALL=C sort").lines().map(str::to_owned).collect::<Vec<_>>(),
            false => Vec::new(),
        }
    };
    let added = ["./new", "./new/deep", "./new/deep/file", "./shape", "./shape/inner", "./touched", "./touched/deep", "./touched/deep/new"];
    let modified = ["./kind", "./touched", "./touched/deep", "./touched/deep/file"];
    let removed = ["./gone", "./gone/deep", "./gone/deep/file", "./shape"];
    assert_eq!(found("latest~1..latest", "added"), added);
    assert_eq!(found("latest~1..latest", "modified"), modified);
    assert_eq!(found("latest~1..latest", "removed"), removed);
    // The other way round, by ids.
    let ids: Vec<String> = home.snapshots().iter().map(|row| row["id"].as_str().unwrap()[..8].to_owned()).collect();
    let back = format!("{}..{}", ids[1], ids[0]);
    assert_eq!(found(&back, "added"), removed);
    assert_eq!(found(&back, "removed"), added);
    assert_eq!(found(&back, "modified"), modified);
    let same = format!("{}..latest", ids[1]);
    assert_eq!((found(&same, "added").len(), found(&same, "modified").len(), found(&same, "removed").len()), (0, 0, 0));

    let at = |kind: &str, path: &str| inside(&mounted, &format!("changes/latest~1..latest/{kind}"), top.join(path));
    let read = |kind: &str, path: &str| fs::read_to_string(at(kind, path)).unwrap();
    assert_eq!((read("modified", "touched/deep/file"), read("removed", "gone/deep/file")), ("touched, longer".into(), "gone/deep".into()));
    assert_eq!((read("removed", "shape"), read("added", "shape/inner")), ("was a file".into(), "in a directory".into()));
    assert_eq!(fs::read_link(at("modified", "kind")).unwrap(), Path::new("stays"));
    assert_eq!(shell(&at("modified", ""), "cd touched/deep && cd .. && pwd -P").trim(), at("modified", "touched").to_str().unwrap());
    for (kind, path) in [("added", "new-empty"), ("removed", "gone-empty"), ("modified", "same"), ("added", "stays"), ("modified", "new")] {
        assert_eq!(errno(fs::metadata(at(kind, path))), ENOENT, "{kind} {path}");
    }
    for name in ["latest", "latest..", "..latest", "latest..nothing", "latest...latest~1", "2001-01-01..latest"] {
        assert_eq!(errno(fs::metadata(changes.join(name))), ENOENT, "{name}");
    }
    assert_eq!(names(&changes), [] as [String; 0]);
    // What was added and modified, laid over the old tree without what was removed, is the new one.
    let dest = home.path("patched");
    run_tool("cp", "coreutils", &[Path::new("-a"), &inside(&mounted, "at/latest~1", top.clone()), &dest]);
    shell(&at("removed", ""), &format!("find . -type f -o -type l | (cd {} && xargs rm)", dest.display()));
    shell(
        &home.path(""),
        &format!("rm {0}/kind; cp -a {1}/. {0}; cp -a {2}/. {0}", dest.display(), at("added", "").display(), at("modified", "").display()),
    );
    shell(&dest, "rm -r gone gone-empty && mkdir -p new-empty/deep");
    assert_eq!(shell(&home.path(""), &format!("diff -r --no-dereference {} {}", dest.display(), top.display())), "");
}

#[test]
fn two_machines_are_compared_though_nothing_of_theirs_has_the_same_id() {
    let home = Home::new();
    for n in 0..3 {
        tree::write(home.source().join(format!("dir/{n}")), tree::noise(n, 5000));
    }
    seal(&home, &["--host", "web1"]);
    let other_machine = |args: &[&str]| {
        home.owner(["seal"]).env("COFFRE_STATE_DIR", home.path("other-state")).args(args).args([home.source()]).ok();
    };
    other_machine(&["--host", "web2"]);
    tree::write(home.source().join("dir/1"), tree::noise(9, 5001));
    other_machine(&["--host", "web2"]);

    let mounted = Mounted::start(&home, &[]);
    let files = |name: &str| shell(&mounted.point.join("changes").join(name), "find . ! -type d -printf '%H/%P\\n'");
    assert_eq!(files("web1@latest..web2@latest~1"), "");
    let only = format!("./modified{}\n", home.source().join("dir/1").display());
    assert_eq!(files("web1@latest..web2@latest"), only);
    assert_eq!(files("web2@latest~1..web2@latest"), only);
    let history = |n: u32| names(inside(&mounted, "history", home.source().join(format!("dir/{n}"))));
    let hosts = |names: Vec<String>| names.iter().map(|name| name.split(['@', '.', '~']).nth(1).unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(hosts(history(0)), ["web1", "web2"]);
    assert_eq!(hosts(history(1)), ["web1", "web2", "web2"]);
}

#[test]
fn a_new_snapshot_is_in_every_view_within_two_seconds_and_one_that_goes_leaves() {
    let home = Home::new();
    let file = home.source().join("file");
    tree::write(&file, "first\n");
    let aside = home.source().join("aside/deep/file");
    tree::write(&aside, "1");
    seal(&home, &["--host", "web1", "--tag", "one"]);
    let mounted = Mounted::start(&home, &[]);
    let count = |view: &str| names(mounted.point.join(view)).len();
    let history = || names(inside(&mounted, "history", file.clone())).len();
    let children = || names(inside(&mounted, "history", home.source())).len();
    let all = || [count("snapshots"), count("hosts"), count("hosts/web1"), count("tags"), count("tags/one"), history(), children()];
    // Somebody has one open and reads it again, so that nothing on the way to it is looked up or asked for permission.
    let stand = fs::File::open(inside(&mounted, "history", aside.clone())).unwrap();
    let here = || {
        rustix::fs::seek(&stand, rustix::fs::SeekFrom::Start(0)).unwrap();
        let mut buf = Vec::with_capacity(8192);
        let mut listing = rustix::fs::RawDir::new(&stand, buf.spare_capacity_mut());
        std::iter::from_fn(|| listing.next().map(|entry| entry.unwrap().file_name().to_bytes().starts_with(b"20"))).filter(|is| *is).count()
    };
    // Listed once, so that the kernel has them.
    assert_eq!((all(), here()), ([1, 1, 1, 1, 1, 1, 3], 1));
    let open = fs::File::open(mounted.latest(&file)).unwrap();

    tree::write(&file, "second\n");
    tree::write(&aside, "22");
    tree::write(home.source().join("more"), "more\n");
    seal(&home, &["--host", "web1", "--tag", "one", "--tag", "two"]);
    seal(&home, &["--host", "web2"]);
    assert!(within(Duration::from_secs(2), || (all(), here()) == ([3, 2, 2, 2, 2, 3, 4], 3)), "{:?} {}", all(), here());
    assert_eq!(fs::read_to_string(inside(&mounted, "at/web1@latest", file.clone())).unwrap(), "second\n");
    assert_eq!(fs::read_to_string(inside(&mounted, "changes/latest~2..latest/modified", file.clone())).unwrap(), "second\n");

    // The newest goes; the directory of a snapshot that one stands in stays what it was.
    let newest = mounted.point.join("snapshots").join(names(mounted.point.join("snapshots")).pop().unwrap());
    let inside_it = fs::File::open(home.inside(&newest, &file)).unwrap();
    for object in home.objects("snaps", "").into_iter().rev().filter(|p| p.to_string_lossy().contains("000003")) {
        fs::remove_file(object).unwrap();
    }
    assert!(within(Duration::from_secs(4), || all() == [2, 1, 2, 2, 2, 2, 4]), "{:?}", all());
    assert_eq!(errno(fs::metadata(&newest)), ENOENT);
    for (mut file, text) in [(open, "first\n"), (inside_it, "second\n")] {
        let mut read = String::new();
        std::io::Read::read_to_string(&mut file, &mut read).unwrap();
        assert_eq!(read, text);
    }
}

#[test]
fn attributes_of_our_own_are_had_by_name_and_not_listed() {
    let home = Home::new();
    let (small, large) = (home.source().join("small"), home.source().join("large"));
    tree::write(&small, "small\n");
    tree::write(&large, tree::noise(3, 6 << 20));
    home.seal();
    tree::write(&small, "larger\n");
    home.seal();
    let get = |mounted: &Mounted, path: &Path, name: &str| {
        let mut value = vec![0; 256];
        let n = rustix::fs::getxattr(mounted.latest(path), name, &mut value[..]).map_err(|e| e.raw_os_error())?;
        Ok(String::from_utf8(value[..n].to_vec()).unwrap())
    };
    let mounted = Mounted::start(&home, &["--xattrs", "always"]);
    for file in [&small, &large] {
        let expected = run_tool("b3sum", "b3sum", &[Path::new("--no-names"), file]);
        assert_eq!(get(&mounted, file, "user.coffre.blake3"), Ok(expected.trim().to_owned()));
    }
    let row = home.snapshots().pop().unwrap();
    let expected = format!("{} {}", row["id"].as_str().unwrap(), row["directory"].as_str().unwrap());
    assert_eq!(get(&mounted, &small, "user.coffre.snapshot"), Ok(expected));
    let versions = |path: &Path| get(&mounted, path, "user.coffre.versions");
    assert_eq!((versions(&small), versions(&large), versions(&home.source())), (Ok("2".into()), Ok("1".into()), Ok("2".into())));
    let nodata = Err(rustix::io::Errno::NODATA.raw_os_error());
    assert_eq!(get(&mounted, &home.source(), "user.coffre.blake3"), nodata);
    assert_eq!(get(&mounted, &small, "user.coffre.other"), nodata);
    let mut list = [0u8; 256];
    assert_eq!(rustix::fs::listxattr(mounted.latest(&small), &mut list[..]), Ok(0), "none is listed");
    drop(mounted);
    let mounted = Mounted::start(&home, &[]);
    assert_eq!(get(&mounted, &small, "user.coffre.blake3"), Err(rustix::io::Errno::OPNOTSUPP.raw_os_error()), "auto: none was sealed");
}

#[test]
fn names_that_are_not_text_have_a_history() {
    use std::os::unix::ffi::OsStrExt;
    let home = Home::new();
    let odd = home.source().join(std::ffi::OsStr::from_bytes(b"caf\xe9 \n"));
    tree::write(odd.join("file"), "1");
    home.seal();
    tree::write(odd.join("file"), "22");
    home.seal();
    let mut mounted = Mounted::start(&home, &[]);
    let history = inside(&mounted, "history", odd.join("file"));
    let sizes: Vec<u64> = fs::read_dir(&history).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).collect();
    assert_eq!(sizes, [1, 2]);
    let versions = inside(&mounted, "history", odd).join("@versions");
    let found: Vec<_> = fs::read_dir(&versions).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(found.len() == 2 && found[0].as_bytes().ends_with(b"Z.caf\xe9 \n"), "{found:?}");
    send(mounted.child(), Signal::TERM);
    until("it ends", || mounted.child().try_wait().unwrap().is_some());
}
