//! What somebody who can write to the storage puts into `keys/`: junk, what was removed, keys of his own, a whole vault.

use std::{fs, path::Path};

use crate::{
    Machine,
    common::{
        bin::{Coffre, Home, run_tool, secret, shell},
        tree,
    },
    hello,
};

/// A home with one small snapshot, and a second way in with the key `second`.
fn sealed() -> Home {
    let home = crate::sealed();
    run_tool("age-keygen", "age", &["-o", home.path("second").to_str().unwrap()]);
    let second = run_tool("age-keygen", "age", &["-y", home.path("second").to_str().unwrap()]);
    home.owner(["key", "add", "--recipient", second.trim()]).ok();
    home
}

/// `coffre ARGS` by the second way in.
fn second(home: &Home, args: &[&str]) -> Coffre {
    home.coffre(["--identity", "second"]).args(args)
}

/// The worth of each way in, as the owner sees it.
fn standings(home: &Home) -> Vec<String> {
    let listed = home.owner(["--json", "key", "list"]).ok().json();
    listed["ways"].as_array().unwrap().iter().map(|way| way["standing"].as_str().unwrap().to_owned()).collect()
}

/// Findings of a command, as kind and object.
fn found(report: &serde_json::Value, list: &str) -> Vec<(String, String)> {
    let text = |f: &serde_json::Value, name: &str| f[name].as_str().unwrap().to_owned();
    report[list].as_array().unwrap().iter().map(|f| (text(f, "kind"), text(f, "object"))).collect()
}

const SECOND: &str = "keys/owner-0002-age.age";

#[test]
fn a_way_that_nobody_is_sure_of_is_not_the_last_one_that_is_left() {
    let take = format!("cp -a vault/{SECOND} vault/keys/way-0002.age vault/parity/keys .");
    let put = format!("cp {} way-0002.age vault/keys/; cp keys/* vault/parity/keys/ || true", &SECOND[5..]);
    for (what, script, standing) in [
        ("junk", format!("rm vault/{SECOND} vault/parity/{SECOND}; printf 'age-encryption.org/v1\\nx\\n' > vault/{SECOND}"), "unproven"),
        ("cut", format!("for f in vault/{SECOND} vault/parity/{SECOND}; do chmod u+w $f; truncate -s 100 $f; done"), "unproven"),
        (
            "another file",
            format!("cp -f vault/keys/owner-0001-age.age vault/{SECOND}; cp -f vault/{SECOND} vault/parity/{SECOND}"),
            "unproven",
        ),
        (
            "behind",
            format!("{take}; rm vault/{SECOND} vault/parity/{SECOND}; $COFFRE key rotate; cp -f {} vault/keys/; rm -rf keys", &SECOND[5..]),
            "behind",
        ),
        ("removed", format!("{take}; $COFFRE key remove 2; {put}; rm -rf keys"), "removed"),
    ] {
        let home = sealed();
        let coffre = format!("{} --vault vault --identity owner.key", env!("CARGO_BIN_EXE_coffre"));
        shell(&home.path(""), &format!("export COFFRE_STATE_DIR=state; COFFRE='{coffre}'\n{script}"));
        assert_eq!(standings(&home), ["current", standing], "{what}");
        home.owner(["key", "remove", "1"]).refused(1).says("is the last way into this vault");
        assert_eq!(home.owner(["cat", &hello(&home)]).ok().text(), "hello, world\n", "{what}");
        // It can be taken away, whatever it is, and then all is well.
        home.owner(["key", "remove", "2"]).ok();
        home.owner(["key", "rotate"]).ok();
        home.seal();
        home.owner(["verify", "--depth", "chunks"]).ok();
        assert_eq!(standings(&home), ["current"], "{what}");
    }
}

#[test]
fn a_removed_way_that_comes_back_is_told_and_gets_nothing_new() {
    let home = sealed();
    shell(&home.path(""), "cp -a vault off");
    home.owner(["key", "kit", "2"]).ok();
    let kit = home.owner(["key", "kit", "2"]).ok().text();
    fs::write(home.path("kit"), kit).unwrap();
    home.owner(["key", "remove", "2"]).ok();
    home.seal();
    // An old kit is not taken while there is another way in.
    second(&home, &["key", "restore", "kit"]).refused(1).says("was removed from this vault by an owner");
    shell(&home.path(""), "cp -an off/. vault/");
    let returned = [("returned".to_owned(), SECOND.to_owned())];
    assert_eq!(found(&home.coffre(["--json", "verify"]).run().exits(4).json(), "damage"), returned);
    assert_eq!(found(&home.coffre(["--json", "audit"]).run().exits(4).json(), "findings"), returned);
    // It reads what it could read, and changes nothing.
    let read = second(&home, &["cat", &hello(&home)]).ok().says("an owner removed owner-0002-age.age");
    assert_eq!(read.text(), "hello, world\n");
    for change in [&["key", "rotate"][..], &["key", "remove", "1"], &["key", "add", "--recipient", &home.recipient()]] {
        second(&home, change).refused(12).says("was removed from this vault");
    }
    assert_eq!(home.owner(["--json", "key", "rotate"]).ok().json()["ways"], 1);
    fs::write(home.source().join("later"), "later\n").unwrap();
    home.seal();
    second(&home, &["cat", &hello(&home).replace("hello", "later")]).run().exits(1);
    home.owner(["key", "remove", "2"]).ok();
    home.owner(["verify", "--depth", "chunks"]).ok();
}

#[test]
fn who_lost_all_but_a_removed_way_can_still_get_in() {
    let home = sealed();
    fs::write(home.path("kit"), home.owner(["key", "kit", "2"]).ok().text()).unwrap();
    home.owner(["key", "remove", "2"]).ok();
    shell(&home.path(""), "rm vault/keys/owner-* vault/parity/keys/owner-*");
    second(&home, &["key", "restore", "kit"]).ok();
    second(&home, &["key", "add", "--recipient", &home.recipient()]).ok();
    assert_eq!(home.owner(["cat", &hello(&home)]).ok().text(), "hello, world\n");
}

#[test]
fn an_epoch_that_no_owner_tells_of_is_none() {
    let home = sealed();
    let plant = |number: u32| {
        let file = home.vault().join(format!("keys/epoch-{number:04}.age"));
        secret(&home.path("junk"), "junk\n");
        run_tool("age", "age", &["-r", &home.recipient(), "-o", file.to_str().unwrap(), home.path("junk").to_str().unwrap()]);
    };
    plant(9999);
    plant(2);
    let untold = |kind: &str, numbers: &[&str]| -> Vec<(String, String)> {
        numbers.iter().map(|n| (kind.to_owned(), format!("keys/epoch-{n}.age"))).collect()
    };
    // Before any rotation it may be one of an older coffre, of which nobody told.
    assert_eq!(found(&home.coffre(["--json", "verify"]).ok().json(), "notices"), untold("unsigned", &["9999", "0002"]));
    let said = home.owner(["key", "add", "--recipient", &home.recipient()]).ok();
    assert!(!said.err.contains("warning"), "{}", said.err);
    assert_eq!(home.owner(["--json", "key", "rotate"]).ok().json()["epoch"], 3);
    home.seal();
    assert_eq!(found(&home.coffre(["--json", "verify"]).run().exits(4).json(), "damage"), untold("stranger", &["9999"]));
    assert_eq!(found(&home.coffre(["--json", "audit"]).run().exits(4).json(), "findings"), untold("stranger", &["9999"]));
    home.owner(["key", "remove", "3"]).ok();
    for key in ["owner.key", "second"] {
        assert_eq!(home.coffre(["--identity", key, "cat", &hello(&home)]).ok().text(), "hello, world\n", "{key}");
        let listed = home.coffre(["--json", "--identity", key, "key", "list"]).ok();
        assert!(listed.json()["epoch"] == 3 && listed.err.is_empty(), "{key}: {listed:?}");
    }
    shell(&home.path(""), "rm -f vault/keys/epoch-9999.age vault/parity/keys/epoch-9999.age");
    home.seal();
    home.owner(["verify", "--depth", "chunks"]).ok();
}

/// The id of a vault.
fn id(home: &Home) -> String {
    fs::read_to_string(home.vault().join("VAULT")).unwrap().lines().find(|l| l.starts_with("id ")).unwrap()[3..].to_owned()
}

/// Puts keys of the vault of `thief`, under the id of that of `home`, into `target`, sealed to the owner's public key.
fn plant(home: &Home, thief: &Home, target: &Path) {
    let file = thief.vault().join("keys/owner-0001-age.age");
    let opened = run_tool("age", "age", &["-d", "-i", thief.key().to_str().unwrap(), file.to_str().unwrap()]);
    secret(&home.path("planted"), &opened.replace(&id(thief), &id(home)));
    run_tool("age", "age", &["-r", &home.recipient(), "-o", target.to_str().unwrap(), home.path("planted").to_str().unwrap()]);
}

#[test]
fn a_machine_that_is_new_to_the_vault_is_not_kept_out_by_planted_keys() {
    let (home, thief) = (sealed(), Home::new());
    for name in ["owner-0000-age.age", "owner-0009-age.age"] {
        plant(&home, &thief, &home.vault().join("keys").join(name));
    }
    fs::copy(home.vault().join("keys/way-0001.age"), home.vault().join("keys/way-0000.age")).unwrap();
    fs::copy(home.vault().join("keys/way-0001.age"), home.vault().join("keys/way-0009.age")).unwrap();
    let fresh = || home.owner(["cat", &hello(&home)]).env("COFFRE_STATE_DIR", home.path("fresh"));
    assert_eq!(fresh().ok().text(), "hello, world\n");
}

#[test]
fn who_knows_the_owners_key_does_not_take_a_forged_vault() {
    let (home, thief) = (sealed(), Home::new());
    tree::small(&thief.source());
    thief.seal();
    let line = |home: &Home| {
        fs::read_to_string(home.vault().join("signers/allowed_signers"))
            .unwrap()
            .lines()
            .find(|l| l.starts_with("owner "))
            .unwrap()
            .to_owned()
    };
    let kit = home.owner(["key", "kit"]).ok().text();
    secret(&home.path("kit.line"), kit.lines().find(|l| l.starts_with("owner ")).unwrap());
    secret(&home.path("list.line"), &format!("{}\n", line(&home)));
    secret(&home.path("kit"), &kit);
    let (real, forged) = (home.vault(), thief.vault());
    let key = run_tool("age-keygen", "age", &["-y", thief.key().to_str().unwrap()]);
    assert!(!kit.contains(key.trim()));
    let coffre = |vault: &Path, args: &[&str]| {
        home.bare(["--vault", vault.to_str().unwrap(), "--identity", thief.key().to_str().unwrap()])
            .args(args)
            .env("COFFRE_STATE_DIR", home.path("fresh"))
    };
    for file in ["kit.line", "list.line", "kit"] {
        home.coffre(["verify", "--owner-key", file]).ok();
        home.coffre(["audit", "--owner-key", file]).ok();
        home.owner(["restore", "latest", "--to", "back", "--owner-key", file]).ok();
        home.bare(["--vault", forged.to_str().unwrap(), "verify", "--owner-key", file])
            .env("COFFRE_STATE_DIR", home.path("fresh"))
            .run()
            .exits(4);
        coffre(&forged, &["restore", "latest", "--to", "out", "--owner-key", file]).run().exits(4);
    }
    // Without it nothing tells one from the other.
    coffre(&forged, &["verify", "--depth", "chunks"]).ok();
    assert!(!home.path("out").exists() && real.exists());
}

#[test]
fn a_kit_with_a_typing_error_anywhere_is_refused_and_the_right_one_taken() {
    let home = sealed();
    home.owner(["key", "rotate"]).ok();
    home.seal();
    let kit = home.owner(["key", "kit", "2"]).ok().text();
    shell(&home.path(""), "rm -r vault/keys vault/parity/keys");
    let lines: Vec<&str> = kit.lines().collect();
    let blocks: Vec<usize> = lines.iter().enumerate().filter(|(_, l)| l.starts_with("-----BEGIN")).map(|(n, _)| n).collect();
    assert_eq!(blocks.len(), 2, "{kit}");
    for block in blocks {
        // In the header, and in the content.
        for n in [block + 3, block + 12] {
            let line = lines[n];
            let other = if line.as_bytes()[20] == b'A' { "B" } else { "A" };
            let wrong = [&lines[..n], &[format!("{}{other}{}", &line[..20], &line[21..]).as_str()], &lines[n + 1..]].concat().join("\n");
            fs::write(home.path("wrong"), wrong).unwrap();
            let code = second(&home, &["key", "restore", "wrong"]).run().code;
            assert!(code == 4 || code == 12, "{n}: {code}");
            assert!(!home.vault().join("keys").exists() && !home.vault().join("parity/keys").exists(), "{n}");
        }
    }
    fs::write(home.path("kit"), kit).unwrap();
    second(&home, &["key", "restore", "kit"]).ok();
    assert_eq!(second(&home, &["cat", &hello(&home)]).ok().text(), "hello, world\n");
}

#[test]
fn of_several_recipients_all_are_added_or_none() {
    let home = sealed();
    let plugin = bech32::encode::<bech32::Bech32>(bech32::Hrp::parse("age1nosuchplugin").unwrap(), &[1, 2, 3]).unwrap();
    let args = ["key", "add", "--recipient", &home.recipient(), "--recipient", &plugin];
    home.owner(args).refused(1).says("install age-plugin-nosuchplugin");
    assert_eq!(standings(&home), ["current", "current"]);
}

#[test]
fn a_rotation_says_which_hosts_it_cannot_tell() {
    let home = Home::new();
    let web2 = Machine::enrolled(&home, "web2");
    for folder in ["keys", "parity/keys"] {
        std::fs::remove_file(home.vault().join(folder).join("sealer-web2.age")).unwrap();
    }
    let done = home.owner(["--json", "key", "rotate"]).run().exits(4).says("lost what it kept for web2");
    assert_eq!(done.json()["untold"], serde_json::json!(["web2"]));
    crate::common::tree::small(&web2.source());
    web2.seal(&web2.source());
}
