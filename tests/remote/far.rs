//! A vault at the end of a long line: how many requests things cost, and what the cache spares.

use std::{ffi::OsStr, fs, path::Path, time::Duration};

use crate::common::{
    bin::{Coffre, Home, Mounted, run_tool},
    library::noise,
    line::Line,
    servers::{Server, is_left_out},
};

/// 30 ms there and back, 100 Mbit/s.
const DELAY: Duration = Duration::from_millis(30);
const BYTES_PER_SEC: u64 = 12_500_000;

/// Requests of a run, as it says itself with `-v`.
fn requests(said: &str) -> u64 {
    let line = said.lines().rev().find(|line| line.contains(" requests") && line.contains(" sent, "));
    let line = line.unwrap_or_else(|| panic!("it says how many requests it made: {said}"));
    let words: Vec<&str> = line.split(' ').collect();
    let at = words.iter().position(|word| word.starts_with("requests")).unwrap();
    words[at - 1].replace(',', "").parse().unwrap()
}

/// All paths below a directory, from there.
fn paths_below(dir: &Path) -> Vec<String> {
    let said = run_tool("find", "findutils", &[dir.as_os_str(), "-printf".as_ref(), "%P\n".as_ref()]);
    let mut paths: Vec<String> = said.lines().map(str::to_owned).collect();
    paths.sort();
    paths
}

#[test]
fn a_long_line_is_used_sparingly() {
    if is_left_out("rclone-s3") {
        return;
    }
    let server = Server::start("rclone-s3");
    let line = Line::to(server.answers_at(), DELAY, BYTES_PER_SEC);
    let home = Home::without_vault();
    let url = server.url_at(line.port, "far");
    let run = |args: &[&str]| -> Coffre {
        let command = home.bare(["-v", "--vault", &url]).args(args).env("COFFRE_CACHE_DIR", home.path("cache"));
        server.env().iter().fold(command, |command, (name, value)| command.env(name, value))
    };
    let (source, key) = (home.source().display().to_string(), home.key().display().to_string());
    for n in 0..2000_u64 {
        let dir = home.source().join(format!("dir-{}", n / 50));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(n.to_string()), noise(10_000, n)).unwrap();
    }
    run(&["init", "--recipient", &home.recipient()]).ok();
    run(&["seal", &source]).ok();
    let done = run(&["--json", "seal", &source]).ok();
    let unchanged = requests(&done.err);
    // Directories above the source are sealed too, and other tests change those: then there is a pack, its sidecar, and a segment twice.
    let allowed = if done.json()["stats"]["new_bytes"] == 0 { 10 } else { 14 };
    println!("an unchanged seal: {unchanged} requests");

    let mount = || Mounted::of(&home, run(&["--identity", &key, "mount"]), &home.mnt());
    let before = line.bytes().1;
    let mut cold = mount();
    assert_eq!(paths_below(&cold.latest(&home.source())), paths_below(&home.source()));
    let listed = line.bytes().1 - before;
    run_tool("cp", "coreutils", &["-r".as_ref(), cold.latest(&home.source()).as_os_str(), home.path("out").as_os_str()]);
    run_tool("diff", "diffutils", &["-r".as_ref(), home.source().as_os_str(), home.path("out").as_os_str()]);
    let read = line.bytes().1 - before;
    println!("mounting and listing: {listed} bytes; all: {read} bytes of 20,000,000");
    assert!(read < 24_000_000, "everything came over the line once: {read}");
    let child = cold.child();
    crate::common::bin::send(child, rustix::process::Signal::TERM);
    assert_eq!(cold.wait(), 0);
    let asked = requests(&cold.said());
    println!("a mount in which all was read: {asked} requests");
    assert!(asked < 100, "{asked}");

    // Again: what the disk has does not come over the line. A piece that was damaged there does.
    fs::remove_dir_all(home.path("out")).unwrap();
    let looked_for = ["-path", "*/packs/*", "-name", "0", "-size", "+1000k"];
    let cache = home.path("cache");
    let words: Vec<&OsStr> = [cache.as_os_str()].into_iter().chain(looked_for.map(OsStr::new)).collect();
    let pieces: Vec<String> = run_tool("find", "findutils", &words).lines().map(str::to_owned).collect();
    let mut hurt = fs::read(&pieces[0]).unwrap();
    hurt[1000] ^= 1;
    fs::write(&pieces[0], hurt).unwrap();
    let before = line.bytes().1;
    let warm = mount();
    run_tool("cp", "coreutils", &["-r".as_ref(), warm.latest(&home.source()).as_os_str(), home.path("out").as_os_str()]);
    run_tool("diff", "diffutils", &["-r".as_ref(), home.source().as_os_str(), home.path("out").as_os_str()]);
    let read = line.bytes().1 - before;
    assert!((1_000_000..1_500_000).contains(&read), "only the damaged piece came again: {read} bytes");
    assert!(unchanged <= allowed, "{unchanged}");
}
