//! Copies that a host knows of: listed, checked, repaired from one another, read where the vault is damaged.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::common::{
    bin::{Home, Mounted, everything_in},
    library::noise,
};

/// A vault of three snapshots with two copies: `near`, which is up to date, and `far`, which has the first snapshot only.
fn three_copies() -> Home {
    let home = Home::new();
    fs::write(home.source().join("file"), noise(3_000_000, 1)).unwrap();
    home.seal();
    home.coffre(["copy"]).args([home.path("far")]).ok();
    for n in 2..4 {
        fs::write(home.source().join(format!("file-{n}")), noise(100_000, n)).unwrap();
        home.seal();
    }
    home.coffre(["copy"]).args([home.path("near")]).ok();
    for name in ["near", "far"] {
        home.coffre(["copies", "add", name]).args([home.path(name)]).ok();
    }
    home
}

fn listed(home: &Home) -> Vec<Value> {
    home.coffre(["--json", "copies", "list"]).ok().json().as_array().unwrap().clone()
}

/// Turns a byte in the middle of a file round.
fn hurt(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// The same object in another copy.
fn in_copy(home: &Home, object: &Path, name: &str) -> std::path::PathBuf {
    home.path(name).join(object.strip_prefix(home.vault()).unwrap())
}

fn objects_of(dir: &Path) -> Vec<(std::path::PathBuf, Option<Vec<u8>>)> {
    everything_in(dir).into_iter().filter(|(path, bytes)| bytes.is_some() && !path.starts_with("damaged")).collect()
}

#[test]
fn each_copy_is_seen_at_a_glance() {
    let home = three_copies();
    let rows = listed(&home);
    let facts = |row: &Value| ["name", "snapshots", "snapshots_lacking", "packs_read"].map(|name| row[name].clone());
    assert_eq!(facts(&rows[0]), [json!("vault"), json!(3), json!(0), json!(0)]);
    assert_eq!(facts(&rows[1]), [json!("near"), json!(3), json!(0), json!(0)]);
    assert_eq!(facts(&rows[2]), [json!("far"), json!(1), json!(2), json!(0)]);
    assert_eq!((&rows[1]["behind_secs"], &rows[1]["objects_lacking"]), (&json!(null), &json!(0)));
    assert!(rows[2]["behind_secs"].as_u64().is_some() && rows[2]["bytes_lacking"].as_u64() > Some(200_000), "{}", rows[2]);
    assert_eq!((&rows[2]["checked"], &rows[2]["error"]), (&json!(null), &json!(null)));

    // A check reads, and the ledger remembers, copy by copy.
    let checked = home.coffre(["--json", "copies", "check", "far"]).ok().json();
    assert_eq!((checked.as_array().unwrap().len(), &checked[0]["findings"]), (1, &json!([])));
    let rows = listed(&home);
    assert_eq!(rows[2]["packs_read_lately"], rows[2]["packs"]);
    assert_eq!((&rows[1]["packs_read"], &rows[2]["findings"]), (&json!(0), &json!(0)));
    assert!(rows[2]["checked"].is_string());
    home.coffre(["copy"]).args([home.path("far")]).ok();
    assert_eq!(listed(&home)[2]["snapshots_lacking"], json!(0));
    let text = home.coffre(["copies", "list"]).ok().text();
    assert!(text.contains("nothing") && text.contains(": whole") && text.contains("never"), "{text}");

    // One that cannot be reached is said to be so, and hides no other.
    fs::rename(home.path("near"), home.path("gone")).unwrap();
    let rows = listed(&home);
    assert!(rows[1]["error"].as_str().unwrap().contains("no vault"), "{}", rows[1]);
    assert_eq!(rows[2]["snapshots"], json!(3));
    home.coffre(["copies", "check"]).run().exits(1).says("near");
    home.coffre(["copies", "remove", "near"]).ok();
    home.coffre(["copies", "check"]).ok();
    home.coffre(["copies", "remove", "near"]).refused(1).says("there are far");
}

#[test]
fn what_is_no_copy_is_not_added() {
    let home = three_copies();
    let add = |name: &str, place: &Path| home.coffre(["copies", "add", name]).args([place]);
    add("again", &home.vault()).refused(2);
    add("near", &home.path("far")).refused(2);
    add("vault", &home.path("far")).refused(2);
    add("a b", &home.path("far")).refused(2);
    add("nothing", &home.path("nowhere")).refused(10).says("coffre copy");
    let other = Home::new();
    add("other", &other.vault()).refused(1).says("another vault");
    assert_eq!(listed(&home).len(), 3);
}

#[test]
fn copies_are_repaired_from_one_another_in_both_directions() {
    let home = three_copies();
    home.coffre(["copy"]).args([home.path("far")]).ok();
    let whole = objects_of(&home.vault());
    // In each place another object is lost for good: with its parity.
    let packs = home.objects("packs", ".age");
    let beside = |pack: &Path| {
        let name = pack.file_stem().unwrap().to_str().unwrap();
        home.vault().join(format!("parity/{}/{name}.par", &name[..2]))
    };
    let lose = |object: &Path, name: Option<&str>| {
        for file in [object.to_path_buf(), beside(object)] {
            let file = name.map_or(file.clone(), |name| in_copy(&home, &file, name));
            fs::remove_file(file).unwrap();
        }
    };
    lose(&packs[0], None);
    lose(&packs[1], Some("near"));
    let receipt = &home.objects("snaps", ".b3")[0];
    hurt(&in_copy(&home, receipt, "far"));
    let report = home.coffre(["--json", "copies", "check"]).run().exits(4).says("--repair").json();
    let wrong: Vec<usize> = report.as_array().unwrap().iter().map(|row| row["findings"].as_array().unwrap().len()).collect();
    assert!(wrong.iter().all(|n| *n > 0), "{report:#}");
    let report = home.coffre(["--json", "copies", "check", "--repair"]).ok().json();
    assert!(report.as_array().unwrap().iter().all(|row| !row["repaired"].as_array().unwrap().is_empty()), "{report:#}");
    for place in [home.vault(), home.path("near"), home.path("far")] {
        assert_eq!(objects_of(&place), whole, "{}", place.display());
    }
}

#[test]
fn what_the_vault_has_lost_is_read_from_a_copy_and_said() {
    let home = three_copies();
    let (file, second) = (home.source().join("file"), home.source().join("file-2"));
    // Beyond what parity mends: packs, a segment, a manifest, a receipt. Some are gone, some are damaged.
    fs::remove_dir_all(home.vault().join("parity")).unwrap();
    let (packs, snaps) = (home.objects("packs", ".age"), home.objects("snaps", ""));
    for (n, pack) in packs.iter().enumerate() {
        match n % 2 {
            0 => fs::remove_file(pack).unwrap(),
            _ => hurt(pack),
        }
    }
    fs::remove_file(&home.objects("index", ".age")[0]).unwrap();
    let ending = |end: &str| snaps.iter().filter(|path| path.to_str().unwrap().ends_with(end)).cloned().collect::<Vec<_>>();
    hurt(&ending(".age")[1]);
    fs::remove_file(&ending(".b3")[2]).unwrap();
    {
        let mounted = Mounted::of(&home, home.owner(["mount"]), &home.mnt());
        assert_eq!(fs::read(mounted.latest(&file)).unwrap(), noise(3_000_000, 1));
        assert_eq!(fs::read(mounted.latest(&second)).unwrap(), noise(100_000, 2));
        let said = mounted.said();
        assert!(said.contains("is lost or damaged in the vault, and read from its copy at"), "{said}");
    }
    let to = home.path("restored");
    let restored = home.owner(["restore", "latest", "--to"]).args([&to]).ok();
    restored.says("read from its copy at");
    assert_eq!(fs::read(home.inside(&to, &file)).unwrap(), noise(3_000_000, 1));
    assert_eq!(home.owner(["cat", &format!("latest:{}", second.display())]).ok().out, noise(100_000, 2));
    // Without the copies it is what it is.
    for name in ["near", "far"] {
        home.coffre(["copies", "remove", name]).ok();
    }
    home.owner(["cat", &format!("latest:{}", second.display())]).run().exits(4);
}

#[test]
fn what_the_retention_of_a_copy_took_out_of_it_does_not_come_back() {
    let home = Home::new();
    for n in 0..3 {
        fs::write(home.source().join("changes"), noise(300_000, n)).unwrap();
        home.seal();
    }
    let dest = home.path("copy");
    let copy = || home.coffre(["--json", "copy"]).args([&dest]).ok().json();
    let there = |args: &[&str]| home.bare(["--vault".as_ref(), dest.as_os_str(), "--identity".as_ref(), home.key().as_os_str()]).args(args);
    let snapshots = || there(&["--json", "snapshots"]).ok().json().as_array().unwrap().len();
    copy();
    there(&["forget", "--keep-last", "1"]).ok();
    there(&["prune", "--grace", "0", "--max-unused", "0%"]).ok();
    let before = objects_of(&dest);
    let again = copy();
    assert_eq!((&again["objects"], &again["findings"], snapshots()), (&json!(0), &json!([]), 1), "{again}");
    assert_eq!(objects_of(&dest), before);
    home.coffre(["copy", "--verify"]).args([&dest]).ok();
    home.coffre(["copies", "add", "own"]).args([&dest]).ok();
    assert_eq!(listed(&home)[1]["snapshots_lacking"], json!(0));
    // A later snapshot goes back to what was in the first one: nobody without a key can tell, so it travels with what it may need.
    fs::write(home.source().join("changes"), noise(300_000, 0)).unwrap();
    home.seal();
    assert_eq!(copy()["snapshots"], json!(1));
    assert_eq!(snapshots(), 2);
    there(&["verify", "--depth", "chunks"]).ok();
    let file = format!("latest:{}", home.source().join("changes").display());
    assert_eq!(there(&["cat", &file]).ok().out, noise(300_000, 0));
    // The copy's next prune takes out again what is not needed, and that is the end of it.
    there(&["prune", "--grace", "0", "--max-unused", "0%"]).ok();
    there(&["verify", "--depth", "chunks"]).ok();
    assert_eq!(there(&["cat", &file]).ok().out, noise(300_000, 0));
    assert_eq!((copy()["objects"].clone(), snapshots()), (json!(0), 2));
    // The vault itself has all of it.
    assert_eq!(home.snapshots().len(), 4);
}

/// What is shown must not be an older snapshot because a file of a few bytes is gone.
#[test]
fn a_snapshot_that_lost_its_signature_is_still_the_latest_one() {
    let home = three_copies();
    let place = fs::read_dir(home.vault().join("snaps")).unwrap().next().unwrap().unwrap().path();
    let lose = |name: &str| fs::remove_file(place.join(name)).unwrap();
    let look = || {
        let done = home.owner(["ls", "latest", "--recursive"]).ok();
        assert!(done.text().contains("file-3"), "{}", done.text());
        done.err
    };
    let told = |said: String| assert!(said.contains("0000000003.b3.sig: is gone, and was read from a copy"), "{said}");
    assert!(!look().contains("gone"));
    lose("0000000003.b3.sig");
    told(look());
    lose("0000000003.b3");
    told(look());
    // Without second copies there are the other copies of the vault.
    fs::rename(home.vault().join("parity"), home.path("parity")).unwrap();
    told(look());
    let rows = listed(&home);
    assert_eq!((&rows[1]["snapshots_ahead"], &rows[2]["snapshots_ahead"]), (&json!(1), &json!(0)));
    let text = home.coffre(["copies", "list"]).ok().text();
    assert!(text.contains("has a snapshot that the vault lost"), "{text}");
    home.coffre(["copy", "--from"]).args([home.path("near"), home.vault()]).ok();
    assert!(!look().contains("gone"));
}

#[test]
fn a_vault_without_the_file_that_says_it_is_one_opens_by_its_second_copy() {
    let home = three_copies();
    for lost in ["VAULT", "signers/allowed_signers", "signers/allowed_signers.sig"] {
        fs::remove_file(home.vault().join(lost)).unwrap();
        let done = home.owner(["ls", "latest", "--recursive"]).ok();
        assert!(done.text().contains("file-3"), "without {lost}: {}", done.text());
        home.coffre(["init", "--recipient"]).args([home.recipient()]).refused(1);
    }
    assert!(home.owner(["verify"]).run().exits(4).text().contains("VAULT"));
    home.owner(["verify", "--repair"]).ok();
    for back in ["VAULT", "signers/allowed_signers", "signers/allowed_signers.sig"] {
        assert!(home.vault().join(back).exists(), "{back}");
    }
    home.owner(["verify"]).ok();
}
