//! Looking without a mount: ls, find, history, diff, stats, bisect; names of snapshots; help, completions, manual; JSON by its schemas.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

mod common;
#[path = "look/complete.rs"]
mod complete;
#[path = "look/help.rs"]
mod help;
#[path = "look/json.rs"]
mod json;
#[path = "look/json_owner.rs"]
mod json_owner;
#[path = "look/names.rs"]
mod names;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::Path,
};

use common::bin::{Done, Home, shell};
use serde_json::Value;

/// A home with four snapshots of a small tree that changes in every way:
/// 1. as made. 2. `conf` grew, `late` came, `gone` went, `moved/` and `a.txt` were renamed. 3. `conf` has another mode. 4. `conf` is as in 2.
fn lived() -> Home {
    let home = Home::new();
    shell(
        &home.source(),
        "mkdir -p sub/deep moved; echo one > conf; echo gone > gone; seq 100 > a.txt; seq 500 > moved/x; seq 600 > moved/y
         echo same > sub/deep/same.txt; ln -s conf link; head -c 5000 /dev/urandom > noise; touch -d '2025-01-01' conf",
    );
    home.seal();
    shell(&home.source(), "echo two >> conf; touch -d '2025-01-02' conf; echo late > late; rm gone; mv moved went; mv a.txt sub/b.txt");
    home.seal();
    shell(&home.source(), "chmod 600 conf");
    home.seal();
    shell(&home.source(), "chmod 644 conf");
    home.seal();
    home
}

/// Objects, one a line.
fn lines(done: &Done) -> Vec<Value> {
    done.text().lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
}

fn ids(home: &Home) -> Vec<String> {
    home.snapshots().iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect()
}

/// The path inside the source.
fn inner(home: &Home, row: &Value) -> String {
    row["path"].as_str().unwrap().strip_prefix(home.source().to_str().unwrap()).unwrap().trim_start_matches('/').to_owned()
}

#[test]
fn ls_shows_what_a_directory_holds_and_everything_below() {
    let home = lived();
    let at = |snap: &str, path: &str| format!("{snap}:{}", home.source().join(path).display());
    let names = |args: &[&str]| home.owner(args).ok().text();
    assert_eq!(names(&["ls", &at("latest", "")]), "conf\nlate\nlink\nnoise\nsub/\nwent/\n");
    assert_eq!(names(&["ls", &at("latest~3", "")]), "a.txt\nconf\ngone\nlink\nmoved/\nnoise\nsub/\n");
    assert_eq!(names(&["ls", "-0", &at("latest", "sub")]), "b.txt\0deep\0");
    let all = lines(&home.owner(["--json", "ls", "--recursive", &at("latest", "")]).ok());
    let expected = ["conf", "late", "link", "noise", "sub", "sub/b.txt", "sub/deep", "sub/deep/same.txt", "went", "went/x", "went/y"];
    assert_eq!(all.iter().map(|row| inner(&home, row)).collect::<Vec<_>>(), expected);
    let conf = fs::metadata(home.source().join("conf")).unwrap();
    assert_eq!((all[0]["type"].as_str(), all[0]["mode"].as_str(), all[0]["size"].as_u64()), (Some("file"), Some("0644"), Some(conf.len())));
    assert_eq!(all[2]["target"]["path"].as_str(), Some("conf"));
    let long = names(&["ls", "-l", &at("latest", "")]);
    assert!(long.lines().next().unwrap().starts_with("-rw-r--r-- ") && long.contains("link -> conf\n"), "{long}");
    // A file is listed as itself, and what is not there is an error that says what is.
    assert_eq!(names(&["ls", &at("latest", "conf")]), "conf\n");
    home.owner(["ls", "latest:/nowhere"]).refused(1).says(home.source().to_str().unwrap());
    assert!(names(&["ls", "latest:/"]).ends_with("/\n"));
}

#[test]
fn names_that_steer_a_terminal_are_made_visible_and_exact_in_json() {
    let home = Home::new();
    let name = std::ffi::OsStr::from_bytes(b"a\x1b[31m\n\xff\xe2\x80\xae.txt");
    fs::write(home.source().join(name), "x").unwrap();
    home.seal();
    fs::remove_file(home.source().join(name)).unwrap();
    home.seal();
    let source = home.source();
    let source = source.to_str().unwrap();
    let shown = "a\\u{1b}[31m\\n\\xff\\u{202e}.txt";
    let first = format!("latest~1:{source}");
    let commands: [&[&str]; 5] =
        [&["ls", &first], &["ls", "-l", "-r", &first], &["find", "a*"], &["diff", "latest~1", "latest"], &["stats", "--biggest", &first]];
    let to = home.path("to");
    let restore = ["restore", &first, "-n", "--to", to.to_str().unwrap()];
    for command in commands.into_iter().chain([&restore[..]]) {
        let done = home.owner(command).ok();
        let text = done.text() + &done.err;
        assert!(text.contains(shown), "{command:?}: {text}");
        assert!(!text.contains('\x1b') && !text.contains('\u{202e}'), "{command:?}: {text:?}");
    }
    let row = &lines(&home.owner(["--json", "ls", &first]).ok())[0];
    let hex: String = [source.as_bytes(), b"/", name.as_bytes()].concat().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(row["path_hex"].as_str(), Some(&hex[..]));
    // Such a name can be typed where a path is wanted.
    let named = |snap: &str| [snap.as_bytes(), b":", source.as_bytes(), b"/", name.as_bytes()].concat();
    let of = |command: &str, snap: &str| home.owner([command]).args([std::ffi::OsStr::from_bytes(&named(snap))]);
    assert_eq!(of("cat", "latest~1").ok().text(), "x");
    assert!(of("ls", "latest~1").ok().text().contains(shown));
    of("cat", "latest").refused(1).says("is not in snapshot");
    let exact = home.owner(["find", "-0", "a*"]).ok().out;
    assert_eq!(exact, [source.as_bytes(), b"/", name.as_bytes(), b"\0"].concat());
}

/// Times without a zone were those of Greenwich, and typed ones are those of the place: what `history` showed named another snapshot.
#[test]
fn times_without_a_zone_are_local_as_typed_ones_are() {
    let home = Home::new();
    shell(&home.source(), "echo one > file; touch -d '2025-06-01 21:30:00 UTC' file");
    home.seal();
    let path = format!("{}/file", home.source().display());
    let what = format!("latest:{path}");
    for (zone, shown) in [("UTC", "2025-06-01 21:30"), ("XXX-3", "2025-06-02 00:30"), ("XXX+9:30", "2025-06-01 12:00")] {
        for command in [&["ls", "-l", &what][..], &["find", "file"], &["history", &path]] {
            let text = home.owner(command).env("TZ", zone).ok().text();
            assert!(text.contains(shown), "{zone} {command:?}: {text}");
        }
        let history = home.owner(["history", &path]).env("TZ", zone).ok().text();
        let columns: Vec<&str> = history.lines().nth(1).unwrap().split_whitespace().collect();
        let typed = format!("{}T{}", columns[1], columns[2]);
        assert_eq!(home.owner(["cat", &format!("{typed}:{path}")]).env("TZ", zone).ok().text(), "one\n", "{zone} {typed}");
        home.owner(["ls", &typed]).env("TZ", zone).ok();
        home.owner(["stats", "--biggest", &typed]).env("TZ", zone).ok();
    }
}

#[test]
fn find_tells_each_path_once_with_the_snapshots_that_hold_it() {
    let home = lived();
    let ids = ids(&home);
    let found = |args: &[&str]| -> BTreeMap<String, (usize, usize, u64, u64)> {
        let at = |row: &Value, which: &str| ids.iter().position(|id| row[which]["id"] == **id).unwrap();
        let rows = lines(&home.owner(["--json", "find"]).args(args).ok());
        let number = |row: &Value, name: &str| row[name].as_u64().unwrap();
        let mut found = BTreeMap::new();
        for row in &rows {
            let facts = (at(row, "first"), at(row, "last"), number(row, "snapshots"), number(row, "versions"));
            assert!(found.insert(inner(&home, row), facts).is_none(), "once: {row}");
        }
        found
    };
    #[allow(clippy::type_complexity)] // a row of a table that only this test reads
    let expected = |list: &[(&str, (usize, usize, u64, u64))]| list.iter().map(|(p, f)| ((*p).to_owned(), *f)).collect::<BTreeMap<_, _>>();
    assert_eq!(found(&["conf"]), expected(&[("conf", (0, 3, 4, 4))]));
    assert_eq!(found(&["gone"]), expected(&[("gone", (0, 0, 1, 1))]));
    assert_eq!(found(&["*.txt"]), expected(&[("a.txt", (0, 0, 1, 1)), ("sub/b.txt", (1, 3, 3, 1)), ("sub/deep/same.txt", (0, 3, 4, 1))]));
    // A directory is one thing, whatever is in it.
    assert_eq!(found(&["sub", "--type", "d"]), expected(&[("sub", (0, 3, 4, 1))]));
    assert_eq!(found(&["source/*/*.txt"]), expected(&[("sub/b.txt", (1, 3, 3, 1))]));
    assert_eq!(found(&["*", "--type", "l"]), expected(&[("link", (0, 3, 4, 1))]));
    assert_eq!(found(&["*", "--larger", "4K"]), expected(&[("noise", (0, 3, 4, 1))]));
    assert_eq!(found(&["CONF", "--ignore-case", "--in", "latest~1"]), expected(&[("conf", (2, 2, 1, 1))]));
    assert_eq!(found(&["c*", "--older", "2025-01-01T12:00"]), expected(&[("conf", (0, 0, 1, 1))]));
    assert!(found(&["no-such-name"]).is_empty());
    home.owner(["find", "[a"]).refused(2).says("matches nothing");
}

#[test]
fn find_agrees_with_find_in_every_snapshot() {
    let home = lived();
    for (n, snapshot) in ids(&home).iter().enumerate() {
        let listed: Vec<String> =
            lines(&home.owner(["--json", "ls", "-r", snapshot]).ok()).iter().map(|r| r["path"].as_str().unwrap().to_owned()).collect();
        let found: Vec<String> = lines(&home.owner(["--json", "find", "*", "--in", snapshot]).ok())
            .iter()
            .map(|r| r["path"].as_str().unwrap().to_owned())
            .collect();
        let (mut listed, mut found) = (listed, found);
        listed.sort();
        found.sort();
        assert_eq!(listed, found, "snapshot {n}");
    }
}

#[test]
fn history_tells_versions_what_changed_and_when_a_path_went() {
    let home = lived();
    let source = home.source();
    let ids = ids(&home);
    let of = |name: &str| -> Vec<(usize, usize, u64, Vec<String>, bool)> {
        let at = |row: &Value, which: &str| ids.iter().position(|id| row[which]["id"] == **id).unwrap();
        let rows = lines(&home.owner(["--json", "history", source.join(name).to_str().unwrap()]).ok());
        let words = |row: &Value| row["changed"].as_array().unwrap().iter().map(|w| w.as_str().unwrap().to_owned()).collect();
        let row = |row: &Value| {
            (at(row, "first"), at(row, "last"), row["snapshots"].as_u64().unwrap(), words(row), row["gone"].as_bool().unwrap())
        };
        rows.iter().map(row).collect()
    };
    let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    let expected = [
        (0, 0, 1, words(&[]), false),
        (1, 1, 1, words(&["content", "time"]), false),
        (2, 2, 1, words(&["mode"]), false),
        (3, 3, 1, words(&["mode"]), false),
    ];
    assert_eq!(of("conf"), expected);
    assert_eq!(of("gone"), [(0, 0, 1, words(&[]), true)]);
    assert_eq!(of("late"), [(1, 3, 3, words(&[]), false)]);
    assert_eq!(of("sub/deep/same.txt"), [(0, 3, 4, words(&[]), false)]);
    let text = home.owner(["history", "source/conf"]).ok().text();
    assert!(text.contains("content +4 B") && text.contains("mode 0600") && text.contains("first"), "{text}");
    home.owner(["history", "source/nothing"]).refused(1).says("coffre find 'nothing'");
}

#[test]
fn diff_tells_each_kind_of_change() {
    let home = lived();
    let kinds = |args: &[&str]| -> Vec<String> {
        let rows = lines(&home.owner(["--json", "diff"]).args(args).ok());
        let from = |row: &Value| row.get("from").map_or_else(String::new, |from| format!("{} -> ", inner(&home, from)));
        rows.iter().map(|row| format!("{} {}{}", row["change"].as_str().unwrap(), from(row), inner(&home, row))).collect()
    };
    let expected = ["modified conf", "removed gone", "added late", "renamed a.txt -> sub/b.txt", "renamed moved -> went"];
    assert_eq!(kinds(&["latest~3", "latest~2"]), expected);
    let plain = [
        "removed a.txt",
        "modified conf",
        "removed gone",
        "added late",
        "removed moved",
        "removed moved/x",
        "removed moved/y",
        "added sub/b.txt",
        "added went",
        "added went/x",
        "added went/y",
    ];
    assert_eq!(kinds(&["latest~3", "latest~2", "--no-renames"]), plain);
    assert_eq!(kinds(&["latest~2", "latest~1"]), ["metadata conf"]);
    assert_eq!(kinds(&["latest~3", "latest", "source/sub"]), ["added sub/b.txt"]);
    assert_eq!(kinds(&["latest", "latest"]), [""; 0]);
    let back = ["renamed sub/b.txt -> a.txt", "modified conf", "added gone", "removed late", "renamed went -> moved"];
    assert_eq!(kinds(&["latest~2", "latest~3"]), back);
    let stat = home.owner(["--json", "diff", "latest~3", "latest~2", "--stat"]).ok().json();
    let count = |kind: &str| (stat[kind]["entries"].as_u64().unwrap(), stat[kind]["dirs"].as_u64().unwrap());
    let counts = ["added", "removed", "modified", "metadata", "renamed"].map(count);
    assert_eq!(counts, [(1, 0), (1, 0), (1, 0), (0, 0), (2, 1)]);
    home.owner(["diff", "latest~1", "latest", "/nowhere"]).refused(1);
    let text = home.owner(["diff", "latest~2", "latest~1"]).ok().text();
    assert_eq!(text, format!("m  {}  (mode 0644 -> 0600)\n", home.source().join("conf").display()));
}

#[test]
fn a_diff_of_contents_is_what_patch_applies() {
    let home = Home::new();
    let source = home.source();
    shell(&source, "seq 40 > text; printf 'no end' > end; head -c 3000 /dev/urandom > noise; echo old > gone");
    home.seal();
    shell(
        &source,
        "cp -a . ../before; sed -i 's/^7$/seven/; 30d' text; printf 'an end\\n' > end; head -c 3000 /dev/urandom > noise; rm gone; seq 3 > new",
    );
    home.seal();
    let patch = home.owner(["diff", "latest~1", "latest", "--content"]).ok().text();
    assert!(patch.contains("(not a text)") && patch.contains("\\ No newline at end of file"), "{patch}");
    fs::write(home.path("patch"), &patch).unwrap();
    // Names in it are `a` and the full path, as git has them.
    let strip = source.components().count();
    shell(&home.path("before"), &format!("patch -s -p{strip} < ../patch; cp ../source/noise noise; diff -r . ../source"));
}

#[test]
fn stats_add_up() {
    let home = lived();
    let stats = home.owner(["--json", "stats", "--biggest", "--alone"]).ok().json();
    let stored: u64 = home.objects("", "").iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    let logical: u64 = home.snapshots().iter().map(|s| s["stats"]["logical_bytes"].as_u64().unwrap()).sum();
    assert_eq!((stats["snapshots"].as_u64(), stats["hosts"].as_u64()), (Some(4), Some(1)));
    assert_eq!((stats["stored_bytes"].as_u64(), stats["logical_bytes"].as_u64()), (Some(stored), Some(logical)));
    let kinds: u64 = stats["objects"].as_array().unwrap().iter().map(|o| o["bytes"].as_u64().unwrap()).sum();
    assert_eq!(kinds, stored);
    let files = stats["biggest"]["files"].as_array().unwrap();
    assert_eq!((inner(&home, &files[0]), files[0]["bytes"].as_u64()), ("noise".to_owned(), Some(5000)));
    assert_eq!(files.len(), 7, "links and directories are none");
    let dirs = stats["biggest"]["dirs"].as_array().unwrap();
    assert_eq!(dirs[0]["path"].as_str(), home.source().to_str(), "those above it hold nothing else");
    // The first holds what was changed and removed since; the last, which is as the one before but one, nothing but its own directories.
    let alone: Vec<u64> = stats["alone"].as_array().unwrap().iter().map(|a| a["chunks"].as_u64().unwrap()).collect();
    assert!(alone[0] > 0 && alone.len() == 4, "{alone:?}");
    let text = home.owner(["stats"]).ok().text();
    assert!(text.contains("snapshots        4\n") && text.contains("not known before a day has passed"), "{text}");
}

#[test]
fn bisect_finds_the_first_version_that_fails() {
    let home = Home::new();
    let conf = home.source().join("it's.conf");
    for n in 1..=12 {
        fs::write(&conf, format!("version {n}\n{}", if n >= 8 { "broken\n" } else { "" })).unwrap();
        home.seal();
    }
    let ids = ids(&home);
    let bisect = |command: &str| home.owner(["--json", "bisect", conf.to_str().unwrap(), "--run", command]);
    let report = bisect("! grep -q broken {}").ok().json();
    assert_eq!(report["first_failing"]["first"]["id"], *ids[7]);
    assert_eq!(report["last_passing"]["last"]["id"], *ids[6]);
    assert!(report["tried"].as_u64().unwrap() <= 5 && report["versions"] == 12, "{report}");
    let never = bisect("true").ok().json();
    assert!(never["first_failing"].is_null() && never["tried"] == 1, "{never}");
    let always = bisect("test {} -ef /dev/null").ok().json();
    assert!(always["first_failing"]["first"]["id"] == *ids[0] && always["last_passing"].is_null(), "{always}");
    // What it prints is no data of ours, and it is a file of that name that only we can read.
    let seen = home.path("seen");
    let look = format!("echo noise; stat -c '%a %n' {{}} >> {}", seen.display());
    assert!(bisect(&look).ok().json().is_object());
    let seen = fs::read_to_string(seen).unwrap();
    let (mode, path) = seen.lines().next().unwrap().split_once(' ').unwrap();
    assert!(mode == "600" && path.ends_with("/it's.conf") && !Path::new(path).exists(), "{seen}");
    bisect("no-such-program-at-all {}").run().exits(2).says("cannot be run");
    home.owner(["bisect", home.source().to_str().unwrap(), "--run", "true"]).refused(2).says("never was a file");
}

#[test]
fn damage_costs_the_answers_below_it_and_no_others() {
    let home = Home::new();
    shell(&home.source(), "mkdir a b; for d in a b; do for n in 1 2 3; do head -c 400 /dev/urandom > $d/file$n; done; done");
    home.seal();
    let before = home.objects("packs", "");
    shell(&home.source(), "echo more > b/file4");
    home.seal();
    let fresh: Vec<_> = home.objects("packs", "").into_iter().filter(|p| !before.contains(p)).collect();
    for pack in fresh {
        fs::set_permissions(&pack, fs::Permissions::from_mode(0o600)).unwrap();
        fs::remove_file(pack).unwrap();
    }
    // Whole packs of this size would come back from them.
    fs::remove_dir_all(home.vault().join("parity")).unwrap();
    let done = home.owner(["--json", "find", "file*"]).run().exits(4).says("the answer is not whole");
    assert_eq!(lines(&done).len(), 6, "what the first snapshot holds is found: {}", done.text());
    home.owner(["ls", "-r", "latest~1"]).ok();
    home.owner(["ls", "-r", "latest"]).run().exits(4).says("is not in the vault");
}
