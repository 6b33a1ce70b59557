//! `coffre history`.

use crate::{
    cli::{Run, complete, look, output, stream::Stream},
    error::Result,
    ops::{
        history::{self, Row},
        look::SnapshotRow,
        row::{Facet, Type},
    },
    sys,
};

/// List the versions of a path through all snapshots, oldest first.
#[derive(clap::Args)]
pub struct Args {
    /// The full path, as it was at the source; one that does not start with `/` is taken from the current directory
    #[arg(add = complete::stored_path())]
    path: std::path::PathBuf,
    /// Of this host only
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
}

/// Runs it.
pub fn run(run: &Run, args: &Args) -> Result<u8> {
    let path = look::absolute(&args.path)?;
    let look = look::open(run)?;
    let report = history::run(&look, &path, args.host.as_deref())?;
    let mut out = Stream::new(run.screen);
    if !run.screen.json {
        let hosts = report.rows.iter().any(|row| row.first.host != report.rows[0].first.host);
        let _ = out.raw(text(&report.rows, hosts).as_bytes())?;
    } else {
        for row in &report.rows {
            if out.row(row, String::new)?.is_break() {
                break;
            }
        }
    }
    out.finish()?;
    Ok(look::unreadable(run, report.unreadable.as_ref()))
}

fn text(rows: &[Row], hosts: bool) -> String {
    let mut heads = vec!["SNAPSHOTS", "FROM", "TO", "COUNT", "HOST", "SIZE", "MODIFIED", "WHAT CHANGED"];
    heads.retain(|head| hosts || *head != "HOST");
    let sealed = |s: &SnapshotRow| sys::local_minute(s.time_ns.into());
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let one = row.first == row.last;
            let mut cells = vec![
                if one { row.first.short().to_owned() } else { format!("{}..{}", row.first.short(), row.last.short()) },
                sealed(&row.first),
                if one { String::new() } else { sealed(&row.last) },
                row.snapshots.to_string(),
            ];
            cells.extend(hosts.then(|| row.first.host.clone()));
            cells.push(if row.facts.kind == Type::Dir { "-".to_owned() } else { output::bytes(row.facts.size) });
            cells.push(sys::local_minute(row.facts.mtime_ns.into()));
            cells.push(changed(row));
            cells
        })
        .collect();
    output::columns(&heads, &cells)
}

/// `content +1.2 KiB, mode 0600`.
fn changed(row: &Row) -> String {
    let facet = |facet: &Facet| match facet {
        Facet::Content if row.facts.kind == Type::File && row.grown_bytes > 0 => {
            format!("content +{}", output::bytes(row.grown_bytes.unsigned_abs()))
        }
        Facet::Content if row.facts.kind == Type::File && row.grown_bytes < 0 => {
            format!("content -{}", output::bytes(row.grown_bytes.unsigned_abs()))
        }
        Facet::Mode => format!("mode {}", row.facts.mode),
        Facet::Owner => format!("owner {}", row.facts.user.clone().unwrap_or_else(|| row.facts.uid.to_string())),
        Facet::Group => format!("group {}", row.facts.group.clone().unwrap_or_else(|| row.facts.gid.to_string())),
        Facet::Type => format!("now a {}", row.facts.kind.word()),
        other => other.word().to_owned(),
    };
    let mut words: Vec<String> = row.changed.iter().map(facet).collect();
    if row.changed.is_empty() {
        words.push("first".to_owned());
    }
    if row.gone {
        words.push("then gone".to_owned());
    }
    words.join(", ")
}
