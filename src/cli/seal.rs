//! `coffre seal`.

mod dry_run;
mod select;

use std::{collections::BTreeMap, ffi::OsString, io::IsTerminal, path::PathBuf};

use crate::{
    cli::{Opened, Run, exit, keys, mount::parse_size, output},
    error::{Error, Result},
    event::{Event, Sink},
    format::name_from,
    ops::seal::{self, Compression, Context, Options, Report, Stream},
    sys::{self, Piped},
    vault::SealerKeys,
};

/// Add a snapshot of some paths.
///
/// Takes each path with all that is below it. A source that is a link, or that is reached through one, is sealed where it
/// really is, and the link is kept too. What was named is taken even if a pattern fits it. The vault, this host's state of it,
/// mounted vaults, and what the kernel makes up (/proc, /sys) are never sealed.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// What to seal: directories or files
    #[arg(required_unless_present_any = ["files_from", "list_preset", "stdin_name"], value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Tag the snapshot (repeatable)
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Name of the host in the snapshot (default: this host's name)
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// zstd level, 1 to 19: higher is smaller and slower (default: 3, or 19 with --profile archive)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=19))]
    level: Option<i32>,
    /// What the snapshot is for
    #[arg(long, value_name = "NAME", default_value = "standard")]
    profile: Profile,
    /// Let other programs go first, on the processor and on the disk
    #[arg(long)]
    nice: bool,
    /// Read at most so much in a second: `20M`
    #[arg(long, value_name = "SIZE", value_parser = parse_rate)]
    limit_rate: Option<u64>,
    /// Do not mind that most files are gone, or were rewritten with what does not compress
    #[arg(long)]
    accept_changes: bool,
    /// Keep this fact with the snapshot (repeatable)
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_label)]
    set_label: Vec<(String, String)>,
    /// List what would be taken and the totals; with -v also what would be left out, and by which rule. Stores nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Seal standard input as a file of this name, or absolute path, in place of files
    #[arg(long, value_name = "NAME")]
    stdin_name: Option<OsString>,
    /// Seal what this shell command prints, as --stdin-name says; if the command fails, so does the seal
    #[arg(long, value_name = "CMD", requires = "stdin_name")]
    from_command: Option<String>,
    #[command(flatten)]
    select: select::Select,
}

/// What a snapshot is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Profile {
    /// Sealed often, read at any place.
    Standard,
    /// Kept for long and seldom read: up to two fifths smaller, much slower to seal and to look into, and takes about 600 MiB of memory.
    Archive,
}

const EXAMPLES: &str = "\
Examples:
  coffre seal /etc /home/u/studio                  two trees in one snapshot
  coffre seal / -x --preset server                 a machine's root file system, and no other
  coffre seal ~/work --preset dev --exclude '*.iso' --exclude '!keep.iso'
  coffre seal ~/work --ignore-file .gitignore --exclude-caches
  coffre seal ~/work --dry-run -v | grep '^-'      what would be left out, and by which rule
  find . -name '*.sql' -print0 | coffre seal --files-from - --null
  coffre seal --stdin-name shop.sql --from-command 'pg_dump shop'
  coffre seal /srv/app --set-label release=1.4.2

Patterns are gitignore lines. Where several fit, the strongest origin decides: --exclude,
then ignore files from the deepest directory up, then --exclude-file, then --preset; and
in it the last line. OPERATIONS.md has the whole story.";

fn parse_rate(text: &str) -> std::result::Result<u64, String> {
    match parse_size(text)? {
        0 => Err("at that rate nothing is ever read".to_owned()),
        rate => Ok(rate),
    }
}

/// Longest key and value of a label, in bytes, and most labels: they are in every listing of snapshots.
const LABEL_KEY_LEN_MAX: usize = 64;
const LABEL_VALUE_LEN_MAX: usize = 1024;
const LABELS_MAX: usize = 64;

fn parse_label(text: &str) -> std::result::Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("KEY=VALUE is wanted, such as release=1.4.2")?;
    if key.is_empty() || key.len() > LABEL_KEY_LEN_MAX || key.contains(char::is_whitespace) {
        return Err(format!("the key must have 1 to {LABEL_KEY_LEN_MAX} bytes and no spaces"));
    }
    if value.len() > LABEL_VALUE_LEN_MAX {
        return Err(format!("the value must have at most {LABEL_VALUE_LEN_MAX} bytes"));
    }
    match text.contains(char::is_control) {
        true => Err("control characters are not allowed".to_owned()),
        false => Ok((key.to_owned(), value.to_owned())),
    }
}

fn labels(args: &Args) -> Result<BTreeMap<String, String>> {
    let labels: BTreeMap<String, String> = args.set_label.iter().cloned().collect();
    match labels.len() {
        n if n < args.set_label.len() => Err(Error::usage("--set-label gives one key two values").hint("name each key once")),
        n if n > LABELS_MAX => Err(Error::usage(format!("more than {LABELS_MAX} labels")).hint("put several facts into one value")),
        _ => Ok(labels),
    }
}

/// Fails if an option would have no effect because what is sealed comes through a pipe.
fn check_stream(args: &Args) -> Result<()> {
    if args.stdin_name.is_none() {
        return Ok(());
    }
    if args.dry_run {
        return Err(Error::usage("--dry-run lists files, and --stdin-name takes none")
            .hint("there is nothing to list: the snapshot would hold that one file. Leave one of the two out"));
    }
    match (!args.paths.is_empty()).then_some("PATH").or_else(|| args.select.given()) {
        Some(given) => Err(Error::usage(format!("{given} says which files are taken, and --stdin-name takes none"))
            .hint("leave one of the two out; files and what comes through a pipe are two snapshots")),
        None => Ok(()),
    }
}

/// Runs it.
pub fn run(run: &Run, args: &Args) -> Result<u8> {
    if let Some(preset) = args.select.list_preset {
        run.screen.plain(&preset.text())?;
        return Ok(0);
    }
    check_stream(args)?;
    let labels = labels(args)?;
    let opened = run.globals.open_remembering()?;
    let options = Options {
        paths: args.paths.clone(),
        listed: args.select.listed()?,
        rules: args.select.rules(),
        explain: run.globals.verbose > 0 && !run.globals.quiet,
        never: opened.path.iter().cloned().collect(),
        host: args.host.clone().map_or_else(|| opened.host(), Ok)?,
        tags: args.tag.clone(),
        labels,
        accept_changes: args.accept_changes,
        compression: match args.profile {
            Profile::Standard => Compression::standard(args.level),
            Profile::Archive => Compression::archive(args.level),
        },
        bytes_per_sec: args.limit_rate,
        workers: sys::available_cores(),
        coin: None,
    };
    if args.dry_run {
        return dry_run::run(run, &opened, &options);
    }
    if args.nice
        && let Err(e) = sys::give_way()
    {
        run.screen.warning(&format!("cannot let others go first: {e}"));
    }
    let sealer = sealer_keys(run, &opened)?;
    let context = context(run, &opened, &sealer);
    let report = match &args.stdin_name {
        None => seal::run(&context, &options)?,
        Some(name) => seal::run_stream(&context, &options, &Stream::new(name, || piped(run, args))?)?,
    };
    if run.globals.json || !run.globals.quiet {
        run.screen.data(&report, || text(&report, run.globals.verbose))?;
    }
    Ok(if report.unreadable.is_empty() { 0 } else { exit::INCOMPLETE })
}

/// The content that is sealed in place of files.
fn piped(run: &Run, args: &Args) -> Result<Piped> {
    if let Some(command) = &args.from_command {
        let screen = run.screen.clone();
        return Piped::command(command, move |line| screen.send(Event::Said(line)));
    }
    match std::io::stdin().is_terminal() {
        true => Err(Error::usage("the content is to come from standard input, and that is a terminal").hint(
            "pipe it: pg_dump shop | coffre seal --stdin-name shop.sql; or let Coffre watch over it with --from-command 'pg_dump shop'",
        )),
        false => Piped::stdin(),
    }
}

/// What sealing works with.
pub fn context<'a>(run: &'a Run, opened: &'a Opened, sealer: &'a SealerKeys) -> Context<'a> {
    Context { vault: &opened.vault, sealer, state: &opened.state, clock: &*run.clock, sink: &**run.screen, cancel: &run.cancel }
}

/// This host's sealing keys. A host that has none is enrolled if an owner's key is at hand.
pub fn sealer_keys(run: &Run, opened: &Opened) -> Result<SealerKeys> {
    if let Some(had) = opened.state.sealer()? {
        let keys = seal::sealer_keys(&opened.vault, &opened.state)?;
        if keys.epoch != had.epoch {
            run.screen.note(&format!("an owner rotated the keys: this host seals to those of epoch {} from now on", keys.epoch));
        }
        return Ok(keys);
    }
    let unlocking = keys::unlocking(run.globals)?;
    if unlocking.is_empty() && !keys::can_ask() {
        return seal::sealer_keys(&opened.vault, &opened.state);
    }
    let owner = keys::open(run.globals, &opened.vault, unlocking)?;
    let name = name_from(&sys::host_name());
    let had = opened.vault.has_sealer(&owner, &name)?;
    let sealer = opened.vault.enrol(&owner, &name)?;
    opened.state.enrol(&sealer, &owner.sign.public(), false)?;
    run.screen.note(&format!("this host is enrolled as sealer {name}; from now on it seals without an owner's key"));
    if had {
        let text = format!(
            "sealer {name} was known before, and goes on here; if another machine seals under this name, make this one another: coffre key add --sealer NAME"
        );
        run.screen.note(&text);
    }
    Ok(sealer)
}

/// What compression made of the content.
fn ratio(raw: u64, compressed: u64) -> String {
    match raw {
        0 => String::new(),
        raw => format!(", compressed to {:.0} %", compressed as f64 * 100.0 / raw as f64),
    }
}

fn text(r: &Report, verbose: u8) -> String {
    let s = &r.stats;
    let mut text = format!(
        "sealed {}  {}  {}\n  {} entries, {}: {} files, {} directories, {} links, {} others\n",
        &r.id[..8],
        r.time,
        output::visible(&r.paths.join(" ")),
        output::count(s.entries()),
        output::bytes(s.logical_bytes),
        output::count(s.files),
        output::count(s.directories),
        output::count(s.symlinks),
        output::count(s.others),
    );
    if let (Some(changes), Some(before)) = (&r.changes, &r.before) {
        text.push_str(&format!(
            "  since {}: {} files new, {} changed, {} removed, {} unchanged\n",
            &before[..8],
            output::count(changes.new),
            output::count(changes.changed),
            output::count(changes.removed),
            output::count(changes.unchanged),
        ));
    }
    text.push_str(&format!(
        "  read {} files, {}; new {}{}; stored {}\n",
        output::count(r.files_read),
        output::bytes(r.bytes_read),
        output::bytes(s.new_bytes),
        ratio(r.content_bytes, r.compressed_bytes),
        output::bytes(s.stored_bytes),
    ));
    for suspicion in &r.suspicions {
        text.push_str(&format!("  SUSPICIOUS: {suspicion}; the snapshot before is pinned\n"));
    }
    for (what, problems) in [("could not be read", &r.unreadable), ("changed while being read", &r.changed)] {
        if !problems.is_empty() {
            text.push_str(&format!("  {} {what}\n", output::count(problems.len() as u64)));
        }
    }
    if s.sockets_skipped > 0 {
        text.push_str(&format!("  {} sockets left out\n", output::count(s.sockets_skipped)));
    }
    if r.left_out > 0 {
        text.push_str(&format!("  left out {} by rules\n", output::count(r.left_out)));
    }
    if !r.labels.is_empty() {
        text.push_str(&format!("  {}\n", output::labels(&r.labels)));
    }
    text.push_str(&format!("  head {} {}\n", r.snapshot, r.head));
    text.push_str(&format!("  {:.1} s, {} of memory\n", r.seconds, output::bytes(r.peak_memory_bytes)));
    if verbose > 0 {
        text.push_str(&format!("  snapshot {} {}\n", r.snapshot, r.id));
    }
    text
}
