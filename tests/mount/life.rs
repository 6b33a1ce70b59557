//! How a mount begins, where it refuses to, and that nothing is left when it ends.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::Path,
};

use rustix::process::Signal;

use crate::common::{
    bin::{Attached, Coffre, Mounted, is_mounted, run_tool, send, shell, tool, until},
    tree,
};

#[test]
fn signals_and_unmount_leave_no_mount_behind() {
    let home = tree::sealed_small();
    for signal in [Signal::INT, Signal::TERM] {
        let mut mounted = Mounted::start(&home, &[]);
        send(mounted.child(), signal);
        assert_eq!(mounted.wait(), 0, "{signal:?}: {}", mounted.said());
        assert!(!is_mounted(&home.mnt()), "{signal:?}");
    }
    let mut mounted = Mounted::start(&home, &[]);
    home.bare(["unmount"]).args([home.mnt()]).ok();
    assert!(!is_mounted(&home.mnt()));
    assert_eq!(mounted.wait(), 0, "{}", mounted.said());
    assert_eq!(fs::read_dir(home.mnt()).unwrap().count(), 0);
}

#[test]
fn a_signal_while_mounting_leaves_no_mount_behind() {
    let home = tree::sealed_small();
    for round in 0..10 {
        let log = home.path("mnt.log");
        let mut child = home.owner(["mount"]).args([home.mnt()]).spawn(&log);
        let _guard = Mounted::guard(&home.mnt(), &log);
        // As soon as the kernel has it, which is before the mount says that it is ready.
        while !is_mounted(&home.mnt()) && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        send(&child, Signal::INT);
        until("the mount process ends", || child.try_wait().unwrap().is_some());
        assert!(!is_mounted(&home.mnt()), "round {round}: {}", fs::read_to_string(&log).unwrap());
    }
}

#[test]
fn a_mount_in_use_is_not_taken_away_by_unmount_but_by_a_signal_or_lazily() {
    let home = tree::sealed_small();
    for lazily in [false, true] {
        let mut mounted = Mounted::start(&home, &[]);
        let open = fs::File::open(mounted.latest(&home.source()).join("docs/noise")).unwrap();
        home.bare(["unmount"]).args([home.mnt()]).refused(11).says("lazy");
        assert!(is_mounted(&home.mnt()));
        match lazily {
            true => drop(home.bare(["unmount", "--lazy"]).args([home.mnt()]).ok()),
            false => send(mounted.child(), Signal::INT),
        }
        until("the mount is gone", || !is_mounted(&home.mnt()));
        // Whoever holds a file can still read it to its end.
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut &open, &mut content).unwrap();
        assert!(content == tree::noise(7, 700_000));
        drop(open);
        assert_eq!(mounted.wait(), 0, "{}", mounted.said());
    }
}

#[test]
fn a_daemon_answers_when_it_returns_and_mounting_again_at_once_works() {
    let home = tree::sealed_small();
    let log = home.path("daemon.log");
    for round in 0..12 {
        let mut started = home.owner(["mount", "--daemon"]).args([home.mnt()]).spawn(&log);
        let _guard = Mounted::guard(&home.mnt(), &log);
        assert!(started.wait().unwrap().success(), "round {round}: {}", fs::read_to_string(&log).unwrap());
        // By a program of its own: a file that is open here is open, for a moment, in every process that another test starts.
        let hello = home.inside(home.mnt().join("latest"), home.source()).join("hello");
        assert_eq!(run_tool("cat", "coreutils", &[hello]), "hello, world\n", "round {round}");
        home.bare(["unmount"]).args([home.mnt()]).ok();
        assert!(!is_mounted(&home.mnt()), "round {round}");
    }
}

/// Once unmounted, the process looked at what was mounted there, to see whether it was dead. That could be the next mount of the
/// same vault, which was then busy for whoever wanted to unmount it: about one time in forty on a busy machine.
#[test]
fn a_mount_that_ends_does_not_touch_the_next_one_at_its_place() {
    let home = tree::sealed_small();
    let mut first = Mounted::start(&home, &[]);
    send(first.child(), Signal::STOP);
    home.bare(["unmount"]).args([home.mnt()]).ok();
    let mut next = Mounted::start(&home, &[]);
    // Now the next one does not answer; the first one must end without asking it.
    send(next.child(), Signal::STOP);
    send(first.child(), Signal::CONT);
    assert_eq!(first.wait(), 0);
    send(next.child(), Signal::CONT);
    tree::assert_same(&home.source(), &next.latest(&home.source()));
}

#[test]
fn a_daemon_that_cannot_mount_says_why_and_fails() {
    let home = tree::sealed_small();
    home.coffre(["--passphrase-command", "echo wrong", "mount", "--daemon"]).args([home.mnt()]).refused(12);
    home.owner(["mount", "--daemon"]).args([home.path("none")]).refused(1);
    assert!(!is_mounted(&home.mnt()));
}

#[test]
fn a_killed_mount_is_taken_over_or_cleaned_up() {
    let home = tree::sealed_small();
    let kill = || {
        let mut mounted = Mounted::start(&home, &[]);
        send(mounted.child(), Signal::KILL);
        assert_eq!(mounted.wait(), 128 + 9);
        assert!(is_mounted(&home.mnt()), "the kernel keeps a dead mount");
        mounted
    };
    let dead = kill();
    let mounted = Mounted::start(&home, &[]);
    assert!(mounted.said().contains("note: cleared a dead mount from"), "{}", mounted.said());
    tree::assert_same(&home.source(), &mounted.latest(&home.source()));
    drop((mounted, dead));

    let _dead = kill();
    home.bare(["unmount"]).args([home.mnt()]).ok();
    assert!(!is_mounted(&home.mnt()));
    assert_eq!(fs::read_dir(home.mnt()).unwrap().count(), 0);
}

#[test]
fn a_bad_mount_point_is_refused_and_nothing_is_mounted() {
    let home = tree::sealed_small();
    let mount = |point: &Path| home.owner(["mount"]).args([point]);
    mount(&home.path("none")).refused(1).says("/none");
    tree::write(home.path("full/file"), "mine");
    mount(&home.path("full")).refused(1).says("is not empty");
    mount(&home.key()).run().exits(2).says("is not a directory");
    let inside = home.vault().join("packs/inside");
    fs::create_dir_all(&inside).unwrap();
    mount(&inside).refused(2).says("inside");
    fs::remove_dir(&inside).unwrap();
    mount(&home.path("")).refused(2).says("inside");
    mount(&home.vault()).refused(2).says("inside");
    mount(&home.state()).refused(2).says("inside");
    symlink(home.vault(), home.path("link-to-vault")).unwrap();
    mount(&home.path("link-to-vault")).refused(2).says("inside");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(home.path("").to_str().unwrap().trim_end_matches('/')), "{mounts}");

    let mounted = Mounted::start(&home, &[]);
    mount(&home.mnt()).refused(11).says("already mounted");
    tree::assert_same(&home.source(), &mounted.latest(&home.source()));
    drop(mounted);
    home.bare(["unmount"]).args([home.mnt()]).run().exits(1).says("nothing is mounted");
    let _tmpfs = Attached::new(&["-t", "tmpfs", "none"], &home.mnt());
    home.bare(["unmount"]).args([home.mnt()]).refused(2).says("not a vault");
    mount(&home.mnt()).refused(11).says("already mounted");
}

#[test]
fn without_dev_fuse_it_says_what_to_do() {
    let home = tree::sealed_small();
    let script = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && exec \"$@\"";
    home.owner(["mount"]).args([home.mnt()]).under("unshare", &["--mount", "sh", "-c", script, "sh"]).refused(1).says("/dev/fuse");
}

#[test]
fn a_plain_user_mounts_if_dev_fuse_is_open_to_all_and_is_told_otherwise() {
    let home = tree::sealed_small();
    // The binary may lie where only root looks.
    fs::copy(env!("CARGO_BIN_EXE_coffre"), home.path("coffre")).unwrap();
    run_tool("chown", "coreutils", &[OsStr::new("-R"), OsStr::new("65534:65534"), home.path("").as_os_str()]);
    let as_nobody = |args: &[&str]| {
        let keys = ["--vault", "vault", "--identity", "owner.key"];
        let mut command = tool("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "./coffre"]).args(keys).args(args);
        command.env("COFFRE_STATE_DIR", home.path("state")).current_dir(home.path(""));
        Coffre(command)
    };
    let open_to_all = fs::metadata("/dev/fuse").unwrap().mode() & 0o006 == 0o006;
    if open_to_all {
        let mounted = Mounted::of(&home, as_nobody(&["mount"]), &home.mnt());
        let read = "setpriv --reuid 65534 --regid 65534 --clear-groups cat hello";
        assert_eq!(shell(&mounted.latest(&home.source()), read), "hello, world\n");
        as_nobody(&["unmount", "mnt"]).ok();
        assert!(!is_mounted(&home.mnt()));
    } else {
        as_nobody(&["mount", "mnt"]).refused(1).says("/dev/fuse cannot be opened by this user");
    }
    as_nobody(&["verify", "--depth", "chunks"]).ok();
}
