//! The terminal: what was typed, and the one `match` over commands. The home of `clap`.

mod audit;
mod bisect;
mod cat;
mod catalog;
mod censor;
mod complete;
mod copies;
mod copy;
mod diff;
mod dump;
mod enroll;
mod examples;
mod exit;
mod find;
mod forget;
mod head;
mod history;
mod init;
mod key;
mod keys;
mod line;
mod look;
mod ls;
mod man;
mod mount;
mod mount_options;
mod output;
mod patience;
mod progress;
mod prune;
mod repair;
mod restore;
mod seal;
mod snapshots;
mod stats;
mod status;
mod stream;
mod verify;

pub use examples::EXAMPLES;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, OnceLock},
};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::{
    cli::output::{Progress, Screen, When},
    error::{Error, Result},
    format::name_from,
    store::{self, Cached, Calls, Seen, Store, Watched},
    sys::{self, Cancel, Clock, SystemClock},
    vault::{StateDir, Vault},
};

/// An encrypted, deduplicating backup vault whose every snapshot is a read-only file system.
///
/// `coffre init` makes a vault, `coffre seal PATH` adds a snapshot, `coffre mount DIR` shows all of them as files; restoring is `cp`.
#[derive(Parser)]
#[command(
    name = "coffre",
    version,
    max_term_width = 110,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong command line, 3 done but not all could be read or set, 4 damage found,\n5 a recovery objective was missed, 10 no vault here, 11 in use, 12 no key opens it, 130 interrupted."
)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(clap::Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Globals {
    /// The vault: a directory, s3://BUCKET/PATH, sftp://HOST/PATH or webdav://HOST/PATH
    #[arg(long, global = true, env = "COFFRE_VAULT", value_name = "PATH")]
    vault: Option<String>,
    /// Age identity file or SSH private key that opens the vault (repeatable; COFFRE_IDENTITY names some, separated by colons)
    #[arg(long, global = true, value_name = "FILE")]
    identity: Vec<PathBuf>,
    /// File whose first line is the passphrase
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "passphrase_command")]
    passphrase_file: Option<PathBuf>,
    /// Shell command that prints the passphrase (COFFRE_PASSPHRASE may hold it too)
    #[arg(long, global = true, value_name = "CMD")]
    passphrase_command: Option<String>,
    /// Data on standard output as JSON
    #[arg(long, global = true)]
    json: bool,
    /// Say only what is wrong
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Say more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// When to colour
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: When,
    /// How to show progress
    #[arg(long, global = true, value_name = "HOW", default_value = "auto")]
    progress: Progress,
    #[command(flatten)]
    line: line::Args,
    #[arg(skip)]
    cancel: Cancel,
    #[arg(skip)]
    screen: OnceLock<Arc<Screen>>,
    #[arg(skip)]
    calls: Calls,
    /// The owner's public key, where a command was given it.
    #[arg(skip)]
    owner_key: OnceLock<String>,
}

#[derive(Subcommand)]
enum Command {
    Init(init::Args),
    Seal(Box<seal::Args>),
    Snapshots(snapshots::Args),
    Mount(mount::Args),
    Unmount(mount::UnmountArgs),
    Cat(cat::Args),
    Ls(ls::Args),
    Find(Box<find::Args>),
    History(history::Args),
    Diff(diff::Args),
    Bisect(bisect::Args),
    Stats(stats::Args),
    Dump(dump::Args),
    Restore(Box<restore::Args>),
    Verify(verify::Args),
    Forget(forget::ForgetArgs),
    Prune(prune::Args),
    Undelete(forget::UndeleteArgs),
    Pin(forget::PinArgs),
    /// Let a policy judge snapshots again
    Unpin(forget::PinArgs),
    Copy(copy::Args),
    /// The copies of the vault that this host knows of: how far behind, when checked, how much of them was read
    #[command(subcommand)]
    Copies(copies::Command),
    Audit(audit::Args),
    Head(head::Args),
    Status(status::Args),
    /// Who can read the vault, and who can seal into it
    #[command(subcommand)]
    Key(key::Command),
    Enroll(enroll::Args),
    /// The local catalog of a sealing host
    #[command(subcommand)]
    Catalog(catalog::Command),
    /// Print shell completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    Man(man::Args),
}

impl Globals {
    /// The screen.
    pub fn screen(&self) -> &Arc<Screen> {
        self.screen.get_or_init(|| Arc::new(Screen::new(self.json, self.quiet, self.color, self.progress)))
    }

    /// Trusts this owner alone from now on, if one is given.
    fn know(&self, given: &keys::OwnerKey) {
        if let Some(owner) = &given.owner_key {
            // Each command is given one.
            self.owner_key.get_or_init(|| owner.clone());
        }
    }

    /// This host's state directory of a vault.
    fn state_of(&self, vault: &Vault) -> Result<StateDir> {
        Ok(StateDir::new(&state_base()?, vault.config.id).knowing(self.owner_key.get().cloned()))
    }

    /// Where the vault is, for `init`, or for opening it.
    fn store(&self) -> Result<(Arc<dyn Store>, Option<PathBuf>)> {
        let place = self.vault.as_deref().filter(|v| !v.is_empty());
        self.store_at(place.ok_or_else(|| Error::usage("which vault?").hint("give --vault PATH, or set COFFRE_VAULT"))?)
    }

    /// The store at `place`, and its path if it is a directory.
    fn store_at(&self, place: &str) -> Result<(Arc<dyn Store>, Option<PathBuf>)> {
        let (store, path) = store::open(place, || self.line.settings(&self.cancel))?;
        Ok((Arc::new(Watched::new(store, self.calls.clone(), Arc::new(SystemClock))), path))
    }

    /// Opens the vault.
    fn open(&self) -> Result<Opened> {
        let (store, path) = self.store()?;
        let vault = Vault::open(store)?;
        let state = self.state_of(&vault)?;
        Ok(Opened { vault, path, state })
    }
}

impl Globals {
    /// Opens the vault to seal into it, or to read it; of one on a server what was seen of it before is not asked for again.
    fn open_remembering(&self) -> Result<Opened> {
        let (store, path) = self.store()?;
        let store: Arc<dyn Store> = match store.is_far() {
            true => Arc::new(Seen::new(store, &state_base()?.join("seen"))),
            false => store,
        };
        let vault = Vault::open(store)?;
        let state = self.state_of(&vault)?;
        Ok(Opened { vault, path, state })
    }
}

/// Bytes of a server's packs kept on this machine's disk by commands that have no option for it.
const DISK_CACHE_BYTES: u64 = 2 << 30;

impl Globals {
    /// Opens the vault to read from it, and its copies where it has lost something; of one on a server up to `disk_cache` bytes are kept here, encrypted as they are.
    fn open_to_read(&self, disk_cache: u64) -> Result<Opened> {
        let mut opened = self.with_copies(self.open_remembering()?)?;
        if let (None, Some(base)) = (&opened.path, cache_base().filter(|_| disk_cache > 0)) {
            let dir = base.join(opened.vault.config.id.to_string());
            opened.vault.store = Arc::new(Cached::new(opened.vault.store, &dir, disk_cache)?);
        }
        Ok(opened)
    }
}

/// The directory below which each vault's cache lies; `None` for who has no home.
fn cache_base() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from).filter(|p| p.is_absolute());
    set("COFFRE_CACHE_DIR")
        .or_else(|| set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache"))).map(|base| base.join("coffre")))
}

/// A vault with this host's side of it.
struct Opened {
    vault: Vault,
    /// Where it is, if that is a directory.
    path: Option<PathBuf>,
    state: StateDir,
}

impl Opened {
    /// The name that this host's snapshots bear: its own, or that of its sealer where an owner chose another.
    fn host(&self) -> Result<String> {
        let host = sys::host_name();
        Ok(self.state.sealer()?.map(|keys| keys.name).filter(|name| *name != name_from(&host)).unwrap_or(host))
    }
}

/// The directory below which each vault's state directory lies.
fn state_base() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = set("COFFRE_STATE_DIR")
        .or_else(|| set("XDG_STATE_HOME").filter(|p| p.is_absolute()).map(|p| p.join("coffre")))
        .or_else(|| set("HOME").map(|home| home.join(".local/state/coffre")))
        // At boot, where fstab is read, nobody has a home yet.
        .or_else(|| sys::is_root().then(|| PathBuf::from("/root/.local/state/coffre")))
        .ok_or_else(|| Error::usage("no place for the state directory: HOME is not set").hint("set COFFRE_STATE_DIR"))?;
    std::path::absolute(&base).map_err(|e| Error::io(format!("cannot use {}", base.display()), e))
}

/// What a command gets besides its arguments.
struct Run<'a> {
    globals: &'a Globals,
    screen: &'a Arc<Screen>,
    clock: Arc<dyn Clock>,
    cancel: Cancel,
}

/// Parses the command line, runs the command, prints its error.
pub fn main() -> ExitCode {
    // Before anything is started that would inherit it.
    keys::take_from_environment();
    let words: Vec<std::ffi::OsString> = std::env::args_os().collect();
    // A shell asks what could follow; it says so in the environment.
    match clap_complete::CompleteEnv::with_factory(command).try_complete(words.iter().cloned(), std::env::current_dir().ok().as_deref()) {
        Ok(false) => (),
        Ok(true) => return ExitCode::SUCCESS,
        Err(_) => return ExitCode::FAILURE,
    }
    let parsed = command().try_get_matches_from(mount_options::translated(&words).unwrap_or(words));
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(e) => {
            let code = if e.use_stderr() { exit::code(crate::error::ErrorKind::Usage) } else { 0 };
            let text = e.render().to_string();
            match censor::without_secrets(&text) {
                shown if e.use_stderr() && shown != text => eprint!("{shown}"),
                _ => drop(e.print()),
            }
            return ExitCode::from(code);
        }
    };
    sys::refuse_dumps();
    sys::raise_file_limit();
    let screen = cli.globals.screen().clone();
    let run = Run { globals: &cli.globals, screen: &screen, clock: Arc::new(SystemClock), cancel: cli.globals.cancel.clone() };
    let done = run.command(&cli.command);
    screen.end_progress();
    cli.globals.line.tell(&screen, cli.globals.verbose > 0);
    match done {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            screen.error(&e);
            ExitCode::from(exit::code(e.kind()))
        }
    }
}

impl Run<'_> {
    fn command(&self, command: &Command) -> Result<u8> {
        // A mount waits for its signals itself, and unmounts.
        if !matches!(command, Command::Mount(_)) {
            sys::catch_signals(&self.cancel)?;
            patience::watch(self, true)?;
        }
        match command {
            Command::Init(args) => init::run(self, args),
            Command::Seal(args) => seal::run(self, args),
            Command::Snapshots(args) => snapshots::run(self, args),
            Command::Mount(args) => mount::run(self, args),
            Command::Unmount(args) => mount::unmount(self, args),
            Command::Cat(args) => cat::run(self, args),
            Command::Ls(args) => ls::run(self, args),
            Command::Find(args) => find::run(self, args),
            Command::History(args) => history::run(self, args),
            Command::Diff(args) => diff::run(self, args),
            Command::Bisect(args) => bisect::run(self, args),
            Command::Stats(args) => stats::run(self, args),
            Command::Dump(args) => dump::run(self, args),
            Command::Restore(args) => restore::run(self, args),
            Command::Verify(args) => verify::run(self, args),
            Command::Forget(args) => forget::forget(self, args),
            Command::Prune(args) => prune::run(self, args),
            Command::Undelete(args) => forget::undelete(self, args),
            Command::Pin(args) => forget::pin(self, args, true),
            Command::Unpin(args) => forget::pin(self, args, false),
            Command::Copy(args) => copy::run(self, args),
            Command::Copies(command) => copies::run(self, command),
            Command::Audit(args) => audit::run(self, args),
            Command::Head(args) => head::run(self, args),
            Command::Status(args) => status::run(self, args),
            Command::Key(command) => key::run(self, command),
            Command::Enroll(args) => enroll::run(self, args),
            Command::Catalog(command) => catalog::run(self, command),
            Command::Completions { shell } => {
                self.screen.plain(&String::from_utf8_lossy(&complete::registration(&shell.to_string())?))?;
                Ok(0)
            }
            Command::Man(args) => man::run(self, args),
        }
    }
}

/// The command line as it is read, with the examples of each command.
fn command() -> clap::Command {
    examples::add(Cli::command())
}

/// A path for people.
fn shown(path: &Path) -> String {
    output::visible(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
