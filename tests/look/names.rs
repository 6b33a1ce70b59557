//! How snapshots are named, and what is said when a name fits none or several.

use std::fs;

use super::common::bin::{Home, tool};

#[test]
fn every_form_of_a_name_finds_its_snapshot() {
    let home = Home::new();
    for n in 1..=3 {
        fs::write(home.source().join("number"), format!("{n}")).unwrap();
        home.seal();
    }
    let rows = home.snapshots();
    let text = |n: usize, name: &str| rows[n][name].as_str().unwrap().to_owned();
    let number = |snap: &str| home.owner(["cat", &format!("{snap}:{}/number", home.source().display())]).ok().text();
    let host = text(0, "host");
    let day = String::from_utf8(tool("date").arg("+%Y-%m-%d").output().unwrap().stdout).unwrap();
    let day = day.trim();
    let cases = [
        ("latest".to_owned(), "3"),
        ("latest~1".to_owned(), "2"),
        (text(0, "id")[..8].to_owned(), "1"),
        (text(0, "id").to_ascii_uppercase()[..10].to_owned(), "1"),
        (text(1, "id"), "2"),
        (text(1, "directory"), "2"),
        (format!("{host}@latest~2"), "1"),
        (format!("{host}@{}", &text(2, "id")[..8]), "3"),
        ("now".to_owned(), "3"),
        ("today".to_owned(), "3"),
        (day.to_owned(), "3"),
        (day.replace('-', ""), "3"),
        (format!("{day}T23:59"), "3"),
        ("2999-01-01T00:00:00Z".to_owned(), "3"),
    ];
    for (snap, expected) in cases {
        assert_eq!(number(&snap), expected, "{snap}");
        // A time has colons, and no path need follow it.
        let listed = home.owner(["--json", "ls", "-r", &snap]).ok().text();
        assert_eq!(listed.lines().count(), home.source().components().count(), "{snap}: {listed}");
        home.owner(["stats", "--biggest", &snap]).ok();
    }
}

#[test]
fn a_name_that_fits_none_or_several_is_told_with_what_is_near() {
    let home = Home::new();
    // Enough that two ids start alike; a prefix has at least four digits, so one is looked for.
    fs::write(home.source().join("x"), "1").unwrap();
    home.seal();
    let id = home.snapshots()[0]["id"].as_str().unwrap().to_owned();
    let host = home.snapshots()[0]["host"].as_str().unwrap().to_owned();
    let hint = |snap: &str, code: i32, text: &str| home.owner(["ls", snap]).refused(code).says(text);
    hint("latset", 2, "did you mean `latest`?");
    hint("yestrday", 2, "did you mean `yesterday`?");
    hint("1a", 2, "at least 4 digits");
    hint("latest~7", 1, "the oldest is `latest~0`");
    hint("2001-01-01", 1, &format!("the oldest is {}", &id[..8]));
    hint("no-such-host@latest", 1, &format!("hosts are {host}"));
    hint(&format!("{host}x@latest"), 1, &format!("did you mean `{host}@`?"));
    let slip: String = id[..8].chars().enumerate().map(|(n, c)| if n == 5 { if c == '0' { '1' } else { '0' } } else { c }).collect();
    hint(&slip, 1, &format!("nearest are {}", &id[..8]));
    home.bare(["lss"]).run().exits(2).says("similar").says("'ls'");
    home.bare(["man", "hisotry"]).refused(2).says("did you mean `history`?");
}

#[test]
fn an_ambiguous_id_is_told_with_all_that_it_fits() {
    use coffre::{
        format::{ChunkId, Manifest, SnapshotId, SnapshotKey},
        vault::{Selector, Snapshot, select},
    };
    let snapshot = |first: u8, second: u8, host: &str| {
        let mut id = [0; 32];
        (id[0], id[1], id[2]) = (0xab, 0xcd, first);
        id[3] = second;
        let manifest = Manifest { host: host.to_owned(), root: ChunkId::from_bytes([0; 32]), ..super::json::manifest() };
        Snapshot { key: SnapshotKey { sealer: host.to_owned(), seq: 1 }, id: SnapshotId::from_bytes(id), manifest }
    };
    let all = [snapshot(1, 0, "web1"), snapshot(1, 1, "web1"), snapshot(2, 0, "web2")];
    let find = |text: &str| select(&all, &Selector::parse(text, 0).unwrap());
    let error = find("abcd").unwrap_err();
    assert_eq!(error.to_string(), "3 snapshots start with `abcd`");
    let hint = error.hint_text().unwrap();
    assert!(hint.contains("abcd0100") && hint.contains("abcd0101") && hint.contains("abcd0200") && hint.contains("web2"), "{hint}");
    assert_eq!(find("abcd02").unwrap().manifest.host, "web2");
    assert_eq!(find("web2@abcd").unwrap().manifest.host, "web2");
}
