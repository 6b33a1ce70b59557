//! `coffre snapshots`.

use crate::{
    cli::{Run, keys, look, output},
    error::Result,
    ops::snapshots::{self, Filter, Row},
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
    let filter = Filter {
        host: args.host.clone(),
        tag: args.tag.clone(),
        path: args.path.clone().map(String::into_bytes),
        since_ns: look::since(look::moment(run, args.since.as_deref())?, args.since.as_deref()),
        until_ns: look::moment(run, args.until.as_deref())?,
        last: args.last,
        revoked: args.revoked,
    };
    let unlocking = keys::unlocking(run.globals)?;
    // A host lists what it sealed itself without asking for anything.
    let own_only = unlocking.is_empty() && (opened.state.sealer()?.is_some() || !keys::can_ask());
    let owner = match own_only {
        true => None,
        false => Some(keys::open(run.globals, &opened.vault, unlocking)?),
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
