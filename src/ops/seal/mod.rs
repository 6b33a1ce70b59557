//! Seal: a new snapshot of some paths.
//!
//! walk → read, cut, hash → assemble (dedup, frames, trees) → compress, encrypt → store → commit. The threads and their
//! queues are in `pipeline`; the order of writes is `vault::write`'s.

mod ahead;
mod assemble;
mod bundle;
mod compare;
mod count;
mod entry;
mod exclude;
mod honour;
mod look;
mod memory;
mod output;
mod pipeline;
mod pool;
mod preview;
mod read;
mod refresh;
mod remember;
mod skip;
mod sources;
mod stream;
mod throttle;
mod walk;

use std::{collections::BTreeMap, os::unix::ffi::OsStrExt, path::PathBuf};

use serde::Serialize;

use crate::{
    catalog::PackStart,
    error::{Error, ErrorKind, Result},
    event::{Event, Sink},
    format::{Digest, Problem, ProblemKind, Stats, words_of},
    sys::{Cancel, Clock},
    vault::{CommitFacts, SealerKeys, Snapshot, StateDir, Vault, Writer},
};

use compare::Tally;
use count::Total;
use memory::Known;
use sources::Sources;

pub use compare::Changes;
pub use exclude::{Preset, Rules};
pub use output::Compression;
pub use preview::{Line, Preview, Taken, preview};
pub use refresh::{Refreshed, distrust, rebuild, refresh};
pub use stream::Stream;

/// What to seal, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The paths.
    pub paths: Vec<PathBuf>,
    /// More paths, from a list: one that does not exist is a problem and not an error.
    pub listed: Vec<PathBuf>,
    /// What to leave out.
    pub rules: Rules,
    /// Whether each exclusion is told, as an event.
    pub explain: bool,
    /// Directories that are never taken: the vault itself.
    pub never: Vec<PathBuf>,
    /// Name of the host, for the manifest.
    pub host: String,
    /// Tags.
    pub tags: Vec<String>,
    /// Free facts.
    pub labels: BTreeMap<String, String>,
    /// Say and record nothing of changes that look like an accident or an attack.
    pub accept_changes: bool,
    /// How content becomes frames.
    pub compression: Compression,
    /// Most bytes read from the sources in a second.
    pub bytes_per_sec: Option<u64>,
    /// Threads that read, and threads that compress; with 1 the order of everything is always the same.
    pub workers: usize,
    /// Decides which open pack a frame goes to, in place of random bits: a simulation wants the same again.
    pub coin: Option<[u8; 32]>,
}

/// What was sealed.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Id of the snapshot.
    pub id: String,
    /// Its place: sealer and number.
    pub snapshot: String,
    /// The first bits of its id in words: the head of this sealer's chain, to be compared by eye.
    pub head: String,
    /// When the seal began.
    pub time: String,
    /// Host.
    pub host: String,
    /// Paths.
    pub paths: Vec<String>,
    /// Tags.
    pub tags: Vec<String>,
    /// Free facts.
    pub labels: BTreeMap<String, String>,
    /// Entries that were left out; what is below them is not counted.
    pub left_out: u64,
    /// Counts.
    pub stats: Stats,
    /// Files against the snapshot before; `None` if this host's memory of it was lost.
    pub changes: Option<Changes>,
    /// The snapshot of the same sources before this one, if this host made one.
    pub before: Option<String>,
    /// Changes that look like an accident or an attack.
    pub suspicions: Vec<String>,
    /// Bytes of new content before compression, and after it.
    pub content_bytes: u64,
    /// The same, compressed.
    pub compressed_bytes: u64,
    /// Files that were read.
    pub files_read: u64,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// Entries that could not be taken.
    pub unreadable: Vec<ReportedProblem>,
    /// Files that changed while they were read, twice.
    pub changed: Vec<ReportedProblem>,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Most memory used, in bytes.
    pub peak_memory_bytes: u64,
}

/// A problem for people and scripts.
#[derive(Clone, Debug, Serialize)]
pub struct ReportedProblem {
    /// The path, with what is not UTF-8 replaced.
    pub path: String,
    /// What is wrong.
    pub text: String,
}

/// How often a seal begins again because the vault was pruned under it.
const ATTEMPTS_MAX: usize = 5;

/// Writes that were begun longer ago, and are still unfinished, belong to nobody: a day, in ns.
const UNFINISHED_NS: i128 = 86_400_000_000_000;

/// What a seal works with.
pub struct Context<'a> {
    /// The vault.
    pub vault: &'a Vault,
    /// This host's keys.
    pub sealer: &'a SealerKeys,
    /// This host's memory.
    pub state: &'a StateDir,
    /// Time.
    pub clock: &'a dyn Clock,
    /// Where events go.
    pub sink: &'a dyn Sink,
    /// Stops the work.
    pub cancel: &'a Cancel,
}

/// Seals. Waits for another seal of this host.
///
/// # Errors
/// `NotFound` if a path does not exist, `Full` if the store is, `Cancelled`. In every case no snapshot is made, and what
/// was stored is reused by the next seal.
pub fn run(context: &Context, options: &Options) -> Result<Report> {
    let sources = sources::plan(&options.paths, &options.listed)?;
    let excludes = excludes(options, context.state)?;
    excludes.check_sources(&sources.all)?;
    seal(context, options, sources, &excludes, None)
}

/// Seals one file whose content comes through a pipe; no path, and no rule about paths, counts.
///
/// # Errors
/// Those of [`run`], and `Unavailable` if the command that makes the content fails.
pub fn run_stream(context: &Context, options: &Options, stream: &Stream) -> Result<Report> {
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(stream.path()));
    let sources = Sources { paths: vec![path], ..Sources::default() };
    let excludes = exclude::Excludes::new(&Rules::default(), &[])?;
    seal(context, options, sources, &excludes, Some(stream))
}

fn seal(context: &Context, options: &Options, sources: Sources, excludes: &exclude::Excludes, stream: Option<&Stream>) -> Result<Report> {
    let Context { vault, state, sink, clock, .. } = context;
    state.create()?;
    let _lock = state.lock(|holder| sink.send(Event::Note(format!("waiting for another seal of this host (process {holder})"))))?;
    vault.store.tidy(clock.now_ns() - UNFINISHED_NS)?;
    for n in 0..ATTEMPTS_MAX {
        if n > 0 {
            vault.store.refresh();
        }
        if let Some(report) = attempt(context, options, &sources, excludes, stream)? {
            return Ok(report);
        }
        if stream.is_some() {
            return Err(Error::conflict("what this seal built on was pruned while it ran, and the content came through a pipe")
                .hint("run the same command again"));
        }
        sink.send(Event::Note("the vault was pruned while this seal ran: looking again at what it built on".to_owned()));
        excludes.restart();
    }
    Err(Error::conflict("the vault was pruned again and again while this seal ran").hint("run the same command again later"))
}

/// One try. `None` if what it built on was condemned meanwhile: the next one knows.
fn attempt(
    context: &Context,
    options: &Options,
    sources: &Sources,
    excludes: &exclude::Excludes,
    stream: Option<&Stream>,
) -> Result<Option<Report>> {
    let Context { vault, state, sink, clock, .. } = context;
    let began = clock.monotonic();
    let time_ns = clock.now_ns();
    let mut refreshed = refresh::refresh(context)?;
    let writer = Writer::new(vault, context.sealer).remembering(state).having_seen(refreshed.gone.seq());
    let mut known = refresh::known(context, &mut refreshed.catalog)?;
    refresh::adopt(&writer, &refreshed, &mut known)?;
    let known = Known::new(known);
    refreshed.catalog.begin()?;

    let named = sources::named(&sources.paths);
    let head = refreshed.head(&context.sealer.name);
    let before = compare::before(context, head, &options.host, &named);
    // Without the listings of the snapshot before, every file would seem new, and all that it had gone.
    let mut comparable = before.as_ref().is_none_or(|before| refreshed.remembers && before.is_remembered);
    let tally = Tally::default();
    let total = before.as_ref().map_or_else(Total::default, |before| Total::estimated(before.manifest.stats.logical_bytes));
    // Rules of its own, as these count what they leave out.
    let counting = match sink.wants_progress() && before.is_none() && stream.is_none() {
        true => Some(self::excludes(options, state)?),
        false => None,
    };
    let job = pipeline::Job {
        context,
        excludes,
        skeleton: &sources.skeleton,
        stream,
        sources: &sources.paths,
        writer: &writer,
        catalog: &refreshed.catalog,
        known: &known,
        seal: u64::try_from(time_ns).unwrap_or(0),
        compression: options.compression,
        bytes_per_sec: options.bytes_per_sec,
        workers: options.workers.max(1),
        coin: options.coin,
        use_records: stream.is_none(),
        tally: &tally,
        began,
        total: &total,
        count: counting.as_ref(),
        explain: options.explain,
    };
    let assembled = match pipeline::run(&job) {
        // The catalog promised what it could not give. Its word is not needed: read everything.
        Err(e) if e.kind() == ErrorKind::Corrupt && stream.is_none() => {
            sink.send(Event::Note(format!("{}; reading everything instead", e.chain())));
            excludes.restart();
            comparable = false;
            pipeline::run(&pipeline::Job { use_records: false, tally: &Tally::default(), ..job })?
        }
        other => other?,
    };
    context.cancel.check()?;
    // What was there when the seal began may be long ago.
    vault.store.refresh();
    let gone = remember::check(context, &refreshed)?;

    let changes =
        (comparable && stream.is_none()).then(|| Changes::of(&tally, before.as_ref().map(|before| &before.manifest.stats))).flatten();
    let suspicions = match (&before, &changes) {
        (Some(before), Some(changes)) if !options.accept_changes => {
            compare::suspect(&before.manifest.stats, changes, assembled.content.0, assembled.content.1)
        }
        _ => Vec::new(),
    };
    let pins = before.iter().filter(|_| !suspicions.is_empty()).map(|before| before.id).collect();
    for suspicion in &suspicions {
        sink.send(Event::Warning(format!("this looks like an accident or an attack: {}", suspicion.text)));
    }
    let mut stats = assembled.stats;
    stats.duration_ns = u64::try_from((clock.monotonic() - began).as_nanos()).unwrap_or(u64::MAX);
    let facts = CommitFacts {
        time_ns,
        sources: named,
        root: assembled.root,
        stats,
        labels: options.labels.clone(),
        problems: assembled.problems.into_iter().chain(sources.problems.iter().cloned()).collect(),
        host: options.host.clone(),
        tags: options.tags.clone(),
        suspicions,
        pins,
    };
    let committed = writer.commit_if(facts, &mut |packs| refreshed.gone.honour(context, &refreshed.catalog, &known, packs))?;
    let Some(committed) = committed else { return Ok(None) };
    // From here on the snapshot exists, whatever happens to this host's own memory of it.
    let noted = refreshed
        .note(&committed, u64::try_from(time_ns).unwrap_or(0))
        .and_then(|()| remember::remember(state, &refreshed, &committed, &gone));
    if let Err(e) = noted {
        sink.send(Event::Warning(format!("the snapshot is sealed, but this host cannot remember it: {}", e.chain())));
    }
    if let Some(e) = &committed.not_copied {
        sink.send(Event::Warning(format!("the snapshot is sealed, but there is no second copy of its signature: {}", e.chain())));
    }
    let snapshot = Snapshot { key: committed.key, id: committed.id, manifest: committed.manifest };
    let seconds = (clock.monotonic() - began).as_secs_f64();
    let (content_bytes, compressed_bytes) = assembled.content;
    let before = before.map(|before| before.id.to_string());
    Ok(Some(Report {
        left_out: excludes.left_out(),
        changes,
        before,
        content_bytes,
        compressed_bytes,
        ..report(&snapshot, assembled.files_read, assembled.bytes_read, seconds)
    }))
}

/// What is left out: by the options, and in any case.
fn excludes(options: &Options, state: &StateDir) -> Result<exclude::Excludes> {
    let mut never = options.never.clone();
    never.push(state.path().to_owned());
    exclude::Excludes::new(&options.rules, &never)
}

fn report(snapshot: &Snapshot, files_read: u64, bytes_read: u64, seconds: f64) -> Report {
    let m = &snapshot.manifest;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let problems = |kind: ProblemKind| {
        let of = |p: &&Problem| p.kind == kind;
        m.problems.iter().filter(of).map(|p| ReportedProblem { path: text(&p.path), text: p.text.clone() }).collect()
    };
    Report {
        id: snapshot.id.to_string(),
        snapshot: snapshot.key.to_string(),
        head: words_of(&snapshot.id),
        time: crate::sys::utc_text(m.time_ns),
        host: m.host.clone(),
        paths: m.sources.iter().map(|p| text(p)).collect(),
        tags: m.tags.clone(),
        labels: m.labels.clone(),
        left_out: 0,
        stats: m.stats,
        changes: None,
        before: None,
        suspicions: m.suspicions.iter().map(|s| s.text.clone()).collect(),
        content_bytes: 0,
        compressed_bytes: 0,
        files_read,
        bytes_read,
        unreadable: problems(ProblemKind::Unreadable),
        changed: problems(ProblemKind::Changed),
        seconds,
        peak_memory_bytes: crate::sys::peak_memory_bytes(),
    }
}

/// The first 16 bytes of a pack's name.
fn start_of(pack: &Digest) -> PackStart {
    pack.as_bytes()[..16].try_into().expect("16 of 32 bytes")
}

/// The keys with which this host seals: those of its state directory, with the recipients of the newest epoch that an owner told it of.
///
/// Costs a listing of the vault's keys.
///
/// # Errors
/// `WrongKey` if it has none.
pub fn sealer_keys(vault: &Vault, state: &StateDir) -> Result<SealerKeys> {
    let keys = state.sealer()?.ok_or_else(|| {
        Error::wrong_key("this host holds no sealing keys for this vault").hint(
            "an owner enrols it: coffre key add --sealer NAME, then coffre enroll here; or give an owner's key once (--identity FILE, or a passphrase)",
        )
    })?;
    if keys.vault != vault.config.id {
        return Err(Error::corrupt(format!("the sealing keys in {} belong to another vault", state.path().display())));
    }
    let newer = state.pinned_owner()?.map(|owner| vault.newer_recipients(&keys, &owner)).transpose()?.flatten();
    match newer {
        Some(newer) => state.keep_sealer(&newer).map(|()| newer),
        None => Ok(keys),
    }
}
