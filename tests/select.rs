//! What is taken: every rule, what was named in spite of it, and whatever the catalog remembers of other rules.
//!
//! A dry run and a seal must agree everywhere: `taken` holds one against the other each time.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

mod common;
#[path = "select/git.rs"]
mod git;
#[path = "select/streams.rs"]
mod streams;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::{ffi::OsStrExt, fs::symlink},
    path::{Path, PathBuf},
    sync::Mutex,
};

use coffre::{
    error::ErrorKind,
    event::{Event, LeftOut, Sink},
    ops::seal::{self, Context, Line, Options, Preset, Rules},
};
use common::{
    bin::{Attached, Home, Mounted},
    library::{Host, read_snapshot, temp, write_files},
};
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

/// Everything that a dry run would take, as absolute paths, and what it would leave out: path and rule.
pub fn previewed(host: &Host, options: &Options) -> coffre::error::Result<(BTreeSet<String>, Vec<String>)> {
    let (mut taken, mut left) = (BTreeSet::new(), Vec::new());
    let mut entries = 0;
    let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    let totals = seal::preview(&host.state, options, &host.clock, &host.told, &host.cancel, &mut |line| {
        match line {
            Line::Take(path, ..) => {
                entries += 1;
                assert!(taken.insert(text(&path)), "{} twice", text(&path));
            }
            Line::LeftOut(out) => left.push(shown(&out)),
            Line::Problem(_) => (),
        }
        Ok(())
    })?;
    assert_eq!((totals.entries, totals.left_out), (entries, left.len() as u64));
    Ok((taken, left))
}

fn shown(out: &LeftOut) -> String {
    format!("{}{}: {}", out.path, if out.content_only { "/*" } else { "" }, out.rule.text)
}

/// What was told as left out, beginning with the event at `from`.
fn told_left_out(host: &Host, from: usize) -> Vec<String> {
    let told = host.told.lock().unwrap();
    told[from..].iter().filter_map(|event| if let Event::LeftOut(out) = event { Some(shown(out)) } else { None }).collect()
}

/// What a seal takes below `root`, relative to it; a dry run must have said the same.
#[track_caller]
fn taken(host: &Host, options: &Options, root: &Path) -> Vec<String> {
    let (said, left) = previewed(host, options).unwrap();
    let from = host.told.lock().unwrap().len();
    let report = host.seal_with(&Options { explain: true, ..options.clone() }).unwrap();
    assert_eq!(told_left_out(host, from), left, "a seal that explains itself says what a dry run does");
    let tree = read_snapshot(&host.reader(), &host.latest()).unwrap();
    let sealed: BTreeSet<String> = tree.keys().map(|path| String::from_utf8_lossy(path).into_owned()).collect();
    assert_eq!(said, sealed, "a dry run says what a seal does");
    assert_eq!(report.left_out, left.len() as u64);
    let root = format!("{}/", root.display());
    sealed.iter().filter_map(|path| path.strip_prefix(&root)).map(str::to_owned).collect()
}

fn with(host: &Host, sources: &[&Path], rules: Rules) -> Options {
    Options { rules, ..host.options(sources) }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

const TAG: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55\n# a cache";

/// One host, one tree, one set of rules after the other: nothing of what the catalog remembers may hide or keep a file.
#[test]
fn every_rule_takes_what_it_says_whatever_was_taken_before() {
    let (_guard, dir) = temp();
    let root = dir.join("w");
    write_files(
        &root,
        &[
            ("a.log", b"log"),
            ("keep.log", b"log"),
            ("cache/CACHEDIR.TAG", TAG),
            ("cache/deep/data", b"cached"),
            ("fake/CACHEDIR.TAG", b"no signature"),
            ("fake/data", b"data"),
            ("marked/.nobackup", b""),
            ("marked/data", b"data"),
            ("src/large", &[7; 5000]),
            ("src/small", b"small"),
            ("src/flagged", b"flagged"),
            ("src/build/out", b"out"),
            ("src/.coffreignore", b"/build/\n"),
        ],
    );
    let nodump = |on: bool| {
        let file = File::open(root.join("src/flagged")).unwrap();
        let flags = ioctl_getflags(&file).unwrap();
        ioctl_setflags(&file, if on { flags | IFlags::NODUMP } else { flags - IFlags::NODUMP }).unwrap();
    };
    nodump(true);
    let everything = words(
        "a.log cache cache/CACHEDIR.TAG cache/deep cache/deep/data fake fake/CACHEDIR.TAG fake/data keep.log marked marked/.nobackup \
         marked/data src src/.coffreignore src/build src/build/out src/flagged src/large src/small",
    );
    let without = |gone: &[&str]| {
        let is_gone = |path: &String| gone.iter().any(|g| path == g || path.starts_with(&format!("{g}/")));
        everything.iter().filter(|path| !is_gone(path)).cloned().collect::<Vec<_>>()
    };
    let patterns = |globs: &[&str]| Rules { patterns: globs.iter().map(Into::into).collect(), ..Rules::default() };
    let none = Rules::default;
    fs::write(dir.join("patterns"), "# logs\n*.log\n!keep.log\n").unwrap();
    let cases: Vec<(Rules, Vec<&str>)> = vec![
        (none(), vec![]),
        (patterns(&["*.log"]), vec!["a.log", "keep.log"]),
        (patterns(&["*.log", "!keep.log"]), vec!["a.log"]),
        (patterns(&["src/build"]), vec!["src/build"]),
        (patterns(&["build", "!out"]), vec!["src/build"]),
        (Rules { caches: true, ..none() }, vec!["cache/deep"]),
        (Rules { if_present: vec![".nobackup".into()], ..none() }, vec!["marked/data"]),
        (Rules { larger_than: Some(4999), ..none() }, vec!["src/large"]),
        (Rules { larger_than: Some(5000), ..none() }, vec![]),
        (
            Rules { larger_than: Some(5), ..none() },
            vec!["cache/CACHEDIR.TAG", "cache/deep/data", "fake/CACHEDIR.TAG", "src/flagged", "src/large", "src/.coffreignore"],
        ),
        (Rules { nodump: true, ..none() }, vec!["src/flagged"]),
        (Rules { ignore_files: vec![".coffreignore".into()], ..none() }, vec!["src/build"]),
        (Rules { pattern_files: vec![dir.join("patterns")], ..none() }, vec!["a.log"]),
        (Rules { presets: vec![Preset::Dev], ..none() }, vec!["a.log", "keep.log"]),
        (Rules { presets: vec![Preset::Dev], ..patterns(&["!a.log"]) }, vec!["keep.log"]),
        (Rules { presets: vec![Preset::Server], ..none() }, vec![]),
        (Rules { one_file_system: true, ..none() }, vec![]),
    ];
    let host = Host::memory();
    let check = |rules: &Rules, gone: &[&str]| {
        // `src/large` lies in a directory that other rules keep: the second time everything comes from the catalog.
        for _ in 0..2 {
            assert_eq!(taken(&host, &with(&host, &[&root], rules.clone()), &root), without(gone), "{rules:?}");
        }
    };
    for (rules, gone) in &cases {
        check(rules, gone);
        check(&none(), &[]);
    }
    for (rules, gone) in cases.iter().rev() {
        check(rules, gone);
    }
    // What the rules look at changes, and nothing else does.
    let ignore = Rules { ignore_files: vec![".coffreignore".into()], ..none() };
    check(&ignore, &["src/build"]);
    fs::write(root.join("src/.coffreignore"), "/large\n").unwrap();
    check(&ignore, &["src/large"]);
    fs::write(root.join("src/.coffreignore"), "").unwrap();
    check(&ignore, &[]);
    let flags = Rules { nodump: true, ..none() };
    check(&flags, &["src/flagged"]);
    nodump(false);
    check(&flags, &[]);
    let caches = Rules { caches: true, ..none() };
    check(&caches, &["cache/deep"]);
    fs::write(root.join("cache/CACHEDIR.TAG"), "Signature: none").unwrap();
    check(&caches, &[]);
    host.assert_clean();
}

#[test]
fn each_exclusion_names_its_rule_and_the_nearest_rule_decides() {
    let (_guard, dir) = temp();
    let root = dir.join("w");
    write_files(
        &root,
        &[("sub/x.tmp", b""), ("sub/y.tmp", b""), ("sub/z.tmp", b""), ("sub/.ig", b"\n!y.tmp\n"), ("z.tmp", b""), (".ig", b"z.*\n")],
    );
    fs::write(dir.join("patterns"), "*.tmp\n").unwrap();
    let host = Host::memory();
    let rules = Rules { pattern_files: vec![dir.join("patterns")], ignore_files: vec![".ig".into()], ..Rules::default() };
    let options = with(&host, &[&root], rules.clone());
    assert_eq!(taken(&host, &options, &root), words(".ig sub sub/.ig sub/y.tmp"));
    let (at, file) = (root.display(), dir.join("patterns"));
    let says = |rules: Rules| previewed(&host, &with(&host, &[&root], rules)).unwrap().1;
    assert_eq!(
        says(rules.clone()),
        [
            format!("{at}/z.tmp: {at}/.ig:1: z.*"),
            format!("{at}/sub/x.tmp: {}:1: *.tmp", file.display()),
            format!("{at}/sub/z.tmp: {at}/.ig:1: z.*"),
        ]
    );
    // Ignore files above a source do not count, those of an outer source do.
    let sub = root.join("sub");
    assert_eq!(previewed(&host, &with(&host, &[&sub], rules.clone())).unwrap().1.len(), 2);
    let ignored =
        |sources: &[&Path]| taken(&host, &with(&host, sources, Rules { ignore_files: vec![".ig".into()], ..Rules::default() }), &sub);
    assert_eq!((ignored(&[&sub]), ignored(&[&root, &sub])), (words(".ig x.tmp y.tmp z.tmp"), words(".ig x.tmp y.tmp")));
    // The command line is stronger than ignore files, and these than files of patterns.
    let silent = host.told.lock().unwrap().len();
    host.seal_with(&options).unwrap();
    assert_eq!(told_left_out(&host, silent), [""; 0], "nobody asked");
    assert_eq!(says(Rules { patterns: vec!["y.tmp".into(), "!z.tmp".into()], ..rules })[1], format!("{at}/sub/y.tmp: --exclude y.tmp"));
    for (globs, kind) in [(["a{b"], ErrorKind::Usage), (["[x"], ErrorKind::Usage), (["!"], ErrorKind::Usage)] {
        let rules = Rules { patterns: globs.iter().map(Into::into).collect(), ..Rules::default() };
        assert_eq!(host.seal_with(&with(&host, &[&root], rules)).unwrap_err().kind(), kind, "{globs:?}");
    }
    let rules = Rules { pattern_files: vec![dir.join("none")], ..Rules::default() };
    assert_eq!(host.seal_with(&with(&host, &[&root], rules)).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn an_ignore_file_that_is_no_file_or_too_long_leaves_nothing_out() {
    let (_guard, dir) = temp();
    let root = dir.join("w");
    write_files(
        &root,
        &[("elsewhere", b"*\n"), ("long/.ig", "x\n".repeat(600_000).as_bytes()), ("long/x", b""), ("link/x", b""), ("dir/.ig/x", b"")],
    );
    symlink("../elsewhere", root.join("link/.ig")).unwrap();
    let host = Host::memory();
    let options = with(&host, &[&root], Rules { ignore_files: vec![".ig".into()], ..Rules::default() });
    assert_eq!(taken(&host, &options, &root), words("dir dir/.ig dir/.ig/x elsewhere link link/.ig link/x long long/.ig long/x"));
    let told = format!("{:?}", host.told.lock().unwrap());
    assert!(told.contains("long/.ig: longer than 1 MiB"), "{told}");
}

#[test]
fn what_was_named_is_taken_in_spite_of_every_pattern() {
    let (_guard, dir) = temp();
    let root = dir.join("w");
    write_files(&root, &[("cache/x/file", b""), ("cache/y", b""), ("cache/CACHEDIR.TAG", TAG), ("other", b"")]);
    let host = Host::memory();
    let rules = |globs: &[&str]| Rules { patterns: globs.iter().map(Into::into).collect(), ..Rules::default() };
    let (cache, x, file) = (root.join("cache"), root.join("cache/x"), root.join("cache/x/file"));
    for (sources, rules, expected) in [
        (vec![&root], rules(&["cache"]), "other"),
        (vec![&cache], rules(&["cache"]), "cache cache/CACHEDIR.TAG cache/x cache/x/file cache/y"),
        (vec![&file], rules(&["cache", "file"]), "cache cache/x cache/x/file"),
        (vec![&root, &x], rules(&["cache"]), "cache cache/x cache/x/file other"),
        (vec![&root, &file], rules(&["cache", "file"]), "cache cache/x cache/x/file other"),
        (vec![&root, &cache], rules(&["cache"]), "cache cache/CACHEDIR.TAG cache/x cache/x/file cache/y other"),
        (vec![&root, &x], Rules { caches: true, ..Rules::default() }, "cache cache/CACHEDIR.TAG cache/x cache/x/file other"),
        (vec![&root, &file], Rules { caches: true, ..Rules::default() }, "cache cache/CACHEDIR.TAG cache/x cache/x/file other"),
    ] {
        let sources: Vec<&Path> = sources.into_iter().map(PathBuf::as_path).collect();
        let mut expected = words(expected);
        expected.sort();
        assert_eq!(taken(&host, &with(&host, &sources, rules.clone()), &root), expected, "{sources:?} {rules:?}");
    }
    host.assert_clean();
}

#[test]
fn the_root_directory_can_be_sealed_and_paths_may_be_written_in_any_way() {
    let (_guard, dir) = temp();
    write_files(&dir, &[("w/a", b"a"), ("w/b/c", b"c")]);
    let host = Host::memory();
    // Everything but the way to the test's own directory.
    let mut patterns = vec!["/*".into()];
    for above in dir.join("w").ancestors().collect::<Vec<_>>().into_iter().rev().skip(1) {
        patterns.push(format!("!{}", above.display()).into());
        patterns.push(format!("{}/*", above.display()).into());
    }
    patterns.pop();
    let options = with(&host, &[Path::new("/")], Rules { patterns, ..Rules::default() });
    assert_eq!(taken(&host, &options, &dir), words("w w/a w/b w/b/c"));
    assert_eq!(host.latest().manifest.sources, [b"/"]);
    let dotted = dir.join("w/b/../../w/./b/");
    assert_eq!(taken(&host, &host.options(&[&dotted, &dir.join("w//a")]), &dir), words("w w/a w/b w/b/c"));
}

#[test]
fn links_lead_to_the_source_and_are_kept_and_a_list_means_what_it_says() {
    let (_guard, dir) = temp();
    write_files(&dir, &[("data/www/index", b"x"), ("data/other", b"y")]);
    symlink("data/www", dir.join("www")).unwrap();
    symlink(dir.join("data"), dir.join("current")).unwrap();
    symlink("nowhere", dir.join("dangling")).unwrap();
    let host = Host::memory();
    assert_eq!(taken(&host, &host.options(&[&dir.join("www")]), &dir), words("data data/www data/www/index www"));
    assert_eq!(taken(&host, &host.options(&[&dir.join("current/other")]), &dir), words("current data data/other"));
    let rules = Rules { patterns: vec![dir.join("www/index").into()], ..Rules::default() };
    assert_eq!(taken(&host, &with(&host, &[&dir.join("www")], rules), &dir), words("data data/www www"));
    assert_eq!(host.seal(&[&dir.join("dangling")]).unwrap_err().kind(), ErrorKind::NotFound);

    let list = |names: &[&str]| Options { listed: names.iter().map(|n| dir.join(n)).collect(), ..host.options(&[]) };
    let options = list(&["www", "dangling", "data/other", "none", "none/deeper"]);
    assert_eq!(taken(&host, &options, &dir), words("dangling data data/other www"));
    let report = host.seal_with(&options).unwrap();
    let gone: Vec<_> = report.unreadable.iter().map(|p| PathBuf::from(&p.path)).collect();
    assert_eq!(gone, [dir.join("none"), dir.join("none/deeper")]);
    assert_eq!(host.seal_with(&list(&["none"])).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn other_file_systems_are_left_out_on_request_and_those_of_the_kernel_always() {
    let (_guard, dir) = temp();
    let root = dir.join("w");
    write_files(&root, &[("a", b""), ("mnt/hidden", b""), ("proc/hidden", b"")]);
    let _tmpfs = Attached::new(&["-t", "tmpfs", "none"], &root.join("mnt"));
    write_files(&root, &[("mnt/on/file", b"")]);
    let _proc = Attached::new(&["-t", "proc", "none"], &root.join("proc"));
    let host = Host::memory();
    let stay = || Rules { one_file_system: true, ..Rules::default() };
    for _ in 0..2 {
        assert_eq!(taken(&host, &with(&host, &[&root], stay()), &root), words("a mnt proc"));
        assert_eq!(taken(&host, &with(&host, &[&root], Rules::default()), &root), words("a mnt mnt/on mnt/on/file proc"));
    }
    let (mnt, on) = (root.join("mnt"), root.join("mnt/on"));
    assert_eq!(taken(&host, &with(&host, &[&root, &on], stay()), &root), words("a mnt mnt/on mnt/on/file proc"));
    assert_eq!(taken(&host, &with(&host, &[&mnt], stay()), &root), words("mnt mnt/on mnt/on/file"));
    let wrong = host.seal(&[&root.join("proc/version")]).unwrap_err();
    assert!(wrong.kind() == ErrorKind::Usage && wrong.hint_text().unwrap().contains("--stdin-name"), "{}", wrong.chain());
}

#[test]
fn the_vault_is_not_sealed_through_any_door() {
    let (_guard, dir) = temp();
    let (root, vault) = (dir.join("w"), dir.join("w/vault"));
    write_files(&root, &[("a", b""), ("door/hidden", b""), ("packs/hidden", b""), ("deep/hidden", b"")]);
    let host = Host::create(std::sync::Arc::new(coffre::store::Local::new(&vault)));
    host.seal(&[&root.join("a")]).unwrap();
    let _door = Attached::new(&["--bind", vault.to_str().unwrap()], &root.join("door"));
    let _packs = Attached::new(&["--bind", vault.join("packs").to_str().unwrap()], &root.join("packs"));
    // Deeper than the folders that are told by their inodes.
    let deep = fs::read_dir(vault.join("packs")).unwrap().map(|e| e.unwrap().path()).find(|path| path.is_dir()).unwrap();
    let _deep = Attached::new(&["--bind", deep.to_str().unwrap()], &root.join("deep"));
    symlink(&vault, root.join("link")).unwrap();
    let options = |sources: &[&Path]| Options { never: vec![vault.clone()], ..host.options(sources) };
    assert_eq!(taken(&host, &options(&[&root]), &root), words("a link"));
    let pack = fs::read_dir(vault.join("packs")).unwrap().next().unwrap().unwrap().file_name();
    for inside in ["vault", "vault/packs", "door", "door/VAULT", "link", "packs", "deep"] {
        let e = host.seal_with(&options(&[&root, &root.join(inside)])).unwrap_err();
        assert!(e.kind() == ErrorKind::Usage && e.hint_text().is_some(), "{inside}: {}", e.chain());
    }
    assert!(host.seal_with(&options(&[&root.join("packs").join(&pack)])).is_err());
    let state = host.state.path().to_owned();
    assert_eq!(host.seal_with(&options(&[&state])).unwrap_err().kind(), ErrorKind::Usage);
    assert!(!read_snapshot(&host.reader(), &host.latest()).unwrap().contains_key(vault.as_os_str().as_bytes()));
}

/// Mounts a vault at the first warning, which comes from the walk itself.
struct MountsAtWarning<'a> {
    home: &'a Home,
    point: PathBuf,
    mounted: Mutex<Option<Mounted>>,
    told: Mutex<Vec<Event>>,
}

impl Sink for MountsAtWarning<'_> {
    fn send(&self, event: Event) {
        let mut mounted = self.mounted.lock().unwrap();
        if matches!(event, Event::Warning(_)) && mounted.is_none() {
            *mounted = Some(Mounted::of(self.home, self.home.owner(["mount"]), &self.point));
        }
        self.told.send(event);
    }
}

/// The table of mounts was read once, when the seal began.
#[test]
fn a_vault_that_is_mounted_while_a_seal_runs_is_not_sealed() {
    let home = Home::new();
    home.seal();
    let (_guard, dir) = temp();
    let root = dir.join("w");
    // One thread walks, in order of names: at the long ignore file it warns, and only then comes to `z`.
    write_files(&root, &[("a/.ig", "x\n".repeat(600_000).as_bytes()), ("z/x", b"")]);
    fs::create_dir(root.join("z/mnt")).unwrap();
    let host = Host::memory();
    let sink = MountsAtWarning { home: &home, point: root.join("z/mnt"), mounted: Mutex::default(), told: Mutex::default() };
    let rules = Rules { ignore_files: vec![".ig".into()], ..Rules::default() };
    let options = Options { explain: true, workers: 1, ..with(&host, &[&root], rules) };
    let report = seal::run(&Context { sink: &sink, ..host.context() }, &options).unwrap();
    assert!(sink.mounted.lock().unwrap().is_some() && report.unreadable.is_empty(), "{:?}", report.unreadable);
    let told = sink.told.lock().unwrap();
    let left: Vec<String> = told.iter().filter_map(|event| if let Event::LeftOut(out) = event { Some(shown(out)) } else { None }).collect();
    assert_eq!(left, [format!("{}: never sealed: a mounted vault", sink.point.display())]);
    let tree = read_snapshot(&host.reader(), &host.latest()).unwrap();
    assert!(tree.contains_key(root.join("z/x").as_os_str().as_bytes()) && !tree.contains_key(sink.point.as_os_str().as_bytes()));
}

#[test]
fn labels_are_kept_with_the_snapshot() {
    let (_guard, dir) = temp();
    write_files(&dir, &[("a", b"")]);
    let host = Host::memory();
    let labels: std::collections::BTreeMap<_, _> = [("release".to_owned(), "1.4".to_owned())].into();
    let report = host.seal_with(&Options { labels: labels.clone(), ..host.options(&[&dir]) }).unwrap();
    assert_eq!((report.labels, host.latest().manifest.labels), (labels.clone(), labels));
}
