//! Real processes: seals, a mount, and verifies run on through both phases of prunes in other processes.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use serde_json::Value;

use crate::{
    common::{
        bin::{Home, Mounted, shell, until},
        library::{noise, write_files},
    },
    day,
};

fn ids(home: &Home) -> Vec<String> {
    home.snapshots().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}

fn prune(home: &Home, args: &[&str]) -> Value {
    home.owner(["--json", "prune"]).args(args).ok().json()
}

fn size_of(path: &Path) -> u64 {
    let mut sum = 0;
    for entry in fs::read_dir(path).unwrap().map(|e| e.unwrap()) {
        // What another process deletes meanwhile counts nothing.
        sum += if entry.file_type().unwrap().is_dir() { size_of(&entry.path()) } else { entry.metadata().map_or(0, |m| m.len()) };
    }
    sum
}

#[test]
fn a_person_forgets_prunes_looks_and_brings_back() {
    let home = Home::new();
    for n in 0..4 {
        day(&home.source(), n);
        home.seal();
    }
    let all = ids(&home);
    home.owner(["forget", "--keep-last", "1"]).ok();
    let dry = home.owner(["prune", "--dry-run"]).ok().text();
    assert!(dry.contains("would be condemned") && dry.contains("won") && dry.contains("packs"), "{dry}");
    assert!(!home.owner(["prune", "--list"]).ok().text().contains("condemned 2"), "nothing is condemned yet");
    let planned = home.owner(["--json", "prune", "--dry-run"]).ok().json();
    let done = prune(&home, &[]);
    assert_eq!(planned["plan"], done["plan"]);
    let list = home.owner(["prune", "--list"]).ok().text();
    assert!(all[..3].iter().all(|id| list.contains(&id[..8])) && list.contains("its grace: until"), "{list}");
    home.coffre(["verify"]).ok();
    home.owner(["verify", "--depth", "chunks"]).ok();
    home.owner(["undelete", &all[1][..8]]).ok();
    assert_eq!(ids(&home), [all[1].clone(), all[3].clone()]);

    // A grace of nothing, for what is condemned now and for what was condemned before.
    home.owner(["forget", &all[1][..8]]).ok();
    let before = size_of(&home.vault());
    let now = prune(&home, &["--grace", "0", "--max-unused", "0%", "--repack-small"]);
    assert!(now["deleted_objects"].as_u64().unwrap() > 0 && now["waiting"].as_array().unwrap().is_empty(), "{now}");
    assert!(size_of(&home.vault()) < before);
    home.coffre(["verify"]).ok();
    home.owner(["verify", "--depth", "chunks"]).ok();
    let again = home.seal();
    // But for directories above the source, which change under everybody's hands.
    assert!(again["stats"]["new_bytes"].as_u64().unwrap() < 5_000, "the catalog followed: everything is still known: {again}");

    for wrong in [&["--max-unused", "much"][..], &["--grace", "soon"], &["--list", "--dry-run"], &["--max-rewrite", "x"]] {
        assert_eq!(home.owner(["prune"]).args(wrong).run().code, 2, "{wrong:?}");
    }
    home.coffre(["prune"]).refused(12);
}

/// The restore recipe of every vault goes by what is there.
#[test]
fn stock_tools_restore_from_a_vault_that_was_pruned() {
    let home = Home::new();
    for n in 0..3 {
        day(&home.source(), n);
        home.seal();
    }
    home.owner(["forget", "latest", "latest~2"]).ok();
    prune(&home, &["--grace", "0", "--max-unused", "0%"]);
    let rows = home.snapshots();
    let place = rows[0]["snapshot"].as_str().unwrap().replace("/2", "/0000000002");
    day(&home.source(), 1);
    fs::create_dir(home.path("back")).unwrap();
    shell(&home.vault(), &format!("python3 RESTORE.py ../owner.key ../back {place}"));
    shell(&home.path(""), &format!("diff -r source back{}", home.source().display()));
    fs::create_dir(home.path("newest")).unwrap();
    shell(&home.vault(), "python3 RESTORE.py ../owner.key ../newest");
    shell(&home.path(""), &format!("diff -r source newest{}", home.source().display()));
}

#[test]
fn seals_mounts_and_verifies_run_on_through_both_phases() {
    let home = Home::new();
    let kept = home.path("kept");
    for n in 0..4 {
        day(&home.source(), n);
        if n == 1 {
            shell(&home.path(""), "cp -a source kept");
        }
        home.seal();
    }
    let all = ids(&home);
    let mounted = Mounted::start(&home, &["--cache", "24M"]);
    let shown = mounted
        .point
        .join("snapshots")
        .read_dir()
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.to_string_lossy().ends_with(&all[1][..8]));
    let old = home.inside(shown.unwrap(), home.source());
    let (stop, seals, looks) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            // A host that seals all the time, and whose files come and go.
            for n in 10.. {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                day(&home.source(), n % 5);
                home.seal();
                seals.fetch_add(1, Ordering::SeqCst);
            }
        });
        scope.spawn(|| {
            for n in 0.. {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                match n % 2 {
                    0 => drop(home.owner(["verify", "--depth", "chunks"]).ok()),
                    _ => drop(home.coffre(["verify"]).ok()),
                }
                looks.fetch_add(1, Ordering::SeqCst);
            }
        });
        let work = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut deleted = 0;
            for round in 0..6u64 {
                let sealed = seals.load(Ordering::SeqCst);
                until("another seal", || seals.load(Ordering::SeqCst) > sealed);
                // By hand, so that the one that is mounted and read stays.
                let now = ids(&home);
                for id in now[..now.len() - 1].iter().filter(|id| **id != all[1]) {
                    home.owner(["forget", id]).ok();
                }
                let grace = if round % 2 == 0 { "0" } else { "1s" };
                let report = prune(&home, &["--grace", grace, "--max-unused", "0%", "--repack-small"]);
                deleted += report["deleted_objects"].as_u64().unwrap();
                // Read for the first time after packs have moved, then again and again.
                let part = ["stays", "changes", "days"][round as usize % 3];
                shell(&home.path(""), &format!("diff -r {} {}", kept.join(part).display(), old.join(part).display()));
            }
            assert!(deleted > 20, "{deleted} objects were deleted under everybody's eyes");
        }));
        stop.store(true, Ordering::SeqCst);
        work.unwrap_or_else(|e| std::panic::resume_unwind(e));
    });
    println!("{seals:?} seals and {looks:?} verifies meanwhile");
    drop(mounted);
    home.owner(["verify", "--depth", "chunks"]).ok();
    write_files(&home.source(), &[("new", &noise(100_000, 7))]);
    home.seal();
    prune(&home, &["--grace", "0", "--force"]);
    home.owner(["verify", "--depth", "chunks"]).ok();
}
