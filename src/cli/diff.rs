//! `coffre diff`.

use std::ops::ControlFlow;

use clap::builder::styling::{AnsiColor, Style};
use serde::Serialize;

use crate::{
    cli::{Run, complete, look, output, stream::Stream},
    error::Result,
    ops::{
        diff::{self, Change, Compared, Options, Row, Stat},
        look::SnapshotRow,
        row::{Facet, Type},
    },
};

/// Show what differs between two snapshots.
///
/// `+` added, `-` removed, `M` modified, `m` only mode, owner, time or attributes, `R` renamed with the same content.
#[derive(clap::Args)]
pub struct Args {
    /// The older snapshot
    #[arg(value_name = "A", add = complete::snap())]
    old: String,
    /// The newer one
    #[arg(value_name = "B", add = complete::snap())]
    new: String,
    /// Below this full path only
    #[arg(add = complete::stored_path())]
    path: Option<std::path::PathBuf>,
    /// Only how much, by kind
    #[arg(long)]
    stat: bool,
    /// The contents of texts too, as a unified diff
    #[arg(long, conflicts_with = "stat")]
    content: bool,
    /// Show what was renamed as removed and added
    #[arg(long)]
    no_renames: bool,
}

/// One difference with its content.
#[derive(Serialize)]
struct WithContent<'a> {
    #[serde(flatten)]
    row: &'a Row,
    /// The unified diff.
    #[serde(skip_serializing_if = "Option::is_none")]
    diff: Option<&'a str>,
}

/// How much differs.
#[derive(Serialize)]
struct StatReport<'a> {
    old: SnapshotRow,
    new: SnapshotRow,
    #[serde(flatten)]
    stat: &'a Stat,
}

/// Runs it.
pub fn run(run: &Run, args: &Args) -> Result<u8> {
    let selectors = (look::selector(run, &args.old)?, look::selector(run, &args.new)?);
    let path = args.path.as_deref().map(look::absolute).transpose()?.unwrap_or_default();
    let look = look::open(run)?;
    let pair = (look.select(&selectors.0)?, look.select(&selectors.1)?);
    let sides = (look.side(pair.0), look.side(pair.1));
    let options = Options { path: &path, renames: !args.no_renames };
    let mut out = Stream::new(run.screen);
    let diff::Report { stat, unreadable } = diff::run(&look, pair, &options, &run.cancel, |row| {
        if args.stat {
            return Ok(ControlFlow::Continue(()));
        }
        let compared = match args.content {
            true => diff::compare(&look, (&sides.0, &sides.1), &row)?,
            false => Compared::Nothing,
        };
        let diff = if let Compared::Lines(text) = &compared { Some(&text[..]) } else { None };
        out.row(&WithContent { row: &row, diff }, || line(&row, run.screen.colours_data()) + &content(&compared, run.screen.colours_data()))
    })?;
    out.finish()?;
    if stat.renames_unknown {
        run.screen.note("too much was added and removed to look for renames");
    }
    let report = StatReport { old: look.named(pair.0), new: look.named(pair.1), stat: &stat };
    match args.stat {
        true => run.screen.data(&report, || table(&stat))?,
        false if !run.screen.json => run.screen.note(&summary(&stat)),
        false => (),
    }
    Ok(look::unreadable(run, unreadable.as_ref()))
}

fn style(change: Change) -> Style {
    match change {
        Change::Added => AnsiColor::Green.on_default(),
        Change::Removed => AnsiColor::Red.on_default(),
        Change::Modified => AnsiColor::Yellow.on_default(),
        Change::Metadata => AnsiColor::Blue.on_default(),
        Change::Renamed => AnsiColor::Cyan.on_default(),
    }
}

fn painted(text: &str, style: Style, colour: bool) -> String {
    if colour { format!("{style}{text}{style:#}") } else { text.to_owned() }
}

fn line(row: &Row, colour: bool) -> String {
    let slash = |facts: &Option<crate::ops::row::Facts>| if facts.as_ref().is_some_and(|f| f.kind == Type::Dir) { "/" } else { "" };
    let path = output::visible_bytes(&row.path.bytes) + if row.new.is_some() { slash(&row.new) } else { slash(&row.old) };
    let path = match &row.from {
        Some(from) => format!("{}{} -> {path}", output::visible_bytes(&from.bytes), slash(&row.old)),
        None => path,
    };
    let details = details(row);
    let details = if details.is_empty() { details } else { format!("  ({details})") };
    format!("{}  {path}{details}\n", painted(&row.change.letter().to_string(), style(row.change), colour))
}

/// What changed, in a few words.
fn details(row: &Row) -> String {
    let size = |facts: &crate::ops::row::Facts| (facts.kind == Type::File).then(|| output::bytes(facts.size));
    let (Some(old), Some(new)) = (&row.old, &row.new) else {
        return row.new.as_ref().or(row.old.as_ref()).and_then(size).unwrap_or_default();
    };
    let who = |name: &Option<String>, id: u32| name.as_deref().map_or_else(|| id.to_string(), output::visible);
    let words = row.changed.iter().filter_map(|facet| match facet {
        Facet::Content if old.size == new.size => Some(format!("{}, same size", output::bytes(new.size))),
        Facet::Content => Some(format!("{} -> {}", output::bytes(old.size), output::bytes(new.size))),
        Facet::Mode => Some(format!("mode {} -> {}", old.mode, new.mode)),
        Facet::Owner => Some(format!("owner {} -> {}", who(&old.user, old.uid), who(&new.user, new.uid))),
        Facet::Group => Some(format!("group {} -> {}", who(&old.group, old.gid), who(&new.group, new.gid))),
        Facet::Type => Some(format!("{} -> {}", old.kind.word(), new.kind.word())),
        // A new time goes without saying where the content is new.
        Facet::Time if row.change != Change::Metadata => None,
        other => Some(other.word().to_owned()),
    });
    words.collect::<Vec<_>>().join(", ")
}

fn content(compared: &Compared, colour: bool) -> String {
    match compared {
        Compared::Nothing => String::new(),
        Compared::Binary => "   (not a text)\n".to_owned(),
        Compared::TooLong => "   (too long to compare line by line)\n".to_owned(),
        Compared::Lines(text) => text
            .lines()
            .map(|line| {
                let style = match line.as_bytes().first() {
                    Some(b'+') => AnsiColor::Green.on_default(),
                    Some(b'-') => AnsiColor::Red.on_default(),
                    Some(b'@') => AnsiColor::Cyan.on_default(),
                    _ => Style::new(),
                };
                painted(&output::visible_line(line), style, colour) + "\n"
            })
            .collect(),
    }
}

fn table(stat: &Stat) -> String {
    let rows: Vec<Vec<String>> = Change::ALL
        .iter()
        .map(|change| {
            let count = stat.of(*change);
            let files = count.entries - count.dirs;
            vec![
                change.word().to_owned(),
                output::count(files),
                output::count(count.dirs),
                output::bytes(count.old_bytes),
                output::bytes(count.new_bytes),
            ]
        })
        .collect();
    output::columns(&["WHAT", "FILES", "DIRECTORIES", "OLD SIZE", "NEW SIZE"], &rows)
}

fn summary(stat: &Stat) -> String {
    let parts: Vec<String> = Change::ALL
        .iter()
        .filter(|change| stat.of(**change).entries > 0)
        .map(|change| format!("{} {}", output::count(stat.of(*change).entries), change.word()))
        .collect();
    if parts.is_empty() { "nothing differs".to_owned() } else { parts.join(", ") }
}
