//! Owners: ways in of every kind come and go, keys rotate, a kit on paper brings a vault back.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::{
    Machine,
    common::{
        bin::{Coffre, Home, Mounted, at_terminal, everything_in, run_tool, secret, shell, tool},
        tree,
    },
    hello, sealed,
};

/// Every object of the vault but those of keys and signers: what no change of keys may touch.
fn packs(home: &Home) -> BTreeMap<PathBuf, Vec<u8>> {
    let lasting = |path: &Path| ["packs", "index", "snaps"].iter().any(|folder| path.starts_with(folder));
    everything_in(&home.vault()).into_iter().filter_map(|(path, bytes)| Some((path, bytes?))).filter(|(path, _)| lasting(path)).collect()
}

/// What there is in a folder of the vault.
fn names(home: &Home, folder: &str) -> Vec<String> {
    home.objects(folder, "").iter().map(|p| p.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

/// `coffre ARGS` by a passphrase in a file.
fn by_passphrase(home: &Home, passphrase: &str, args: &[&str]) -> Coffre {
    let file = home.path(format!("pass.{passphrase}"));
    secret(&file, &format!("{passphrase}\n"));
    home.coffre(args).args(["--passphrase-file", file.to_str().unwrap()])
}

#[test]
fn ways_in_of_every_kind_come_and_go_and_no_pack_is_touched() {
    let home = sealed();
    let before = packs(&home);
    for (kind, passphrase) in [("ed25519", ""), ("rsa", "")] {
        let key = home.path(kind);
        run_tool("ssh-keygen", "openssh-client", &["-q", "-t", kind, "-N", passphrase, "-C", "me@desk", "-f", key.to_str().unwrap()]);
    }
    let public = |name: &str| fs::read_to_string(home.path(name)).unwrap();
    home.owner(["key", "add", "--name", "desk", "--recipient", &public("ed25519.pub")]).ok();
    home.owner(["key", "add", "--recipients-file", "rsa.pub"]).ok();
    secret(&home.path("new"), "correct horse\n");
    let added = home.owner(["--json", "key", "add", "--new-passphrase-file", "new"]).ok().json();
    assert_eq!((&added[0]["number"], &added[0]["file"]), (&4.into(), &"keys/owner-0004-passphrase.age".into()));
    assert_eq!(names(&home, "keys/owner"), [""; 0]);
    let listed = home.owner(["--json", "key", "list"]).ok().json();
    let kinds: Vec<(&str, &str)> =
        listed["ways"].as_array().unwrap().iter().map(|w| (w["kind"].as_str().unwrap(), w["what"].as_str().unwrap())).collect();
    let ssh = [public("ed25519.pub"), public("rsa.pub")];
    let own = home.recipient();
    assert_eq!(kinds, [("age", own.as_str()), ("ssh", ssh[0].trim()), ("ssh", ssh[1].trim()), ("passphrase", "a passphrase")]);
    // Without a key the list says no more than the names of the files do.
    let listed = home.coffre(["--json", "key", "list"]).ok().json();
    assert_eq!((&listed["ways"][1]["name"], &listed["ways"][1]["what"]), (&"desk".into(), &serde_json::Value::Null));

    let open = |identity: &str| home.coffre(["cat", &hello(&home)]).args(["--identity", identity]);
    for identity in ["owner.key", "ed25519", "rsa"] {
        assert_eq!(open(identity).ok().text(), "hello, world\n", "{identity}");
    }
    assert_eq!(by_passphrase(&home, "correct horse", &["cat", &hello(&home)]).ok().text(), "hello, world\n");

    for way in ["desk", "3", "owner-0004-passphrase.age"] {
        home.owner(["key", "remove", way]).ok();
    }
    open("ed25519").refused(12);
    by_passphrase(&home, "correct horse", &["cat", &hello(&home)]).refused(12);
    home.owner(["key", "remove", "1"]).refused(1).says("is the last way into this vault");
    home.owner(["key", "remove", "2"]).refused(1).says("no way in is called 2");
    assert_eq!(open("owner.key").ok().text(), "hello, world\n");
    // A number is never used again, and receipts that name what was removed are no damage.
    home.owner(["key", "add", "--recipient", &public("rsa.pub")]).ok().text();
    assert_eq!(
        names(&home, "keys").iter().filter(|n| n.starts_with("owner-")).collect::<Vec<_>>(),
        ["owner-0001-age.age", "owner-0005-ssh.age"]
    );
    assert_eq!(packs(&home), before);
    home.coffre(["verify"]).ok();
    home.seal();
    home.owner(["verify", "--depth", "chunks"]).ok();
    home.coffre(["key", "add", "--recipient", &public("rsa.pub")]).refused(12);
}

#[test]
fn a_way_in_that_the_storage_lost_is_damage_and_one_that_was_removed_is_not() {
    let home = sealed();
    home.owner(["key", "add", "--name", "second", "--recipient", &home.recipient()]).ok();
    home.seal();
    home.owner(["key", "remove", "second"]).ok();
    home.coffre(["verify"]).ok();
    // Somebody forges that the first one was removed, too.
    let text = fs::read_to_string(home.vault().join("keys/removed.0001")).unwrap();
    fs::write(home.vault().join("keys/removed.0002"), text.replace("0002-second", "0001")).unwrap();
    fs::copy(home.vault().join("keys/removed.0001.sig"), home.vault().join("keys/removed.0002.sig")).unwrap();
    fs::remove_file(home.vault().join("keys/owner-0001-age.age")).unwrap();
    let report = home.coffre(["--json", "verify"]).run().exits(4).json();
    assert!(report["damage"].to_string().contains("keys/owner-0001-age.age"), "{report}");
}

#[test]
fn a_passphrase_changes_and_only_the_new_one_opens() {
    let home = Home::without_vault();
    home.coffre(["init"]).env("COFFRE_PASSPHRASE", "old one").ok();
    tree::small(&home.source());
    home.seal();
    let before = packs(&home);
    secret(&home.path("new"), "new one\n");
    by_passphrase(&home, "old one", &["key", "passphrase", "--new-passphrase-file", "new"]).ok();
    by_passphrase(&home, "old one", &["cat", &hello(&home)]).refused(12);
    assert_eq!(by_passphrase(&home, "new one", &["cat", &hello(&home)]).ok().text(), "hello, world\n");
    assert_eq!(packs(&home), before);
    // At a terminal, twice.
    let answers = [("passphrase of the vault", "new one"), ("new passphrase: ", "third"), ("once more: ", "third")];
    let done = home.coffre(["key", "passphrase"]).at_terminal(&answers).exits(0);
    assert!(!done.text().contains("third") && !done.text().contains("new one"), "{}", done.text());
    assert_eq!(by_passphrase(&home, "third", &["cat", &hello(&home)]).ok().text(), "hello, world\n");
    home.coffre(["verify"]).ok();
    home.owner(["key", "passphrase", "--new-passphrase-file", "new"]).refused(12);
}

#[test]
fn a_protected_ssh_key_asks_for_its_passphrase_or_takes_one() {
    let home = sealed();
    for kind in ["ed25519", "rsa"] {
        let key = home.path(kind);
        run_tool("ssh-keygen", "openssh-client", &["-q", "-t", kind, "-N", "open sesame", "-C", "me", "-f", key.to_str().unwrap()]);
        home.owner(["key", "add", "--recipients-file", &format!("{kind}.pub")]).ok();
        let cat = || home.coffre(["--identity", kind, "cat", &hello(&home)]);
        cat().refused(12).says("protected by a passphrase");
        secret(&home.path("pass"), "open sesame\n");
        assert_eq!(cat().args(["--passphrase-file", "pass"]).ok().text(), "hello, world\n");
        secret(&home.path("wrong"), "open barley\n");
        cat().args(["--passphrase-file", "wrong"]).refused(12);
        let done = cat().at_terminal(&[("passphrase", "open sesame")]).exits(0);
        assert!(done.text().ends_with("hello, world\n"), "{}", done.text());
    }
}

/// A plugin of the real protocol (C2SP age-plugin) that "encrypts" by XOR with the bytes of its one key, and wants a secret and a yes told.
pub const PLUGIN: &str = r#"#!/usr/bin/env python3
import sys, base64
def b64(b): return base64.b64encode(b).decode().rstrip("=")
def unb64(s): return base64.b64decode(s + "=" * (-len(s) % 4))
KEY = bytes(range(1, 17))
def read():
    head = sys.stdin.readline()
    if not head: sys.exit(0)
    assert head.startswith("-> "), head
    body = ""
    while True:
        line = sys.stdin.readline().rstrip("\n")
        body += line
        if len(line) < 64: break
    return head[3:].split(), unb64(body)
def send(words, body=b""):
    text = b64(body)
    lines = [text[i:i + 64] for i in range(0, len(text), 64)]
    if not lines or len(lines[-1]) == 64: lines.append("")
    sys.stdout.write("-> " + " ".join(words) + "\n" + "\n".join(lines) + "\n")
    sys.stdout.flush()
phase, items = sys.argv[1].split("=")[1], []
while True:
    words, body = read()
    if words[0] == "done": break
    items.append((words, body))
xor = lambda data: bytes(a ^ b for a, b in zip(data, KEY))
if phase == "recipient-v1":
    for words, body in items:
        if words[0] == "wrap-file-key":
            send(["recipient-stanza", "0", "coffretest"], xor(body)); read()
elif phase == "identity-v1":
    send(["msg"], b"please touch the test token"); read()
    for words, body in items:
        if words[0] == "recipient-stanza" and words[2] == "coffretest":
            send(["file-key", "0"], xor(body)); read()
            break
send(["done"])
"#;

#[test]
fn an_age_plugin_opens_the_vault_by_its_protocol() {
    let home = sealed();
    fs::create_dir(home.path("bin")).unwrap();
    let plugin = home.path("bin/age-plugin-coffretest");
    fs::write(&plugin, PLUGIN).unwrap();
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", home.path("bin").display(), std::env::var("PATH").unwrap());
    // Encoded by age's rules: bech32 of a few bytes under the plugin's name.
    let encode = |hrp: &str| bech32::encode::<bech32::Bech32>(bech32::Hrp::parse(hrp).unwrap(), &[1, 2, 3]).unwrap();
    let recipient = encode("age1coffretest");
    secret(&home.path("token.key"), &format!("# a token\n{}\n", encode("age-plugin-coffretest-").to_uppercase()));

    home.owner(["key", "add", "--recipient", &recipient]).refused(1).says("age-plugin-coffretest");
    home.owner(["key", "add", "--name", "token", "--recipient", &recipient]).env("PATH", &path).ok();
    assert!(home.vault().join("keys/owner-0002-token-plugin.age").exists());
    let cat = home.coffre(["--identity", "token.key", "cat", &hello(&home)]);
    assert_eq!(cat.env("PATH", &path).ok().text(), "hello, world\n");
    let done = home.coffre(["--identity", "token.key", "cat", &hello(&home)]).env("PATH", &path).at_terminal(&[]).exits(0);
    assert!(done.text().contains("please touch the test token"), "{}", done.text());
    let missing = home.coffre(["--identity", "token.key", "cat", &hello(&home)]).refused(1).says("install age-plugin-coffretest");
    let key = fs::read_to_string(home.path("token.key")).unwrap();
    assert!(!missing.err.contains(key.lines().last().unwrap()), "{}", missing.err);
    // A vault may begin with it.
    home.bare(["--vault", "other", "init", "--recipient", &recipient]).env("PATH", &path).ok();
    home.owner(["key", "rotate"]).ok();
    assert_eq!(home.coffre(["--identity", "token.key", "cat", &hello(&home)]).env("PATH", &path).ok().text(), "hello, world\n");
}

#[test]
fn after_a_rotation_the_removed_read_the_past_and_the_others_everything() {
    let home = sealed();
    let web2 = Machine::enrolled(&home, "web2");
    tree::small(&web2.source());
    web2.seal(&web2.source());
    run_tool("age-keygen", "age", &["-o", home.path("gone.key").to_str().unwrap()]);
    let gone = run_tool("age-keygen", "age", &["-y", home.path("gone.key").to_str().unwrap()]);
    home.owner(["key", "add", "--name", "gone", "--recipient", gone.trim()]).ok();
    secret(&home.path("new"), "correct horse\n");
    home.owner(["key", "add", "--new-passphrase-file", "new"]).ok();
    shell(&home.path(""), "cp -a vault copy-of-before");
    let before = packs(&home);
    home.owner(["key", "remove", "gone"]).ok();
    let done = home.owner(["--json", "key", "rotate"]).ok().json();
    assert_eq!((&done["epoch"], &done["ways"]), (&2.into(), &2.into()));
    assert_eq!(packs(&home), before);

    // Both hosts hear of it at their next seal, with no owner near.
    for source in [home.source(), web2.source()] {
        fs::write(source.join("later"), "later\n").unwrap();
    }
    home.coffre(["seal", home.source().to_str().unwrap()]).ok().says("epoch 2");
    web2.coffre(&["seal", web2.source().to_str().unwrap()]).ok().says("epoch 2");
    assert!(!web2.coffre(&["seal", web2.source().to_str().unwrap()]).ok().err.contains("epoch"));
    // So does one that is enrolled again, and one that is new.
    fs::remove_dir_all(web2.state()).unwrap();
    web2.invite(&["--again"]);
    web2.coffre(&["enroll", web2.token().to_str().unwrap()]).ok();
    web2.seal(&web2.source());
    let web3 = Machine::enrolled(&home, "web3");
    tree::small(&web3.source());
    web3.seal(&web3.source());

    let file = |snap: &str, source: &Path, name: &str| format!("{snap}:{}/{name}", source.display());
    let all = home.owner(["--json", "snapshots"]).ok().json();
    assert_eq!(all.as_array().unwrap().len(), 7, "{all}");
    home.owner(["verify", "--depth", "chunks"]).ok();
    for (way, args) in [("key", ["--identity", "owner.key"]), ("passphrase", ["--passphrase-file", "new"])] {
        for (snap, source, name) in [("web2@latest", web2.source(), "later"), ("web2@latest~2", web2.source(), "hello")] {
            let done = home.coffre(["cat", &file(snap, &source, name)]).args(args).ok();
            assert_eq!(done.out, fs::read(source.join(name)).unwrap(), "{way} {snap}");
        }
    }
    let mount = Mounted::start(&home, &[]);
    tree::assert_same(&web2.source(), &home.inside(mount.point.join("hosts/web2").join(newest_of(&home, "web2")), web2.source()));
    drop(mount);

    // Who was removed and kept a copy of the key file reads the past, in the copy and in the vault, and nothing since.
    let thief = |vault: &str, args: &[&str]| {
        home.bare(["--vault", vault, "--identity", "gone.key"]).args(args).env("COFFRE_STATE_DIR", home.path("thief"))
    };
    thief("copy-of-before", &["cat", &file("web2@latest", &web2.source(), "hello")]).ok();
    home.coffre(["--identity", "gone.key", "cat", &hello(&home)]).refused(12);
    fs::copy(home.path("copy-of-before/keys/owner-0002-gone-age.age"), home.vault().join("keys/owner-0002-gone-age.age")).unwrap();
    let seen = thief("vault", &["--json", "snapshots"]).ok().says("since epoch 2").says("an owner removed owner-0002-gone-age.age").json();
    let ids = |rows: &serde_json::Value| -> Vec<String> { rows.as_array().unwrap().iter().map(|r| r["id"].to_string()).collect() };
    assert_eq!(ids(&seen), ids(&all)[..2]);
    thief("vault", &["key", "add", "--recipient", gone.trim()]).refused(12).says("epoch 2");
    fs::remove_file(home.vault().join("keys/owner-0002-gone-age.age")).unwrap();

    // Without coffre, and twice.
    home.owner(["key", "rotate"]).ok();
    home.coffre(["seal", home.source().to_str().unwrap()]).ok().says("epoch 3");
    home.owner(["verify", "--depth", "chunks"]).ok();
    let dest = home.path("dest");
    let mut restore = tool("python3");
    restore.arg(home.vault().join("RESTORE.py")).arg(home.key()).arg(&dest).current_dir("/");
    Coffre(restore).run().exits(0);
    tree::assert_same(&home.source(), &home.inside(&dest, home.source()));
}

/// The directory of the newest snapshot of a host.
fn newest_of(home: &Home, host: &str) -> String {
    let rows = home.owner(["--json", "snapshots", "--host", host]).ok().json();
    rows.as_array().unwrap().last().unwrap()["directory"].as_str().unwrap().to_owned()
}

#[test]
fn nobody_but_an_owner_can_tell_sealers_what_to_seal_to() {
    let home = sealed();
    // The storage, or a stolen sealer, knows what sealers and owners are sealed to; a copy of a real message, numbered anew, is no new one.
    home.owner(["key", "rotate"]).ok();
    for file in ["recipients", "epoch"] {
        fs::copy(home.vault().join(format!("keys/{file}-0002.age")), home.vault().join(format!("keys/{file}-0009.age"))).unwrap();
    }
    home.coffre(["seal", home.source().to_str().unwrap()]).ok().says("epoch 2");
    assert!(fs::read_to_string(home.state().join("sealer")).unwrap().contains("\nepoch 2\n"));
    fs::write(home.vault().join("keys/recipients-0010.age"), b"age-encryption.org/v1\nnonsense").unwrap();
    home.seal();
    assert_eq!(home.owner(["cat", &hello(&home)]).ok().text(), "hello, world\n");
}

#[test]
fn a_planted_key_file_of_another_owner_is_not_believed() {
    let home = sealed();
    let thief = Home::new();
    // The storage knows the owner's public key, and makes a key file for it: in a vault of its own with the same id.
    let id = |home: &Home| {
        fs::read_to_string(home.vault().join("VAULT")).unwrap().lines().find(|l| l.starts_with("id ")).unwrap()[3..].to_owned()
    };
    let opened = run_tool(
        "age",
        "age",
        &["-d", "-i", thief.key().to_str().unwrap(), thief.vault().join("keys/owner-0001-age.age").to_str().unwrap()],
    );
    let planted = opened.replace(&id(&thief), &id(&home));
    secret(&home.path("planted"), &planted);
    let target = home.vault().join("keys/owner-0009-age.age");
    run_tool("age", "age", &["-r", &home.recipient(), "-o", target.to_str().unwrap(), home.path("planted").to_str().unwrap()]);
    // The newest file comes first, and does not pass; the right one does.
    assert_eq!(home.owner(["cat", &hello(&home)]).ok().text(), "hello, world\n");
    fs::remove_dir_all(home.vault().join("keys")).unwrap();
    fs::remove_dir_all(home.vault().join("parity")).unwrap();
    fs::create_dir(home.vault().join("keys")).unwrap();
    run_tool("age", "age", &["-r", &home.recipient(), "-o", target.to_str().unwrap(), home.path("planted").to_str().unwrap()]);
    home.owner(["cat", &hello(&home)]).refused(4).says("another owner");
}

#[test]
fn a_hostile_passphrase_file_cannot_hang_who_opens_the_vault() {
    let home = Home::without_vault();
    home.coffre(["init"]).env("COFFRE_PASSPHRASE", "mine").ok();
    tree::small(&home.source());
    home.seal();
    let real = fs::read(home.vault().join("keys/owner-0001-passphrase.age")).unwrap();
    let text = String::from_utf8_lossy(&real).into_owned();
    let line = text.lines().nth(1).unwrap().to_owned();
    let log_n: u32 = line.rsplit(' ').next().unwrap().parse().unwrap();
    assert!((17..=19).contains(&log_n), "{line}");
    let salt = line.split(' ').nth(2).unwrap();
    // Far too much work in one file, and a little too much in many.
    let with = |log_n: u32| {
        let at = real.iter().position(|b| *b == b'\n').unwrap() + 1;
        [&real[..at], format!("-> scrypt {salt} {log_n}").as_bytes(), &real[at + line.len()..]].concat()
    };
    for (n, log_n) in (2..40).map(|n| (n, if n == 39 { 40 } else { 20 })) {
        fs::write(home.vault().join(format!("keys/owner-00{n:02}-passphrase.age")), with(log_n)).unwrap();
    }
    // Four at the limit are worked on, at two seconds each; the rest of them is not.
    by_passphrase(&home, "not mine", &["cat", &hello(&home)]).refused(12).says("unreasonable amount of work");
    // Who has the right one is not kept from the right file, which asks for less.
    assert_eq!(by_passphrase(&home, "mine", &["cat", &hello(&home)]).ok().text(), "hello, world\n");
    // Only the dear one: it is passed over.
    for n in 2..39 {
        fs::remove_file(home.vault().join(format!("keys/owner-00{n:02}-passphrase.age"))).unwrap();
    }
    assert_eq!(by_passphrase(&home, "mine", &["cat", &hello(&home)]).ok().text(), "hello, world\n");
}

#[test]
fn the_kit_restores_a_vault_whose_keys_are_gone() {
    let home = sealed();
    secret(&home.path("new"), "correct horse\n");
    home.owner(["key", "add", "--new-passphrase-file", "new"]).ok();
    home.owner(["key", "rotate"]).ok();
    home.seal();
    for (way, args) in [("1", ["--identity", "owner.key"]), ("2", ["--passphrase-file", "new"])] {
        let kit = home.owner(["key", "kit", way]).ok().text();
        assert!(kit.lines().count() <= 90 && kit.lines().all(|line| line.chars().count() <= 100), "{kit}");
        assert!(!kit.contains("SECRET") && kit.contains(&home.recipient()) && kit.contains("a passphrase"), "{kit}");
        fs::write(home.path("kit"), kit.replace("\n", "\n  ")).unwrap();
        let (keys, parity) = (home.vault().join("keys"), home.vault().join("parity"));
        shell(&home.path(""), "rm -rf aside && mkdir aside && mv vault/keys vault/parity aside/");
        home.owner(["cat", &hello(&home)]).refused(4).says("coffre key restore KIT");
        home.coffre(["key", "restore", "kit"]).refused(12);
        run_tool("age-keygen", "age", &["-o", home.path(format!("other{way}")).to_str().unwrap()]);
        home.coffre(["key", "restore", "kit", "--identity", &format!("other{way}")]).refused(12);
        assert!(!keys.exists() && !parity.exists());
        home.coffre(["key", "restore", "kit"]).args(args).ok();
        assert_eq!(home.coffre(["cat", &hello(&home)]).args(args).ok().text(), "hello, world\n", "{way}");
        home.coffre(["verify", "--depth", "chunks"]).args(args).run();
        assert!(home.coffre(["key", "restore", "kit"]).args(args).ok().text().contains("already"));
        shell(&home.path(""), "rm -rf vault/keys vault/parity && mv aside/keys aside/parity vault/");
    }
    home.owner(["verify", "--depth", "chunks"]).ok();
    let other = Home::new();
    other.owner(["key", "restore", home.path("kit").to_str().unwrap()]).refused(1).says("the kit is of vault");
    secret(&home.path("empty"), "nothing\n");
    home.owner(["key", "restore", "empty"]).refused(2);
}

#[test]
fn a_kit_opens_with_stock_age_alone_and_fits_on_a_page() {
    let home = Home::without_vault();
    let kit = home.coffre(["init", "--recipient", &home.recipient()]).ok().text();
    tree::small(&home.source());
    home.seal();
    assert!(kit.lines().count() <= 60 && kit.lines().all(|line| line.chars().count() <= 90 || line.starts_with("place ")), "{kit}");
    fs::write(home.path("kit"), &kit).unwrap();
    let script = "rm -rf vault/keys vault/parity\n\
        sed -n '/BEGIN AGE/,/END AGE/p' kit > owner.age; age -d -i owner.key owner.age > id\n\
        python3 vault/RESTORE.py id dest";
    at_terminal(bash(&home, script), &[]).exits(0);
    tree::assert_same(&home.source(), &home.inside(home.path("dest"), home.source()));
}

fn bash(home: &Home, script: &str) -> std::process::Command {
    let mut command = tool("bash");
    command.args(["-ec", script]).current_dir(home.path(""));
    command
}

#[test]
fn a_vault_from_before_cards_says_what_to_do_to_rotate() {
    let home = sealed();
    shell(&home.path(""), "rm vault/keys/way-0001.age vault/parity/keys/way-0001.age");
    home.owner(["key", "rotate"]).refused(1).says("coffre key remove 1");
    home.owner(["key", "add", "--recipient", &home.recipient()]).ok();
    home.owner(["key", "remove", "1"]).ok();
    home.owner(["key", "rotate"]).ok();
    home.seal();
    assert_eq!(home.owner(["cat", &hello(&home)]).ok().text(), "hello, world\n");
}
