//! Unlocking: what somebody brings, and which of the vault's ways in it fits.

use std::{collections::BTreeSet, io::BufReader, sync::Arc};

use zeroize::Zeroizing;

use crate::{
    error::{Error, ErrorKind, Result},
    format::VaultId,
    pack::{self, Unwrap, plainly},
    store::{self, Key, Store},
    sys,
    vault::{
        callbacks::{Ask, Callbacks},
        epochs,
        keys::OwnerKeys,
        recipients::{SCRYPT_LOG_N_MAX, missing_plugin, passphrase_identity, scrypt_log_n},
        removed,
        signers::SignerList,
        ssh::{self, SshKey},
        ways::{WayFile, key_names},
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

/// Says whether keys are to be taken at once; it is told whether there are others to try.
pub(super) type Judge<'a> = &'a dyn Fn(OwnerKeys, bool) -> Result<(OwnerKeys, bool)>;

/// Most key files that are tried; a vault has as many as it has ways in.
const FILES_MAX: usize = 256;
/// Most work that all passphrase files together may ask for: 4 times as much as one may.
const SCRYPT_WORK_MAX: u64 = 4 << SCRYPT_LOG_N_MAX;

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

    /// Brings the text of an identity file: age identities, or an SSH private key. What reading it leaves in memory is wiped.
    pub fn add_identity_file(&mut self, name: &str, text: &str) -> Result<()> {
        sys::wiping(|| self.read_identity_file(name, text))
    }

    fn read_identity_file(&mut self, name: &str, text: &str) -> Result<()> {
        let wrong = |why: String| {
            Error::usage(format!("{name} is no identity file{why}"))
                .hint("give an age identity file (AGE-SECRET-KEY-1…) or an SSH private key (ed25519 or RSA)")
        };
        let callbacks = self.callbacks.clone();
        if text.contains("PRIVATE KEY-----") {
            let key: SshKey = ssh::read(name, text, callbacks)?;
            self.identities.push(Box::new(key));
            return Ok(());
        }
        // What the crate says of a line that it does not understand holds the line.
        let file = age::IdentityFile::from_buffer(BufReader::new(text.as_bytes())).map_err(|_| wrong(String::new()))?;
        let identities = file.with_callbacks(callbacks).into_identities().map_err(|e| match e {
            age::DecryptError::PluginResolve(e) => missing_plugin(&plugin_of(text), &e),
            e => wrong(format!(": {}", plainly(&e))),
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
        let names = key_names(store)?;
        let files = owner_files(store, &names);
        if files.is_empty() {
            return Err(Error::missing(format!("no keys/owner-*.age in {}", store.describe()))
                .hint("bring keys/ back from another copy of this vault, or a way in from the recovery kit: coffre key restore KIT"));
        }
        let judge = |keys: OwnerKeys, others: bool| self.judge(store, &names, keys, others);
        let keys = sys::wiping(|| self.open_files(&files, vault, &store.describe(), &judge))?;
        epochs::follow(store, &names, keys)
    }

    /// Whether keys are to be taken at once, or only if nothing better opens; there are `others` to try.
    ///
    /// Whoever knows somebody's public key can make keys of his own that it opens, and put them into a vault.
    fn judge(&self, store: &dyn Store, names: &[String], keys: OwnerKeys, others: bool) -> Result<(OwnerKeys, bool)> {
        let owner = keys.sign.public();
        let path = keys.came_by().map(|file| format!("keys/{file}")).unwrap_or_default();
        if removed::is_any(names) && removed::list(store, &owner, keys.vault())?.contains(&path) {
            return Ok((keys.that_were_removed(true), false));
        }
        let vouched = || SignerList::load(store, Some(&owner)).is_ok();
        let take = self.expected_owner.is_some() || !others || vouched();
        Ok((keys, take))
    }

    /// Opens one of `files`, names with contents, that something fits: the first that `judge` takes at once, or else the first.
    pub(super) fn open_files(&self, files: &[(String, Vec<u8>)], vault: VaultId, place: &str, judge: Judge) -> Result<OwnerKeys> {
        let (mut damaged, mut second_best) = (None, None);
        let mut try_files = |scrypt: bool, identities: &[Unwrap]| -> Result<Option<OwnerKeys>> {
            let mut work_left = SCRYPT_WORK_MAX;
            let mut files: Vec<&(String, Vec<u8>)> = files.iter().filter(|(_, bytes)| scrypt_log_n(bytes).is_some() == scrypt).collect();
            // The cheap ones first: a dear one may be there to keep us from the others. Otherwise their order stays.
            files.sort_by_key(|(_, bytes)| scrypt_log_n(bytes));
            for (at, (name, bytes)) in files.iter().enumerate() {
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
                    Ok(keys) => match judge(keys, at + 1 < files.len())? {
                        (keys, true) => return Ok(Some(keys)),
                        (keys, false) => second_best = second_best.take().or(Some(keys)),
                    },
                    Err(e) if e.kind() == ErrorKind::WrongKey => (),
                    Err(e) => damaged = Some(e),
                }
                if let Some(e) = self.callbacks.trouble() {
                    match e.kind() {
                        ErrorKind::Cancelled => return Err(e),
                        _ => damaged = Some(e),
                    }
                }
            }
            Ok(None)
        };
        let identities: Vec<Unwrap> = self.identities.iter().map(|i| &**i as Unwrap).collect();
        if !identities.is_empty()
            && let Some(keys) = try_files(false, &identities)?
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
            && let Some(keys) = try_files(true, &[&passphrase_identity(secret)])?
        {
            return Ok(keys);
        }
        match (second_best, damaged) {
            (Some(keys), _) => Ok(keys),
            (None, Some(e)) => Err(e),
            (None, None) => Err(self.refused(files, passphrase.is_some(), has_passphrase)),
        }
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
    let name = text.lines().find_map(|l| l.trim().strip_prefix("AGE-PLUGIN-")?.split("-1").next());
    name.unwrap_or("unknown").to_lowercase()
}

/// The owner files, each with its bytes: those that have a card first, then those that were there first. A file that is missing or unreadable
/// is taken from its second copy.
fn owner_files(store: &dyn Store, names: &[String]) -> Vec<(String, Vec<u8>)> {
    let mut ways: Vec<WayFile> = names.iter().filter_map(|name| WayFile::parse(name)).collect();
    // Others may have been put there by somebody, and as many as to hide these.
    ways.sort_by_key(|way| (names.binary_search(&way.card()).is_err(), way.number));
    ways.truncate(FILES_MAX);
    let mut files = Vec::new();
    for name in ways.iter().map(|way| way.file().to_owned()) {
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
    files
}
