//! Source trees with every kind of entry that Linux has, and whether two trees are the same.

use std::{
    ffi::{CString, OsStr},
    fs,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{PermissionsExt, lchown, symlink},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, Weak},
};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags, makedev, mkdirat, mknodat, openat, utimensat};

use super::bin::{Home, run_tool};

/// Sockets that `every_kind` makes; none of them is ever sealed.
pub const SOCKETS: u64 = 1;
/// Files in its large directory: enough that the directory is cut into sub-nodes.
pub const MANY: usize = 5000;

/// Fails unless the two trees are the same in every attribute, hard links and holes included.
#[track_caller]
pub fn assert_same(a: &Path, b: &Path) {
    assert_same_but(a, b, "");
}

/// The same, without the kinds of differences in `ignored`, separated by commas.
#[track_caller]
pub fn assert_same_but(a: &Path, b: &Path, ignored: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/compare-trees");
    let output = Command::new(script).args(["--ignore", ignored]).args([a, b]).output().expect("scripts/compare-trees starts");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{} and {} differ:\n{said}", a.display(), b.display());
}

/// A home whose vault holds every kind of entry; made once for the tests that run at the same time, and gone with the last.
pub fn sealed_everything() -> Arc<Home> {
    static SHARED: Mutex<Weak<Home>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(|e| e.into_inner());
    if let Some(home) = shared.upgrade() {
        return home;
    }
    let home = Home::new();
    every_kind(&home.source());
    home.seal();
    let home = Arc::new(home);
    *shared = Arc::downgrade(&home);
    home
}

/// A home with a few files, sealed once.
pub fn sealed_small() -> Home {
    let home = Home::new();
    small(&home.source());
    home.seal();
    home
}

/// Fails unless everything in the vault decodes, and its newest snapshot holds the source as it is now.
#[track_caller]
pub fn assert_restorable(home: &Home) {
    home.owner(["verify", "--depth", "chunks"]).ok();
    let dest = home.path("restored");
    let _ = fs::remove_dir_all(&dest);
    run_tool("python3", "python3", &[home.vault().join("RESTORE.py"), home.key(), dest.clone()]);
    assert_same(&home.source(), &home.inside(&dest, home.source()));
}

/// Bytes that do not compress, the same ones for the same `seed`.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes()
    };
    let mut bytes: Vec<u8> = std::iter::repeat_with(&mut next).take(len.div_ceil(8)).flatten().collect();
    bytes.truncate(len);
    bytes
}

/// Lines that compress well, and differ.
pub fn prose(len: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(len + 64);
    for n in 0.. {
        if text.len() >= len {
            break;
        }
        text.extend_from_slice(format!("{n:08}\tthe quick brown fox\t{}\n", n % 97).as_bytes());
    }
    text.truncate(len);
    text
}

/// Writes a file, and the directories above it.
pub fn write(path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
    let path = path.as_ref();
    fs::create_dir_all(path.parent().expect("a file lies somewhere")).expect("its directory can be made");
    fs::write(path, content).unwrap_or_else(|e| panic!("{} can be written: {e}", path.display()));
}

/// A few files and directories, for tests that are about something else. About 1.5 MB.
pub fn small(top: &Path) {
    write(top.join("hello"), "hello, world\n");
    write(top.join("empty"), "");
    write(top.join("docs/text"), prose(700_000));
    write(top.join("docs/noise"), noise(7, 700_000));
    for n in 0..40 {
        write(top.join(format!("src/{n}.rs")), prose(500 + n * 50));
    }
    symlink("docs/text", top.join("link")).expect("a link can be made");
}

/// Makes everything below `top` that cp, rsync and tar can copy as well. Must run as root.
pub fn every_kind(top: &Path) {
    assert!(coffre::sys::is_root(), "devices and foreign owners can be made by root alone: run these tests as root");
    fs::create_dir_all(top).expect("the tree can be made");
    contents(&top.join("contents"));
    sparse(&top.join("sparse"));
    links(&top.join("links"));
    special(&top.join("special"));
    attributes(&top.join("attributes"));
    modes_and_owners(&top.join("modes"));
    names(&top.join("names"));
    fs::create_dir_all(top.join("empty/of/everything")).expect("directories can be made");
    for n in 0..MANY {
        write(top.join(format!("many/{n:05}")), format!("file {n}\n"));
    }
    repository(&top.join("repo"));
    // Last: what is made in a directory moves its time.
    age(top);
    times(&top.join("times"));
    set_mtime(&top.join("times"), 1_600_000_000, 5);
    set_mtime(&top.join("empty"), -1, 1);
    set_mtime(top, 1_000_000_000, 123_456_789);
}

fn contents(top: &Path) {
    for len in [0, 1, 255, 256, 257, 32_767, 32_768, 32_769, 131_072, 524_288, 524_289] {
        write(top.join(format!("noise-{len}")), noise(len as u64, len));
        write(top.join(format!("prose-{len}")), prose(len));
    }
    write(top.join("noise-6M"), noise(1, 6_000_003));
    write(top.join("prose-9M"), prose(9_000_001));
    write(top.join("copy-of-noise"), noise(1, 6_000_003));
    write(top.join("zeros"), vec![0; 1_500_000]);
}

/// Files with holes: where they are, and what data is between them.
fn sparse(top: &Path) {
    use std::os::unix::fs::FileExt;
    const MIB: u64 = 1 << 20;
    fs::create_dir_all(top).expect("a directory can be made");
    let make = |name: &str, len: u64, data: &[(u64, usize)]| {
        let file = fs::File::create(top.join(name)).expect("a file can be made");
        file.set_len(len).expect("its length can be set");
        for (at, len) in data {
            file.write_all_at(&noise(*at + 5, *len), *at).expect("it can be written");
        }
    };
    make("hole-first", 4 * MIB, &[(3 * MIB, MIB as usize)]);
    make("hole-between", 6 * MIB, &[(0, 70_000), (5 * MIB, MIB as usize)]);
    make("hole-last", 5 * MIB + 17, &[(0, 600_000)]);
    make("all-hole", 8 * MIB + 1, &[]);
    let data: Vec<(u64, usize)> = (0..16).map(|n| (n * MIB / 2, 65_536)).collect();
    make("many-holes", 8 * MIB, &data);
}

fn links(top: &Path) {
    write(top.join("first"), noise(2, 100_000));
    fs::create_dir_all(top.join("below")).expect("a directory can be made");
    for name in ["second", "below/third"] {
        fs::hard_link(top.join("first"), top.join(name)).expect("a hard link can be made");
    }
    write(top.join("inline"), "short");
    fs::hard_link(top.join("inline"), top.join("below/inline")).expect("a hard link can be made");
    let targets: [(&str, &[u8]); 6] = [
        ("relative", b"first"),
        ("dangling", b"nowhere/at/all"),
        ("absolute", b"/etc/passwd"),
        ("to-directory", b"below"),
        ("not-utf8", b"\xff\xfe/\x80"),
        ("long", &[b'x'; 4000]),
    ];
    for (name, target) in targets {
        symlink(OsStr::from_bytes(target), top.join(name)).expect("a symbolic link can be made");
    }
    fs::hard_link(top.join("dangling"), top.join("dangling-too")).expect("a symbolic link can have two names");
}

fn special(top: &Path) {
    fs::create_dir_all(top).expect("a directory can be made");
    let make = |name: &str, kind: FileType, device: u64| {
        mknodat(CWD, top.join(name), kind, Mode::from_raw_mode(0o640), device).expect("root can make a fifo or a device");
    };
    make("fifo", FileType::Fifo, 0);
    make("null", FileType::CharacterDevice, makedev(1, 3));
    make("loop", FileType::BlockDevice, makedev(7, 0));
    make("large-numbers", FileType::BlockDevice, makedev(259, 70_000));
    fs::hard_link(top.join("fifo"), top.join("fifo-too")).expect("a fifo can have two names");
    drop(UnixListener::bind(top.join("socket")).expect("a socket can be made"));
}

fn attributes(top: &Path) {
    write(top.join("plain"), "attributes\n");
    write(top.join("program"), noise(3, 40_000));
    write(top.join("shared"), "for some\n");
    fs::create_dir_all(top.join("inherited")).expect("a directory can be made");
    symlink("plain", top.join("link")).expect("a link can be made");
    let set = |name: &str, key: &str, value: &[u8]| {
        rustix::fs::lsetxattr(top.join(name), key, value, XattrFlags::empty())
            .unwrap_or_else(|e| panic!("{name} can have {key}; TMPDIR must be on a file system with extended attributes: {e}"));
    };
    set("plain", "user.empty", b"");
    set("plain", "user.big", &noise(4, 3000));
    set("plain", "user.not-text\u{e9}", b"\0\xff");
    set("inherited", "user.of-directory", b"yes");
    set("link", "trusted.of-link", b"even these");
    run_tool("setcap", "libcap2-bin", &[OsStr::new("cap_net_raw,cap_net_bind_service+ep"), top.join("program").as_os_str()]);
    let acl = |args: &[&str], name: &str| {
        let path = top.join(name);
        let args: Vec<&OsStr> = args.iter().map(OsStr::new).chain([path.as_os_str()]).collect();
        run_tool("setfacl", "acl", &args);
    };
    acl(&["-m", "u:12345:rwx,g:54321:r-x,m::rx"], "shared");
    acl(&["-m", "u:12345:r-x", "-m", "d:u:12345:rwx,d:g:54321:r-x,d:o::---"], "inherited");
    write(top.join("inherited/child"), "inherits\n");
    fs::create_dir(top.join("inherited/directory")).expect("a directory can be made");
}

fn modes_and_owners(top: &Path) {
    write(top.join("sealed-off/below"), "root alone gets here\n");
    write(top.join("setgid/file"), "");
    symlink("whoever", top.join("link")).expect("a link can be made");
    let modes = [("setuid", 0o4755), ("setgid", 0o2775), ("sticky", 0o1777), ("none", 0o000), ("all", 0o7777), ("write-only", 0o200)];
    for (n, (name, mode)) in modes.into_iter().enumerate() {
        let path = top.join(name);
        if !path.exists() {
            write(&path, name);
        }
        // The owner first: changing it takes the setuid bit away.
        lchown(&path, Some(10_000 + n as u32), Some(20_000)).expect("root gives files away");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode can be set");
    }
    lchown(top.join("link"), Some(4_000_000_000), Some(4_294_967_290)).expect("root gives links away");
    fs::set_permissions(top.join("sealed-off"), fs::Permissions::from_mode(0o000)).expect("a mode can be set");
}

fn names(top: &Path) {
    let names: [&[u8]; 10] = [
        b"\xff\xfe\x80 not utf-8",
        b"line\nbreak\ttab",
        b" space ",
        b"-rf",
        b"back\\slash\"quote'",
        b"*?[a]",
        b".hidden",
        b"\x1b[31mred",
        "\u{e9}t\u{e9} \u{1f980}".as_bytes(),
        &[b'n'; 255],
    ];
    for name in names {
        write(top.join(OsStr::from_bytes(name)), name);
        write(top.join("directories").join(OsStr::from_bytes(name)).join("inside"), "");
    }
}

/// Makes all but files older than a second: rsync leaves the time of a directory, link or device as it is if it is right up to the second.
fn age(top: &Path) {
    for entry in fs::read_dir(top).expect("a directory can be read") {
        let entry = entry.expect("it can be read to the end");
        let kind = entry.file_type().expect("it has a kind");
        if kind.is_dir() {
            age(&entry.path());
        } else if !kind.is_file() {
            set_mtime(&entry.path(), 1_600_000_000, 123);
        }
    }
    set_mtime(top, 1_600_000_000, 987_654_321);
}

/// Before 1970, after 2106, to the nanosecond, on every kind of entry.
fn times(top: &Path) {
    for (name, secs, ns) in [
        ("1965", -157_766_400, 999_999_999),
        ("1969", -1, 1),
        ("1970", 0, 0),
        ("2038", 2_147_483_648, 5),
        ("2112", 4_500_000_000, 123_456_789),
    ] {
        write(top.join(name).join("file"), name);
        symlink("file", top.join(name).join("link")).expect("a link can be made");
        for path in [top.join(name).join("file"), top.join(name).join("link"), top.join(name)] {
            set_mtime(&path, secs, ns);
        }
    }
}

/// Sets the time of `path` itself, even if it is a link.
pub fn set_mtime(path: &Path, secs: i64, ns: i64) {
    let time = Timespec { tv_sec: secs, tv_nsec: ns };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("a time can be set");
}

/// A git repository with a pack, loose objects and a clean work tree.
fn repository(top: &Path) {
    let git = |args: &[&str]| {
        let quiet = ["-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main", "-c", "gc.auto=0"];
        let args: Vec<&OsStr> = [OsStr::new("-C"), top.as_os_str()].into_iter().chain(quiet.iter().chain(args).map(OsStr::new)).collect();
        run_tool("git", "git", &args);
    };
    small(top);
    git(&["init", "-q"]);
    git(&["add", "-A"]);
    git(&["commit", "-q", "-m", "first"]);
    git(&["gc", "-q"]);
    write(top.join("src/later.rs"), "fn later() {}\n");
    git(&["add", "-A"]);
    git(&["commit", "-q", "-m", "second"]);
}

/// What programs other than ours cannot copy, or not in time: a chain of directories whose path is longer than PATH_MAX, with
/// a file and a link at its end, and a file of 1 TiB that is nearly all hole.
pub fn extremes(top: &Path) {
    let mode = Mode::from_raw_mode(0o755);
    fs::create_dir_all(top).expect("a directory can be made");
    let open = |at: &dyn AsFd, name: &Path| -> OwnedFd {
        openat(at.as_fd(), name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).expect("a directory can be opened")
    };
    let mut at = open(&CWD, top);
    for level in 0..22 {
        let name = PathBuf::from(format!("{level:02}-{}", "d".repeat(220)));
        mkdirat(&at, &name, mode).expect("a directory can be made");
        at = open(&at, &name);
    }
    let file = openat(&at, "file", OFlags::WRONLY | OFlags::CREATE, Mode::from_raw_mode(0o644)).expect("a file can be made");
    rustix::io::write(&file, b"at the end of a long path\n").expect("it can be written");
    rustix::fs::symlinkat(CString::new("file").expect("no NUL"), &at, "link").expect("a link can be made");
    let huge = fs::File::create(top.join("huge")).expect("a file can be made");
    huge.set_len(1 << 40).expect("its length can be set");
    std::os::unix::fs::FileExt::write_all_at(&huge, &noise(9, 70_000), 1 << 39).expect("it can be written");
}
