//! What happens while somebody's own key is used: a protected SSH key or a plugin may ask, tell, and want a yes.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use age::secrecy::SecretString;
use zeroize::Zeroizing;

use crate::error::Result;

/// Asks a person. Called only where nothing else answers.
pub trait Ask: Send + Sync {
    /// A secret for `what`, or an error that says how to give it otherwise.
    fn secret(&self, what: &str) -> Result<Zeroizing<String>>;
    /// Something that is no secret.
    fn public(&self, _what: &str) -> Option<String> {
        None
    }
    /// Says what a plugin wants said, such as that a token is to be touched.
    fn tell(&self, _text: &str) {}
}

/// Passes the questions of the age crate on to a person, or answers with the passphrase that was brought.
#[derive(Clone, Default)]
pub struct Callbacks {
    /// Who is asked.
    pub ask: Option<Arc<dyn Ask>>,
    /// What is answered without asking.
    pub passphrase: Option<Arc<Zeroizing<String>>>,
    /// Whether a passphrase was wanted and nobody had one.
    in_vain: Arc<AtomicBool>,
}

impl Callbacks {
    /// Asks this person, if there is one.
    pub fn asking(ask: Option<Arc<dyn Ask>>) -> Self {
        Self { ask, ..Self::default() }
    }

    /// Whether a passphrase was wanted and nobody had one.
    pub fn asked_in_vain(&self) -> bool {
        self.in_vain.load(Ordering::Relaxed)
    }
}

impl age::Callbacks for Callbacks {
    fn display_message(&self, text: &str) {
        if let Some(ask) = &self.ask {
            ask.tell(text);
        }
    }

    fn confirm(&self, text: &str, yes: &str, no: Option<&str>) -> Option<bool> {
        let choices = no.map_or_else(|| yes.to_owned(), |no| format!("{yes}/{no}"));
        let answer = self.ask.as_ref()?.public(&format!("{text} [{choices}]"))?;
        Some(answer.trim().eq_ignore_ascii_case(yes) || answer.trim().eq_ignore_ascii_case("y"))
    }

    fn request_public_string(&self, what: &str) -> Option<String> {
        self.ask.as_ref()?.public(what)
    }

    fn request_passphrase(&self, what: &str) -> Option<SecretString> {
        let given = self.passphrase.as_ref().map(|secret| Zeroizing::new(secret.as_str().to_owned()));
        let secret = given.or_else(|| self.ask.as_ref()?.secret(what).ok());
        self.in_vain.fetch_or(secret.is_none(), Ordering::Relaxed);
        secret.map(|secret| SecretString::from(secret.as_str()))
    }
}
