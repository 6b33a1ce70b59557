//! Signatures in OpenSSH's format (PROTOCOL.sshsig), so that `ssh-keygen -Y verify` checks them. The home of `ssh-key`.

use ssh_key::{Algorithm, HashAlg, LineEnding, PrivateKey, PublicKey, SshSig, private::Ed25519Keypair};
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// Namespace of receipts.
pub const RECEIPT: &str = "coffre-receipt-v1";
/// Namespace of signer lists.
pub const SIGNERS: &str = "coffre-signers-v1";
/// Namespace of what an owner took away: of key files too.
pub const REMOVED: &str = "coffre-gc-v1";

/// An ed25519 signing key, kept as its seed. Signing takes 15 µs.
#[derive(Clone)]
pub struct SigningKey(Box<Zeroizing<[u8; 32]>>);

impl SigningKey {
    /// The key with this seed.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(Box::new(Zeroizing::new(seed)))
    }

    /// The secret seed.
    pub fn seed(&self) -> &[u8; 32] {
        &self.0
    }

    fn key(&self) -> PrivateKey {
        PrivateKey::from(Ed25519Keypair::from_seed(&self.0))
    }

    /// `ssh-ed25519 AAAA…`, without a comment.
    pub fn public(&self) -> String {
        self.key().public_key().to_openssh().expect("an ed25519 key has a text").trim().to_owned()
    }

    /// Returns a detached signature of `message`, as text.
    pub fn sign(&self, namespace: &str, message: &[u8]) -> Result<Vec<u8>> {
        let signed = self.key().sign(namespace, HashAlg::Sha512, message).and_then(|sig| sig.to_pem(LineEnding::LF));
        signed.map(String::into_bytes).map_err(|e| Error::bug("cannot sign").because(e.to_string()))
    }
}

/// Whether `signature` over `message` was made by `public` (`ssh-ed25519 AAAA…`). 30 µs.
pub fn is_signed(public: &str, namespace: &str, message: &[u8], signature: &[u8]) -> bool {
    let Ok(key) = public.parse::<PublicKey>() else { return false };
    let Some(signature) = std::str::from_utf8(signature).ok().and_then(|text| text.parse::<SshSig>().ok()) else { return false };
    key.verify(namespace, message, &signature).is_ok()
}

/// Whether a signature is written the one way in which we write it; readers are more lenient.
pub fn is_as_made(signature: &[u8]) -> bool {
    let parsed = std::str::from_utf8(signature).ok().and_then(|text| text.parse::<SshSig>().ok());
    parsed.and_then(|sig| sig.to_pem(LineEnding::LF).ok()).is_some_and(|text| text.as_bytes() == signature)
}

/// The public key (`ssh-ed25519 AAAA…`) that made `signature` over `message`, whoever that is; `None` if the two do not go together.
pub fn maker(namespace: &str, message: &[u8], signature: &[u8]) -> Option<String> {
    let signature = std::str::from_utf8(signature).ok()?.parse::<SshSig>().ok()?;
    let key = PublicKey::from(signature.public_key().clone());
    key.verify(namespace, message, &signature).ok()?;
    Some(key.to_openssh().ok()?.trim().to_owned())
}

/// Whether `signature` says that it is of `public`. Whether that is so, only what was signed can show.
pub fn claims(public: &str, signature: &[u8]) -> bool {
    let signature = std::str::from_utf8(signature).ok().and_then(|text| text.parse::<SshSig>().ok());
    public.parse::<PublicKey>().is_ok_and(|key| signature.is_some_and(|signature| signature.public_key() == key.key_data()))
}

/// The text of an ed25519 public key without its comment, if `text` is one.
pub fn public_key(text: &str) -> Option<String> {
    let mut key = text.trim().parse::<PublicKey>().ok().filter(|key| key.algorithm() == Algorithm::Ed25519)?;
    key.set_comment("");
    Some(key.to_openssh().ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_counts_for_its_message_namespace_and_key_only() {
        let key = SigningKey::from_seed([5; 32]);
        let signature = key.sign(RECEIPT, b"message").unwrap();
        assert!(is_signed(&key.public(), RECEIPT, b"message", &signature));
        assert!(!is_signed(&key.public(), RECEIPT, b"massage", &signature));
        assert!(!is_signed(&key.public(), SIGNERS, b"message", &signature));
        assert!(!is_signed(&SigningKey::from_seed([6; 32]).public(), RECEIPT, b"message", &signature));
        assert!(!is_signed(&key.public(), RECEIPT, b"message", b"nonsense"));
        assert!(claims(&key.public(), &signature) && !claims(&SigningKey::from_seed([6; 32]).public(), &signature));
        assert!(!claims(&key.public(), b"nonsense"));
        assert_eq!(maker(RECEIPT, b"message", &signature), Some(key.public()));
        assert_eq!(maker(RECEIPT, b"massage", &signature), None);
        assert_eq!(public_key(&format!("{} owner@desk\n", key.public())), Some(key.public()));
        assert_eq!(public_key("ssh-ed25519 nonsense"), None);
    }
}
