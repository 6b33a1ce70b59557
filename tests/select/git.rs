//! Ignore files against the real git: random trees, random patterns, the same files taken.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use coffre::ops::seal::Rules;

use crate::{
    common::{
        bin::tool,
        library::{Host, noise, temp},
    },
    previewed, with,
};

/// Numbers from a seed.
struct Dice(Vec<u8>, usize);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.1 += 2;
        usize::from(u16::from_le_bytes([self.0[self.1 - 2], self.0[self.1 - 1]])) % n
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len())]
    }
}

const NAMES: [&str; 18] =
    ["a", "b", "ab", "foo", "build", "a.log", "b.log", "x.tmp", "c d", "x ", "#h", "!n", "[q]", "\u{e9}", "a\\b", "{a,b}", "-", "foobar"];
const TOKENS: [&str; 34] = [
    "a",
    "b",
    "ab",
    "foo",
    "build",
    ".log",
    "*",
    "*",
    "*",
    "**",
    "**",
    "/",
    "/",
    "/",
    "/",
    "?",
    "[ab]",
    "[!a]",
    "[^a-f]",
    "[[:alpha:]]",
    "[ab[:x]",
    "[[:al",
    ":]",
    "-",
    "[",
    "]",
    "\\",
    "\\*",
    " ",
    "\\ ",
    "#",
    "{a,b}",
    "x",
    "\u{e9}",
];

fn tree(dice: &mut Dice, dir: &Path, depth: usize) {
    for _ in 0..2 + dice.below(5) {
        let path = dir.join(dice.of(&NAMES));
        if path.exists() {
            continue;
        }
        if depth < 4 && dice.below(2) == 0 {
            fs::create_dir(&path).unwrap();
            tree(dice, &path, depth + 1);
        } else {
            fs::write(&path, "").unwrap();
        }
    }
    if depth == 0 || dice.below(4) == 0 {
        let lines: Vec<String> = (0..1 + dice.below(6)).map(|_| line(dice)).collect();
        fs::write(dir.join(".gitignore"), lines.join(dice.of(&["\n", "\n", "\n", "\r\n"]))).unwrap();
    }
}

fn line(dice: &mut Dice) -> String {
    let mut line = String::from(dice.of(&["", "", "", "", "!", "/", "**/", "#"]));
    match dice.below(3) {
        0 => line.push_str(dice.of(&NAMES)),
        1 => line.push_str(&format!("{}/{}", dice.of(&NAMES), dice.of(&NAMES))),
        _ => (0..1 + dice.below(5)).for_each(|_| line.push_str(dice.of(&TOKENS))),
    }
    line + dice.of(&["", "", "", "/", "/*", "/**", " ", "  "])
}

/// The files that git would take, that is, those that are neither ignored nor in a directory that is.
fn by_git(dir: &Path, root: &Path) -> BTreeSet<String> {
    let git = dir.join("git");
    let run = |args: &[&str]| {
        let mut command = tool("git");
        command.args(["-c", "core.excludesFile=/dev/null", "-c", "core.quotePath=false"]).arg(format!("--git-dir={}", git.display()));
        let output = command.arg(format!("--work-tree={}", root.display())).args(args).current_dir(root).output();
        let output = output.expect("git is needed by this test; apt-get install git");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    if !git.exists() {
        run(&["init", "-q"]);
    }
    let listed = run(&["ls-files", "-z", "--others", "--exclude-per-directory=.gitignore"]);
    let names = listed.split(|b| *b == 0).filter(|name| !name.is_empty());
    names.map(|name| root.join(OsStr::from_bytes(name)).to_string_lossy().into_owned()).collect()
}

#[test]
fn ignore_files_mean_what_they_mean_to_git() {
    let (_guard, dir) = temp();
    let root: PathBuf = dir.join("w");
    let host = Host::memory();
    let options = with(&host, &[&root], Rules { ignore_files: vec![".gitignore".into()], ..Rules::default() });
    let first: u64 = std::env::var("COFFRE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let (mut all, mut kept) = (0, 0);
    for seed in first..first + 300 {
        let mut dice = Dice(noise(40_000, seed), 0);
        fs::create_dir(&root).unwrap();
        tree(&mut dice, &root, 0);
        let (taken, left) = previewed(&host, &options).unwrap();
        let files: BTreeSet<String> = taken.into_iter().filter(|path| fs::symlink_metadata(path).unwrap().is_file()).collect();
        let expected = by_git(&dir, &root);
        let differ: Vec<&String> = files.symmetric_difference(&expected).collect();
        let rules = || crate::common::bin::shell(&root, "find . -name .gitignore -exec tail -n +1 {} +");
        assert!(differ.is_empty(), "COFFRE_SEED={seed}: these differ: {differ:#?}\nleft out: {left:#?}\n{}", rules());
        all += left.len();
        kept += files.len();
        fs::remove_dir_all(&root).unwrap();
    }
    assert!(all > 300 && kept > 300, "the rules leave out {all} and keep {kept}: too one-sided to tell anything");
}
