//! Vaults on real servers: the contract of every store, and a life of a vault from `init` to a copy back home.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

mod common;

#[path = "remote/far.rs"]
mod far;
#[path = "remote/guard.rs"]
mod guard;
#[path = "remote/line.rs"]
mod line;
#[path = "remote/many.rs"]
mod many;

use std::{
    fs,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use coffre::{
    error::ErrorKind,
    store::{self, Key, Settings, Store, Traffic, get_all},
    sys::{Cancel, Clock, SystemClock},
};
use common::{
    bin::{Coffre, Home, Mounted},
    contract::{conforms, conforms_alone, kind},
    library::noise,
    servers::{Server, is_left_out},
};
use serde_json::json;

/// What the servers' clients must know. One server a process would do, but its folder's name is only known when it runs.
static SSH: OnceLock<String> = OnceLock::new();

fn env(name: &str) -> Option<String> {
    match name {
        "AWS_ACCESS_KEY_ID" | "COFFRE_WEBDAV_USER" => Some("coffre".to_owned()),
        "AWS_SECRET_ACCESS_KEY" | "COFFRE_WEBDAV_PASSWORD" => Some("coffresecret".to_owned()),
        "COFFRE_SSH_COMMAND" => SSH.get().cloned(),
        _ => None,
    }
}

fn settings() -> Settings {
    Settings::new(Arc::new(SystemClock), Cancel::default(), Arc::new(Traffic::default()), env)
}

fn open(url: &str) -> Arc<dyn Store> {
    store::open(url, settings).unwrap().0
}

/// The contract, and what only large objects show.
fn keeps_the_contract(server: &Server, exclusive: bool) {
    let n = AtomicUsize::new(0);
    let new = || open(&server.url(&format!("contract/{}", n.fetch_add(1, Ordering::SeqCst))));
    if exclusive {
        conforms(&new)
    } else {
        conforms_alone(&new)
    }
    let (store, bytes) = (new(), noise(40_000_000, 7));
    let at = Key::pack(&coffre::format::digest(&bytes));
    let mut upload = store.begin().unwrap();
    bytes.chunks(1 << 20).for_each(|piece| upload.write(piece).unwrap());
    upload.commit(&at).unwrap();
    assert_eq!(get_all(&*store, &at, 50_000_000).unwrap(), bytes);
    let mut tail = vec![0; 5];
    store.get(&at, 39_999_995, &mut tail).unwrap();
    assert_eq!(tail, bytes[39_999_995..]);
    assert_eq!(kind(store.get(&at, 39_999_996, &mut tail)), ErrorKind::Corrupt);
    // More objects than a page of a list holds.
    let many = new();
    std::thread::scope(|scope| {
        for part in 0..8 {
            let many = &many;
            scope.spawn(move || (0..150).for_each(|n| many.put(&Key::fixed(format!("packs/{part}/{n}")), &[0; 3]).unwrap()));
        }
    });
    assert_eq!(store::list_all(&*many, "packs").unwrap().len(), 1200);
    assert!(many.glance("packs").unwrap().is_none(), "more than one request tells");
    // Where lists bear marks, a mark is that of the content, and the put says it too.
    let (one, two) = (Key::fixed("snaps/h/0000000001.b3"), Key::fixed("snaps/h/0000000002.b3"));
    let said = [many.put_new(&one, b"one"), many.put_new(&two, b"two")].map(Result::unwrap);
    many.put_new(&one, b"one").unwrap();
    if let Some(seen) = many.glance("snaps").unwrap() {
        let marks: Vec<_> = [&one, &two].iter().map(|key| seen.iter().find(|(k, _)| k == *key).unwrap().1.clone()).collect();
        assert_eq!((seen.len(), marks[0].len), (2, 3));
        assert!(marks.iter().all(|mark| !mark.tag.is_empty()));
        // By SFTP it is the second in which they were written.
        assert!(marks[0].tag != marks[1].tag || server.url("").starts_with("sftp"));
        assert!(said.iter().zip(&marks).all(|(said, mark)| said.as_ref().is_none_or(|said| *said == mark.tag)), "{said:?} {marks:?}");
    } else {
        assert!(!server.url("").starts_with("s3"), "S3 has marks");
    }
}

/// One vault, from its making to its copy.
fn lives(server: &Server) {
    let home = Home::without_vault();
    let run = |url: &str, args: &[&str]| -> Coffre {
        let command = home.bare(["--vault", url]).args(args);
        server.env().iter().fold(command, |command, (name, value)| command.env(name, value))
    };
    let (url, key) = (server.url("a vault/of mine"), home.key().display().to_string());
    run(&url, &["init", "--recipient", &home.recipient()]).ok();
    run(&url, &["init", "--recipient", &home.recipient()]).refused(1);
    fs::write(home.source().join("large"), noise(3_000_000, 1)).unwrap();
    fs::write(home.source().join("small"), "small").unwrap();
    let source = home.source().display().to_string();
    run(&url, &["seal", &source]).ok();
    fs::write(home.source().join("later"), "later").unwrap();
    run(&url, &["seal", &source]).ok();
    assert_eq!(run(&url, &["--json", "--identity", &key, "snapshots"]).ok().json().as_array().unwrap().len(), 2);
    assert_eq!(run(&url, &["--identity", &key, "cat", &format!("latest:{source}/later")]).ok().out, b"later");
    run(&url, &["verify"]).ok();
    run(&url, &["--identity", &key, "verify", "--depth", "chunks"]).ok();
    {
        let mounted = Mounted::of(&home, run(&url, &["--identity", &key, "mount"]), &home.mnt());
        assert_eq!(fs::read(mounted.latest(&home.source().join("large"))).unwrap(), noise(3_000_000, 1));
        // What is sealed meanwhile appears.
        fs::write(home.source().join("third"), "third").unwrap();
        run(&url, &["seal", &source]).ok();
        common::bin::until("the new snapshot appears", || fs::read(mounted.latest(&home.source().join("third"))).is_ok());
    }
    // Home, and out again to another place there: no key, nothing lost on the way.
    let (back, again) = (home.path("back").display().to_string(), server.url("again"));
    let report = run(&url, &["--json", "copy", &back, "--verify"]).ok().json();
    assert_eq!((&report["snapshots"], &report["findings"]), (&json!(3), &json!([])));
    run(&back, &["--identity", &key, "verify", "--depth", "chunks"]).ok();
    let report = run(&back, &["--json", "copy", &again, "--verify"]).ok().json();
    assert_eq!((&report["snapshots"], &report["findings"]), (&json!(3), &json!([])));
    let said = run(&again, &["-v", "copy", &back]).ok();
    assert!(said.err.contains(" requests") && said.text().contains("up to date"), "{}\n{}", said.err, said.text());

    retained(server, &home, &run, &url, &key);

    // What goes wrong is said in words, and no secret is among them.
    let secrets = ["coffresecret", "AWS4-HMAC", "Basic "];
    let wrong = run(&server.url("nothing here"), &["verify"]).refused(10);
    assert!(secrets.iter().all(|secret| !wrong.err.contains(secret)));
    if !url.starts_with("sftp") {
        let wrong =
            run(&url, &["verify"]).env("AWS_SECRET_ACCESS_KEY", "wrong-secret").env("COFFRE_WEBDAV_PASSWORD", "wrong-secret").refused(1);
        assert!(wrong.err.contains("credentials") && !wrong.err.contains("wrong-secret"), "{}", wrong.err);
    }
    if url.starts_with("s3") {
        run(&url.replace("coffre-test", "no-such-bucket"), &["verify"]).refused(1).says("there is no bucket no-such-bucket");
    }
}

/// An upload in parts that nobody finishes.
fn left_in_parts(server: &Server, store: &dyn Store, now: i128) {
    let curl = |method: &str, path: &str| {
        let at = format!("http://127.0.0.1:{}/coffre-test{path}", server.answers_at());
        let words = ["-s", "--user", "coffre:coffresecret", "--aws-sigv4", "aws:amz:us-east-1:s3", "-X", method, &at];
        common::bin::run_tool("curl", "curl", &words)
    };
    curl("POST", "/a%20vault/of%20mine/packs/left.age?uploads=");
    let unfinished = || curl("GET", "?uploads=").contains("packs/left.age");
    if !unfinished() {
        eprintln!("NOT TESTED: this server does not list uploads in parts");
        return;
    }
    store.tidy(now - 3_600_000_000_000).unwrap();
    assert!(unfinished(), "it is younger than that");
    store.tidy(now + 3_600_000_000_000).unwrap();
    assert!(!unfinished());
}

/// Forgets, prunes, and tidies up what somebody left who died while writing.
fn retained(server: &Server, home: &Home, run: &dyn Fn(&str, &[&str]) -> Coffre, url: &str, key: &str) {
    let owner = |args: &[&str]| run(url, &["--identity", key]).args(args);
    // The server's clock says when each snapshot came: one that was asked for, and one that was listed.
    let store = open(url);
    let signatures: Vec<Key> = store::list_all(&*open(url), "snaps")
        .unwrap()
        .into_iter()
        .map(|(key, _)| key)
        .filter(|key| key.as_str().ends_with(".sig"))
        .collect();
    let now = SystemClock.now_ns();
    let recent = |at: Option<i128>| at.is_some_and(|at| (now - 600_000_000_000..now + 60_000_000_000).contains(&at));
    assert!(recent(store.stored_ns(&signatures[0]).unwrap()), "{:?}", store.stored_ns(&signatures[0]));
    store.list("snaps", &mut |_, _| Ok(())).unwrap();
    assert!(recent(store.stored_ns(&signatures[1]).unwrap()));
    assert_eq!(store.stored_ns(&Key::fixed("snaps/nobody/0000000001.b3.sig")).unwrap(), None);
    owner(&["forget", "--keep-last", "1"]).ok();
    let data = server.path("data/a vault/of mine");
    let left = |name: &str, hours: u64| {
        let path = data.join(name);
        fs::write(&path, "half of an object").unwrap();
        let ago = format!("-{hours} hours");
        common::bin::run_tool("touch", "coreutils", &["-d", &ago, path.to_str().unwrap()]);
        path
    };
    // Where a server shows what is done to its files behind its back.
    let unfinished = url.starts_with("sftp").then(|| [left("packs/.tmp-old", 30), left("packs/.tmp-young", 3)]);
    if url.starts_with("webdav") {
        let at = format!("http://127.0.0.1:{}/a%20vault/of%20mine/packs/.tmp-left", server.answers_at());
        common::bin::run_tool("curl", "curl", &["-s", "-u", "coffre:coffresecret", "-T", home.key().to_str().unwrap(), &at]);
        assert!(data.join("packs/.tmp-left").exists());
        store.tidy(now - 3_600_000_000_000).unwrap();
        assert!(data.join("packs/.tmp-left").exists(), "it is younger than that");
        store.tidy(now + 3_600_000_000_000).unwrap();
        assert!(!data.join("packs/.tmp-left").exists());
    }
    if url.starts_with("s3") {
        left_in_parts(server, &*store, now);
    }
    let done = owner(&["--json", "prune", "--grace", "0", "--max-unused", "0%"]).ok().json();
    assert!(done["deleted_objects"].as_u64().unwrap() > 0, "{done}");
    if let Some([old, young]) = unfinished {
        assert!(!old.exists() && young.exists(), "what is old and unfinished goes");
        fs::remove_file(young).unwrap();
    }
    assert_eq!(owner(&["--json", "snapshots"]).ok().json().as_array().unwrap().len(), 1);
    run(url, &["verify"]).ok();
    owner(&["verify", "--depth", "chunks"]).ok();
    let source = home.source().display().to_string();
    let again = run(url, &["--json", "seal", &source]).ok().json();
    assert!(again["stats"]["new_bytes"].as_u64().unwrap() < 5_000, "what was moved is still known: {again}");
    // The copy follows, and brings back nothing that is gone.
    run(url, &["copy", &server.url("again"), "--verify"]).ok();
    owner(&["prune", "--grace", "0"]).ok();
    run(url, &["verify"]).ok();
}

/// Other people's program of copies makes one, and coffre goes on from it.
#[test]
fn what_rclone_copied_is_a_copy() {
    if is_left_out("rclone-webdav") {
        return;
    }
    let home = Home::new();
    fs::write(home.source().join("file"), noise(2_000_000, 1)).unwrap();
    home.seal();
    let to = home.path("by-rclone").display().to_string();
    common::bin::run_tool(&rclone(), "scripts/servers/install", &["--config", "/dev/null", "copy", home.vault().to_str().unwrap(), &to]);
    let run = |args: &[&str]| home.bare(["--vault", &to, "--identity", home.key().to_str().unwrap()]).args(args);
    run(&["verify", "--depth", "chunks"]).ok();
    fs::write(home.source().join("later"), "later").unwrap();
    home.seal();
    let report = home.coffre(["--json", "copy", "--verify", &to]).ok().json();
    assert_eq!((&report["snapshots"], &report["findings"]), (&json!(1), &json!([])));
    assert_eq!(run(&["cat", &format!("latest:{}", home.source().join("later").display())]).ok().out, b"later");
}

/// Where scripts/servers/install puts it.
fn rclone() -> String {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let target = set("CARGO_TARGET_DIR").unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/target").to_owned());
    format!("{}/rclone", set("COFFRE_SERVERS").unwrap_or_else(|| format!("{target}/servers")))
}

fn whole_life(name: &'static str, exclusive: bool) {
    if is_left_out(name) {
        return;
    }
    let server = Server::start(name);
    if name == "sshd" {
        SSH.set(server.env().pop().unwrap().1).unwrap();
    }
    keeps_the_contract(&server, exclusive);
    lives(&server);
}

#[test]
fn a_vault_lives_on_seaweedfs() {
    whole_life("seaweedfs", true);
}

/// A second S3 server, of another make: it accepts conditional puts and overwrites all the same.
#[test]
fn a_vault_lives_on_a_server_of_s3_without_conditions() {
    whole_life("rclone-s3", false);
}

#[test]
fn a_vault_lives_on_webdav() {
    whole_life("rclone-webdav", true);
}

#[test]
fn a_vault_lives_on_a_host_with_ssh() {
    whole_life("sshd", true);
}

#[test]
fn hosts_that_are_not_there_are_said_to_be_so() {
    let home = Home::without_vault();
    let run = |url: &str| home.bare(["--vault", url, "verify"]).env("AWS_ACCESS_KEY_ID", "a").env("AWS_SECRET_ACCESS_KEY", "topsecret");
    run("s3://b/x?endpoint=http://no-such-host.invalid").refused(1).says("no host has this name");
    run("webdav://no-such-host.invalid/x").refused(1).says("no host has this name");
    run("sftp://no-such-host.invalid/x").refused(1).says("ssh says: ");
    run("webdav://me:topsecret@host/x").refused(2);
    run("gopher://host/x").refused(2);
    run("s3://b/x?endpiont=y").refused(2);
    home.bare(["--vault", "s3://b/x", "verify"]).env("HOME", home.path(".")).env("AWS_ACCESS_KEY_ID", "").refused(2).says("no credentials");
}
