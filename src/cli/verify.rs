//! `coffre verify`.

use std::{sync::Arc, time::Duration};

use crate::{
    cli::{Run, exit, keys, look, output, repair},
    error::{Error, Result},
    ops::verify::{self, Context, Depth, Extent, Report, Sample},
    sys,
    vault::{Expected, Finding, Reader, select},
};

/// Frames kept while everything is read once.
const CACHE_BYTES: u64 = 32 << 20;

/// Check that everything is there, is what it was, and opens.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// How deep: signatures and that every object is there; every object read (no owner's key needed); everything decrypted and checked
    #[arg(long, value_name = "DEPTH", default_value = "packs", value_enum)]
    depth: DepthArg,
    /// This snapshot must be there: the words or the digits that `coffre head` or `coffre seal` printed, `web1:` before them if you like (repeatable)
    #[arg(long, value_name = "HEAD", value_parser = parse_head)]
    expect_head: Vec<Expected>,
    /// Read only a part of the packs, what was read longest ago first: `5%`, `2GiB`, or for so long: `10m`
    #[arg(long, value_name = "PART", value_parser = parse_sample)]
    sample: Option<Sample>,
    /// Read only packs that this host did not read so deep within so many days: `30d`
    #[arg(long, value_name = "DAYS", value_parser = parse_days)]
    within: Option<Duration>,
    /// Check only what this snapshot needs; takes an owner's key
    #[arg(long, value_name = "SNAP", conflicts_with_all = ["repair", "from_source"])]
    snapshot: Option<String>,
    #[command(flatten)]
    owner: keys::OwnerKey,
    #[command(flatten)]
    repair: repair::RepairArgs,
    /// What nothing mends: store it again from the files of this host, where they still are what they were. Names the files by an owner's key; without one, the next seal does it
    #[arg(long, requires = "repair")]
    from_source: bool,
}

pub fn parse_sample(text: &str) -> std::result::Result<Sample, String> {
    Sample::parse(text).map_err(|e| e.hint_text().unwrap_or_default().to_owned())
}

fn parse_days(text: &str) -> std::result::Result<Duration, String> {
    let days: Option<u32> = text.strip_suffix('d').unwrap_or(text).parse().ok();
    days.map(|days| Duration::from_secs(u64::from(days) * 86_400)).ok_or_else(|| "a number of days is wanted: 30d".to_owned())
}

const EXAMPLES: &str = "\
Examples:
  coffre verify --depth snapshots                      signatures, chains, that everything is there: each day
  coffre verify                                        every object against its hash: each week
  coffre --identity owner.key verify --depth chunks    all of it decrypted and checked, files named: each month
  coffre verify --expect-head web1:WORDS               what coffre head printed once: is it still there?
  coffre --identity owner.key verify --depth chunks --snapshot latest
  coffre verify --within 30d --sample 10m              what is due, ten minutes of it: each night
  coffre verify --repair --from /media/offsite/vault   damage put right, from parity, then from a copy
  coffre --identity owner.key verify --repair --from-source
  coffre --json verify | jq -r '.damage[] | [.kind, .object] | @tsv'

OPERATIONS.md says what each kind of finding means, and what to do about it.";

/// Reads a head as somebody wrote it down.
pub fn parse_head(text: &str) -> std::result::Result<Expected, String> {
    Expected::parse(text).ok_or_else(|| "six words of coffre head are wanted, or 17 to 64 hexadecimal digits of its id".to_owned())
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum DepthArg {
    Snapshots,
    Packs,
    Chunks,
}

/// Runs it.
pub fn run(run: &Run, args: &Args) -> Result<u8> {
    let depth = match args.depth {
        DepthArg::Snapshots => Depth::Snapshots,
        DepthArg::Packs => Depth::Packs,
        DepthArg::Chunks => Depth::Chunks,
    };
    run.globals.know(&args.owner);
    let mut repaired = args.repair.run(run, args.owner.owner_key.as_deref())?;
    let opened = run.globals.open()?;
    let unlocking = keys::unlocking(run.globals)?;
    // Only decoding needs a key; if one was brought all the same, damage is followed to the files.
    let owner = match depth == Depth::Chunks || args.snapshot.is_some() || !unlocking.is_empty() {
        true => Some(Arc::new(keys::open(run.globals, &opened.vault, unlocking).map_err(|e| match depth {
            Depth::Chunks if e.hint_text().is_none() => e.hint("--depth packs needs no key"),
            _ => e,
        })?)),
        false => None,
    };
    if let Some(repaired) = repaired.as_mut().filter(|_| args.from_source) {
        let done = repair::from_source(run, &opened, owner.as_ref(), &repaired.lost)?;
        repaired.lost.retain(|f| !done.replaced.contains(&f.object));
        if done.files > 0 {
            run.screen.note(&format!("files read again on this host: {}", output::count(done.files)));
        }
        for pack in &done.replaced {
            run.screen.note(&format!("all that is needed of {pack} is stored again; a prune deletes what is left of it in 14 days"));
        }
    }
    let snapshot = match &args.snapshot {
        Some(name) => Some(select(&opened.vault.snapshots(owner.as_ref().expect("asked for above"))?.0, &look::selector(run, name)?)?.id),
        None => None,
    };
    let reader = owner.map(|owner| Reader::open(opened.vault.clone(), owner, CACHE_BYTES)).transpose()?;
    let context = Context {
        vault: &opened.vault,
        reader: reader.as_ref().map(|(reader, _)| reader),
        state: &opened.state,
        expect: &args.expect_head,
        clock: &*run.clock,
        sink: &**run.screen,
        cancel: &run.cancel,
        workers: sys::available_cores(),
    };
    let has_key = reader.is_some();
    // A repair has read every object.
    let (depth, known) = match &repaired {
        Some(repaired) => (if depth == Depth::Packs { Depth::Snapshots } else { depth }, repaired.lost.clone()),
        None => (depth, Vec::new()),
    };
    let mut report = verify::run_some(&context, depth, Extent { sample: args.sample, within: args.within, snapshot }, known)?;
    if let Some(repaired) = repaired {
        report.repaired = repaired.repaired;
    }
    report.damage.extend(reader.into_iter().flat_map(|(_, findings)| findings));
    report.damage.sort();
    report.damage.dedup_by(|a, b| a.object == b.object && a.text == b.text);
    run.screen.data(&report, || text(&report))?;
    if !report.forks.is_empty() {
        run.screen.warning("two machines, or two users of one, seal under one name; if you know of one only, somebody else has its key, else: coffre head --accept");
    }
    if report.is_clean() {
        return Ok(if report.forks.is_empty() { 0 } else { exit::DAMAGE });
    }
    let error = Error::corrupt(match (what_is_wrong(&report), report.damaged_files.len()) {
        (objects, 0) => objects,
        // What it needs is gone, and nothing that is there names that.
        (objects, 1) if objects.is_empty() => "1 file is lost".to_owned(),
        (objects, n) if objects.is_empty() => format!("{n} files are lost"),
        (objects, 1) => format!("{objects}, and 1 file is lost with it"),
        (objects, n) => format!("{objects}, and {n} files are lost with it"),
    });
    let hint = match (report.damaged_files.is_empty(), has_key, report.damaged_objects()) {
        (_, _, 0) => "every line above says what to do about it",
        (true, false, _) => {
            "coffre verify --repair puts right what it can, --from PLACE takes the rest from another copy of the vault; with an owner's key verify names the files too"
        }
        (true, true, _) => {
            "no file is lost with it; coffre verify --repair puts right what it can, --from PLACE takes the rest from another copy of the vault"
        }
        (false, _, _) => {
            "coffre verify --repair puts right what it can, --from PLACE takes the rest from another copy of the vault; every file not named can be restored"
        }
    };
    run.screen.error(&error.hint(hint));
    Ok(exit::DAMAGE)
}

/// Counts what was found.
fn what_is_wrong(r: &Report) -> String {
    let suspects = || r.damage.iter().filter(|f| !f.kind.is_damage());
    let suspect = suspects().count() + r.lost.len();
    let keys = suspects().filter(|f| f.object.starts_with("keys/")).count();
    let what = match keys {
        0 => "snapshot",
        n if n == suspect => "key file",
        _ => "object",
    };
    let objects = match r.damaged_objects() {
        0 => None,
        1 => Some("1 object is damaged or missing".to_owned()),
        n => Some(format!("{n} objects are damaged or missing")),
    };
    let suspect = match suspect {
        0 => None,
        1 => Some(format!("1 {what} is not what it should be")),
        n => Some(format!("{n} {what}s are not what they should be")),
    };
    [objects, suspect].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// A finding in one line: what kind of line, the object, the kind of finding, the story, the next step.
pub fn finding_line(finding: &Finding, notice: bool) -> String {
    let word = match (notice, finding.kind.is_damage()) {
        (true, _) => "note   ",
        (false, true) => "damaged",
        (false, false) => "suspect",
    };
    format!("{word}  {}  {}: {}; {}\n", output::visible(&finding.object), finding.kind.word(), output::visible(&finding.text), finding.next)
}

fn text(r: &Report) -> String {
    let mut text = String::new();
    for repaired in &r.repaired {
        text.push_str(&repair::line(repaired));
    }
    text.extend(r.damage.iter().chain(&r.forks).chain(&r.lost).map(|finding| finding_line(finding, false)));
    text.extend(r.notices.iter().map(|finding| finding_line(finding, true)));
    for file in &r.damaged_files {
        text.push_str(&format!("lost     {}:{}  {}\n", &file.snapshot[..8], output::visible(&file.path), output::visible(&file.text)));
    }
    if r.damaged_files_more > 0 {
        text.push_str(&format!("lost     and {} more files\n", output::count(r.damaged_files_more)));
    }
    let what = match r.depth {
        Depth::Snapshots => "signatures, chain and presence",
        Depth::Packs => "every object read",
        Depth::Chunks => "every object read, every chunk and tree decoded",
    };
    text.push_str(&format!(
        "{}: {}, {}, {}{}, {:.1} s ({what})\n",
        if r.is_clean() { "no damage" } else { "DAMAGE" },
        output::counted(r.snapshots, "snapshot"),
        output::counted(r.objects, "object"),
        output::bytes(r.bytes),
        if r.chunks > 0 { format!(", {} chunks", output::count(r.chunks)) } else { String::new() },
        r.seconds
    ));
    if r.packs_read < r.packs && r.damage.is_empty() {
        text.push_str(&format!("{} of {} read\n", output::count(r.packs_read), output::counted(r.packs, "pack")));
    }
    if r.unreferenced > 0 {
        text.push_str(&format!(
            "{} in no snapshot: left by a seal that did not finish, reused by the next\n",
            output::counted(r.unreferenced, "object")
        ));
    }
    text
}
