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
    pack::{Identity, Recipient, identity_from_bytes},
    sys,
    vault::sign::SigningKey,
};

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
    domains: Mutex<HashMap<DomainId, Arc<DomainKeys>>>,
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
            domains: Mutex::default(),
        })
    }

    /// Returns the plaintext of an owner file: an ordinary age identity file with comments.
    pub fn encode(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(format!(
            "# coffre owner keys of vault {}\n# coffre-vs {}\n# coffre-sign {}\n",
            self.vault,
            hex(self.secret.expose()),
            hex(self.sign.seed())
        ));
        for (data, meta) in self.data.iter().zip(&self.meta) {
            for (what, identity) in [("data", data), ("meta", meta)] {
                text.push_str(&format!("# {what} identity\n{}\n", identity.to_string().expose_secret()));
            }
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
        let identities: Vec<Identity> = text
            .lines()
            .filter(|l| !l.starts_with('#') && !l.is_empty())
            .map(|l| Identity::from_str(l).map_err(|_| broken()))
            .collect::<Result<_>>()?;
        let (mut data, mut meta) = (Vec::new(), Vec::new());
        for (i, identity) in identities.into_iter().enumerate() {
            if i % 2 == 0 { data.push(identity) } else { meta.push(identity) }
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
            domains: Mutex::default(),
        })
    }

    /// Identities that open data packs and meta packs.
    pub fn identities(&self) -> Vec<Identity> {
        self.data.iter().chain(&self.meta).cloned().collect()
    }

    /// Identities that open manifests and index segments.
    pub fn meta_identities(&self) -> &[Identity] {
        &self.meta
    }

    /// The keys of a dedup domain; derived once.
    pub fn domain(&self, domain: DomainId) -> Arc<DomainKeys> {
        let mut domains = self.domains.lock().expect("nobody panics while deriving a key");
        domains.entry(domain).or_insert_with(|| Arc::new(DomainKeys::derive(&format::domain_key(&self.secret, domain)))).clone()
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
    /// Data packs are sealed to this.
    pub data: Recipient,
    /// Meta packs, manifests and index segments are sealed to this.
    pub meta: Recipient,
}

impl SealerKeys {
    fn new(vault: VaultId, name: String, domain: DomainId, dk: Key32, sign: SigningKey, data: Recipient, meta: Recipient) -> Self {
        let keys = DomainKeys::derive(&dk);
        Self { vault, name, domain, dk, keys, sign, data, meta }
    }

    /// Reads and writes the index segments of the domain.
    pub fn index_identity(&self) -> Identity {
        identity_from_bytes(self.keys.index.expose())
    }

    /// Returns the text that is kept in the state directory, and sealed in the vault.
    pub fn encode(&self) -> Zeroizing<String> {
        Zeroizing::new(format!(
            "coffre-sealer 1\nvault {}\nname {}\ndomain {}\ndk {}\nsign {}\ndata {}\nmeta {}\n",
            self.vault,
            self.name,
            self.domain,
            hex(self.dk.expose()),
            hex(self.sign.seed()),
            self.data,
            self.meta
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
            recipient("data")?,
            recipient("meta")?,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
