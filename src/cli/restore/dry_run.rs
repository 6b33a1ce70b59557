//! `coffre restore --dry-run`: a line for every entry that would change; the totals last.

use std::io::{self, BufWriter, Write};

use serde::Serialize;

use crate::{
    cli::{Run, output},
    error::{Error, Result},
    ops::restore::{self, Context, Fate, Line, Options, Preview},
};

/// One line of JSON.
#[derive(Serialize)]
#[serde(untagged)]
enum Row<'a> {
    Entry {
        would: Fate,
        path: &'a str,
        directory: bool,
        bytes: u64,
    },
    Total {
        would: &'static str,
        #[serde(flatten)]
        totals: Preview,
    },
}

/// Runs it.
pub fn run(run: &Run, context: &Context, options: &Options) -> Result<u8> {
    let mut out = Some(BufWriter::new(io::stdout().lock()));
    let (json, verbose) = (run.globals.json, run.globals.verbose > 0);
    let mut each = |line: &Line| {
        if line.fate == Fate::Keep && !verbose {
            return Ok(());
        }
        let path = String::from_utf8_lossy(&line.path);
        let slash = if line.directory { "/" } else { "" };
        let row = Row::Entry { would: line.fate, path: &path, directory: line.directory, bytes: line.bytes };
        write(&mut out, json, &row, || format!("{} {}{slash}", sign(line.fate), output::visible(&path)))
    };
    let totals = restore::preview(context, options, &mut each)?;
    write(&mut out, json, &Row::Total { would: "total", totals }, || text(&totals))?;
    if let Some(out) = &mut out {
        passed(out.flush())?;
    }
    Ok(0)
}

fn sign(fate: Fate) -> char {
    match fate {
        Fate::Create => '+',
        Fate::Replace => '~',
        Fate::Update => '.',
        Fate::Keep => '=',
        Fate::Delete => '-',
    }
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
    format!(
        "would make {}, replace {}, set {} right, delete {}, and keep {}; {} of content at most",
        output::count(t.create),
        output::count(t.replace),
        output::count(t.update),
        output::count(t.delete),
        output::count(t.keep),
        output::bytes(t.bytes),
    )
}
