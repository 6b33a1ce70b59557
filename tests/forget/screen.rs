//! The commands as a person types them, and a live mount that follows.

use serde_json::json;

use crate::common::bin::{Home, Mounted, until};

fn write(home: &Home, text: &str) {
    std::fs::write(home.source().join("file"), text).unwrap();
}

/// A home with snapshots of `one`, `two`, `three`.
fn three() -> (Home, Vec<String>) {
    let home = Home::new();
    for text in ["one", "two", "three"] {
        write(&home, text);
        home.seal();
    }
    let ids = home.snapshots().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect();
    (home, ids)
}

#[test]
fn a_policy_is_explained_and_written_down() {
    let (home, ids) = three();
    let dry = home.owner(["forget", "--keep-last", "1", "--dry-run", "--time-zone", "Europe/Berlin"]).ok().text();
    assert!(dry.contains("last 1") && dry.contains("no rule keeps it") && dry.contains("Europe/Berlin"), "{dry}");
    assert!(dry.ends_with("1 kept, 2 forgotten (dry run: nothing was changed)\n"), "{dry}");
    assert_eq!(home.snapshots().len(), 3);

    let report = home.owner(["--json", "forget", "--keep-last", "2", "--keep-tag", "x"]).ok().says("undelete").json();
    assert_eq!((&report["kept"], &report["forgotten"], &report["dry_run"]), (&json!(2), &json!(1), &json!(false)));
    assert_eq!(report["snapshots"][1]["reasons"], json!([{"rule": "last", "number": 2}]));
    assert_eq!((&report["snapshots"][0]["keep"], &report["snapshots"][0]["id"]), (&json!(false), &json!(ids[0])));
    assert_eq!(home.snapshots().len(), 2);
    home.owner(["verify", "--depth", "chunks"]).ok();

    let text = home.owner(["undelete", &ids[0][..8]]).ok().text();
    assert_eq!(text, format!("{} is back\n", &ids[0][..8]));
    home.owner(["pin", "latest~2"]).ok();
    home.owner(["forget", "--keep-last", "1"]).ok();
    assert_eq!(home.snapshots().iter().map(|row| row["pinned"].as_bool().unwrap()).collect::<Vec<_>>(), [true, false]);
    home.owner(["unpin", &ids[0]]).ok();
    let text = home.owner(["forget", &ids[0][..8]]).ok().text();
    assert!(text.contains("asked for by name") && text.ends_with("\n1 forgotten\n"), "{text}");
    assert_eq!(home.snapshots().len(), 1);
}

#[test]
fn what_makes_no_sense_is_refused_with_a_hint() {
    let (home, ids) = three();
    home.owner(["forget"]).refused(2);
    home.owner(["forget", "--keep-within", "soon"]).refused(2);
    home.owner(["forget", "--keep-last", "1", "--group-by", "weather"]).refused(2);
    home.owner(["forget", "--keep-last", "1", "--time-zone", "Nowhere/Land"]).refused(2);
    home.owner(["forget", "nothing"]).refused(2);
    home.owner(["forget", "0000000000"]).refused(1);
    home.owner(["forget", &ids[0], &ids[1], &ids[2]]).refused(1).says("last snapshot");
    home.owner(["undelete", &ids[0]]).refused(1).says("no forgotten snapshot");
    home.coffre(["forget", "--keep-last", "1"]).refused(12);
    assert_eq!(home.snapshots().len(), 3);
}

#[test]
fn a_live_mount_shows_no_longer_what_was_forgotten_and_again_what_came_back() {
    let (home, ids) = three();
    let mounted = Mounted::start(&home, &[]);
    let file = mounted.latest(&home.source().join("file"));
    let read = || std::fs::read_to_string(&file).unwrap_or_default();
    let shown = || std::fs::read_dir(mounted.point.join("snapshots")).unwrap().count();
    assert_eq!((read().as_str(), shown()), ("three", 3));
    let held = std::fs::File::open(&file).unwrap();
    home.owner(["forget", &ids[2][..8], &ids[0][..8]]).ok();
    until("the mount drops what was forgotten", || shown() == 1 && read() == "two");
    // Who has a file of it open reads on.
    let mut content = String::new();
    std::io::Read::read_to_string(&mut &held, &mut content).unwrap();
    assert_eq!(content, "three");
    home.owner(["undelete", &ids[2][..8]]).ok();
    until("the mount shows what came back", || shown() == 2 && read() == "three");
}

/// Decisions made in a copy, for the copy, are not missed in the vault.
#[test]
fn a_copy_with_a_retention_of_its_own_does_not_stop_that_of_the_vault() {
    let home = Home::new();
    let seal = |n: u32| {
        write(&home, &format!("night {n}"));
        home.seal();
    };
    (0..4).for_each(seal);
    let (copy, vault) = (home.path("copy"), home.vault());
    let at = |place: &std::path::Path, words: &[&str]| {
        let place = place.display().to_string();
        let key = home.key().display().to_string();
        home.bare(["--vault", &place, "--identity", &key]).args(words).ok();
    };
    home.coffre(["copy"]).args([&copy]).ok();
    for night in 4..6 {
        at(&vault, &["forget", "--keep-last", "3"]);
        at(&vault, &["prune"]);
        home.coffre(["copy"]).args([&copy]).ok();
        at(&copy, &["forget", "--keep-last", "2"]);
        at(&copy, &["prune"]);
        at(&copy, &["verify"]);
        seal(night);
        at(&vault, &["verify"]);
    }
    home.coffre(["copy"]).args([&copy]).ok();
    at(&vault, &["forget", "--keep-last", "3"]);
}
