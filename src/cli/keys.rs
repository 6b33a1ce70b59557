//! From the options that name keys to what opens a vault. The home of `rpassword`.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    sync::Arc,
};

use zeroize::Zeroizing;

use crate::{
    cli::{Globals, output::visible, state_base},
    error::{Error, ErrorKind, Result},
    sys,
    vault::{Ask, OwnerKeys, StateDir, Unlocking, Vault},
};

/// Longest identity or passphrase file read, in bytes.
const SECRET_FILE_LEN_MAX: u64 = 1 << 20;

/// Asks on the terminal.
pub struct Terminal;

impl Ask for Terminal {
    fn secret(&self, what: &str) -> Result<Zeroizing<String>> {
        let secret = rpassword::prompt_password(format!("{what}: ")).map(Zeroizing::new);
        secret.map_err(|e| {
            Error::wrong_key(format!("cannot ask for the {what}"))
                .because(e)
                .hint("give --passphrase-file, --passphrase-command or --identity")
        })
    }

    fn public(&self, what: &str) -> Option<String> {
        eprint!("{}: ", visible(what));
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).ok().filter(|n| *n > 0).map(|_| line.trim_end().to_owned())
    }

    fn tell(&self, text: &str) {
        eprintln!("coffre: {}", visible(text));
    }
}

/// Whether a person sits at a terminal.
pub fn can_ask() -> bool {
    std::io::stdin().is_terminal() || std::io::stderr().is_terminal()
}

/// Reads a file that holds a secret. One that others can read is refused: it is none.
pub fn secret_file(path: &Path) -> Result<Zeroizing<String>> {
    let (text, mode) = read_small(path)?;
    refuse_open(path, mode)?;
    Ok(text)
}

/// The text of a key file, and its mode if others can read it.
fn read_small(path: &Path) -> Result<(Zeroizing<String>, Option<u32>)> {
    let failed = |e| {
        Error::wrong_key(format!("cannot read the key file {}", path.display()))
            .because(e)
            .hint("check the path that --identity, --passphrase-file or COFFRE_IDENTITY names")
    };
    let meta = std::fs::metadata(path).map_err(failed)?;
    if meta.len() > SECRET_FILE_LEN_MAX {
        return Err(Error::usage(format!("{} is too long to be a key", path.display())));
    }
    let text = std::fs::read_to_string(path).map(Zeroizing::new).map_err(failed)?;
    Ok((text, sys::readable_by_others(&meta)))
}

fn refuse_open(path: &Path, mode: Option<u32>) -> Result<()> {
    let Some(mode) = mode else { return Ok(()) };
    Err(Error::wrong_key(format!("{} can be read by others than its owner: its mode is {mode:04o}", path.display()))
        .hint(format!("chmod 600 {}; if somebody else may have read it, it is no secret any more", path.display())))
}

/// The passphrase that the command line or the environment gives, if any; `explicit` leaves the environment out.
pub fn passphrase(globals: &Globals, explicit: bool) -> Result<Option<Zeroizing<String>>> {
    if let Some(path) = &globals.passphrase_file {
        let text = secret_file(path)?;
        let line = text.lines().next().unwrap_or_default();
        return not_empty(line, &path.display().to_string()).map(Some);
    }
    if let Some(command) = &globals.passphrase_command {
        let line = sys::run_for_line(command)?;
        return not_empty(&line, &format!("`{command}`")).map(Some);
    }
    match std::env::var(sys::PASSPHRASE_VARIABLE) {
        Ok(text) if !explicit && !text.is_empty() => Ok(Some(Zeroizing::new(text))),
        _ => Ok(None),
    }
}

fn not_empty(line: &str, from: &str) -> Result<Zeroizing<String>> {
    match line.is_empty() {
        true => Err(Error::usage(format!("the passphrase from {from} is empty"))),
        false => Ok(Zeroizing::new(line.to_owned())),
    }
}

/// The identity files that were named, by option or environment.
fn identity_files(globals: &Globals) -> Vec<PathBuf> {
    if !globals.identity.is_empty() {
        return globals.identity.clone();
    }
    std::env::var_os("COFFRE_IDENTITY")
        .map(|paths| std::env::split_paths(&paths).filter(|p| !p.as_os_str().is_empty()).collect())
        .unwrap_or_default()
}

/// Gathers what was given to unlock a vault. Asks nothing yet.
pub fn unlocking(globals: &Globals) -> Result<Unlocking> {
    let mut unlocking = Unlocking::asking(person());
    // First, since it may be that of an SSH key.
    if let Some(secret) = passphrase(globals, false)? {
        unlocking = unlocking.with_passphrase(secret);
    }
    for path in identity_files(globals) {
        let (text, mode) = read_small(&path)?;
        // What is no secret at all is said first.
        unlocking.add_identity_file(&path.display().to_string(), &text)?;
        refuse_open(&path, mode)?;
    }
    Ok(unlocking)
}

/// Who can be asked, if anybody can.
pub fn person() -> Option<Arc<dyn Ask>> {
    can_ask().then(|| Arc::new(Terminal) as _)
}

/// Unlocks the vault.
pub fn unlock(globals: &Globals, vault: &Vault) -> Result<OwnerKeys> {
    open(globals, vault, unlocking(globals)?)
}

/// Unlocks the vault with what was gathered; a host that can only seal is told so.
pub fn open(globals: &Globals, vault: &Vault, unlocking: Unlocking) -> Result<OwnerKeys> {
    let state = StateDir::new(&state_base()?, vault.config.id);
    let unlocking = unlocking.expecting(state.pinned_owner()?);
    let opened = unlocking.open(&*vault.store, vault.config.id).inspect(OwnerKeys::lock_in_memory);
    if let Some(epoch) = opened.as_ref().ok().and_then(OwnerKeys::closed_epoch) {
        globals
            .screen()
            .warning(&format!("what was sealed since epoch {epoch} of the keys began is closed to this key: it was removed before"));
    }
    opened.map_err(|e| {
        let seals = e.kind() == ErrorKind::WrongKey && unlocking.is_empty() && state.sealer().is_ok_and(|keys| keys.is_some());
        match e.hint_text().map(str::to_owned) {
            Some(hint) if seals => e.hint(format!("this host seals and cannot read, its owners can: {hint}")),
            _ => e,
        }
    })
}

/// Where a new passphrase comes from.
#[derive(clap::Args, Default)]
pub struct NewPassphrase {
    /// File whose first line is the new passphrase (otherwise it is asked for)
    #[arg(long, value_name = "FILE", conflicts_with = "new_passphrase_command")]
    new_passphrase_file: Option<PathBuf>,
    /// Shell command that prints the new passphrase
    #[arg(long, value_name = "CMD")]
    new_passphrase_command: Option<String>,
}

impl NewPassphrase {
    /// Whether one was given.
    pub fn is_given(&self) -> bool {
        self.new_passphrase_file.is_some() || self.new_passphrase_command.is_some()
    }

    /// The passphrase: as it was given, or asked for twice.
    pub fn get(&self) -> Result<Zeroizing<String>> {
        if let Some(path) = &self.new_passphrase_file {
            return not_empty(secret_file(path)?.lines().next().unwrap_or_default(), &path.display().to_string());
        }
        match &self.new_passphrase_command {
            Some(command) => not_empty(&sys::run_for_line(command)?, &format!("`{command}`")),
            None if can_ask() => ask_twice(),
            None => {
                Err(Error::usage("no new passphrase was given").hint("give --new-passphrase-file FILE or --new-passphrase-command CMD"))
            }
        }
    }
}

/// A new passphrase, asked for twice.
pub fn new_passphrase() -> Result<Zeroizing<String>> {
    if !can_ask() {
        return Err(Error::usage("no way into the new vault was given")
            .hint("give --recipient age1…, --recipients-file FILE, --passphrase-file FILE or --passphrase-command CMD"));
    }
    ask_twice()
}

fn ask_twice() -> Result<Zeroizing<String>> {
    let first = Terminal.secret("new passphrase")?;
    if first.is_empty() {
        return Err(Error::usage("an empty passphrase protects nothing"));
    }
    match *Terminal.secret("the same once more")? == *first {
        true => Ok(first),
        false => Err(Error::usage("the two passphrases differ").hint("nothing was made; try again")),
    }
}
