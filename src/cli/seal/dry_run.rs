//! `coffre seal --dry-run`: `+` for what would be taken, `-` for what would be left out; the totals last.

use std::io::{self, BufWriter, Write};

use serde::Serialize;

use crate::{
    cli::{Opened, Run, exit, output},
    error::{Error, Result},
    event::LeftOut,
    ops::seal::{self, Line, Options, Preview, Taken},
};

/// One line of JSON.
#[derive(Serialize)]
#[serde(tag = "would", rename_all = "snake_case")]
enum Row<'a> {
    Take {
        path: &'a str,
        #[serde(rename = "type")]
        kind: Taken,
        size: u64,
    },
    LeaveOut(&'a LeftOut),
    Fail {
        path: &'a str,
        text: &'a str,
    },
    Total {
        #[serde(flatten)]
        totals: Preview,
    },
}

/// Runs it.
pub fn run(run: &Run, opened: &Opened, options: &Options) -> Result<u8> {
    let mut out = Some(BufWriter::new(io::stdout().lock()));
    let (json, verbose) = (run.globals.json, run.globals.verbose > 0);
    let mut each = |line: Line| match line {
        Line::Take(path, kind, size) => {
            let path = String::from_utf8_lossy(&path);
            let slash = if kind == Taken::Directory { "/" } else { "" };
            write(&mut out, json, &Row::Take { path: &path, kind, size }, || format!("+ {}{slash}", output::visible(&path)))
        }
        Line::LeftOut(left) if verbose || json => {
            write(&mut out, json, &Row::LeaveOut(&left), || format!("- {}", output::visible(&output::left_out(&left))))
        }
        Line::Problem(problem) if json => {
            let path = String::from_utf8_lossy(&problem.path);
            write(&mut out, json, &Row::Fail { path: &path, text: &problem.text }, String::new)
        }
        // Without JSON standard error says so.
        Line::Problem(_) | Line::LeftOut(_) => Ok(()),
    };
    let totals = seal::preview(&opened.state, options, &*run.clock, &**run.screen, &run.cancel, &mut each)?;
    write(&mut out, json, &Row::Total { totals }, || text(&totals))?;
    if let Some(out) = &mut out {
        passed(out.flush())?;
    }
    Ok(if totals.unreadable == 0 { 0 } else { exit::INCOMPLETE })
}

/// Writes one line; nothing more once nobody reads.
fn write(out: &mut Option<impl Write>, json: bool, row: &Row, text: impl FnOnce() -> String) -> Result<()> {
    let Some(to) = out else { return Ok(()) };
    let line = match json {
        true => serde_json::to_string(row).map_err(|e| Error::bug("cannot write JSON").because(e))?,
        false => text(),
    };
    if !passed(writeln!(to, "{line}"))? {
        *out = None;
    }
    Ok(())
}

/// Whether somebody still reads.
fn passed(written: io::Result<()>) -> Result<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Error::io("cannot write the output", e)),
    }
}

fn text(t: &Preview) -> String {
    let mut text = format!(
        "would take {} entries, {}: {} files, {} directories, {} links, {} others; left out {}",
        output::count(t.entries),
        output::bytes(t.logical_bytes),
        output::count(t.files),
        output::count(t.directories),
        output::count(t.symlinks),
        output::count(t.others),
        output::count(t.left_out),
    );
    if t.unreadable > 0 {
        text.push_str(&format!("; {} cannot be read", output::count(t.unreadable)));
    }
    text
}
