//! `coffre restore --dry-run`: a line for every entry that would change; the totals last.

use serde::Serialize;

use crate::{
    cli::{Run, output, stream::Stream},
    error::Result,
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
    let mut out = Stream::new(run.screen);
    let mut each = |line: &Line| {
        if line.fate == Fate::Keep && run.globals.verbose == 0 {
            return Ok(());
        }
        let path = String::from_utf8_lossy(&line.path);
        let slash = if line.directory { "/" } else { "" };
        let row = Row::Entry { would: line.fate, path: &path, directory: line.directory, bytes: line.bytes };
        out.row(&row, || format!("{} {}{slash}\n", sign(line.fate), output::visible_bytes(&line.path))).map(drop)
    };
    let totals = restore::preview(context, options, &mut each)?;
    let _ = out.row(&Row::Total { would: "total", totals }, || text(&totals))?;
    out.finish()?;
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

fn text(t: &Preview) -> String {
    format!(
        "would make {}, replace {}, set {} right, delete {}, and keep {}; {} of content at most\n",
        output::count(t.create),
        output::count(t.replace),
        output::count(t.update),
        output::count(t.delete),
        output::count(t.keep),
        output::bytes(t.bytes),
    )
}
