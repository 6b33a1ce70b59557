//! Sealing hosts: the token, what works without an owner's secret and what does not, several hosts in one vault.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt, path::Path};

use crate::{
    Machine,
    common::{
        bin::{Home, Mounted, everything_in, secret, shell},
        tree,
    },
};

/// The column `field` of a list of rows.
fn column(rows: &serde_json::Value, field: &str) -> Vec<String> {
    rows.as_array().unwrap().iter().map(|row| row[field].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_sealing_host_seals_lists_and_verifies_and_reads_nothing() {
    let home = Home::new();
    let web2 = Machine::enrolled(&home, "web2");
    tree::small(&web2.source());
    let report = web2.seal(&web2.source());
    assert_eq!((&report["host"], &report["snapshot"]), (&"web2".into(), &"web2/1".into()));

    let rows = web2.coffre(&["--json", "snapshots"]).ok().json();
    assert_eq!(column(&rows, "host"), ["web2"]);
    web2.coffre(&["verify", "--depth", "packs"]).ok();
    let file = format!("latest:{}/hello", web2.source().display());
    for command in [&["cat", &file][..], &["mount", home.mnt().to_str().unwrap()], &["verify", "--depth", "chunks"]] {
        web2.coffre(command).refused(12).says("this host seals and cannot read, its owners can: it opens with: age (");
    }
    assert_eq!(home.owner(["cat", &file]).ok().text(), "hello, world\n");
}

#[test]
fn each_host_shows_as_itself_and_deduplicates_by_itself() {
    let home = Home::new();
    tree::small(&home.source());
    home.seal();
    let machines = [Machine::enrolled(&home, "web2"), Machine::enrolled(&home, "db.example_1")];
    std::thread::scope(|scope| {
        for machine in &machines {
            scope.spawn(|| {
                // The same content in each: nobody may learn from the vault that another has it.
                tree::small(&machine.source());
                let first = machine.seal(&machine.source());
                assert!(first["stats"]["new_bytes"].as_u64().unwrap() > 700_000, "{first}");
                assert_eq!(machine.seal(&machine.source())["content_bytes"], 0);
            });
        }
    });
    home.owner(["verify", "--depth", "chunks"]).ok();
    let listed = home.owner(["--json", "key", "list"]).ok().json();
    let domains: BTreeSet<String> = column(&listed["sealers"], "domain").into_iter().collect();
    // Each has its own folder of segments; how many lie in it depends on what else goes on in /tmp.
    let folders: BTreeSet<String> =
        fs::read_dir(home.vault().join("index")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!((folders, domains.len()), (domains.clone(), 3));

    let hosts: BTreeSet<String> = column(&home.owner(["--json", "snapshots"]).ok().json(), "host").into_iter().collect();
    let own = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    assert_eq!(hosts, BTreeSet::from([own, "web2".to_owned(), "db.example_1".to_owned()]));
    let web2 = home.owner(["--json", "snapshots", "--host", "web2"]).ok().json();
    assert_eq!(column(&web2, "snapshot"), ["web2/1", "web2/2"]);
    let mount = Mounted::start(&home, &[]);
    let shown: BTreeSet<String> =
        fs::read_dir(mount.point.join("hosts")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(shown, hosts);
    let newest = mount.point.join("hosts/web2").join(column(&web2, "directory")[1].as_str());
    tree::assert_same(&machines[0].source(), &home.inside(newest, machines[0].source()));
}

#[test]
fn hosts_share_a_domain_only_if_somebody_says_so() {
    let home = Home::new();
    let web1 = Machine::enrolled(&home, "web1");
    tree::small(&web1.source());
    web1.seal(&web1.source());
    let web2 = Machine::new(&home, "web2");
    let args = ["key", "add", "--sealer", "web2", "--domain", "web1"];
    let token = home.owner(args).ok().says("web2 shares the dedup domain of web1").text();
    secret(&web2.token(), &token);
    web2.coffre(&["enroll", web2.token().to_str().unwrap()]).ok();
    tree::small(&web2.source());
    let stats = web2.seal(&web2.source());
    // Node ids differ by the times in them; content is the same.
    assert_eq!((&stats["content_bytes"], stats["stats"]["stored_bytes"].as_u64().unwrap() < 100_000), (&0.into(), true), "{stats}");
    home.owner(["verify", "--depth", "chunks"]).ok();
    home.owner(["key", "add", "--sealer", "web3", "--domain", "web9"]).refused(1).says("no sealer is called web9");
}

#[test]
fn a_host_that_lost_its_state_directory_goes_on_and_stores_nothing_twice() {
    let home = Home::new();
    let web2 = Machine::enrolled(&home, "web2");
    tree::small(&web2.source());
    fs::write(web2.source().join("large"), tree::noise(11, 3_000_000)).unwrap();
    web2.seal(&web2.source());
    let packs = home.objects("packs", ".age");
    fs::remove_dir_all(web2.state()).unwrap();

    web2.coffre(&["seal", web2.source().to_str().unwrap()]).refused(12).says("holds no sealing keys");
    web2.coffre(&["enroll", web2.token().to_str().unwrap()]).refused(12).says("was used already").says("key add --sealer web2 --again");
    web2.invite(&["--again"]);
    web2.coffre(&["enroll", web2.token().to_str().unwrap()]).ok();
    let done = web2.coffre(&["--json", "seal", web2.source().to_str().unwrap()]).ok().says("catalog rebuilt from ");
    let report = done.json();
    // The nodes of the directories above the source are new: their times have moved.
    let new = report["stats"]["new_bytes"].as_u64().unwrap();
    assert_eq!((&report["snapshot"], &report["content_bytes"], new < 1000), (&"web2/2".into(), &0.into(), true), "{report}");
    assert_eq!(home.objects("packs", ".age").len(), packs.len() + 1);
    home.owner(["verify", "--depth", "chunks"]).ok();
}

#[test]
fn a_token_works_once_for_its_host_and_its_vault() {
    let home = Home::new();
    let web2 = Machine::new(&home, "web2");
    web2.invite(&[]);
    let token = web2.token();
    assert_eq!(home.objects("enrol", ".age").len(), 1);
    assert_eq!(fs::metadata(&token).unwrap().permissions().mode() & 0o7777, 0o600);
    let other = Home::new();
    other.bare(["--vault", other.vault().to_str().unwrap(), "enroll", token.to_str().unwrap()]).refused(1).says("the token is for vault");
    let text = fs::read_to_string(&token).unwrap();
    secret(&home.path("cut"), &text[..text.len() - 9]);
    web2.coffre(&["enroll", "cut"]).refused(2).says("not whole");
    secret(&home.path("none"), "hello\n");
    web2.coffre(&["enroll", "none"]).refused(2).says("no enrolment token");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o640)).unwrap();
    web2.coffre(&["enroll", token.to_str().unwrap()]).refused(12).says("0640");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(!web2.state().exists() || everything_in(&web2.state()).iter().all(|(path, _)| !path.ends_with("sealer")));

    let done = web2.coffre(&["--json", "enroll", token.to_str().unwrap()]).ok().json();
    assert_eq!(done["sealer"], "web2");
    assert_eq!(home.objects("enrol", ".age").len(), 0);
    // The same host again is no mistake, another one is.
    web2.coffre(&["enroll", token.to_str().unwrap()]).ok().says("already");
    Machine::new(&home, "thief").coffre(&["enroll", token.to_str().unwrap()]).refused(12).says("was used already");

    // Another name takes this host only if somebody insists.
    let web3 = Machine::new(&home, "web3");
    web3.invite(&[]);
    web2.coffre(&["enroll", web3.token().to_str().unwrap()]).refused(1).says("already, as web2").says("--replace");
    web2.coffre(&["enroll", "--replace", web3.token().to_str().unwrap()]).ok();
    tree::small(&web2.source());
    assert_eq!(web2.seal(&web2.source())["snapshot"], "web3/1");
    home.owner(["verify", "--depth", "chunks"]).ok();
}

#[test]
fn a_token_goes_through_a_pipe_and_never_into_json() {
    let home = Home::new();
    let coffre = env!("CARGO_BIN_EXE_coffre");
    let pipe = format!(
        "{coffre} --vault vault --identity owner.key key add --sealer web2 | COFFRE_STATE_DIR=state2 {coffre} --vault vault enroll"
    );
    let said = shell(&home.path(""), &pipe);
    assert!(said.contains("seals into vault") && !said.contains("coffre-enroll-1"), "{said}");
    home.owner(["--json", "key", "add", "--sealer", "web3"]).run().exits(2).says("--output FILE");
    let added = home.owner(["--json", "key", "add", "--sealer", "web3", "--output", "web3.token"]).ok();
    let token = fs::read_to_string(home.path("web3.token")).unwrap();
    assert!(!added.text().contains(token.split(':').nth(3).unwrap()) && added.err.is_empty(), "{added:?}");
    home.owner(["key", "add", "--sealer", "web4", "--output", "web3.token"]).refused(1).says("is there already");
}

#[test]
fn names_of_sealers_are_checked_and_do_not_clash() {
    let home = Home::new();
    let add = |name: &str| home.owner(["key", "add", "--output", &format!("{name}.token").replace('/', "_")]).args(["--sealer", name]);
    for wrong in ["", "a/b", ".hidden", "a b", "é", "owner", "Owner", &"x".repeat(65)] {
        add(wrong).refused(2).says("cannot name a sealer");
    }
    home.owner(["key", "add", "--sealer=-x"]).refused(2);
    for good in ["web-2.example_3", &"x".repeat(64)] {
        add(good).ok();
    }
    add("web-2.example_3").args(["--domain", "nobody"]).refused(1);
    fs::remove_file(home.path("web-2.example_3.token")).unwrap();
    add("web-2.example_3").refused(1).says("there is a sealer called").says("--again");
    add("WEB-2.example_3").refused(1).says("there is a sealer called web-2.example_3");
    add("nobody").args(["--again"]).refused(1).says("no sealer is called nobody");
    home.coffre(["key", "add", "--sealer", "web5"]).refused(12);
    let listed = home.coffre(["--json", "key", "list"]).ok().json();
    assert_eq!(column(&listed["sealers"], "name")[1..], ["web-2.example_3".to_owned(), "x".repeat(64)]);
}

#[test]
fn files_of_a_host_are_private_whatever_the_umask() {
    let home = Home::new();
    let web2 = Machine::new(&home, "web2");
    tree::small(&web2.source());
    let coffre = env!("CARGO_BIN_EXE_coffre");
    let lines = format!(
        "umask 0\n{coffre} --vault vault --identity owner.key key add --sealer web2 --output t\n\
         export COFFRE_STATE_DIR=web2.state\n{coffre} --vault vault enroll t\n{coffre} --vault vault seal web2.source"
    );
    shell(&home.path(""), &lines);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&home.path("t")), 0o600);
    let open: Vec<String> = everything_in(&web2.state())
        .into_iter()
        .map(|(path, _)| web2.state().join(path))
        .filter(|path| mode(path) & 0o077 != 0)
        .map(|path| format!("{} {:o}", path.display(), mode(&path)))
        .collect();
    assert_eq!(open, Vec::<String>::new());
}
