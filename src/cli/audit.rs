//! `coffre audit`.

use crate::{
    cli::{Run, exit, keys, output, repair, verify},
    error::{Error, Result},
    ops::audit::{self, Context, Report, Trust},
    sys,
    vault::Expected,
};

/// Check all that can be checked without any secret, on the machine that stores the vault
///
/// Reads every object and holds it against its hash; checks who signed each snapshot, and that none is missing, moved, foreign,
/// unsigned or signed by a revoked sealer. Says what it cannot know. Exit code 4 if anything is wrong. README.txt in the vault does the same
/// with ssh-keygen and b3sum.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    owner: keys::OwnerKey,
    /// This snapshot must be there: the words or the digits that `coffre head` or `coffre seal` printed (repeatable)
    #[arg(long, value_name = "HEAD", value_parser = verify::parse_head)]
    expect_head: Vec<Expected>,
    #[command(flatten)]
    repair: repair::RepairArgs,
}

const EXAMPLES: &str = "\
Examples:
  coffre --vault /srv/vault audit                                        a first look; says what it cannot know
  coffre --vault /srv/vault audit --owner-key 'ssh-ed25519 AAAA…'        the owner line of the recovery kit
  coffre --vault /srv/vault audit --owner-key /etc/coffre/owner.pub --expect-head web1:WORDS
  coffre --vault /srv/vault --json audit | jq -r '.findings[] | [.kind, .object] | @tsv'";

/// Runs it.
pub fn run(run: &Run, args: &Args) -> Result<u8> {
    let repaired = args.repair.run(run, args.owner.owner_key.as_deref())?;
    let opened = run.globals.open()?;
    let context = Context {
        vault: &opened.vault,
        owner: args.owner.owner_key.as_deref(),
        state: &opened.state,
        expect: &args.expect_head,
        clock: &*run.clock,
        sink: &**run.screen,
        cancel: &run.cancel,
        workers: sys::available_cores(),
    };
    let mut report = audit::run(&context)?;
    report.repaired = repaired.map(|r| r.repaired).unwrap_or_default();
    run.screen.data(&report, || text(&report))?;
    if report.findings.is_empty() {
        return Ok(0);
    }
    let what = match report.findings.len() {
        1 => "1 thing is not as it should be".to_owned(),
        n => format!("{n} things are not as they should be"),
    };
    run.screen.error(
        &Error::corrupt(what)
            .hint("every line above says what to do about it; an owner's key tells which files it reaches (coffre verify)"),
    );
    Ok(exit::DAMAGE)
}

fn text(r: &Report) -> String {
    let mut text: String = r.repaired.iter().map(repair::line).collect();
    text.extend(r.findings.iter().map(|finding| verify::finding_line(finding, false)));
    text.extend(r.notices.iter().map(|finding| verify::finding_line(finding, true)));
    let rate = if r.seconds > 0.0 { (r.bytes as f64 / r.seconds) as u64 } else { 0 };
    text.push_str(&format!(
        "{}: {}, {}, {}, {:.1} s ({}/s)\n",
        if r.findings.is_empty() { "nothing wrong" } else { "WRONG" },
        output::counted(r.snapshots, "snapshot"),
        output::counted(r.objects, "object"),
        output::bytes(r.bytes),
        r.seconds,
        output::bytes(rate),
    ));
    for row in &r.sealers {
        let head = match (&row.words, row.seq) {
            (Some(words), Some(seq)) => format!("{}/{seq}  {words}", row.sealer),
            _ => format!("{}  no snapshot", row.sealer),
        };
        let revoked = row.revoked.as_ref().map(|since| format!("  revoked since {since}")).unwrap_or_default();
        text.push_str(&format!("head     {head}{revoked}\n"));
    }
    let trust = match r.trust {
        Trust::Given => "signed by the key that was given",
        Trust::Pinned => "signed by the key that this machine knows",
        Trust::Itself => "taken at its word",
    };
    if let (Some(list), Some(owner)) = (&r.list, &r.owner) {
        text.push_str(&format!("signers  {list}, {trust}: owner {}\n", output::visible(owner)));
    }
    if r.unreferenced > 0 {
        text.push_str(&format!(
            "note     {} in no snapshot: left by a seal that did not finish, reused by the next\n",
            output::counted(r.unreferenced, "object")
        ));
    }
    text.extend(r.unknown.iter().map(|unknown| format!("unknown  {unknown}\n")));
    text
}
