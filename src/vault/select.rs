//! SNAP: how people name a snapshot.

use std::{borrow::Borrow, collections::BTreeSet};

use crate::{
    error::{Error, Result},
    format::{SnapshotId, SnapshotKey, is_name},
    sys,
    vault::Snapshot,
};

/// A snapshot as it was typed: `[HOST@]` then `latest`, `latest~N`, an id prefix, the name of its directory in a mount, or a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector {
    host: Option<String>,
    which: Which,
    typed: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Which {
    /// So many before the newest.
    Back(usize),
    /// Id starts with this.
    Id(String),
    /// The newest at or before this moment.
    At(i128),
    /// The one at this place: `host1/41`, as lists show it.
    Place(SnapshotKey),
    /// Either: `20251108` is a day, and could be an id. The id wins if there is one.
    IdOrAt(String, i128),
}

/// Shortest id prefix, in digits.
const PREFIX_MIN: usize = 4;
/// Snapshots named in an error, at most.
const NAMED_MAX: usize = 5;

impl Selector {
    /// Reads `text`.
    pub fn parse(text: &str, now_ns: i128) -> Result<Self> {
        let (host, rest) = match text.split_once('@') {
            Some((host, rest)) if !host.is_empty() => (Some(host.to_owned()), rest),
            _ => (None, text),
        };
        // Ids are written in small letters; a person may paste others.
        let id = in_mount(rest).unwrap_or(rest).to_ascii_lowercase();
        let is_hex = !id.is_empty() && id.bytes().all(|b| b.is_ascii_hexdigit());
        if let Some(place) = place(rest) {
            return Ok(Self { host, which: Which::Place(place), typed: text.to_owned() });
        }
        let is_id = (PREFIX_MIN..=64).contains(&id.len()) && is_hex;
        let which = match (rest.strip_prefix("latest"), sys::parse_moment(rest, now_ns)) {
            (Some(""), _) => Which::Back(0),
            (Some(back), _) => Which::Back(back.strip_prefix('~').and_then(|n| n.parse().ok()).ok_or_else(|| unknown(text, rest))?),
            (None, Some(at)) if is_id => Which::IdOrAt(id, at),
            (None, Some(at)) => Which::At(at),
            (None, None) if is_id => Which::Id(id),
            (None, None) if is_hex && id.len() < PREFIX_MIN => {
                return Err(Error::usage(format!("`{text}` is too short for an id")).hint("give at least 4 digits of it"));
            }
            (None, None) => return Err(unknown(text, rest)),
        };
        Ok(Self { host, which, typed: text.to_owned() })
    }

    /// Whether it says what is wanted by time alone, of whatever host.
    pub fn is_of_any_host(&self) -> bool {
        self.host.is_none() && matches!(self.which, Which::Back(_) | Which::At(_))
    }

    /// Whether it means this snapshot by its place or its id, whatever else there is. For snapshots that are not listed any more.
    pub fn names(&self, key: &SnapshotKey, id: &SnapshotId) -> bool {
        let of_host = self.host.as_ref().is_none_or(|host| *host == key.sealer);
        let named = match &self.which {
            Which::Place(place) => place == key,
            Which::Id(prefix) | Which::IdOrAt(prefix, _) => id.to_string().starts_with(prefix),
            Which::Back(_) | Which::At(_) => false,
        };
        of_host && named
    }
}

/// A sealer and a number: `host1/41`.
fn place(text: &str) -> Option<SnapshotKey> {
    let (sealer, seq) = text.split_once('/').filter(|(sealer, seq)| is_name(sealer) && seq.bytes().all(|b| b.is_ascii_digit()))?;
    Some(SnapshotKey { sealer: sealer.to_owned(), seq: seq.parse().ok()? })
}

/// The digits of the id in the name of a snapshot's directory in a mount: `2025-11-08T02-00-00Z-1a2b3c4d`.
fn in_mount(text: &str) -> Option<&str> {
    let (time, id) = text.rsplit_once('-')?;
    (time.len() == "2025-11-08T02-00-00Z".len() && time.ends_with('Z') && id.len() == 8).then_some(id)
}

fn unknown(text: &str, rest: &str) -> Error {
    let error = Error::usage(format!("`{text}` names no snapshot"));
    let forms = "use `latest`, `latest~2`, the first digits of an id, `2025-11-08`, `2025-11-08T03:00`, `yesterday`, `3 days ago`, or any of these after `HOST@`";
    match nearest(rest, ["latest", "yesterday", "today", "now"].into_iter()) {
        Some(word) => error.hint(format!("did you mean `{}{word}`? Or {forms}", &text[..text.len() - rest.len()])),
        None => error.hint(forms),
    }
}

/// The word among `known` that `typed` is most like; `None` if it is like none.
pub fn nearest<'a>(typed: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let far = typed.chars().count() / 3 + 1;
    known.map(|word| (distance(typed, word), word)).filter(|(d, _)| *d <= far).min_by_key(|(d, _)| *d).map(|(_, word)| word)
}

/// How many letters must be changed, added, taken away, or swapped with their neighbours, to get from one word to the other. Long words are
/// as far as they are long.
fn distance(a: &str, b: &str) -> usize {
    const LEN_MAX: usize = 128;
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().max(b.len()) > LEN_MAX {
        return a.len().max(b.len());
    }
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let same = usize::from(a[i - 1] != b[j - 1]);
            let mut least = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + same);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// A snapshot in an error: `1a2b3c4d (2025-11-08 02:00:00 UTC, web1)`.
fn shown(snapshot: &Snapshot) -> String {
    format!("{} ({}, {})", snapshot.id.short(), sys::utc_text(snapshot.manifest.time_ns), snapshot.manifest.host)
}

/// The first few of many, for an error.
fn listed(all: &[String]) -> String {
    let more = all.len().saturating_sub(NAMED_MAX);
    let text = all[..all.len() - more].join(", ");
    if more > 0 { format!("{text} and {more} more") } else { text }
}

/// Finds the snapshot that `selector` means among `snapshots`, which are in order of time.
///
/// # Errors
/// `Usage` if several ids start as typed, with what they are; `NotFound` if none does, or no snapshot is that old, with what is near.
pub fn select<'a, S: Borrow<Snapshot>>(snapshots: &'a [S], selector: &Selector) -> Result<&'a S> {
    let of = |s: &'a S| -> &'a Snapshot { s.borrow() };
    let mine: Vec<&'a S> =
        snapshots.iter().filter(|s| selector.host.as_ref().is_none_or(|h| of(s).manifest.host == *h || of(s).key.sealer == *h)).collect();
    let none = |why: String| Error::not_found(format!("no snapshot `{}`: {why}", selector.typed));
    let see = "coffre snapshots lists what there is";
    if mine.is_empty() {
        let Some(host) = &selector.host else { return Err(none("the vault has none".to_owned()).hint("add one: coffre seal PATH")) };
        let hosts: BTreeSet<&str> = snapshots.iter().map(|s| &*of(s).manifest.host).collect();
        let hint = match nearest(host, hosts.iter().copied()) {
            Some(near) => format!("did you mean `{near}@`?"),
            None if hosts.is_empty() => "the vault has no snapshot yet".to_owned(),
            None => format!("hosts are {}", listed(&hosts.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>())),
        };
        return Err(none(format!("host {host} has none")).hint(hint));
    }
    let by_id = |prefix: &str| -> Result<Option<&'a S>> {
        let fitting: Vec<&'a S> = mine.iter().filter(|s| of(s).id.to_string().starts_with(prefix)).copied().collect();
        match fitting[..] {
            [] => Ok(None),
            [one] => Ok(Some(one)),
            _ => {
                let all: Vec<String> = fitting.iter().map(|s| shown(of(s))).collect();
                Err(Error::usage(format!("{} snapshots start with `{prefix}`", all.len()))
                    .hint(format!("give more digits: {}", listed(&all))))
            }
        }
    };
    let at = |moment: i128| {
        let found = mine.iter().rev().find(|s| of(s).manifest.time_ns <= moment).copied();
        found.ok_or_else(|| none("that is before the oldest".to_owned()).hint(format!("the oldest is {}", shown(of(mine[0])))))
    };
    match &selector.which {
        Which::Back(n) => mine.iter().rev().nth(*n).copied().ok_or_else(|| {
            none(format!("there are {} only", mine.len())).hint(format!(
                "the oldest is `latest~{}`, {}",
                mine.len() - 1,
                shown(of(mine[0]))
            ))
        }),
        Which::Id(prefix) => by_id(prefix)?.ok_or_else(|| {
            let near: Vec<String> = nearest_ids(&mine.iter().map(|s| of(s)).collect::<Vec<_>>(), prefix).into_iter().map(shown).collect();
            let hint = if near.is_empty() { see.to_owned() } else { format!("nearest are {}", listed(&near)) };
            none("no id starts like this".to_owned()).hint(hint)
        }),
        Which::Place(place) => {
            let found = mine.iter().find(|s| of(s).key == *place).copied();
            found.ok_or_else(|| none("there is none at this place".to_owned()).hint(see))
        }
        Which::At(moment) => at(*moment),
        Which::IdOrAt(prefix, moment) => by_id(prefix)?.map_or_else(|| at(*moment), Ok),
    }
}

/// Snapshots whose ids a slip of the hand makes of `prefix`.
fn nearest_ids<'a>(snapshots: &[&'a Snapshot], prefix: &str) -> Vec<&'a Snapshot> {
    let mut near: Vec<(usize, &Snapshot)> =
        snapshots.iter().map(|s| (distance(prefix, &s.id.to_string()[..prefix.len()]), *s)).filter(|(d, _)| *d <= 2).collect();
    near.sort_by_key(|(d, _)| *d);
    near.into_iter().map(|(_, s)| s).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_hand_are_near() {
        for (typed, meant) in [("latset", Some("latest")), ("yestrday", Some("yesterday")), ("lastest", Some("latest")), ("xyz", None)] {
            assert_eq!(nearest(typed, ["latest", "yesterday"].into_iter()), meant, "{typed}");
        }
        assert_eq!([distance("", "abc"), distance("abc", "acb"), distance("kitten", "sitting")], [3, 1, 3]);
    }

    #[test]
    fn every_form_is_read() {
        let which = |text: &str| Selector::parse(text, 1_762_560_000_000_000_000).map(|s| (s.host, s.which));
        assert_eq!(which("latest").unwrap(), (None, Which::Back(0)));
        assert_eq!(which("web1@latest~2").unwrap(), (Some("web1".into()), Which::Back(2)));
        assert_eq!(which("1A2B3C4D").unwrap(), (None, Which::Id("1a2b3c4d".into())));
        assert_eq!(which("2025-11-08T02-00-00Z-1a2b3c4d").unwrap(), (None, Which::Id("1a2b3c4d".into())));
        assert!(matches!(which("20251108").unwrap().1, Which::IdOrAt(..)) && matches!(which("yesterday").unwrap().1, Which::At(_)));
        for (text, hint) in [
            ("latset", "did you mean `latest`?"),
            ("web@yestrday", "did you mean `web@yesterday`?"),
            ("1a", "4 digits"),
            ("latest~x", "`latest~2`"),
        ] {
            let error = which(text).unwrap_err();
            assert!(error.hint_text().is_some_and(|h| h.contains(hint)), "{text}: {error:?}");
        }
    }
}
