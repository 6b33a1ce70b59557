//! A vault at the end of a long line: how many requests things cost, and what the cache spares.

use std::{fs, path::Path, time::Duration};

use crate::common::{
    bin::{Coffre, Home, Mounted, run_tool, until},
    library::noise,
    line::Line,
    servers::{Server, is_left_out},
};

/// 30 ms there and back, 100 Mbit/s.
const DELAY: Duration = Duration::from_millis(30);
const BYTES_PER_SEC: u64 = 12_500_000;

/// Requests of a run, as it says itself with `-v`.
fn requests(said: &str) -> u64 {
    let at = said.find(" requests").unwrap_or_else(|| panic!("it says how many requests it made: {said}"));
    said[..at].rsplit(' ').next().unwrap().replace(',', "").parse().unwrap()
}

fn files_below(dir: &Path) -> Vec<u8> {
    run_tool("find", "findutils", &[dir.as_os_str()]).into_bytes()
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
    let unchanged = requests(&run(&["seal", &source]).ok().err);
    println!("an unchanged seal: {unchanged} requests");

    let mount = || Mounted::of(&home, run(&["--identity", &key, "mount"]), &home.mnt());
    let mut cold = mount();
    let before = line.bytes().1;
    assert_eq!(
        files_below(&cold.latest(&home.source())).len(),
        files_below(&home.source()).len() + cold.latest(Path::new("/")).as_os_str().len() * 2041
    );
    let listed = line.bytes().1 - before;
    run_tool("cp", "coreutils", &["-r".as_ref(), cold.latest(&home.source()).as_os_str(), home.path("out").as_os_str()]);
    run_tool("diff", "diffutils", &["-r".as_ref(), home.source().as_os_str(), home.path("out").as_os_str()]);
    let read = line.bytes().1 - before;
    println!("listing: {listed} bytes; all: {read} bytes of 20,000,000");
    assert!(read < 24_000_000, "everything came over the line once: {read}");
    let child = cold.child();
    crate::common::bin::send(child, rustix::process::Signal::TERM);
    assert_eq!(cold.wait(), 0);
    let asked = requests(&cold.said());
    println!("a mount in which all was read: {asked} requests");
    assert!(asked < 100, "{asked}");

    // Again: what the disk has does not come over the line. A piece that was damaged there does.
    fs::remove_dir_all(home.path("out")).unwrap();
    let mut pieces: Vec<_> = Vec::new();
    until("the cache is there", || {
        pieces = run_tool("find", "findutils", &["-L".as_ref(), home.path("cache").as_os_str(), "-name".as_ref(), "0".as_ref()])
            .lines()
            .map(str::to_owned)
            .collect();
        !pieces.is_empty()
    });
    let mut hurt = fs::read(&pieces[0]).unwrap();
    hurt[1000] ^= 1;
    fs::write(&pieces[0], hurt).unwrap();
    let warm = mount();
    let before = line.bytes().1;
    run_tool("cp", "coreutils", &["-r".as_ref(), warm.latest(&home.source()).as_os_str(), home.path("out").as_os_str()]);
    run_tool("diff", "diffutils", &["-r".as_ref(), home.source().as_os_str(), home.path("out").as_os_str()]);
    let read = line.bytes().1 - before;
    assert!((500_000..2_000_000).contains(&read), "only the damaged piece came again: {read} bytes");
    assert!(unchanged <= 60, "{unchanged}");
}
