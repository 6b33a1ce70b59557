//! What a search looks for. Pure.

use crate::{
    error::{Error, Result},
    format::Entry,
    ops::{
        patterns::glob::{self, Slash},
        row::Type,
    },
};

/// What an entry must be. Everything that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pattern: Vec<u8>,
    /// The pattern has a slash, so it is for whole paths.
    whole_path: bool,
    ignore_case: bool,
    /// What names must match, if that can be told by itself.
    last_part: Option<Vec<u8>>,
    /// Of one of these types.
    pub types: Vec<Type>,
    /// At least so many bytes.
    pub size_min: Option<u64>,
    /// At most so many bytes.
    pub size_max: Option<u64>,
    /// Modified at this moment or later.
    pub since_ns: Option<i128>,
    /// Modified at this moment or before.
    pub until_ns: Option<i128>,
    /// With this owner: a number or a name.
    pub owner: Option<String>,
}

impl Wanted {
    /// Looks for names that match `pattern`; for whole paths if it has a slash, where only `**` crosses slashes.
    ///
    /// # Errors
    /// `Usage` if nothing can match it.
    pub fn new(pattern: &[u8], ignore_case: bool) -> Result<Self> {
        if let Some(fault) = glob::fault(pattern) {
            return Err(Error::usage(format!("the pattern `{}` matches nothing: {fault}", String::from_utf8_lossy(pattern)))
                .hint("`*` stands for anything, `?` for one character, `[abc]` for one of these"));
        }
        let whole_path = pattern.contains(&b'/');
        let anchored = whole_path && !pattern.starts_with(b"/") && !pattern.starts_with(b"**/");
        let mut pattern = if anchored { [b"**/", pattern].concat() } else { pattern.to_vec() };
        if ignore_case {
            pattern.make_ascii_lowercase();
        }
        let last_part = match pattern.iter().rposition(|b| *b == b'/') {
            None => Some(pattern.clone()),
            // Two stars, or a slash in brackets, may reach across slashes.
            Some(_) if pattern.contains(&b'[') => None,
            Some(at) => Some(pattern[at + 1..].to_vec()).filter(|last| !last.windows(2).any(|stars| stars == b"**")),
        };
        Ok(Self { pattern, whole_path, ignore_case, last_part, ..Self::default() })
    }

    /// Whether an entry of this name can be wanted, wherever it stands.
    pub fn may_be_named(&self, name: &[u8]) -> bool {
        match &self.last_part {
            // What a name has to match is all there is, or what follows the last slash.
            Some(last) => match self.ignore_case {
                true => glob::matches(last, &name.to_ascii_lowercase(), Slash::Plain),
                false => glob::matches(last, name, Slash::Plain),
            },
            None => true,
        }
    }

    /// Whether `entry`, which stands in the directory `above` (`` or `/a/b`), is wanted.
    pub fn is(&self, above: &[u8], entry: &Entry) -> bool {
        let within = |value: i128, min: Option<i128>, max: Option<i128>| min.is_none_or(|m| value >= m) && max.is_none_or(|m| value <= m);
        let size = || within(entry.size().into(), self.size_min.map(i128::from), self.size_max.map(i128::from));
        let owner = |wanted: &String| wanted.parse() == Ok(entry.uid) || entry.user.as_deref() == Some(wanted.as_bytes());
        (self.types.is_empty() || self.types.contains(&Type::of(entry)))
            && ((self.size_min.is_none() && self.size_max.is_none()) || (!entry.is_dir() && size()))
            && within(entry.mtime_ns, self.since_ns, self.until_ns)
            && self.owner.as_ref().is_none_or(owner)
            && self.is_named(above, &entry.name)
    }

    fn is_named(&self, above: &[u8], name: &[u8]) -> bool {
        let text = match self.whole_path {
            // A pattern that begins with `**/` is for what follows any slash, the first one among them.
            true => [above, b"/", name].concat(),
            false => name.to_vec(),
        };
        let text = if self.ignore_case { text.to_ascii_lowercase() } else { text };
        match self.whole_path {
            true => glob::matches(&self.pattern, &text, Slash::Separates) || glob::matches(&self.pattern, &text[1..], Slash::Separates),
            false => glob::matches(&self.pattern, &text, Slash::Plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Content, Data};

    fn entry(name: &str, size: u64) -> Entry {
        Entry {
            name: name.as_bytes().into(),
            mode: 0o100_644,
            uid: 33,
            gid: 33,
            mtime_ns: 50,
            ctime_ns: 0,
            source_inode: 0,
            hard_link: None,
            xattrs: Vec::new(),
            user: Some(b"www-data"[..].into()),
            group: None,
            content: Content::File { size, data: Data::Inline(Box::default()), holes: Vec::new() },
        }
    }

    #[test]
    fn names_and_paths_are_matched() {
        let cases = [
            ("*.conf", "/etc/nginx", "nginx.conf", true),
            ("*.conf", "/etc/nginx.conf", "x", false),
            ("nginx/*.conf", "/etc/nginx", "nginx.conf", true),
            ("nginx/*.conf", "/etc/nginx/sites", "a.conf", false),
            ("nginx/**/*.conf", "/etc/nginx/sites", "a.conf", true),
            ("/etc/*.conf", "/etc", "a.conf", true),
            ("/etc/*.conf", "/home/etc", "a.conf", false),
            ("/etc", "", "etc", true),
            ("etc/x", "/etc", "x", true),
            ("NGINX.conf", "/etc", "nginx.conf", false),
            ("/etc/**", "/etc/a", "b", true),
            ("etc/[x/]y", "/etc", "xy", true),
            ("etc/[x/]y", "/etc/x", "y", false),
            ("etc\\/x*", "/etc", "x1", true),
        ];
        for (pattern, above, name, expected) in cases {
            let wanted = Wanted::new(pattern.as_bytes(), false).unwrap();
            assert_eq!(wanted.is(above.as_bytes(), &entry(name, 1)), expected, "{pattern} {above}/{name}");
            assert!(wanted.may_be_named(name.as_bytes()) || !expected, "{pattern} {above}/{name}");
        }
        for pattern in [&b"NGINX.*"[..], b"/*.CONF"] {
            let wanted = Wanted::new(pattern, true).unwrap();
            assert!(wanted.is(b"", &entry("nginx.CONF", 1)) && wanted.may_be_named(b"nginx.CONF"));
        }
        let html = Wanted::new(b"site/*.html", false).unwrap();
        assert!(html.may_be_named(b"a.html") && !html.may_be_named(b"a.txt"));
        assert!(Wanted::new(b"[a", false).is_err());
    }

    #[test]
    fn all_that_is_asked_for_must_hold() {
        let holds = |change: &dyn Fn(&mut Wanted)| {
            let mut wanted = Wanted::new(b"*", false).unwrap();
            change(&mut wanted);
            wanted.is(b"", &entry("x", 100))
        };
        assert!(holds(&|_| ()));
        assert!(holds(&|w| w.types = vec![Type::Dir, Type::File]) && !holds(&|w| w.types = vec![Type::Dir]));
        assert!(holds(&|w| w.size_min = Some(100)) && !holds(&|w| w.size_min = Some(101)));
        assert!(holds(&|w| w.size_max = Some(100)) && !holds(&|w| w.size_max = Some(99)));
        assert!(holds(&|w| w.since_ns = Some(50)) && !holds(&|w| w.since_ns = Some(51)));
        assert!(holds(&|w| w.until_ns = Some(50)) && !holds(&|w| w.until_ns = Some(49)));
        assert!(holds(&|w| w.owner = Some("33".into())) && holds(&|w| w.owner = Some("www-data".into())));
        assert!(!holds(&|w| w.owner = Some("root".into())) && !holds(&|w| (w.types, w.size_min) = (vec![Type::File], Some(500))));
    }
}
