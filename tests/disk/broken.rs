//! Full, slow and broken disks below the real binary: what was sealed stays, messages say what is wrong, the next run works.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use fuser::Errno;
use rustix::process::Signal;

use super::{
    common::{
        bin::{Coffre, Done, Home, send, until},
        tree,
    },
    device::Verdict,
    serve::Mounted,
};

/// A home whose vault, state and part of the source lie on the device.
struct Broken {
    disk: Mounted,
    home: Home,
}

impl Broken {
    /// With one snapshot.
    fn new() -> Self {
        let home = Home::without_vault();
        let disk = Mounted::at(&home.path("disk"));
        let broken = Self { disk, home };
        broken.run(&["init", "--recipient", &broken.home.recipient()]).exits(0);
        tree::write(broken.home.source().join("first"), tree::noise(1, 300_000));
        tree::write(broken.home.source().join("inline"), "inline");
        broken.seal().exits(0);
        broken
    }

    fn coffre(&self, arguments: &[&str]) -> Coffre {
        let (vault, key) = (self.home.path("disk/vault"), self.home.key());
        let all = ["--vault".as_ref(), vault.as_os_str(), "--identity".as_ref(), key.as_os_str()];
        self.home.bare(all).args(arguments).env("COFFRE_STATE_DIR", self.home.path("disk/state"))
    }

    fn run(&self, arguments: &[&str]) -> Done {
        self.coffre(arguments).run()
    }

    fn seal(&self) -> Done {
        self.run(&["-q", "seal", self.home.source().to_str().unwrap()])
    }

    /// What was sealed first can be read, and the next seal works.
    fn assert_well(&self, what: &str) {
        self.disk.device.set(None);
        let verified = self.run(&["verify", "--depth", "chunks"]);
        assert_eq!(verified.code, 0, "{what}: {verified:?}");
        let first = self.home.source().join("first");
        let read = self.run(&["cat", &format!("latest:{}", first.display())]);
        assert!(read.out == fs::read(&first).unwrap(), "{what}: {read:?}");
        assert_eq!(self.seal().code, 0, "{what}: the next seal");
    }

    /// Fails calls of these names below these paths, from the n-th on, or that one alone; returns how many there were.
    fn fail(&self, calls: &'static [&'static str], below: &'static str, n: usize, alone: bool, errno: Errno) -> Arc<Mutex<usize>> {
        let seen = Arc::new(Mutex::new(0));
        let count = seen.clone();
        self.disk.device.set(Some(Box::new(move |call, path| {
            if !calls.contains(&call) || !path.starts_with(below) {
                return Verdict::Go;
            }
            let mut seen = count.lock().unwrap();
            *seen += 1;
            let due = if alone { *seen == n + 1 } else { *seen > n };
            if due { Verdict::Fail(errno) } else { Verdict::Go }
        })));
        seen
    }
}

/// Says what is wrong in one line of error, and never as a panic.
#[track_caller]
fn assert_says(done: &Done, any_of: &[&str], what: &str) {
    assert!(!done.err.contains("panicked"), "{what}: {done:?}");
    assert!(done.code == 0 || done.err.contains("error: "), "{what}: {done:?}");
    assert!(done.code == 0 || any_of.iter().any(|text| done.err.contains(text)), "{what}: {done:?}");
}

const WRITES: &[&str] = &["write", "create", "mkdir", "rename", "sync"];

#[test]
fn a_disk_that_is_full_at_any_write_of_a_seal_says_so_and_harms_nothing() {
    let broken = Broken::new();
    let mut points = 0;
    for n in (0..).step_by(3) {
        tree::write(broken.home.source().join("second"), tree::noise(2 + n as u64, 200_000));
        let seen = broken.fail(WRITES, "", n, false, Errno::ENOSPC);
        let done = broken.seal();
        if *seen.lock().unwrap() <= n {
            done.exits(0);
            break;
        }
        points += 1;
        assert_says(&done, &["No space left", "no space"], &format!("full from write {n} on"));
        assert!(done.code == 0 || done.err.contains("hint: "), "{done:?}");
        // Sealed, or not: a host that cannot write its own memory of a seal has sealed all the same.
        if n % 12 == 0 {
            broken.assert_well(&format!("full from write {n} on"));
        }
        broken.disk.device.set(None);
    }
    broken.assert_well("at the end");
    println!("{points} writes of a seal met a full disk");
    assert!(points >= 15, "{points}");
}

#[test]
fn a_disk_that_fails_once_at_any_write_of_a_seal_harms_nothing() {
    let broken = Broken::new();
    let mut points = 0;
    for n in (0..).step_by(5) {
        tree::write(broken.home.source().join("second"), tree::noise(2 + n as u64, 200_000));
        let seen = broken.fail(WRITES, "", n, true, Errno::EIO);
        let done = broken.seal();
        if *seen.lock().unwrap() <= n {
            break;
        }
        points += 1;
        assert_says(&done, &["Input/output error", "cannot be used"], &format!("write {n} failed"));
        broken.disk.device.set(None);
    }
    broken.assert_well("at the end");
    println!("{points} writes of a seal failed once");
    assert!(points >= 10, "{points}");
}

#[test]
fn reads_of_a_vault_that_fail_are_told_and_never_wrong_bytes() {
    let broken = Broken::new();
    let first = broken.home.source().join("first");
    let expected = fs::read(&first).unwrap();
    let mut points = 0;
    for n in 0.. {
        let seen = broken.fail(&["read", "open", "list"], "vault", n, true, Errno::EIO);
        let done = broken.run(&["cat", &format!("latest:{}", first.display())]);
        if *seen.lock().unwrap() <= n {
            break;
        }
        points += 1;
        assert!(done.code != 0 || done.out == expected, "read {n} failed: {} bytes of {}", done.out.len(), expected.len());
        assert!(expected.starts_with(&done.out), "read {n} failed, and what came is not the file's");
        assert_says(&done, &["Input/output error", "Missing", "damaged", "cannot"], &format!("read {n} failed"));
    }
    let seen = broken.fail(&["read"], "vault/packs", 0, false, Errno::EIO);
    let verified = broken.run(&["verify"]);
    assert!(verified.code != 0 && *seen.lock().unwrap() > 0, "{verified:?}");
    assert_says(&verified, &["Input/output error", "damage"], "no pack can be read");
    broken.assert_well("at the end");
    println!("{points} reads of cat failed once");
    assert!(points >= 10, "{points}");
}

#[test]
fn reads_and_writes_by_halves_are_made_whole() {
    let broken = Broken::new();
    let mut n = 0;
    broken.disk.device.set(Some(Box::new(move |call, _| {
        n += 1;
        if matches!(call, "read" | "write") && n % 2 == 0 { Verdict::Short } else { Verdict::Go }
    })));
    tree::write(broken.home.source().join("second"), tree::noise(2, 200_000));
    broken.seal().exits(0);
    let second = broken.home.source().join("second");
    assert!(broken.run(&["cat", &format!("latest:{}", second.display())]).exits(0).out == fs::read(&second).unwrap());
    broken.run(&["verify", "--depth", "chunks"]).exits(0);
    broken.assert_well("at the end");
}

#[test]
fn a_source_that_cannot_be_read_is_named_and_the_rest_is_sealed() {
    let broken = Broken::new();
    let source = broken.home.path("disk/source");
    for name in ["a", "bad", "c"] {
        tree::write(source.join(name), tree::noise(5, 100_000));
    }
    broken.fail(&["read"], "source/bad", 0, false, Errno::EIO);
    let done = broken.run(&["--json", "seal", source.to_str().unwrap()]).exits(3);
    let unreadable =
        done.json()["unreadable"].as_array().unwrap().iter().map(|u| u["path"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(unreadable, [source.join("bad").to_str().unwrap()]);
    for name in ["a", "c"] {
        let read = broken.run(&["cat", &format!("latest:{}", source.join(name).display())]).exits(0);
        assert!(read.out == tree::noise(5, 100_000), "{name}");
    }
}

#[test]
fn a_catalog_on_a_broken_disk_costs_time_and_no_snapshot() {
    let broken = Broken::new();
    for errno in [Errno::EIO, Errno::EROFS] {
        for calls in [&["read"][..], &["write", "sync"]] {
            tree::write(broken.home.source().join("second"), tree::noise(calls.len() as u64, 200_000));
            let calls: &'static [&'static str] = if calls.len() == 1 { &["read"] } else { &["write", "sync"] };
            let where_sled_is = "state/";
            broken.fail(calls, where_sled_is, 0, false, errno);
            let done = broken.seal();
            assert_says(&done, &["Input/output error", "Read-only", "catalog", "cannot"], &format!("{calls:?}"));
            broken.assert_well(&format!("{calls:?} of the catalog fail"));
        }
    }
}

#[test]
fn a_state_directory_that_cannot_be_written_is_named() {
    let broken = Broken::new();
    broken.fail(&["write", "create", "mkdir", "rename"], "state", 0, false, Errno::EROFS);
    tree::write(broken.home.source().join("second"), "second");
    let done = broken.seal();
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.err.contains("state") && done.err.contains("Read-only"), "{done:?}");
    // Who only reads needs none.
    for reading in [&["snapshots"][..], &["verify"], &["cat", &format!("latest:{}", broken.home.source().join("first").display())]] {
        broken.run(reading).exits(0);
    }
    broken.assert_well("at the end");
}

#[test]
fn a_store_that_hangs_does_not_keep_an_interrupt_waiting() {
    let broken = Broken::new();
    tree::write(broken.home.source().join("second"), tree::noise(3, 200_000));
    for (call, below) in [("read", "vault"), ("write", "vault"), ("sync", "vault"), ("list", "vault/packs")] {
        broken
            .disk
            .device
            .set(Some(Box::new(move |c, path| if c == call && path.starts_with(below) { Verdict::Hang } else { Verdict::Go })));
        let log = broken.home.path("log");
        let mut child = broken.coffre(&["seal", broken.home.source().to_str().unwrap()]).spawn(&log);
        until(&format!("{call} hangs"), || broken.disk.device.is_stuck());
        send(&child, Signal::INT);
        let said = || fs::read_to_string(&log).unwrap();
        until(&format!("{call} hangs, and it says that the store does not answer"), || said().contains("does not answer"));
        // A request that a FUSE server has taken keeps even a process that was killed; a dead NFS server's does not.
        broken.disk.device.set(None);
        assert_eq!(child.wait().unwrap().code(), Some(130), "{call}: {}", said());
    }
    broken.assert_well("at the end");
}

/// Runs under limits of `ulimit`.
fn limited(home: &Home, limits: &str, arguments: &[&str]) -> Done {
    let mut command = std::process::Command::new("bash");
    command.arg("-c").arg(format!("{limits}; exec \"$@\"")).arg("coffre").arg(env!("CARGO_BIN_EXE_coffre"));
    command.args(["--vault".as_ref(), home.vault().as_os_str(), "--identity".as_ref(), home.key().as_os_str()]).args(arguments);
    command.env("COFFRE_STATE_DIR", home.path("state")).env("LC_ALL", "C.UTF-8").current_dir(home.path("")).arg0("bash");
    Coffre(command).run()
}

#[test]
fn sixty_four_open_files_are_enough() {
    let home = tree::sealed_small();
    for n in 0..200 {
        tree::write(home.source().join(format!("d{}/e{}/f", n % 20, n)), format!("{n}"));
    }
    let source = home.source();
    limited(&home, "ulimit -Hn 64", &["-q", "seal", source.to_str().unwrap()]).exits(0);
    limited(&home, "ulimit -Hn 64", &["verify", "--depth", "chunks"]).exits(0);
    let to = home.path("restored");
    limited(&home, "ulimit -Hn 64", &["restore", "latest", "--to", to.to_str().unwrap()]).exits(0);
    tree::assert_same(&source, &inside(&to, &source));
    // All else that opens many: a damaged pack mended, a copy, a mount that is read whole, a prune.
    let pack = home.objects("packs", ".age").into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    bytes[700] ^= 1;
    fs::remove_file(&pack).unwrap();
    fs::write(&pack, bytes).unwrap();
    let (copy, mnt) = (home.path("copy"), home.mnt());
    fs::remove_dir_all(source.join("d1")).unwrap();
    let runs: [&[&str]; 7] = [
        &["verify", "--repair"],
        &["audit"],
        &["copy", copy.to_str().unwrap()],
        &["-q", "seal", source.to_str().unwrap()],
        &["mount", mnt.to_str().unwrap(), "--daemon"],
        &["forget", "--keep-last", "1"],
        &["prune", "--grace", "0", "--max-unused", "0%", "--force"],
    ];
    for arguments in runs {
        limited(&home, "ulimit -Hn 64", arguments).exits(0);
        if arguments[0] == "mount" {
            tree::assert_same(&source, &home.inside(mnt.join("latest"), &source));
        }
    }
    home.coffre(["unmount", mnt.to_str().unwrap()]).ok();
    home.owner(["verify", "--depth", "chunks"]).ok();
}

fn inside(tree: &Path, path: &Path) -> PathBuf {
    let below = tree.join(path.strip_prefix("/").unwrap());
    if below.exists() { below } else { tree.to_owned() }
}

/// Less and less memory, and fewer and fewer threads: it works, or says what it has not, and the vault is whole.
#[test]
fn too_little_memory_is_an_error_and_no_panic() {
    let home = tree::sealed_small();
    let source = home.source();
    let (mut worked, mut refused) = (0, 0);
    let limits = (0..24).map(|n| format!("ulimit -v {}", 1_400_000 - n * 56_000)).chain((0..6).map(|n| format!("ulimit -u {n}")));
    for (n, limit) in limits.enumerate() {
        tree::write(source.join("docs/noise"), tree::noise(n as u64, 700_000));
        let to = home.path(format!("restored-{n}"));
        let all: [&[&str]; 4] = [
            &["-q", "seal", source.to_str().unwrap()],
            &["verify", "--depth", "chunks"],
            &["verify", "--repair"],
            &["restore", "latest", "--to", to.to_str().unwrap()],
        ];
        for arguments in all {
            let done = limited(&home, &limit, arguments);
            match done.code {
                0 => worked += 1,
                // Too little even to start a program: the system's loader says so.
                127 => (),
                _ => {
                    refused += 1;
                    assert_eq!(done.code, 1, "{limit}: {done:?}");
                    // A thread that finds no room for its second stack dies in the standard library, before anything of ours runs in it.
                    let panicked = done.err.lines().any(|line| line.contains("panicked at") && !line.contains("stack_overflow.rs"));
                    assert!(done.err.contains("error: ") && !panicked, "{limit}: {done:?}");
                }
            }
        }
    }
    println!("{worked} runs worked, {refused} were refused");
    home.owner(["verify", "--depth", "chunks"]).ok();
    home.seal();
    assert!(worked > 0 && refused > 0, "{worked} worked, {refused} refused");
}
