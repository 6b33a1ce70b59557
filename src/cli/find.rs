//! `coffre find`.

use std::{ffi::OsString, os::unix::ffi::OsStrExt};

use crate::{
    cli::{Run, complete, look, mount::parse_size, output, stream::Stream},
    error::Result,
    ops::{
        find::{self, Row, Wanted},
        row::Type,
    },
    sys,
};

/// Find files by name in all snapshots, or in one.
///
/// Each path is told once, as it was last, with the snapshots that hold it.
#[derive(clap::Args)]
pub struct Args {
    /// A name with `*`, `?` and `[…]`; with a `/` in it, the end of a path, where `**` crosses directories
    pattern: OsString,
    /// In this snapshot only
    #[arg(long = "in", value_name = "SNAP", add = complete::snap())]
    snapshot: Option<String>,
    /// In snapshots of this host only
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Of this type: f, d, l, b, c or p (repeatable)
    #[arg(short = 't', long = "type", value_name = "TYPE", value_parser = look::type_parser())]
    types: Vec<Type>,
    /// Of at least this size: `100M`, `1G`
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    larger: Option<u64>,
    /// Of at most this size
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    smaller: Option<u64>,
    /// Modified since then: `2025-11-08`, `3 days ago`
    #[arg(long, value_name = "TIME")]
    newer: Option<String>,
    /// Modified until then
    #[arg(long, value_name = "TIME")]
    older: Option<String>,
    /// Of this owner: a name or a number
    #[arg(long, value_name = "USER")]
    owner: Option<String>,
    /// Upper and lower case alike
    #[arg(short, long)]
    ignore_case: bool,
    /// Exact paths alone, each ended by NUL
    #[arg(short = '0', long)]
    null: bool,
}

/// Runs it. Nothing found is an answer, not an error.
pub fn run(run: &Run, args: &Args) -> Result<u8> {
    let mut wanted = Wanted::new(args.pattern.as_bytes(), args.ignore_case)?;
    wanted.types = args.types.clone();
    (wanted.size_min, wanted.size_max) = (args.larger, args.smaller);
    wanted.since_ns = look::since(look::moment(run, args.newer.as_deref())?, args.newer.as_deref());
    wanted.until_ns = look::moment(run, args.older.as_deref())?;
    wanted.owner = args.owner.clone();
    let selector = args.snapshot.as_ref().map(|snap| look::selector(run, snap)).transpose()?;
    let look = look::open(run)?;
    let of_host = |n: &usize| {
        let snapshot = look.line.snapshot(*n);
        args.host.as_ref().is_none_or(|host| snapshot.manifest.host == *host || snapshot.key.sealer == *host)
    };
    let among: Vec<usize> = match &selector {
        Some(selector) => vec![look.select(selector)?],
        None => (0..look.line.len()).filter(of_host).collect(),
    };
    let mut out = Stream::new(run.screen);
    let mut any = false;
    let report = find::run(&look, &among, &wanted, &run.cancel, |row| {
        any = true;
        match args.null && !run.screen.json {
            true => out.raw(&[&row.path.bytes[..], b"\0"].concat()),
            false => out.row(&row, || text(&row, selector.is_some())),
        }
    })?;
    out.finish()?;
    if !any {
        run.screen.note("nothing is like this");
    }
    Ok(look::unreadable(run, report.unreadable.as_ref()))
}

fn text(row: &Row, in_one: bool) -> String {
    let size = if row.facts.kind == Type::Dir { "-".to_owned() } else { output::bytes(row.facts.size) };
    let path = output::visible_bytes(&row.path.bytes);
    let slash = if row.facts.kind == Type::Dir { "/" } else { "" };
    let what = format!("{} {size:>11}  {}", row.facts.kind.letter(), sys::local_minute(row.facts.mtime_ns.into()));
    match in_one {
        true => format!("{what}  {path}{slash}\n"),
        false => format!("{what}  {}  {path}{slash}\n", range(row)),
    }
}

/// `1a2b3c4d..5e6f7a8b ×12`: the snapshots that hold it.
fn range(row: &Row) -> String {
    let range = match row.first == row.last {
        true => row.first.short().to_owned(),
        false => format!("{}..{}", row.first.short(), row.last.short()),
    };
    format!("{range:<18} {:>6}", format!("×{}", row.snapshots))
}
