//! The terminal: what was typed, and the one `match` over commands. The home of `clap`.

mod audit;
mod cat;
mod catalog;
mod copy;
mod enroll;
mod exit;
mod forget;
mod head;
mod init;
mod key;
mod keys;
mod line;
mod mount;
mod mount_options;
mod output;
mod patience;
mod progress;
mod prune;
mod restore;
mod seal;
mod snapshots;
mod verify;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, OnceLock},
};

use clap::{CommandFactory, Parser, Subcommand};

use crate::{
    cli::output::{Progress, Screen, When},
    error::{Error, Result},
    format::name_from,
    store::{self, Calls, Store, Watched},
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
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong command line, 3 done but some source files could not be read, 4 damage found,\n10 no vault here, 11 in use, 12 no key opens it, 130 interrupted."
)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(clap::Args)]
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
}

#[derive(Subcommand)]
enum Command {
    /// Create a vault and print its recovery kit
    Init(init::Args),
    /// Add a snapshot of some paths
    Seal(Box<seal::Args>),
    /// List snapshots
    Snapshots(snapshots::Args),
    /// Show every snapshot as files below a directory, until ^C or unmount
    Mount(mount::Args),
    /// End a mount
    Unmount(mount::UnmountArgs),
    /// Print a file of a snapshot
    Cat(cat::Args),
    /// Restore a snapshot, or a part of one, without a mount
    Restore(Box<restore::Args>),
    /// Check that everything is there, is what it was, and opens
    Verify(verify::Args),
    /// Forget snapshots that no rule keeps, or that are named
    Forget(forget::ForgetArgs),
    /// Free the space of forgotten snapshots, in two steps with a grace between them
    Prune(prune::Args),
    /// Bring back forgotten snapshots
    Undelete(forget::UndeleteArgs),
    /// Keep snapshots whatever a policy says
    Pin(forget::PinArgs),
    /// Let a policy judge snapshots again
    Unpin(forget::PinArgs),
    /// Bring another copy of the vault up to date; needs no key
    Copy(copy::Args),
    Audit(audit::Args),
    Head(head::Args),
    /// Who can read the vault, and who can seal into it
    #[command(subcommand)]
    Key(key::Command),
    /// Make this host a sealer of the vault, with the token that an owner made for it
    Enroll(enroll::Args),
    /// The local catalog of a sealing host
    #[command(subcommand)]
    Catalog(catalog::Command),
    /// Print shell completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

impl Globals {
    /// The screen.
    pub fn screen(&self) -> &Arc<Screen> {
        self.screen.get_or_init(|| Arc::new(Screen::new(self.json, self.quiet, self.color, self.progress)))
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
        let state = StateDir::new(&state_base()?, vault.config.id);
        Ok(Opened { vault, path, state })
    }
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

/// Splits `SNAP:PATH`. The path starts at the first `:/`, or else at the first colon.
fn split_snap_path(text: &str) -> (&str, &str) {
    match text.find(":/").or_else(|| text.find(':')) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, ""),
    }
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
    let words: Vec<std::ffi::OsString> = std::env::args_os().collect();
    let cli = match Cli::try_parse_from(mount_options::translated(&words).unwrap_or(words)) {
        Ok(cli) => cli,
        Err(e) => {
            let code = if e.use_stderr() { exit::code(crate::error::ErrorKind::Usage) } else { 0 };
            let _ = e.print();
            return ExitCode::from(code);
        }
    };
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
            Command::Restore(args) => restore::run(self, args),
            Command::Verify(args) => verify::run(self, args),
            Command::Forget(args) => forget::forget(self, args),
            Command::Prune(args) => prune::run(self, args),
            Command::Undelete(args) => forget::undelete(self, args),
            Command::Pin(args) => forget::pin(self, args, true),
            Command::Unpin(args) => forget::pin(self, args, false),
            Command::Copy(args) => copy::run(self, args),
            Command::Audit(args) => audit::run(self, args),
            Command::Head(args) => head::run(self, args),
            Command::Key(command) => key::run(self, command),
            Command::Enroll(args) => enroll::run(self, args),
            Command::Catalog(command) => catalog::run(self, command),
            Command::Completions { shell } => {
                clap_complete::generate(*shell, &mut Cli::command(), "coffre", &mut std::io::stdout());
                Ok(0)
            }
            Command::Man => manual(),
        }
    }
}

/// Writes what the manual says of one command.
fn section(page: &mut Vec<u8>, name: &str, command: &clap::Command) -> std::io::Result<()> {
    let man = clap_mangen::Man::new(command.clone());
    page.extend_from_slice(format!(".SH {}\n", name.to_uppercase()).as_bytes());
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    if let Some(examples) = command.get_after_long_help() {
        // As it stands: roff would fill the lines, and take a dot at the start of one for a command.
        page.extend_from_slice(b".PP\n.nf\n");
        for line in examples.to_string().lines() {
            page.extend_from_slice(format!("\\&{}\n", line.replace('\\', "\\e").replace('-', "\\-")).as_bytes());
        }
        page.extend_from_slice(b".fi\n");
    }
    Ok(())
}

/// Prints one manual page: the program, then every command.
fn manual() -> Result<u8> {
    let mut page = Vec::new();
    let failed = |e| Error::io("cannot write the manual page", e);
    let mut command = Cli::command();
    command.build();
    clap_mangen::Man::new(command.clone()).render(&mut page).map_err(failed)?;
    for sub in command.get_subcommands().filter(|s| s.get_name() != "help") {
        section(&mut page, sub.get_name(), sub).map_err(failed)?;
        for below in sub.get_subcommands().filter(|s| s.get_name() != "help") {
            section(&mut page, &format!("{} {}", sub.get_name(), below.get_name()), below).map_err(failed)?;
        }
    }
    match std::io::Write::write_all(&mut std::io::stdout(), &page) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(failed(e)),
        _ => Ok(0),
    }
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

    #[test]
    fn a_snapshot_and_a_path_come_apart() {
        assert_eq!(split_snap_path("latest:/etc/hosts"), ("latest", "/etc/hosts"));
        assert_eq!(split_snap_path("2025-11-08T03:00:/etc/a:b"), ("2025-11-08T03:00", "/etc/a:b"));
        assert_eq!(split_snap_path("1a2b3c4d:etc/hosts"), ("1a2b3c4d", "etc/hosts"));
    }
}
