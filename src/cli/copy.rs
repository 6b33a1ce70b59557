//! `coffre copy`.

use crate::{
    cli::{Run, exit, output},
    error::{Error, Result},
    ops::copy::{self, Context, Options, Report, Which},
};

/// Objects carried at once: enough to keep a line with some delay full.
const WORKERS: usize = 8;

/// Bring another copy of the vault up to date; needs no key.
#[derive(clap::Args)]
pub struct Args {
    /// The copy: an empty or new place, or an older copy of the same vault
    #[arg(value_name = "DEST")]
    dest: String,
    /// Copy from here instead of from the vault
    #[arg(long, value_name = "PLACE")]
    from: Option<String>,
    /// Copy only these snapshots, and those of the same sealer before them, which they build on: a sealer, SEALER/NUMBER or id:ID (repeatable)
    #[arg(long, value_name = "WHICH", value_delimiter = ',', value_parser = parse_which)]
    snapshots: Vec<Which>,
    /// Then read every object on both sides and compare
    #[arg(long)]
    verify: bool,
    /// Say what would be copied, and copy nothing
    #[arg(short = 'n', long, conflicts_with = "verify")]
    dry_run: bool,
}

fn parse_which(text: &str) -> std::result::Result<Which, String> {
    Which::parse(text).ok_or_else(|| "give a sealer's name, SEALER/NUMBER, or id: and at least 4 digits of an id".to_owned())
}

/// Runs it.
pub fn run(run: &Run, args: &Args) -> Result<u8> {
    let (from, from_path) = match &args.from {
        Some(place) => run.globals.store_at(place)?,
        None => run.globals.store()?,
    };
    let (to, to_path) = run.globals.store_at(&args.dest)?;
    if from.describe() == to.describe() {
        return Err(Error::usage(format!("{} is the vault itself", to.describe())).hint("name another place for the copy"));
    }
    let (a, b) = (from.describe(), to.describe());
    let inside = |a: &str, b: &str| a.strip_prefix(b).is_some_and(|rest| rest.starts_with('/'));
    let on_disk = from_path.as_ref().zip(to_path.as_ref()).is_some_and(|(a, b)| a.starts_with(b) || b.starts_with(a));
    if on_disk || inside(&a, &b) || inside(&b, &a) {
        return Err(Error::usage(format!("{} and {} lie inside one another", from.describe(), to.describe()))
            .hint("put the copy beside the vault, or better on another disk"));
    }
    let context = Context { from: &from, to: &to, clock: &*run.clock, sink: &**run.screen, cancel: &run.cancel, workers: WORKERS };
    let options = Options { which: args.snapshots.clone(), compare: args.verify, dry_run: args.dry_run };
    let report = copy::run(&context, &options)?;
    run.screen.data(&report, || text(&report))?;
    if report.findings.is_empty() {
        return Ok(0);
    }
    let what = match report.findings.len() {
        1 => "1 object is not as it should be, on one side or the other".to_owned(),
        n => format!("{n} objects are not as they should be, on one side or the other"),
    };
    run.screen.error(&Error::corrupt(what).hint("all else was copied; coffre verify tells, for each side, what its damage reaches"));
    Ok(exit::DAMAGE)
}

fn text(r: &Report) -> String {
    let mut text: String =
        r.findings.iter().map(|finding| format!("wrong    {}  {}\n", finding.object, output::visible(&finding.text))).collect();
    let done = if r.dry_run { "would be copied" } else { "copied and read back" };
    text.push_str(&match r.objects {
        0 => format!("{} is up to date", r.to),
        n => format!("{}: {} snapshots, {} objects, {} {done}", r.to, output::count(r.snapshots), output::count(n), output::bytes(r.bytes)),
    });
    text.push_str(&format!("; {} objects were there", output::count(r.present)));
    if let Some(equal) = r.compared {
        text.push_str(&format!("; {} compared equal", output::count(equal)));
    }
    text.push_str(&format!(", {:.1} s\n", r.seconds));
    text
}
