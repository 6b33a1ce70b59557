//! Whose signature counts in this vault.

use crate::{
    error::{Error, ErrorKind, Result},
    format::{Revocation, Signer, Signers},
    store::{self, Key, Store},
    vault::{
        Finding, PUBLIC_LEN_MAX, Trouble,
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
    /// The highest number that any list has, whether it counts or not.
    pub highest: u32,
    /// Newer lists that do not count, and why: a damaged one may have taken somebody's right to seal back.
    pub passed_over: Vec<Finding>,
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
        let highest = numbers.last().copied().unwrap_or(0);
        let (mut damaged, mut passed_over) = (None, Vec::new());
        for number in numbers.into_iter().rev() {
            let key = place(number);
            match Self::check(store, &key, owner) {
                Ok(signers) => return Ok(Self { signers, key, number, highest, passed_over }),
                // An older list lacks sealers, and their snapshots would not count.
                Err(e) if e.kind() == ErrorKind::Unavailable => return Err(e),
                Err(e) => match Self::by_copies(store, &key, owner) {
                    Some(signers) => return Ok(Self { signers, key, number, highest, passed_over }),
                    None => {
                        passed_over.push(not_counting(store, &key, &e)?);
                        damaged.get_or_insert(e);
                    }
                },
            }
        }
        Err(damaged.unwrap_or_else(|| {
            Error::missing("signers/allowed_signers is not in the vault").hint("bring signers/ back from another copy of this vault")
        }))
    }

    fn check(store: &dyn Store, key: &Key, owner: Option<&str>) -> Result<Signers> {
        Self::check_at(store, key, key, &signature(key), owner)
    }

    /// A list that is damaged, or its signature, from their second copies, or from another copy of the vault.
    fn by_copies(store: &dyn Store, key: &Key, owner: Option<&str>) -> Option<Signers> {
        let signed = signature(key);
        let pairs = [(key.second(), signed.clone()), (key.clone(), signed.second()), (key.second(), signed.second())];
        let here = || pairs.iter().find_map(|(list, signed)| Self::check_at(store, key, list, signed, owner).ok());
        here().or_else(|| store.others().iter().find_map(|other| Self::check_at(&**other, key, key, &signed, owner).ok()))
    }

    fn check_at(store: &dyn Store, key: &Key, list: &Key, signed: &Key, owner: Option<&str>) -> Result<Signers> {
        let bytes = store::get_all(store, list, PUBLIC_LEN_MAX)?;
        let signed = store::get_all(store, signed, PUBLIC_LEN_MAX)?;
        Self::check_bytes(key, &bytes, &signed, owner)
    }

    /// The list in `bytes`, if `signed` is the owner's signature under it.
    pub fn check_bytes(key: &Key, bytes: &[u8], signed: &[u8], owner: Option<&str>) -> Result<Signers> {
        let signers = Signers::decode(bytes)?;
        let owner = owner.or(signers.owner()).unwrap_or_default();
        match sign::is_signed(owner, sign::SIGNERS, bytes, signed) {
            true => Ok(signers),
            false => Err(Error::corrupt(format!("{key} is not signed by the vault's owner"))),
        }
    }

    /// A list of one sealer, for who needs no more than its own chain.
    pub(super) fn only(sealer: &SealerKeys) -> Self {
        let signers = Signers(vec![line_of(sealer)]);
        Self { signers, key: place(1), number: 1, highest: 1, passed_over: Vec::new() }
    }

    /// Stores the first list: the owner and one sealer.
    pub(super) fn create(store: &dyn Store, owner: &OwnerKeys, sealer: &SealerKeys) -> Result<()> {
        let owner_line = Signer { name: "owner".to_owned(), key: owner.sign.public(), owner: true, revoked: None };
        Self::put(store, owner, 1, &Signers(vec![owner_line, line_of(sealer)]))
    }

    /// Stores a list with one sealer more.
    pub(super) fn add(&self, store: &dyn Store, owner: &OwnerKeys, sealer: &SealerKeys) -> Result<()> {
        let mut signers = self.signers.clone();
        signers.0.push(line_of(sealer));
        Self::put(store, owner, self.highest + 1, &signers)
    }

    /// The list in which sealer `name` is revoked.
    ///
    /// # Errors
    /// `NotFound` if there is no such sealer.
    pub fn revoked(&self, name: &str, revoked: Revocation) -> Result<Signers> {
        let mut signers = self.signers.clone();
        let line = signers.0.iter_mut().find(|s| !s.owner && s.name == name);
        let line = line.ok_or_else(|| Error::not_found(format!("{} names no sealer {name}", self.key)).hint(self.known_sealers()))?;
        line.revoked = Some(revoked);
        Ok(signers)
    }

    /// Stores that list, and returns its place.
    pub fn revoke(&self, store: &dyn Store, owner: &OwnerKeys, name: &str, revoked: Revocation) -> Result<Key> {
        let signers = self.revoked(name, revoked)?;
        let number = self.highest + 1;
        Self::put(store, owner, number, &signers)?;
        Ok(place(number))
    }

    /// Which sealers there are, as a hint.
    fn known_sealers(&self) -> String {
        let names: Vec<&str> = self.signers.0.iter().filter(|s| !s.owner).map(|s| s.name.as_str()).collect();
        format!("the sealers of this vault are: {}", names.join(", "))
    }

    fn put(store: &dyn Store, owner: &OwnerKeys, number: u32, signers: &Signers) -> Result<()> {
        let (key, bytes) = (place(number), signers.encode());
        // The signature goes last: a list without one does not count.
        store.put(&key, &bytes)?;
        store.put(&signature(&key), &owner.sign.sign(sign::SIGNERS, &bytes)?)
    }
}

/// Says why a list does not count. One without a signature was never finished, or its signature was taken away.
fn not_counting(store: &dyn Store, key: &Key, e: &Error) -> Result<Finding> {
    Ok(match store.stat(&signature(key))? {
        None => Finding::of(Trouble::Unsigned, key.as_str(), "is a list of signers without a signature; an older list counts"),
        Some(_) if e.kind() == ErrorKind::Corrupt => Finding::of(Trouble::Altered, key.as_str(), e.chain()),
        Some(_) => Finding::of(Trouble::Unreadable, key.as_str(), e.chain()),
    })
}

fn line_of(sealer: &SealerKeys) -> Signer {
    Signer { name: sealer.name.clone(), key: sealer.sign.public(), owner: false, revoked: None }
}
