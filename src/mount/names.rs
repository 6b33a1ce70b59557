//! Names that the mount makes up: of hosts, tags, versions.

use std::collections::HashMap;

use crate::vault::{Past, Timeline, Version};

/// The versions of a directory stand in a directory of this name in it.
pub const VERSIONS: &[u8] = b"@versions";
/// Longest name that file systems and programs take.
const NAME_LEN_MAX: usize = 255;
/// Bytes of a host's name that stand in the name of a version.
const HOST_LEN_MAX: usize = 64;

/// A host's or tag's name as a file name: itself, or with `%` and two digits for what cannot or should not stand in one. No two
/// names are shown alike, but long ones, which end in `%~` and a hash of the whole.
pub fn safe(text: &str) -> String {
    let mut name = String::new();
    for (n, c) in text.char_indices() {
        let dots = matches!(text, "." | "..") && n == 0;
        match c {
            '/' | '%' => name.push_str(&format!("%{:02X}", c as u32)),
            '.' if dots => name.push_str("%2E"),
            '\0'..'\x20' | '\x7f' => name.push_str(&format!("%{:02X}", c as u32)),
            c => name.push(c),
        }
    }
    if text.is_empty() {
        name.push('%');
    }
    if name.len() > NAME_LEN_MAX {
        let hash = crate::format::digest(text.as_bytes()).to_string();
        name.truncate(name.floor_char_boundary(NAME_LEN_MAX - 18));
        name.push_str("%~");
        name.push_str(&hash[..16]);
    }
    name
}

/// How a name is shown in `history/`: [`VERSIONS`], and itself with signs at its end, each with one more. `None` if that is too long.
pub fn escaped(name: &[u8]) -> Option<Vec<u8>> {
    let mut shown = name.to_vec();
    if name.strip_prefix(VERSIONS).is_some_and(|rest| rest.iter().all(|b| *b == b'@')) {
        shown.push(b'@');
    }
    (shown.len() <= NAME_LEN_MAX).then_some(shown)
}

/// The name that is shown as `shown`; `None` if none is.
pub fn unescaped(shown: &[u8]) -> Option<&[u8]> {
    match shown.strip_prefix(VERSIONS) {
        Some([]) => None,
        Some(rest) if rest.iter().all(|b| *b == b'@') => Some(&shown[..shown.len() - 1]),
        _ => Some(shown),
    }
}

/// The names of the versions of a path that ends in `name`, in their order: `2025-11-08T02-00-00Z.app.py`; with `@HOST` after the
/// time if several hosts have the path, and `~2`, `~3` after that for the next ones of the same second.
pub fn of_versions(line: &Timeline, past: &Past, name: &[u8]) -> Vec<Vec<u8>> {
    let several = past.hosts() > 1;
    let stem = |v: &Version| {
        let time = crate::sys::utc_name(line.snapshot(v.first).manifest.time_ns);
        if !several {
            return time;
        }
        let mut host = safe(line.host(v.host));
        host.truncate(host.floor_char_boundary(HOST_LEN_MAX));
        format!("{time}@{host}")
    };
    // How many there are of each time.
    let mut times: HashMap<String, usize> = HashMap::new();
    let mut names = Vec::with_capacity(past.versions.len());
    for version in &past.versions {
        let stem = stem(version);
        let nth = times.entry(stem.clone()).and_modify(|n| *n += 1).or_insert(1);
        let mut shown = if *nth > 1 { format!("{stem}~{nth}.") } else { format!("{stem}.") }.into_bytes();
        shown.extend_from_slice(name);
        cut(&mut shown);
        names.push(shown);
    }
    names
}

/// Shortens a name to what is allowed, not within a character.
fn cut(name: &mut Vec<u8>) {
    if name.len() > NAME_LEN_MAX {
        let mut end = NAME_LEN_MAX;
        while end > NAME_LEN_MAX - 4 && name[end] & 0xc0 == 0x80 {
            end -= 1;
        }
        name.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_host_or_tag_has_a_safe_name_of_its_own() {
        let long = "x".repeat(300);
        let other = format!("{}y", &long[..299]);
        let slashes = "/".repeat(200);
        let texts = ["web1", "", ".", "..", "...", "a/b", "a%2Fb", "a\0b", "%", "%2E", "é\n", ".hidden", &long, &other, &slashes];
        let names: Vec<String> = texts.iter().map(|t| safe(t)).collect();
        assert_eq!(names[..12], ["web1", "%", "%2E", "%2E.", "...", "a%2Fb", "a%252Fb", "a%00b", "%25", "%252E", "é%0A", ".hidden"]);
        let distinct: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
        for name in &names {
            assert!((1..=255).contains(&name.len()) && !name.contains(['/', '\0']) && name != "." && name != "..", "{name}");
        }
    }

    #[test]
    fn names_that_look_like_the_reserved_one_come_back() {
        for name in [&b"@versions"[..], b"@versions@", b"@versions@@", b"@version", b"@versions.txt", b"a\xff", b"@"] {
            let shown = escaped(name).unwrap();
            assert_ne!(shown, VERSIONS);
            assert_eq!(unescaped(&shown), Some(name));
        }
        assert_eq!(unescaped(VERSIONS), None);
        assert_eq!(escaped(&[VERSIONS, &[b'@'; 246]].concat()), None);
    }
}
