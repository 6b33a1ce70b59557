//! What happens while somebody's own key is used: a protected SSH key or a plugin may ask, tell, and want a yes.

use std::sync::{Arc, Mutex};

use age::secrecy::SecretString;
use zeroize::Zeroizing;

use crate::{
    error::{Error, Result},
    pack::plainly,
};

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
    /// What went wrong while somebody was asked: the age crate has no place for it. The first failure is kept.
    trouble: Arc<Mutex<Option<Error>>>,
}

impl Callbacks {
    /// Asks this person, if there is one.
    pub fn asking(ask: Option<Arc<dyn Ask>>) -> Self {
        Self { ask, ..Self::default() }
    }

    /// The passphrase that was brought, or one that a person gives. What goes wrong is kept for `trouble`.
    pub fn secret(&self, what: &str) -> Option<Zeroizing<String>> {
        if let Some(secret) = &self.passphrase {
            return Some(Zeroizing::new(secret.as_str().to_owned()));
        }
        let nobody = || {
            Error::wrong_key(format!("nobody is here to ask for the {what}: the key is protected by a passphrase"))
                .hint("--passphrase-file FILE or --passphrase-command CMD gives it")
        };
        match &self.ask {
            None => self.note(nobody()),
            Some(ask) => match ask.secret(what) {
                Ok(secret) => return Some(secret),
                Err(e) => self.note(e),
            },
        }
        None
    }

    /// Keeps what went wrong.
    pub(super) fn note(&self, e: Error) {
        self.trouble.lock().expect("nobody panics with it").get_or_insert(e);
    }

    /// What went wrong while somebody was asked.
    pub(super) fn trouble(&self) -> Option<Error> {
        self.trouble.lock().expect("nobody panics with it").take()
    }
}

impl age::Callbacks for Callbacks {
    fn display_message(&self, text: &str) {
        if let Some(ask) = &self.ask {
            ask.tell(&plainly(&text));
        }
    }

    fn confirm(&self, text: &str, yes: &str, no: Option<&str>) -> Option<bool> {
        let choices = no.map_or_else(|| yes.to_owned(), |no| format!("{yes}/{no}"));
        let answer = self.ask.as_ref()?.public(&format!("{} [{choices}]", plainly(&text)))?;
        Some(answer.trim().eq_ignore_ascii_case(yes) || answer.trim().eq_ignore_ascii_case("y"))
    }

    fn request_public_string(&self, what: &str) -> Option<String> {
        self.ask.as_ref()?.public(&plainly(&what))
    }

    fn request_passphrase(&self, what: &str) -> Option<SecretString> {
        self.secret(&plainly(&what)).map(|secret| SecretString::from(secret.as_str()))
    }
}
