//! The ways into a vault: recipients at `init`, identities and passphrases ever after. The home of `age` above packs.

use std::{collections::HashSet, io::BufReader, str::FromStr};

use age::secrecy::SecretString;
use age_core::format::{FileKey, Stanza};
use zeroize::Zeroizing;

use crate::{
    error::{Error, ErrorKind, Result},
    format::VaultId,
    pack::{self, Unwrap},
    store::{self, Key, Store},
    vault::keys::OwnerKeys,
};

/// Longest key file accepted, in bytes.
pub(super) const KEY_FILE_LEN_MAX: usize = 1 << 20;

/// Asks a person. Called only where nothing else answers.
pub trait Ask: Send + Sync {
    /// A secret for `what`, or an error that says how to give it otherwise.
    fn secret(&self, what: &str) -> Result<Zeroizing<String>>;
}

/// One way to unlock a vault, as it is created.
pub enum Way {
    /// A passphrase, by scrypt: the work takes about a second here and for every guess.
    Passphrase(Zeroizing<String>),
    /// An age public key.
    Age(age::x25519::Recipient),
    /// An SSH public key, ed25519 or RSA.
    Ssh(Box<age::ssh::Recipient>, String),
}

impl Way {
    /// Reads `age1…`, `ssh-ed25519 …` or `ssh-rsa …`.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        let wrong = |why: String| {
            Error::usage(format!("`{text}` is no public key that coffre knows{why}"))
                .hint("give an age1… key or an ssh-ed25519 or ssh-rsa public key line; private keys stay with you")
        };
        if text.starts_with("age1") {
            return age::x25519::Recipient::from_str(text).map(Way::Age).map_err(|e| wrong(format!(": {e}")));
        }
        match age::ssh::Recipient::from_str(text) {
            Ok(key) => Ok(Way::Ssh(Box::new(key), text.to_owned())),
            Err(e) if text.starts_with("ssh-") => Err(wrong(format!(": {e:?}"))),
            Err(_) if text.starts_with("AGE-SECRET-KEY-") => Err(Error::usage("that is a private key; a recipient is public")
                .hint("age-keygen -y FILE prints the public key of an identity file")),
            Err(_) => Err(wrong(String::new())),
        }
    }

    /// The part of the file name that says what kind of way this is.
    pub fn label(&self) -> &'static str {
        match self {
            Way::Passphrase(_) => "passphrase",
            Way::Age(_) => "age",
            Way::Ssh(..) => "ssh",
        }
    }

    /// For people.
    pub fn describe(&self) -> String {
        match self {
            Way::Passphrase(_) => "a passphrase".to_owned(),
            Way::Age(key) => key.to_string(),
            Way::Ssh(_, text) => text.clone(),
        }
    }

    /// Encrypts `plaintext` so that this way opens it.
    pub fn seal(&self, plaintext: &[u8]) -> Result<Vec<u8>> {
        match self {
            Way::Passphrase(secret) => pack::seal_whole(&[&age::scrypt::Recipient::new(SecretString::from(secret.as_str()))], plaintext),
            Way::Age(key) => pack::seal_whole(&[key], plaintext),
            Way::Ssh(key, _) => pack::seal_whole(&[&**key], plaintext),
        }
    }
}

/// What somebody brings to unlock a vault.
#[derive(Default)]
pub struct Unlocking {
    identities: Vec<Box<dyn age::Identity + Send + Sync>>,
    passphrase: Option<Zeroizing<String>>,
    ask: Option<std::sync::Arc<dyn Ask>>,
}

/// Lets the age crate ask for the passphrase of an SSH key or an encrypted identity file.
#[derive(Clone)]
struct Callbacks(Option<std::sync::Arc<dyn Ask>>);

impl age::Callbacks for Callbacks {
    fn display_message(&self, _: &str) {}
    fn confirm(&self, _: &str, _: &str, _: Option<&str>) -> Option<bool> {
        None
    }
    fn request_public_string(&self, _: &str) -> Option<String> {
        None
    }
    fn request_passphrase(&self, what: &str) -> Option<SecretString> {
        let secret = self.0.as_ref()?.secret(what).ok()?;
        Some(SecretString::from(secret.as_str()))
    }
}

/// The crate's SSH identity with callbacks does not say that it is `Send`; what it holds is, but the type is hidden.
struct SshIdentity(String, Callbacks);

impl SshIdentity {
    fn unwrap(&self, stanzas: &[Stanza]) -> Option<std::result::Result<FileKey, age::DecryptError>> {
        let identity = age::ssh::Identity::from_buffer(self.0.as_bytes(), None).ok()?.with_callbacks(self.1.clone());
        age::Identity::unwrap_stanzas(&identity, stanzas)
    }
}

impl age::Identity for SshIdentity {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<std::result::Result<FileKey, age::DecryptError>> {
        self.unwrap(std::slice::from_ref(stanza))
    }
    fn unwrap_stanzas(&self, stanzas: &[Stanza]) -> Option<std::result::Result<FileKey, age::DecryptError>> {
        self.unwrap(stanzas)
    }
}

impl Drop for SshIdentity {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

impl Unlocking {
    /// Brings nothing, but may ask.
    pub fn asking(ask: Option<std::sync::Arc<dyn Ask>>) -> Self {
        Self { ask, ..Self::default() }
    }

    /// Brings a passphrase.
    pub fn with_passphrase(mut self, passphrase: Zeroizing<String>) -> Self {
        self.passphrase = Some(passphrase);
        self
    }

    /// Brings the text of an identity file: age identities, or an SSH private key.
    pub fn add_identity_file(&mut self, name: &str, text: &str) -> Result<()> {
        let wrong = |why: String| {
            Error::usage(format!("{name} is no identity file{why}"))
                .hint("give an age identity file (AGE-SECRET-KEY-1…) or an SSH private key (ed25519 or RSA)")
        };
        let callbacks = Callbacks(self.ask.clone());
        if text.contains("PRIVATE KEY-----") {
            match age::ssh::Identity::from_buffer(text.as_bytes(), None).map_err(|e| wrong(format!(": {e}")))? {
                age::ssh::Identity::Unsupported(_) => return Err(wrong(": this kind of SSH key cannot decrypt".to_owned())),
                _ => self.identities.push(Box::new(SshIdentity(text.to_owned(), callbacks))),
            }
            return Ok(());
        }
        let file = age::IdentityFile::from_buffer(BufReader::new(text.as_bytes())).map_err(|e| wrong(format!(": {e}")))?;
        let identities = file.with_callbacks(callbacks).into_identities().map_err(|e| wrong(format!(": {e}")))?;
        if identities.is_empty() {
            return Err(wrong(": it holds no identity".to_owned()));
        }
        self.identities.extend(identities);
        Ok(())
    }

    /// Whether nothing was brought: only asking is left.
    pub fn is_empty(&self) -> bool {
        self.identities.is_empty() && self.passphrase.is_none()
    }

    /// Opens the owner keys of `vault`: identities first, then a passphrase that was brought, then one that is asked for.
    ///
    /// # Errors
    /// `WrongKey` if nothing fits; `Missing` if the vault holds no owner files; `Corrupt` if those that fit are damaged.
    pub fn open(&self, store: &dyn Store, vault: VaultId) -> Result<OwnerKeys> {
        let files = owner_files(store)?;
        if files.is_empty() {
            return Err(Error::missing(format!("no keys/owner-*.age in {}", store.describe()))
                .hint("bring keys/ back from another copy of this vault"));
        }
        let mut damaged = None;
        let mut try_files = |scrypt: bool, identities: &[Unwrap]| {
            for (name, bytes) in files.iter().filter(|(_, bytes)| is_scrypt(bytes) == scrypt) {
                match pack::open_whole(identities, bytes, name).and_then(|text| {
                    let text = std::str::from_utf8(&text).map_err(|_| Error::corrupt(format!("{name} is not text")))?;
                    OwnerKeys::decode(text, vault)
                }) {
                    Ok(keys) => return Some(keys),
                    Err(e) if e.kind() == ErrorKind::WrongKey => (),
                    Err(e) => damaged = Some(e),
                }
            }
            None
        };
        let identities: Vec<Unwrap> = self.identities.iter().map(|i| &**i as Unwrap).collect();
        if !identities.is_empty()
            && let Some(keys) = try_files(false, &identities)
        {
            return Ok(keys);
        }
        let has_passphrase = files.iter().any(|(_, bytes)| is_scrypt(bytes));
        let mut tried_passphrase = false;
        if let Some(secret) = &self.passphrase {
            tried_passphrase = true;
            if let Some(keys) = try_files(true, &[&age::scrypt::Identity::new(SecretString::from(secret.as_str()))]) {
                return Ok(keys);
            }
        } else if has_passphrase
            && identities.is_empty()
            && let Some(ask) = &self.ask
        {
            tried_passphrase = true;
            let secret = ask.secret(&format!("passphrase of the vault at {}", store.describe()))?;
            if let Some(keys) = try_files(true, &[&age::scrypt::Identity::new(SecretString::from(secret.as_str()))]) {
                return Ok(keys);
            }
        }
        if let Some(e) = damaged {
            return Err(e);
        }
        let ways: HashSet<&str> = files.iter().filter_map(|(name, _)| name.strip_suffix(".age")?.rsplit('-').next()).collect();
        let mut ways: Vec<&str> = ways.into_iter().collect();
        ways.sort_unstable();
        let what = match (tried_passphrase, identities.is_empty()) {
            (true, true) if has_passphrase => "this passphrase does not open the vault",
            (false, false) => "none of the identities given opens the vault",
            (_, true) if !tried_passphrase => "a key is needed to read this vault, and none was given",
            _ => "nothing that was given opens the vault",
        };
        Err(Error::wrong_key(what)
            .hint(format!("it opens with: {} (--identity FILE, --passphrase-file FILE, or a prompt)", ways.join(", "))))
    }
}

/// The owner files, newest first, each with its bytes. A file that is missing or unreadable is taken from its second copy.
fn owner_files(store: &dyn Store) -> Result<Vec<(String, Vec<u8>)>> {
    let mut names: Vec<String> = Vec::new();
    for folder in ["keys", "parity/keys"] {
        for (key, _) in store::list_all(store, folder)? {
            let name = key.file_name();
            if name.starts_with("owner-") && name.ends_with(".age") && !names.iter().any(|n| n == name) {
                names.push(name.to_owned());
            }
        }
    }
    names.sort_unstable_by(|a, b| b.cmp(a));
    let mut files = Vec::new();
    for name in names {
        let read = |folder: &str| store::get_all(store, &Key::fixed(format!("{folder}/{name}")), KEY_FILE_LEN_MAX);
        let (first, second) = (read("keys"), read("parity/keys"));
        // Both copies are tried: a damaged one simply does not open.
        if let (Ok(first), Ok(second)) = (&first, &second)
            && first != second
        {
            files.push((name.clone(), first.clone()));
            files.push((name, second.clone()));
        } else if let Ok(bytes) = first.or(second) {
            files.push((name, bytes));
        }
    }
    Ok(files)
}

/// Whether an age file asks for a passphrase: its only stanza says so in clear.
fn is_scrypt(file: &[u8]) -> bool {
    file.split(|b| *b == b'\n').nth(1).is_some_and(|line| line.starts_with(b"-> scrypt "))
}
