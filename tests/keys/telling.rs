//! What is told, asked and shown when somebody brings a key: never the key, and always what is wrong with it.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use crate::{
    common::{
        bin::{Coffre, Home, Mounted, everything_in, run_tool, secret, shell},
        tree,
    },
    hello, sealed,
    thief::{contains, memory_of},
};

/// An SSH key, which opens the vault.
fn ssh_key(home: &Home, kind: &str, passphrase: &str) -> String {
    let key = home.path(kind);
    run_tool("ssh-keygen", "openssh-client", &["-q", "-t", kind, "-N", passphrase, "-C", "me", "-f", key.to_str().unwrap()]);
    home.owner(["key", "add", "--recipients-file", &format!("{kind}.pub")]).ok();
    fs::read_to_string(key).unwrap()
}

/// An age plugin that is this script.
fn plugin(home: &Home, script: &str) -> String {
    fs::create_dir_all(home.path("bin")).unwrap();
    let file = home.path("bin/age-plugin-coffretest");
    fs::write(&file, script).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    let encode = |hrp: &str| bech32::encode::<bech32::Bech32>(bech32::Hrp::parse(hrp).unwrap(), &[1, 2, 3, 4, 5, 6]).unwrap();
    secret(&home.path("token.key"), &format!("{}\n", encode("age-plugin-coffretest-").to_uppercase()));
    encode("age1coffretest")
}

fn path_with_bin(home: &Home) -> String {
    format!("{}:{}", home.path("bin").display(), std::env::var("PATH").unwrap())
}

#[test]
fn no_secret_that_is_typed_in_the_wrong_place_is_shown() {
    let home = sealed();
    let age = fs::read_to_string(home.key()).unwrap();
    let bare = age.lines().last().unwrap().to_owned();
    run_tool("ssh-keygen", "openssh-client", &["-q", "-t", "ed25519", "-N", "", "-f", home.path("id").to_str().unwrap()]);
    let pem = fs::read_to_string(home.path("id")).unwrap();
    home.owner(["key", "add", "--sealer", "web2", "--output", "token"]).ok();
    let token = fs::read_to_string(home.path("token")).unwrap().trim().to_owned();
    fs::write(home.path("list"), format!("# mine\nowner={}\n", bare.to_lowercase())).unwrap();
    let part = |text: &str| text.lines().rfind(|l| l.len() > 30).unwrap()[20..].to_lowercase();
    for (text, part) in [
        (&age, part(&age)),
        (&bare, part(&bare)),
        (&format!("owner={bare}"), part(&bare)),
        (&bare.to_lowercase(), part(&bare)),
        (&format!("age1{bare}"), part(&bare)),
        (&pem, part(&pem)),
        (&pem.replace('\n', " "), part(&pem)),
        (&token, token.split(':').nth(3).unwrap().to_lowercase()),
    ] {
        for args in [
            &["--vault", "new", "init", "--recipient", text][..],
            &["--vault", "vault", "--identity", "owner.key", "key", "add", "--recipient", text],
            &["--vault", "new", "init", "--recipients-file", text],
            &["--vault", "vault", "--identity", text, "ls", "latest"],
            &["--vault", "vault", "--passphrase-file", text, "ls", "latest"],
            &["--vault", "vault", "--json", "--identity", text, "ls", "latest"],
            &["--vault", "vault", "enroll", text],
            &["--vault", text, "snapshots"],
            &["--vault", "vault", "audit", "--owner-key", text],
            &[text],
        ] {
            let done = home.bare(args).run();
            let said = format!("{}{}", done.err, done.text()).to_lowercase();
            assert!(done.code != 0 && !said.contains(&part), "{args:?}:\n{said}");
        }
    }
    let said = home.bare(["--vault", "new", "init", "--recipients-file", "list"]).refused(2).says("line 2 of list");
    assert!(!said.err.contains(&bare.to_lowercase()), "{}", said.err);
    // A private key is called one, however it begins.
    home.bare(["--vault", "new", "init", "--recipient", &pem]).refused(2).says("a recipient is public");
    home.bare(["--vault", "new", "init", "--recipient", &age]).refused(2).says("a recipient is public");
}

#[test]
fn no_command_that_is_started_gets_the_passphrase() {
    let home = Home::without_vault();
    home.coffre(["init"]).env("COFFRE_PASSPHRASE", "very secret").ok();
    tree::small(&home.source());
    home.seal();
    plugin(&home, &format!("#!/bin/sh\nenv > {}\n", home.path("env.plugin").display()));
    let by = |args: &[&str]| home.coffre(args).env("COFFRE_PASSPHRASE", "very secret").env("PATH", path_with_bin(&home));
    fs::write(home.source().join("hello"), "changed\n").unwrap();
    home.seal();
    let file = home.source().join("hello");
    let run = format!("env > {}; grep -q hello \"$0\"", home.path("env.bisect").display());
    by(&["bisect", file.to_str().unwrap(), "--run", &run]).run();
    home.coffre(["seal", "--stdin-name", "x", "--from-command", &format!("env | tee {}", home.path("env.seal").display())])
        .env("COFFRE_PASSPHRASE", "very secret")
        .ok();
    let added = by(&["key", "add", "--recipient", &plugin(&home, &fs::read_to_string(home.path("bin/age-plugin-coffretest")).unwrap())]);
    added.run();
    for name in ["env.bisect", "env.seal", "env.plugin"] {
        let env = fs::read_to_string(home.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(env.contains("PATH=") && !env.contains("very secret"), "{name}: {env}");
    }
}

#[test]
fn a_mount_keeps_nothing_of_an_ssh_key_in_memory() {
    let home = sealed();
    for (kind, passphrase) in [("ed25519", ""), ("rsa", ""), ("ecdsa", "")].into_iter().take(2) {
        let text = ssh_key(&home, kind, passphrase);
        let mut mount = Mounted::of(&home, home.coffre(["--identity", kind, "mount"]), &home.mnt());
        let memory = memory_of(mount.child());
        // The search works: the name of the file is found.
        assert!(contains(&memory, home.mnt().to_str().unwrap().as_bytes()), "{kind}");
        // The first lines hold the public key.
        let private: Vec<&str> =
            text.lines().skip(if kind == "rsa" { 10 } else { 3 }).filter(|l| l.len() > 40 && !l.starts_with('-')).collect();
        assert!(private.len() > 1, "{text}");
        let found: Vec<&&str> = private.iter().filter(|line| contains(&memory, line.as_bytes())).collect();
        assert!(found.is_empty(), "{kind}: {} of {} lines", found.len(), private.len());
    }
}

#[test]
fn a_plugin_that_fails_is_not_taken_for_damage() {
    let home = sealed();
    let recipient = plugin(&home, crate::owners::PLUGIN);
    let with = |command: Coffre| command.env("PATH", path_with_bin(&home));
    with(home.owner(["key", "add", "--recipient", &recipient])).ok();
    for script in ["#!/bin/sh\nexit 3\n", "#!/bin/sh\nread line\nexit 0\n"] {
        plugin(&home, script);
        let done = with(home.coffre(["--identity", "token.key", "cat", &hello(&home)])).refused(1).says("age plugin");
        assert!(!done.err.contains("\\u{") && !done.err.contains("\\n") && !done.err.contains("damaged"), "{}", done.err);
    }
    let done = home.coffre(["--identity", "token.key", "cat", &hello(&home)]).refused(1).says("install age-plugin-coffretest");
    assert!(!done.err.contains("\\u{") && !done.err.contains("\\n"), "{}", done.err);
}

#[test]
fn a_protected_ssh_key_is_asked_for_by_name_and_a_wrong_passphrase_is_called_so() {
    let home = sealed();
    ssh_key(&home, "ed25519", "open sesame");
    secret(&home.path("wrong"), "open barley\n");
    let cat = || home.coffre(["--identity", "ed25519", "cat", &hello(&home)]);
    cat().args(["--passphrase-file", "wrong"]).run().exits(12).says("is not that of the SSH key ed25519");
    // Once, for all files that it could open.
    home.owner(["key", "add", "--recipients-file", "ed25519.pub"]).ok();
    let done = cat().at_terminal(&[("passphrase of the SSH key ed25519: ", "open sesame")]).exits(0);
    assert_eq!(done.text().matches("passphrase").count(), 1, "{}", done.text());
    // Who presses ^C wants to stop.
    cat().at_terminal(&[("passphrase of the SSH key ed25519: ", "\u{3}")]).exits(130);
    let other = Home::without_vault();
    other.coffre(["init"]).env("COFFRE_PASSPHRASE", "x").ok();
    other.coffre(["key", "rotate"]).at_terminal(&[("passphrase of the vault", "\u{3}")]).exits(130);
    other.coffre(["key", "add"]).env("COFFRE_PASSPHRASE", "x").at_terminal(&[("new passphrase", "\u{3}")]).exits(130);
}

#[test]
fn keys_that_cannot_be_used_say_why() {
    let home = sealed();
    let key = |name: &str, args: &[&str]| {
        let file = home.path(name);
        let args = [&["-q", "-C", "me", "-f", file.to_str().unwrap()], args].concat();
        run_tool("ssh-keygen", "openssh-client", &args);
    };
    key("ecdsa", &["-t", "ecdsa", "-N", ""]);
    key("small", &["-t", "rsa", "-b", "1024", "-N", ""]);
    key("pem", &["-t", "rsa", "-m", "PEM", "-N", "sesame"]);
    key("pkcs8", &["-t", "rsa", "-m", "PKCS8", "-N", ""]);
    let public = |name: &str| fs::read_to_string(home.path(name)).unwrap();
    for (recipient, why) in [
        (public("ecdsa.pub"), "ECDSA"),
        (public("small.pub"), "less than 2048 bits"),
        ("sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29t me".to_owned(), "security key"),
        ("ssh-rsa AAAA".to_owned(), "not whole"),
    ] {
        let done = home.owner(["key", "add", "--recipient", &recipient]).refused(2).says(why);
        assert!(!done.err.contains("Invalid(") && !done.err.contains("Modulus"), "{}", done.err);
    }
    for (file, why) in [("ecdsa", "ECDSA"), ("pem", "ssh-keygen -p -f pem"), ("pkcs8", "ssh-keygen -p -f pkcs8")] {
        home.coffre(["--identity", file, "cat", &hello(&home)]).refused(2).says(why);
    }
    // A device that does not end does, here.
    for option in ["--identity", "--passphrase-file"] {
        home.coffre([option, "/dev/zero", "cat", &hello(&home)]).refused(2).says("too long to be a key");
    }
}

#[test]
fn what_other_systems_add_to_lines_does_no_harm() {
    let home = Home::without_vault();
    home.coffre(["init", "--passphrase-command", "printf 'secret\\r\\n'"]).ok();
    tree::small(&home.source());
    home.seal();
    home.coffre(["cat", &hello(&home)]).env("COFFRE_PASSPHRASE", "secret").ok();
    secret(&home.path("pass"), "\u{feff}secret\r\n");
    let owner = |args: &[&str]| home.coffre(args).args(["--passphrase-file", "pass"]);
    owner(&["key", "add", "--sealer", "web2", "--output", "token"]).ok();
    let token = fs::read_to_string(home.path("token")).unwrap();
    secret(&home.path("token"), &format!("\u{feff}{}\r\n", token.trim()));
    home.coffre(["enroll", "token"]).env("COFFRE_STATE_DIR", home.path("web2")).ok();
    owner(&["key", "add", "--sealer", "web3", "--output", "token3"]).ok();
    let pipe = format!(
        "printf '\\357\\273\\277%s\\r\\n' \"$(cat token3)\" | COFFRE_STATE_DIR=web3 {} --vault vault enroll",
        env!("CARGO_BIN_EXE_coffre")
    );
    assert!(shell(&home.path(""), &pipe).contains("seals into vault"));
}

/// What is wider than a page: the line that `ssh-keygen` reads, and places are as long as they are.
fn is_too_wide(line: &str) -> bool {
    line.chars().count() > 80 && !line.starts_with("owner   ssh-ed25519 ") && !line.starts_with("place ")
}

#[test]
fn a_kit_fits_on_a_page_with_every_kind_of_key() {
    let home = Home::new();
    let comment = "somebody with a long name \u{1b}[2J on a machine with a long name, too";
    for (n, (kind, args)) in [("ed25519", &["-t", "ed25519"][..]), ("rsa", &["-t", "rsa", "-b", "4096"])].into_iter().enumerate() {
        let key = home.path(kind);
        let args = [&["-q", "-N", "", "-C", comment, "-f", key.to_str().unwrap()], args].concat();
        run_tool("ssh-keygen", "openssh-client", &args);
        home.owner(["key", "add", "--recipients-file", &format!("{kind}.pub")]).ok();
        for way in 1..n + 3 {
            let kit = home.owner(["key", "kit", &way.to_string()]).ok().text();
            let wide: Vec<&str> = kit.lines().filter(|line| is_too_wide(line)).collect();
            assert!(
                kit.lines().count() <= 60 && wide.is_empty() && !kit.contains('\u{1b}'),
                "{} lines, {wide:?}\n{kit}",
                kit.lines().count()
            );
        }
    }
    // However many there are.
    for n in 0..4 {
        home.owner(["key", "add", "--recipient", &home.recipient(), "--name", &format!("more-{n}")]).ok();
    }
    let kit = home.owner(["key", "kit", "3"]).ok().text();
    assert!(kit.lines().count() <= 60 && kit.contains("and 4 more: coffre key list"), "{kit}");
    let list = home.owner(["key", "list"]).ok().text();
    let widest = list.lines().take_while(|l| !l.is_empty()).map(|l| l.chars().count()).max();
    assert!(widest < Some(140) && !list.contains('\u{1b}'), "{list}");
    // A way from before a rotation needs two files, and so two pages; one from after it needs one.
    home.owner(["key", "rotate"]).ok();
    home.owner(["key", "add", "--recipient", &home.recipient()]).ok();
    let lines = |way: &str| home.owner(["key", "kit", way]).ok().text().lines().count();
    assert!(lines("1") > 60 && lines("8") <= 60, "{} {}", lines("1"), lines("8"));
}

#[test]
fn a_vault_is_never_for_everybody_to_write() {
    let home = Home::without_vault();
    tree::small(&home.source());
    let coffre = env!("CARGO_BIN_EXE_coffre");
    let lines = format!(
        "umask 0\nexport COFFRE_STATE_DIR=state\n{coffre} --vault a/b/vault init --recipient {}\n{coffre} --vault a/b/vault seal source",
        home.recipient()
    );
    shell(&home.path(""), &lines);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let open: Vec<_> =
        everything_in(&home.path("a/b")).into_iter().filter(|(path, _)| mode(&home.path("a/b").join(path)) & 0o002 != 0).collect();
    assert!(open.is_empty(), "{:?}", open.iter().map(|(path, _)| path).collect::<Vec<_>>());
}

#[test]
fn a_genuine_passphrase_opens_though_dear_files_were_planted() {
    let home = Home::without_vault();
    home.coffre(["init"]).env("COFFRE_PASSPHRASE", "mine").ok();
    tree::small(&home.source());
    home.seal();
    let real = fs::read(home.vault().join("keys/owner-0001-passphrase.age")).unwrap();
    let line = String::from_utf8_lossy(&real).lines().nth(1).unwrap().to_owned();
    let salt = line.split(' ').nth(2).unwrap();
    let at = real.iter().position(|b| *b == b'\n').unwrap() + 1;
    let dear = [&real[..at], format!("-> scrypt {salt} 20").as_bytes(), &real[at + line.len()..]].concat();
    for n in 2..12 {
        fs::write(home.vault().join(format!("keys/owner-{n:04}-passphrase.age")), &dear).unwrap();
    }
    let done = home.coffre(["cat", &hello(&home)]).env("COFFRE_PASSPHRASE", "mine").ok();
    assert_eq!(done.text(), "hello, world\n");
}
