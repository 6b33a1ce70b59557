//! Shell patterns as git matches them: a port of the rules of `wildmatch`, over bytes.
//!
//! Written from the behaviour of git's `wildmatch.c` (as documented in gitignore(5)). No crate that we tried keeps to it within
//! a bounded time; which ones, and what they miss, is in `docs/ARCHITECTURE.md`. `tests/select.rs` holds it against the real git.

/// Steps after which a match is given up. Ordinary patterns take a few dozen; only a hostile one comes near.
const STEPS_MAX: u32 = 100_000;

/// Whether slashes in the text are like any other byte.
#[derive(Clone, Copy, PartialEq)]
pub enum Slash {
    /// `*` and `?` match it: for single names, which have none.
    Plain,
    /// Only `**` matches it: for paths.
    Separates,
}

/// Why a part of a pattern does not match, as far as it matters to the star before it.
#[derive(PartialEq)]
enum Match {
    Yes,
    No,
    /// The text is too short for any star to help.
    Never,
    /// Only a star that crosses slashes could help.
    NotInThisPart,
}

/// Whether all of `text` matches `pattern`. A pattern that is malformed matches nothing.
pub fn matches(pattern: &[u8], text: &[u8], slash: Slash) -> bool {
    let mut matcher = Matcher { pattern, text, slash, steps: 0 };
    matcher.run(0, 0) == Match::Yes
}

/// Whether this byte is more than itself in a pattern.
pub fn is_special(byte: u8) -> bool {
    matches!(byte, b'*' | b'?' | b'[' | b'\\')
}

/// What is wrong with a pattern that can match nothing, for the person who typed it.
pub fn fault(pattern: &[u8]) -> Option<&'static str> {
    let mut at = 0;
    while at < pattern.len() {
        match pattern[at] {
            b'\\' if at + 1 == pattern.len() => return Some("it ends with a backslash, which escapes nothing"),
            b'\\' => at += 2,
            b'[' => match Class::end(pattern, at) {
                Some(end) => at = end + 1,
                None => return Some("a `[` has no `]`, or a class in it is unknown; a bracket itself is `\\[`"),
            },
            _ => at += 1,
        }
    }
    None
}

struct Matcher<'a> {
    pattern: &'a [u8],
    text: &'a [u8],
    slash: Slash,
    steps: u32,
}

impl Matcher<'_> {
    fn pattern(&self, at: usize) -> u8 {
        self.pattern.get(at).copied().unwrap_or(0)
    }

    fn run(&mut self, mut p: usize, mut t: usize) -> Match {
        while p < self.pattern.len() {
            self.steps += 1;
            if self.steps > STEPS_MAX {
                return Match::Never;
            }
            let Some(byte) = self.text.get(t).copied().or((self.pattern[p] == b'*').then_some(0)) else { return Match::Never };
            match self.pattern[p] {
                b'?' if self.slash == Slash::Separates && byte == b'/' => return Match::No,
                b'?' => (),
                b'[' => match Class::matches(self.pattern, p, byte) {
                    None => return Match::Never,
                    Some((true, end)) if self.slash == Slash::Plain || byte != b'/' => p = end,
                    Some(_) => return Match::No,
                },
                b'*' => match self.star(&mut p, &mut t) {
                    None => (), // A star between slashes took one name.
                    Some(result) => return result,
                },
                literal => {
                    let literal = if literal == b'\\' {
                        p += 1;
                        self.pattern(p)
                    } else {
                        literal
                    };
                    if byte != literal {
                        return Match::No;
                    }
                }
            }
            p += 1;
            t += 1;
        }
        if t < self.text.len() { Match::No } else { Match::Yes }
    }

    /// At a star. `None`: it took everything up to a slash, and both stand on that slash.
    fn star(&mut self, p: &mut usize, t: &mut usize) -> Option<Match> {
        let start = *p;
        while self.pattern(*p) == b'*' {
            *p += 1;
        }
        let crosses = match self.slash {
            Slash::Plain => true,
            Slash::Separates if *p - start == 1 => false,
            Slash::Separates => {
                let alone_before = start == 0 || self.pattern[start - 1] == b'/';
                let rest = &self.pattern[*p..];
                let alone = alone_before && (rest.is_empty() || rest[0] == b'/' || rest.starts_with(b"\\/"));
                // `a/**/b` matches `a/b` too.
                if alone && rest.first() == Some(&b'/') && self.run(*p + 1, *t) == Match::Yes {
                    return Some(Match::Yes);
                }
                alone
            }
        };
        let slash_ahead = self.text.get(*t..).and_then(|rest| rest.iter().position(|b| *b == b'/'));
        if *p == self.pattern.len() {
            return Some(if crosses || slash_ahead.is_none() { Match::Yes } else { Match::NotInThisPart });
        }
        if !crosses && self.pattern[*p] == b'/' {
            let Some(ahead) = slash_ahead else { return Some(Match::Never) };
            *t += ahead;
            return None;
        }
        while *t < self.text.len() {
            let next = self.pattern[*p];
            if !is_special(next) {
                while *t < self.text.len() && self.text[*t] != next && (crosses || self.text[*t] != b'/') {
                    *t += 1;
                }
                if self.text.get(*t) != Some(&next) {
                    return Some(if crosses { Match::Never } else { Match::NotInThisPart });
                }
            }
            match self.run(*p, *t) {
                Match::No if !crosses && self.text[*t] == b'/' => return Some(Match::NotInThisPart),
                Match::No => (),
                Match::NotInThisPart if crosses => (),
                other => return Some(other),
            }
            *t += 1;
        }
        Some(Match::Never)
    }
}

/// Bracket expressions.
struct Class;

impl Class {
    /// Where the `]` of the class that begins at `start` is; `None` if it is malformed.
    fn end(pattern: &[u8], start: usize) -> Option<usize> {
        Self::matches(pattern, start, 0).map(|(_, end)| end)
    }

    /// Whether `byte` is in the class that begins at `start`, and where its `]` is.
    fn matches(pattern: &[u8], start: usize, byte: u8) -> Option<(bool, usize)> {
        let at = |i: usize| pattern.get(i).copied();
        let mut p = start + 1;
        let negated = matches!(at(p)?, b'!' | b'^');
        p += usize::from(negated);
        let (mut found, mut before) = (false, None);
        loop {
            let mut this = Some(at(p)?);
            match at(p)? {
                b'\\' => {
                    p += 1;
                    this = Some(at(p)?);
                    found |= this == Some(byte);
                }
                b'-' if before.is_some() && at(p + 1).is_some_and(|b| b != b']') => {
                    p += 1;
                    if at(p)? == b'\\' {
                        p += 1;
                    }
                    found |= before.is_some_and(|from| from <= byte) && byte <= at(p)?;
                    this = None;
                }
                b'[' if at(p + 1) == Some(b':') => {
                    let name = p + 2;
                    let end = name + pattern[name..].iter().position(|b| *b == b']')?;
                    if end > name && pattern[end - 1] == b':' {
                        found |= Self::named(&pattern[name..end - 1], byte)?;
                        p = end;
                        this = None;
                    } else {
                        found |= byte == b'[';
                    }
                }
                literal => found |= literal == byte,
            }
            before = this;
            p += 1;
            if at(p)? == b']' {
                return Some((found != negated, p));
            }
        }
    }

    /// Whether `byte` is in the POSIX class of this name, in the C locale.
    fn named(name: &[u8], byte: u8) -> Option<bool> {
        Some(match name {
            b"alnum" => byte.is_ascii_alphanumeric(),
            b"alpha" => byte.is_ascii_alphabetic(),
            b"blank" => matches!(byte, b' ' | b'\t'),
            b"cntrl" => byte.is_ascii_control(),
            b"digit" => byte.is_ascii_digit(),
            b"graph" => byte.is_ascii_graphic(),
            b"lower" => byte.is_ascii_lowercase(),
            b"print" => byte.is_ascii_graphic() || byte == b' ',
            b"punct" => byte.is_ascii_punctuation(),
            b"space" => byte.is_ascii_whitespace() || byte == 0x0b,
            b"upper" => byte.is_ascii_uppercase(),
            b"xdigit" => byte.is_ascii_hexdigit(),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_git_does() {
        for (pattern, text, yes) in [
            ("foo", "foo", true),
            ("foo", "fooo", false),
            ("f?o", "foo", true),
            ("*", "a/b", false),
            ("**", "a/b", true),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a/**", "a/x/y", true),
            ("a/**", "a", false),
            ("**/b", "b", true),
            ("a**b", "a/b", false),
            ("a**b", "axxb", true),
            ("*/b", "x/b", true),
            ("*/b", "x/y/b", false),
            ("*x*y/z", "axby/z", true),
            ("a/*/c", "a/b/c", true),
            ("a?b", "a/b", false),
            ("[a-c]", "b", true),
            ("[!a-c]", "b", false),
            ("[^a-c]", "d", true),
            ("[!a]", "/", false),
            ("[]]", "]", true),
            ("[]-]", "-", true),
            ("[a-]", "-", true),
            ("[\\]]", "]", true),
            ("[[:digit:]x]", "7", true),
            ("[[:digit:]x]", "y", false),
            ("[[:nonsense:]]", "n", false),
            ("[[:x]", ":", true),
            ("[ab[:x]", "x", true),
            ("[ab[:x]", "y", false),
            ("[a[:]b", "[b", true),
            ("[abc", "[abc", false),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a\\", "a\\", false),
            ("{a,b}", "a", false),
            ("{a,b}", "{a,b}", true),
            ("\u{e9}*", "\u{e9}t\u{e9}", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes(), Slash::Separates), yes, "{pattern} {text}");
        }
        assert!(matches(b"a*\xff", b"ab\xff", Slash::Plain));
    }

    #[test]
    fn a_hostile_pattern_ends() {
        let pattern = "**/a/".repeat(60) + "b";
        let text = "a/".repeat(300);
        assert!(!matches(pattern.as_bytes(), text.as_bytes(), Slash::Separates));
        assert!(!matches("*a".repeat(100).as_bytes(), "a".repeat(99).as_bytes(), Slash::Plain));
    }

    #[test]
    fn faults_are_named() {
        for (pattern, wrong) in [("a\\", true), ("[ab", true), ("[[:nope:]]", true), ("[]", true), ("[ab]", false), ("\\[ab", false)] {
            assert_eq!(fault(pattern.as_bytes()).is_some(), wrong, "{pattern}");
        }
    }
}
