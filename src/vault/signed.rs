//! Texts that an owner signed, and that then are sealed: body, and an SSH signature in lines that start with `# `.
//!
//! What a sealer or an owner is sealed to is public among them. The signature says that an owner wrote it, and not somebody who only knows that.

use crate::{
    error::{Error, Result},
    vault::sign::{self, SigningKey},
};

/// Namespace of signatures in sealed texts; they are no business of `ssh-keygen`.
const NAMESPACE: &str = "coffre-keys-v1";
const BEGIN: &str = "# -----BEGIN SSH SIGNATURE-----\n";

/// Returns `body` with the signature of `key` behind it. `body` ends with a line feed.
pub fn sign(key: &SigningKey, body: &str) -> Result<zeroize::Zeroizing<String>> {
    let signature = key.sign(NAMESPACE, body.as_bytes())?;
    let mut text = zeroize::Zeroizing::new(body.to_owned());
    for line in String::from_utf8_lossy(&signature).lines() {
        text.push_str("# ");
        text.push_str(line);
        text.push('\n');
    }
    Ok(text)
}

/// Returns the body of a text if `owner` signed it.
///
/// # Errors
/// `Corrupt` if not.
pub fn check<'a>(owner: &str, text: &'a [u8], what: &str) -> Result<&'a str> {
    let wrong = || Error::corrupt(format!("{what} is not signed by the vault's owner"));
    let text = std::str::from_utf8(text).map_err(|_| wrong())?;
    let at = text.rfind(BEGIN).ok_or_else(wrong)?;
    let signature: String = text[at..].lines().filter_map(|l| l.strip_prefix("# ")).map(|l| format!("{l}\n")).collect();
    match sign::is_signed(owner, NAMESPACE, &text.as_bytes()[..at], signature.as_bytes()) {
        true => Ok(&text[..at]),
        false => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_body_or_another_signer_is_refused() {
        let key = SigningKey::from_seed([3; 32]);
        let text = sign(&key, "one\ntwo\n").unwrap();
        assert_eq!(check(&key.public(), text.as_bytes(), "it").unwrap(), "one\ntwo\n");
        assert!(check(&SigningKey::from_seed([4; 32]).public(), text.as_bytes(), "it").is_err());
        assert!(check(&key.public(), text.replace("two", "too").as_bytes(), "it").is_err());
        assert!(check(&key.public(), b"one\ntwo\n", "it").is_err());
    }
}
