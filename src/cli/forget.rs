//! `coffre forget`, `coffre undelete`, `coffre pin`, `coffre unpin`.

use crate::{
    cli::{Opened, Run, keys, output},
    error::{Error, Result},
    ops::{
        decided,
        forget::{self, GroupBy, Options, Policy, Report, Row},
        pins, undelete,
    },
    sys::{Calendar, parse_span},
    vault::{OwnerKeys, Selector},
};

/// Forget snapshots that no rule keeps, or that are named.
///
/// Needs an owner's key. Nothing is deleted yet. A forgotten snapshot is no longer listed, mounted or meant by `latest`; `coffre prune` frees
/// its space after a grace time, and until then `coffre undelete` brings it back. Rules count the snapshots of each group by themselves, newest first, and a snapshot stays if any rule keeps it.
/// A snapshot whose host had a false clock, or that came in a flood, never pushes out another one. And whatever a host seals, and whatever it
/// says of the time, it pushes out no more than one hour, day, week an hour, day, week: rules count once by the times that hosts tell, and once
/// by when the store got the snapshots, and what either keeps is kept.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  coffre forget --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --dry-run
  coffre forget --keep-within 30d --keep-yearly 10 --keep-tag release
  coffre forget --keep-last 1 --host old-laptop
  coffre forget 1a2b3c4d latest~3")]
pub struct ForgetArgs {
    /// Snapshots to forget, by name: an id, `latest~2`, a time, a place such as `host1/41`
    #[arg(value_name = "SNAP", conflicts_with_all = ["keep_last", "keep_hourly", "keep_daily", "keep_weekly", "keep_monthly", "keep_yearly", "keep_within", "keep_tag", "host"])]
    snapshots: Vec<String>,
    /// Keep the newest N, and the newest of each of the last N days that have any: so nobody pushes out days by sealing often
    #[arg(long, value_name = "N")]
    keep_last: Option<usize>,
    /// Keep the newest of each of the last N hours that have any
    #[arg(long, value_name = "N")]
    keep_hourly: Option<usize>,
    /// Keep the newest of each of the last N days that have any
    #[arg(long, value_name = "N")]
    keep_daily: Option<usize>,
    /// Keep the newest of each of the last N weeks (from Monday) that have any
    #[arg(long, value_name = "N")]
    keep_weekly: Option<usize>,
    /// Keep the newest of each of the last N months that have any
    #[arg(long, value_name = "N")]
    keep_monthly: Option<usize>,
    /// Keep the newest of each of the last N years that have any
    #[arg(long, value_name = "N")]
    keep_yearly: Option<usize>,
    /// Keep what is at most this much older than the newest of its group: `30d`, `12h`, `8w`, `1y`
    #[arg(long, value_name = "TIME")]
    keep_within: Option<String>,
    /// Keep what has this tag (repeatable)
    #[arg(long, value_name = "TAG")]
    keep_tag: Vec<String>,
    /// Judge only snapshots of this host, or of this sealer (repeatable)
    #[arg(long, value_name = "NAME")]
    host: Vec<String>,
    /// What snapshots must have in common to be counted together: some of `host`, `paths`, `tags`, joined by commas, or `none`
    #[arg(long, value_name = "WHAT", default_value = "host,paths")]
    group_by: String,
    /// Time zone in which hours, days, weeks, months and years begin: `UTC`, `Europe/Berlin`; else this machine's
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
    /// Only show what would be decided
    #[arg(long)]
    dry_run: bool,
    /// Even if the clock looks wrong, or a host loses its last snapshot
    #[arg(long)]
    force: bool,
}

/// Bring back forgotten snapshots.
///
/// Possible until `prune` deletes what they hold. Needs an owner's key.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  coffre prune --list
  coffre undelete 1a2b3c4d")]
pub struct UndeleteArgs {
    /// First digits of the ids, or places such as `host1/41`
    #[arg(value_name = "ID", required = true)]
    snapshots: Vec<String>,
}

/// Keep snapshots whatever a policy says, until `unpin`.
///
/// Needs an owner's key.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  coffre pin 2025-11-08
  coffre pin host1/41
  coffre unpin 1a2b3c4d")]
pub struct PinArgs {
    /// The snapshots: an id, `latest`, a time, a place such as `host1/41`
    #[arg(value_name = "SNAP", required = true)]
    snapshots: Vec<String>,
}

/// Forgets.
pub fn forget(run: &Run, args: &ForgetArgs) -> Result<u8> {
    let options = options(run, args)?;
    let opened = run.globals.open()?;
    let owner = keys::unlock(run.globals, &opened.vault)?;
    decided::check(&opened.vault, &owner, &opened.state)?;
    let report = forget::run(&opened.vault, &owner, run.clock.now_ns(), &options)?;
    remember(run, &opened, &owner, report.record.is_some());
    run.screen.data(&report, || text(&report, options.named.is_empty()))?;
    for finding in &report.findings {
        run.screen.warning(&format!("{}: {}", finding.object, finding.text));
    }
    if report.record.is_some() {
        run.screen.note("coffre prune frees the space; coffre undelete ID brings one back until then");
    }
    Ok(0)
}

/// Remembers what was decided, if anything was. The decision holds all the same if that fails.
pub(super) fn remember(run: &Run, opened: &Opened, owner: &OwnerKeys, is_news: bool) {
    if is_news && let Err(e) = decided::remember(&opened.vault, owner, &opened.state) {
        run.screen.note(&format!("this machine cannot remember what was decided: {}", e.chain()));
    }
}

fn options(run: &Run, args: &ForgetArgs) -> Result<Options> {
    let within_ns = args.keep_within.as_deref().map(|text| {
        parse_span(text).ok_or_else(|| Error::usage(format!("`{text}` is no length of time")).hint("write 30d, 12h, 8w, 6mo or 1y"))
    });
    let policy = Policy {
        last: args.keep_last.unwrap_or(0),
        hourly: args.keep_hourly.unwrap_or(0),
        daily: args.keep_daily.unwrap_or(0),
        weekly: args.keep_weekly.unwrap_or(0),
        monthly: args.keep_monthly.unwrap_or(0),
        yearly: args.keep_yearly.unwrap_or(0),
        within_ns: within_ns.transpose()?,
        tags: args.keep_tag.clone(),
    };
    if args.snapshots.is_empty() && policy.is_empty() {
        return Err(Error::usage("what is to be kept?")
            .hint("give a rule, such as --keep-daily 7 --keep-weekly 5 --keep-monthly 12, or name the snapshots to forget"));
    }
    let mut by = GroupBy { host: false, paths: false, tags: false };
    for word in args.group_by.split(',').filter(|word| !word.is_empty() && *word != "none") {
        match word {
            "host" => by.host = true,
            "paths" => by.paths = true,
            "tags" => by.tags = true,
            _ => return Err(Error::usage(format!("`{word}` is nothing to group by")).hint("use host, paths and tags, joined by commas")),
        }
    }
    let calendar = match &args.time_zone {
        None => Calendar::system(),
        Some(zone) => {
            let unknown =
                || Error::usage(format!("this machine knows no time zone `{zone}`")).hint("write UTC, or a name such as Europe/Berlin");
            Calendar::named(zone).ok_or_else(unknown)?
        }
    };
    let now = run.clock.now_ns();
    let named = args.snapshots.iter().map(|text| Selector::parse(text, now)).collect::<Result<_>>()?;
    Ok(Options { policy, by, named, hosts: args.host.clone(), calendar, dry_run: args.dry_run, force: args.force })
}

fn text(report: &Report, by_policy: bool) -> String {
    let cells: Vec<Vec<String>> = report.snapshots.iter().map(|row| cells(row, by_policy)).collect();
    let mut text = match cells.is_empty() {
        true => String::new(),
        false => output::columns(&["", "ID", "COUNTS AS", "HOST", "PATHS", "WHY"], &cells),
    };
    if by_policy {
        text += &format!("hours, days, weeks, months and years are those of {}\n", report.time_zone);
    }
    let would = if report.dry_run { " (dry run: nothing was changed)" } else { "" };
    // Of those that were not named, nobody asked.
    let kept = if by_policy { format!("{} kept, ", report.kept) } else { String::new() };
    text + &format!("{kept}{} forgotten{would}\n", report.forgotten)
}

fn cells(row: &Row, by_policy: bool) -> Vec<String> {
    let mut why: Vec<String> = row.reasons.iter().map(ToString::to_string).collect();
    if why.is_empty() {
        why.push(if by_policy { "no rule keeps it" } else { "asked for by name" }.to_owned());
    }
    let doubt = row.doubt.map(|doubt| format!("{}: pushes out no other", doubt.text()));
    why.extend(doubt.filter(|_| row.keep));
    vec![
        if row.keep { "keep" } else { "forget" }.to_owned(),
        row.id[..8].to_owned(),
        row.counts.clone(),
        row.host.clone(),
        row.paths.join(" "),
        why.join(", "),
    ]
}

/// Brings back.
pub fn undelete(run: &Run, args: &UndeleteArgs) -> Result<u8> {
    let opened = run.globals.open()?;
    let owner = keys::unlock(run.globals, &opened.vault)?;
    decided::check(&opened.vault, &owner, &opened.state)?;
    let report = undelete::run(&opened.vault, &owner, run.clock.now_ns(), &args.snapshots)?;
    remember(run, &opened, &owner, true);
    let text = || report.snapshots.iter().map(|id| format!("{} is back\n", &id[..8])).collect();
    run.screen.data(&report, text)?;
    Ok(0)
}

/// Pins, or unpins.
pub fn pin(run: &Run, args: &PinArgs, pin: bool) -> Result<u8> {
    let now = run.clock.now_ns();
    let named: Vec<Selector> = args.snapshots.iter().map(|text| Selector::parse(text, now)).collect::<Result<_>>()?;
    let opened = run.globals.open()?;
    let owner = keys::unlock(run.globals, &opened.vault)?;
    decided::check(&opened.vault, &owner, &opened.state)?;
    let report = pins::run(&opened.vault, &owner, now, &named, pin)?;
    remember(run, &opened, &owner, report.record.is_some());
    let state = if pin { "pinned" } else { "not pinned" };
    run.screen.data(&report, || report.snapshots.iter().map(|id| format!("{} is {state}\n", &id[..8])).collect())?;
    Ok(0)
}
