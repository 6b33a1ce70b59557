//! `coffre seal`: what it reports, what it leaves out, and how it survives: no key, no catalog, no room, ^C, company.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use coffre::sys::{Clock, SystemClock};
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    at,
    common::{
        bin::{Attached, Coffre, Home, code, run_tool, send, shell, tool, until},
        tree,
    },
    names,
};

/// Fails if a seal stored anything of the source. The directories above it are in the snapshot too, and other tests change
/// the time of /tmp; their few hundred bytes make a pack of 64 KiB.
#[track_caller]
fn assert_nothing_new(report: &Value, what: &str) {
    let (new, stored) = (report["stats"]["new_bytes"].as_u64().unwrap(), report["stats"]["stored_bytes"].as_u64().unwrap());
    assert!(new < 2000 && stored < 70_000, "{what}: {report}");
}

#[test]
fn seal_reports_what_it_did_and_leaves_out_what_it_is_told() {
    let home = Home::new();
    tree::every_kind(&home.source());
    let report = home.seal();
    let fields = [
        "before",
        "bytes_read",
        "changed",
        "changes",
        "compressed_bytes",
        "content_bytes",
        "files_read",
        "head",
        "host",
        "id",
        "labels",
        "left_out",
        "paths",
        "peak_memory_bytes",
        "seconds",
        "snapshot",
        "stats",
        "suspicions",
        "tags",
        "time",
        "unreadable",
    ];
    assert_eq!(names(&report), fields);
    let count = |name: &str| report["stats"][name].as_u64().unwrap();
    assert_eq!(count("sockets_skipped"), tree::SOCKETS);
    assert!(count("files") > tree::MANY as u64 && count("sparse_files") >= 5 && count("with_xattrs") >= 5, "{report}");
    home.coffre(["seal"]).args([home.source()]).ok();

    let excluded = home.source().join("contents");
    let args = ["--exclude", "*.rs", "--exclude", excluded.to_str().unwrap(), "--exclude", "many"];
    home.coffre(["seal"]).args(args).args([home.source()]).ok();
    home.owner(["cat", &at(&home, "repo/hello")]).ok();
    for gone in ["repo/src/1.rs", "contents/noise-1", "many/00001"] {
        home.owner(["cat", &at(&home, gone)]).refused(1);
    }
    home.coffre(["seal", "--exclude", "a{b", "source"]).run().exits(2).says("a{b");
    home.coffre(["seal", "source/none"]).refused(1).says("source/none");
    home.coffre(["seal"]).run().exits(2);
}

#[test]
fn unreadable_files_are_named_and_the_rest_is_sealed() {
    let home = Home::new();
    tree::small(&home.source());
    tree::write(home.source().join("closed/file"), "x");
    for name in ["docs/noise", "closed"] {
        fs::set_permissions(home.source().join(name), fs::Permissions::from_mode(0o000)).unwrap();
    }
    // Root reads everything, and the binary may lie where only root looks.
    fs::copy(env!("CARGO_BIN_EXE_coffre"), home.path("binary")).unwrap();
    run_tool("chown", "coreutils", &["-R", "65534:65534", home.path("").to_str().unwrap()]);
    let as_nobody = |args: &[&str]| {
        let mut command = tool("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "./binary", "--vault", "vault"]).args(args);
        command.env("COFFRE_STATE_DIR", home.path("state")).current_dir(home.path(""));
        Coffre(command)
    };
    let done = as_nobody(&["--json", "seal", "source"]).run().exits(3);
    let report = done.json();
    let mut paths: Vec<&str> = report["unreadable"].as_array().unwrap().iter().map(|p| p["path"].as_str().unwrap()).collect();
    paths.sort();
    let expected = ["closed", "docs/noise"].map(|name| home.source().join(name));
    assert_eq!(paths.iter().map(Path::new).collect::<Vec<_>>(), expected, "{report}");
    assert_eq!(home.owner(["cat", &at(&home, "hello")]).ok().text(), "hello, world\n");
    assert_eq!(home.snapshots()[0]["problems"], 2);
    let done = as_nobody(&["seal", "source"]).run().exits(3);
    for path in expected {
        assert!(done.err.contains(path.to_str().unwrap()), "{} is named: {}", path.display(), done.err);
    }
    home.owner(["verify", "--depth", "chunks"]).ok();
}

#[test]
fn sealing_needs_no_key_and_a_lost_state_directory_is_made_again_by_one() {
    let home = Home::new();
    tree::small(&home.source());
    let first = home.seal();
    assert!(first["stats"]["stored_bytes"].as_u64().unwrap() > 700_000);
    // Not its parent: that directory is above the source, and so in the snapshot.
    fs::remove_dir_all(home.state()).unwrap();
    home.coffre(["seal", "source"]).refused(12).says("no sealing keys");
    let done = home.owner(["--json", "seal", "source"]).ok().says("enrolled");
    assert_nothing_new(&done.json(), "everything was there already");
    assert_nothing_new(&home.coffre(["--json", "seal", "source"]).ok().json(), "no key is needed again");
    assert_eq!(fs::metadata(home.state()).unwrap().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(home.state().join("sealer")).unwrap().mode() & 0o777, 0o600);
    tree::assert_restorable(&home);
}

#[test]
fn any_state_of_the_catalog_costs_time_and_one_line_only() {
    let home = Home::new();
    tree::small(&home.source());
    home.seal();
    let catalog = home.state().join("catalog");
    let spoil = |how: &dyn Fn(&[u8]) -> Vec<u8>| {
        shell(&catalog, "find . -type f").lines().for_each(|name| {
            let file = catalog.join(name);
            fs::write(&file, how(&fs::read(&file).unwrap())).unwrap();
        });
    };
    let garbage = |bytes: &[u8]| tree::noise(3, bytes.len());
    type Damage<'a> = (&'a str, Box<dyn Fn() + 'a>);
    let damages: [Damage; 7] = [
        ("deleted", Box::new(|| fs::remove_dir_all(&catalog).unwrap())),
        ("garbage", Box::new(|| spoil(&garbage))),
        ("empty files", Box::new(|| spoil(&|_| Vec::new()))),
        ("cut short", Box::new(|| spoil(&|bytes| bytes[..bytes.len() / 2].to_vec()))),
        ("garbage in the database", Box::new(|| drop(shell(&catalog, "head -c 100000 /dev/urandom > $(find . -name db)")))),
        ("no database", Box::new(|| drop(shell(&catalog, "rm -r g*/")))),
        ("no state", Box::new(|| fs::remove_file(catalog.join("state")).unwrap())),
    ];
    for (what, damage) in damages {
        damage();
        let done = home.coffre(["--json", "seal", "source"]).ok();
        assert_eq!(done.err.lines().count(), 1, "{what}: one line says so:\n{}", done.err);
        assert!(done.err.contains("catalog rebuilt from "), "{what}: {}", done.err);
        assert_nothing_new(&done.json(), what);
        let quiet = home.coffre(["--json", "seal", "source"]).ok();
        assert_eq!(quiet.err, "", "{what}, the time after");
        assert_nothing_new(&quiet.json(), what);
    }
    let rebuilt = home.coffre(["--json", "catalog", "rebuild"]).ok().json();
    assert_eq!(names(&rebuilt), ["chunks", "packs", "seconds"]);
    assert!(rebuilt["chunks"].as_u64().unwrap() > 10);
    tree::assert_restorable(&home);
}

/// Seals the source several times at once, in rounds; every seal must succeed, and the vault be whole.
fn seal_at_once(home: &Home, rounds: u64, new_bytes: usize, seals: &[&dyn Fn() -> Coffre]) {
    tree::small(&home.source());
    for round in 1..=rounds {
        tree::write(home.source().join("new"), tree::noise(round, new_bytes));
        let log = |n: usize| home.path(format!("{n}.log"));
        let mut running: Vec<_> = seals.iter().enumerate().map(|(n, seal)| seal().spawn(&log(n))).collect();
        for (n, seal) in running.iter_mut().enumerate() {
            let status = seal.wait().unwrap();
            assert!(status.success(), "round {round}, seal {n}: {}", fs::read_to_string(log(n)).unwrap());
        }
        assert_eq!(home.snapshots().len() as u64, seals.len() as u64 * round);
    }
}

#[test]
fn two_seals_at_once_both_succeed() {
    let home = Home::new();
    let seal = || home.coffre(["seal", "source"]);
    seal_at_once(&home, 3, 12_000_000, &[&seal, &seal]);
    tree::assert_restorable(&home);
}

#[test]
fn two_hosts_that_seal_at_once_both_succeed() {
    let home = Home::new();
    let rename = ["--uts", "sh", "-c", "hostname other-host && exec \"$@\"", "sh"];
    let other = || home.owner(["seal", "source"]).env("COFFRE_STATE_DIR", home.path("other-state")).under("unshare", &rename);
    seal_at_once(&home, 3, 3_000_000, &[&|| home.coffre(["seal", "source"]), &other]);
    tree::assert_restorable(&home);
    let sealed = |name: &str| fs::read_dir(home.vault().join("snaps").join(name)).unwrap().count();
    assert_eq!(sealed("other-host"), 9, "manifest, receipt and signature of three snapshots");
}

/// Two users of one host, or a clone of it: the same name and sealing key, but neither knows of the other's lock. Both found
/// the same snapshot to go on from, and the chain of receipts had two ends.
#[test]
fn two_seals_at_once_from_two_state_directories_both_succeed() {
    let home = Home::new();
    let other = || home.owner(["seal", "source"]).env("COFFRE_STATE_DIR", home.path("other-state"));
    // Short ones: what matters is that they commit at the same time.
    seal_at_once(&home, 12, 100, &[&|| home.coffre(["seal", "source"]), &other]);
    // Nothing is lost, and it is told until somebody says that he knows of it. The next seal joins both ends.
    let told = home.owner(["--json", "verify", "--depth", "chunks"]).run().exits(4).json();
    assert_eq!((&told["damage"], told["forks"].as_array().unwrap().is_empty()), (&serde_json::json!([]), false), "{told}");
    home.seal();
    home.owner(["head", "--accept"]).ok();
    tree::assert_restorable(&home);
}

#[test]
fn an_interrupted_seal_loses_nothing_and_the_next_one_works() {
    let home = Home::new();
    tree::small(&home.source());
    let change = |n: u64| tree::write(home.source().join("large"), tree::noise(n, 8_000_000));
    change(100);
    let clock = SystemClock;
    let began = clock.monotonic();
    home.seal();
    let whole = clock.monotonic() - began;
    let (mut stopped, mut sealed) = (0, 1);
    for n in 0..16 {
        change(n);
        let mut seal = home.coffre(["seal", "source"]).spawn(&home.path("log"));
        // Not to wait for anything: any moment is right.
        clock.sleep(whole * n as u32 / 13);
        if seal.try_wait().unwrap().is_none() {
            send(&seal, if n % 4 == 3 { Signal::TERM } else { Signal::INT });
        }
        until("an interrupted seal ends", || seal.try_wait().unwrap().is_some());
        // Before it can catch anything, a signal ends it the way it ends every program.
        match code(seal.wait().unwrap()) {
            0 => sealed += 1,
            130 | 143 => stopped += 1,
            other => panic!("exit code {other}: {}", fs::read_to_string(home.path("log")).unwrap()),
        }
        assert_eq!(home.snapshots().len(), sealed);
        home.owner(["verify", "--depth", "chunks"]).ok();
    }
    assert!(stopped > 4, "{stopped} of 16 were stopped");
    home.seal();
    tree::assert_restorable(&home);
}

#[test]
fn a_full_disk_fails_the_seal_and_room_lets_the_next_one_reuse_what_was_stored() {
    let home = Home::without_vault();
    fs::create_dir(home.vault()).unwrap();
    let disk = Attached::new(&["-t", "tmpfs", "-o", "size=100m", "none"], &home.vault());
    home.bare(["--vault", "vault/here", "init", "--recipient", &home.recipient()]).ok();
    tree::small(&home.source());
    const NOISE: usize = 12_000_000;
    for n in 0..12 {
        tree::write(home.source().join(format!("noise-{n}")), tree::noise(n, NOISE));
    }
    let coffre = |args: &[&str]| home.bare(["--vault", "vault/here"]).args(args);
    coffre(&["seal", "source"]).refused(1).says("No space left").says("make room");
    coffre(&["verify"]).ok();
    let kept = shell(&home.vault(), "find here/packs -name '*.age' | wc -l");
    assert!(kept.trim().parse::<u32>().unwrap() >= 1, "a pack was stored before the disk was full");

    disk.remount("size=400m");
    coffre(&["seal", "source"]).ok();
    let used: usize = shell(&home.vault(), "du -sb here/packs | cut -f 1").trim().parse().unwrap();
    assert!(used < 12 * NOISE + NOISE / 2, "what was stored is used: {used} bytes");
    let verified = coffre(&["--json", "verify", "--depth", "chunks", "--identity", "owner.key"]).ok().json();
    assert_eq!((&verified["unreferenced"], &verified["snapshots"]), (&0.into(), &1.into()));
    assert_eq!(shell(&home.vault(), "find here -name '.*' -type f"), "", "no unfinished writes stay");
}
