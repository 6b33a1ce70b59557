//! Who holds which secrets: owner keys, sealer keys, and the text files that carry them (docs/FORMAT.md section 1).

use std::{
    collections::HashMap,
    str::FromStr,
    sync::{Arc, Mutex},
};

use age::secrecy::ExposeSecret;
use zeroize::Zeroizing;

use crate::{
    error::{Error, Result},
    format::{self, DomainId, DomainKeys, Key32, VaultId, hex, is_name, unhex},
    pack::{Headers, Identity, Recipient, identity_from_bytes},
    sys,
    vault::{sign::SigningKey, state::StateDir},
};

/// So many headers opened anew are worth a write; each took 60 µs.
const HEADERS_FRESH_MIN: usize = 16;
/// The comment before the identity of a way, in the file of that way.
const WAY_COMMENT: &str = "# identity of this way in";

/// Bytes of an owner file without its pairs of identities, and with the signature that an epoch has.
const TEXT_LEN: usize = 1024;
/// Bytes of a pair in it.
const PAIR_TEXT_LEN: usize = 256;

/// Everything that an owner can do rests on these.
pub struct OwnerKeys {
    vault: VaultId,
    secret: Key32,
    /// Signs lists of signers, and condemnations.
    pub sign: SigningKey,
    /// Read data packs; the first is the current one.
    data: Vec<Identity>,
    /// Read manifests, trees and index segments; the first is the current one.
    meta: Vec<Identity>,
    /// Lies in the file of the way by which these were had, and opens later epochs.
    way: Option<Box<Identity>>,
    /// The file of that way.
    came_by: Option<String>,
    /// The newest epoch of the vault, if it is not open to these keys.
    closed_epoch: Option<u32>,
    /// Whether an owner removed the way by which these were had.
    removed: bool,
    /// The numbers of all files of epochs that there were when these were had.
    epochs_seen: Vec<u32>,
    domains: Mutex<HashMap<DomainId, Arc<DomainKeys>>>,
    /// What opening headers gave before.
    pub headers: Arc<Headers>,
}

impl OwnerKeys {
    /// Makes the keys of a new vault.
    pub fn generate(vault: VaultId) -> Result<Self> {
        Ok(Self {
            vault,
            secret: Key32::new(sys::random()?),
            sign: SigningKey::from_seed(sys::random()?),
            data: vec![Identity::generate()],
            meta: vec![Identity::generate()],
            way: None,
            came_by: None,
            closed_epoch: None,
            removed: false,
            epochs_seen: Vec::new(),
            domains: Mutex::default(),
            headers: Arc::default(),
        })
    }

    /// Returns the plaintext of an owner file: an ordinary age identity file with comments.
    pub fn encode(&self) -> Zeroizing<String> {
        // Never grown, so that no copy stays where it was.
        let mut text = Zeroizing::new(String::with_capacity(TEXT_LEN + self.data.len() * PAIR_TEXT_LEN));
        let (secret, sign) = (Zeroizing::new(hex(self.secret.expose())), Zeroizing::new(hex(self.sign.seed())));
        for part in ["# coffre owner keys of vault ", &self.vault.to_string(), "\n# coffre-vs ", &secret, "\n# coffre-sign ", &sign, "\n"] {
            text.push_str(part);
        }
        for (data, meta) in self.data.iter().zip(&self.meta) {
            for (comment, identity) in [("# data identity\n", data), ("# meta identity\n", meta)] {
                for part in [comment, identity.to_string().expose_secret(), "\n"] {
                    text.push_str(part);
                }
            }
        }
        text
    }

    /// The same for a way in, with the identity that is its own.
    pub(super) fn encode_for(&self, way: &Identity) -> Zeroizing<String> {
        let mut text = self.encode();
        for part in [WAY_COMMENT, "\n", way.to_string().expose_secret(), "\n"] {
            text.push_str(part);
        }
        text
    }

    /// Reads the plaintext of an owner file of `vault`.
    pub fn decode(text: &str, vault: VaultId) -> Result<Self> {
        let broken = || Error::corrupt("an owner key file cannot be understood");
        let comment = |name: &str| text.lines().find_map(|l| l.strip_prefix("# ")?.strip_prefix(name)?.strip_prefix(' '));
        let id = comment("coffre owner keys of vault").and_then(unhex).map(VaultId).ok_or_else(broken)?;
        if id != vault {
            return Err(Error::corrupt(format!("an owner key file belongs to vault {id}")));
        }
        let (mut data, mut meta, mut way, mut comment_before) = (Vec::new(), Vec::new(), None, "");
        for line in text.lines().filter(|l| !l.is_empty()) {
            if line.starts_with('#') {
                comment_before = line;
                continue;
            }
            let identity = Identity::from_str(line).map_err(|_| broken())?;
            match comment_before {
                WAY_COMMENT => way = Some(Box::new(identity)),
                _ if data.len() == meta.len() => data.push(identity),
                _ => meta.push(identity),
            }
        }
        if data.is_empty() || data.len() != meta.len() {
            return Err(broken());
        }
        Ok(Self {
            vault,
            secret: comment("coffre-vs").and_then(unhex).map(Key32::new).ok_or_else(broken)?,
            sign: comment("coffre-sign").and_then(unhex).map(SigningKey::from_seed).ok_or_else(broken)?,
            data,
            meta,
            way,
            came_by: None,
            closed_epoch: None,
            removed: false,
            epochs_seen: Vec::new(),
            domains: Mutex::default(),
            headers: Arc::default(),
        })
    }

    /// The vault.
    pub fn vault(&self) -> VaultId {
        self.vault
    }

    /// How many pairs of identities there are: the number of the newest epoch that these keys know.
    pub fn epoch(&self) -> u32 {
        u32::try_from(self.data.len()).unwrap_or(u32::MAX)
    }

    /// The identity of the way by which these were had.
    pub(super) fn way(&self) -> Option<&Identity> {
        self.way.as_deref()
    }

    /// The file of the way by which these were had.
    pub fn came_by(&self) -> Option<&str> {
        self.came_by.as_deref()
    }

    pub(super) fn that_came_by(self, file: &str) -> Self {
        Self { came_by: Some(file.to_owned()), ..self }
    }

    pub(super) fn that_were_removed(self, removed: bool) -> Self {
        Self { removed, ..self }
    }

    /// These keys, with the pairs of `newer`. There were files of the epochs `seen` then.
    pub(super) fn with_newer(self, newer: Option<OwnerKeys>, seen: Vec<u32>) -> Self {
        let (data, meta) = match newer {
            Some(newer) => (newer.data, newer.meta),
            None => (self.data, self.meta),
        };
        Self { data, meta, epochs_seen: seen, ..self }
    }

    /// These keys, of which it is known that an owner began this epoch, and they lack it.
    pub(super) fn that_lack(self, closed_epoch: Option<u32>) -> Self {
        Self { closed_epoch, ..self }
    }

    /// The numbers of all files of epochs that there were when these were had, whoever put them there.
    pub(super) fn epochs_seen(&self) -> &[u32] {
        &self.epochs_seen
    }

    /// The keys of the epoch of that number: so many pairs.
    pub(super) fn of_epoch(&self, number: u32) -> Result<Self> {
        let mut next = Self::decode(&self.encode(), self.vault)?;
        while next.epoch() < number {
            next.data.insert(0, Identity::generate());
            next.meta.insert(0, Identity::generate());
        }
        Ok(next)
    }

    /// Whether an owner removed the way by which these were had: somebody put its file back.
    pub fn is_removed(&self) -> bool {
        self.removed
    }

    /// The newest epoch of the vault, if it is closed to these keys: their way was removed before it began, or added while it did.
    pub fn closed_epoch(&self) -> Option<u32> {
        self.closed_epoch
    }

    /// Fails unless these keys open what is sealed now: others must not change who can.
    ///
    /// # Errors
    /// `WrongKey`.
    pub(super) fn check_current(&self) -> Result<()> {
        match self.closed_epoch {
            Some(epoch) => Err(Error::wrong_key(format!("epoch {epoch} of the vault's keys is closed to the way in that was used"))
                .hint("it was removed before the keys were rotated, or added while they were; use another one that coffre key list shows")),
            None if self.removed => Err(Error::wrong_key("the way in that was used was removed from this vault by an owner")
                .hint("somebody put its file back; use another one that coffre key list shows")),
            None => Ok(()),
        }
    }

    /// Asks that these never go to swap. Not inherited by a fork.
    pub fn lock_in_memory(&self) {
        sys::lock_memory(&self.data);
        sys::lock_memory(&self.meta);
        sys::lock_memory(self.secret.expose());
        sys::lock_memory(self.sign.seed());
        if let Some(way) = &self.way {
            sys::lock_memory(std::slice::from_ref(&**way));
        }
    }

    /// Identities that open data packs and meta packs.
    pub fn identities(&self) -> Vec<Identity> {
        self.data.iter().chain(&self.meta).cloned().collect()
    }

    /// Identities that open manifests and index segments.
    pub fn meta_identities(&self) -> &[Identity] {
        &self.meta
    }

    /// Takes up what was kept of opened headers by `keep_headers`, if anything.
    pub fn recall_headers(&self, state: &StateDir) {
        if let Some(bytes) = state.headers() {
            self.headers.take_up(&self.headers_key(), &bytes);
        }
    }

    /// Keeps what opening headers gave, if that is worth it. A state directory that cannot be written costs time only.
    pub fn keep_headers(&self, state: &StateDir) {
        if self.headers.fresh() >= HEADERS_FRESH_MIN
            && let Ok(nonce) = sys::random()
        {
            state.keep_headers(&self.headers.encode(&self.headers_key(), nonce));
        }
    }

    /// Of the newest identities too, not of the vault's secret alone: who was removed knows that one, and is to read nothing that came later.
    fn headers_key(&self) -> Key32 {
        let newest = [self.data[0].to_string(), self.meta[0].to_string()];
        let text = Zeroizing::new(newest.each_ref().map(|identity| identity.expose_secret()).concat());
        self.secret.derive("coffre 2025-11 headers kept by a reader").with(text.as_bytes())
    }

    /// The keys of a dedup domain; derived once.
    pub fn domain(&self, domain: DomainId) -> Arc<DomainKeys> {
        let mut domains = self.domains.lock().expect("nobody panics while deriving a key");
        domains.entry(domain).or_insert_with(|| Arc::new(DomainKeys::derive(&format::domain_key(&self.secret, domain)))).clone()
    }

    /// Whether the key of a sealer's domain is the one that this domain has.
    pub(super) fn has_domain_of(&self, sealer: &SealerKeys) -> bool {
        format::domain_key(&self.secret, sealer.domain).expose() == sealer.dk.expose()
    }

    /// Makes what a host needs to seal as `name`, in a dedup domain of its own.
    pub fn new_sealer(&self, name: &str) -> Result<SealerKeys> {
        self.new_sealer_in(name, DomainId(sys::random()?))
    }

    /// The same in a domain that others share.
    pub fn new_sealer_in(&self, name: &str, domain: DomainId) -> Result<SealerKeys> {
        Ok(SealerKeys::new(
            self.vault,
            name.to_owned(),
            domain,
            format::domain_key(&self.secret, domain),
            SigningKey::from_seed(sys::random()?),
            self.epoch(),
            self.data[0].to_public(),
            self.meta[0].to_public(),
        ))
    }

    /// The public half of the current data identity.
    pub fn data_recipient(&self) -> Recipient {
        self.data[0].to_public()
    }

    /// The public half of the current meta identity.
    pub fn meta_recipient(&self) -> Recipient {
        self.meta[0].to_public()
    }
}

/// What a sealing host holds: enough to add snapshots, nothing that opens one.
pub struct SealerKeys {
    /// The vault it seals into.
    pub vault: VaultId,
    /// Its name.
    pub name: String,
    /// Its dedup domain.
    pub domain: DomainId,
    dk: Key32,
    /// The keys of the domain.
    pub keys: DomainKeys,
    /// Signs its receipts.
    pub sign: SigningKey,
    /// The epoch of the two below.
    pub epoch: u32,
    /// Data packs are sealed to this.
    pub data: Recipient,
    /// Meta packs, manifests and index segments are sealed to this.
    pub meta: Recipient,
}

impl SealerKeys {
    #[allow(clippy::too_many_arguments)] // one a line of its text
    fn new(
        vault: VaultId,
        name: String,
        domain: DomainId,
        dk: Key32,
        sign: SigningKey,
        epoch: u32,
        data: Recipient,
        meta: Recipient,
    ) -> Self {
        let keys = DomainKeys::derive(&dk);
        for secret in [&dk, &keys.data, &keys.tree, &keys.index, &keys.catalog] {
            sys::lock_memory(secret.expose());
        }
        sys::lock_memory(sign.seed());
        Self { vault, name, domain, dk, keys, sign, epoch, data, meta }
    }

    /// The same sealer, which seals to the recipients of another epoch.
    pub(super) fn with_recipients(&self, epoch: u32, data: Recipient, meta: Recipient) -> Self {
        let (name, keys, sign) = (self.name.clone(), self.keys.clone(), self.sign.clone());
        Self { vault: self.vault, name, domain: self.domain, dk: self.dk.clone(), keys, sign, epoch, data, meta }
    }

    /// Reads and writes the index segments of the domain.
    pub fn index_identity(&self) -> Identity {
        identity_from_bytes(self.keys.index.expose())
    }

    /// Returns the text that is kept in the state directory, and sealed in the vault.
    pub fn encode(&self) -> Zeroizing<String> {
        let (dk, sign) = (Zeroizing::new(hex(self.dk.expose())), Zeroizing::new(hex(self.sign.seed())));
        Zeroizing::new(format!(
            "coffre-sealer 1\nvault {}\nname {}\ndomain {}\ndk {}\nsign {}\nepoch {}\ndata {}\nmeta {}\n",
            self.vault, self.name, self.domain, *dk, *sign, self.epoch, self.data, self.meta
        ))
    }

    /// Reads that text.
    pub fn decode(text: &str) -> Result<Self> {
        let broken = || Error::corrupt("the sealing keys cannot be understood");
        let mut lines = text.lines();
        match lines.next().and_then(|l| l.strip_prefix("coffre-sealer ")) {
            Some("1") => (),
            Some(version) => return Err(Error::unsupported(format!("the sealing keys have version {version}; this coffre reads 1"))),
            None => return Err(broken()),
        }
        let facts: HashMap<&str, &str> = lines.filter_map(|l| l.split_once(' ')).collect();
        let fact = |name: &str| facts.get(name).copied().ok_or_else(broken);
        let recipient = |name: &str| Recipient::from_str(fact(name)?).map_err(|_| broken());
        Ok(Self::new(
            VaultId(unhex(fact("vault")?).ok_or_else(broken)?),
            Some(fact("name")?).filter(|n| is_name(n)).ok_or_else(broken)?.to_owned(),
            DomainId(unhex(fact("domain")?).ok_or_else(broken)?),
            Key32::new(unhex(fact("dk")?).ok_or_else(broken)?),
            SigningKey::from_seed(unhex(fact("sign")?).ok_or_else(broken)?),
            // Those of before epochs have none.
            facts.get("epoch").map_or(Some(1), |n| n.parse().ok()).ok_or_else(broken)?,
            recipient("data")?,
            recipient("meta")?,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_reader_keeps_is_closed_to_who_was_removed() {
        let owner = OwnerKeys::generate(VaultId([1; 16])).unwrap();
        let kept = |keys: &OwnerKeys| {
            keys.headers.put([1; 16], [2; 16]);
            keys.headers.encode(&keys.headers_key(), [3; 12])
        };
        let opens = |keys: &OwnerKeys, bytes: &[u8]| {
            let again = Headers::default();
            again.take_up(&keys.headers_key(), bytes);
            again.get(&[1; 16]) == Some([2; 16])
        };
        let rotated = owner.of_epoch(2).unwrap();
        assert!(opens(&owner, &kept(&owner)) && opens(&rotated, &kept(&rotated)));
        assert!(!opens(&owner, &kept(&rotated)), "the vault's secret is not enough");
    }

    #[test]
    fn key_files_read_back() {
        let vault = VaultId([1; 16]);
        let owner = OwnerKeys::generate(vault).unwrap();
        let again = OwnerKeys::decode(&owner.encode(), vault).unwrap();
        assert_eq!(*again.encode(), *owner.encode());
        assert!(OwnerKeys::decode(&owner.encode(), VaultId([2; 16])).is_err());
        let sealer = owner.new_sealer("web-1").unwrap();
        let read = SealerKeys::decode(&sealer.encode()).unwrap();
        assert_eq!(*read.encode(), *sealer.encode());
        assert_eq!(owner.domain(sealer.domain).data.chunk_id(b"x"), read.keys.data.chunk_id(b"x"));
    }
}
