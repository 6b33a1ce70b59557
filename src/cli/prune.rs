//! `coffre prune`.

use std::sync::Arc;

use crate::{
    cli::{Run, forget::remember, keys, mount::parse_size, output},
    error::{Error, Result},
    ops::{
        decided,
        prune::{self, Context, List, Options, Report},
    },
    sys::{self, parse_span},
    vault::Reader,
};

/// The grace unless told otherwise.
const GRACE: &str = "14d";
/// Frames of nodes that are kept while trees are marked.
const CACHE_BYTES: u64 = 128 << 20;

/// Free the space of forgotten snapshots, in two steps with a grace between them.
///
/// Needs an owner's key, and the right to delete. Nobody has to wait for it: what is dead is condemned, by a signed record, and deleted by a
/// later run once the grace is over and every sealer knows. Run it every night. Sealing, mounting and verifying go on all the while, on this host and on others. Interrupted anywhere, it begins
/// again and nothing is lost.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  coffre prune --dry-run
  coffre prune
  coffre prune --list
  coffre prune --max-unused 0% --repack-small
  coffre prune --max-rewrite 2GiB
  coffre prune --grace 0          # nothing comes back after this")]
pub struct Args {
    /// How much of what is left may be dead: packs are written anew, the emptiest first, until it is no more than that
    #[arg(long, value_name = "PERCENT", default_value = "5%", value_parser = parse_percent)]
    max_unused: u64,
    /// Read no more than this of content packs to write them anew; the next run goes on
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_rewrite: Option<u64>,
    /// Put small packs together
    #[arg(long)]
    repack_small: bool,
    /// How long what is condemned stays, so that `undelete` can bring it back and every sealer can learn of it: `14d` (the default), `12h`.
    /// Where it is given, what was condemned before waits no longer than that either
    #[arg(long, value_name = "TIME")]
    grace: Option<String>,
    /// Show what is waiting, and until when; change nothing
    #[arg(long, conflicts_with_all = ["dry_run", "force", "max_rewrite", "repack_small"])]
    list: bool,
    /// Show the plan; change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not wait for sealers that do not say that they know what is condemned, or seem to be at work
    #[arg(long)]
    force: bool,
}

/// Reads `5%`, `2.5%`, as parts of 1,000.
fn parse_percent(text: &str) -> std::result::Result<u64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse::<f64>().ok().filter(|n| (0.0..=100.0).contains(n));
    number.map(|n| (n * 10.0).round() as u64).ok_or_else(|| "write a part of what is left, such as 5%".to_owned())
}

/// Runs it.
pub fn run(run: &Run, args: &Args) -> Result<u8> {
    let grace = args.grace.as_deref().unwrap_or(GRACE);
    let grace_secs = parse_span(grace)
        .and_then(|ns| u64::try_from(ns / 1_000_000_000).ok())
        .ok_or_else(|| Error::usage(format!("`{grace}` is no length of time")).hint("write 14d, 12h or 0"))?;
    let opened = run.globals.open()?;
    let owner = Arc::new(keys::unlock(run.globals, &opened.vault)?);
    decided::check(&opened.vault, &owner, &opened.state)?;
    let (reader, _) = Reader::open(opened.vault.clone(), owner.clone(), CACHE_BYTES)?;
    let context = Context {
        vault: &opened.vault,
        reader: &reader,
        clock: &*run.clock,
        sink: &**run.screen,
        cancel: &run.cancel,
        workers: sys::available_cores(),
    };
    if args.list {
        let list = prune::list(&context)?;
        run.screen.data(&list, || list_text(&list, run.clock.now_ns()))?;
        return Ok(0);
    }
    let options = Options {
        max_unused_permille: args.max_unused,
        max_rewrite: args.max_rewrite,
        repack_small: args.repack_small,
        grace_secs,
        shorten: args.grace.is_some(),
        dry_run: args.dry_run,
        force: args.force,
    };
    let report = prune::run(&context, &options);
    // Also of one that failed half way.
    remember(run, &opened, &owner, !args.dry_run);
    let report = report?;
    run.screen.data(&report, || text(&report))?;
    Ok(0)
}

fn text(r: &Report) -> String {
    let (b, n) = (output::bytes, output::count);
    let mut text = String::new();
    if r.deleted_objects > 0 {
        text += &format!("deleted    {} objects, {}\n", n(r.deleted_objects), b(r.deleted_bytes));
    }
    if r.spared_objects > 0 {
        text += &format!("spared     {} objects that were condemned and are needed after all\n", n(r.spared_objects));
    }
    let p = &r.plan;
    text += &format!("marked     {} snapshots, {} directories, {} chunks\n", n(r.snapshots), n(r.nodes), n(r.chunks));
    text += &format!("packs      {} stay, {} are written anew, {} go\n", n(p.packs_kept), n(p.packs_rewritten), n(p.packs_deleted));
    let won = p.bytes_before.saturating_sub(r.bytes_after);
    text += &format!("size       {} -> {}, {} won\n", b(p.bytes_before), b(r.bytes_after), b(won));
    text += &format!("unused     {} -> {}\n", b(p.unused_before), b(p.unused_after));
    if p.packs_rewritten > 0 {
        let (read, written) = (b(p.bytes_read), b(p.bytes_written));
        text += &format!(
            "rewriting  {} packs read ({read}), {} written ({written}), about {:.0} s\n",
            n(p.objects_read),
            n(p.objects_written),
            p.seconds.ceil()
        );
    }
    if r.loose.objects > 0 {
        text += &format!(
            "loose      {} objects ({}) that nothing names: left by what died; they go when they are old enough\n",
            n(r.loose.objects),
            b(r.loose.bytes)
        );
    }
    if r.dry_run {
        let manifests = if r.forgotten > 0 { format!(", {} forgotten snapshots with them", n(r.forgotten)) } else { String::new() };
        text += &format!(
            "would be condemned: {} objects ({}){manifests} (dry run: nothing was changed)\n",
            n(r.condemned_objects),
            b(r.condemned_bytes)
        );
    } else if r.record.is_some() {
        text += &format!("condemned  {} objects, {}\n", n(r.condemned_objects), b(r.condemned_bytes));
    }
    text + &waiting(&r.waiting)
}

fn waiting(waiting: &[prune::Waiting]) -> String {
    let mut text = String::new();
    for w in waiting {
        let why = if w.reasons.is_empty() { "the next prune".to_owned() } else { w.reasons.join("; ") };
        let again = if w.wanted > 0 { format!(", {} more are needed again and stay", output::count(w.wanted)) } else { String::new() };
        text += &format!(
            "waiting    {} objects ({}) condemned {}{again}: {}\n",
            output::count(w.objects),
            output::bytes(w.bytes),
            w.since,
            output::visible(&why)
        );
    }
    text
}

fn list_text(list: &List, now_ns: i128) -> String {
    if list.snapshots.is_empty() && list.waiting.is_empty() {
        return "nothing waits\n".to_owned();
    }
    // The next prune condemns it, one after the grace deletes it.
    let unplanned = format!("not before {}, as no prune has condemned it yet", sys::utc_text(now_ns + parse_span(GRACE).unwrap_or(0)));
    let unknown = || "?".to_owned();
    let row = |s: &prune::Pending| {
        let (time, host) = (s.time.clone().unwrap_or_else(unknown), s.host.as_deref().map_or_else(unknown, output::visible));
        let until = s.until.as_ref().map_or_else(|| unplanned.clone(), |until| format!("not before {until}"));
        vec![s.id[..8].to_owned(), s.snapshot.clone(), time, host, s.forgotten.clone(), until]
    };
    let rows: Vec<Vec<String>> = list.snapshots.iter().map(row).collect();
    let text = match rows.is_empty() {
        true => String::new(),
        false => output::columns(&["ID", "SNAPSHOT", "SEALED", "HOST", "FORGOTTEN", "DELETED"], &rows),
    };
    text + &waiting(&list.waiting)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read() {
        assert_eq!([parse_percent("5%"), parse_percent("2.5"), parse_percent("0%")], [Ok(50), Ok(25), Ok(0)]);
        assert!(parse_percent("-1%").is_err() && parse_percent("101%").is_err() && parse_percent("much").is_err());
    }
}
