//! `coffre seal --dry-run`: `+` for what would be taken, `-` for what would be left out; the totals last.

use serde::Serialize;

use crate::{
    cli::{Opened, Run, exit, output, stream::Stream},
    error::Result,
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
    let mut out = Stream::new(run.screen);
    let (json, verbose) = (run.globals.json, run.globals.verbose > 0);
    let mut each = |line: Line| match line {
        Line::Take(path, kind, size) => {
            let path = String::from_utf8_lossy(&path);
            let slash = if kind == Taken::Directory { "/" } else { "" };
            out.row(&Row::Take { path: &path, kind, size }, || format!("+ {}{slash}\n", output::visible(&path))).map(drop)
        }
        Line::LeftOut(left) if verbose || json => {
            out.row(&Row::LeaveOut(&left), || format!("- {}\n", output::visible(&output::left_out(&left)))).map(drop)
        }
        Line::Problem(problem) if json => {
            let path = String::from_utf8_lossy(&problem.path);
            out.row(&Row::Fail { path: &path, text: &problem.text }, String::new).map(drop)
        }
        // Without JSON standard error says so.
        Line::Problem(_) | Line::LeftOut(_) => Ok(()),
    };
    let totals = seal::preview(&opened.state, options, &*run.clock, &**run.screen, &run.cancel, &mut each)?;
    let _ = out.row(&Row::Total { totals }, || text(&totals))?;
    out.finish()?;
    Ok(if totals.unreadable == 0 { 0 } else { exit::INCOMPLETE })
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
    text + "\n"
}
