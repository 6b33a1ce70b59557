//! Bisect: the first version of a file at which a command fails, by halves.

use std::io::Write;

use serde::Serialize;

use crate::{
    error::{Error, Result},
    event::{Event, Sink},
    ops::{
        cat,
        history::{self, Row},
        look::Look,
        row::Type,
    },
    sys::{self, Cancel},
    vault::parts_of,
};

/// What a command says of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It ended with 0.
    Passes,
    /// It ended with something else.
    Fails,
}

/// Where a command begins to fail.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// How many versions there are.
    pub versions: usize,
    /// How many of them were tried.
    pub tried: usize,
    /// The version at which it fails first; nothing if it does not fail in the newest.
    pub first_failing: Option<Row>,
    /// The version before that; nothing if there is none.
    pub last_passing: Option<Row>,
}

/// Finds the first version of the file at `path`, of `host` if several have it, for which the shell command `command` fails.
///
/// `{}` in the command stands for a private copy of the version, under its own name, that is gone afterwards; without one the copy's path is
/// added at the end. A command that fails once is taken to fail from there on.
///
/// # Errors
/// `Usage` if the path is not a file throughout, several hosts have it, or the command cannot be run.
///
/// Cost: one more run for each doubling of the versions.
pub fn run(look: &Look, path: &[u8], host: Option<&str>, command: &str, sink: &dyn Sink, cancel: &Cancel) -> Result<Report> {
    let rows = history::run(look, path, host)?.rows;
    if let Some(other) = rows.iter().find(|row| row.first.host != rows[0].first.host) {
        return Err(Error::usage(format!("{} is on several hosts", rows[0].path.path))
            .hint(format!("say which: --host {} or --host {}", rows[0].first.host, other.first.host)));
    }
    // A link or a directory of that name is no version of the file.
    let rows: Vec<Row> = rows.into_iter().filter(|row| row.facts.kind == Type::File).collect();
    let Some(newest) = rows.last() else {
        return Err(Error::usage(format!("{} never was a file", String::from_utf8_lossy(path))).hint("name a file"));
    };
    let mut tried = 0;
    let mut fails = |row: &Row| -> Result<bool> {
        tried += 1;
        let verdict = try_version(look, row, command, cancel)?;
        let word = if verdict == Verdict::Passes { "passes" } else { "fails" };
        sink.send(Event::Note(format!("{word} in {} ({})", row.first.short(), row.first.time)));
        Ok(verdict == Verdict::Fails)
    };
    if !fails(newest)? {
        let last_passing = Some(newest.clone());
        return Ok(Report { versions: rows.len(), tried, first_failing: None, last_passing });
    }
    // It fails at `bad`; below `good` it passes, or is not known to fail.
    let (mut good, mut bad) = (0, rows.len() - 1);
    while good < bad {
        let middle = good + (bad - good) / 2;
        if fails(&rows[middle])? { bad = middle } else { good = middle + 1 }
    }
    let last_passing = bad.checked_sub(1).map(|at| rows[at].clone());
    Ok(Report { versions: rows.len(), tried, first_failing: Some(rows[bad].clone()), last_passing })
}

fn try_version(look: &Look, row: &Row, command: &str, cancel: &Cancel) -> Result<Verdict> {
    cancel.check()?;
    let name = parts_of(&row.path.bytes).last().unwrap_or_default();
    let executable = u32::from_str_radix(&row.facts.mode, 8).is_ok_and(|mode| mode & 0o100 != 0);
    let n = (0..look.line.len()).find(|n| look.line.snapshot(*n).id.to_string() == row.first.id);
    let n = n.ok_or_else(|| Error::bug("a version is of no snapshot"))?;
    let mut copy = sys::PrivateCopy::create(name, executable)?;
    cat::run(look.dirs.reader(), look.line.snapshot(n), &row.path.bytes, copy.file(), cancel)?;
    copy.file().flush().map_err(|e| Error::io("cannot write the copy for the command", e))?;
    let status = sys::run_on_file(command, copy.close().path())?;
    cancel.check()?;
    match status {
        Some(0) => Ok(Verdict::Passes),
        Some(126 | 127) => {
            Err(Error::usage(format!("`{command}` cannot be run")).hint("the shell could not start it; its message is above"))
        }
        Some(_) => Ok(Verdict::Fails),
        None => Err(Error::unavailable(format!("`{command}` was killed by a signal")).hint("that says nothing of the file")),
    }
}
