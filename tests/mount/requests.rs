//! What the kernel has to ask for: the price of a mount, without a clock.

use std::{collections::HashMap, ffi::OsStr, fs, path::Path};

use crate::common::{
    bin::{Home, Mounted, run_tool, shell},
    tree,
};

const DIRS: usize = 120;
const FILES: usize = 20;

/// Mounts, runs `work` with the newest source, unmounts; returns the requests of each kind, and the frames decoded.
fn counted(home: &Home, args: &[&str], work: impl FnOnce(&Path)) -> HashMap<String, u64> {
    let mut mounted = Mounted::start(home, &[&["-v"], args].concat());
    work(&mounted.latest(&home.source()));
    home.bare(["unmount"]).args([home.mnt()]).ok();
    assert_eq!(mounted.wait(), 0, "{}", mounted.said());
    let said = mounted.said();
    let account = said.lines().find_map(|line| line.split_once("requests: ")).unwrap_or_else(|| panic!("an account: {said}")).1;
    let (requests, rest) = account.split_once("; ").unwrap();
    let mut counts: HashMap<String, u64> = HashMap::new();
    for pair in requests.split(", ") {
        let (name, count) = pair.rsplit_once(' ').unwrap();
        counts.insert(name.to_owned(), count.parse().unwrap());
    }
    counts.insert("frames".to_owned(), rest.split_once(' ').unwrap().0.parse().unwrap());
    counts
}

/// The cheapest of three mounts: on a busy machine a program may overtake the thread that stores what it will ask for.
fn cheapest(home: &Home, mut work: impl FnMut(&Path, usize)) -> HashMap<String, u64> {
    let all = (0..3).map(|round| counted(home, &[], |top| work(top, round)));
    all.min_by_key(|counts| counts["in all"]).unwrap()
}

/// Directories of twenty small files, and directories of directories.
fn sealed() -> Home {
    let home = Home::new();
    for dir in 0..DIRS {
        for n in 0..FILES {
            let path = home.source().join(format!("group-{}/dir-{dir:03}/file-{n:02}", dir / 12));
            tree::write(path, tree::noise((dir * FILES + n) as u64, 500 + 300 * n));
        }
    }
    home.seal();
    home
}

fn copy(how: &str, from: &Path, home: &Home, name: &str) {
    run_tool("cp", "coreutils", &[OsStr::new(how), from.as_os_str(), home.path(name).as_os_str()]);
}

#[test]
fn a_copy_asks_less_than_once_in_six_files_and_a_second_one_not_at_all() {
    let home = sealed();
    let once = cheapest(&home, |top, round| copy("-r", top, &home, &format!("copy-{round}")));
    assert_eq!(shell(&home.path(""), "diff -r source copy-1"), "");
    let files = (DIRS * FILES) as u64;
    assert!(once["in all"] * 100 <= files * 15, "{once:?} for {files} files");
    let twice = cheapest(&home, |top, round| {
        copy("-r", top, &home, &format!("first-{round}"));
        copy("-r", top, &home, &format!("second-{round}"));
    });
    // The first copy of the two is another one than that above, and may have met a few files more or less in the kernel already.
    assert!(twice["in all"] * 100 <= files * 16, "{twice:?} after {once:?}: the second copy asks for nothing");
}

#[test]
fn a_copy_with_attributes_asks_for_none_where_there_are_none() {
    let home = sealed();
    let counts = cheapest(&home, |top, round| copy("-a", top, &home, &format!("copy-{round}")));
    assert!(counts["xattr"] <= 2, "{counts:?}: once each, then the kernel knows");
    assert!(counts["in all"] * 100 <= (DIRS * FILES) as u64 * 15, "{counts:?}");
}

#[test]
fn a_walk_reads_no_contents_and_asks_for_each_directory_once() {
    let home = sealed();
    let counts = counted(&home, &[], |top| {
        let listed = run_tool("find", "findutils", &[top.as_os_str(), OsStr::new("-printf"), OsStr::new("%s\\n")]);
        assert_eq!(listed.lines().count(), 1 + DIRS / 12 + DIRS + DIRS * FILES);
        run_tool("find", "findutils", &[top.as_os_str(), OsStr::new("-printf"), OsStr::new("%s\\n")]);
    });
    assert_eq!(counts["read"], 0, "{counts:?}");
    let dirs = (1 + DIRS / 12 + DIRS) as u64;
    assert!(counts["readdir"] <= 2 * dirs + 8, "{counts:?} for {dirs} directories: one with names, one that says it was all");
    assert!(counts["lookup"] + counts["getattr"] <= 24, "{counts:?}");
    // Names are in one pack, contents in others.
    let contents = home.objects("packs", ".age").iter().map(|p| fs::metadata(p).unwrap().len()).sum::<u64>();
    assert!(counts["frames"] * (128 << 10) < contents / 2, "{counts:?}: no contents are decoded of {contents} bytes");
}
