//! The JSON of what only owners do, and of repairs, against docs/schema.

use std::{collections::BTreeSet, fs, path::PathBuf};

use super::{
    common::bin::{Done, shell},
    ids,
    json::fits,
    lines, lived,
};

fn one(done: Done) -> Vec<serde_json::Value> {
    vec![done.json()]
}

/// Forgets, pins, frees space and brings back.
pub fn retention(used: &mut BTreeSet<String>) {
    let home = lived();
    let ids = ids(&home);
    let json = |args: &[&str]| one(home.owner(["--json"]).args(args).ok());
    fits(used, "pin", &[json(&["pin", &ids[0]]), json(&["pin", &ids[0]])].concat());
    fits(used, "pin", &json(&["unpin", &ids[0]]));
    json(&["pin", &ids[0]]);
    let policy = ["forget", "--keep-last", "1", "--keep-yearly", "1", "--keep-tag", "x"];
    fits(used, "forget", &[json(&[&policy[..], &["--dry-run"]].concat()), json(&policy)].concat());
    fits(used, "prune", &[json(&["prune", "--dry-run"]), json(&["prune", "--max-unused", "0%"])].concat());
    fits(used, "prune-list", &json(&["prune", "--list"]));
    fits(used, "undelete", &json(&["undelete", &ids[1]]));
    fits(used, "prune", &[json(&["prune", "--grace", "0"]), json(&["prune", "--grace", "0"])].concat());
    fits(used, "prune-list", &json(&["prune", "--list"]));
}

/// Ways in, epochs, and a sealer whose right is taken back.
pub fn keys(used: &mut BTreeSet<String>) {
    let home = lived();
    let json = |args: &[&str]| one(home.owner(["--json"]).args(args).ok());
    for name in ["first", "second"] {
        fs::write(home.path(name), format!("{name} passphrase of many words\n")).unwrap();
        shell(&home.path(""), &format!("chmod 600 {name}"));
    }
    let (first, second) = (home.path("first"), home.path("second"));
    let (first, second) = (first.to_str().unwrap(), second.to_str().unwrap());
    fits(used, "key-add-way", &json(&["key", "add", "--name", "paper", "--new-passphrase-file", first]));
    fits(used, "key-change", &json(&["key", "passphrase", "--new-passphrase-file", second]));
    let kit = json(&["key", "kit"]);
    fs::write(home.path("kit"), kit[0]["recovery_kit"].as_str().unwrap()).unwrap();
    fits(used, "key-kit", &kit);
    let kit = home.path("kit");
    fits(used, "key-restore", &json(&["key", "restore", kit.to_str().unwrap()]));
    for file in home.objects("keys", "") {
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        fs::remove_file(file).unwrap();
    }
    fits(used, "key-restore", &json(&["key", "restore", kit.to_str().unwrap()]));
    fits(used, "key-rotate", &json(&["key", "rotate"]));
    let sealer = home.owner(["--json", "head"]).ok().json()[0]["sealer"].as_str().unwrap().to_owned();
    let revoke = ["key", "revoke", &sealer, "--after", "2"];
    fits(used, "key-revoke", &[json(&[&revoke[..], &["--dry-run"]].concat()), json(&revoke)].concat());
    fits(used, "head", &json(&["head"]));
    fits(used, "audit", &one(home.owner(["--json", "audit"]).run()));
}

/// Damage: what verify and audit say of it, before and after it is mended.
pub fn repairs(used: &mut BTreeSet<String>) {
    for (command, name) in [(&["verify"][..], "verify"), (&["audit"][..], "audit")] {
        let home = lived();
        let hurt = |file: &PathBuf| {
            let mut bytes = fs::read(file).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            fs::write(file, bytes).unwrap();
        };
        home.objects("packs", "").iter().take(2).for_each(hurt);
        hurt(&home.objects("snaps", ".b3")[0]);
        fits(used, name, &one(home.owner(["--json"]).args(command).run().exits(4)));
        fits(used, name, &one(home.owner(["--json"]).args(command).args(["--repair"]).ok()));
        // Beyond what parity mends, and nothing to ask.
        let pack = &home.objects("packs", "")[0];
        for file in [pack.clone(), home.objects("parity", ".par")[0].clone()] {
            fs::remove_file(file).unwrap();
        }
        fits(used, name, &one(home.owner(["--json"]).args(command).args(["--repair"]).run().exits(4)));
    }
}

/// What would be done; and a mount.
pub fn dry_runs_and_mounts(used: &mut BTreeSet<String>) {
    let home = lived();
    let source = home.source();
    let source = source.to_str().unwrap();
    let many = |args: &[&str]| lines(&home.owner(["--json"]).args(args).ok());
    shell(&home.source(), "touch x.log; mkfifo pipe");
    fits(used, "seal-dry-run", &many(&["seal", "--dry-run", "--exclude", "*.log", source]));
    let at = format!("latest~3:{source}");
    fits(used, "restore-dry-run", &many(&["-v", "restore", &at, "--to", source, "--dry-run"]));
    fits(used, "restore-dry-run", &many(&["restore", "latest", "--to", "new", "--dry-run"]));
    let mnt = home.mnt();
    let mounted = one(home.owner(["--json", "mount", "--daemon", mnt.to_str().unwrap()]).ok());
    home.bare(["unmount", mnt.to_str().unwrap()]).ok();
    fits(used, "mount", &mounted);
}
