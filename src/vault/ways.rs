//! The ways into a vault, as objects: `keys/owner-NNNN[-NAME]-KIND.age`, and a card beside each.
//!
//! A way has an identity of its own that lies in its file and nowhere else; the card, sealed to the owners and signed by one,
//! has the public half. So whoever changes the vault's keys can give the new ones to every way without having any (`epochs`).

use std::collections::HashMap;

use crate::{
    error::{Error, ErrorKind, Result},
    format::{Digest, digest, is_name, unhex},
    pack::{self, Identity, Recipient},
    store::{self, Key, Store},
    vault::{Vault, enrol::put_key, keys::OwnerKeys, owners::KEY_FILE_LEN_MAX, recipients::Way, removed, signed},
};

/// Longest name of a way.
const NAME_LEN_MAX: usize = 32;

/// The file of one way in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WayFile {
    /// Its number, from 1.
    pub number: u32,
    /// What somebody called it.
    pub name: Option<String>,
    /// `passphrase`, `age`, `ssh` or `plugin`.
    pub kind: String,
    file: String,
}

impl WayFile {
    /// Reads a file name such as `owner-0003-desk-ssh.age`.
    pub fn parse(file: &str) -> Option<Self> {
        let inner = file.strip_prefix("owner-")?.strip_suffix(".age")?;
        let (number, rest) = inner.split_once('-')?;
        let (name, kind) = match rest.rsplit_once('-') {
            Some((name, kind)) => (Some(name.to_owned()), kind),
            None => (None, rest),
        };
        let number = number.parse().ok().filter(|_| number.len() >= 4)?;
        Some(Self { number, name, kind: kind.to_owned(), file: file.to_owned() })
    }

    fn new(number: u32, name: Option<&str>, kind: &str) -> Self {
        let file = match name {
            Some(name) => format!("owner-{number:04}-{name}-{kind}.age"),
            None => format!("owner-{number:04}-{kind}.age"),
        };
        Self { number, name: name.map(str::to_owned), kind: kind.to_owned(), file }
    }

    /// The name of the file.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Where it lies in the vault.
    pub fn path(&self) -> String {
        format!("keys/{}", self.file)
    }

    fn card(&self) -> String {
        format!("way-{:04}.age", self.number)
    }
}

/// What the owners know of a way in.
#[derive(Clone, Debug)]
pub struct Card {
    /// Its file, and what that holds.
    file: String,
    digest: Digest,
    /// The public half of the identity in it.
    pub recipient: Recipient,
    /// The public key, or `a passphrase`.
    pub what: String,
    /// When it was added, for people.
    pub added: String,
}

/// The ways in that the vault has, by number. One whose first copy is gone counts.
pub fn way_files(store: &dyn Store) -> Result<Vec<WayFile>> {
    let mut ways = Vec::new();
    for folder in ["keys", "parity/keys"] {
        ways.extend(store::list_all(store, folder)?.iter().filter_map(|(key, _)| WayFile::parse(key.file_name())));
    }
    ways.sort();
    ways.dedup();
    Ok(ways)
}

/// Reads a key file, from its second copy if the first does not please `read`.
pub(super) fn either_copy<T>(store: &dyn Store, file: &str, read: impl Fn(&[u8]) -> Result<T>) -> Result<T> {
    let one = |folder: &str| read(&store::get_all(store, &Key::fixed(format!("{folder}/{file}")), KEY_FILE_LEN_MAX)?);
    one("keys").or_else(|e| one("parity/keys").map_err(|_| e))
}

/// Stores a new way in: its file, then its card.
///
/// Numbers are never used twice, so that a removed way cannot come back as another.
pub(super) fn put_way(store: &dyn Store, owner: &OwnerKeys, way: &Way, number: u32, name: Option<&str>, added: &str) -> Result<WayFile> {
    let identity = Identity::generate();
    let file = WayFile::new(number, name, way.label());
    let sealed = way.seal(owner.encode_for(&identity).as_bytes())?;
    let body = format!(
        "coffre-way 1\nvault {}\nfile {}\ndigest {}\nrecipient {}\nadded {added}\nwhat {}\n",
        owner.vault(),
        file.file,
        digest(&sealed),
        identity.to_public(),
        way.describe().replace('\n', " "),
    );
    let card = pack::seal_whole(&[&owner.meta_recipient()], signed::sign(&owner.sign, &body)?.as_bytes())?;
    put_key(store, &file.file, &sealed)?;
    put_key(store, &file.card(), &card)?;
    Ok(file)
}

impl Vault {
    /// Adds a way in.
    ///
    /// # Errors
    /// `Usage` if `name` cannot be a part of a file's name; `Unsupported` if a plugin is missing.
    pub fn add_way(&self, owner: &OwnerKeys, way: &Way, name: Option<&str>, added: &str) -> Result<WayFile> {
        owner.check_current()?;
        if let Some(name) = name.filter(|name| !is_name(name) || name.len() > NAME_LEN_MAX) {
            return Err(Error::usage(format!("`{name}` cannot name a way in")).hint(format!(
                "use 1 to {NAME_LEN_MAX} letters, digits, dots, dashes and underscores; the name can be read by everybody"
            )));
        }
        let number = self.last_way_number(owner)? + 1;
        put_way(&*self.store, owner, way, number, name, added)
    }

    fn last_way_number(&self, owner: &OwnerKeys) -> Result<u32> {
        let removed = removed::list(&*self.store, &owner.sign.public(), self.config.id)?;
        let removed = removed.iter().filter_map(|path| WayFile::parse(path.strip_prefix("keys/")?));
        let there = way_files(&*self.store)?;
        Ok(there.into_iter().chain(removed).map(|way| way.number).max().unwrap_or(0))
    }

    /// The card of a way.
    ///
    /// # Errors
    /// `Missing` if it has none: it was made by an older coffre. `Corrupt` if no owner made it, or for another file.
    pub fn card(&self, owner: &OwnerKeys, way: &WayFile) -> Result<Card> {
        let identities: Vec<pack::Unwrap> = owner.meta_identities().iter().map(|i| i as pack::Unwrap).collect();
        let name = way.card();
        let broken = || Error::corrupt(format!("keys/{name} cannot be understood"));
        let card = either_copy(&*self.store, &name, |sealed| {
            let text = pack::open_whole(&identities, sealed, &name)?;
            let body = signed::check(&owner.sign.public(), &text, &name)?;
            let mut lines = body.lines();
            if lines.next() != Some("coffre-way 1") {
                return Err(broken());
            }
            let facts: HashMap<&str, &str> = lines.filter_map(|l| l.split_once(' ')).collect();
            let fact = |fact: &str| facts.get(fact).copied().ok_or_else(broken);
            if fact("vault")? != self.config.id.to_string() {
                return Err(broken());
            }
            Ok(Card {
                file: fact("file")?.to_owned(),
                digest: unhex(fact("digest")?).map(Digest::from_bytes).ok_or_else(broken)?,
                recipient: fact("recipient")?.parse().map_err(|_| broken())?,
                what: fact("what")?.to_owned(),
                added: fact("added")?.to_owned(),
            })
        })?;
        // Whoever can write to the storage could put another file under the name that an owner signed for.
        let is_its = either_copy(&*self.store, &way.file, |sealed| match digest(sealed) == card.digest && card.file == way.file {
            true => Ok(()),
            false => Err(Error::corrupt(format!("{} is not what an owner made it", way.path()))),
        });
        is_its.map(|()| card)
    }

    /// Removes a way in. Objects that receipts name go, so an owner signs that they do.
    ///
    /// # Errors
    /// `Conflict` if it is the last one.
    pub fn remove_way(&self, owner: &OwnerKeys, way: &WayFile) -> Result<()> {
        owner.check_current()?;
        let ways = way_files(&*self.store)?;
        if !ways.iter().any(|w| w != way && self.is_whole(w)) {
            return Err(Error::conflict(format!("{} is the last way into this vault", way.path()))
                .hint("add another one first: coffre key add; without a way in nobody could read the vault"));
        }
        let card = way.card();
        removed::put(&*self.store, owner, &[way.path(), format!("keys/{card}")])?;
        for file in [&way.file, &card] {
            for folder in ["parity/keys", "keys"] {
                self.store.delete(&Key::fixed(format!("{folder}/{file}"))).map_err(|e| {
                    e.while_doing(format!("cannot take {folder}/{file} out of the vault: it still opens it"))
                        .hint("where the storage lets nothing be deleted, somebody who may must delete it there")
                })?;
            }
        }
        Ok(())
    }

    /// Whether a copy of a way's file looks like one that somebody could open.
    fn is_whole(&self, way: &WayFile) -> bool {
        let looks = |sealed: &[u8]| match sealed.starts_with(b"age-encryption.org/v1\n") {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Corrupt, "no age file")),
        };
        either_copy(&*self.store, &way.file, looks).is_ok()
    }
}

/// The way that `text` names: its number, or its file with or without folder and ending.
pub fn find_way<'a>(ways: &'a [WayFile], text: &str) -> Result<&'a WayFile> {
    let bare = text.strip_prefix("keys/").unwrap_or(text);
    let is_it = |way: &&WayFile| {
        bare.parse() == Ok(way.number)
            || way.file.strip_suffix(".age") == Some(bare.strip_suffix(".age").unwrap_or(bare))
            || way.name.as_deref() == Some(bare)
    };
    let mut found = ways.iter().filter(is_it);
    match (found.next(), found.next()) {
        (Some(way), None) => Ok(way),
        (Some(_), Some(_)) => Err(Error::usage(format!("several ways in are called {text}")).hint("give its number: coffre key list")),
        (None, _) => Err(Error::not_found(format!("no way in is called {text}")).hint("coffre key list shows numbers and names")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_say_number_name_and_kind() {
        for (number, name, kind) in [(1, None, "age"), (12, Some("desk"), "ssh"), (10_000, Some("my-old.desk"), "passphrase")] {
            let way = WayFile::new(number, name, kind);
            assert_eq!(WayFile::parse(way.file()), Some(way));
        }
        for wrong in ["owner-1-age.age", "owner-0001.age", "sealer-0001-age.age", "owner-0001-age", "owner-x001-age.age"] {
            assert_eq!(WayFile::parse(wrong), None, "{wrong}");
        }
        let ways = [WayFile::new(1, None, "age"), WayFile::new(2, Some("desk"), "ssh"), WayFile::new(3, Some("desk"), "age")];
        for text in ["2", "0002", "owner-0002-desk-ssh", "keys/owner-0002-desk-ssh.age"] {
            assert_eq!(find_way(&ways, text).unwrap().number, 2, "{text}");
        }
        assert!(find_way(&ways, "desk").is_err() && find_way(&ways, "4").is_err());
    }
}
