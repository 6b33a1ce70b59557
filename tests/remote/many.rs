//! Many hosts at once: ten sealers into one bucket, while an owner mounts it, forgets and prunes.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use crate::common::{
    bin::{Coffre, Home, Mounted, run_tool},
    library::noise,
    servers::{Server, is_left_out},
};

const SEALERS: usize = 10;
/// Seals of each of them.
const ROUNDS: u64 = 4;

/// What host `n` has on its disk in a round: something that stays, something that changes, something that comes and goes.
fn day(home: &Home, n: usize, round: u64) -> PathBuf {
    let dir = home.path(format!("host-{n}"));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(dir.join("below")).unwrap();
    fs::write(dir.join("stays"), noise(200_000, n as u64)).unwrap();
    fs::write(dir.join("below/changes"), noise(60_000, 1000 + n as u64 * 10 + round)).unwrap();
    if round.is_multiple_of(2) {
        fs::write(dir.join("below/comes and goes"), noise(40_000, n as u64 + 77)).unwrap();
    }
    dir
}

#[test]
fn ten_sealers_and_an_owner_share_a_bucket() {
    if is_left_out("seaweedfs") {
        return;
    }
    let server = Server::start("seaweedfs");
    let home = Home::without_vault();
    let url = server.url("many");
    let key = home.key().display().to_string();
    let coffre = |args: &[&str]| -> Coffre {
        let command = home.bare(["--vault", &url]).args(args).env("COFFRE_CACHE_DIR", home.path("cache"));
        server.env().iter().fold(command, |command, (name, value)| command.env(name, value))
    };
    let owner = |args: &[&str]| coffre(&["--identity", &key]).args(args);
    let host = |n: usize, args: &[&str]| coffre(args).env("COFFRE_STATE_DIR", home.path(format!("state-{n}")));
    coffre(&["init", "--recipient", &home.recipient()]).ok();
    for n in 0..SEALERS {
        let token = home.path(format!("token-{n}")).display().to_string();
        owner(&["key", "add", "--sealer", &format!("host-{n}"), "--output", &token]).ok();
        host(n, &["enroll", &token]).ok();
    }
    let mut mounted = Mounted::of(&home, owner(&["mount"]), &home.mnt());
    let (running, said) = (AtomicUsize::new(SEALERS), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for n in 0..SEALERS {
            let (home, host, running, said) = (&home, &host, &running, &said);
            scope.spawn(move || {
                let all = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    for round in 0..ROUNDS {
                        let dir = day(home, n, round).display().to_string();
                        let done = host(n, &["--json", "seal", &dir]).ok();
                        said.lock().unwrap().push(done.err);
                    }
                }));
                running.fetch_sub(1, Ordering::SeqCst);
                all.unwrap_or_else(|e| std::panic::resume_unwind(e));
            });
        }
        // Forgets all but the newest two of each host, and prunes as sharply as one can, all the while.
        let mut prunes = 0;
        while running.load(Ordering::SeqCst) > 0 {
            owner(&["forget", "--keep-last", "2"]).ok();
            owner(&["prune", "--grace", "0", "--max-unused", "0%", "--repack-small"]).ok();
            prunes += 1;
        }
        println!("{prunes} prunes meanwhile");
        assert!(prunes > 0);
    });
    let said = said.into_inner().unwrap();
    assert_eq!(said.len(), SEALERS * ROUNDS as usize);
    let waited: Vec<&String> = said.iter().filter(|text| text.contains("waiting for")).collect();
    assert!(waited.is_empty(), "nobody waits for anybody: {waited:?}");

    // Each host's newest is in the mount that was there all the time, and is what the disk has.
    for n in 0..SEALERS {
        let (all, here) = (home.mnt().join(format!("hosts/host-{n}")), home.path(format!("host-{n}")));
        // By what it holds: of two that were sealed in one second, the names do not tell which is newer.
        let shown = || {
            let dirs = fs::read_dir(&all).ok()?.map(|entry| home.inside(entry.unwrap().path(), &here));
            let is_newest =
                |dir: &std::path::PathBuf| fs::read(dir.join("below/changes")).ok() == fs::read(here.join("below/changes")).ok();
            dirs.into_iter().find(is_newest)
        };
        let appears = crate::common::bin::within(std::time::Duration::from_secs(60), || shown().is_some());
        assert!(
            appears,
            "the newest snapshot of host-{n} does not appear; the mount shows {:?}, says {}, and there are\n{}",
            shown(),
            mounted.said(),
            owner(&["snapshots"]).run().text()
        );
        run_tool("diff", "diffutils", &["-r", shown().unwrap().to_str().unwrap(), here.to_str().unwrap()]);
    }
    crate::common::bin::send(mounted.child(), rustix::process::Signal::TERM);
    assert_eq!(mounted.wait(), 0);
    owner(&["verify", "--depth", "chunks"]).ok();
    // And nobody has to read anything again: what each host knows is still true.
    for n in 0..SEALERS {
        let done = host(n, &["--json", "seal", home.path(format!("host-{n}")).to_str().unwrap()]).ok().json();
        assert!(done["stats"]["new_bytes"].as_u64().unwrap() < 5_000, "{done}");
    }
    owner(&["forget", "--keep-last", "1"]).ok();
    owner(&["prune", "--grace", "0", "--max-unused", "0%"]).ok();
    owner(&["verify", "--depth", "chunks"]).ok();
}
