//! Content that comes through a pipe: read to its end, deduplicated, and nothing sealed if its command fails.

use std::{ffi::OsStr, fs::File, io::Write};

use coffre::{
    error::{ErrorKind, Result},
    ops::seal::{self, Context, Report, Stream},
    sys::Piped,
};

use crate::common::library::{Host, keys, noise, read_snapshot, temp};

fn seal_stream(host: &Host, name: &str, content: impl FnOnce() -> Result<Piped>) -> Result<Report> {
    let context = Context {
        vault: &host.vault,
        sealer: &host.sealer,
        state: &host.state,
        clock: &host.clock,
        sink: &host.told,
        cancel: &host.cancel,
    };
    seal::run_stream(&context, &host.options(&[]), &Stream::new(OsStr::new(name), content)?)
}

/// The file at `path` in the newest snapshot.
fn content(host: &Host, path: &str) -> Vec<u8> {
    let mut tree = read_snapshot(&host.reader(), &host.latest()).unwrap();
    tree.remove(path.as_bytes()).unwrap_or_else(|| panic!("{path} is not there: {:?}", tree.keys())).1
}

#[test]
fn a_stream_of_any_length_reads_back_and_the_next_one_shares_its_chunks() {
    let (_guard, dir) = temp();
    let host = Host::memory();
    let from = |bytes: &[u8]| {
        let path = dir.join("content");
        std::fs::write(&path, bytes).unwrap();
        Ok(Piped::file(File::open(path).unwrap()))
    };
    for len in [0, 1, 256, 257, 512 << 10, (1 << 20) + 1, 7_000_000] {
        let bytes = noise(len, len as u64);
        let report = seal_stream(&host, "dump.sql", || from(&bytes)).unwrap();
        assert!(content(&host, "/dump.sql") == bytes, "{len} bytes");
        assert_eq!((report.files_read, report.bytes_read, report.stats.logical_bytes), (1, len as u64, len as u64));
        assert_eq!((report.paths, report.stats.files, report.stats.directories), (vec!["/dump.sql".to_owned()], 1, 0));
    }
    let mut bytes = noise(7_000_000, 7_000_000);
    bytes.splice(3_000_000..3_000_000, *b"a row that is new");
    let report = seal_stream(&host, "/var/backups/of tests/dump.sql", || from(&bytes)).unwrap();
    assert!(content(&host, "/var/backups/of tests/dump.sql") == bytes);
    assert!(report.stats.new_bytes < 1_000_000, "{} new bytes", report.stats.new_bytes);
    host.assert_clean();
}

#[test]
fn a_pipe_is_read_as_it_fills() {
    let host = Host::memory();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let bytes = noise(3_000_000, 1);
    let sent = bytes.clone();
    let fill = std::thread::spawn(move || sent.chunks(1000).for_each(|part| writer.write_all(part).unwrap()));
    seal_stream(&host, "x", || Ok(Piped::file(reader))).unwrap();
    fill.join().unwrap();
    assert!(content(&host, "/x") == bytes);
}

#[test]
fn a_command_that_fails_leaves_no_snapshot_and_what_was_stored_is_used_by_the_next() {
    let host = Host::memory();
    let run = |text: &str| seal_stream(&host, "x", || Piped::command(text, |_| ()));
    let bytes = "seq 1 400000";
    for (text, says) in [
        (format!("{bytes}; echo no such table >&2; exit 7"), "exit status 7, so there is no snapshot: no such table"),
        (format!("{bytes}; kill -TERM $$"), "signal 15"),
        (format!("{bytes} | head -c 1000000; kill -KILL $$"), "signal 9"),
    ] {
        let e = run(&text).unwrap_err();
        assert!(e.kind() == ErrorKind::Unavailable && e.chain().contains(says) && e.hint_text().is_some(), "{}", e.chain());
        assert!(keys(&*host.vault.store, "snaps/").is_empty(), "no snapshot");
    }
    run(bytes).unwrap();
    let expected: String = (1..=400_000).map(|n| format!("{n}\n")).collect();
    assert!(content(&host, "/x") == expected.into_bytes());
    host.assert_clean();
    assert_eq!(host.verify(coffre::ops::verify::Depth::Packs).unwrap().unreferenced, 0);
}

/// However a pipe hands its bytes over, they are cut as the file is: sealed again, no byte of content is new.
#[test]
fn any_split_of_a_stream_gives_the_same_chunks() {
    let (_guard, dir) = temp();
    for seed in 1..=16u64 {
        let host = Host::memory();
        let random = noise(4096, seed);
        let number = move |i: usize| usize::from(random[2 * i]) << 8 | usize::from(random[2 * i + 1]);
        let bytes = noise(number(0) * 60, seed * 31);
        std::fs::write(dir.join("file"), &bytes).unwrap();
        host.seal(&[&dir]).unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        let fill = std::thread::spawn(move || {
            let (mut rest, mut i) = (&bytes[..], 1);
            while !rest.is_empty() {
                let (part, later) = rest.split_at((number(i % 2048) * (1 + i % 5)).clamp(1, rest.len()));
                writer.write_all(part).unwrap();
                (rest, i) = (later, i + 1);
            }
            bytes
        });
        let report = seal_stream(&host, "file", || Ok(Piped::file(reader))).unwrap();
        assert!(content(&host, "/file") == fill.join().unwrap(), "seed {seed}");
        assert_eq!(report.content_bytes, 0, "seed {seed}: content that is new");
    }
}
