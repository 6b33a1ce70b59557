//! `coffre key revoke`.

use crate::{
    cli::{Run, keys, output},
    error::{Error, Result},
    ops::revoke::{self, From, Report, Row},
    sys,
};

/// Take back a sealer's right to seal, from a moment on
///
/// Writes a new list of signers, signed by the owner; nothing that exists is touched. Snapshots of that sealer that say they were
/// sealed since then, and all that come after one of these in its chain, are not offered any more: not by snapshots, mount, cat; verify and
/// audit name them. The machine itself can seal no more. What it sealed before stays, and is named in the list by its hash.
/// A name that was revoked is never used again.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// The sealer, as `coffre head` names it
    sealer: String,
    /// Since then: `2025-11-08`, `2025-11-08T03:00`, `yesterday` (default: now)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// After the snapshot of this number in its chain, whatever times the later ones tell
    #[arg(long, value_name = "N", conflicts_with = "since")]
    after: Option<u64>,
    /// Say what that would do, and write nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
}

const EXAMPLES: &str = "\
Examples:
  coffre key revoke web1 --since 2025-11-08T03:00 --dry-run    what would no longer count
  coffre key revoke web1 --since 2025-11-08T03:00              the machine was taken over at that hour
  coffre key revoke web1 --after 42                            web1/42 is the last one to be trusted
  coffre key revoke web1                                       it is decommissioned; all that it sealed stays

A thief who has the sealer's key can date a snapshot back. Look at the times and heads that --dry-run
prints, and use --after if the last good snapshot is known.";

/// Runs it.
pub fn run(run: &Run, args: &Args) -> Result<u8> {
    let now = run.clock.now_ns();
    let from = match (&args.since, args.after) {
        (_, Some(seq)) => From::After(seq, now),
        (None, None) => From::Moment(now),
        (Some(text), None) => From::Moment(sys::parse_start(text, now).ok_or_else(|| {
            Error::usage(format!("`{text}` is no time")).hint("write 2025-11-08, 2025-11-08T03:00, yesterday, or 3 days ago")
        })?),
    };
    if let From::Moment(since) = from
        && since > now
    {
        return Err(Error::usage(format!(
            "--since {} is still to come, and a revocation counts at once",
            args.since.as_deref().unwrap_or_default()
        ))
        .hint("without --since it is revoked from now on, and all that it sealed stays"));
    }
    let opened = run.globals.open()?;
    let owner = keys::unlock(run.globals, &opened.vault)?;
    let report = revoke::run(&opened.vault, &opened.state, &owner, &args.sealer, from, args.dry_run)?;
    run.screen.data(&report, || text(&report))?;
    Ok(0)
}

/// Most snapshots listed for people.
const LISTED_MAX: usize = 50;

fn text(r: &Report) -> String {
    let line = |what: &str, row: &Row| {
        let time = row.time.as_deref().unwrap_or("of an unknown time");
        format!("  {what}  {}  {time}  {}\n", output::visible(&row.snapshot), row.words)
    };
    let mut text = match &r.list {
        Some(list) => format!("revoked {} since {} ({list})\n", output::visible(&r.sealer), r.since),
        None => format!("would revoke {} since {}\n", output::visible(&r.sealer), r.since),
    };
    text.push_str(&format!("  of its snapshots {} count, {} do not\n", output::count(r.kept), output::count(r.set_aside.len() as u64)));
    text.extend(r.last.iter().map(|row| line("last good", row)));
    text.extend(r.set_aside.iter().take(LISTED_MAX).map(|row| line("set aside", row)));
    if r.set_aside.len() > LISTED_MAX {
        text.push_str(&format!("  and {} more\n", output::count((r.set_aside.len() - LISTED_MAX) as u64)));
    }
    text
}
