//! A vault outlives Coffre: it is restored and audited with what Debian ships.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

mod common;

use std::{fs, path::Path};

use common::{
    bin::{Coffre, Done, Home, at_terminal, run_tool, secret, shell, tool},
    tree,
};

/// Runs the recipe that lies in the vault, as a stranger would: coffre's own side is gone.
fn recipe(home: &Home, identity: &Path, dest: &Path, more: &[&str]) -> Done {
    let _ = fs::remove_dir_all(home.path("state"));
    let mut command = tool("python3");
    command.arg(home.vault().join("RESTORE.py")).arg(identity).arg(dest).args(more).current_dir("/");
    Coffre(command).run()
}

/// The indented lines of one section of the vault's README, as one would paste them.
fn commands_of(readme: &str, section: &str) -> String {
    let from = readme.find(&format!("\n{section}\n")).unwrap_or_else(|| panic!("README.txt has a section {section}"));
    let rest = &readme[from + section.len() + 2..];
    let is_title = |line: &str| line.len() > 8 && !line.starts_with(' ') && line.chars().all(|c| c.is_ascii_uppercase() || c == ' ');
    let section: Vec<&str> = rest.lines().take_while(|line| !is_title(line)).collect();
    section.iter().filter_map(|line| line.strip_prefix("    ")).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_recipe_brings_back_every_kind_of_entry_once_the_state_directory_is_gone() {
    let home = Home::new();
    tree::every_kind(&home.source());
    tree::extremes(&home.source().join("extremes"));
    home.seal();
    let dest = home.path("dest");
    recipe(&home, &home.key(), &dest, &[]).exits(0);
    tree::assert_same(&home.source(), &home.inside(&dest, home.source()));
}

#[test]
fn the_recipe_checks_signature_and_names_when_asked() {
    let home = Home::new();
    tree::small(&home.source());
    home.seal();
    let dest = home.path("dest");
    recipe(&home, &home.key(), &dest, &["--check"]).exits(0);
    tree::assert_same(&home.source(), &home.inside(&dest, home.source()));
}

#[test]
fn the_recipe_takes_the_second_copy_when_the_keys_are_gone() {
    let home = Home::new();
    tree::small(&home.source());
    home.seal();
    fs::remove_dir_all(home.vault().join("keys")).unwrap();
    let dest = home.path("dest");
    recipe(&home, &home.key(), &dest, &[]).exits(0);
    tree::assert_same(&home.source(), &home.inside(&dest, home.source()));
}

#[test]
fn the_recipe_works_without_index_segments() {
    let home = Home::new();
    tree::small(&home.source());
    home.seal();
    fs::remove_dir_all(home.vault().join("index")).unwrap();
    let dest = home.path("dest");
    // Something is missing, and it says so; what was asked for is there all the same.
    recipe(&home, &home.key(), &dest, &[]);
    tree::assert_same(&home.source(), &home.inside(&dest, home.source()));
}

#[test]
fn the_recipe_opens_ssh_vaults() {
    for kind in ["ed25519", "rsa"] {
        let home = Home::without_vault();
        let key = home.path("ssh_key");
        run_tool("ssh-keygen", "openssh-client", &["-q", "-t", kind, "-N", "", "-C", "owner@desk", "-f", key.to_str().unwrap()]);
        home.coffre(["init", "--recipients-file", home.path("ssh_key.pub").to_str().unwrap()]).ok();
        tree::small(&home.source());
        home.seal();
        let dest = home.path("dest");
        recipe(&home, &key, &dest, &[]).exits(0);
        tree::assert_same(&home.source(), &home.inside(&dest, home.source()));
    }
}

#[test]
fn a_passphrase_vault_opens_with_stock_age() {
    let home = Home::without_vault();
    secret(&home.path("pass"), "correct horse\n");
    home.coffre(["--passphrase-file", home.path("pass").to_str().unwrap(), "init"]).ok();
    tree::small(&home.source());
    home.seal();
    fs::remove_dir_all(home.path("state")).unwrap();

    // age alone, then the recipe with the key file that age decrypted.
    let mut age = tool("age");
    age.args(["-d", "-o"]).arg(home.path("id")).arg(home.vault().join("keys/owner-0001-passphrase.age")).current_dir("/");
    at_terminal(age, &[("passphrase", "correct horse")]).exits(0);
    recipe(&home, &home.path("id"), &home.path("by-key"), &[]).exits(0);
    tree::assert_same(&home.source(), &home.inside(home.path("by-key"), home.source()));

    // The recipe lets age ask.
    let mut command = tool("python3");
    command.arg(home.vault().join("RESTORE.py")).arg("passphrase").arg(home.path("by-passphrase")).current_dir("/");
    at_terminal(command, &[("passphrase", "correct horse")]).exits(0);
    tree::assert_same(&home.source(), &home.inside(home.path("by-passphrase"), home.source()));
}

#[test]
fn the_recipe_restores_an_older_snapshot_by_name() {
    let home = Home::new();
    tree::write(home.source().join("file"), "first\n");
    let first = home.seal();
    tree::write(home.source().join("file"), "second\n");
    home.seal();
    recipe(&home, &home.key(), &home.path("old"), &[first["snapshot"].as_str().unwrap()]).exits(0);
    recipe(&home, &home.key(), &home.path("new"), &[]).exits(0);
    let read = |dest: &str| fs::read_to_string(home.inside(home.path(dest), home.source()).join("file")).unwrap();
    assert_eq!((read("old"), read("new")), ("first\n".to_owned(), "second\n".to_owned()));
}

#[test]
fn the_recipe_names_what_a_damaged_pack_took_and_restores_the_rest() {
    let home = Home::new();
    for n in 0..8 {
        tree::write(home.source().join(format!("file-{n}")), tree::noise(n, 400_000));
    }
    home.seal();
    let packs = home.objects("packs", ".age");
    let largest = packs.iter().max_by_key(|p| fs::metadata(p).unwrap().len()).unwrap();
    let mut bytes = fs::read(largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(largest, &bytes).unwrap();

    let done = recipe(&home, &home.key(), &home.path("dest"), &[]).exits(4);
    let dest = home.inside(home.path("dest"), home.source());
    let mut there = 0;
    for n in 0..8 {
        let name = format!("file-{n}");
        let named = done.err.lines().any(|line| line.contains("lost: ") && line.contains(&name));
        match fs::read(dest.join(&name)) {
            Ok(content) => {
                assert!(!named && content == tree::noise(n, 400_000), "{name} is whole and not called lost");
                there += 1;
            }
            Err(_) => assert!(named, "{name} is called lost: {}", done.err),
        }
    }
    assert!(there < 8, "the damage reaches a file");
}

#[test]
fn every_receipt_is_signed_and_lists_what_is_there() {
    let home = Home::new();
    for n in 0..3 {
        tree::small(&home.source().join(n.to_string()));
        home.seal();
    }
    let receipts = home.objects("snaps", ".b3");
    assert_eq!(receipts.len(), 3);
    for receipt in receipts {
        let name = receipt.strip_prefix(home.vault()).unwrap().to_str().unwrap().to_owned();
        let sealer = name.split('/').nth(1).unwrap();
        let said = shell(
            &home.vault(),
            &format!(
                "ssh-keygen -Y verify -f signers/allowed_signers -I '{sealer}' -n coffre-receipt-v1 -s {name}.sig < {name}
                b3sum -c {name}"
            ),
        );
        let listed = fs::read_to_string(&receipt).unwrap().lines().count();
        assert_eq!(said.lines().filter(|line| line.ends_with(": OK")).count(), listed, "{said}");
        assert!(said.contains("Good \"coffre-receipt-v1\" signature"), "{said}");
    }
}

#[test]
fn every_encrypted_object_is_age_around_zstd() {
    let home = Home::new();
    tree::small(&home.source());
    home.seal();
    let vault = home.vault();
    let objects = [home.objects("packs", ".age"), home.objects("index", ".age"), home.objects("snaps", ".age")].concat();
    assert!(objects.len() >= 4, "{objects:?}");
    let said = shell(
        &vault,
        "age -d -i ../owner.key keys/owner-0001-age.age > ../id
        grep -c ^AGE-SECRET-KEY-1 ../id
        for object in $(find packs index snaps -name '*.age'); do
            age -d -i ../id $object | zstd -dc | wc -c | sed \"s,^,$object ,\"
        done",
    );
    let mut lines = said.lines();
    assert_eq!(lines.next(), Some("3"), "the owner's file holds the data and the meta identity, and the way's own");
    for line in lines.by_ref() {
        let len: u64 = line.split(' ').next_back().unwrap().parse().unwrap_or_else(|_| panic!("{said}"));
        assert!(len > 0, "{line}");
    }
    assert_eq!(said.lines().count(), objects.len() + 1, "{said}");
}

#[test]
fn the_audit_that_the_readme_prints_passes_and_finds_damage() {
    let home = Home::new();
    for n in 0..2 {
        tree::small(&home.source().join(n.to_string()));
        home.seal();
    }
    let readme = fs::read_to_string(home.vault().join("README.txt")).unwrap();
    let audit = commands_of(&readme, "AUDIT WITHOUT ANY SECRET");
    // Its first command installs what scripts/test has installed.
    let (install, audit) = audit.split_once('\n').unwrap();
    assert!(install.starts_with("apt install "), "{install}");
    // A person's shell does not stop at the first failure, as this one would.
    let audit = format!("set +euo pipefail\n{audit}");
    let clean = shell(&home.vault(), &audit);
    assert_eq!((clean.matches("Good \"").count(), clean.matches("BAD: ").count()), (3, 0), "the list and two receipts: {clean}");

    let pack = &home.objects("packs", ".age")[0];
    let mut bytes = fs::read(pack).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(pack, bytes).unwrap();
    let hurt = shell(&home.vault(), &audit);
    assert_eq!(hurt.matches("BAD: snaps/").count(), 1, "{hurt}");
}

#[test]
fn one_object_by_hand_works_as_the_readme_prints_it() {
    let home = Home::new();
    tree::small(&home.source());
    home.seal();
    let readme = fs::read_to_string(home.vault().join("README.txt")).unwrap();
    let by_hand = commands_of(&readme, "LOOK AT ONE OBJECT BY HAND");
    let pack = home.objects("packs", ".age")[0].strip_prefix(home.vault()).unwrap().to_str().unwrap().to_owned();
    let dest = home.path("dest");
    let lines: Vec<String> = by_hand
        .lines()
        .filter(|line| !line.contains("owner-0001-passphrase.age"))
        .map(|line| line.replace("OWNER.KEY", "../owner.key").replace("packs/ab/ab....age", &pack).replace("| less", "> ../raw"))
        .map(|line| line.replace("/new/empty/directory", dest.to_str().unwrap()))
        .collect();
    assert_eq!(lines.len(), 5, "{by_hand}");
    // A /dev/shm of its own: other tests use the same name in theirs.
    let script = format!("exec 2>&1; set -euo pipefail; mount -t tmpfs none /dev/shm\n{}\nls -A /dev/shm", lines.join("\n"));
    let output = tool("unshare").args(["--mount", "bash", "-c", &script]).current_dir(home.vault()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{script}\n{said}");
    assert!(!said.lines().any(|line| line == "id"), "the key is gone from memory: {said}");
    assert!(fs::metadata(home.path("raw")).unwrap().len() > 0);
    tree::assert_same(&home.source(), &home.inside(&dest, home.source()));
}
