//! Copies as a person makes them: by the command, by `cp -r`, by `rsync`.

use std::{fs, path::Path};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::common::{
    bin::{Attached, Home, Mounted, everything_in, run_tool, send, until},
    library::noise,
};

fn sealed() -> Home {
    let home = Home::new();
    fs::write(home.source().join("file"), noise(3_000_000, 1)).unwrap();
    home.seal();
    fs::write(home.source().join("other"), "more").unwrap();
    home.seal();
    home
}

/// The content of the file, through the copy.
fn content(home: &Home, vault: &Path) -> Vec<u8> {
    let file = format!("latest:{}", home.source().join("file").display());
    home.bare(["--vault".as_ref(), vault.as_os_str()]).args(["--identity".as_ref(), home.key().as_os_str()]).args(["cat", &file]).ok().out
}

#[test]
fn a_copy_needs_no_key_and_says_what_it_did() {
    let home = sealed();
    let dest = home.path("offsite/copy");
    // A relay: no state directory, no key, nothing of the host's.
    let relay = |args: &[&str]| {
        home.bare(args).env("COFFRE_STATE_DIR", home.path("relay")).args([&dest]).args(["--from".as_ref(), home.vault().as_os_str()])
    };
    let report = relay(&["--json", "--progress", "json", "copy"]).ok();
    let lines: Vec<Value> = report.err.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = lines.last().expect("progress is told");
    assert_eq!(last["bytes"], last["bytes_total"]);
    let report = report.json();
    assert_eq!((&report["snapshots"], &report["findings"], &report["dry_run"]), (&json!(2), &json!([]), &json!(false)));
    assert!(!home.path("relay").exists(), "a relay keeps nothing");
    assert_eq!(everything_in(&dest), everything_in(&home.vault()));
    assert_eq!(content(&home, &dest), noise(3_000_000, 1));

    let again = relay(&["copy", "--verify"]).ok().text();
    assert!(again.contains("is up to date") && again.contains("compared equal"), "{again}");
    let dry = relay(&["copy", "-n"]).ok().text();
    assert!(dry.contains("is up to date"), "{dry}");
}

#[test]
fn places_that_make_no_sense_are_refused() {
    let home = sealed();
    fs::write(home.path("file"), "x").unwrap();
    home.coffre(["copy"]).args([home.vault()]).refused(2);
    home.coffre(["copy"]).args([home.vault().join("inside")]).refused(2);
    home.coffre(["copy"]).args([home.path("file")]).refused(10);
    home.coffre(["copy"]).args([home.source()]).refused(1);
    home.coffre(["copy"]).args([home.path("copy")]).args(["--from".as_ref(), home.source().as_os_str()]).refused(10);
    home.coffre(["copy", "--snapshots", "nobody"]).args([home.path("copy")]).refused(1);
    assert!(!home.path("copy").exists());
    home.coffre(["copy", "--snapshots", "a b"]).args([home.path("copy")]).run().exits(2);
}

#[test]
fn damage_is_exit_code_4_and_the_rest_is_copied() {
    let home = sealed();
    let packs = home.objects("packs", ".age");
    fs::remove_file(&packs[0]).unwrap();
    let done = home.coffre(["copy"]).args([home.path("copy")]).run().exits(4).says("coffre: hint: ");
    assert!(done.text().contains("wrong    packs/"), "{}", done.text());
    let files = |dir: &Path| everything_in(dir).into_iter().filter(|(_, bytes)| bytes.is_some()).collect::<Vec<_>>();
    assert_eq!(files(&home.path("copy")), files(&home.vault()));
}

#[test]
fn cp_and_rsync_make_copies_too() {
    let home = sealed();
    let (by_cp, by_rsync) = (home.path("by-cp"), home.path("by-rsync"));
    run_tool("cp", "coreutils", &["-r".as_ref(), home.vault().as_os_str(), by_cp.as_os_str()]);
    let from = format!("{}/", home.vault().display());
    run_tool("rsync", "rsync", &["-a", &from, &by_rsync.display().to_string()]);
    fs::write(home.source().join("third"), "third").unwrap();
    home.seal();
    for copy in [by_cp, by_rsync] {
        home.bare(["verify"]).args(["--vault".as_ref(), copy.as_os_str()]).env("COFFRE_STATE_DIR", home.path("elsewhere")).ok();
        // What they began, the command goes on with, and the other way round.
        let report = home.coffre(["--json", "copy", "--verify"]).args([&copy]).ok().json();
        assert_eq!((&report["snapshots"], &report["findings"]), (&json!(1), &json!([])));
        assert_eq!(everything_in(&copy), everything_in(&home.vault()));
        assert_eq!(
            run_tool("rsync", "rsync", &["-ac", "--dry-run", "--no-times", "-i", &from, &copy.display().to_string()])
                .lines()
                .filter(|l| l.starts_with(">f"))
                .count(),
            0
        );
        assert_eq!(content(&home, &copy), noise(3_000_000, 1));
        let point = home.path("copy-mnt");
        fs::create_dir_all(&point).unwrap();
        let mount = home.bare(["mount".as_ref(), "--vault".as_ref(), copy.as_os_str(), "--identity".as_ref(), home.key().as_os_str()]);
        let mounted = Mounted::of(&home, mount, &point);
        assert_eq!(fs::read(mounted.latest(&home.source().join("third"))).unwrap(), b"third");
    }
}

#[test]
fn a_copy_that_is_killed_goes_on() {
    let home = Home::new();
    for n in 0..3 {
        fs::write(home.source().join(format!("file-{n}")), noise(30_000_000, n)).unwrap();
        home.seal();
    }
    let dest = home.path("copy");
    let mut whole = false;
    for round in 0..20 {
        let mut child = home.coffre(["copy"]).args([&dest]).spawn(&home.path("log"));
        let before = everything_in(&dest).len();
        // Killed as soon as it has got somewhere, a little later each time.
        until("the copy gets on, or ends", || child.try_wait().unwrap().is_some() || everything_in(&dest).len() > before + round);
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{}", fs::read_to_string(home.path("log")).unwrap());
            whole = true;
            break;
        }
        send(&child, Signal::KILL);
        child.wait().unwrap();
        if dest.join("VAULT").exists() {
            home.bare(["verify"]).args(["--vault".as_ref(), dest.as_os_str()]).env("COFFRE_STATE_DIR", home.path("elsewhere")).ok();
        }
    }
    if !whole {
        home.coffre(["copy"]).args([&dest]).ok();
    }
    let objects = |dir: &Path| {
        let all = everything_in(dir).into_iter();
        all.filter(|(path, _)| !path.file_name().unwrap().to_string_lossy().starts_with(".tmp-")).collect::<Vec<_>>()
    };
    assert_eq!(objects(&dest), objects(&home.vault()));
}

#[test]
fn a_full_disk_is_said_and_the_copy_goes_on_elsewhere() {
    let home = sealed();
    if !rustix::process::geteuid().is_root() {
        eprintln!("not tested: a full disk needs root, to mount a small one");
        return;
    }
    let dest = home.path("small");
    fs::create_dir(&dest).unwrap();
    let disk = Attached::new(&["-t", "tmpfs", "-o", "size=1m", "tmpfs"], &dest);
    home.coffre(["copy"]).args([&dest]).refused(1).says("make room and run the same command again");
    home.bare(["verify"]).args(["--vault".as_ref(), dest.as_os_str()]).env("COFFRE_STATE_DIR", home.path("elsewhere")).ok();
    disk.remount("size=100m");
    home.coffre(["copy", "--verify"]).args([&dest]).ok();
    assert_eq!(everything_in(&dest), everything_in(&home.vault()));
}
