//! Restore: what was there comes back, from any state of the target, and nothing outside it is touched.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

#[path = "restore/again.rs"]
mod again;
#[path = "restore/choice.rs"]
mod choice;
mod common;
#[path = "restore/damage.rs"]
mod damage;
#[path = "restore/dump.rs"]
mod dump;
#[path = "restore/in_place.rs"]
mod in_place;
#[path = "restore/outside.rs"]
mod outside;

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use common::{
    bin::{Coffre, Home, run_tool, tool},
    tree,
};
use serde_json::Value;

/// `coffre --json restore latest:SOURCE --to TO ARGS`.
fn restore(home: &Home, to: &Path, args: &[&str]) -> Coffre {
    let what = format!("latest:{}", home.source().display());
    home.owner(["--json", "restore", &what, "--to"]).args([to]).args(args)
}

/// A number of the report.
fn number(report: &Value, name: &str) -> u64 {
    report[name].as_u64().unwrap_or_else(|| panic!("{name} is a number: {report}"))
}

/// The paths in a list of the report.
fn paths(report: &Value, name: &str) -> Vec<String> {
    report[name]["files"].as_array().unwrap().iter().map(|f| f["path"].as_str().unwrap().to_owned()).collect()
}

/// A directory that another user may enter, with the binary and a vault in it that are his.
fn as_another_user(home: &Home, args: &[&str]) -> Coffre {
    let binary = home.path("binary");
    if !binary.exists() {
        fs::copy(env!("CARGO_BIN_EXE_coffre"), &binary).unwrap();
    }
    run_tool("chown", "coreutils", &[Path::new("-R"), Path::new("65534:65534"), &home.vault(), &home.path("state"), &home.key()]);
    run_tool("chown", "coreutils", &[Path::new("65534:65534"), &home.path("")]);
    let mut command: Command = tool("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "./binary", "--vault", "vault", "--identity", "owner.key"]);
    command.args(args).current_dir(home.path("")).env("COFFRE_STATE_DIR", home.path("state"));
    Coffre(command)
}

#[test]
fn every_kind_of_entry_comes_back_as_it_was() {
    let home = tree::sealed_everything();
    let to = home.path("restored-as-it-was");
    let report = restore(&home, &to, &[]).ok().json();
    tree::assert_same(&home.source(), &to);
    assert_eq!((number(&report["lost"], "more"), paths(&report, "problems")), (0, vec![]));
    assert_eq!(number(&report, "files_unchanged"), 0);
}

#[test]
fn a_whole_snapshot_comes_with_full_paths() {
    let home = tree::sealed_everything();
    let to = home.path("restored-whole");
    home.owner(["restore", "latest", "--to"]).args([&to]).ok();
    tree::assert_same(&home.source(), &home.inside(&to, home.source()));
    for above in home.source().ancestors().skip(1).take_while(|path| path.parent().is_some()) {
        let (a, b) = (fs::metadata(above).unwrap(), fs::metadata(home.inside(&to, above)).unwrap());
        assert_eq!((a.mode(), a.uid(), a.gid()), (b.mode(), b.uid(), b.gid()), "{}", above.display());
    }
}

#[test]
fn paths_longer_than_path_max_and_files_of_a_tebibyte_come_back() {
    let home = Home::new();
    tree::extremes(&home.source());
    home.seal();
    let to = home.path("restored");
    restore(&home, &to, &[]).ok();
    tree::assert_same(&home.source(), &to);
    restore(&home, &to, &[]).ok();
    tree::assert_same(&home.source(), &to);
}

#[test]
fn one_file_goes_into_the_directory_with_all_that_it_is() {
    let home = tree::sealed_everything();
    let to = home.path("one-file");
    let what = format!("latest:{}/modes/setuid", home.source().display());
    home.owner(["restore", &what, "--to"]).args([&to]).ok();
    let (a, b) = (fs::metadata(home.source().join("modes/setuid")).unwrap(), fs::metadata(to.join("setuid")).unwrap());
    let all = |m: &fs::Metadata| (m.mode(), m.uid(), m.gid(), m.mtime(), m.mtime_nsec(), m.len());
    assert_eq!(all(&a), all(&b));
    assert_eq!(fs::read(to.join("setuid")).unwrap(), b"setuid");
    assert_eq!(fs::read_dir(&to).unwrap().count(), 1, "and nothing else");
    home.owner(["restore", "latest:/not/there", "--to"]).args([&to]).refused(1).says("is not in snapshot");
}

#[test]
fn another_user_gets_the_files_and_a_count_of_what_he_may_not_set() {
    let home = Home::new();
    tree::every_kind(&home.source());
    home.seal();
    let what = format!("latest:{}", home.source().display());
    let done = as_another_user(&home, &["--json", "restore", &what, "--to", "mine"]).run().exits(3);
    let done_says = done.err.clone();
    assert!(done_says.contains("could not set") && done_says.contains("owners") && done_says.contains("--no-owner"), "{done_says}");
    let report = done.json();
    assert!(number(&report["not_set"], "owners") > tree::MANY as u64, "{}", report["not_set"]);
    assert!(number(&report["not_set"], "xattrs") > 0, "capabilities and trusted attributes: {}", report["not_set"]);
    let devices = ["large-numbers", "loop", "null"].map(|name| format!("{}/special/{name}", home.source().display()));
    assert_eq!(paths(&report, "problems"), devices, "root alone makes devices");
    tree::assert_same_but(&home.source(), &home.path("mine"), "uid,gid,mode,missing,xattr");
    // A setuid program would run as somebody else.
    assert_eq!(fs::metadata(home.path("mine/modes/setuid")).unwrap().mode() & 0o7777, 0o755);
    let report = as_another_user(&home, &["--json", "restore", &what, "--to", "mine", "--no-owner", "--no-xattrs"]).run().exits(3).json();
    assert_eq!((number(&report["not_set"], "owners"), number(&report["not_set"], "xattrs")), (0, 0));
    assert_eq!(number(&report, "files"), 0, "nothing is fetched again");
}

#[test]
fn owners_and_attributes_are_as_asked() {
    let home = tree::sealed_everything();
    let to = home.path("given");
    restore(&home, &to, &["--owner", "1234:5678", "--no-xattrs"]).ok();
    tree::assert_same_but(&home.source(), &to, "uid,gid,mode,xattr");
    let mut stack = vec![to.clone()];
    while let Some(path) = stack.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (1234, 5678), "{}", path.display());
        if meta.is_dir() {
            stack.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        } else {
            assert_eq!(meta.mode() & 0o6000, 0, "{}", path.display());
        }
    }
    // What was left away is set by the next run, without any content.
    let report = restore(&home, &to, &[]).ok().json();
    assert_eq!(number(&report, "bytes"), 0);
    tree::assert_same(&home.source(), &to);
}

#[test]
fn a_target_that_hands_on_group_and_acls_changes_nothing() {
    let home = tree::sealed_everything();
    let to = home.path("hands-on");
    fs::create_dir(&to).unwrap();
    run_tool("chgrp", "coreutils", &[Path::new("4321"), &to]);
    run_tool("chmod", "coreutils", &[Path::new("2777"), &to]);
    run_tool("setfacl", "acl", &[Path::new("-m"), Path::new("d:u:999:rwx"), &to]);
    let what = format!("latest:{}", home.source().display());
    home.owner(["restore", &what, "--to"]).args([to.join("below")]).ok();
    tree::assert_same(&home.source(), &to.join("below"));
}

#[test]
fn the_end_is_known_from_the_first_line_on() {
    let home = tree::sealed_everything();
    let to: PathBuf = home.path("told");
    let done = restore(&home, &to, &["--progress", "json"]).ok();
    let lines: Vec<Value> = done.err.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let total = lines.first().and_then(|line| line["bytes_total"].as_u64()).unwrap();
    assert!(total > 20_000_000, "{total}");
    assert!(lines.iter().all(|line| line["bytes_total"].as_u64() == Some(total)), "one window: the total is exact at once");
}
