//! What a way into a vault is made of, as it is added: a passphrase, or a public key of one of four kinds.

use std::str::FromStr;

use age::secrecy::SecretString;
use zeroize::Zeroizing;

use crate::{
    error::{Error, Result},
    pack::{self, plainly},
    vault::{callbacks::Callbacks, ssh},
};

/// Most work that a passphrase's file may ask of who opens it: scrypt with N = 2^20 takes 2 s and 1 GiB here.
pub(super) const SCRYPT_LOG_N_MAX: u8 = 20;

/// Least and most work that a passphrase's file asks for when it is made: 0.26 s and 128 MiB, 1.05 s and 512 MiB here. The crate's measurement
/// is of a thousandth of that, in the processor's cache, and so tends to ask for twice as much as it means to.
const SCRYPT_LOG_N_MADE: std::ops::RangeInclusive<u8> = 17..=19;

/// One way to unlock a vault, as it is added.
pub enum Way {
    /// A passphrase, by scrypt: the work takes about a second here and for every guess.
    Passphrase(Zeroizing<String>),
    /// An age public key.
    Age(age::x25519::Recipient),
    /// An SSH public key, ed25519 or RSA.
    Ssh(Box<age::ssh::Recipient>, String),
    /// A public key that an age plugin knows how to use.
    Plugin(age::plugin::Recipient, Callbacks),
}

impl Way {
    /// Reads `age1…`, `age1PLUGIN1…`, `ssh-ed25519 …` or `ssh-rsa …`. No error repeats the text: it may be a secret in the wrong place.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        let small = text.to_ascii_lowercase();
        if ["age-secret-key-", "age-plugin-", "private key"].iter().any(|start| small.contains(start)) {
            return Err(Error::usage("that is a private key; a recipient is public")
                .hint("age-keygen -y FILE prints the public key of an identity file; an SSH key has its own in FILE.pub"));
        }
        let wrong = |why: &str| {
            Error::usage(format!("what was given is no public key that coffre knows{why}"))
                .hint("give an age1… key or an ssh-ed25519 or ssh-rsa public key line; private keys stay with you")
        };
        if text.starts_with("age1") {
            let native = age::x25519::Recipient::from_str(text);
            return match (native, age::plugin::Recipient::from_str(text)) {
                (Ok(key), _) => Ok(Way::Age(key)),
                (Err(_), Ok(key)) => Ok(Way::Plugin(key, Callbacks::default())),
                (Err(_), Err(_)) => Err(wrong(": it begins like an age key, and is not whole, or has a typing error")),
            };
        }
        let kind = text.split_whitespace().next().unwrap_or_default();
        match age::ssh::Recipient::from_str(text) {
            Ok(key) => Ok(Way::Ssh(Box::new(key), text.to_owned())),
            Err(age::ssh::ParseRecipientKeyError::RsaModulusTooSmall) => Err(wrong(": an RSA key of less than 2048 bits is not safe")),
            Err(age::ssh::ParseRecipientKeyError::RsaModulusTooLarge) => Err(wrong(": it is an RSA key of more than 4096 bits")),
            Err(_) if ["ssh-ed25519", "ssh-rsa"].contains(&kind) => Err(wrong(": it begins like an SSH key, and is not whole")),
            Err(_) if kind.starts_with("ssh-") || kind.starts_with("ecdsa-sha2-") || kind.starts_with("sk-") => {
                Err(ssh::cannot_decrypt("the public key that was given", kind))
            }
            Err(_) => Err(wrong("")),
        }
    }

    /// A plugin that asks or tells something while this way is added talks to this person.
    pub fn asking(self, ask: Option<std::sync::Arc<dyn super::Ask>>) -> Self {
        match self {
            Way::Plugin(key, _) => Way::Plugin(key, Callbacks::asking(ask)),
            other => other,
        }
    }

    /// The part of the file name that says what kind of way this is.
    pub fn label(&self) -> &'static str {
        match self {
            Way::Passphrase(_) => "passphrase",
            Way::Age(_) => "age",
            Way::Ssh(..) => "ssh",
            Way::Plugin(..) => "plugin",
        }
    }

    /// For people.
    pub fn describe(&self) -> String {
        match self {
            Way::Passphrase(_) => "a passphrase".to_owned(),
            Way::Age(key) => key.to_string(),
            Way::Ssh(_, text) => text.clone(),
            Way::Plugin(key, _) => key.to_string(),
        }
    }

    /// Encrypts `plaintext` so that this way opens it.
    ///
    /// # Errors
    /// `Unsupported` if a plugin is needed that is not on the `PATH`.
    pub fn seal(&self, plaintext: &[u8]) -> Result<Vec<u8>> {
        match self {
            Way::Passphrase(secret) => seal_by_passphrase(secret, plaintext),
            Way::Age(key) => pack::seal_whole(&[key], plaintext),
            Way::Ssh(key, _) => pack::seal_whole(&[&**key], plaintext),
            Way::Plugin(key, callbacks) => {
                let plugin = age::plugin::RecipientPluginV1::new(key.plugin(), std::slice::from_ref(key), &[], callbacks.clone());
                pack::seal_whole(&[&plugin.map_err(|e| missing_plugin(key.plugin(), &e))?], plaintext)
            }
        }
    }
}

/// A public key for people: whole if it is not long; else its kind, its last characters, and its comment, without what would steer a terminal.
pub fn shortened(what: &str) -> String {
    let plain: String = what.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    let mut words = plain.splitn(3, ' ');
    match (words.next(), words.next(), words.next()) {
        (Some(kind), Some(key), comment) if plain.chars().count() > SHOWN_WHOLE_MAX && kind.starts_with("ssh-") => {
            let end: String = key.chars().skip(key.chars().count().saturating_sub(KEY_END_LEN)).collect();
            let comment: String = comment.unwrap_or_default().chars().take(COMMENT_SHOWN_MAX).collect();
            format!("{kind} …{end} {comment}").trim_end().to_owned()
        }
        _ => plain,
    }
}

/// Longest public key shown whole: an age key is shorter, an SSH key longer.
const SHOWN_WHOLE_MAX: usize = 64;
/// Characters from the end of a longer one, which differ from key to key.
const KEY_END_LEN: usize = 12;
/// Most characters shown of the comment of an SSH key.
const COMMENT_SHOWN_MAX: usize = 24;

/// The error of a plugin that is not there.
pub(super) fn missing_plugin(name: &str, e: &dyn std::fmt::Display) -> Error {
    Error::unsupported(format!("the age plugin {name} cannot be used"))
        .because(plainly(e))
        .hint(format!("install age-plugin-{name} where this machine finds programs (PATH)"))
}

/// The crate measures how much work takes a second here. On a machine that is busy it would be too little, and on one so fast that others
/// would not open the file, too much.
fn seal_by_passphrase(secret: &str, plaintext: &[u8]) -> Result<Vec<u8>> {
    let mut recipient = age::scrypt::Recipient::new(SecretString::from(secret));
    let file = pack::seal_whole(&[&recipient], plaintext)?;
    let log_n = scrypt_log_n(&file).unwrap_or(0);
    if SCRYPT_LOG_N_MADE.contains(&log_n) {
        return Ok(file);
    }
    recipient.set_work_factor(log_n.clamp(*SCRYPT_LOG_N_MADE.start(), *SCRYPT_LOG_N_MADE.end()));
    pack::seal_whole(&[&recipient], plaintext)
}

/// What opens a file that a passphrase seals, and does no more work for it than is reasonable.
pub(super) fn passphrase_identity(secret: &str) -> age::scrypt::Identity {
    let mut identity = age::scrypt::Identity::new(SecretString::from(secret));
    identity.set_max_work_factor(SCRYPT_LOG_N_MAX);
    identity
}

/// The base-2 logarithm of the work that an age file's passphrase takes; `None` if it asks for no passphrase. Its only stanza says so in clear.
pub(super) fn scrypt_log_n(file: &[u8]) -> Option<u8> {
    let line = file.split(|b| *b == b'\n').nth(1)?;
    let mut words = std::str::from_utf8(line).ok()?.strip_prefix("-> scrypt ")?.split(' ').skip(1);
    // A number that cannot be read is more than anybody wants to do.
    Some(words.next().and_then(|n| n.parse().ok()).unwrap_or(u8::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_keys_of_every_kind_are_told_apart_and_private_ones_never_repeated() {
        let age = age::x25519::Identity::generate();
        assert_eq!(Way::parse(&age.to_public().to_string()).unwrap().label(), "age");
        for wrong in ["age1nonsense", "ssh-dss AAAA", "hello", ""] {
            assert!(Way::parse(wrong).is_err(), "{wrong}");
        }
        let secret = "AGE-SECRET-KEY-1QQQQ";
        let small = secret.to_lowercase();
        for given in [
            secret.to_owned(),
            format!("# created\n{secret}"),
            format!("owner={secret}"),
            small.clone(),
            format!("age1{secret}"),
            "hunter2".to_owned(),
        ] {
            let error = Way::parse(&given).err().unwrap();
            let said = format!("{} {}", error.chain(), error.hint_text().unwrap());
            assert!(![secret, &small, "hunter2"].iter().any(|s| said.contains(*s)), "{said}");
        }
        for (key, why) in
            [("ecdsa-sha2-nistp256 AAAA x", "ECDSA"), ("sk-ssh-ed25519@openssh.com AAAA", "security key"), ("ssh-rsa AAAA", "not whole")]
        {
            let said = Way::parse(key).err().unwrap().chain();
            assert!(said.contains(why) && !said.contains("Invalid("), "{said}");
        }
    }

    #[test]
    fn long_keys_are_shown_short_and_steer_no_terminal() {
        let age = age::x25519::Identity::generate().to_public().to_string();
        assert_eq!(shortened(&age), age);
        assert_eq!(shortened(&format!("ssh-rsa {}bcdefghijklm me\u{1b}[2Jdesk", "A".repeat(500))), "ssh-rsa …bcdefghijklm me?[2Jdesk");
    }

    #[test]
    fn the_work_of_a_passphrase_is_read_in_clear() {
        assert_eq!(scrypt_log_n(b"age-encryption.org/v1\n-> scrypt c2FsdA 18\nbody\n"), Some(18));
        assert_eq!(scrypt_log_n(b"age-encryption.org/v1\n-> scrypt c2FsdA 999\nbody\n"), Some(u8::MAX));
        assert_eq!(scrypt_log_n(b"age-encryption.org/v1\n-> X25519 c2FsdA\nbody\n"), None);
    }
}
