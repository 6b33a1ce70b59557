//! Who may only add, and objects that nobody can remove: bucket policies, object lock, versions.

use std::fs;

use coffre::{
    store::{self, Key},
    sys::{Clock, SystemClock},
};
use serde_json::Value;

use crate::{
    common::{
        bin::{Coffre, Home, run_tool},
        library::noise,
        servers::{Server, is_left_out},
    },
    open,
};

/// The policy that docs/OPERATIONS.md shows, for the bucket of the tests, in the form that a bucket takes.
fn policy() -> String {
    let page = include_str!("../../docs/OPERATIONS.md");
    let from = page.find(r#"    { "Version": "2012-10-17""#).expect("the page shows a policy");
    let text = &page[from..from + page[from..].find("\n\n").unwrap()];
    let mut policy: Value = serde_json::from_str(&text.replace("my-bucket", "coffre-test")).unwrap();
    for statement in policy["Statement"].as_array_mut().unwrap() {
        statement["Principal"] = "*".into();
    }
    policy.to_string()
}

fn curl(server: &Server, words: &[&str], path: &str) -> String {
    let at = format!("http://127.0.0.1:{}/{path}", server.answers_at());
    let who = ["-s", "--user", "coffre:coffresecret", "--aws-sigv4", "aws:amz:us-east-1:s3"];
    run_tool("curl", "curl", &[&who[..], words, &[&at]].concat())
}

#[test]
fn a_host_that_may_only_add_seals_and_can_destroy_nothing() {
    if is_left_out("seaweedfs") {
        return;
    }
    let server = Server::start("seaweedfs");
    let home = Home::without_vault();
    let url = server.url("vault");
    let as_owner = |args: &[&str]| -> Coffre {
        let command = home.bare(["--vault", &url]).args(args);
        server.env().iter().fold(command, |command, (name, value)| command.env(name, value))
    };
    let as_adder = |args: &[&str]| as_owner(args).env("AWS_ACCESS_KEY_ID", "adder").env("AWS_SECRET_ACCESS_KEY", "addersecret");
    as_owner(&["init", "--recipient", &home.recipient()]).ok();
    let source = home.source().display().to_string();
    fs::write(home.source().join("file"), noise(2_000_000, 1)).unwrap();
    // Before anybody allowed it anything.
    as_adder(&["seal", &source]).refused(1);
    let file = home.path("policy.json");
    fs::write(&file, policy()).unwrap();
    curl(&server, &["-X", "PUT", "-T", file.to_str().unwrap()], "coffre-test?policy=");
    for n in 2..4 {
        as_adder(&["seal", &source]).ok();
        fs::write(home.source().join("file"), noise(2_000_000, n)).unwrap();
    }
    as_adder(&["verify"]).ok();
    let key = home.key().display().to_string();
    as_owner(&["--identity", &key, "forget", "--keep-last", "1"]).ok();
    // Even with the owner's key: the server does not let it.
    let before = store::list_all(&*open(&url), "packs").unwrap();
    as_adder(&["--identity", &key, "prune", "--grace", "0"]).refused(1).says("403");
    assert!(before.iter().all(|object| store::list_all(&*open(&url), "packs").unwrap().contains(object)));
    as_adder(&["--identity", &key, "verify", "--depth", "chunks"]).ok();
    as_owner(&["--identity", &key, "prune", "--grace", "0"]).ok();
    as_owner(&["--identity", &key, "verify", "--depth", "chunks"]).ok();
}

#[test]
fn objects_are_held_where_the_bucket_does_that_and_verify_knows_the_difference() {
    if is_left_out("seaweedfs") {
        return;
    }
    let server = Server::start("seaweedfs");
    let home = Home::without_vault();
    let run = |url: &str, args: &[&str]| -> Coffre {
        let command = home.bare(["--vault", url]).args(args);
        server.env().iter().fold(command, |command, (name, value)| command.env(name, value))
    };
    let init = ["init", "--recipient", &home.recipient(), "--object-lock", "2d"];
    run(&server.url("plain"), &init).refused(1).says("cannot hold objects");
    run(&home.vault().display().to_string(), &init).refused(1).says("cannot hold objects");
    curl(&server, &["-X", "PUT", "-H", "x-amz-bucket-object-lock-enabled: true"], "coffre-locked");
    let url = server.url("v").replace("coffre-test", "coffre-locked");
    run(&url, &init).ok();
    fs::write(home.source().join("file"), noise(500_000, 1)).unwrap();
    let source = home.source().display().to_string();
    run(&url, &["seal", &source]).ok();
    let clean = run(&url, &["--json", "verify"]).ok().json();
    assert_eq!((&clean["damage"], &clean["notices"]), (&serde_json::json!([]), &serde_json::json!([])));

    // Everything is held for two days.
    let (store, now) = (open(&url), SystemClock.now_ns());
    let objects = store::list_all(&*store, "").unwrap();
    let held = |key: &Key| store.held_until_ns(key).unwrap().map(|at| (at - now) / 3_600_000_000_000);
    for (key, _) in objects.iter().filter(|(key, _)| !key.as_str().starts_with("signers")) {
        assert!(matches!(held(key), Some(47 | 48)), "{key}: {:?}", held(key));
    }
    // Deleting hides, and destroys nothing: not even by version.
    let signature = objects.iter().map(|(key, _)| key).find(|key| key.as_str().ends_with(".b3.sig") && key.as_str().starts_with("snaps/"));
    let signature = signature.unwrap().clone();
    let versions = curl(&server, &[], "coffre-locked?versions=");
    let of_it = versions.split("<Version>").find(|entry| entry.contains(&format!("v/{signature}</Key>"))).unwrap();
    let version = of_it.split("<VersionId>").nth(1).unwrap().split('<').next().unwrap();
    let bytes = store::get_all(&*store, &signature, 9999).unwrap();
    let status = ["-X", "DELETE", "-o", home.path("said").to_str().unwrap(), "-w", "%{http_code}"].map(str::to_owned);
    let status: Vec<&str> = status.iter().map(String::as_str).collect();
    assert_eq!(curl(&server, &status, &format!("coffre-locked/v/{signature}?versionId={version}")), "403");
    store.delete(&signature).unwrap();
    let done = run(&url, &["--json", "verify"]).run().exits(4).json();
    assert!(done["notices"].to_string().contains("the bucket keeps versions"), "{done:#}");
    // Put back by a hand that asks for no lock: it is there, and it is not what was promised.
    store.put(&signature, &bytes).unwrap();
    let done = run(&url, &["--json", "verify"]).run().exits(4).json();
    let kinds: Vec<&Value> = done["damage"].as_array().unwrap().iter().map(|finding| &finding["kind"]).collect();
    assert_eq!(kinds, ["unlocked"], "{done:#}");
    run(&url, &["seal", &source]).ok();
    run(&url, &["verify"]).ok();
    // A copy at home is whole; that it holds nothing is worth no word there.
    let copy = home.path("copy").display().to_string();
    run(&url, &["copy", &copy]).ok();
    let copied = run(&copy, &["--json", "verify"]).ok().json();
    assert_eq!(copied["damage"], serde_json::json!([]));
}
