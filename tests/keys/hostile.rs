//! Who may add objects to a vault, or keys to its lists, and means no good; and owners who do two things at once.

use std::{fs, process::Stdio};

use crate::{
    Machine,
    common::{
        bin::{Done, Home, secret, shell},
        tree,
    },
};

fn names(home: &Home) -> Vec<(String, bool)> {
    let listed = home.coffre(["--json", "key", "list"]).ok().json();
    let rows = listed["sealers"].as_array().unwrap().iter();
    rows.map(|row| (row["name"].as_str().unwrap().to_owned(), !row["revoked"].is_null())).collect()
}

/// What a command said, on both streams.
fn all(done: &Done) -> String {
    format!("{}{}", done.text(), done.err)
}

fn file(home: &Home, name: &str) -> std::path::PathBuf {
    home.vault().join(name)
}

#[test]
fn a_revocation_holds_whatever_is_done_to_the_lists() {
    let home = Home::new();
    let web2 = Machine::enrolled(&home, "web2");
    tree::small(&web2.source());
    web2.seal(&web2.source());
    home.owner(["key", "revoke", "web2"]).ok();
    let source = web2.source();
    let seal = || web2.coffre(&["seal", source.to_str().unwrap()]);
    seal().refused(12).says("was revoked");
    // An older list, with the owner's signature, under a higher number.
    for end in ["", ".sig"] {
        fs::copy(file(&home, &format!("signers/allowed_signers.0002{end}")), file(&home, &format!("signers/allowed_signers.0099{end}")))
            .unwrap();
    }
    for command in ["verify", "audit"] {
        let said = all(&home.owner([command]).run().exits(4));
        assert!(said.contains("is a copy of list number 2"), "{said}");
    }
    home.owner(["snapshots"]).ok().says("is a copy of list number 2");
    seal().refused(12).says("was revoked");
    assert!(names(&home).contains(&("web2".to_owned(), true)));
    // What an owner does next goes on from the genuine one.
    home.owner(["key", "add", "--sealer", "web3", "--output", home.path("t3").to_str().unwrap()]).ok();
    assert!(names(&home).contains(&("web2".to_owned(), true)) && names(&home).contains(&("web3".to_owned(), false)));
    // The machine that revoked knows that there was a newer list.
    for number in ["0003", "0099", "0100"] {
        for end in ["", ".sig"] {
            fs::remove_file(file(&home, &format!("signers/allowed_signers.{number}{end}"))).unwrap();
            let _ = fs::remove_file(file(&home, &format!("parity/signers/allowed_signers.{number}{end}")));
        }
    }
    let said = all(&home.owner(["verify"]).run().exits(4));
    assert!(said.contains("has seen list number 100"), "{said}");
}

#[test]
fn owners_who_change_the_list_at_once_lose_nothing() {
    for round in 0..4 {
        let home = Home::new();
        Machine::enrolled(&home, "web2");
        let add = |name: &str| {
            let token = home.path(name);
            home.owner(["key", "add", "--sealer", name, "--output", token.to_str().unwrap()])
        };
        let mut children = [
            home.owner(["key", "revoke", "web2"]).spawn(&home.path("log0")),
            add("web3").spawn(&home.path("log1")),
            add("web4").spawn(&home.path("log2")),
        ];
        for (n, child) in children.iter_mut().enumerate() {
            let status = child.wait().unwrap();
            assert!(status.success(), "round {round}: {}", fs::read_to_string(home.path(format!("log{n}"))).unwrap());
        }
        let listed: std::collections::BTreeMap<String, bool> = names(&home).into_iter().collect();
        assert_eq!((listed["web2"], listed["web3"], listed["web4"]), (true, false, false), "round {round}");
        home.owner(["verify"]).ok();
        home.coffre(["audit"]).ok();
    }
}

/// A thief who knows what every sealer knows puts a file where the next sealer's keys will be.
#[test]
fn nobody_but_an_owner_chooses_the_keys_of_a_sealer() {
    let home = Home::new();
    let web2 = Machine::enrolled(&home, "web2");
    let state = fs::read_dir(web2.state()).unwrap().next().unwrap().unwrap().path();
    let own = fs::read_to_string(state.join("sealer")).unwrap();
    let meta = own.lines().find_map(|line| line.strip_prefix("meta ")).unwrap();
    let forged: String = own
        .lines()
        .map(|line| match line.split_once(' ').unwrap() {
            ("name", _) => "name web5\n".to_owned(),
            ("sign", _) => format!("sign {}\n", "42".repeat(32)),
            _ => format!("{line}\n"),
        })
        .collect();
    tree::write(home.path("forged"), &forged);
    for folder in ["keys", "parity/keys"] {
        shell(&home.path(""), &format!("age -r {meta} -o vault/{folder}/sealer-web5.age forged"));
    }
    let web5 = Machine::enrolled(&home, "web5");
    let state = fs::read_dir(web5.state()).unwrap().next().unwrap().unwrap().path();
    let given = fs::read_to_string(state.join("sealer")).unwrap();
    let field = |text: &str, name: &str| text.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned)).unwrap();
    for name in ["sign ", "domain ", "dk "] {
        assert_ne!(field(&given, name), field(&forged, name), "{name}");
    }
    tree::small(&web5.source());
    web5.seal(&web5.source());
    home.owner(["verify", "--depth", "chunks"]).ok();
    // One who replaces a file that an owner made gains nothing either.
    for folder in ["keys", "parity/keys"] {
        shell(&home.path(""), &format!("rm -f vault/{folder}/sealer-web5.age && age -r {meta} -o vault/{folder}/sealer-web5.age forged"));
    }
    home.owner(["key", "add", "--sealer", "web5", "--again"]).refused(4).says("make a sealer of another name");
}

#[test]
fn a_number_that_somebody_took_stops_no_seal() {
    let home = Home::new();
    let web2 = Machine::enrolled(&home, "web2");
    tree::small(&web2.source());
    web2.seal(&web2.source());
    for junk in ["9999999999.age", "9999999999.b3", "0000000002.age", "0000000003.b3.sig"] {
        tree::write(file(&home, &format!("snaps/web2/{junk}")), b"junk");
    }
    for wanted in ["web2/4", "web2/5"] {
        assert_eq!(web2.seal(&web2.source())["snapshot"], wanted);
    }
    let rows = home.owner(["--json", "snapshots", "--host", "web2"]).ok().json();
    assert_eq!(rows.as_array().unwrap().len(), 3);
}

#[test]
fn a_token_serves_one_host_even_if_two_come_at_once_and_none_from_a_copy() {
    let home = Home::new();
    let (web2, thief) = (Machine::new(&home, "web2"), Machine::new(&home, "thief"));
    web2.invite(&[]);
    home.coffre(["copy", home.path("copy").to_str().unwrap()]).ok();
    assert!(!home.path("copy/enrol").exists());
    let token = web2.token();
    let race = |token: &std::path::Path| {
        let enroll = |(n, m): (usize, &&Machine)| m.coffre(&["enroll", token.to_str().unwrap()]).spawn(&home.path(format!("log{n}")));
        let mut both: Vec<_> = [&web2, &thief].iter().enumerate().map(enroll).collect();
        let codes: Vec<Option<i32>> = both.iter_mut().map(|child| child.wait().unwrap().code()).collect();
        let said = || [0, 1].map(|n| fs::read_to_string(home.path(format!("log{n}"))).unwrap());
        assert!(codes.contains(&Some(0)) && codes.contains(&Some(12)), "{codes:?} {:?}", said());
        let there = shell(&home.vault(), "find enrol -type f 2>/dev/null || true");
        assert_eq!(there, "");
        codes[0] == Some(0)
    };
    // They meet at another moment each time.
    for _ in 0..12 {
        race(&token);
        let _ = (fs::remove_dir_all(web2.state()), fs::remove_dir_all(thief.state()));
        web2.invite(&["--again"]);
    }
    let winner = if race(&token) { &web2 } else { &thief };
    // A host that is revoked is told so, and a token that nobody made convinces nobody.
    let text = fs::read_to_string(&token).unwrap();
    let key = text.trim().rsplit(':').next().unwrap();
    secret(&home.path("made-up"), &text.replace(key, &format!("{}{}", &key[..key.len() - 4], "AAAA")));
    winner.coffre(&["enroll", home.path("made-up").to_str().unwrap()]).refused(12);
    home.owner(["key", "revoke", "web2"]).ok();
    winner.coffre(&["enroll", token.to_str().unwrap()]).refused(12).says("was revoked");
    home.owner(["key", "revoke", "web2", "--since", "2999-01-01"]).refused(2).says("still to come");
}

#[test]
fn a_tail_that_was_taken_away_is_missed_as_long_as_anything_of_it_is_left() {
    let home = Home::new();
    for n in 0..3 {
        tree::write(home.source().join("file"), tree::noise(n, 20_000));
        home.seal();
    }
    let audit = |home: &Home| home.coffre(["audit"]).env("COFFRE_STATE_DIR", home.path("nothing")).run();
    audit(&home).exits(0);
    let remove = |pattern: &str| drop(shell(&home.vault(), &format!("rm -f {pattern}")));
    shell(&home.path(""), "cp -a vault whole");
    // The newest one, but for its second copies.
    remove("snaps/*/0000000003.*");
    let said = all(&audit(&home).exits(4));
    assert!(said.contains("coffre verify --repair brings the snapshot back"), "{said}");
    home.owner(["verify", "--repair"]).run();
    audit(&home).exits(0);
    home.owner(["verify", "--depth", "chunks"]).ok();
    // All signatures, with their copies: a seal that died leaves one, and nothing that goes on from it.
    remove("snaps/*/*.sig parity/snaps/*/*.sig");
    let found = audit(&home).exits(4).text();
    assert_eq!((found.matches("snapshot-deleted").count(), found.matches("unsigned").count()), (2, 1), "{found}");
    let same = shell(&home.path(""), "rm -rf vault && mv whole vault");
    assert_eq!(same, "");
    home.owner(["verify"]).ok();
}

#[test]
fn another_machine_with_the_same_key_is_told_of_until_somebody_accepts_it() {
    let home = Home::new();
    let web2 = Machine::enrolled(&home, "web2");
    tree::small(&web2.source());
    web2.seal(&web2.source());
    shell(&home.path(""), "cp -a web2.state clone.state");
    let clone = Machine::new(&home, "clone");
    tree::small(&clone.source());
    clone.seal(&clone.source());
    let verify = || {
        let said = all(&web2.coffre(&["verify"]).run().exits(4));
        assert!(said.contains("was not made here"), "{said}");
    };
    verify();
    web2.coffre(&["seal", web2.source().to_str().unwrap()]).ok().says("was not made here");
    verify();
    web2.coffre(&["head", "--accept"]).ok();
    web2.coffre(&["verify"]).ok();
}

#[test]
fn a_token_that_cannot_be_printed_is_made_again() {
    let home = Home::new();
    let full = Stdio::from(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_coffre"));
    command.args(["--vault".as_ref(), home.vault().as_os_str(), "--identity".as_ref(), home.key().as_os_str()]);
    command.args(["key", "add", "--sealer", "web2"]).env("COFFRE_STATE_DIR", home.state()).stdout(full);
    let said = command.output().unwrap();
    let text = String::from_utf8(said.stderr).unwrap();
    assert!(!said.status.success() && text.contains("coffre key add --sealer web2 --again"), "{text}");
}
