//! `coffre status`.

use std::time::Duration;

use crate::{
    cli::{Run, exit, keys, output},
    error::{Error, Result},
    ops::status::{self, Context, CoverageRow, HostRow, Objectives, Report, span},
    sys::parse_span,
};

/// Within this time every pack is to be read, unless told otherwise.
const WITHIN: &str = "30d";

/// Show when each host sealed last, how much of the vault was read back, and what waits to be deleted. Needs no key.
///
/// Coverage is what this host's `verify` found whole, by copy and depth: `verify --within 30d` reads what is due. Exit code 5 if something that was
/// asked for with --max-age or --within is not so.
#[derive(clap::Args)]
pub struct Args {
    /// The newest snapshot of each host must be no older than this: `26h`, `8d`
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    max_age: Option<Duration>,
    /// Every pack must have been read by this host within this time; counted by 30 days if it is not given
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    within: Option<Duration>,
}

fn parse_time(text: &str) -> std::result::Result<Duration, String> {
    let ns = parse_span(text).and_then(|ns| u64::try_from(ns / 1_000_000_000).ok());
    ns.map(Duration::from_secs).ok_or_else(|| "write 26h, 8d, 4w or 6mo".to_owned())
}

/// Runs it.
pub fn run(run: &Run, args: &Args) -> Result<u8> {
    let opened = run.globals.open()?;
    let unlocking = keys::unlocking(run.globals)?;
    let owner = match unlocking.is_empty() {
        true => None,
        false => Some(keys::open(run.globals, &opened.vault, unlocking)?),
    };
    // A place is not asked for what it is called: it may be far away, or in a drawer.
    let copies: Vec<String> = opened.state.copies()?.into_iter().map(|copy| copy.place).collect();
    let context = Context { vault: &opened.vault, owner: owner.as_ref(), state: &opened.state, copies: &copies, clock: &*run.clock };
    let objectives = Objectives {
        max_age: args.max_age,
        within: args.within.unwrap_or_else(|| parse_time(WITHIN).expect("a length of time")),
        must_be_read: args.within.is_some(),
    };
    let report = status::run(&context, &objectives)?;
    run.screen.data(&report, || text(&report))?;
    if report.findings > 0 {
        run.screen.error(
            &Error::corrupt(format!("{} things are not as they should be", report.findings))
                .hint("coffre verify says what, and what to do"),
        );
        return Ok(exit::DAMAGE);
    }
    if report.missed.is_empty() {
        return Ok(0);
    }
    report.missed.iter().for_each(|text| run.screen.warning(&output::visible(text)));
    Ok(exit::MISSED)
}

fn text(r: &Report) -> String {
    let hosts: Vec<Vec<String>> = r.hosts.iter().map(host).collect();
    let proofs: Vec<Vec<String>> = r.proofs.iter().filter(|row| row.copy == r.vault || row.read_packs > 0).map(proof).collect();
    let parity = match r.parity_percent {
        0 => "without parity".to_owned(),
        n => format!("parity {n} %: so much of each pack may be damaged, and everything else is kept twice"),
    };
    let mut text = format!(
        "vault      {}, {parity}\nsnapshots  {}{}\n\n{}\n{}",
        output::visible(&r.vault),
        output::count(r.snapshots),
        if r.forgotten > 0 { format!(", and {} forgotten that can still come back", output::count(r.forgotten)) } else { String::new() },
        output::columns(&["HOST", "NEWEST", "SEALED", "AGE", "HEAD"], &hosts),
        output::columns(&["COPY", "DEPTH", "READ", "OLDEST", &format!("DUE ({})", span(r.within_secs)), "NEXT DUE"], &proofs),
    );
    for row in r.proofs.iter().filter(|row| row.copy == r.vault) {
        if let Some(pack) = &row.oldest_unread {
            let since = row.oldest_unread_since.as_ref().map(|since| format!(", sealed {since}")).unwrap_or_default();
            text.push_str(&format!("never read at depth {}: {} packs, the oldest {pack}{since}\n", row.depth, row.packs - row.read_packs));
        }
    }
    for w in &r.waiting {
        let due = if w.is_due { "the next prune, if every sealer knows".to_owned() } else { format!("a prune after {}", w.due) };
        text.push_str(&format!("waiting    {} objects condemned {} go with {due}\n", output::count(w.objects), w.since));
    }
    text
}

fn host(row: &HostRow) -> Vec<String> {
    let or = |fact: Option<String>| fact.unwrap_or_else(|| "-".to_owned());
    let revoked = row.revoked.as_ref().map(|since| format!("  (revoked since {since})")).unwrap_or_default();
    vec![
        row.sealer.clone(),
        or(row.seq.map(|seq| seq.to_string())),
        or(row.sealed.clone()),
        or(row.age_secs.map(span)),
        or(row.words.clone()) + &revoked,
    ]
}

fn proof(row: &CoverageRow) -> Vec<String> {
    let percent = if row.bytes == 0 { 100.0 } else { row.read_bytes as f64 * 100.0 / row.bytes as f64 };
    vec![
        output::visible(&row.copy),
        row.depth.to_owned(),
        format!("{} of {} packs, {percent:.0} %", output::count(row.read_packs), output::count(row.packs)),
        row.oldest_read.clone().unwrap_or_else(|| "-".to_owned()),
        format!("{}, {}", output::count(row.due_packs), output::bytes(row.due_bytes)),
        row.next_due.clone().unwrap_or_else(|| if row.due_packs > 0 { "now".to_owned() } else { "-".to_owned() }),
    ]
}
