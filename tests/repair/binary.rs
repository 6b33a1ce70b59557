//! Repairs as a person runs them.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::{fs, path::Path};

use super::common::{
    bin::{Home, everything_in, shell},
    tree,
};

/// Flips the byte in the middle of every step of a file.
fn hurt(path: &Path, step: usize) {
    let mut bytes = fs::read(path).unwrap();
    (step / 2..bytes.len()).step_by(step).for_each(|at| bytes[at] ^= 0x10);
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

fn longest(home: &Home) -> std::path::PathBuf {
    home.objects("packs", ".age").into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

fn sealed() -> Home {
    let home = Home::new();
    tree::write(home.source().join("big"), tree::noise(1, 900_000));
    tree::write(home.source().join("d/small"), tree::noise(2, 3_000));
    home.seal();
    home
}

/// The objects of a vault, without what a repair keeps aside.
fn vault(home: &Home) -> Vec<(std::path::PathBuf, Option<Vec<u8>>)> {
    everything_in(&home.vault()).into_iter().filter(|(path, bytes)| bytes.is_some() && !path.starts_with("damaged")).collect()
}

/// On the machine that stores the vault: no key, no state directory.
#[test]
fn audit_repairs_without_any_secret_and_keeps_what_it_replaced() {
    let home = sealed();
    let whole = vault(&home);
    let (pack, manifest) = (longest(&home), home.objects("snaps", ".age")[0].clone());
    hurt(&pack, fs::metadata(&pack).unwrap().len() as usize);
    hurt(&manifest, 100);
    let (damaged, name) = (fs::read(&pack).unwrap(), pack.strip_prefix(home.vault()).unwrap().to_owned());
    let audit = |args: &[&str]| home.coffre(["--json", "audit"]).args(args).env("COFFRE_STATE_DIR", home.path("nothing"));
    assert_eq!(audit(&[]).run().exits(4).json()["findings"].as_array().unwrap().len(), 2);
    let report = audit(&["--repair"]).ok().json();
    assert_eq!((report["findings"].as_array().unwrap().len(), report["repaired"].as_array().unwrap().len()), (0, 2), "{report:#}");
    assert!(vault(&home) == whole, "every object is what it was");
    assert_eq!(fs::read(home.vault().join("damaged").join(&name)).unwrap(), damaged);
    assert!(audit(&[]).ok().json()["repaired"].is_null());
    assert!(!home.path("nothing").exists(), "it needs no state directory and makes none");
    home.owner(["verify", "--depth", "chunks"]).ok();
}

#[test]
fn what_is_beyond_parity_comes_from_a_copy_and_is_named_without_one() {
    let home = sealed();
    let whole = vault(&home);
    home.coffre(["copy", home.path("copy").to_str().unwrap()]).ok();
    let pack = longest(&home);
    hurt(&pack, 16 << 10);
    let done = home.owner(["verify", "--repair"]).run().exits(4);
    assert!(done.text().contains("lost     ") && done.text().contains("source/big"), "{}", done.text());
    let done = home.coffre(["verify", "--repair", "--from", home.path("copy").to_str().unwrap()]).ok();
    assert!(done.text().contains("from another copy"), "{}", done.text());
    assert!(vault(&home) == whole);
    home.coffre(["verify", "--repair", "--from", home.vault().to_str().unwrap()]).refused(2);
}

#[test]
fn what_is_in_no_copy_comes_from_the_files_that_still_are_what_they_were() {
    let home = sealed();
    tree::write(home.source().join("other"), tree::noise(3, 400_000));
    home.seal();
    let before = home.snapshots();
    for pack in home.objects("packs", ".age") {
        if fs::metadata(&pack).unwrap().len() > 60_000 {
            hurt(&pack, 16 << 10);
        }
    }
    // One file is what it was, one is not any more.
    tree::write(home.source().join("other"), tree::noise(4, 400_000));
    let done = home.owner(["verify", "--repair", "--from-source"]).run().exits(4);
    let lost: Vec<&str> =
        done.out.split(|b| *b == b'\n').filter_map(|line| std::str::from_utf8(line).ok()?.strip_prefix("lost ")).collect();
    assert!(lost.len() == 1 && lost[0].contains("source/other"), "{}", done.text());
    assert_eq!(home.snapshots(), before, "what was read again is no snapshot for people");
    let to = home.path("back");
    home.owner(["restore", before[0]["id"].as_str().unwrap(), "--to", to.to_str().unwrap()]).ok();
    assert_eq!(fs::read(home.inside(&to, home.source().join("big"))).unwrap(), tree::noise(1, 900_000));
    // The other one comes back.
    tree::write(home.source().join("other"), tree::noise(3, 400_000));
    let done = home.owner(["verify", "--repair", "--from-source"]).ok();
    assert!(done.err.contains("is stored again"), "{}", done.err);
    home.owner(["verify", "--depth", "chunks"]).ok();
    home.seal();
    home.owner(["verify", "--depth", "chunks"]).ok();
    home.owner(["prune", "--grace", "0", "--shorten"]).run();
    home.owner(["verify", "--depth", "chunks"]).ok();
    // Python reads past the damaged packs, too.
    shell(
        home.path("").as_path(),
        &format!(
            "python3 vault/RESTORE.py owner.key python && cmp {} python{}",
            home.source().join("other").display(),
            home.source().join("other").display()
        ),
    );
}

#[test]
fn without_an_owners_key_the_next_seal_stores_again_what_was_lost() {
    let home = sealed();
    home.objects("packs", ".age").iter().for_each(|pack| hurt(pack, 16 << 10));
    home.coffre(["verify", "--repair", "--from-source"]).run().exits(4).says("the next seal of this host");
    home.seal();
    let to = home.path("back");
    home.owner(["restore", "latest~1", "--to", to.to_str().unwrap()]).ok();
    assert_eq!(fs::read(home.inside(&to, home.source().join("big"))).unwrap(), tree::noise(1, 900_000));
}

#[test]
fn one_snapshot_is_verified_by_itself() {
    let home = sealed();
    fs::remove_file(home.source().join("big")).unwrap();
    tree::write(home.source().join("d/small"), tree::noise(5, 3_000));
    home.seal();
    let pack = longest(&home);
    hurt(&pack, 16 << 10);
    let verify = |snap: &str, depth: &str| home.owner(["--json", "verify", "--depth", depth, "--snapshot", snap]).run();
    for depth in ["packs", "chunks"] {
        let report = verify("latest", depth).exits(0).json();
        assert!(report["packs"].as_u64() < Some(home.objects("packs", ".age").len() as u64), "{report:#}");
        let report = verify("latest~1", depth).exits(4).json();
        let files = report["damaged_files"].as_array().unwrap();
        assert!(!files.is_empty() && files.iter().all(|file| file["snapshot"] == home.snapshots()[0]["id"]), "{report:#}");
    }
    home.coffre(["verify", "--snapshot", "latest"]).refused(12);
}

// Who restores from the only vault that there is does not want to hear of repairs first.
#[test]
fn a_restore_mends_on_the_fly_by_parity_alone_says_so_and_writes_nothing() {
    let home = sealed();
    for object in [home.objects("packs", ".age"), home.objects("snaps", ".age"), home.objects("index", ".age")].concat() {
        hurt(&object, fs::metadata(&object).unwrap().len() as usize);
    }
    let damaged = everything_in(&home.vault());
    let to = home.path("back");
    let done = home.owner(["restore", "latest", "--to", to.to_str().unwrap()]).ok();
    tree::assert_same(&home.source(), &home.inside(&to, home.source()));
    for pack in home.objects("packs", ".age") {
        let name = pack.strip_prefix(home.vault()).unwrap().display().to_string();
        let told: Vec<&str> = done.err.lines().filter(|line| line.contains(&name)).collect();
        assert!(matches!(told[..], [line] if line.contains("mended in memory: coffre verify --repair")), "{name}: {}", done.err);
    }
    // In scripts, and by the other ways of reading.
    let big = home.source().join("big");
    let snap = format!("latest:{}", big.display());
    let done = home.owner(["cat", &snap]).ok();
    assert!(done.out == fs::read(&big).unwrap() && done.err.contains("mended in memory"), "{}", done.err);
    let done = home.owner(["dump", "latest"]).ok();
    assert!(done.err.contains("mended in memory"), "{}", done.err);
    assert!(everything_in(&home.vault()) == damaged, "a reader writes nothing");
    // Beyond what parity can mend, it is an error and no wrong bytes.
    hurt(&longest(&home), 16 << 10);
    let to = home.path("less");
    let done = home.owner(["restore", "latest", "--to", to.to_str().unwrap()]).run().exits(4);
    assert!(!home.inside(&to, &big).exists());
    for file in [big, home.source().join("d/small")] {
        let there = fs::read(home.inside(&to, &file)).ok();
        assert!(there.as_ref().is_none_or(|there| *there == fs::read(&file).unwrap()), "{}", file.display());
        assert_eq!(done.text().contains(file.to_str().unwrap()), there.is_none(), "{}: {}", file.display(), done.text());
    }
}
