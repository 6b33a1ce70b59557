//! Whose signature counts in this vault.

use crate::{
    error::{Error, ErrorKind, Result},
    format::{Signer, Signers},
    store::{self, Key, Store},
    vault::{
        PUBLIC_LEN_MAX,
        keys::{OwnerKeys, SealerKeys},
        sign,
    },
};

/// The newest list of signers, and how it was checked.
#[derive(Clone, Debug)]
pub struct SignerList {
    /// The list.
    pub signers: Signers,
    /// Where it lies.
    pub key: Key,
    /// Its number: 1 for `signers/allowed_signers`.
    pub number: u32,
}

fn place(number: u32) -> Key {
    match number {
        1 => Key::fixed("signers/allowed_signers"),
        n => Key::fixed(format!("signers/allowed_signers.{n:04}")),
    }
}

fn signature(key: &Key) -> Key {
    Key::fixed(format!("{key}.sig"))
}

impl SignerList {
    /// Reads the newest list whose signature is the owner's.
    ///
    /// `owner` is the owner's public key as this reader knows it; without one the list vouches for itself, which is all
    /// that somebody can check who sees the vault for the first time.
    pub fn load(store: &dyn Store, owner: Option<&str>) -> Result<Self> {
        let mut numbers: Vec<u32> = Vec::new();
        for (key, _) in store::list_all(store, "signers")? {
            match key.file_name().strip_prefix("allowed_signers") {
                Some("") => numbers.push(1),
                Some(rest) => numbers.extend(rest.strip_prefix('.').and_then(|n| n.parse::<u32>().ok()).filter(|n| *n > 1)),
                None => (),
            }
        }
        numbers.sort_unstable();
        let mut damaged = None;
        for number in numbers.into_iter().rev() {
            let key = place(number);
            match Self::check(store, &key, owner) {
                Ok(signers) => return Ok(Self { signers, key, number }),
                // An older list lacks sealers, and their snapshots would not count.
                Err(e) if e.kind() == ErrorKind::Unavailable => return Err(e),
                Err(e) => damaged = Some(e),
            }
        }
        Err(damaged.unwrap_or_else(|| {
            Error::missing("signers/allowed_signers is not in the vault").hint("bring signers/ back from another copy of this vault")
        }))
    }

    fn check(store: &dyn Store, key: &Key, owner: Option<&str>) -> Result<Signers> {
        let bytes = store::get_all(store, key, PUBLIC_LEN_MAX)?;
        let signed = store::get_all(store, &signature(key), PUBLIC_LEN_MAX)?;
        let signers = Signers::decode(&bytes)?;
        let owner = owner.or(signers.owner()).unwrap_or_default();
        match sign::is_signed(owner, sign::SIGNERS, &bytes, &signed) {
            true => Ok(signers),
            false => Err(Error::corrupt(format!("{key} is not signed by the vault's owner"))),
        }
    }

    /// Stores the first list: the owner and one sealer.
    pub(super) fn create(store: &dyn Store, owner: &OwnerKeys, sealer: &SealerKeys) -> Result<()> {
        let owner_line = Signer { name: "owner".to_owned(), key: owner.sign.public(), owner: true };
        Self::put(store, owner, 1, &Signers(vec![owner_line, line_of(sealer)]))
    }

    /// Stores a list with one sealer more.
    pub(super) fn add(&self, store: &dyn Store, owner: &OwnerKeys, sealer: &SealerKeys) -> Result<()> {
        let mut signers = self.signers.clone();
        signers.0.push(line_of(sealer));
        Self::put(store, owner, self.number + 1, &signers)
    }

    fn put(store: &dyn Store, owner: &OwnerKeys, number: u32, signers: &Signers) -> Result<()> {
        let (key, bytes) = (place(number), signers.encode());
        // The signature goes last: a list without one does not count.
        store.put(&key, &bytes)?;
        store.put(&signature(&key), &owner.sign.sign(sign::SIGNERS, &bytes)?)
    }
}

fn line_of(sealer: &SealerKeys) -> Signer {
    Signer { name: sealer.name.clone(), key: sealer.sign.public(), owner: false }
}
