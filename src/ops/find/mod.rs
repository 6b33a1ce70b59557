//! Find: entries by name and facts, in one snapshot or in all, each once with the snapshots that hold it.
//!
//! `through` looks through all snapshots in order of time, `trees` compares two of them; `wanted` says what is looked for.

mod through;
mod trees;
mod wanted;

pub use wanted::Wanted;

use std::ops::ControlFlow;

use serde::Serialize;

use crate::{
    error::Result,
    ops::{
        look::{Look, SnapshotRow},
        row::{Facts, PathText},
    },
    sys::Cancel,
};

/// One hit.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its full path.
    #[serde(flatten)]
    pub path: PathText,
    /// What it was last.
    #[serde(flatten)]
    pub facts: Facts,
    /// How many different things stood there that were wanted.
    pub versions: usize,
    /// The first snapshot that holds one.
    pub first: SnapshotRow,
    /// The last one.
    pub last: SnapshotRow,
    /// How many hold it.
    pub snapshots: usize,
}

/// What became of a search.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Hits.
    pub hits: u64,
    /// Directories that could not be read, and why the first of them.
    pub unreadable: Option<(usize, String)>,
}

/// Calls `each` with everything that is `wanted` in the snapshots with the numbers `among`, which are in order, host by host, in order of
/// paths: each path once. Stops when `each` breaks.
///
/// Cost: every distinct directory is read about once. Memory: about 500 bytes a hit, and 24 MiB.
pub fn run(
    look: &Look,
    among: &[usize],
    wanted: &Wanted,
    cancel: &Cancel,
    mut each: impl FnMut(Row) -> Result<ControlFlow<()>>,
) -> Result<Report> {
    let mut report = Report::default();
    let mut hosts: Vec<usize> = Vec::new();
    for n in among {
        let host = look.line.host_of(*n);
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    for host in hosts {
        let its: Vec<usize> = among.iter().copied().filter(|n| look.line.host_of(*n) == host).collect();
        let seen = through::look_through(look, &its, wanted, cancel)?;
        if let Some(why) = seen.reason {
            report.unreadable.get_or_insert((0, why)).0 += seen.unreadable;
        }
        for (path, sighting) in seen.sightings {
            report.hits += 1;
            let row = Row {
                path: PathText::new(&path),
                facts: Facts::of(&sighting.entry),
                versions: sighting.versions,
                first: look.named(sighting.first),
                last: look.named(sighting.last),
                snapshots: sighting.count,
            };
            if each(row)?.is_break() {
                return Ok(report);
            }
        }
    }
    Ok(report)
}
