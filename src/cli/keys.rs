//! From the options that name keys to what opens a vault. The home of `rpassword`.

use std::{
    fs::File,
    io::{IsTerminal, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use zeroize::Zeroizing;

use crate::{
    cli::{Globals, output::visible},
    error::{Error, ErrorKind, Result},
    sys,
    vault::{Ask, OwnerKeys, Unlocking, Vault, public_key},
};

/// Longest identity or passphrase file read, in bytes.
const SECRET_FILE_LEN_MAX: u64 = 1 << 20;

/// Asks on the terminal.
pub struct Terminal;

impl Ask for Terminal {
    fn secret(&self, what: &str) -> Result<Zeroizing<String>> {
        let secret = rpassword::prompt_password(format!("{what}: ")).map(Zeroizing::new);
        secret.map_err(|e| match e.kind() {
            std::io::ErrorKind::Interrupted => Error::cancelled(),
            _ => Error::wrong_key(format!("cannot ask for the {what}"))
                .because(e)
                .hint("give --passphrase-file, --passphrase-command or --identity"),
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

/// The passphrase that the environment gave.
static GIVEN: Mutex<Option<Zeroizing<String>>> = Mutex::new(None);

/// Takes the passphrase out of the environment. Call it first of all.
pub fn take_from_environment() {
    *GIVEN.lock().expect("nobody panics with it") = sys::take_variable(sys::PASSPHRASE_VARIABLE).filter(|text| !text.is_empty());
}

/// Drops that passphrase: for who stays, and needs it no more.
pub fn forget_passphrase() {
    GIVEN.lock().expect("nobody panics with it").take();
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
    let file = File::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    let mut text = Zeroizing::new(String::new());
    // It grows as it is read: a pipe does not say how long it is, and a device does not end.
    sys::wiping(|| file.take(SECRET_FILE_LEN_MAX + 1).read_to_string(&mut text)).map_err(failed)?;
    if text.len() as u64 > SECRET_FILE_LEN_MAX {
        return Err(Error::usage(format!("{} is too long to be a key", path.display())).hint("check the path"));
    }
    // What some editors put first.
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
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
    Ok(GIVEN.lock().expect("nobody panics with it").clone().filter(|_| !explicit))
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
    let state = globals.state_of(vault)?;
    let unlocking = unlocking.expecting(state.pinned_owner()?);
    let opened = unlocking.open(&*vault.store, vault.config.id).inspect(OwnerKeys::lock_in_memory);
    if let Ok(keys) = &opened {
        warn_of_way(globals, keys);
    }
    opened.map_err(|e| {
        let seals = e.kind() == ErrorKind::WrongKey && unlocking.is_empty() && state.sealer().is_ok_and(|keys| keys.is_some());
        match e.hint_text().map(str::to_owned) {
            Some(hint) if seals => e.hint(format!("this host seals and cannot read, its owners can: {hint}")),
            _ => e,
        }
    })
}

/// Says what is wrong with the way by which these keys were had.
fn warn_of_way(globals: &Globals, keys: &OwnerKeys) {
    let way = visible(keys.came_by().unwrap_or("the way in that was used"));
    if keys.is_removed() {
        globals.screen().warning(&format!("an owner removed {way}, and somebody put it back: it changes no keys, and gets no new ones"));
    }
    if let Some(epoch) = keys.closed_epoch() {
        let why = if keys.is_removed() { "was removed before" } else { "has not got its keys; an owner adds it anew: coffre key add" };
        globals.screen().warning(&format!("what was sealed since epoch {epoch} of the keys began is closed to this key: {way} {why}"));
    }
}

/// The owner's public key, as somebody knows it who never saw this vault before.
#[derive(clap::Args)]
pub struct OwnerKey {
    /// The owner's public key, or a file that holds it: the `owner` line of the recovery kit, or of signers/allowed_signers
    #[arg(long, value_name = "KEY", value_parser = parse_owner_key)]
    pub owner_key: Option<String>,
}

/// Longest file with a public key, in bytes.
const PUBLIC_FILE_LEN_MAX: u64 = 64 << 10;

/// Reads `ssh-ed25519 AAAA…`, alone or behind `owner`, or a file that has such a line.
pub fn parse_owner_key(text: &str) -> std::result::Result<String, String> {
    let wanted = || "an ed25519 public key is wanted, `ssh-ed25519 AAAA…`, or a file that holds one".to_owned();
    if let Some(key) = owner_in(text) {
        return Ok(key);
    }
    if text.contains("ssh-") {
        return Err(wanted());
    }
    let mut read = String::new();
    let file = File::open(text).map_err(|e| format!("{}: {e}", wanted()))?;
    file.take(PUBLIC_FILE_LEN_MAX).read_to_string(&mut read).map_err(|e| format!("{}: {e}", wanted()))?;
    read.lines().find_map(owner_in).ok_or_else(wanted)
}

/// The owner's key in one line: bare, or as the recovery kit or a list of signers has it. In a list the others are not the owner's.
fn owner_in(line: &str) -> Option<String> {
    let line = line.trim();
    let at = line.find("ssh-ed25519 ")?;
    let before = line[..at].split_whitespace().next();
    (before.is_none() || before == Some("owner")).then(|| public_key(&line[at..])).flatten()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owners_key_is_found_in_all_that_shows_it() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJrcbRj1Q0WkGdPmNAWvQuZNkMmBZJJtXZ1iX3UNqZsn";
        for line in [
            key.to_owned(),
            format!("owner   {key}"),
            format!("owner namespaces=\"coffre-gc-v1,coffre-signers-v1\" {key}"),
            format!("{key} me@desk"),
        ] {
            assert_eq!(parse_owner_key(&line).as_deref(), Ok(key), "{line}");
        }
        for line in
            [format!("web1 namespaces=\"coffre-receipt-v1\" {key}"), "ssh-rsa AAAA".to_owned(), "owner ssh-ed25519 nonsense".to_owned()]
        {
            assert!(parse_owner_key(&line).is_err(), "{line}");
        }
    }
}
