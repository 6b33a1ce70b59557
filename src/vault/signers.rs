//! Whose signature counts in this vault.
//!
//! A list is never changed: the next one has a higher number, and holds all that the ones before it held. It says its own number, so that
//! nobody who can write to the store makes an older one the newest by copying it.

use std::time::Duration;

use crate::{
    error::{Error, ErrorKind, Result},
    format::{Revocation, Signer, Signers},
    store::{self, Key, Store},
    sys::{self, Clock, SystemClock},
    vault::{
        Finding, PUBLIC_LEN_MAX, Trouble, Vault,
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

/// How often a list is written anew because another owner wrote one at the same moment.
const ATTEMPTS: u32 = 12;
/// The longest wait before the second attempt; each later one may wait longer by as much.
const WAIT_MS: u64 = 40;

fn place(number: u32) -> Key {
    match number {
        1 => Key::fixed("signers/allowed_signers"),
        n => Key::fixed(format!("signers/allowed_signers.{n:04}")),
    }
}

fn signature(key: &Key) -> Key {
    Key::fixed(format!("{key}.sig"))
}

/// The number of the list, or of the signature, of this name.
fn number_of(name: &str) -> Option<u32> {
    match name.strip_prefix("allowed_signers")? {
        "" => Some(1),
        rest => rest.strip_prefix('.')?.parse().ok().filter(|n| *n > 1),
    }
}

/// The numbers of the lists that there are, and the highest one that any object there has, be it a signature whose list is yet to come.
fn numbers(store: &dyn Store) -> Result<(Vec<u32>, u32)> {
    let (mut numbers, mut highest) = (Vec::new(), 0);
    for folder in ["signers", "parity/signers"] {
        for key in store::all_names(store, folder)? {
            let name = key.file_name();
            numbers.extend(number_of(name));
            highest = highest.max(number_of(name.strip_suffix(".sig").unwrap_or(name)).unwrap_or(0));
        }
        // Of a list that is gone, the signature may be left, or the second copy.
        if numbers.iter().max() == Some(&highest) {
            break;
        }
    }
    numbers.sort_unstable();
    numbers.dedup();
    Ok((numbers, highest))
}

impl SignerList {
    /// Reads the newest list whose signature is the owner's.
    ///
    /// `owner` is the owner's public key as this reader knows it; without one the list vouches for itself, which is all
    /// that somebody can check who sees the vault for the first time.
    pub fn load(store: &dyn Store, owner: Option<&str>) -> Result<Self> {
        let (numbers, highest) = numbers(store)?;
        let (mut damaged, mut passed_over) = (None, Vec::new());
        for (n, number) in numbers.iter().copied().enumerate().rev() {
            let key = place(number);
            let checked = match Self::check(store, &key, owner) {
                // An older list lacks sealers, and their snapshots would not count.
                Err(e) if e.kind() == ErrorKind::Unavailable => return Err(e),
                Err(e) => Self::by_copies(store, &key, owner).ok_or(e),
                other => other,
            };
            match checked.and_then(|list| list.goes_on_from(store, &numbers[..n], owner)) {
                Ok(signers) => return Ok(Self { signers, key, number, highest, passed_over }),
                Err(e) => {
                    passed_over.push(not_counting(store, &key, &e)?);
                    damaged.get_or_insert(e);
                }
            }
        }
        Err(damaged.unwrap_or_else(|| {
            Error::missing("signers/allowed_signers is not in the vault").hint("bring signers/ back from another copy of this vault")
        }))
    }

    fn check(store: &dyn Store, key: &Key, owner: Option<&str>) -> Result<Checked> {
        Self::check_at(store, key, key, &signature(key), owner)
    }

    /// A list that is damaged, or its signature, from their second copies, or from another copy of the vault.
    fn by_copies(store: &dyn Store, key: &Key, owner: Option<&str>) -> Option<Checked> {
        let signed = signature(key);
        let pairs = [(key.second(), signed.clone()), (key.clone(), signed.second()), (key.second(), signed.second())];
        let here = || pairs.iter().find_map(|(list, signed)| Self::check_at(store, key, list, signed, owner).ok());
        here().or_else(|| store.others().iter().find_map(|other| Self::check_at(&**other, key, key, &signed, owner).ok()))
    }

    fn check_at(store: &dyn Store, key: &Key, list: &Key, signed: &Key, owner: Option<&str>) -> Result<Checked> {
        let bytes = store::get_all(store, list, PUBLIC_LEN_MAX)?;
        let signed = store::get_all(store, signed, PUBLIC_LEN_MAX)?;
        let signers = Self::check_bytes(key, &bytes, &signed, owner)?;
        Ok(Checked { signers, key: key.clone(), has_number: Signers::number_in(&bytes).is_some() })
    }

    /// The list in `bytes`, if `signed` is the owner's signature under it, and it was made for the place `key`.
    pub fn check_bytes(key: &Key, bytes: &[u8], signed: &[u8], owner: Option<&str>) -> Result<Signers> {
        let signers = Signers::decode(bytes)?;
        let owner = owner.or(signers.owner()).unwrap_or_default();
        if !sign::is_signed(owner, sign::SIGNERS, bytes, signed) {
            return Err(Error::corrupt(format!("{key} is not signed by the vault's owner")));
        }
        match Signers::number_in(bytes) {
            Some(number) if number_of(key.file_name()) != Some(number) => {
                Err(Error::corrupt(format!("{key} is a copy of list number {number}, put there to undo what was changed since")))
            }
            _ => Ok(signers),
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
        put(store, owner, 1, &Signers(vec![owner_line, line_of(sealer)]), false)
    }

    /// Stores a list with one sealer more.
    ///
    /// # Errors
    /// `Conflict` if there is one of that name, or of one that differs by capital letters only.
    pub(super) fn add(vault: &Vault, owner: &OwnerKeys, sealer: &SealerKeys) -> Result<Self> {
        let line = line_of(sealer);
        Self::update(vault, owner, &mut |signers, again| {
            match named(signers, &line.name) {
                Some(there) if !(again && *there == line) => return Err(taken(there)),
                Some(_) => (),
                None => signers.0.push(line.clone()),
            }
            Ok(())
        })
    }

    /// Fails if a sealer has this name, or one that differs by capital letters only.
    ///
    /// # Errors
    /// `Conflict`.
    pub(super) fn check_free(&self, name: &str) -> Result<()> {
        named(&self.signers, name).map_or(Ok(()), |there| Err(taken(there)))
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

    /// Stores that list.
    pub fn revoke(&self, vault: &Vault, owner: &OwnerKeys, name: &str, revoked: &Revocation) -> Result<Self> {
        self.revoked(name, revoked.clone())?;
        Self::update(vault, owner, &mut |signers, _| {
            signers.0.iter_mut().filter(|s| !s.owner && s.name == name).for_each(|line| line.revoked = Some(revoked.clone()));
            Ok(())
        })
    }

    /// Stores the next list: what all that the owner signed hold, and `change`. `change` is told whether it was applied before.
    ///
    /// Another owner may write one at the same moment. So it is read again afterwards: as long as the newest list lacks something that was
    /// asked for, here or there, another one follows.
    fn update(vault: &Vault, owner: &OwnerKeys, change: &mut dyn FnMut(&mut Signers, bool) -> Result<()>) -> Result<Self> {
        let (store, public) = (&*vault.store, owner.sign.public());
        for attempt in 0..ATTEMPTS {
            store.refresh();
            let newest = Self::load(store, Some(&public))?;
            let mut wanted = newest.signers.clone();
            for key in numbers(store)?.0.into_iter().filter(|n| *n != newest.number).map(place) {
                if let Ok(other) = Self::check(store, &key, Some(&public)) {
                    wanted.take_in(&other.signers);
                }
            }
            change(&mut wanted, attempt > 0)?;
            if wanted == newest.signers {
                return Ok(newest);
            }
            match put(store, owner, newest.highest + 1, &wanted, vault.config.parity > 0) {
                Err(e) if e.kind() == ErrorKind::Conflict => pause(attempt)?,
                other => other?,
            }
        }
        Err(Error::conflict("other owners change the list of signers at the same moment, again and again")
            .hint("run the same command again"))
    }

    /// Which sealers there are, as a hint.
    fn known_sealers(&self) -> String {
        let names: Vec<&str> = self.signers.0.iter().filter(|s| !s.owner).map(|s| s.name.as_str()).collect();
        format!("the sealers of this vault are: {}", names.join(", "))
    }
}

/// Waits for a moment of chance, so that two who met do not meet again.
fn pause(attempt: u32) -> Result<()> {
    let [chance] = sys::random::<1>()?;
    SystemClock.sleep(Duration::from_millis(WAIT_MS * u64::from(attempt + 1) * u64::from(chance) / 255));
    Ok(())
}

/// Stores a list, and second copies if they are wanted. The signature goes first and takes the number: so nobody ever sees a list without
/// one, and two who write at the same moment do not both believe that they have it.
fn put(store: &dyn Store, owner: &OwnerKeys, number: u32, signers: &Signers, copies: bool) -> Result<()> {
    let (list, bytes) = (place(number), signers.encode(number));
    let both = [(signature(&list), owner.sign.sign(sign::SIGNERS, &bytes)?), (list, bytes)];
    both.iter().try_for_each(|(key, bytes)| store.put(key, bytes))?;
    both.iter().filter(|_| copies).try_for_each(|(key, bytes)| store.put(&key.second(), bytes))
}

/// A list whose signature is the owner's.
struct Checked {
    signers: Signers,
    key: Key,
    /// Whether it says its number.
    has_number: bool,
}

impl Checked {
    /// Its signers, if they hold all that older lists hold. One that says its number cannot be anything else.
    fn goes_on_from(self, store: &dyn Store, older: &[u32], owner: Option<&str>) -> Result<Signers> {
        for number in older.iter().filter(|_| !self.has_number) {
            let Ok(before) = SignerList::check(store, &place(*number), owner) else { continue };
            let mut all = self.signers.clone();
            all.take_in(&before.signers);
            if all != self.signers {
                let text = format!("{} lacks what list number {number} holds: it is older, and was put there to undo that", self.key);
                return Err(Error::corrupt(text));
            }
        }
        Ok(self.signers)
    }
}

/// The sealer of this name: stores may take names that differ by capital letters only for the same.
fn named<'a>(signers: &'a Signers, name: &str) -> Option<&'a Signer> {
    signers.0.iter().find(|s| !s.owner && s.name.eq_ignore_ascii_case(name))
}

fn taken(there: &Signer) -> Error {
    Error::conflict(format!("there is a sealer called {} already", there.name)).hint(match &there.revoked {
        Some(_) => "it is revoked, and a name that was revoked is never used again: choose another name".to_owned(),
        None => format!("choose another name; if that host lost its state directory: coffre key add --sealer {} --again", there.name),
    })
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
