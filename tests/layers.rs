//! Rooms use only rooms below their own, each foreign crate has one home, `unsafe` lives in `src/sys`, files stay short.
//!
//! Reads the text of `src/`. It does not see through macros; what it sees it judges strictly.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The rooms of `src/`, from the ground up.
const ROOMS: [&str; 11] = ["error", "event", "sys", "format", "store", "pack", "catalog", "vault", "mount", "ops", "cli"];

/// Rooms on the same floor, which do not know each other.
const SIBLINGS: [(&str, &str); 2] = [("sys", "format"), ("pack", "catalog")];

/// Each foreign crate and where it may be named: a folder, or a file.
const HOMES: &[(&str, &[&str])] = &[
    ("age", &["pack/cipher.rs", "vault/callbacks.rs", "vault/owners.rs", "vault/recipients.rs", "vault/keys.rs", "vault/ssh.rs"]),
    ("age_core", &["pack/cipher.rs", "vault/ssh.rs"]),
    ("bech32", &["pack/cipher.rs"]),
    ("blake3", &["format/id.rs"]),
    ("clap", &["cli/"]),
    ("clap_complete", &["cli/"]),
    ("clap_mangen", &["cli/"]),
    ("crossbeam_channel", &["ops/seal/"]),
    ("flate2", &["ops/dump/"]),
    ("fuser", &["mount/"]),
    ("getrandom", &["sys/"]),
    ("indicatif", &["cli/"]),
    ("jiff", &["sys/"]),
    ("libc", &["sys/"]),
    ("minicbor", &["format/"]),
    ("quick_cache", &["pack/"]),
    ("reed_solomon_simd", &["pack/parity.rs"]),
    ("ring", &["pack/cipher.rs", "store/remote/sign.rs"]),
    ("rpassword", &["cli/"]),
    ("rustix", &["sys/"]),
    ("serde_json", &["cli/"]),
    ("signal_hook", &["sys/"]),
    ("similar", &["ops/diff/text.rs"]),
    ("sled", &["catalog/"]),
    ("ssh_key", &["vault/sign.rs"]),
    ("tempfile", &["sys/"]),
    ("ureq", &["store/remote/http.rs"]),
    ("uzers", &["sys/"]),
    ("zstd", &["pack/frame.rs"]),
];

/// Crates that may be named anywhere: derives on reports, and the wiping of secrets where they are.
const ANYWHERE: [&str; 2] = ["serde", "zeroize"];

/// Files outside `sys` that may tell one error number of the system from another. Only the type, nothing that calls.
const ERRNO_FILES: [&str; 3] = ["mount/preflight.rs", "ops/seal/read.rs", "ops/seal/walk.rs"];
const ERRNO: &str = "rustix::io::Errno";

/// Crates that test code inside `src` may use besides.
const IN_TESTS: [&str; 2] = ["tempfile", "proptest"];

const LINES_MAX: usize = 500;

#[test]
fn the_house_keeps_its_rules() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files: Vec<(String, String)> = rust_files(&src)
        .into_iter()
        .map(|file| (file.strip_prefix(&src).unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&file).unwrap()))
        .collect();
    assert!(files.len() > 50, "only {} files found", files.len());
    let broken: Vec<String> = files.iter().flat_map(|(path, text)| check(path, text)).collect();
    assert!(broken.is_empty(), "{} rules broken:\n{}", broken.len(), broken.join("\n"));
    let named: BTreeSet<&str> =
        ERRNO_FILES.into_iter().filter(|f| files.iter().any(|(path, text)| path == f && text.contains(ERRNO))).collect();
    assert_eq!(named.len(), ERRNO_FILES.len(), "an exception that nobody needs: {ERRNO_FILES:?}, used by {named:?}");
}

#[test]
fn the_rooms_are_those_of_lib_rs() {
    let lib = include_str!("../src/lib.rs");
    let declared: BTreeSet<&str> = lib.lines().filter_map(|l| l.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert_eq!(declared, BTreeSet::from(ROOMS));
    assert!(!lib.lines().any(|l| l.starts_with("mod ")), "a room that is not in the list");
}

#[test]
fn every_dependency_has_a_home() {
    let manifest = include_str!("../Cargo.toml");
    let section = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let dependencies: BTreeSet<String> = section
        .lines()
        .filter_map(|l| l.split_once(" = "))
        .filter(|(n, _)| !n.starts_with('#'))
        .map(|(n, _)| n.replace('-', "_"))
        .collect();
    let homes: BTreeSet<String> = HOMES.iter().map(|(name, _)| *name).chain(ANYWHERE).map(str::to_owned).collect();
    assert_eq!(dependencies, homes);
}

/// What a file breaks, one line each. `path` is relative to `src/`.
fn check(path: &str, text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    let mut say = |what: String| broken.push(format!("src/{path}: {what}"));
    let lines = text.lines().count();
    if lines > LINES_MAX {
        say(format!("{lines} lines, more than {LINES_MAX}"));
    }
    let room = path.split('/').next().unwrap().trim_end_matches(".rs");
    let floor = rank(room);
    let code = without_text(text);
    let (code, tests) = split_tests(&code);
    for (code, in_tests) in [(code.as_str(), false), (tests.as_str(), true)] {
        for used in rooms_used(code) {
            match (rank(&used), floor) {
                (None, _) => say(format!("crate::{used} is not a room")),
                (Some(r), Some(floor)) if r > floor => say(format!("{room} uses {used}, which is above it")),
                _ if SIBLINGS.iter().any(|(a, b)| (*a, *b) == (room, used.as_str()) || (*b, *a) == (room, used.as_str())) => {
                    say(format!("{room} uses its sibling {used}"));
                }
                _ => (),
            }
        }
        if code.contains("crate::*") {
            say("a glob of the whole crate".to_owned());
        }
        if code.contains("super::super") {
            say("a path by super::super; name the room".to_owned());
        }
        for (name, homes) in HOMES {
            let paths = paths_of(code, name);
            let at_home = homes.iter().any(|home| path == *home || (home.ends_with('/') && path.starts_with(home)));
            let errno_only = ERRNO_FILES.contains(&path) && paths.iter().all(|p| p.starts_with(ERRNO));
            let allowed = at_home || (in_tests && IN_TESTS.contains(name)) || (*name == "rustix" && errno_only);
            if !paths.is_empty() && !allowed {
                say(format!("names {name} ({}), whose home is {}", paths[0], homes.join(", ")));
            }
        }
        if room != "sys" && words(code).any(|w| w == "unsafe") {
            say("unsafe outside src/sys".to_owned());
        }
    }
    broken
}

fn rank(room: &str) -> Option<usize> {
    ROOMS.iter().position(|r| *r == room)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c| !is_word(c)).filter(|w| !w.is_empty())
}

fn first_word(s: &str) -> String {
    s.trim_start().chars().take_while(|c| is_word(*c)).collect()
}

/// Every name that follows `crate::`, opening one level of `{…}`.
fn rooms_used(code: &str) -> Vec<String> {
    let mut used = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c| is_word(c) || c == '$') {
            continue;
        }
        let rest = code[at + "crate::".len()..].trim_start();
        match rest.strip_prefix('{') {
            Some(group) => used.extend(top_items(group).into_iter().map(first_word)),
            None => used.push(first_word(rest)),
        }
    }
    used.retain(|n| !n.is_empty() && n != "self");
    used.sort();
    used.dedup();
    used
}

/// The items of a group up to its closing brace, split at commas outside inner braces.
fn top_items(group: &str) -> Vec<&str> {
    let (mut items, mut depth, mut start) = (Vec::new(), 0, 0);
    for (i, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                items.push(&group[start..i]);
                start = i + 1;
                if c == '}' {
                    return items;
                }
            }
            _ => (),
        }
    }
    items
}

/// Every path in `code` that starts with the crate `name`: `name::…`, `use name;`, `use {name::…}`, `extern crate name`.
fn paths_of(code: &str, name: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(name) {
        let (before, after) = (&code[..at], &code[at + name.len()..]);
        if before.ends_with(|c| is_word(c) || c == '.' || c == '\'') || after.starts_with(is_word) {
            continue;
        }
        // `x::name::y` is a module of that name, unless it is `::name`, the crate from the root.
        let rooted = before.strip_suffix("::").is_some_and(|b| !b.ends_with(|c| is_word(c) || c == '>'));
        if before.ends_with("::") && !rooted {
            continue;
        }
        let imported = ["use ", "extern crate "].iter().any(|word| before.ends_with(word)) && after.starts_with([';', ' ']);
        if after.starts_with("::") || imported {
            found.push(code[at..].chars().take_while(|c| is_word(*c) || *c == ':').collect());
        }
    }
    found
}

/// `code` without comments, and with empty strings and characters.
fn without_text(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(len) = raw_string_len(rest).filter(|_| !out.ends_with(is_word)) {
            out.push_str("\"\"");
            len
        } else if c == '"' {
            out.push_str("\"\"");
            quoted_len(rest, '"')
        } else if c == '\'' && (rest[1..].starts_with('\\') || rest.chars().nth(2) == Some('\'')) {
            out.push_str("' '");
            quoted_len(rest, '\'')
        } else {
            out.push(c);
            c.len_utf8()
        };
        rest = &rest[skip..];
    }
    out
}

fn quoted_len(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (i, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return i + 1,
            _ => (),
        }
    }
    text.len()
}

/// The length of a raw string that starts here, if one does.
fn raw_string_len(text: &str) -> Option<usize> {
    let body = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    body[hashes..].strip_prefix('"')?;
    let start = text.len() - body.len() + hashes + 1;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(text[start..].find(&end).map_or(text.len(), |at| start + at + end.len()))
}

/// What is compiled into the program, and what is compiled for tests only: the blocks after `#[cfg(test)]`.
fn split_tests(code: &str) -> (String, String) {
    const MARK: &str = "#[cfg(test)]";
    let (mut product, mut tests, mut rest) = (String::new(), String::new(), code);
    while let Some(at) = rest.find(MARK) {
        product.push_str(&rest[..at]);
        let block = &rest[at + MARK.len()..];
        let (mut depth, mut end) = (0, block.len());
        for (i, c) in block.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => (),
            }
            if (c == '}' || c == ';') && depth == 0 {
                end = i + 1;
                break;
            }
        }
        tests.push_str(&block[..end]);
        rest = &block[end..];
    }
    (product + rest, tests)
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
        if entry.is_dir() {
            out.extend(rust_files(&entry));
        } else if entry.extension().is_some_and(|e| e == "rs") {
            out.push(entry);
        }
    }
    out.sort();
    out
}

#[test]
fn the_checker_catches_what_is_forbidden() {
    let cases = [
        ("store/mod.rs", "use crate::{error::Error, cli::run};", "store uses cli"),
        ("store/mod.rs", "use crate::{\n    error::{Error, Result},\n    vault::{Vault, Reader},\n};", "store uses vault"),
        ("mount/fs.rs", "fn f() { crate::ops::seal::run() }", "mount uses ops"),
        ("mount/fs.rs", "use crate::cli::exit;", "mount uses cli"),
        ("error.rs", "use crate::event::Event;", "error uses event"),
        ("sys/clock.rs", "use crate::format::hex;", "sys uses format"),
        ("format/id.rs", "use crate::sys;", "sibling sys"),
        ("catalog/mod.rs", "use crate::pack::Frame;", "sibling pack"),
        ("pack/mod.rs", "use crate::{store::Key, catalog};", "pack uses catalog"),
        ("vault/mod.rs", "use crate::nowhere::X;", "is not a room"),
        ("vault/mod.rs", "use crate::*;", "a glob"),
        ("vault/mod.rs", "use super::super::cli;", "super::super"),
        ("ops/x.rs", "let x = fuser::mount2();", "names fuser"),
        ("ops/x.rs", "use sled;", "names sled"),
        ("ops/x.rs", "use ::zstd::bulk;", "names zstd"),
        ("pack/reader.rs", "use zstd::bulk;", "names zstd"),
        ("vault/read.rs", "let x: Box<dyn age::Identity>;", "names age"),
        ("ops/seal/walk.rs", "use rustix::fs::openat;", "names rustix"),
        ("ops/seal/mod.rs", "use rustix::io::Errno;", "names rustix"),
        ("ops/seal/mod.rs", "let d = tempfile::tempdir();", "names tempfile"),
        ("ops/x.rs", "#[cfg(test)]\nmod tests { fn f() {} }\nfn g() { libc::getpid(); }", "names libc"),
        ("ops/x.rs", "#[cfg(test)]\nmod tests { use crate::cli::exit; }", "ops uses cli"),
        ("vault/mod.rs", "fn f() { unsafe { g() } }", "unsafe outside"),
    ];
    for (path, text, expected) in cases {
        let found = check(path, text);
        assert!(matches!(&found[..], [one] if one.contains(expected)), "{path}: {text}: {found:?}");
    }
    assert!(check("vault/mod.rs", &"// a line\n".repeat(501))[0].contains("501 lines"));
}

#[test]
fn the_checker_lets_pass_what_is_allowed() {
    let cases = [
        ("cli/mod.rs", "use crate::{ops::seal, vault::{self, Vault}, error::Result};"),
        ("ops/x.rs", "// crate::cli is above; unsafe\n/* use crate::cli; */ let s = \"crate::cli unsafe fuser::x\";"),
        (
            "ops/x.rs",
            "let s = r#\"use \"crate::cli\" sled::Db\"#; let c = '\"'; use crate::vault::X; let l: &'static str = b\"\\\"age::\";",
        ),
        ("ops/x.rs", "#[cfg(test)]\nmod tests {\n    use crate::error::Result;\n    fn f() { tempfile::tempdir(); }\n}"),
        ("ops/seal/walk.rs", "Err(rustix::io::Errno::NOENT) => (),"),
        ("pack/cipher.rs", "use age::x25519; use ring::aead; use age_core::format::FileKey;"),
        ("mount/errno.rs", "use fuser::Errno;"),
        ("ops/x.rs", "let storage::age::X = y; let image = ring; self.age::<u8>(); let message = page::x();"),
        ("sys/file.rs", "unsafe { libc::fork() }"),
        ("format/id.rs", "macro_rules! m { () => { $crate::cli } }"),
    ];
    for (path, text) in cases {
        assert_eq!(check(path, text), [] as [String; 0], "{path}: {text}");
    }
    let sorted: BTreeMap<_, _> = HOMES.iter().copied().collect();
    assert_eq!(sorted.len(), HOMES.len(), "a crate is listed twice");
}
