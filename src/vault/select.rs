//! SNAP: how people name a snapshot.

use std::borrow::Borrow;

use crate::{
    error::{Error, Result},
    sys,
    vault::Snapshot,
};

/// A snapshot as it was typed: `[HOST@]` then `latest`, `latest~N`, an id prefix, or a time.
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
    /// Either: `20251108` is a day, and could be an id. The id wins if there is one.
    IdOrAt(String, i128),
}

/// Shortest id prefix, in digits.
const PREFIX_MIN: usize = 4;

impl Selector {
    /// Reads `text`.
    pub fn parse(text: &str, now_ns: i128) -> Result<Self> {
        let (host, rest) = match text.split_once('@') {
            Some((host, rest)) if !host.is_empty() => (Some(host.to_owned()), rest),
            _ => (None, text),
        };
        let is_id = (PREFIX_MIN..=64).contains(&rest.len()) && rest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let which = match (rest.strip_prefix("latest"), sys::parse_moment(rest, now_ns)) {
            (Some(""), _) => Which::Back(0),
            (Some(back), _) => Which::Back(back.strip_prefix('~').and_then(|n| n.parse().ok()).ok_or_else(|| unknown(text))?),
            (None, Some(at)) if is_id => Which::IdOrAt(rest.to_owned(), at),
            (None, Some(at)) => Which::At(at),
            (None, None) if is_id => Which::Id(rest.to_owned()),
            (None, None) => return Err(unknown(text)),
        };
        Ok(Self { host, which, typed: text.to_owned() })
    }
}

fn unknown(text: &str) -> Error {
    Error::usage(format!("`{text}` names no snapshot"))
        .hint("use `latest`, `latest~2`, the first digits of an id, `2025-11-08`, `2025-11-08T03:00`, `yesterday`, `3 days ago`, or any of these after `HOST@`")
}

/// Finds the snapshot that `selector` means among `snapshots`, which are in order of time.
pub fn select<'a, S: Borrow<Snapshot>>(snapshots: &'a [S], selector: &Selector) -> Result<&'a S> {
    let of = |s: &'a S| -> &'a Snapshot { s.borrow() };
    let mine: Vec<&'a S> =
        snapshots.iter().filter(|s| selector.host.as_ref().is_none_or(|h| of(s).manifest.host == *h || of(s).key.sealer == *h)).collect();
    let none =
        |why: String| Error::not_found(format!("no snapshot `{}`: {why}", selector.typed)).hint("coffre snapshots lists what there is");
    if mine.is_empty() {
        return Err(none(match &selector.host {
            Some(host) => format!("host {host} has none"),
            None => "the vault has none".to_owned(),
        }));
    }
    let by_id = |prefix: &str| -> Result<Option<&'a S>> {
        let mut fitting = mine.iter().filter(|s| of(s).id.to_string().starts_with(prefix));
        match (fitting.next(), fitting.next()) {
            (None, _) => Ok(None),
            (Some(one), None) => Ok(Some(*one)),
            (Some(_), Some(_)) => Err(Error::usage(format!("several snapshots start with `{prefix}`")).hint("give more digits")),
        }
    };
    let at = |moment: i128| {
        let found = mine.iter().rev().find(|s| of(s).manifest.time_ns <= moment).copied();
        found.ok_or_else(|| none(format!("the oldest is of {}", sys::utc_text(of(mine[0]).manifest.time_ns))))
    };
    match &selector.which {
        Which::Back(n) => mine.iter().rev().nth(*n).copied().ok_or_else(|| none(format!("there are {} only", mine.len()))),
        Which::Id(prefix) => by_id(prefix)?.ok_or_else(|| none("no id starts like this".to_owned())),
        Which::At(moment) => at(*moment),
        Which::IdOrAt(prefix, moment) => by_id(prefix)?.map_or_else(|| at(*moment), Ok),
    }
}
