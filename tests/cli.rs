//! The command line: its words, its JSON, its exit codes, and what it does with every bad input.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

mod common;
#[path = "cli/manners.rs"]
mod manners;
#[path = "cli/seals.rs"]
mod seals;
#[path = "cli/select.rs"]
mod select;

use std::{fs, path::PathBuf};

use common::{
    bin::{Home, at_terminal, everything_in, run_tool, secret, shell, tool},
    tree,
};
use serde_json::Value;

/// The names of a JSON object.
fn names(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// `latest:` and where `name` of the source is in a snapshot.
fn at(home: &Home, name: &str) -> String {
    format!("latest:{}", home.source().join(name).display())
}

#[test]
fn init_takes_every_kind_of_public_key_and_each_opens_the_vault() {
    let home = Home::without_vault();
    let mut keys = vec![home.key()];
    for kind in ["ed25519", "rsa"] {
        let key = home.path(kind);
        run_tool("ssh-keygen", "openssh-client", &["-q", "-t", kind, "-N", "", "-C", "me@desk", "-f", key.to_str().unwrap()]);
        keys.push(key);
    }
    let public = |name: &str| fs::read_to_string(home.path(name)).unwrap();
    fs::write(home.path("recipients"), format!("# of two people\n\n{}", public("rsa.pub"))).unwrap();
    let args =
        ["--json", "init", "--recipient", &home.recipient(), "--recipient", &public("ed25519.pub"), "--recipients-file", "recipients"];
    let made = home.coffre(args).ok().json();
    assert_eq!(names(&made), ["place", "recovery_kit", "sealer", "vault", "ways"]);
    assert_eq!(made["place"], home.vault().to_str().unwrap());
    assert_eq!(made["ways"].as_array().unwrap().len(), 3);
    let files: Vec<_> = home.objects("keys", ".age").iter().map(|p| p.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    assert_eq!(files[..3], ["owner-0001-age.age", "owner-0002-ssh.age", "owner-0003-ssh.age"]);
    assert_eq!(home.objects("parity/keys", ".age").len(), files.len());

    tree::small(&home.source());
    home.seal();
    for key in keys {
        let by_option = home.coffre(["cat", &at(&home, "hello")]).args(["--identity", key.to_str().unwrap()]).ok();
        assert_eq!(by_option.text(), "hello, world\n", "{}", key.display());
        let by_variable = home.coffre(["cat", &at(&home, "hello")]).env("COFFRE_IDENTITY", &key).ok();
        assert_eq!(by_variable.text(), "hello, world\n", "{}", key.display());
    }
}

#[test]
fn a_passphrase_comes_from_a_file_a_command_or_the_environment() {
    let home = Home::without_vault();
    secret(&home.path("pass"), "correct horse\nsecond line\n");
    tree::small(&home.source());
    let ways = |args: &[&str], place: &str| home.bare(["--vault", place]).args(args);
    ways(&["init", "--passphrase-file", "pass"], "by-file").ok();
    ways(&["init", "--passphrase-command", "head -n 1 pass"], "by-command").ok();
    ways(&["init"], "by-variable").env("COFFRE_PASSPHRASE", "correct horse").ok();
    for place in ["by-file", "by-command", "by-variable"] {
        assert_eq!(shell(&home.path(place), "ls keys | head -n 1"), "owner-0001-passphrase.age\n");
    }
    // What one way made, the others open.
    ways(&["verify", "--depth", "chunks", "--passphrase-command", "cat pass"], "by-file").ok();
    ways(&["verify", "--depth", "chunks"], "by-command").env("COFFRE_PASSPHRASE", "correct horse").ok();
    ways(&["verify", "--depth", "chunks", "--passphrase-file", "pass"], "by-variable").ok();
}

#[test]
fn a_person_at_a_terminal_is_asked_for_the_passphrase() {
    let home = Home::without_vault();
    let asked = [("new passphrase: ", "correct horse"), ("once more: ", "correct horse")];
    let done = home.coffre(["init"]).at_terminal(&asked).exits(0);
    assert!(done.text().contains("COFFRE RECOVERY KIT") && !done.text().contains("correct horse"), "{}", done.text());
    tree::small(&home.source());
    home.seal();
    let done = home.coffre(["cat", &at(&home, "hello")]).at_terminal(&[("passphrase of the vault", "correct horse")]).exits(0);
    assert!(done.text().ends_with("hello, world\n"), "{}", done.text());
    home.coffre(["cat", &at(&home, "hello")]).at_terminal(&[("passphrase of the vault", "wrong")]).exits(12);

    let other = Home::without_vault();
    let differ = [("new passphrase: ", "one"), ("once more: ", "two")];
    let done = other.coffre(["init"]).at_terminal(&differ).exits(2);
    assert!(done.text().contains("differ") && !other.vault().exists(), "{}", done.text());
}

#[test]
fn the_recovery_kit_works_as_it_is_printed() {
    let home = Home::without_vault();
    let kit = home.coffre(["init", "--recipient", &home.recipient()]).ok().text();
    tree::small(&home.source());
    home.seal();
    fs::remove_dir_all(home.path("state")).unwrap();
    for fact in ["place   ", "vault   ", "owner   ssh-ed25519 ", &home.recipient(), home.vault().to_str().unwrap()] {
        assert!(kit.contains(fact), "the kit names {fact}: {kit}");
    }
    run_kit(&home, &kit, &[]);
}

#[test]
fn the_recovery_kit_of_a_passphrase_works_as_it_is_printed() {
    let home = Home::without_vault();
    let kit = home.coffre(["init"]).env("COFFRE_PASSPHRASE", "correct horse").ok().text();
    tree::small(&home.source());
    home.seal();
    fs::remove_dir_all(home.path("state")).unwrap();
    run_kit(&home, &kit, &[("passphrase", "correct horse")]);
}

/// Pastes the kit's stock commands into a shell, with its words in capitals replaced, and a /dev/shm of their own.
fn run_kit(home: &Home, kit: &str, answers: &[(&str, &str)]) {
    let (_, stock) = kit.split_once("To restore without coffre").unwrap();
    let lines: Vec<&str> = stock.lines().filter_map(|line| line.strip_prefix("  ")).collect();
    assert_eq!(lines.len(), 4, "{kit}");
    let pasted = lines.join("\n").replace("PLACE", "vault").replace("YOUR-KEY-FILE", home.key().to_str().unwrap());
    let pasted = pasted.replace("DEST", home.path("dest").to_str().unwrap());
    let script = format!("set -e; mount -t tmpfs none /dev/shm\n{pasted}\n[ -z \"$(ls -A /dev/shm)\" ]");
    let mut command = tool("unshare");
    command.args(["--mount", "bash", "-c", &script]).current_dir(home.path(""));
    at_terminal(command, answers).exits(0);
    tree::assert_same(&home.source(), &home.inside(home.path("dest"), home.source()));
}

#[test]
fn init_refuses_what_it_would_overwrite_and_what_it_cannot_use() {
    let home = Home::new();
    let vault = everything_in(&home.vault());
    home.coffre(["init", "--recipient", &home.recipient()]).refused(1).says("a vault is already at");
    assert!(everything_in(&home.vault()) == vault, "the vault that is there is as it was");

    tree::write(home.path("mine/file"), "precious");
    home.bare(["--vault", "mine", "init", "--recipient", &home.recipient()]).refused(1).says("is not empty");
    assert_eq!(everything_in(&home.path("mine")), [(PathBuf::from("file"), Some(b"precious".to_vec()))]);

    let refused = |args: &[&str], code: i32| {
        let done = home.bare(["--vault", "new", "init"]).args(args).refused(code);
        assert!(!home.path("new").exists(), "{args:?} leaves nothing behind");
        done
    };
    let secret_key = fs::read_to_string(home.key()).unwrap().lines().last().unwrap().to_owned();
    refused(&[], 2).says("no way into the new vault");
    // What is no public key may be a secret, and is never repeated.
    let done = refused(&["--recipient", "age1nonsense"], 2).says("begins like an age key, and is not whole");
    assert!(!done.err.contains("nonsense"), "{}", done.err);
    let done = refused(&["--recipient", &secret_key], 2).says("private");
    assert!(!done.err.contains(&secret_key), "a secret is not printed");
    refused(&["--recipient", &home.recipient(), "--sealer", "a/b"], 2).says("a/b");
    home.bare(["init", "--recipient", &home.recipient()]).refused(2).says("which vault?");
    refused(&["--recipients-file", "none"], 1).says("none");
}

#[test]
fn without_a_vault_every_command_says_so() {
    let home = Home::without_vault();
    fs::create_dir(home.path("empty")).unwrap();
    let commands: [&[&str]; 7] = [
        &["seal", "source"],
        &["snapshots"],
        &["mount", "mnt"],
        &["verify"],
        &["cat", "latest:/x"],
        &["catalog", "rebuild"],
        &["verify", "--depth", "chunks"],
    ];
    for place in ["none", "empty", "owner.key"] {
        for command in commands {
            home.bare(["--vault", place, "--identity", "owner.key"]).args(command).refused(10).says(place);
        }
        let done = home.bare(["--vault", place, "--json", "snapshots"]).run().exits(10);
        let error: Value = serde_json::from_str(&done.err).unwrap();
        assert_eq!(names(&error), ["error", "exit_code", "hint", "kind"]);
        assert_eq!((&error["kind"], &error["exit_code"]), (&"NoVault".into(), &10.into()));
    }
    assert!(!home.path("none").exists() && fs::read_dir(home.path("empty")).unwrap().next().is_none());
}

#[test]
fn a_vault_from_a_newer_version_is_called_that() {
    let home = Home::new();
    let file = home.vault().join("VAULT");
    let text = fs::read_to_string(&file).unwrap();
    for (changed, says) in [(text.replace("coffre-vault 1", "coffre-vault 2"), "format 2"), (format!("{text}need delta\n"), "`delta`")] {
        fs::write(&file, changed).unwrap();
        let before = everything_in(&home.vault());
        for command in [&["seal", "source"][..], &["snapshots"], &["mount", "mnt"], &["verify"], &["cat", "latest:/x"]] {
            home.owner(command).refused(1).says(says).says("newer coffre");
        }
        assert!(everything_in(&home.vault()) == before);
    }
    fs::write(&file, format!("{text}later words\n")).unwrap();
    home.owner(["verify"]).ok();
}

#[test]
fn the_wrong_key_or_none_is_exit_code_12() {
    let home = Home::new();
    tree::small(&home.source());
    home.seal();
    run_tool("age-keygen", "age", &["-o", home.path("other.key").to_str().unwrap()]);
    let cat = ["cat", &at(&home, "hello")];
    home.coffre(cat).refused(12).says("a key is needed");
    home.coffre(cat).args(["--identity", "other.key"]).refused(12);
    home.coffre(cat).env("COFFRE_PASSPHRASE", "wrong").refused(12);
    home.coffre(["verify", "--depth", "chunks"]).refused(12);
    home.coffre(cat).args(["--identity", "vault/VAULT"]).refused(2).says("vault/VAULT");

    let by_passphrase = Home::without_vault();
    by_passphrase.coffre(["init"]).env("COFFRE_PASSPHRASE", "right").ok();
    by_passphrase
        .coffre(["verify", "--depth", "chunks"])
        .env("COFFRE_PASSPHRASE", "wrong")
        .refused(12)
        .says("this passphrase does not open");
    home.coffre(cat).args(["--identity", "none.key"]).refused(12).says("none.key");
}

#[test]
fn cat_prints_a_file_and_refuses_everything_else() {
    let home = Home::new();
    home.owner(["cat", "latest:/x"]).refused(1).says("the vault has none");
    tree::small(&home.source());
    let report = home.seal();
    let id = report["id"].as_str().unwrap();
    for snap in ["latest", "latest~0", &id[..8], id, "now", &format!("{}@latest", report["host"].as_str().unwrap())] {
        let what = format!("{snap}:{}", home.source().join("docs/noise").display());
        assert!(home.owner(["cat", &what]).ok().out == tree::noise(7, 700_000), "{what}");
    }
    assert_eq!(home.owner(["cat", &at(&home, "empty")]).ok().text(), "");
    for (what, code) in [
        ("latest".to_owned(), 2),
        ("nonsense:/x".to_owned(), 2),
        ("latest~1:/x".to_owned(), 1),
        ("0000000000:/x".to_owned(), 1),
        ("1999-12-31:/x".to_owned(), 1),
        ("elsewhere@latest:/x".to_owned(), 1),
        (at(&home, "none"), 1),
        (at(&home, "hello/below"), 1),
        (at(&home, "docs"), 2),
        (at(&home, ""), 2),
        (at(&home, "link"), 2),
    ] {
        home.owner(["cat", &what]).refused(code);
    }
}

#[test]
fn snapshots_are_listed_with_tags_hosts_and_filters() {
    let home = Home::new();
    tree::small(&home.source());
    let seal = |args: &[&str], path: &str| home.coffre(["--json", "seal"]).args(args).args([home.source().join(path)]).ok().json();
    let sealed = [seal(&["--tag", "daily", "--tag", "kept"], "docs"), seal(&["--host", "elsewhere"], "src"), seal(&["--tag", "daily"], "")];
    // Which of the three a filter lists, in order.
    let listed = |args: &[&str]| -> Vec<usize> {
        let rows = home.owner(["--json", "snapshots"]).args(args).ok().json();
        let which = |row: &Value| sealed.iter().position(|report| report["id"] == row["id"]).unwrap();
        rows.as_array().unwrap().iter().map(which).collect()
    };
    let docs = home.source().join("docs/text");
    assert_eq!(listed(&[]), [0, 1, 2]);
    assert_eq!(listed(&["--tag", "daily"]), [0, 2]);
    assert_eq!(listed(&["--tag", "kept"]), [0]);
    assert_eq!(listed(&["--host", "elsewhere"]), [1]);
    assert_eq!(listed(&["--last", "1"]), [2]);
    assert_eq!(listed(&["--path", docs.to_str().unwrap()]), [0, 2]);
    assert_eq!(listed(&["--since", "yesterday"]), [0, 1, 2]);
    assert_eq!(listed(&["--until", "yesterday"]), [0; 0]);
    home.owner(["snapshots", "--since", "whenever"]).refused(2).says("whenever");

    let rows = home.snapshots();
    assert_eq!(
        names(&rows[0]),
        ["directory", "host", "id", "labels", "paths", "pinned", "problems", "snapshot", "stats", "suspicions", "tags", "time", "time_ns"]
    );
    assert_eq!((&rows[0]["tags"], &rows[1]["host"]), (&serde_json::json!(["daily", "kept"]), &"elsewhere".into()));
    let text = home.owner(["snapshots"]).ok().text();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() == 4 && lines[0].starts_with("ID ") && lines[2].starts_with(&sealed[1]["id"].as_str().unwrap()[..8]), "{text}");
    // This host's own, without any key.
    assert_eq!(home.coffre(["snapshots"]).ok().text(), text);
}

#[test]
fn verify_says_what_is_damaged_and_with_a_key_which_files() {
    let home = Home::new();
    tree::small(&home.source());
    home.seal();
    let fields = [
        "bytes",
        "chunks",
        "damage",
        "damaged_files",
        "damaged_files_more",
        "depth",
        "forks",
        "lost",
        "notices",
        "objects",
        "packs",
        "packs_read",
        "seconds",
        "snapshots",
        "unreferenced",
    ];
    for (depth, owner) in [("snapshots", false), ("packs", false), ("chunks", true)] {
        let verify = if owner { home.owner(["--json", "verify"]) } else { home.coffre(["--json", "verify"]) };
        let report = verify.args(["--depth", depth]).ok().json();
        assert_eq!((names(&report), &report["depth"]), (fields.to_vec(), &depth.into()));
    }
    let pack = home.objects("packs", ".age").into_iter().max_by_key(|p| fs::metadata(p).unwrap().len()).unwrap();
    let name = pack.strip_prefix(home.vault()).unwrap().to_str().unwrap().to_owned();
    fs::rename(&pack, home.path("aside")).unwrap();
    for depth in ["snapshots", "packs"] {
        let report = home.coffre(["--json", "verify", "--depth", depth]).run().exits(4).json();
        assert_eq!(report["damage"].as_array().unwrap().iter().map(|d| d["object"].as_str().unwrap()).collect::<Vec<_>>(), [&name]);
    }
    let done = home.owner(["verify", "--depth", "chunks"]).run().exits(4).says("coffre: error: ").says("coffre: hint: ");
    assert!(done.text().contains(&name) && done.text().contains("/source/"), "{}", done.text());
    fs::rename(home.path("aside"), &pack).unwrap();
    assert!(home.owner(["verify", "--depth", "chunks"]).ok().text().starts_with("no damage: 1 snapshot,"));
}

#[test]
fn completions_manual_help_and_version_are_printed() {
    let home = Home::without_vault();
    for shell in ["bash", "zsh", "fish"] {
        let text = home.bare(["completions", shell]).ok().text();
        assert!(text.contains("coffre") && text.contains("COMPLETE="), "{shell}: it asks the program itself, see tests/look");
    }
    let manual = home.bare(["man"]).ok().text();
    assert!(manual.contains(".TH ") && manual.contains("coffre\\-unmount"), "{manual}");
    let manual = home.bare(["man", "init"]).ok().text();
    assert!(manual.contains(".TH ") && manual.contains("recipients"), "{manual}");
    assert!(home.bare(["--help"]).ok().text().contains("Exit codes: 0 done"));
    assert_eq!(home.bare(["--version"]).ok().text(), concat!("coffre ", env!("CARGO_PKG_VERSION"), "\n"));
    for wrong in [&["frobnicate"][..], &["seal", "--frobnicate"], &[], &["mount"], &["verify", "--depth", "none"]] {
        assert!(home.bare(wrong).run().exits(2).out.is_empty());
    }
}

#[test]
fn quiet_says_nothing_and_a_reader_that_leaves_early_is_no_failure() {
    let home = Home::new();
    tree::small(&home.source());
    let done = home.coffre(["--quiet", "seal", "source"]).ok();
    assert_eq!(done.err, "");
    let coffre = env!("CARGO_BIN_EXE_coffre");
    let what = at(&home, "docs/noise");
    shell(&home.path(""), &format!("COFFRE_STATE_DIR=state {coffre} --vault vault --identity owner.key cat '{what}' | head -c 10 > head"));
    assert_eq!(fs::read(home.path("head")).unwrap(), tree::noise(7, 10));
}
