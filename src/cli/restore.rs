//! `coffre restore`.

mod dry_run;

use std::{
    ffi::OsString,
    io::{BufRead, Write},
    path::PathBuf,
};

use crate::{
    cli::{DISK_CACHE_BYTES, Run, complete, exit, keys, look, mount::parse_owner, output},
    error::{Error, Result},
    ops::restore::{self, Context, Extra, Options, Owner, Place, Report, Wanted},
    sys,
};

/// Frames kept while directories are read; content is decoded past the cache, each frame once.
const CACHE_BYTES: u64 = 32 << 20;

/// Restore a snapshot, or a part of one, without a mount.
///
/// A directory's content goes straight into DIR, which takes its owner, mode and times; a file goes into DIR under its own name; a whole
/// snapshot brings full paths. What stands in DIR already is compared by size and time, and only what differs is fetched: the same command
/// goes on after an interruption. A file is replaced when the new one is whole. Nothing is written outside DIR, whatever links are in it.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Snapshot, and path in it: `latest`, `latest:/etc/nginx`, `1a2b3c4d:/etc/hosts`, `yesterday:/srv`
    #[arg(value_name = "SNAP[:PATH]", add = complete::snap_path())]
    what: OsString,
    /// Where to; made if it is not there
    #[arg(long, value_name = "DIR", required_unless_present = "in_place")]
    to: Option<PathBuf>,
    /// Back to where it was: onto the same absolute path. Of several hosts in a vault it must be this one, or be named: `web2@latest`
    #[arg(long, conflicts_with = "to")]
    in_place: bool,
    /// Delete what the snapshot lacks, after listing it and asking. Only in what was sealed; sockets and other file systems stay
    #[arg(long)]
    delete: bool,
    /// Delete without asking
    #[arg(long, requires = "delete")]
    yes: bool,
    /// Read everything back from the disk afterwards, and compare
    #[arg(long)]
    verify: bool,
    /// List what would be made (+), replaced (~), set right (.) and deleted (-), and change nothing
    #[arg(long, short = 'n', conflicts_with_all = ["yes", "verify"])]
    dry_run: bool,
    /// Only what fits this pattern, with all that is below it (repeatable; rules of gitignore, on paths in the snapshot)
    #[arg(long, value_name = "GLOB")]
    include: Vec<OsString>,
    /// Not what fits this pattern (repeatable; `!GLOB` takes back)
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<OsString>,
    /// Compare what is there by content, not by size and time
    #[arg(long)]
    by_content: bool,
    /// Give everything to this user and group
    #[arg(long, value_name = "UID:GID", value_parser = parse_owner, conflicts_with = "no_owner")]
    owner: Option<(u32, u32)>,
    /// Leave owners as they come: everything belongs to who restores it
    #[arg(long)]
    no_owner: bool,
    #[command(flatten)]
    vault_owner: keys::OwnerKey,
    /// Set no extended attributes and no ACLs
    #[arg(long)]
    no_xattrs: bool,
}

const EXAMPLES: &str = "Examples:
  coffre restore latest:/home/u/studio --to /srv/back        the directory studio, as /srv/back
  coffre restore latest --to /srv/all                        everything, with full paths below /srv/all
  coffre restore yesterday:/home/u/studio/app.py --to /tmp   one file, as /tmp/app.py
  coffre restore latest:/etc --to /srv/etc --include '*.conf'
  coffre restore latest:/etc/nginx/nginx.conf --in-place     one file back to its place, with its owner
  coffre restore 2025-11-08:/srv/site --in-place --delete --dry-run
                                                             what it would take to go back to that day";

/// Deletions that are listed before the question; a dry run lists all.
const LISTED_MAX: usize = 200;

/// Runs it.
pub fn run(run: &Run, args: &Args) -> Result<u8> {
    run.globals.know(&args.vault_owner);
    let (selector, path) = look::snap_path(run, &args.what)?;
    if args.in_place && args.delete && path.is_empty() && !args.yes && !args.dry_run {
        return Err(Error::usage("this would delete everything in the sealed paths that the snapshot lacks")
            .hint("look at it with --dry-run first, then say --yes"));
    }
    let opened = run.globals.open_to_read(DISK_CACHE_BYTES)?;
    let options = Options {
        path,
        place: match &args.to {
            Some(to) => Place::Into(std::path::absolute(to).map_err(|e| Error::io(format!("cannot use {}", to.display()), e))?),
            None => Place::Original,
        },
        vault: opened.path.clone(),
        spared: vec![opened.state.path().to_owned()],
        delete: args.delete,
        verify: args.verify,
        wanted: Wanted::new(&args.include, &args.exclude)?,
        owner: match (args.owner, args.no_owner) {
            (Some((uid, gid)), _) => Owner::Given(uid, gid),
            (None, true) => Owner::Mine,
            (None, false) => Owner::AsSealed,
        },
        xattrs: !args.no_xattrs,
        by_content: args.by_content,
        workers: sys::available_cores(),
    };
    let here = args.in_place.then(|| opened.host()).transpose()?;
    let (reader, snapshot) = look::one(run, &opened, &selector, CACHE_BYTES, here.as_deref())?;
    let context = Context { reader: &reader, snapshot: &snapshot, clock: &*run.clock, sink: &**run.screen, cancel: &run.cancel };
    if args.dry_run {
        return dry_run::run(run, &context, &options);
    }
    let extras = if args.delete { restore::extras(&context, &options)? } else { Vec::new() };
    approve(run, &extras, args.yes)?;
    let report = restore::run(&context, &options, &extras)?;
    run.screen.data(&report, || text(&report))?;
    Ok(ended(run, &report))
}

/// Lists what is going to be deleted, and asks, unless that was answered.
fn approve(run: &Run, extras: &[Extra], yes: bool) -> Result<()> {
    let entries = extras.iter().map(|extra| extra.entries).sum::<u64>();
    if extras.is_empty() {
        return Ok(());
    }
    for extra in extras.iter().take(LISTED_MAX) {
        let below = if extra.entries > 1 { format!(" and {} in it", files(extra.entries - 1)) } else { String::new() };
        let slash = if extra.directory { "/" } else { "" };
        run.screen.said(&format!("- {}{slash}{below}", output::visible(&extra.path)));
    }
    if extras.len() > LISTED_MAX {
        run.screen.said(&format!("- and {} more", output::count((extras.len() - LISTED_MAX) as u64)));
    }
    if yes {
        return Ok(());
    }
    if !std::io::IsTerminal::is_terminal(&std::io::stdin()) {
        return Err(Error::usage(format!("--delete would remove {}, and nobody is here to be asked", files(entries)))
            .hint("look at the list above, then say --yes"));
    }
    let _ = write!(std::io::stderr(), "delete {}, and restore? [y/N] ", files(entries));
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.map_err(|e| Error::io("cannot read the answer", e))?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Error::new(crate::error::ErrorKind::Cancelled, "nothing was deleted or restored")),
    }
}

/// Says what is not as it should be, and returns the exit code.
fn ended(run: &Run, report: &Report) -> u8 {
    let (lost, problems, not_set) = (report.lost.count(), report.problems.count(), report.not_set.count());
    if lost > 0 {
        let error = Error::corrupt(format!("{} could not be restored: their content is damaged in the vault", files(lost)));
        run.screen
            .error(&error.hint("coffre verify --repair puts right what it can; an older snapshot or another copy may have them whole"));
        return exit::DAMAGE;
    }
    if problems > 0 {
        run.screen.warning(&format!("{} could not be restored; all others are there", files(problems)));
    }
    if not_set > 0 {
        run.screen.warning(&unset(report));
    }
    if problems + not_set > 0 { exit::INCOMPLETE } else { 0 }
}

fn files(n: u64) -> String {
    if n == 1 { "1 entry".to_owned() } else { format!("{} entries", output::count(n)) }
}

/// What could not be set, in one sentence.
fn unset(report: &Report) -> String {
    let n = &report.not_set;
    let kinds = [(n.owners, "owners"), (n.modes, "modes"), (n.times, "times"), (n.xattrs, "sets of attributes"), (n.acls, "access lists")];
    let counted: Vec<String> =
        kinds.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{} {what}", output::count(*count))).collect();
    let first =
        n.first.as_ref().map_or_else(String::new, |first| format!("; the first: {}: {}", output::visible_bytes(&first.bytes), first.text));
    let hint = if n.owners > 0 && !sys::is_root() { "; only root gives files to others: run it as root, or with --no-owner" } else { "" };
    format!("could not set {}{first}{hint}", counted.join(", "))
}

fn text(r: &Report) -> String {
    let mut text = String::new();
    for (word, failures) in [("lost  ", &r.lost), ("failed", &r.problems)] {
        for file in &failures.files {
            text.push_str(&format!("{word}  {}  {}\n", output::visible_bytes(&file.bytes), output::visible(&file.text)));
        }
        if failures.more > 0 {
            text.push_str(&format!("{word}  and {} more\n", output::count(failures.more)));
        }
    }
    let path = if r.path.is_empty() { "/" } else { &r.path };
    text.push_str(&format!("restored {}:{} to {}\n", &r.snapshot[..8], output::visible(path), output::visible(&r.target)));
    let d = &r.done;
    text.push_str(&format!(
        "  {} files written, {}; {} directories, {} links and others\n",
        output::count(d.files),
        output::bytes(d.bytes),
        output::count(d.directories),
        output::count(d.others)
    ));
    if d.files_unchanged + d.metadata_only + d.replaced > 0 {
        text.push_str(&format!(
            "  {} files were right already, {} replaced, {} had only owner, mode, time or attributes put right\n",
            output::count(d.files_unchanged),
            output::count(d.replaced),
            output::count(d.metadata_only)
        ));
    }
    if d.deleted > 0 {
        text.push_str(&format!("  {} deleted\n", files(d.deleted)));
    }
    if d.verified > 0 {
        text.push_str(&format!("  {} files read back and compared\n", output::count(d.verified)));
    }
    let rate = (d.bytes as f64 / r.seconds.max(0.001)) as u64;
    text.push_str(&format!("  {:.1} s, {}/s, {} of memory\n", r.seconds, output::bytes(rate), output::bytes(r.peak_memory_bytes)));
    text
}
