//! `coffre verify`.

use std::{sync::Arc, time::Duration};

use crate::{
    cli::{Run, exit, keys, output, repair},
    error::{Error, Result},
    ops::verify::{self, Context, Depth, Extent, Report, Sample},
    sys,
    vault::{Expected, Finding, Reader},
};

/// Frames kept while everything is read once.
const CACHE_BYTES: u64 = 32 << 20;

/// Check the vault.
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
    #[command(flatten)]
    repair: repair::RepairArgs,
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
    let repaired = args.repair.run(run, None)?;
    let opened = run.globals.open()?;
    let unlocking = keys::unlocking(run.globals)?;
    // Only decoding needs a key; if one was brought all the same, damage is followed to the files.
    let owner = match depth == Depth::Chunks || !unlocking.is_empty() {
        true => Some(Arc::new(keys::open(run.globals, &opened.vault, unlocking).map_err(|e| match depth {
            Depth::Chunks if e.hint_text().is_none() => e.hint("--depth packs needs no key"),
            _ => e,
        })?)),
        false => None,
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
    let mut report = verify::run_some(&context, depth, Extent { sample: args.sample, within: args.within }, known)?;
    if let Some(repaired) = repaired {
        report.repaired = repaired.repaired;
    }
    report.damage.extend(reader.into_iter().flat_map(|(_, findings)| findings));
    report.damage.sort();
    report.damage.dedup_by(|a, b| a.object == b.object && a.text == b.text);
    run.screen.data(&report, || text(&report))?;
    if !report.forks.is_empty() {
        run.screen.warning("two machines, or two users of one, seal under one name; if you know of one only, somebody else has its key");
    }
    if report.is_clean() {
        return Ok(0);
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
    let suspect = r.damage.iter().filter(|f| !f.kind.is_damage()).count() + r.lost.len();
    let objects = match r.damaged_objects() {
        0 => None,
        1 => Some("1 object is damaged or missing".to_owned()),
        n => Some(format!("{n} objects are damaged or missing")),
    };
    let suspect = match suspect {
        0 => None,
        1 => Some("1 snapshot is not what it should be".to_owned()),
        n => Some(format!("{n} snapshots are not what they should be")),
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
        "{}: {} snapshots, {} objects, {}{}, {:.1} s ({what})\n",
        if r.is_clean() { "no damage" } else { "DAMAGE" },
        output::count(r.snapshots),
        output::count(r.objects),
        output::bytes(r.bytes),
        if r.chunks > 0 { format!(", {} chunks", output::count(r.chunks)) } else { String::new() },
        r.seconds
    ));
    if r.packs_read < r.packs && r.damage.is_empty() {
        text.push_str(&format!("{} of {} packs were read\n", output::count(r.packs_read), output::count(r.packs)));
    }
    if r.unreferenced > 0 {
        text.push_str(&format!(
            "{} objects are in no snapshot: left by a seal that did not finish, reused by the next\n",
            output::count(r.unreferenced)
        ));
    }
    text
}
