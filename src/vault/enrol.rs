//! Sealing hosts: how one becomes known to a vault, and how its keys travel to it.
//!
//! An owner makes the keys. They are stored twice: in `keys/sealer-NAME.age`, for the owners; and in `enrol/NAME-….age`, for
//! the host, sealed to an identity that exists nowhere but in the token. So the token is worth nothing without the vault, the
//! vault nothing without the token, and both nothing once the host has enrolled and taken its object away.

use std::fmt;

use zeroize::Zeroizing;

use crate::{
    error::{Error, ErrorKind, Result},
    format::{DomainId, Key32, Signers, VaultId, digest, hex, is_name, unhex},
    pack::{self, Identity, identity_from_bytes},
    store::{self, Key, Store},
    sys,
    vault::{
        StateDir, Vault,
        chain::not_revoked,
        keys::{OwnerKeys, SealerKeys},
        owners::KEY_FILE_LEN_MAX,
        signed,
        signers::SignerList,
    },
};

/// What a token begins with.
const TOKEN_PREFIX: &str = "coffre-enroll-1";
/// What every public key of ours begins with; a token leaves it out.
const ED25519: &str = "ssh-ed25519 ";
/// Characters behind that.
const ED25519_LEN: usize = 68;

/// What an owner carries to a host: one line of text. With the vault it opens one object in it, until the host has enrolled.
pub struct Token {
    /// The vault.
    pub vault: VaultId,
    /// The sealer.
    pub name: String,
    /// The owner's public key, which the host will trust from then on.
    pub owner: String,
    secret: Key32,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({} of {})", self.name, self.vault)
    }
}

impl Token {
    fn new(vault: VaultId, name: &str, owner: &OwnerKeys) -> Result<Self> {
        Ok(Self { vault, name: name.to_owned(), owner: owner.sign.public(), secret: Key32::new(sys::random()?) })
    }

    /// The line.
    pub fn encode(&self) -> Zeroizing<String> {
        let owner = self.owner.strip_prefix(ED25519).unwrap_or(&self.owner);
        let secret = Zeroizing::new(hex(self.secret.expose()));
        Zeroizing::new(format!("{TOKEN_PREFIX}:{}:{}:{}:{owner}", self.vault, self.name, *secret))
    }

    /// Whether `text` looks like one.
    pub fn is_token(text: &str) -> bool {
        text.trim_start().starts_with("coffre-enroll-")
    }

    /// Reads the line, wherever it stands in `text`.
    pub fn decode(text: &str) -> Result<Self> {
        let line = text.lines().map(str::trim).find(|l| l.starts_with("coffre-enroll-"));
        let line = line.ok_or_else(|| {
            Error::usage("that is no enrolment token").hint("an owner makes one: coffre key add --sealer NAME --output FILE")
        })?;
        let mut parts = line.split(':');
        match parts.next() {
            Some(TOKEN_PREFIX) => (),
            other => {
                let version = other.unwrap_or_default();
                return Err(Error::unsupported(format!("this coffre reads {TOKEN_PREFIX}, and the token is of kind {version}")));
            }
        }
        let mut read = || {
            let token = Self {
                vault: VaultId(unhex(parts.next()?)?),
                name: parts.next().filter(|n| is_name(n))?.to_owned(),
                secret: Key32::new(unhex(parts.next()?)?),
                owner: parts.next().filter(|key| key.len() == ED25519_LEN).map(|key| format!("{ED25519}{key}"))?,
            };
            parts.next().is_none().then_some(token)
        };
        // What is wrong with it is not said: the text is a secret.
        read().ok_or_else(|| Error::usage("the enrolment token is not whole").hint("copy the whole line, as it was printed"))
    }

    fn identity(&self) -> Identity {
        identity_from_bytes(self.secret.expose())
    }

    /// Where the host that uses the token says so.
    fn claim(&self) -> Key {
        Key::fixed(format!("{}.claim", self.place()))
    }

    /// Where the object lies that this token opens.
    fn place(&self) -> Key {
        Key::fixed(format!("enrol/{}-{}.age", self.name, &digest(self.identity().to_public().to_string().as_bytes()).to_string()[..16]))
    }
}

/// A sealer that an owner has just made known.
pub struct NewSealer {
    /// What the host needs.
    pub token: Token,
    /// Its keys.
    pub keys: SealerKeys,
    /// Other sealers of its domain.
    pub shared_with: Vec<String>,
    /// The list of signers that names it.
    pub list: SignerList,
}

/// Which dedup domain a new sealer belongs to.
#[derive(Clone, Debug)]
pub enum Domain {
    /// One of its own.
    Own,
    /// That of this sealer.
    Of(String),
}

fn key_of(name: &str) -> Key {
    Key::fixed(format!("keys/sealer-{name}.age"))
}

/// Stores a key file and its second copy.
pub(super) fn put_key(store: &dyn Store, name: &str, bytes: &[u8]) -> Result<()> {
    store.put(&Key::fixed(format!("parity/keys/{name}")), bytes)?;
    store.put(&Key::fixed(format!("keys/{name}")), bytes)
}

/// Stores what a sealer holds, for the owners. Signed: what it is sealed to, every sealer knows.
pub(super) fn put_sealer(store: &dyn Store, owner: &OwnerKeys, sealer: &SealerKeys) -> Result<()> {
    let text = signed::sign(&owner.sign, &sealer.encode())?;
    let file = pack::seal_whole(&[&owner.meta_recipient()], text.as_bytes())?;
    put_key(store, &format!("sealer-{}.age", sealer.name), &file)
}

/// Fails unless `name` can name a sealer.
pub(super) fn check_name(name: &str) -> Result<()> {
    if !is_name(name) {
        let hint = "use 1 to 64 letters, digits, dots, dashes and underscores, not starting with a dot or a dash";
        return Err(Error::usage(format!("`{name}` cannot name a sealer")).hint(hint));
    }
    match name.eq_ignore_ascii_case("owner") {
        true => Err(Error::usage(format!("`{name}` cannot name a sealer: lists of signers call the vault's owner that"))
            .hint("choose another name, such as that of the host")),
        false => Ok(()),
    }
}

impl Vault {
    /// The keys of every sealer that the owner's list names and whose file opens, in the order of the list; of every one that an owner signed,
    /// if there is no list that counts.
    pub fn sealers(&self, owner: &OwnerKeys) -> Result<Vec<SealerKeys>> {
        let (list, names) = match SignerList::load(&*self.store, Some(&owner.sign.public())) {
            Ok(list) => {
                let names = list.signers.0.iter().filter(|s| !s.owner).map(|s| s.name.clone()).collect();
                (list.signers, names)
            }
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Missing) => {
                let files = store::all_names(&*self.store, "keys")?;
                let name = |key: &Key| key.file_name().strip_prefix("sealer-")?.strip_suffix(".age").map(str::to_owned);
                (Signers::default(), files.iter().filter_map(name).collect::<Vec<String>>())
            }
            Err(e) => return Err(e),
        };
        Ok(names.iter().filter_map(|name| self.sealer_file(owner, &list, name).ok()).map(|(keys, _)| keys).collect())
    }

    /// The dedup domains of the sealers whose key files open.
    pub fn sealer_domains(&self, owner: &OwnerKeys) -> Result<Vec<DomainId>> {
        Ok(self.sealers(owner)?.into_iter().map(|sealer| sealer.domain).collect())
    }

    /// What the vault keeps for sealer `name`, and whether an owner signed it. A file without a signature, as older versions wrote them, is
    /// believed where the owner's list has its key: anybody who knows the meta recipient could have written it.
    fn sealer_file(&self, owner: &OwnerKeys, list: &Signers, name: &str) -> Result<(SealerKeys, bool)> {
        let read = |key: &Key| {
            let file = store::get_all(&*self.store, key, KEY_FILE_LEN_MAX)?;
            let identities: Vec<pack::Unwrap> = owner.meta_identities().iter().map(|i| i as pack::Unwrap).collect();
            let text = pack::open_whole(&identities, &file, key.as_str())?;
            let signed = signed::check(&owner.sign.public(), &text, key.as_str());
            let is_signed = signed.is_ok();
            let body = signed.or_else(|_| std::str::from_utf8(&text).map_err(|_| Error::corrupt(format!("{key} is not text"))))?;
            let keys = SealerKeys::decode(body)?;
            let listed = list.sealer(name);
            let fits = keys.vault == self.config.id
                && keys.name == name
                && owner.has_domain_of(&keys)
                && listed.map_or(is_signed, |public| public == keys.sign.public());
            match fits {
                true => Ok((keys, is_signed)),
                false => Err(Error::corrupt(format!("{key} does not hold the keys of sealer {name}"))),
            }
        };
        let key = key_of(name);
        read(&key).or_else(|e| read(&Key::fixed(format!("parity/{key}"))).map_err(|_| e))
    }

    /// The keys that the vault keeps for sealer `name`.
    fn kept_sealer(&self, owner: &OwnerKeys, list: &Signers, name: &str) -> Result<SealerKeys> {
        let (keys, _) = self.sealer_file(owner, list, name)?;
        // It was made in the epoch of its time.
        Ok(keys.with_recipients(owner.epoch(), owner.data_recipient(), owner.meta_recipient()))
    }

    /// Whether the owner's list has a sealer called `name`.
    pub fn has_sealer(&self, owner: &OwnerKeys, name: &str) -> Result<bool> {
        Ok(SignerList::load(&*self.store, Some(&owner.sign.public()))?.signers.sealer(name).is_some())
    }

    /// Returns the keys with which this host seals as `name`: those that the vault keeps for it, or new ones.
    ///
    /// For a host that lost its state directory, or never had one, and an owner who is present.
    pub fn enrol(&self, owner: &OwnerKeys, name: &str) -> Result<SealerKeys> {
        let list = SignerList::load(&*self.store, Some(&owner.sign.public()))?;
        not_revoked(&list, name)?;
        match list.signers.sealer(name).is_some() {
            true => self.kept_sealer(owner, &list.signers, name),
            false => self.new_sealer(owner, name, &Domain::Own).map(|(keys, _)| keys),
        }
    }

    /// Makes a sealer known, and returns what to carry to its host.
    ///
    /// # Errors
    /// `Conflict` if there is one of that name, or of one that differs by capital letters only.
    pub fn add_sealer(&self, owner: &OwnerKeys, name: &str, domain: &Domain) -> Result<NewSealer> {
        let (keys, list) = self.new_sealer(owner, name, domain)?;
        self.invite(owner, keys, list)
    }

    /// Returns a new token for a sealer that is known already: its host lost its state directory.
    ///
    /// # Errors
    /// `NotFound` if there is none of that name; `Missing` if its keys are gone from the vault.
    pub fn invite_again(&self, owner: &OwnerKeys, name: &str) -> Result<NewSealer> {
        check_name(name)?;
        let list = SignerList::load(&*self.store, Some(&owner.sign.public()))?;
        if list.signers.sealer(name).is_none() {
            return Err(Error::not_found(format!("no sealer is called {name}"))
                .hint("coffre key list shows those that there are; without --again a new one is made"));
        }
        not_revoked(&list, name)?;
        let keys = self.kept_sealer(owner, &list.signers, name).map_err(|e| match e.kind() {
            ErrorKind::Missing | ErrorKind::Corrupt | ErrorKind::WrongKey => {
                e.hint("its keys cannot be had from the vault any more; make a sealer of another name for that host")
            }
            _ => e,
        })?;
        self.invite(owner, keys, list)
    }

    fn invite(&self, owner: &OwnerKeys, keys: SealerKeys, list: SignerList) -> Result<NewSealer> {
        let token = Token::new(self.config.id, &keys.name, owner)?;
        let file = pack::seal_whole(&[&token.identity().to_public()], keys.encode().as_bytes())?;
        self.store.put(&token.place(), &file)?;
        let mut shared_with: Vec<String> =
            self.sealers(owner)?.into_iter().filter(|s| s.domain == keys.domain && s.name != keys.name).map(|s| s.name).collect();
        shared_with.sort_unstable();
        Ok(NewSealer { token, keys, shared_with, list })
    }

    fn new_sealer(&self, owner: &OwnerKeys, name: &str, domain: &Domain) -> Result<(SealerKeys, SignerList)> {
        check_name(name)?;
        owner.check_current()?;
        let list = SignerList::load(&*self.store, Some(&owner.sign.public()))?;
        list.check_free(name)?;
        let of = match domain {
            Domain::Own => None,
            Domain::Of(other) if list.signers.sealer(other).is_none() => {
                return Err(Error::not_found(format!("no sealer is called {other}")).hint("coffre key list shows them"));
            }
            Domain::Of(other) => Some(self.kept_sealer(owner, &list.signers, other)?.domain),
        };
        let sealer = match self.begun_sealer(owner, &list.signers, name, of)? {
            Some(sealer) => sealer,
            None => {
                let sealer = match of {
                    None => owner.new_sealer(name)?,
                    Some(domain) => owner.new_sealer_in(name, domain)?,
                };
                self.replace_sealer(owner, &sealer)?;
                sealer
            }
        };
        let list = SignerList::add(self, owner, &sealer)?;
        // Somebody who added the same name at the same moment may have taken the file for one that nobody needs.
        if self.sealer_file(owner, &list.signers, name).is_err() {
            self.replace_sealer(owner, &sealer)?;
        }
        Ok((sealer, list))
    }

    /// The keys that an owner, who was interrupted, made for a sealer that is in no list yet, if they are of the domain that is wanted now.
    fn begun_sealer(&self, owner: &OwnerKeys, list: &Signers, name: &str, of: Option<DomainId>) -> Result<Option<SealerKeys>> {
        let Ok((begun, true)) = self.sealer_file(owner, list, name) else { return Ok(None) };
        let fits = match of {
            Some(domain) => begun.domain == domain,
            None => !self.sealer_domains(owner)?.contains(&begun.domain),
        };
        let key = key_of(name);
        let whole = self.store.stat(&key)?.is_some() && self.store.stat(&Key::fixed(format!("parity/{key}")))?.is_some();
        Ok((fits && whole).then(|| begun.with_recipients(owner.epoch(), owner.data_recipient(), owner.meta_recipient())))
    }

    /// Stores a sealer's file in place of whatever has its name: that of somebody who was interrupted, or of nobody who may.
    fn replace_sealer(&self, owner: &OwnerKeys, sealer: &SealerKeys) -> Result<()> {
        let key = key_of(&sealer.name);
        for key in [Key::fixed(format!("parity/{key}")), key] {
            if self.store.stat(&key)?.is_some() {
                self.store.delete(&key)?;
            }
        }
        put_sealer(&*self.store, owner, sealer).map_err(|e| match e.kind() {
            ErrorKind::Conflict => Error::conflict(format!("another owner adds {} at the same moment", sealer.name))
                .because(e.chain())
                .hint("wait a moment, and look whether it is there: coffre key list"),
            _ => e,
        })
    }

    /// Opens what `token` leads to: the keys with which this host is to seal. From then on it leads no other host anywhere.
    ///
    /// # Errors
    /// `WrongKey` if the token was used already; `Conflict` if it is of another vault.
    pub fn redeem(&self, token: &Token, state: &StateDir) -> Result<SealerKeys> {
        if token.vault != self.config.id {
            return Err(Error::conflict(format!("the token is for vault {}, and this is vault {}", token.vault, self.config.id))
                .hint("check --vault, and that the token is the one for this host"));
        }
        let place = token.place();
        let file = store::get_all(&*self.store, &place, KEY_FILE_LEN_MAX).map_err(|e| match e.kind() {
            ErrorKind::Missing => used(&token.name),
            _ => e,
        })?;
        let text = pack::open_whole(&[&token.identity()], &file, place.as_str())?;
        let keys = SealerKeys::decode(std::str::from_utf8(&text).map_err(|_| Error::corrupt(format!("{place} is not text")))?)?;
        let list = SignerList::load(&*self.store, Some(&token.owner))?;
        not_revoked(&list, &token.name)?;
        match keys.vault == self.config.id && keys.name == token.name && list.signers.sealer(&keys.name) == Some(&keys.sign.public()) {
            true => self.claim(token, state).map(|()| keys),
            false => Err(Error::corrupt(format!("{place} does not hold the keys of sealer {} as the owner's list has it", token.name))),
        }
    }

    /// Makes this host the one that uses `token`: two that have it may come at the same moment. A host that died may come again.
    fn claim(&self, token: &Token, state: &StateDir) -> Result<()> {
        let (mark, place) = (state.mark()?, token.claim());
        match self.store.put(&place, mark.as_bytes()) {
            Err(e) if e.kind() != ErrorKind::Conflict => return Err(e),
            _ => (),
        }
        // Not every store refuses the second of two.
        let mine = match store::get_all(&*self.store, &place, KEY_FILE_LEN_MAX) {
            Ok(claimed) => claimed == mark.as_bytes(),
            // The other one is done, and took its claim away.
            Err(e) if e.kind() == ErrorKind::Missing => return Err(used(&token.name)),
            Err(e) => return Err(e),
        };
        match mine {
            // Who used it takes away what it leads to before the claim.
            true if self.store.stat(&token.place())?.is_none() => {
                self.store.delete(&place)?;
                Err(used(&token.name))
            }
            true => Ok(()),
            false => Err(Error::wrong_key(format!("another host is using the token for sealer {} at this moment", token.name))
                .hint(format!("if that is no host of yours: coffre key revoke {}", token.name))),
        }
    }

    /// Takes away what `token` led to: from now on it leads nowhere.
    pub fn forget_token(&self, token: &Token) -> Result<()> {
        self.store.delete(&token.place())?;
        self.store.delete(&token.claim())
    }
}

fn used(name: &str) -> Error {
    Error::wrong_key(format!("the token for sealer {name} was used already, or is of an older copy of this vault"))
        .hint(format!("an owner makes another: coffre key add --sealer {name} --again"))
}

impl StateDir {
    /// Makes this host seal as `keys` say, and trust `owner` from now on.
    ///
    /// # Errors
    /// `Conflict` if it seals under another name already, or knows another owner, unless `replace`.
    pub fn enrol(&self, keys: &SealerKeys, owner: &str, replace: bool) -> Result<()> {
        self.create()?;
        let had = self.sealer()?;
        if let Some(had) = &had
            && !replace
            && (had.name != keys.name || had.sign.public() != keys.sign.public())
        {
            return Err(Error::conflict(format!("this host seals into this vault already, as {}", had.name))
                .hint(format!("--replace makes it {} from now on; {} keeps what it sealed", keys.name, had.name)));
        }
        if let Some(pinned) = self.pinned_owner()?
            && pinned != owner
            && !replace
        {
            return Err(Error::conflict("this host knows this vault with another owner's key than the token's")
                .hint("compare the owner's key with the recovery kit; if the token is right: --replace"));
        }
        // What the catalog took in is of the old domain, and it would never look for what is older than itself in the new one.
        if had.is_none_or(|had| had.domain != keys.domain) {
            sys::remove_dir(&self.catalog()).map_err(|e| Error::io(format!("cannot remove {}", self.catalog().display()), e))?;
        }
        self.pin_owner(owner)?;
        self.keep_sealer(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_a_part_of_it_does_not() {
        let owner = OwnerKeys::generate(VaultId([1; 16])).unwrap();
        let token = Token::new(VaultId([1; 16]), "web-1.example", &owner).unwrap();
        let text = token.encode();
        let again = Token::decode(&format!("carry this:\n  {}\n", *text)).unwrap();
        assert_eq!((*again.encode()).as_str(), text.as_str());
        assert_eq!(again.place(), token.place());
        for wrong in
            ["", "coffre-enroll-1", &text[..text.len() - 70], &text.replace("coffre-enroll-1", "coffre-enroll-2"), &format!("{}:x", *text)]
        {
            let error = Token::decode(wrong).unwrap_err();
            assert!(!error.chain().contains(&hex(token.secret.expose())), "{wrong}");
        }
    }
}
