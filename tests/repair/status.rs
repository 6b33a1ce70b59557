//! `coffre status`: who sealed when, what was read back, what waits; and its exit codes.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::fs;

use serde_json::Value;

use super::common::{bin::Home, tree};

fn status(home: &Home, args: &[&str]) -> Value {
    home.coffre(["--json", "status"]).args(args).ok().json()
}

/// The row of the vault itself at this depth.
fn row(report: &Value, depth: &str) -> Value {
    let rows = report["proofs"].as_array().unwrap();
    rows.iter().find(|row| row["depth"] == depth && row["copy"] == report["vault"]).unwrap().clone()
}

#[test]
fn the_ledger_says_what_was_read_and_what_is_due_for_each_copy() {
    let home = Home::new();
    tree::write(home.source().join("a"), tree::noise(1, 200_000));
    let sealed = home.seal();
    let report = status(&home, &[]);
    assert_eq!((&report["parity_percent"], &report["snapshots"], &report["findings"]), (&Value::from(5), &Value::from(1), &Value::from(0)));
    assert_eq!((&report["hosts"][0]["id"], &report["hosts"][0]["words"]), (&sealed["id"], &sealed["head"]));
    assert!(report["hosts"][0]["age_secs"].as_u64().unwrap() < 600 && report["hosts"][0]["sealed"] == sealed["time"], "{report:#}");
    let packs = home.objects("packs", ".age").len();
    assert!(packs > 1);
    let counts = |row: &Value| ["packs", "read_packs", "due_packs"].map(|name| row[name].as_u64().unwrap() as usize);
    assert_eq!(counts(&row(&report, "packs")), [packs, 0, packs]);
    let oldest = row(&report, "packs")["oldest_unread"].as_str().unwrap().to_owned();
    assert!(home.vault().join(oldest).is_file());
    // One pack at a time, what was never read first.
    for n in 1..=packs {
        home.coffre(["verify", "--sample", "1K"]).ok();
        assert_eq!(counts(&row(&status(&home, &[]), "packs")), [packs, n, packs - n]);
    }
    let report = status(&home, &[]);
    assert!(row(&report, "packs")["next_due"].is_string() && row(&report, "packs")["oldest_unread"].is_null(), "{report:#}");
    assert_eq!(counts(&row(&report, "chunks")), [packs, 0, packs]);
    home.owner(["verify", "--depth", "chunks"]).ok();
    assert_eq!(counts(&row(&status(&home, &[]), "chunks")), [packs, packs, 0]);
    // Nothing is due, so nothing is read.
    assert_eq!(home.coffre(["--json", "verify", "--within", "30d"]).ok().json()["packs_read"], 0);
    // Another copy was not read because this one was.
    let copy = home.path("copy");
    home.coffre(["copy", copy.to_str().unwrap()]).ok();
    home.coffre(["copies", "add", "usb", copy.to_str().unwrap()]).ok();
    let of_copy =
        |report: &Value| report["proofs"].as_array().unwrap().iter().find(|row| row["copy"] == copy.to_str().unwrap()).unwrap().clone();
    assert_eq!(counts(&of_copy(&status(&home, &[]))), [packs, 0, packs]);
    home.bare(["--vault", copy.to_str().unwrap(), "verify"]).ok();
    assert_eq!(counts(&of_copy(&status(&home, &[]))), [packs, packs, 0]);
    let text = home.coffre(["status"]).ok().text();
    assert!(text.contains("parity 5 %") && text.contains(&format!("{packs} of {packs} packs, 100 %")), "{text}");
}

#[test]
fn what_is_missed_is_said_with_exit_code_5_and_damage_with_4() {
    let home = Home::new();
    tree::write(home.source().join("a"), tree::noise(1, 200_000));
    home.coffre(["status", "--max-age", "1d"]).run().exits(5).says("no snapshot");
    home.seal();
    home.coffre(["status", "--max-age", "1d"]).ok();
    home.coffre(["status", "--within", "30d"]).run().exits(5).says("were not read within 30 d");
    home.coffre(["verify"]).ok();
    home.coffre(["status", "--within", "30d", "--max-age", "1d"]).ok();
    home.coffre(["status", "--max-age", "soon"]).run().exits(2);
    let receipt = home.objects("snaps", ".b3").remove(0);
    let mut bytes = fs::read(&receipt).unwrap();
    bytes[70] ^= 1;
    fs::remove_file(&receipt).unwrap();
    fs::write(&receipt, bytes).unwrap();
    home.coffre(["status"]).run().exits(4).says("coffre verify says what");
}

#[test]
fn what_waits_is_listed_until_it_is_gone() {
    let home = Home::new();
    tree::write(home.source().join("a"), tree::noise(1, 200_000));
    home.seal();
    tree::write(home.source().join("a"), tree::noise(2, 200_000));
    home.seal();
    home.owner(["forget", "latest~1", "--force"]).ok();
    assert_eq!(status(&home, &[])["forgotten"], 1);
    home.owner(["prune"]).ok();
    let report = status(&home, &[]);
    assert_eq!((&report["snapshots"], report["waiting"].as_array().unwrap().len()), (&Value::from(1), 1), "{report:#}");
    assert_eq!(report["waiting"][0]["is_due"], false);
    assert!(home.coffre(["status"]).ok().text().contains("waiting    "));
    home.seal();
    home.owner(["prune", "--grace", "0"]).ok();
    let report = status(&home, &[]);
    assert_eq!(
        (&report["waiting"], &report["forgotten"], &report["findings"]),
        (&Value::from(Vec::<Value>::new()), &Value::from(0), &Value::from(0))
    );
}
