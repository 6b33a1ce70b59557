//! Unlocking: what somebody brings, and which of the vault's ways in it fits.

use std::{collections::BTreeSet, io::BufReader, sync::Arc};

use age_core::format::{FileKey, Stanza};
use zeroize::Zeroizing;

use crate::{
    error::{Error, ErrorKind, Result},
    format::VaultId,
    pack::{self, Unwrap},
    store::{self, Key, Store},
    vault::{
        callbacks::{Ask, Callbacks},
        epochs,
        keys::OwnerKeys,
        recipients::{SCRYPT_LOG_N_MAX, missing_plugin, passphrase_identity, scrypt_log_n},
    },
};

/// Longest key file accepted, in bytes.
pub(super) const KEY_FILE_LEN_MAX: usize = 1 << 20;

/// What somebody brings to unlock a vault.
#[derive(Default)]
pub struct Unlocking {
    identities: Vec<Box<dyn age::Identity + Send + Sync>>,
    callbacks: Callbacks,
    expected_owner: Option<String>,
}

/// Most key files that are tried; a vault has as many as it has ways in.
const FILES_MAX: usize = 256;
/// Most work that all passphrase files together may ask for: 4 times as much as one may.
const SCRYPT_WORK_MAX: u64 = 4 << SCRYPT_LOG_N_MAX;

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
    pub fn asking(ask: Option<Arc<dyn Ask>>) -> Self {
        Self { callbacks: Callbacks::asking(ask), ..Self::default() }
    }

    /// Brings a passphrase: of the vault, or of the SSH keys that are brought after it.
    pub fn with_passphrase(mut self, passphrase: Zeroizing<String>) -> Self {
        self.callbacks.passphrase = Some(Arc::new(passphrase));
        self
    }

    /// Takes only keys whose owner is this one, if it is known: a storage that knows somebody's public key could plant others.
    pub fn expecting(mut self, owner: Option<String>) -> Self {
        self.expected_owner = owner;
        self
    }

    /// Brings the text of an identity file: age identities, or an SSH private key.
    pub fn add_identity_file(&mut self, name: &str, text: &str) -> Result<()> {
        let wrong = |why: String| {
            Error::usage(format!("{name} is no identity file{why}"))
                .hint("give an age identity file (AGE-SECRET-KEY-1…) or an SSH private key (ed25519 or RSA)")
        };
        let callbacks = self.callbacks.clone();
        if text.contains("PRIVATE KEY-----") {
            match age::ssh::Identity::from_buffer(text.as_bytes(), None).map_err(|e| wrong(format!(": {e}")))? {
                age::ssh::Identity::Unsupported(_) => return Err(wrong(": this kind of SSH key cannot decrypt".to_owned())),
                _ => self.identities.push(Box::new(SshIdentity(text.to_owned(), callbacks))),
            }
            return Ok(());
        }
        let file = age::IdentityFile::from_buffer(BufReader::new(text.as_bytes())).map_err(|e| wrong(format!(": {e}")))?;
        let identities = file.with_callbacks(callbacks).into_identities().map_err(|e| match e {
            age::DecryptError::PluginResolve(e) => missing_plugin(&plugin_of(text), &e),
            e => wrong(format!(": {e}")),
        })?;
        if identities.is_empty() {
            return Err(wrong(": it holds no identity".to_owned()));
        }
        self.identities.extend(identities);
        Ok(())
    }

    /// Whether nothing was brought: only asking is left.
    pub fn is_empty(&self) -> bool {
        self.identities.is_empty() && self.callbacks.passphrase.is_none()
    }

    /// Opens the owner keys of `vault`: identities first, then a passphrase that was brought, then one that is asked for.
    ///
    /// # Errors
    /// `WrongKey` if nothing fits; `Missing` if the vault holds no owner files; `Corrupt` if those that fit are damaged.
    pub fn open(&self, store: &dyn Store, vault: VaultId) -> Result<OwnerKeys> {
        let files = owner_files(store)?;
        if files.is_empty() {
            return Err(Error::missing(format!("no keys/owner-*.age in {}", store.describe()))
                .hint("bring keys/ back from another copy of this vault, or a way in from the recovery kit: coffre key restore KIT"));
        }
        let keys = self.open_files(&files, vault, &store.describe())?;
        epochs::follow(store, keys)
    }

    /// Opens the first of `files`, names with contents, that something fits.
    pub fn open_files(&self, files: &[(String, Vec<u8>)], vault: VaultId, place: &str) -> Result<OwnerKeys> {
        let mut damaged = None;
        let mut try_files = |scrypt: bool, identities: &[Unwrap]| {
            let mut work_left = SCRYPT_WORK_MAX;
            for (name, bytes) in files.iter().filter(|(_, bytes)| scrypt_log_n(bytes).is_some() == scrypt) {
                if let Some(log_n) = scrypt_log_n(bytes) {
                    let work = 1u64.checked_shl(u32::from(log_n)).unwrap_or(u64::MAX);
                    if log_n > SCRYPT_LOG_N_MAX || work > work_left {
                        damaged = Some(
                            Error::wrong_key(format!("{name} asks for an unreasonable amount of work, and was passed over"))
                                .hint("somebody may have put it there; another way in opens the vault: coffre key list"),
                        );
                        continue;
                    }
                    work_left -= work;
                }
                match self.open_file(identities, name, bytes, vault) {
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
        let has_passphrase = files.iter().any(|(_, bytes)| scrypt_log_n(bytes).is_some());
        let asked;
        let passphrase: Option<&str> = match (&self.callbacks.passphrase, &self.callbacks.ask) {
            (Some(secret), _) => Some(secret),
            (None, Some(ask)) if has_passphrase && identities.is_empty() => {
                asked = ask.secret(&format!("passphrase of the vault at {place}"))?;
                Some(&asked)
            }
            _ => None,
        };
        if let Some(secret) = passphrase.filter(|_| has_passphrase)
            && let Some(keys) = try_files(true, &[&passphrase_identity(secret)])
        {
            return Ok(keys);
        }
        if let Some(e) = damaged {
            return Err(e);
        }
        Err(self.refused(files, passphrase.is_some(), has_passphrase))
    }

    fn open_file(&self, identities: &[Unwrap], name: &str, bytes: &[u8], vault: VaultId) -> Result<OwnerKeys> {
        let text = pack::open_whole(identities, bytes, name)?;
        let text = std::str::from_utf8(&text).map_err(|_| Error::corrupt(format!("{name} is not text")))?;
        let keys = OwnerKeys::decode(text, vault)?.that_came_by(name);
        match self.expected_owner.as_ref().is_none_or(|owner| *owner == keys.sign.public()) {
            true => Ok(keys),
            false => Err(Error::corrupt(format!("{name} holds the keys of another owner than the one this host knows"))
                .hint("somebody may have put it there; if the vault is right, remove owner.pub from the state directory of this vault")),
        }
    }

    /// The error if nothing fits.
    fn refused(&self, files: &[(String, Vec<u8>)], tried_passphrase: bool, has_passphrase: bool) -> Error {
        let ways: BTreeSet<&str> = files.iter().filter_map(|(name, _)| name.strip_suffix(".age")?.rsplit('-').next()).collect();
        let ways: Vec<&str> = ways.into_iter().collect();
        if self.callbacks.asked_in_vain() {
            return Error::wrong_key("a key that was given is itself protected by a passphrase, and nobody is here to ask for it")
                .hint("--passphrase-file FILE or --passphrase-command CMD gives it");
        }
        let what = match (tried_passphrase, self.identities.is_empty()) {
            (true, true) if has_passphrase => "this passphrase does not open the vault",
            (false, false) => "none of the identities given opens the vault",
            (_, true) if !tried_passphrase => "a key is needed to read this vault, and none was given",
            _ => "nothing that was given opens the vault",
        };
        Error::wrong_key(what).hint(format!("it opens with: {} (--identity FILE, --passphrase-file FILE, or a prompt)", ways.join(", ")))
    }
}

/// The plugin that an identity file wants: `AGE-PLUGIN-NAME-1…`. The rest of the line is a secret.
fn plugin_of(text: &str) -> String {
    let name = text.lines().find_map(|l| l.strip_prefix("AGE-PLUGIN-")?.split("-1").next());
    name.unwrap_or("unknown").to_lowercase()
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
    names.truncate(FILES_MAX);
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
