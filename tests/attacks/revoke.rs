//! Revocation: what counts afterwards, for whom, and what the machine can still do. By the binary, as a person does it.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::{fs, path::Path};

use crate::common::{
    bin::{Home, Mounted, until},
    tree,
};

/// A vault of two hosts; the first one sealed `first` times.
fn two_hosts(first: usize) -> Home {
    let home = Home::new();
    for n in 0..first {
        tree::write(home.source().join("file"), format!("first {n}\n"));
        home.seal();
    }
    other(&home, "seal").ok();
    home
}

/// A command of another host.
fn other(home: &Home, command: &str) -> crate::common::bin::Coffre {
    let rename = ["--uts", "sh", "-c", "hostname other-host && exec \"$@\"", "sh"];
    home.owner(["--json", command, "source"]).env("COFFRE_STATE_DIR", home.path("other-state")).under("unshare", &rename)
}

fn name(home: &Home) -> String {
    home.coffre(["--json", "head"]).ok().json().as_array().unwrap()[0]["sealer"].as_str().unwrap().to_owned()
}

fn ids(list: &serde_json::Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|row| row["snapshot"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_a_revoked_sealer_signed_afterwards_is_offered_nowhere_and_named() {
    let home = two_hosts(4);
    let sealer = other_name(&home);
    let say = |n: u64| format!("{sealer}/{n}");
    let planned = home.owner(["--json", "key", "revoke", &sealer, "--after", "2", "--dry-run"]).ok().json();
    assert_eq!(
        (ids(&planned["set_aside"]), ids(&planned["last"]), &planned["list"]),
        (vec![say(3), say(4)], vec![say(2)], &serde_json::Value::Null)
    );
    assert_eq!(home.objects("signers", "").len(), 4, "a dry run writes nothing");

    let done = home.owner(["--json", "key", "revoke", &sealer, "--after", "2"]).ok().json();
    assert_eq!((&done["list"], &done["kept"]), (&"signers/allowed_signers.0003".into(), &2.into()));
    let offered = [say(1), say(2), "other-host/1".to_owned()];
    let listed = home.owner(["--json", "snapshots"]).ok();
    assert_eq!(ids(&listed.json()), offered);
    assert!(listed.err.contains("revoked"), "it says so: {}", listed.err);
    assert_eq!(ids(&home.owner(["--json", "snapshots", "--revoked"]).ok().json()), [say(3), say(4)]);
    // `latest` is another one now, and those that are set aside cannot be named.
    let id = planned["set_aside"][1]["id"].as_str().unwrap();
    home.owner(["cat", &format!("{}:{}", &id[..12], home.source().join("file").display())]).refused(1);
    let mount = Mounted::start(&home, &[]);
    assert_eq!(fs::read_dir(home.mnt().join("snapshots")).unwrap().count(), 3);
    drop(mount);

    for report in [home.coffre(["--json", "verify", "--depth", "snapshots"]), home.owner(["--json", "verify", "--depth", "chunks"])] {
        let report = report.run().exits(4).json();
        let named: Vec<(&str, &str)> =
            report["damage"].as_array().unwrap().iter().map(|f| (f["kind"].as_str().unwrap(), f["object"].as_str().unwrap())).collect();
        let object = |n: u64| format!("snaps/{sealer}/{n:010}.b3");
        assert_eq!(named, [("revoked", object(3).as_str()), ("revoked", object(4).as_str())]);
    }
    let text = home.coffre(["audit"]).run().exits(4).text();
    assert_eq!(text.matches("\nsuspect  snaps/").count() + usize::from(text.starts_with("suspect  snaps/")), 2, "{text}");
    assert!(text.contains("revoked since"), "{text}");

    // The machine itself seals no more, and says why; others go on.
    home.coffre(["seal", "source"]).refused(12).says("was revoked");
    other(&home, "seal").ok();
    // Its name is never used again.
    fs::remove_dir_all(home.path("state")).unwrap();
    home.owner(["seal", "source"]).refused(12).says("a name is never used again");
}

fn other_name(home: &Home) -> String {
    let heads = home.coffre(["--json", "head"]).ok().json();
    let names: Vec<String> = heads.as_array().unwrap().iter().map(|h| h["sealer"].as_str().unwrap().to_owned()).collect();
    names.into_iter().find(|name| name != "other-host").unwrap()
}

#[test]
fn since_a_moment_means_what_was_sealed_then_or_later_and_what_comes_after_that() {
    let home = two_hosts(1);
    let sealer = other_name(&home);
    home.owner(["key", "revoke", &sealer, "--since", "2100-01-01", "--dry-run"]).refused(2).says("still to come");
    let past = home.owner(["--json", "key", "revoke", &sealer, "--since", "2001-02-03T04:05Z"]).ok().json();
    assert_eq!((ids(&past["set_aside"]), &past["since"]), (vec![format!("{sealer}/1")], &"2001-02-03 04:05:00 UTC".into()));
    assert_eq!(ids(&home.owner(["--json", "snapshots"]).ok().json()), ["other-host/1"]);
    // The owner may think again: from now on only.
    home.owner(["key", "revoke", &sealer]).ok();
    assert_eq!(home.snapshots().len(), 2);
    home.coffre(["verify"]).ok();
    home.owner(["key", "revoke", "nobody"]).refused(1).says("names no sealer nobody").says("other-host");
    home.owner(["key", "revoke", &sealer, "--since", "once"]).refused(2);
    home.coffre(["key", "revoke", &sealer]).refused(12);
}

#[test]
fn a_mount_that_is_up_drops_the_snapshots_of_a_sealer_that_is_revoked() {
    let home = two_hosts(2);
    let _mount = Mounted::start(&home, &[]);
    let shown = || fs::read_dir(home.mnt().join("snapshots")).unwrap().count();
    assert_eq!(shown(), 3);
    home.owner(["key", "revoke", &other_name(&home), "--after", "1"]).ok();
    until("the mount shows two snapshots", || shown() == 2);
}

#[test]
fn the_head_is_the_same_words_everywhere_and_either_form_is_expected() {
    let home = Home::new();
    tree::small(&home.source());
    let sealed = home.seal();
    let (words, id) = (sealed["head"].as_str().unwrap().to_owned(), sealed["id"].as_str().unwrap().to_owned());
    let heads = home.coffre(["--json", "head"]).ok().json();
    let sealer = name(&home);
    let row = &heads.as_array().unwrap()[0];
    assert_eq!((row["words"].as_str(), row["id"].as_str(), row["seq"].as_u64()), (Some(words.as_str()), Some(id.as_str()), Some(1)));
    assert!(home.coffre(["head"]).ok().text().contains(&words));
    // A stranger who has never seen the vault.
    let strange = |args: &[&str]| home.coffre(args).env("COFFRE_STATE_DIR", home.path("nothing"));
    home.seal();
    assert!(home.coffre(["seal", "source"]).ok().text().contains(&format!("head {sealer}/3 ")), "seal prints it");
    for head in [words.clone(), id, format!("{sealer}:{words}"), words.replace('-', " ").to_uppercase()] {
        for command in ["verify", "audit"] {
            strange(&[command, "--expect-head", &head]).ok();
        }
    }
    let wrong = ["zoo-zoo-zoo-zoo-zoo-zoo".to_owned(), "0".repeat(64), format!("nobody:{words}")];
    for (head, command) in wrong.iter().flat_map(|head| [(head, "verify"), (head, "audit")]) {
        let done = strange(&[command, "--expect-head", head]).run().exits(4);
        assert!(done.text().contains("rolled-back: no snapshot here is "), "{}", done.text());
    }
    strange(&["verify", "--expect-head", "zoo"]).run().exits(2);
    assert!(!Path::new(&home.path("nothing")).exists());
    home.coffre(["head", "nobody"]).refused(1);
}

#[test]
fn a_rollback_is_named_after_the_next_seal_too_until_somebody_accepts_it() {
    let home = Home::new();
    for n in 0..3 {
        tree::write(home.source().join("file"), format!("{n}\n"));
        home.seal();
    }
    for suffix in ["age", "b3", "b3.sig"] {
        home.objects("snaps", &format!("0000000003.{suffix}")).iter().for_each(|path| fs::remove_file(path).unwrap());
        home.objects("parity/snaps", &format!("0000000003.{suffix}")).iter().for_each(|path| fs::remove_file(path).unwrap());
    }
    let kinds = |report: &serde_json::Value, list: &str| -> Vec<String> {
        report[list].as_array().unwrap().iter().map(|f| f["kind"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(kinds(&home.coffre(["--json", "verify"]).run().exits(4).json(), "damage"), ["rolled-back"]);
    home.coffre(["seal", "source"]).ok().says("the vault was rolled back");
    let report = home.coffre(["--json", "verify"]).run().exits(4).json();
    assert_eq!((kinds(&report, "damage"), kinds(&report, "lost")), (Vec::new(), vec!["rolled-back".to_owned()]));
    home.coffre(["head", "--accept"]).ok();
    home.coffre(["verify"]).ok();
    let quiet = home.coffre(["seal", "source"]).ok();
    assert!(!quiet.err.contains("rolled back"), "{}", quiet.err);
}

#[test]
fn key_list_shows_who_is_revoked_and_a_list_that_was_taken_away_is_told_by_every_command_of_a_host_that_saw_it() {
    let home = two_hosts(2);
    let sealer = other_name(&home);
    home.owner(["key", "revoke", &sealer, "--after", "1"]).ok();
    let rows = home.owner(["--json", "key", "list"]).ok().json()["sealers"].as_array().unwrap().clone();
    let revoked: Vec<&serde_json::Value> = rows.iter().filter(|row| !row["revoked"].is_null()).map(|row| &row["name"]).collect();
    assert_eq!(revoked, [&serde_json::Value::from(sealer.as_str())]);
    // The other host seals, and so sees the list.
    other(&home, "seal").ok();
    home.objects("signers", "0003").iter().chain(&home.objects("signers", "0003.sig")).for_each(|path| fs::remove_file(path).unwrap());
    let told = |args: &[&str]| home.owner(args).env("COFFRE_STATE_DIR", home.path("other-state")).run();
    assert!(told(&["snapshots"]).err.contains("rolled-back: this host has seen list number 3 of signers"));
    assert!(told(&["verify"]).exits(4).text().contains("this host has seen list number 3 of signers"));
    assert!(other(&home, "seal").ok().err.contains("this host has seen list number 3 of signers"));
}
