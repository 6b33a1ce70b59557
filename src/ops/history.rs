//! History: the distinct versions of one path.

use serde::Serialize;

use crate::{
    error::{Error, Result},
    format::Entry,
    ops::{
        look::{Look, SnapshotRow},
        row::{Facet, Facts, PathText, facets},
    },
    vault::{Past, Version, parts_of},
};

/// One version.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The path.
    #[serde(flatten)]
    pub path: PathText,
    /// What it was.
    #[serde(flatten)]
    pub facts: Facts,
    /// The first snapshot that holds it.
    pub first: SnapshotRow,
    /// The last one.
    pub last: SnapshotRow,
    /// How many hold it.
    pub snapshots: usize,
    /// In what it differs from the version before it on the same host; empty for the first.
    pub changed: Vec<Facet>,
    /// Size less that of the version before it.
    pub grown_bytes: i64,
    /// Whether newer snapshots of the host, of the same sources, do not have the path any more.
    pub gone: bool,
}

/// The versions, with what was wrong on the way.
#[derive(Clone, Debug)]
pub struct Report {
    /// One a version, in order of their first snapshots.
    pub rows: Vec<Row>,
    /// Directories that could not be read, and why the first of them.
    pub unreadable: Option<(usize, String)>,
}

/// The versions of `path` in all snapshots, or in those of `host`.
///
/// # Errors
/// `NotFound` if nothing ever stood there.
///
/// Cost: one look by name into each directory on the way that differs from the one before; a look into the snapshots where versions begin.
pub fn run(look: &Look, path: &[u8], host: Option<&str>) -> Result<Report> {
    look.warm(path);
    let past = Past::of(&look.dirs, &look.line, path)?;
    let shown: Vec<u8> = parts_of(path).flat_map(|part| [b"/", part].concat()).collect();
    let shown = if shown.is_empty() { b"/".to_vec() } else { shown };
    let mut rows = Vec::with_capacity(past.versions.len());
    let mut before: Vec<Option<(&Version, Entry)>> = Vec::new();
    for version in past.versions.iter().filter(|v| host.is_none_or(|host| look.line.host(v.host) == host)) {
        let spot = look.dirs.place(look.line.keys(version.first), &look.line.snapshot(version.first).manifest.root, parts_of(path))?;
        let Some(entry) = spot.map(|spot| spot.entry().clone()).or_else(|| root(version)) else { continue };
        if before.len() <= version.host {
            before.resize_with(version.host + 1, || None);
        }
        let old = before[version.host].as_ref();
        rows.push(Row {
            path: PathText::new(&shown),
            facts: Facts::of(&entry),
            first: look.named(version.first),
            last: look.named(version.last),
            snapshots: version.held,
            changed: old.map_or_else(Vec::new, |(v, e)| facets(e, &entry, look.line.domain(v.first) == look.line.domain(version.first))),
            grown_bytes: entry.size() as i64 - old.map_or(0, |(_, e)| e.size() as i64),
            gone: false,
        });
        before[version.host] = Some((version, entry));
    }
    for (version, _) in before.iter().flatten() {
        let last = look.named(version.last);
        let gone = is_gone(look, version, &shown);
        rows.iter_mut().filter(|row| row.last == last).for_each(|row| row.gone = gone);
    }
    if rows.is_empty() {
        return Err(unknown(look, &shown, past.unreadable));
    }
    Ok(Report { rows, unreadable: past.reason.map(|reason| (past.unreadable, reason)) })
}

/// The root of all snapshots has no entry of its own.
fn root(version: &Version) -> Option<Entry> {
    let node = version.node?;
    Some(Entry {
        name: Box::default(),
        mode: version.mode,
        uid: version.uid,
        gid: version.gid,
        mtime_ns: version.mtime_ns,
        ctime_ns: 0,
        source_inode: 0,
        hard_link: None,
        xattrs: Vec::new(),
        user: None,
        group: None,
        content: crate::format::Content::Dir { node, below: 0 },
    })
}

/// Whether a snapshot of the same host after `version` has a source that would hold the path.
fn is_gone(look: &Look, version: &Version, path: &[u8]) -> bool {
    let holds = |source: &Vec<u8>| {
        let source = source.strip_suffix(b"/").unwrap_or(source);
        path.strip_prefix(source).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    };
    let mut later = (version.last + 1..look.line.len()).filter(|n| look.line.host_of(*n) == version.host);
    later.any(|n| look.line.snapshot(n).manifest.sources.iter().any(holds))
}

fn unknown(look: &Look, path: &[u8], unreadable: usize) -> Error {
    let shown = String::from_utf8_lossy(path);
    if unreadable > 0 {
        return Error::corrupt(format!("{shown} is in no snapshot that can be read: {unreadable} directories on the way are damaged"))
            .hint("coffre verify says what is hurt");
    }
    let name = String::from_utf8_lossy(parts_of(path).last().unwrap_or_default()).into_owned();
    let hint = match look.line.is_empty() {
        true => "the vault has no snapshot yet".to_owned(),
        false => format!("paths are full paths, as at the source; coffre find '{name}' looks for the name everywhere"),
    };
    Error::not_found(format!("{shown} is in no snapshot")).hint(hint)
}
