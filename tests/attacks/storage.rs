//! The storage side: `coffre audit`, and the same by the stock commands of README.txt, on a good vault and on altered ones.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::{fs, os::unix::fs::PermissionsExt};

use serde_json::Value;

use crate::common::{
    bin::{Coffre, Home, run_tool, shell, tool},
    tree,
};

/// The commands of README.txt's section about auditing, without the one that installs what the tests have.
fn commands(home: &Home) -> String {
    let readme = fs::read_to_string(home.vault().join("README.txt")).unwrap();
    let section = readme.split("\nAUDIT WITHOUT ANY SECRET\n").nth(1).unwrap().split("\nWHAT IS WHERE\n").next().unwrap();
    let lines: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    assert!(lines[0].starts_with("apt install "), "{section}");
    // A person's shell does not stop at the first failure, as that of the tests would.
    format!("set +euo pipefail\n{}", lines[1..].join("\n"))
}

/// What the stock commands complain of, and the receipts that none names.
fn stock(home: &Home) -> (Vec<String>, Vec<String>) {
    let said = shell(&home.vault(), &commands(home));
    let is_bad = |l: &&str| l.starts_with("BAD: ") || l.starts_with("UNSIGNED: ") || l.ends_with(": FAILED");
    let bad = said.lines().filter(is_bad).map(str::to_owned).collect();
    let heads = said.lines().filter(|l| l.len() > 66 && l[64..].starts_with("  snaps/")).map(|l| l[66..].to_owned()).collect();
    (bad, heads)
}

/// `coffre audit` where nobody has sealed and no key is.
fn audit(home: &Home, args: &[&str]) -> Coffre {
    home.coffre(["--json", "audit"]).args(args).env("COFFRE_STATE_DIR", home.path("nothing"))
}

fn kinds(report: &Value) -> Vec<(String, String)> {
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    report["findings"].as_array().unwrap().iter().map(|f| (text(&f["kind"]), text(&f["object"]))).collect()
}

fn three_snapshots() -> (Home, String) {
    let home = Home::new();
    for n in 0..3 {
        tree::write(home.source().join("file"), tree::noise(n, 200_000));
        home.seal();
    }
    let name = home.coffre(["--json", "head"]).ok().json()[0]["sealer"].as_str().unwrap().to_owned();
    (home, name)
}

/// The owner's public key, as the kit and the list name it.
fn owner_key(home: &Home) -> String {
    let list = fs::read_to_string(home.vault().join("signers/allowed_signers")).unwrap();
    list.lines().find(|line| line.starts_with("owner ")).unwrap().split_once("\" ").unwrap().1.to_owned()
}

#[test]
fn audit_and_the_stock_commands_are_content_with_a_good_vault_and_say_what_they_cannot_know() {
    let (home, name) = three_snapshots();
    let head = format!("snaps/{name}/0000000003.b3");
    assert_eq!(stock(&home), (Vec::new(), vec![head]));
    let bare = audit(&home, &[]).ok().json();
    assert_eq!((kinds(&bare), &bare["trust"], bare["unknown"].as_array().unwrap().len()), (Vec::new(), &"itself".into(), 3));
    let words = home.coffre(["--json", "head"]).ok().json()[0]["words"].as_str().unwrap().to_owned();
    tree::write(home.path("owner.pub"), format!("{} the owner\n", owner_key(&home)));
    let file = home.path("owner.pub");
    for key in [owner_key(&home), file.to_str().unwrap().to_owned()] {
        let told = audit(&home, &["--owner-key", &key, "--expect-head", &words]).ok().json();
        assert_eq!((&told["trust"], told["unknown"].as_array().unwrap().len(), told["snapshots"].as_u64()), (&"given".into(), 1, Some(3)));
        assert_eq!(told["sealers"][0]["words"].as_str(), Some(words.as_str()));
        // Everything was read: what receipts name, and the second copies of the keys.
        let files = ["packs", "index", "keys", "parity", "signers", "VAULT", "README.txt", "RESTORE.py", "snaps"];
        let bytes: u64 = files
            .iter()
            .flat_map(|folder| {
                shell(&home.vault(), &format!("find {folder} -type f ! -name '*.b3.sig' -printf '%s\\n'"))
                    .lines()
                    .map(|n| n.parse::<u64>().unwrap())
                    .collect::<Vec<_>>()
            })
            .sum();
        assert_eq!(told["bytes"].as_u64(), Some(bytes));
    }
    let text = home.coffre(["audit"]).env("COFFRE_STATE_DIR", home.path("nothing")).ok().text();
    assert!(
        text.starts_with("nothing wrong: 3 snapshots") && text.contains("taken at its word") && text.contains("\nunknown  whether "),
        "{text}"
    );
    assert!(!home.path("nothing").exists(), "it leaves nothing behind");
    // Another owner's key does not vouch for this vault.
    run_tool("ssh-keygen", "openssh-client", &["-q", "-t", "ed25519", "-N", "", "-f", home.path("other").to_str().unwrap()]);
    let other = home.path("other.pub");
    let report = audit(&home, &["--owner-key", other.to_str().unwrap()]).run().exits(4).json();
    assert!(kinds(&report).contains(&("altered".into(), "signers/allowed_signers".into())), "{report}");
    audit(&home, &["--owner-key", "ssh-ed25519 nonsense"]).run().exits(2);
}

#[test]
fn audit_works_on_a_vault_that_nobody_may_write() {
    let (home, _) = three_snapshots();
    let done =
        home.coffre(["audit"]).env("COFFRE_STATE_DIR", "/nonexistent/state").under("setpriv", &["--reuid", "65534", "--clear-groups"]);
    fs::set_permissions(home.path("."), fs::Permissions::from_mode(0o755)).unwrap();
    shell(&home.path("."), "chmod -R a+rX vault");
    done.ok();
}

/// What is done to the vault in shell, what audit finds, and what the stock commands say.
type Case = (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static [&'static str]);

#[test]
fn audit_and_the_stock_commands_find_the_same_in_an_altered_vault() {
    let cases: &[Case] = &[
        (
            "a pack is altered",
            "printf x | dd of=$(ls packs/*/* | head -1) bs=1 seek=5000 conv=notrunc",
            &[("altered", "PACK")],
            &["BAD: RECEIPT", "BAD: what is named above", "PACK: FAILED"],
        ),
        ("a pack is gone", "rm $(ls packs/*/* | head -1)", &[("deleted", "PACK")], &["BAD: RECEIPT"]),
        (
            "a snapshot is gone",
            "rm snaps/HOST/*2.*",
            &[("snapshot-deleted", "snaps/HOST/0000000002.b3")],
            &["BAD: snaps/HOST/0000000003.b3"],
        ),
        (
            "a signature is gone",
            "rm snaps/HOST/*3.b3.sig",
            &[("snapshot-deleted", "snaps/HOST/0000000003.b3")],
            &["UNSIGNED: snaps/HOST/0000000003.b3"],
        ),
        (
            "two signatures are swapped",
            "cd snaps/HOST; mv 0000000001.b3.sig x; mv 0000000002.b3.sig 0000000001.b3.sig; mv x 0000000002.b3.sig",
            &[("altered", "snaps/HOST/0000000001.b3"), ("altered", "snaps/HOST/0000000002.b3")],
            &["BAD: snaps/HOST/0000000001.b3", "BAD: snaps/HOST/0000000002.b3"],
        ),
        (
            "an old snapshot again",
            "cd snaps/HOST; for e in age b3 b3.sig; do cp *1.$e 0000000004.$e; done",
            &[("snapshot-reordered", "snaps/HOST/0000000004.b3")],
            &["BAD: snaps/HOST/0000000004.b3"],
        ),
        (
            "a manifest is altered",
            "printf x >> snaps/HOST/0000000002.age",
            &[("altered", "snaps/HOST/0000000002.age")],
            &["BAD: snaps/HOST/0000000002.b3", "snaps/HOST/0000000002.age: FAILED"],
        ),
        (
            "an old list of signers stands under a higher number",
            "cd signers; for e in '' .sig; do cp allowed_signers$e allowed_signers.0002$e; done",
            &[("altered", "signers/allowed_signers.0002")],
            &["BAD: signers/allowed_signers.0002"],
        ),
        (
            "a second copy of a key is altered",
            "printf x >> $(ls parity/keys/owner*)",
            &[("altered", "parity/keys/owner-0001-age.age")],
            &[],
        ),
    ];
    for (what, script, found, said) in cases {
        let (home, name) = three_snapshots();
        let pack = home.objects("packs", ".age")[0].strip_prefix(home.vault()).unwrap().to_str().unwrap().to_owned();
        let receipt = shell(&home.vault(), &format!("grep -l {pack} snaps/*/*.b3")).trim().to_owned();
        let fill = |text: &str| text.replace("HOST", &name).replace("PACK", &pack).replace("RECEIPT", &receipt);
        shell(&home.vault(), &fill(script));
        let report = audit(&home, &["--owner-key", &owner_key(&home)]).run().exits(if found.is_empty() { 0 } else { 4 }).json();
        let expected: Vec<(String, String)> = found.iter().map(|(kind, object)| (fill(kind), fill(object))).collect();
        assert_eq!(kinds(&report), expected, "{what}");
        let mut bad = stock(&home).0;
        let mut said: Vec<String> = said.iter().map(|line| fill(line)).collect();
        bad.sort();
        bad.dedup();
        said.sort();
        assert_eq!(bad, said, "{what}");
    }
}

#[test]
fn stock_openssh_agrees_on_what_a_revoked_sealer_signed() {
    let (home, name) = three_snapshots();
    home.owner(["key", "revoke", &name, "--after", "2"]).ok();
    let (bad, _) = stock(&home);
    assert_eq!(bad, [format!("BAD: snaps/{name}/0000000003.b3")]);
    let found: Vec<String> =
        kinds(&audit(&home, &[]).run().exits(4).json()).into_iter().map(|(kind, object)| format!("{kind} {object}")).collect();
    assert_eq!(found, [format!("revoked snaps/{name}/0000000003.b3")]);
    // The recipe restores the last one that counts, and its signature is good.
    let mut command = tool("python3");
    command.arg(home.vault().join("RESTORE.py")).arg("--check").arg(home.key()).arg(home.path("dest")).current_dir("/");
    let done = Coffre(command).run().exits(4);
    assert!(done.err.contains(&format!("{name}/0000000003 was signed after its sealer was revoked")), "{}", done.err);
    let restored = home.inside(home.path("dest"), home.source()).join("file");
    assert_eq!(fs::read(restored).unwrap(), tree::noise(1, 200_000));
}
