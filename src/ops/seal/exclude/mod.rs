//! What is left out, and why: one decision for each listing, for a real seal and for a dry run alike.
//!
//! In the order in which they are asked: Coffre's own places (`guard`); patterns of the command line, of ignore files from
//! the deepest up, of `--exclude-file`, of presets, where the first of these four that says anything decides; size; nodump.
//! Marked directories and other file systems keep their own entry and lose what is in it.
//!
//! All that is decided here shows in the listing that is left, so the hash of that (`skip`) covers every rule. Without
//! rules an entry costs a comparison and no path is built.

mod guard;
mod preset;
mod reason;

use std::{
    ffi::OsString,
    io::Read,
    os::unix::ffi::OsStrExt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    error::{Error, Result},
    event::LeftOut,
    ops::{
        patterns::{Anchoring, Origin, Patterns},
        seal::sources::Skeleton,
    },
    sys::{Dir, FileType, Found, Stat, open_file},
};

use guard::Guard;
use reason::Reason;

pub use preset::Preset;

/// What a person wants left out.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Patterns. One without a slash fits a name at any depth; one that starts with a slash is an absolute path; any other fits at any depth.
    pub patterns: Vec<OsString>,
    /// Files of such patterns, one a line, with comments.
    pub pattern_files: Vec<PathBuf>,
    /// Names of ignore files: gitignore lines that count in their directory and below.
    pub ignore_files: Vec<OsString>,
    /// Ready-made patterns.
    pub presets: Vec<Preset>,
    /// Names that mark a directory, of which only the mark is then taken.
    pub if_present: Vec<OsString>,
    /// What is in directories that are tagged as caches.
    pub caches: bool,
    /// Files longer than this, in bytes.
    pub larger_than: Option<u64>,
    /// What is on other file systems than the source.
    pub one_file_system: bool,
    /// Entries with the nodump flag.
    pub nodump: bool,
}

/// Longest ignore file, in bytes.
const IGNORE_FILE_LEN_MAX: u64 = 1 << 20;
/// The tag of a cache directory, and how it begins: https://bford.info/cachedir/
const CACHE_TAG: &[u8] = b"CACHEDIR.TAG";
const CACHE_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// Decides for each entry whether it is taken. Shared by all threads that walk.
pub struct Excludes {
    rules: Rules,
    /// Patterns of the command line.
    typed: Patterns,
    /// Patterns of files and presets, the strongest first.
    general: Vec<Patterns>,
    guard: Guard,
    left_out: AtomicU64,
}

/// What holds in a directory because of those above it. Cheap to clone; handed down, so that no order of walking matters.
#[derive(Clone, Default)]
pub struct Scope {
    /// Ignore files, the deepest first.
    ignore: Option<Arc<Layer>>,
    /// Device of the source.
    source_device: u64,
    /// Device of the directory.
    device: u64,
}

struct Layer {
    patterns: Patterns,
    above: Option<Arc<Layer>>,
}

/// A directory whose entries are to be decided on.
pub struct Listed<'a> {
    /// The directory.
    pub dir: &'a Dir,
    /// Its absolute path, without a slash at the end.
    pub path: &'a [u8],
    /// Sources that were named at or below it.
    pub named: Option<&'a Skeleton>,
}

/// What was decided of a listing.
#[derive(Default)]
pub struct Decided {
    /// For what is below.
    pub scope: Scope,
    /// Directories that are themselves left out, but lead to a source that was named.
    pub through: Vec<Box<[u8]>>,
    /// What the person should know, a line each.
    pub warnings: Vec<String>,
}

/// Whether entries are taken one by one, or not at all.
enum Inside {
    All,
    Only(&'static [u8], Reason),
    OnlyMark(Box<[u8]>, Reason),
    Nothing(Reason),
}

impl Excludes {
    /// Prepares the rules. `never` are directories that are never sealed: the vault, the state directory.
    ///
    /// # Errors
    /// `Usage` for a pattern that can fit nothing, `NotFound` and its like for a file of patterns that cannot be read.
    pub fn new(rules: &Rules, never: &[PathBuf]) -> Result<Self> {
        let mut typed = Patterns::new(Origin::Option("--exclude"), 0);
        for text in &rules.patterns {
            Patterns::check_typed(text.as_bytes())?;
            typed.add(text.as_bytes(), 0, Anchoring::Leading);
        }
        let mut general = Vec::new();
        for file in rules.pattern_files.iter().rev() {
            let lines = std::fs::read(file).map_err(|e| Error::io(format!("cannot read the patterns in {}", file.display()), e))?;
            let mut patterns = Patterns::new(Origin::File(file.to_string_lossy().into()), 0);
            patterns.add_lines(&lines, Anchoring::Leading);
            general.push(patterns);
        }
        for preset in rules.presets.iter().rev() {
            let mut patterns = Patterns::new(Origin::Preset(preset.name()), 0);
            for line in preset.lines() {
                patterns.add(line.as_bytes(), 0, Anchoring::Leading);
            }
            general.push(patterns);
        }
        general.retain(|patterns| !patterns.is_empty());
        Ok(Self { rules: rules.clone(), typed, general, guard: Guard::new(never)?, left_out: AtomicU64::new(0) })
    }

    /// Fails if one of `sources` must not be sealed at all.
    pub fn check_sources(&self, sources: &[PathBuf]) -> Result<()> {
        self.guard.check(sources)
    }

    /// How many entries were left out so far; what is below a directory that was left out is not counted.
    pub fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    /// Counts from zero again, for a walk that starts over.
    pub fn restart(&self) {
        self.left_out.store(0, Ordering::Relaxed);
    }

    /// What holds at a source, which lies in `above` if it is inside another one.
    pub fn source(above: Option<&Scope>, stat: &Stat) -> Scope {
        let ignore = above.and_then(|scope| scope.ignore.clone());
        Scope { ignore, source_device: stat.device, device: stat.device }
    }

    /// Lists a directory, and takes out of the listing what is left out.
    ///
    /// `told` is called for each exclusion if somebody wants to know. `scope` is that of the directory above, or of the source.
    ///
    /// # Errors
    /// What the system says of the listing.
    pub fn list(
        &self,
        scope: &Scope,
        stat: &Stat,
        at: &Listed,
        mut told: Option<&mut dyn FnMut(LeftOut)>,
    ) -> std::io::Result<(Vec<Found>, Decided)> {
        let mut decided = Decided { scope: Scope { device: stat.device, ..scope.clone() }, ..Decided::default() };
        let mut tell = |path: &[u8], inside: bool, reason: Reason| {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            if let Some(told) = &mut told {
                told(LeftOut { path: String::from_utf8_lossy(path).into_owned(), content_only: inside, rule: reason.rule() });
            }
        };
        let mut inside = self.other_file_system(&decided.scope, scope.device);
        let mut listing = match inside {
            Inside::Nothing(_) => Vec::new(), // Not even looked at: it may be a file system that does not answer.
            _ => at.dir.list()?,
        };
        if matches!(inside, Inside::All) {
            inside = self.marked(at.dir, &listing);
        }
        if let Inside::All = inside {
            self.ignore_files(at, &listing, &mut decided);
        }
        let whole = match inside {
            Inside::All => None,
            Inside::Nothing(reason) => Some((None, reason)),
            Inside::Only(name, reason) => Some((Some(Box::from(name)), reason)),
            Inside::OnlyMark(name, reason) => Some((Some(name), reason)),
        };
        if let Some((kept, reason)) = whole {
            tell(at.path, true, reason);
            listing.retain(|found| kept.as_ref().is_some_and(|kept| found.name == *kept) || self.is_named(at, &found.name, &mut decided));
            self.lead(at, &mut listing, &mut decided);
            return Ok((listing, decided));
        }
        let with_paths = !self.typed.is_empty() || !self.general.is_empty() || decided.scope.ignore.is_some();
        let mut path = if with_paths { [at.path, b"/"].concat() } else { Vec::new() };
        let dir_len = path.len();
        let mut looked_again = false;
        listing.retain(|found| {
            let stat = match &found.stat {
                Ok(stat) => stat,
                Err(_) => {
                    // It may have been mounted since, by somebody who shows it to nobody else.
                    if !std::mem::replace(&mut looked_again, true) {
                        self.guard.look_again();
                    }
                    let is_mount = self.guard.is_mount_point(at.path, &found.name);
                    if is_mount {
                        tell(&[at.path, b"/", &found.name].concat(), false, Reason::Mount);
                    }
                    return !is_mount;
                }
            };
            path.truncate(dir_len);
            if with_paths {
                path.extend_from_slice(&found.name);
            }
            let Some(reason) = self.reason(&decided.scope, &path, &found.name, stat) else { return true };
            let guarded = matches!(reason, Reason::Vault | Reason::Mount);
            if !guarded && at.named.is_some() && self.is_named(at, &found.name, &mut decided) {
                return true;
            }
            match with_paths {
                true => tell(&path, false, reason),
                false => tell(&[at.path, b"/", &found.name].concat(), false, reason),
            }
            false
        });
        Ok((listing, decided))
    }

    /// Why this entry is left out, if it is.
    fn reason(&self, scope: &Scope, path: &[u8], name: &[u8], stat: &Stat) -> Option<Reason> {
        let kind = stat.file_type();
        if kind == FileType::Dir
            && let Some(reason) = self.guard.reason(stat, scope.device)
        {
            return Some(reason);
        }
        if !path.is_empty() {
            let mut layer = scope.ignore.as_ref();
            let ignore = std::iter::from_fn(|| {
                let this = layer?;
                layer = this.above.as_ref();
                Some(&this.patterns)
            });
            let all = std::iter::once(&self.typed).chain(ignore).chain(&self.general);
            let is_dir = kind == FileType::Dir;
            let found = all.filter(|p| !p.is_empty()).find_map(|p| Some((p, p.last_fitting(path, name, is_dir)?)));
            if let Some((patterns, pattern)) = found.filter(|(_, pattern)| !pattern.negated) {
                return Some(Reason::pattern(patterns, pattern));
            }
        }
        if let Some(limit) = self.rules.larger_than
            && kind == FileType::File
            && stat.size > limit
        {
            return Some(Reason::Larger(stat.size));
        }
        (self.rules.nodump && stat.nodump).then_some(Reason::Nodump)
    }

    /// What a directory loses because it is on another file system than the one above it.
    fn other_file_system(&self, here: &Scope, above: u64) -> Inside {
        if here.device == above && here.device == here.source_device {
            return Inside::All;
        }
        if here.device != above {
            if let Some(kind) = self.guard.kernel_file_system(here.device) {
                return Inside::Nothing(Reason::Kernel(kind));
            }
            // It was mounted after the directory above was listed.
            if self.guard.is_mounted_vault(here.device) {
                return Inside::Nothing(Reason::Mount);
            }
        }
        match self.rules.one_file_system && here.device != here.source_device {
            true => Inside::Nothing(Reason::OtherFileSystem),
            false => Inside::All,
        }
    }

    /// What a directory loses because of a mark in it.
    fn marked(&self, dir: &Dir, listing: &[Found]) -> Inside {
        if self.rules.caches
            && let Some(tag) = find(listing, CACHE_TAG)
            && tag.stat.is_ok_and(|stat| stat.file_type() == FileType::File)
            && start_of(dir, CACHE_TAG, CACHE_SIGNATURE.len() as u64).is_ok_and(|start| start == CACHE_SIGNATURE)
        {
            return Inside::Only(CACHE_TAG, Reason::Cache);
        }
        let mark = self.rules.if_present.iter().find(|name| find(listing, name.as_bytes()).is_some());
        match mark {
            Some(name) => Inside::OnlyMark(name.as_bytes().into(), Reason::Present(name.to_string_lossy().into_owned())),
            None => Inside::All,
        }
    }

    /// Adds the ignore files of this directory to its scope.
    fn ignore_files(&self, at: &Listed, listing: &[Found], decided: &mut Decided) {
        for name in &self.rules.ignore_files {
            let name = name.as_bytes();
            let Some(Ok(stat)) = find(listing, name).map(|found| found.stat) else { continue };
            if stat.file_type() != FileType::File {
                continue; // Git does not follow links here either: they lead out of the tree.
            }
            let shown = String::from_utf8_lossy(&[at.path, b"/", name].concat()).into_owned();
            match start_of(at.dir, name, IGNORE_FILE_LEN_MAX + 1) {
                Ok(lines) if lines.len() as u64 <= IGNORE_FILE_LEN_MAX => {
                    let mut patterns = Patterns::new(Origin::IgnoreFile(shown.into()), at.path.len());
                    patterns.add_lines(&lines, Anchoring::Base);
                    if !patterns.is_empty() {
                        decided.scope.ignore = Some(Arc::new(Layer { patterns, above: decided.scope.ignore.take() }));
                    }
                }
                Ok(_) => decided.warnings.push(format!("{shown}: longer than 1 MiB; nothing is left out by it")),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => (),
                Err(e) => decided.warnings.push(format!("{shown}: cannot be read, so nothing is left out by it: {e}")),
            }
        }
    }

    /// Whether an entry that is left out was named, or leads to what was.
    fn is_named(&self, at: &Listed, name: &[u8], decided: &mut Decided) -> bool {
        let Some(named) = at.named.and_then(|skeleton| skeleton.children.get(name)) else { return false };
        if !named.is_source {
            decided.through.push(name.into());
        }
        true
    }

    /// Adds what was named to a listing that was not made.
    fn lead(&self, at: &Listed, listing: &mut Vec<Found>, decided: &mut Decided) {
        for name in at.named.iter().flat_map(|skeleton| skeleton.children.keys()) {
            if find(listing, name).is_none() && self.is_named(at, name, decided) {
                listing.push(Found { name: name.clone(), stat: at.dir.stat_of(name) });
            }
        }
        listing.sort_by(|a, b| a.name.cmp(&b.name));
    }
}

/// An entry of a sorted listing.
fn find<'a>(listing: &'a [Found], name: &[u8]) -> Option<&'a Found> {
    listing.binary_search_by(|found| found.name.as_ref().cmp(name)).ok().map(|at| &listing[at])
}

/// The first `len` bytes of a file, or all of it if it is shorter.
fn start_of(dir: &Dir, name: &[u8], len: u64) -> std::io::Result<Vec<u8>> {
    let (file, _) = open_file(dir, name)?;
    let mut start = Vec::new();
    file.take(len).read_to_end(&mut start)?;
    Ok(start)
}
