//! `coffre snapshots`.

use crate::{
    cli::{Run, keys, output},
    error::{Error, Result},
    ops::snapshots::{self, Filter, Row},
    sys,
};

/// List snapshots, oldest first.
#[derive(clap::Args)]
pub struct Args {
    /// Of this host only
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// With this tag only
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// That hold this path only
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// Sealed since then: `2025-11-08`, `3 days ago`
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Sealed until then
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// The newest N only
    #[arg(long, value_name = "N")]
    last: Option<usize>,
    /// Those that revoked sealers signed afterwards, and that are offered nowhere else
    #[arg(long)]
    revoked: bool,
}

/// Runs it.
pub fn run(run: &Run, args: &Args) -> Result<u8> {
    let opened = run.globals.open()?;
    let moment = |text: &Option<String>| -> Result<Option<i128>> {
        let Some(text) = text else { return Ok(None) };
        let moment = sys::parse_moment(text, run.clock.now_ns());
        moment.map(Some).ok_or_else(|| {
            Error::usage(format!("`{text}` is no time")).hint("write 2025-11-08, 2025-11-08T03:00, yesterday, or 3 days ago")
        })
    };
    let filter = Filter {
        host: args.host.clone(),
        tag: args.tag.clone(),
        path: args.path.clone().map(String::into_bytes),
        since_ns: since(moment(&args.since)?, args.since.as_deref()),
        until_ns: moment(&args.until)?,
        last: args.last,
        revoked: args.revoked,
    };
    let unlocking = keys::unlocking(run.globals)?;
    // A host lists what it sealed itself without asking for anything.
    let own_only = unlocking.is_empty() && (opened.state.sealer()?.is_some() || !keys::can_ask());
    let owner = match own_only {
        true => None,
        false => Some(keys::open(&opened.vault, &unlocking)?),
    };
    let (rows, findings) = snapshots::run(&opened.vault, owner.as_ref(), &opened.state, &filter)?;
    run.screen.data(&rows, || text(&rows))?;
    for finding in &findings {
        match owner {
            Some(_) => run.screen.warning(&format!("{}: {}: {}", finding.object, finding.kind.word(), finding.text)),
            None => run.screen.note(&finding.text),
        }
    }
    Ok(0)
}

/// A day that was named means its start here, not its end.
fn since(moment: Option<i128>, typed: Option<&str>) -> Option<i128> {
    const DAY_NS: i128 = 86_400_000_000_000;
    let names_day = typed.is_some_and(|t| !t.contains([':', 'T']) && !["now", "hour", "minute", "second"].iter().any(|w| t.contains(w)));
    moment.map(|ns| if names_day { ns - DAY_NS + 1 } else { ns })
}

fn text(rows: &[Row]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let labelled = rows.iter().any(|r| !r.labels.is_empty());
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|r| {
            let problems = if r.problems > 0 { format!(" ({} problems)", r.problems) } else { String::new() };
            let suspicious = if r.suspicions.is_empty() { "" } else { " (suspicious)" };
            let pinned = if r.pinned { " (pinned)" } else { "" };
            let mut cells = vec![
                r.id[..8].to_owned(),
                r.time.clone(),
                r.host.clone(),
                output::count(r.stats.files),
                output::bytes(r.stats.logical_bytes),
                r.tags.join(","),
            ];
            cells.extend(labelled.then(|| output::labels(&r.labels)));
            cells.push(r.paths.join(" ") + &problems + suspicious + pinned);
            cells
        })
        .collect();
    let heads = ["ID", "TIME", "HOST", "FILES", "SIZE", "TAGS", "LABELS", "PATHS"];
    let heads: Vec<&str> = heads.into_iter().filter(|head| labelled || *head != "LABELS").collect();
    output::columns(&heads, &cells)
}
