//! `allowed_signers`: whose signature counts, in OpenSSH's own format (ssh-keygen(1), ALLOWED SIGNERS).

use crate::{
    error::{Error, Result},
    format::is_name,
};

/// Namespace of receipts.
pub const NAMESPACE_RECEIPT: &str = "coffre-receipt-v1";
/// Namespaces of the owner.
const NAMESPACES_OWNER: &str = "coffre-gc-v1,coffre-signers-v1";

/// One line: a name and its public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// A sealer's name, or `owner`.
    pub name: String,
    /// `ssh-ed25519 AAAA…`.
    pub key: String,
    /// Whether this is the owner's line.
    pub owner: bool,
}

/// The list, in the order in which signers were added; the order never changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signers(pub Vec<Signer>);

impl Signers {
    /// Returns the text.
    pub fn encode(&self) -> Vec<u8> {
        self.0
            .iter()
            .map(|s| {
                let namespaces = if s.owner { NAMESPACES_OWNER } else { NAMESPACE_RECEIPT };
                format!("{} namespaces=\"{namespaces}\" {}\n", s.name, s.key)
            })
            .collect::<String>()
            .into_bytes()
    }

    /// Reads a list; lines with options that we do not write are skipped.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(bytes).map_err(|_| Error::corrupt("signers/allowed_signers is not text"))?;
        let line = |line: &str| {
            let mut words = line.splitn(3, ' ');
            let (name, options, key) = (words.next()?, words.next()?, words.next()?);
            let namespaces = options.strip_prefix("namespaces=\"")?.strip_suffix('"')?;
            let owner = namespaces == NAMESPACES_OWNER;
            (is_name(name) && (owner || namespaces == NAMESPACE_RECEIPT)).then(|| Signer {
                name: name.to_owned(),
                key: key.trim().to_owned(),
                owner,
            })
        };
        Ok(Self(text.lines().filter(|l| !l.starts_with('#')).filter_map(line).collect()))
    }

    /// The public key of sealer `name`.
    pub fn sealer(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|s| !s.owner && s.name == name).map(|s| s.key.as_str())
    }

    /// The owner's public key.
    pub fn owner(&self) -> Option<&str> {
        self.0.iter().find(|s| s.owner).map(|s| s.key.as_str())
    }

    /// Where sealer `name` stands in the list: a number that never changes.
    pub fn ordinal(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|s| !s.owner && s.name == name)
    }
}
