//! A part of a snapshot: patterns.

use std::{fs, path::Path};

use super::restore;
use crate::common::{bin::Home, tree};

/// All paths below a directory, sorted.
fn listing(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut stack = vec![dir.to_owned()];
    while let Some(at) = stack.pop() {
        for entry in fs::read_dir(at).unwrap().map(|e| e.unwrap()) {
            found.push(entry.path().strip_prefix(dir).unwrap().to_str().unwrap().to_owned());
            if entry.file_type().unwrap().is_dir() {
                stack.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn patterns_choose_what_is_restored() {
    let home = Home::new();
    for path in ["a/x.conf", "a/x.log", "a/deep/er/y.conf", "b/keep.log", "b/c/d", "empty-handed/x.txt"] {
        tree::write(home.source().join(path), path);
    }
    home.seal();
    for (n, (args, expected)) in [
        (&["--include", "*.conf"][..], &["a", "a/deep", "a/deep/er", "a/deep/er/y.conf", "a/x.conf"][..]),
        (&["--include", "b", "--exclude", "*.log"], &["b", "b/c", "b/c/d"]),
        (
            &["--exclude", "*.log", "--exclude", "!keep.log", "--exclude", "deep", "--exclude", "empty-handed"],
            &["a", "a/x.conf", "b", "b/c", "b/c/d", "b/keep.log"],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let to = home.path(format!("chosen-{n}"));
        restore(&home, &to, args).ok();
        assert_eq!(listing(&to), expected, "{args:?}");
    }
    // Who mistypes a pattern must not believe that something came back.
    let to = home.path("nothing");
    restore(&home, &to, &["--include", "nothing-like-it"]).run().exits(1).says("fits the patterns");
    assert_eq!(listing(&to), [""; 0]);
    restore(&home, &to, &["--exclude", "*"]).run().exits(1).says("fits the patterns");
    home.owner(["dump", "latest", "--include", "nothing-like-it"]).run().exits(1).says("fits the patterns");
    let done = restore(&home, &home.path("wrong"), &["--include", "a{b,c}"]).run().exits(2);
    assert!(done.err.contains("is no pattern"), "{}", done.err);
}
