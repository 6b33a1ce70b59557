//! `coffre seal` on a machine in use: it lets others go first, reads no faster than told, and leaves the page cache as it was.

use std::{
    fs::{self, File},
    io::Write,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use rustix::process::Signal;

use crate::common::bin::{Home, code, run_tool, send, shell, until};

/// Bytes of a file that are in memory.
fn cached(path: &Path) -> u64 {
    let said = run_tool(
        "fincore",
        "util-linux",
        &["--bytes".as_ref(), "--noheadings".as_ref(), "--output".as_ref(), "RES".as_ref(), path.as_os_str()],
    );
    said.trim().parse().unwrap_or_else(|_| panic!("fincore says a number: {said}"))
}

/// A directory on a disk, whose pages can leave memory: /tmp may be a tmpfs.
fn on_disk() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::Builder::new().prefix("coffre-test-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().canonicalize().unwrap();
    (dir, path)
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn a_seal_leaves_in_memory_what_was_there_and_no_more() {
    const LEN: usize = 12 << 20;
    let home = Home::new();
    let (_guard, disk) = on_disk();
    for (name, keep) in [("used", true), ("unused", false), ("small", false)] {
        let len = if name == "small" { 20_000 } else { LEN };
        let mut file = File::create(disk.join(name)).unwrap();
        file.write_all(&noise(len, name.len() as u64)).unwrap();
        file.sync_all().unwrap();
        if !keep {
            rustix::fs::fadvise(file.as_fd(), 0, None, rustix::fs::Advice::DontNeed).unwrap();
        }
    }
    let before = ["used", "unused", "small"].map(|name| cached(&disk.join(name)));
    assert_eq!(before, [LEN as u64, 0, 0], "the test needs a directory on a disk: {}", disk.display());
    home.coffre(["seal", "-q"]).args([&disk]).ok();
    let after = ["used", "unused", "small"].map(|name| cached(&disk.join(name)));
    assert_eq!(after[0], LEN as u64, "what others use stays");
    assert!(after[1] <= LEN as u64 / 10 && after[2] <= 4096, "what only the seal read is gone: {after:?}");
}

#[test]
fn a_limited_seal_takes_its_time_and_stops_when_told() {
    let home = Home::new();
    fs::create_dir_all(home.source()).unwrap();
    fs::write(home.source().join("file"), noise(6 << 20, 7)).unwrap();
    let args = ["--json", "seal", "--limit-rate", "4M"];
    let report = home.coffre(args).args([home.source()]).ok().json();
    assert!(report["seconds"].as_f64().unwrap() >= 1.2, "6 MiB at 4 MiB a second: {report}");

    fs::write(home.source().join("file"), noise(60 << 20, 8)).unwrap();
    let log = home.path("limited.log");
    let mut child = home.coffre(["seal", "--limit-rate", "256K", "--nice", "--progress", "json"]).args([home.source()]).spawn(&log);
    until("the seal reads", || fs::read_to_string(&log).unwrap().contains("bytes_read"));
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    assert_eq!(fields[16], "19", "nice: {stat}");
    let class = shell(Path::new("/"), &format!("ionice -p {}", child.id()));
    assert_eq!(class.trim(), "best-effort: prio 7");
    send(&child, Signal::INT);
    assert_eq!(code(child.wait().unwrap()), 130);
    assert_eq!(home.snapshots().len(), 1);
}

#[test]
fn a_loss_of_most_files_is_shown_and_pinned_and_can_be_accepted() {
    let home = Home::new();
    fs::create_dir_all(home.source()).unwrap();
    for n in 0..40 {
        fs::write(home.source().join(format!("f{n}")), noise(1000, n)).unwrap();
    }
    home.seal();
    for n in 0..30 {
        fs::remove_file(home.source().join(format!("f{n}"))).unwrap();
    }
    let done = home.coffre(["seal"]).args([home.source()]).ok();
    let says = "30 of 40 files are gone since the snapshot before";
    let done = done.says(&format!("coffre: warning: this looks like an accident or an attack: {says}"));
    assert!(done.text().contains(&format!("SUSPICIOUS: {says}; the snapshot before is pinned")), "{}", done.text());
    let rows = home.snapshots();
    assert_eq!((&rows[0]["pinned"], &rows[1]["suspicions"][0]), (&true.into(), &says.into()));
    let listed = home.owner(["snapshots"]).ok().text();
    assert!(listed.contains(" (pinned)\n") && listed.contains(" (suspicious)\n"), "{listed}");

    for n in 30..39 {
        fs::remove_file(home.source().join(format!("f{n}"))).unwrap();
    }
    let done = home.coffre(["seal", "--accept-changes"]).args([home.source()]).ok();
    assert_eq!(done.err, "");
    assert_eq!(home.snapshots()[2]["suspicions"], serde_json::json!([]));
}

#[test]
fn progress_as_json_is_one_object_a_line_on_standard_error() {
    let home = Home::new();
    fs::create_dir_all(home.source()).unwrap();
    fs::write(home.source().join("file"), noise(3 << 20, 9)).unwrap();
    let done = home.coffre(["seal", "--progress", "json"]).args([home.source()]).ok();
    let lines: Vec<serde_json::Value> = done.err.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = lines.last().expect("a line at least");
    let names: Vec<&String> = last.as_object().unwrap().keys().collect();
    let fields = ["bytes", "bytes_read", "bytes_read_per_second", "bytes_total", "current", "elapsed_seconds", "entries", "eta_seconds"];
    assert_eq!(names, fields);
    assert!(done.text().starts_with("sealed "), "{}", done.text());
}

#[test]
fn with_progress_as_json_warnings_and_errors_are_objects_too() {
    let home = Home::new();
    fs::create_dir_all(home.source()).unwrap();
    for n in 0..30 {
        fs::write(home.source().join(format!("f{n}")), noise(100, n)).unwrap();
    }
    home.coffre(["seal"]).args([home.source()]).ok();
    for n in 1..30 {
        fs::remove_file(home.source().join(format!("f{n}"))).unwrap();
    }
    let objects = |err: &str| -> Vec<serde_json::Value> { err.lines().map(|line| serde_json::from_str(line).unwrap()).collect() };
    let done = home.coffre(["seal", "--progress", "json"]).args([home.source()]).ok();
    let told = objects(&done.err);
    assert!(told.iter().any(|o| o["did"] == "warning" && o["text"].as_str().unwrap().contains("are gone")), "{told:?}");
    let failed = home.coffre(["cat", "latest:/nowhere", "--progress", "json"]).run();
    assert_eq!(objects(&failed.err).last().unwrap()["exit_code"], failed.code);
}
