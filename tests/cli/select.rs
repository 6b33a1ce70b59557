//! `coffre seal`: the words of what is taken. What each rule takes is in `tests/select.rs`.

use std::{fs, process::Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    common::{
        bin::{Home, Mounted, code, everything_in, send, shell, until},
        tree,
    },
    names,
};

/// A source of four files, two of which rules will leave out.
fn home() -> Home {
    let home = Home::new();
    for (name, content) in [("a.txt", "hello"), ("b.log", "log"), ("d/.coffreignore", "# of d\nsecret\n"), ("d/secret", "x")] {
        tree::write(home.source().join(name), content);
    }
    home
}

/// Lines of JSON.
fn rows(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_dry_run_lists_what_would_be_taken_and_why_the_rest_is_not_and_writes_nothing() {
    let home = home();
    let before = everything_in(&home.vault());
    let (source, top) = (home.source(), home.path(""));
    let (at, args) = (source.display(), ["seal", "--dry-run", "--exclude", "*.log", "source"]);
    let above: Vec<String> = source.ancestors().skip(1).filter(|p| p.parent().is_some()).map(|p| format!("+ {}/", p.display())).collect();
    let mut lines: Vec<String> = above.into_iter().rev().collect();
    let n = lines.len() + 1;
    lines.extend([format!("+ {at}/"), format!("+ {at}/a.txt"), format!("+ {at}/d/"), format!("+ {at}/d/.coffreignore")]);
    let total = format!("would take {} entries, 19 B: 2 files, {} directories, 0 links, 0 others; left out 2", n + 3, n + 1);
    assert_eq!(home.coffre(args).ok().text(), format!("{}\n{total}\n", lines.join("\n")));
    lines.insert(n, format!("- {at}/b.log  (--exclude *.log)"));
    lines.insert(n + 3, format!("- {at}/d/secret  ({at}/d/.coffreignore:2: secret)"));
    assert_eq!(home.coffre(args).args(["-v"]).ok().text(), format!("{}\n{total}\n", lines.join("\n")));

    let said = rows(&home.coffre(["--json"]).args(args).ok().text());
    let of = |name: &str| said.iter().find(|row| row["path"] == format!("{at}/{name}")).unwrap().clone();
    assert_eq!(of("a.txt"), json!({"would": "take", "path": format!("{at}/a.txt"), "type": "file", "size": 5}));
    assert_eq!(
        of("d/secret"),
        json!({"would": "leave_out", "path": format!("{at}/d/secret"), "content_only": false, "option": "--ignore-file",
            "file": format!("{at}/d/.coffreignore"), "line": 2, "pattern": "secret", "text": format!("{at}/d/.coffreignore:2: secret")})
    );
    let total = said.last().unwrap();
    let fields =
        ["directories", "entries", "files", "left_out", "logical_bytes", "others", "sockets_skipped", "symlinks", "unreadable", "would"];
    assert_eq!((names(total), &total["would"], &total["left_out"]), (fields.to_vec(), &json!("total"), &json!(2)));

    // A host that holds no key can ask as well.
    home.coffre(args).env("COFFRE_STATE_DIR", home.path("elsewhere")).ok();
    assert!(everything_in(&home.vault()) == before && !home.path("elsewhere").exists(), "nothing is written");
    assert!(top.join("state").exists());
    home.coffre(["seal", "--dry-run", "source/none"]).refused(1).says("source/none");

    let report = home.coffre(["--json", "seal", "--exclude", "*.log", "source"]).ok().json();
    assert_eq!((&report["left_out"], &report["stats"]["files"]), (&json!(2), &json!(2)));
    let report = home.coffre(["--json", "seal", "--no-ignore-file", "source"]).ok().json();
    assert_eq!((&report["left_out"], &report["stats"]["files"]), (&json!(0), &json!(4)));
    home.coffre(["seal", "source"]).ok().text().split('\n').find(|line| *line == "  left out 1 by rules").unwrap();
}

#[test]
fn wrong_rules_are_refused_before_anything_is_stored() {
    let home = home();
    for (args, says) in [
        (["--exclude", ""], "empty"),
        (["--exclude", "*.{a,b}"], "no {a,b}"),
        (["--exclude", "./d"], "current directory"),
        (["--exclude-if-present", "a/b"], "without a directory"),
        (["--exclude-larger-than", "much"], "a size is wanted"),
        (["--preset", "none"], "server"),
        (["--set-label", "x"], "KEY=VALUE"),
        (["--set-label", "=x"], "the key"),
        (["--set-label", "a b=x"], "no spaces"),
        (["--set-label", "a=\u{1b}[31m"], "control characters"),
        (["--stdin-name", "x"], "PATH says which files are taken"),
        (["--from-command", "true"], "--stdin-name"),
        (["--list-preset", "dev"], "cannot be used with"),
    ] {
        let done = home.coffre(["seal", "source"]).args(args).run().exits(2).says(says);
        assert!(done.out.is_empty(), "{args:?}");
    }
    home.coffre(["seal", "--from-command", "true"]).run().exits(2).says("--stdin-name");
    home.coffre(["seal", "source", "--set-label", &format!("{}=x", "k".repeat(65))]).run().exits(2).says("64");
    home.coffre(["seal", "source", "--set-label", &format!("k={}", "v".repeat(1025))]).run().exits(2).says("1024");
    home.coffre(["seal", "source", "--set-label", "a=1", "--set-label", "a=2"]).refused(2).says("two values");
    home.coffre(["seal", "source", "--exclude-file", "none"]).run().exits(1).says("none");
    assert!(home.snapshots().is_empty());
}

#[test]
fn a_seal_tells_on_request_what_it_leaves_out_and_why() {
    let home = home();
    let at = home.source().display().to_string();
    let args = ["seal", "--exclude", "*.log", "--exclude-if-present", "a.mark", "source"];
    tree::write(home.source().join("e/a.mark"), "");
    tree::write(home.source().join("e/x\ny"), "");
    let lines = [
        format!("coffre: left out: {at}/b.log  (--exclude *.log)"),
        format!("coffre: left out: {at}/d/secret  ({at}/d/.coffreignore:2: secret)"),
        format!("coffre: left out: {at}/e/*  (--exclude-if-present a.mark)"),
    ];
    let told = |err: &str| err.lines().filter(|line| line.contains("left out")).map(str::to_owned).collect::<Vec<_>>();
    // The second time everything comes from the catalog.
    for _ in 0..2 {
        assert_eq!(told(&home.coffre(args).args(["-v"]).ok().err), lines);
    }
    for silent in [&[][..], &["-v", "-q"], &["--progress", "json"]] {
        let err = home.coffre(args).args(silent).ok().err;
        assert!(!err.contains("secret"), "{silent:?}: {err}");
    }
    let err = home.coffre(args).args(["-v", "--progress", "json"]).ok().err;
    let said: Vec<Value> = rows(&err).into_iter().filter(|row| row["did"] == "leave_out").collect();
    assert_eq!(
        (said.len(), &said[1]),
        (
            3,
            &json!({"did": "leave_out", "path": format!("{at}/d/secret"), "content_only": false, "option": "--ignore-file",
                "file": format!("{at}/d/.coffreignore"), "line": 2, "pattern": "secret", "text": format!("{at}/d/.coffreignore:2: secret")})
        )
    );
}

/// These were taken and did nothing.
#[test]
fn an_option_that_could_have_no_effect_is_refused() {
    let home = home();
    let stream = ["seal", "--stdin-name", "x", "--from-command", "echo x"];
    for args in [
        &["--exclude", "x"][..],
        &["--exclude-file", "none"],
        &["--ignore-file", ".coffreignore"],
        &["--no-ignore-file"],
        &["--exclude-caches"],
        &["--exclude-if-present", "x"],
        &["--exclude-larger-than", "1"],
        &["--exclude-nodump"],
        &["--one-file-system"],
        &["--preset", "dev"],
        &["--files-from", "none"],
    ] {
        let says = format!("{} says which files are taken, and --stdin-name takes none", args[0]);
        let done = home.coffre(stream).args(args).refused(2).says(&says).says("hint: leave one of the two out");
        assert!(done.out.is_empty(), "{args:?}");
    }
    home.coffre(stream).args(["source"]).refused(2).says("PATH says which files are taken");
    home.coffre(stream).args(["--dry-run"]).refused(2).says("--dry-run lists files");
    home.coffre(["seal", "source", "--no-ignore-file", "--ignore-file", "x"]).run().exits(2).says("cannot be used with");
    for args in [&["--tag", "x"][..], &["--level", "3"], &["--exclude", "x"], &["--stdin-name", "x"], &["-n"]] {
        home.coffre(["seal", "--list-preset", "dev"]).args(args).run().exits(2).says("cannot be used with");
    }
    assert!(home.snapshots().is_empty());
    home.coffre(stream).args(["--tag", "t", "--level", "5", "--host", "h", "--set-label", "a=b"]).ok();
}

#[test]
fn presets_are_printed_and_can_be_given_back_as_a_file() {
    let home = home();
    for preset in ["dev", "server"] {
        let text = home.bare(["seal", "--list-preset", preset]).ok().text();
        fs::write(home.path("patterns"), &text).unwrap();
        let dry = |args: &[&str]| home.coffre(["seal", "-n", "source"]).args(args).ok().text();
        assert_eq!(dry(&["--exclude-file", "patterns"]), dry(&["--preset", preset]));
        assert!(text.starts_with("# ") && text.lines().count() > 20, "{text}");
    }
}

#[test]
fn labels_are_shown_to_people_and_scripts() {
    let home = home();
    home.coffre(["seal", "source"]).ok();
    assert!(!home.owner(["snapshots"]).ok().text().contains("LABELS"));
    let args = ["--set-label", "release=1.4=rc", "--set-label", "by=\u{e9}lodie"];
    let report = home.coffre(["--json", "seal", "source"]).args(args).ok().json();
    let labels = json!({"by": "\u{e9}lodie", "release": "1.4=rc"});
    assert_eq!((&report["labels"], &home.snapshots()[1]["labels"]), (&labels, &labels));
    let text = home.owner(["snapshots"]).ok().text();
    assert!(text.lines().next().unwrap().contains("LABELS") && text.contains("  by=\u{e9}lodie, release=1.4=rc  "), "{text}");
}

#[test]
fn lists_of_paths_come_from_files_and_pipes() {
    let home = home();
    let sealed = |report: &Value| report["paths"].as_array().unwrap().iter().map(|p| p.as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let paths = |names: &[&str]| names.iter().map(|n| home.source().join(n).to_str().unwrap().to_owned()).collect::<Vec<_>>();
    fs::write(home.path("list"), "source/a.txt\n\nsource/b.log\n").unwrap();
    let report = home.coffre(["--json", "seal", "--files-from", "list", "source/d"]).ok().json();
    assert_eq!(sealed(&report), paths(&["a.txt", "b.log", "d"]));
    tree::write(home.source().join("two\nlines"), "x");
    let coffre = format!("COFFRE_STATE_DIR=state {} --vault vault --json seal", env!("CARGO_BIN_EXE_coffre"));
    let text = shell(&home.path(""), &format!("find source -type f -name '*n*' -print0 | {coffre} --files-from - -0"));
    assert_eq!(sealed(&serde_json::from_str(&text).unwrap()), paths(&["d/.coffreignore", "two\nlines"]));
    fs::write(home.path("list"), "source/a.txt\nsource/none\n").unwrap();
    let done = home.coffre(["--json", "seal", "--files-from", "list"]).run().exits(3);
    assert_eq!(done.json()["unreadable"][0]["path"], paths(&["none"])[0]);
    fs::write(home.path("list"), "").unwrap();
    home.coffre(["seal", "--files-from", "list"]).refused(1).says("empty");
    home.coffre(["seal", "--files-from", "none"]).refused(1).says("none");
    home.coffre(["seal", "--files-from", "-"]).at_terminal(&[]).exits(2);
}

#[test]
fn a_mounted_vault_is_never_sealed() {
    let home = home();
    home.seal();
    let inside = home.source().join("mnt");
    fs::create_dir(&inside).unwrap();
    let mounted = Mounted::of(&home, home.owner(["mount"]), &inside);
    let text = home.coffre(["seal", "-n", "-v", "source"]).ok().text();
    assert!(text.contains(&format!("- {}  (never sealed: a mounted vault)\n", inside.display())), "{text}");
    let report = home.coffre(["--json", "seal", "source"]).ok().json();
    assert_eq!((&report["unreadable"], &report["stats"]["files"]), (&json!([]), &json!(3)));
    for path in [inside.clone(), mounted.latest(&home.source()), inside.join("latest")] {
        home.coffre(["seal"]).args([path]).refused(2).says("a vault is mounted there");
    }
    // A dead mount does not even tell what it is.
    let mut mounted = mounted;
    send(mounted.child(), Signal::KILL);
    mounted.wait();
    assert!(fs::metadata(&inside).is_err(), "the mount is dead");
    let report = home.coffre(["--json", "seal", "source"]).ok().json();
    assert_eq!((&report["unreadable"], &report["left_out"]), (&json!([]), &json!(2)));
}

#[test]
fn a_command_is_sealed_if_it_succeeds() {
    let home = home();
    let seal = |command: &str| home.coffre(["--json", "seal", "--stdin-name", "shop.sql", "--from-command", command]);
    let done = seal("echo rows; echo a notice >&2").ok().says("a notice\n");
    assert_eq!(done.json()["paths"], json!(["/shop.sql"]));
    assert_eq!(home.owner(["cat", "latest:/shop.sql"]).ok().text(), "rows\n");
    let done = seal("echo rows; echo no such database >&2; exit 3").run().exits(1);
    let failure: Value = serde_json::from_str(done.err.lines().last().unwrap()).unwrap();
    assert_eq!(failure["kind"], "Unavailable");
    assert!(
        failure["error"].as_str().unwrap().ends_with("ended with exit status 3, so there is no snapshot: no such database"),
        "{failure}"
    );
    home.coffre(["seal", "--stdin-name", "x", "--from-command", "kill -9 $$"]).refused(1).says("signal 9");
    assert_eq!(home.snapshots().len(), 1);

    // Standard input, and a terminal in its place.
    let mut command = home.coffre(["seal", "--stdin-name", "/var/x/piped"]);
    command.0.stdin(fs::File::open(home.source().join("a.txt")).unwrap());
    command.ok();
    assert_eq!(home.owner(["cat", "latest:/var/x/piped"]).ok().text(), "hello");
    let said = home.coffre(["seal", "--stdin-name", "x"]).at_terminal(&[]).exits(2).text();
    assert!(said.contains("that is a terminal") && said.contains("pipe it: "), "{said}");
    home.coffre(["seal", "--stdin-name", "../x"]).refused(2).says("../x");
    assert_eq!(home.snapshots().len(), 2);
}

#[test]
fn an_interrupt_ends_the_command_too() {
    let home = home();
    let command = format!("echo $$ > {}; sleep 1000; sleep 1000", home.path("pid").display());
    for signal in [Signal::INT, Signal::TERM] {
        let _ = fs::remove_file(home.path("pid"));
        let mut seal = home.coffre(["seal", "--stdin-name", "x", "--from-command", &command]);
        seal.0.stdin(Stdio::null());
        let mut child = seal.spawn(&home.path("log"));
        let mut pid = None;
        until("the command runs", || {
            pid = fs::read_to_string(home.path("pid")).ok().and_then(|text| text.trim().parse::<i32>().ok());
            pid.is_some()
        });
        send(&child, signal);
        until("the seal ends", || child.try_wait().unwrap().is_some());
        assert_eq!(code(child.wait().unwrap()), 130, "{}", fs::read_to_string(home.path("log")).unwrap());
        let group = rustix::process::Pid::from_raw(pid.unwrap()).unwrap();
        assert!(rustix::process::test_kill_process_group(group).is_err(), "nobody of the command is left");
    }
    assert!(home.snapshots().is_empty());
}
