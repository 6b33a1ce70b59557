//! Lists of gitignore patterns: one line becomes one pattern, and the last that fits an entry decides.

pub(in crate::ops) mod glob;

use std::{collections::HashMap, ffi::OsStr, os::unix::ffi::OsStrExt, sync::Arc};

use crate::{
    error::{Error, Result},
    ops::patterns::glob::{Slash, is_special},
};

/// Longest pattern that is looked at, in bytes; a longer one fits no path that a system call takes.
const PATTERN_LEN_MAX: usize = 4096;

/// One pattern.
#[derive(Debug)]
pub struct Pattern {
    /// As it was written, `!` and trailing slash included.
    pub text: Box<[u8]>,
    /// Which line of its file, from 1; 0 if it is from no file.
    pub line: u32,
    /// It brings back what an earlier one left out.
    pub negated: bool,
    dirs_only: bool,
    kind: Kind,
    /// What is matched: without `!`, the slash at the end, and the slash at the start.
    glob: Box<[u8]>,
    /// How many bytes at the start of `glob` have no special meaning.
    literal_len: usize,
}

/// How a pattern is matched.
#[derive(Debug, PartialEq)]
enum Kind {
    /// A name without special characters, at any depth.
    Name,
    /// `*` and an ending without special characters, for a name at any depth.
    Ending,
    /// A glob for a name at any depth.
    NameGlob,
    /// A glob for the path from the base.
    Path,
}

impl Pattern {
    /// Reads a pattern by git's rules; the line's end and comments are already away.
    fn parse(text: &[u8], line: u32) -> Self {
        let text = text.split(|b| *b == 0).next().unwrap_or_default();
        let (negated, rest) = match text.strip_prefix(b"!") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (dirs_only, rest) = match rest.strip_suffix(b"/") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let is_path = rest.contains(&b'/');
        let glob = rest.strip_prefix(b"/").unwrap_or(rest);
        let literal_len = glob.iter().position(|b| is_special(*b)).unwrap_or(glob.len());
        let kind = match glob {
            _ if is_path => Kind::Path,
            _ if literal_len == glob.len() => Kind::Name,
            [b'*', ending @ ..] if !ending.iter().any(|b| is_special(*b)) => Kind::Ending,
            _ => Kind::NameGlob,
        };
        Self { text: text.into(), line, negated, dirs_only, kind, glob: glob.into(), literal_len }
    }

    /// Whether this fits the entry `name` at `path`, the path from the base.
    fn fits(&self, path: &[u8], name: &[u8], is_dir: bool) -> bool {
        if self.dirs_only && !is_dir {
            return false;
        }
        match self.kind {
            Kind::Name => *self.glob == *name,
            Kind::Ending => name.ends_with(&self.glob[1..]),
            Kind::NameGlob => glob::matches(&self.glob, name, Slash::Plain),
            Kind::Path => {
                let (literal, rest) = self.glob.split_at(self.literal_len);
                let Some(path) = path.strip_prefix(literal) else { return false };
                if rest.is_empty() { path.is_empty() } else { glob::matches(rest, path, Slash::Separates) }
            }
        }
    }
}

/// Where patterns come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// An option of the command line.
    Option(&'static str),
    /// A preset, by name.
    Preset(&'static str),
    /// A file that an option named.
    File(Arc<str>),
    /// An ignore file in the directory in which it counts.
    IgnoreFile(Arc<str>),
}

/// Patterns of one origin, in order.
#[derive(Debug)]
pub struct Patterns {
    /// Where they come from.
    pub origin: Origin,
    /// Length of the path of the directory that they are relative to.
    base_len: usize,
    list: Vec<Pattern>,
    /// Plain names, which are most of all patterns: their places in the list, ascending.
    names: HashMap<Box<[u8]>, Vec<usize>>,
    /// The places of all others, ascending.
    others: Vec<usize>,
}

impl Patterns {
    /// No patterns yet, relative to the directory whose path has `base_len` bytes (0: the root).
    pub fn new(origin: Origin, base_len: usize) -> Self {
        Self { origin, base_len, list: Vec::new(), names: HashMap::new(), others: Vec::new() }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Adds the lines of a gitignore file.
    pub fn add_lines(&mut self, bytes: &[u8], rule: Anchoring) {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        for (n, line) in bytes.split(|b| *b == b'\n').enumerate() {
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            self.add(trimmed(line), u32::try_from(n + 1).unwrap_or(u32::MAX), rule);
        }
    }

    /// Adds one pattern. One that is empty or impossibly long fits nothing and is left away.
    pub fn add(&mut self, text: &[u8], line: u32, rule: Anchoring) {
        let meant = match rule {
            Anchoring::Base => None,
            Anchoring::Leading => anywhere(text).or_else(|| through_links(text)),
            Anchoring::Stored => anywhere(text),
        };
        let mut pattern = Pattern::parse(meant.as_deref().unwrap_or(text), line);
        pattern.text = text.into();
        if pattern.glob.is_empty() || pattern.glob.len() > PATTERN_LEN_MAX {
            return;
        }
        let at = self.list.len();
        match pattern.kind {
            Kind::Name => self.names.entry(pattern.glob.clone()).or_default().push(at),
            _ => self.others.push(at),
        }
        self.list.push(pattern);
    }

    /// The last pattern that fits the entry at absolute `path`, whose last part is `name`.
    ///
    /// Cost: a look-up for all plain names together, and a comparison for each other pattern.
    pub fn last_fitting(&self, path: &[u8], name: &[u8], is_dir: bool) -> Option<&Pattern> {
        let below = &path[self.base_len + 1..];
        let fits = |at: &&usize| self.list[**at].fits(below, name, is_dir);
        let by_name = self.names.get(name).and_then(|places| places.iter().rev().find(fits)).copied();
        let after = |at: &&usize| by_name.is_none_or(|found| **at > found);
        let other = self.others.iter().rev().take_while(after).find(fits).copied();
        other.or(by_name).map(|at| &self.list[at])
    }

    /// Fails on a pattern that was typed by a person and can fit nothing.
    pub fn check_typed(text: &[u8]) -> Result<()> {
        let shown = String::from_utf8_lossy(text);
        let wrong = |why: &str| Error::usage(format!("`{shown}` is no pattern: {why}"));
        let glob = text.strip_prefix(b"!").unwrap_or(text);
        let unescaped_brace = glob.iter().enumerate().any(|(i, b)| *b == b'{' && (i == 0 || glob[i - 1] != b'\\'));
        if glob.iter().all(|b| *b == b'/') {
            return Err(wrong("it is empty").hint("to leave nothing out, leave the option out"));
        }
        if [&b"./"[..], b"../"].iter().any(|dots| glob.starts_with(dots)) || glob == b"." || glob == b".." {
            return Err(wrong("it starts at the current directory").hint("write an absolute path, or a name that fits at any depth"));
        }
        if unescaped_brace {
            return Err(wrong("patterns of gitignore know no {a,b}").hint("give one --exclude for each; a brace itself is \\{"));
        }
        match glob::fault(glob) {
            Some(why) => Err(wrong(why).hint("the rules are those of gitignore lines; put quotes around it")),
            None => Ok(()),
        }
    }
}

/// What a pattern with a slash in its middle is relative to.
#[derive(Clone, Copy, PartialEq)]
pub enum Anchoring {
    /// The directory of its file, as in git.
    Base,
    /// Only a leading slash anchors, at the root; others fit at any depth. For patterns that stand in no directory.
    Leading,
    /// The same for paths of a snapshot: links of this machine have no say.
    Stored,
}

/// The pattern that fits at any depth, if `text` is to and would not by itself.
fn anywhere(text: &[u8]) -> Option<Vec<u8>> {
    let (bang, glob) = match text.strip_prefix(b"!") {
        Some(glob) => (&b"!"[..], glob),
        None => (&b""[..], text),
    };
    let inner = glob.strip_suffix(b"/").unwrap_or(glob);
    let anchored = !inner.contains(&b'/') || inner.starts_with(b"/") || inner.starts_with(b"**/");
    (!anchored).then(|| [bang, b"**/", glob].concat())
}

/// The pattern with the real path of the directory that it starts in, if that is reached through links: sources are sealed
/// where they really are, and people write both in the same way.
fn through_links(text: &[u8]) -> Option<Vec<u8>> {
    let glob = text.strip_prefix(b"!").unwrap_or(text);
    let literal = glob.iter().position(|b| is_special(*b)).unwrap_or(glob.len().saturating_sub(1));
    let dir_len = glob[..literal].iter().rposition(|b| *b == b'/').filter(|at| *at > 0 && glob[0] == b'/')?;
    let (dir, rest) = glob.split_at(dir_len);
    let real = std::fs::canonicalize(OsStr::from_bytes(dir)).ok()?;
    let real = real.as_os_str().as_bytes();
    let bang = &text[..text.len() - glob.len()];
    (real != dir && real != b"/" && !real.iter().any(|b| is_special(*b))).then(|| [bang, real, rest].concat())
}

/// A line without its trailing spaces, those that are escaped excepted.
fn trimmed(line: &[u8]) -> &[u8] {
    let (mut at, mut end) = (0, None);
    while at < line.len() {
        match line[at] {
            b' ' => end = end.or(Some(at)),
            b'\\' if at + 1 == line.len() => return line,
            b'\\' => {
                at += 1;
                end = None;
            }
            _ => end = None,
        }
        at += 1;
    }
    &line[..end.unwrap_or(line.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the last fitting pattern says: `-` out, `+` brought back, ` ` nothing.
    fn says(patterns: &Patterns, path: &str) -> char {
        let is_dir = path.ends_with('/');
        let path = path.trim_end_matches('/').as_bytes();
        let name = path.rsplit(|b| *b == b'/').next().unwrap();
        patterns.last_fitting(path, name, is_dir).map_or(' ', |p| if p.negated { '+' } else { '-' })
    }

    #[test]
    fn lines_mean_what_gitignore_says() {
        for (lines, path, says_so) in [
            ("*.log", "/w/a/b/x.log", '-'),
            ("*.log\n!keep.log", "/w/keep.log", '+'),
            ("!keep.log\n*.log", "/w/keep.log", '-'),
            ("build/", "/w/a/build/", '-'),
            ("build/", "/w/a/build", ' '),
            ("/build", "/w/build", '-'),
            ("/build", "/w/a/build", ' '),
            ("a/b", "/w/a/b", '-'),
            ("a/b", "/w/x/a/b", ' '),
            ("**/a/b", "/w/x/a/b", '-'),
            ("a/**", "/w/a/", ' '),
            ("a/**", "/w/a/x", '-'),
            ("a/*", "/w/a/x", '-'),
            ("a/*", "/w/a/x/y", ' '),
            ("# comment\n\\#x\n\\!y", "/w/#x", '-'),
            ("# comment\n\\#x\n\\!y", "/w/!y", '-'),
            ("x   ", "/w/x", '-'),
            ("x\\ ", "/w/x ", '-'),
            ("x\t", "/w/x", ' '),
            ("x\r\ny", "/w/x", '-'),
            ("\u{feff}x", "/w/x", '-'),
            ("{a,b}", "/w/a", ' '),
            ("{a,b}", "/w/{a,b}", '-'),
            ("[", "/w/[", ' '),
            ("/", "/w/x", ' '),
            ("!", "/w/x", ' '),
            ("foo\n!foo\nfoo/", "/w/foo", '+'),
            ("foo\n!foo\nfoo/", "/w/foo/", '-'),
        ] {
            let mut patterns = Patterns::new(Origin::Option("test"), 2);
            patterns.add_lines(lines.as_bytes(), Anchoring::Base);
            assert_eq!(says(&patterns, path), says_so, "{lines:?} {path}");
        }
    }

    #[test]
    fn typed_patterns_fit_at_any_depth_or_at_an_absolute_path() {
        let mut patterns = Patterns::new(Origin::Option("test"), 0);
        for text in ["*.log", "/srv/cache/", "node_modules/.cache", "!keep.log"] {
            Patterns::check_typed(text.as_bytes()).unwrap();
            patterns.add(text.as_bytes(), 0, Anchoring::Leading);
        }
        for (path, says_so) in [
            ("/a/b/x.log", '-'),
            ("/a/keep.log", '+'),
            ("/srv/cache/", '-'),
            ("/srv/cache", ' '),
            ("/home/srv/cache/", ' '),
            ("/w/site/node_modules/.cache/", '-'),
            ("/node_modules/.cache/", '-'),
            ("/w/site/node_modules/", ' '),
        ] {
            assert_eq!(says(&patterns, path), says_so, "{path}");
        }
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::fs::create_dir(real.join("real")).unwrap();
        std::os::unix::fs::symlink("real", real.join("link")).unwrap();
        for text in ["link/x", "link/*.y", "!link/z.y", "link"] {
            let bang = if text.starts_with('!') { "!" } else { "" };
            let text = format!("{bang}{}/{}", real.display(), text.trim_start_matches('!'));
            patterns.add(text.as_bytes(), 0, Anchoring::Leading);
        }
        for (path, says_so) in [("real/x", '-'), ("real/a.y", '-'), ("real/z.y", '+'), ("link", '-'), ("real", ' ')] {
            assert_eq!(says(&patterns, real.join(path).to_str().unwrap()), says_so, "{path}");
        }
        for wrong in ["", "!", "/", "a{b", "*.{log,tmp}", "[a", "x\\", "./build", ".."] {
            assert!(Patterns::check_typed(wrong.as_bytes()).is_err(), "{wrong}");
        }
        Patterns::check_typed(b"a\\{b").unwrap();
    }
}
