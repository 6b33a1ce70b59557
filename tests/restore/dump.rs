//! Archives: what other people's programs make of them is what was sealed.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::common::{
    bin::{Home, run_tool, shell},
    tree,
};

/// `coffre dump latest:SOURCE ARGS` into a file.
fn dumped(home: &Home, name: &str, args: &[&str]) -> PathBuf {
    let to = home.path(name);
    let what = format!("latest:{}", home.source().display());
    fs::write(&to, home.owner(["dump", &what]).args(args).ok().out).unwrap();
    to
}

/// Unpacks with GNU tar, everything that it can; returns what it said.
fn unpacked(archive: &Path, to: &Path) -> String {
    fs::create_dir(to).unwrap();
    let script =
        format!("tar -xp --warning=no-timestamp --xattrs --xattrs-include='*' --acls -f {} -C {}", archive.display(), to.display());
    shell(Path::new("/"), &script)
}

#[test]
fn gnu_tar_makes_of_it_what_was_there() {
    let home = tree::sealed_everything();
    let archive = dumped(&home, "everything.tar", &[]);
    let to = home.path("untarred");
    assert_eq!(unpacked(&archive, &to), "", "it has nothing to complain about");
    tree::assert_same(&home.source(), &to);
    // All of a snapshot has full paths.
    let whole = home.path("whole.tar");
    fs::write(&whole, home.owner(["dump", "latest"]).ok().out).unwrap();
    let to = home.path("untarred-whole");
    unpacked(&whole, &to);
    tree::assert_same(&home.source(), &home.inside(&to, home.source()));
}

#[test]
fn large_numbers_and_long_names_have_room() {
    let home = Home::new();
    let long = ["d".repeat(200), "e".repeat(200), "f".repeat(250)].join("/");
    tree::write(home.source().join(&long), "at the end");
    std::os::unix::fs::symlink(&long, home.source().join("link")).unwrap();
    let huge = fs::File::create(home.source().join("huge")).unwrap();
    huge.set_len(1 << 40).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&huge, &tree::noise(9, 70_000), 1 << 39).unwrap();
    std::os::unix::fs::chown(home.source().join("huge"), Some(4_294_967_290), Some(4_000_000_000)).unwrap();
    tree::set_mtime(&home.source().join("huge"), 99_000_000_000, 7);
    home.seal();
    let archive = dumped(&home, "long.tar", &[]);
    assert!(fs::metadata(&archive).unwrap().len() < 1 << 20, "holes are not in it");
    let to = home.path("to");
    unpacked(&archive, &to);
    tree::assert_same(&home.source(), &to);
}

/// Reads every member with Python's own modules, and holds it against the source.
const CHECK: &str = r"
import os, stat, sys, tarfile, zipfile
archive, source = map(os.fsencode, sys.argv[1:])
want = {}
for at, dirs, files in os.walk(source):
    for name in dirs + files:
        path = os.path.join(at, name)
        st = os.lstat(path)
        rel = os.path.relpath(path, source)
        if stat.S_ISDIR(st.st_mode): want[rel + b'/'] = None
        elif stat.S_ISLNK(st.st_mode): want[rel] = os.readlink(path)
        elif stat.S_ISREG(st.st_mode): want[rel] = open(path, 'rb').read()
got = {}
if archive.endswith(b'.zip'):
    z = zipfile.ZipFile(os.fsdecode(archive))
    assert z.testzip() is None
    for info in z.infolist():
        raw = info.filename.encode('utf-8' if info.flag_bits & 0x800 else 'cp437')
        st = os.lstat(os.path.join(source, raw))
        assert info.external_attr >> 16 == st.st_mode, raw
        got[raw] = None if raw.endswith(b'/') else z.read(info)
else:
    t = tarfile.open(archive)
    for m in t:
        raw = os.fsencode(m.name)
        if raw == b'.': continue
        if m.isdir(): got[raw + b'/'] = None
        elif m.issym(): got[raw] = os.fsencode(m.linkname)
        elif m.isfile() or m.islnk(): got[raw] = t.extractfile(m).read()
assert got.keys() == want.keys(), sorted(got.keys() ^ want.keys())[:10]
for name in want:
    assert got[name] == want[name], name
print(len(got))
";

#[test]
fn python_reads_both_kinds() {
    let home = Home::new();
    let top = home.source();
    tree::every_kind(&top);
    // Python follows hard links to links and fifos no more than it must; these kinds are GNU tar's to check.
    fs::remove_dir_all(top.join("special")).unwrap();
    fs::remove_file(top.join("links/dangling-too")).unwrap();
    home.seal();
    for (name, format) in [("python.tar", "tar"), ("python.zip", "zip")] {
        let archive = dumped(&home, name, &["--format", format]);
        let read = run_tool("python3", "python3", &[Path::new("-c"), Path::new(CHECK), &archive, &top]);
        assert!(read.trim().parse::<usize>().unwrap() > tree::MANY, "{name}: {read}");
    }
    // And the program that most people have.
    let to = home.path("unzipped");
    fs::create_dir(&to).unwrap();
    let small = home.path("small.zip");
    fs::write(&small, home.owner(["dump", "--format", "zip", &format!("latest:{}/contents", top.display())]).ok().out).unwrap();
    run_tool("unzip", "unzip", &[Path::new("-q"), &small, Path::new("-d"), &to]);
    tree::assert_same_but(&top.join("contents"), &to, "mtime");
    let (a, b) = (fs::metadata(top.join("contents/noise-6M")).unwrap(), fs::metadata(to.join("noise-6M")).unwrap());
    assert!((a.mtime() - b.mtime()).abs() <= 1, "{} {}", a.mtime(), b.mtime());
}

#[test]
fn a_zip_says_what_it_cannot_hold() {
    let home = tree::sealed_everything();
    let what = format!("latest:{}/special", home.source().display());
    let done = home.owner(["dump", "--format", "zip", &what]).run().exits(3);
    assert!(done.err.contains("5 fifos and devices are left out"), "{}", done.err);
}

#[test]
fn who_has_read_enough_may_go() {
    let home = tree::sealed_everything();
    let command = home.owner(["dump", "latest"]);
    let words: Vec<String> =
        std::iter::once(command.0.get_program()).chain(command.0.get_args()).map(|word| format!("'{}'", word.to_str().unwrap())).collect();
    let said = shell(&home.path(""), &format!("set +o pipefail; {} | head -c 100000 | wc -c; echo ${{PIPESTATUS[@]}}", words.join(" ")));
    assert_eq!(said, "100000\n0 0 0\n");
}

#[test]
fn one_file_and_chosen_ones_go_into_an_archive() {
    let home = tree::sealed_small();
    let list = |args: &[&str]| {
        let archive = home.path("list.tar");
        fs::write(&archive, home.owner(["dump"]).args(args).ok().out).unwrap();
        run_tool("tar", "tar", &[Path::new("-tf"), &archive])
    };
    let at = |path: &str| format!("latest:{}{path}", home.source().display());
    assert_eq!(list(&[&at("/docs/text")]), "text\n");
    assert_eq!(list(&[&at(""), "--include", "docs", "--exclude", "noise"]), "./\ndocs/\ndocs/text\n");
}

#[test]
fn damage_leaves_a_file_out_and_the_archive_whole() {
    let home = Home::new();
    for n in 0..100 {
        tree::write(home.source().join(format!("file-{n:03}")), tree::noise(n, 30_000));
    }
    home.seal();
    let pack = home.objects("packs", ".age").into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::remove_file(&pack).unwrap();
    fs::write(&pack, bytes).unwrap();
    // They would mend it.
    fs::remove_dir_all(home.vault().join("parity")).unwrap();
    let done = home.owner(["dump", &format!("latest:{}", home.source().display())]).run().exits(4);
    let archive = home.path("damaged.tar");
    fs::write(&archive, &done.out).unwrap();
    let listed = run_tool("tar", "tar", &[Path::new("-tf"), &archive]);
    let (there, named) = (listed.lines().filter(|l| l.starts_with("file-")).count(), done.err.matches("/file-").count());
    assert!(named > 0 && named < 50 && there + named == 100, "{there} there, {named} named: {}", done.err);
    let to = home.path("to");
    unpacked(&archive, &to);
    for name in listed.lines().filter(|l| l.starts_with("file-")) {
        assert_eq!(fs::read(to.join(name)).unwrap(), fs::read(home.source().join(name)).unwrap(), "{name}");
    }
}
