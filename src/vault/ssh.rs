//! SSH private keys as identities: read once, and unlocked at most once, when something is there that such a key could open.

use std::sync::Mutex;

use age::ssh::{Identity, UnsupportedKey};
use age_core::format::{FileKey, Stanza};
use zeroize::Zeroizing;

use crate::{
    error::{Error, Result},
    vault::callbacks::Callbacks,
};

type Opened = Option<std::result::Result<FileKey, age::DecryptError>>;

/// What of an SSH key's file can be used.
pub(super) enum SshKey {
    /// As it is.
    Open(Box<Identity>),
    /// Behind a passphrase.
    Locked(Box<Locked>),
}

/// A key behind a passphrase.
pub(super) struct Locked {
    /// The file, for people.
    name: String,
    key: Identity,
    callbacks: Callbacks,
    /// What came of unlocking it, once that was tried; nothing if there was no passphrase, or a wrong one.
    unlocked: Mutex<Option<Option<Identity>>>,
}

/// Reads the text of an SSH private key from the file `name`.
///
/// # Errors
/// `Usage`, with what to do, if it cannot decrypt.
pub(super) fn read(name: &str, text: &str, callbacks: Callbacks) -> Result<SshKey> {
    let protected = "ENCRYPTED PRIVATE KEY-----";
    let convert = || format!("ssh-keygen -p -f {name} writes it anew as coffre reads it (it asks for the old and a new passphrase)");
    if text.contains("BEGIN PRIVATE KEY-----") || text.contains(protected) {
        return Err(Error::usage(format!("{name} is a private key in PKCS#8, which coffre does not read")).hint(convert()));
    }
    let key = Identity::from_buffer(text.as_bytes(), Some(name.to_owned())).map_err(|_| {
        Error::usage(format!("{name} is an SSH private key that is not whole")).hint("ssh-keygen -y -f FILE tells whether it can be used")
    })?;
    match key {
        Identity::Unencrypted(_) => Ok(SshKey::Open(Box::new(key))),
        Identity::Encrypted(_) => {
            Ok(SshKey::Locked(Box::new(Locked { name: name.to_owned(), key, callbacks, unlocked: Mutex::default() })))
        }
        Identity::Unsupported(UnsupportedKey::EncryptedPem) => {
            Err(Error::usage(format!("{name} is protected in the old way of PEM, which coffre does not read")).hint(convert()))
        }
        Identity::Unsupported(UnsupportedKey::EncryptedSsh(cipher)) => {
            Err(Error::usage(format!("{name} is protected by the cipher {cipher}, which coffre does not read")).hint(convert()))
        }
        Identity::Unsupported(UnsupportedKey::Hardware(kind) | UnsupportedKey::Type(kind)) => Err(cannot_decrypt(name, &kind)),
    }
}

/// The error for a kind of SSH key that can only sign.
pub(super) fn cannot_decrypt(name: &str, kind: &str) -> Error {
    let why = match kind {
        kind if kind.starts_with("sk-") => "lies in a security key, which signs and never decrypts",
        kind if kind.starts_with("ecdsa-") => "is an ECDSA key, with which age files cannot be made",
        "ssh-dss" => "is a DSA key, which is no longer safe",
        _ => "is of a kind with which age files cannot be made",
    };
    Error::usage(format!("{name} {why}"))
        .hint("use an ed25519 or RSA key: ssh-keygen -t ed25519; or an age key: age-keygen; for a token an age plugin")
}

impl SshKey {
    fn open(&self, stanzas: &[Stanza]) -> Opened {
        // Asked for only where it could help.
        let mine: Vec<&Stanza> = stanzas.iter().filter(|s| s.tag == "ssh-ed25519" || s.tag == "ssh-rsa").collect();
        if mine.is_empty() {
            return None;
        }
        let with = |key: &Identity| mine.iter().find_map(|stanza| age::Identity::unwrap_stanza(key, stanza));
        match self {
            Self::Open(key) => with(key),
            Self::Locked(locked) => {
                let mut unlocked = locked.unlocked.lock().expect("nobody panics while a key is unlocked");
                with(unlocked.get_or_insert_with(|| locked.unlock()).as_ref()?)
            }
        }
    }
}

impl Locked {
    fn unlock(&self) -> Option<Identity> {
        let Identity::Encrypted(key) = &self.key else { return None };
        let secret: Zeroizing<String> = self.callbacks.secret(&format!("passphrase of the SSH key {}", self.name))?;
        match key.decrypt(age::secrecy::SecretString::from(secret.as_str())) {
            Ok(key) => Some(Identity::from(key)),
            Err(_) => {
                self.callbacks.note(
                    Error::wrong_key(format!("the passphrase that was given is not that of the SSH key {}", self.name))
                        .hint("ssh-keygen -y -f FILE asks for it, too, and tells whether it is right"),
                );
                None
            }
        }
    }
}

impl age::Identity for SshKey {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Opened {
        self.open(std::slice::from_ref(stanza))
    }
    fn unwrap_stanzas(&self, stanzas: &[Stanza]) -> Opened {
        self.open(stanzas)
    }
}
