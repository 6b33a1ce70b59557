//! What can go wrong: one error type for the whole crate.
//!
//! A kind from a closed list, a sentence that names the object and the attempt, perhaps a hint, perhaps a
//! source. The kind alone decides exit code (`cli/exit.rs`) and errno (`mount/errno.rs`).

use std::fmt;

/// The result of everything that can fail in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, in a closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The command line, or an argument, is wrong.
    Usage,
    /// No vault stands where one was expected.
    NoVault,
    /// A snapshot or a path does not exist.
    NotFound,
    /// Somebody else holds what is needed.
    Locked,
    /// No key that was given opens it.
    WrongKey,
    /// Stored bytes fail a check.
    Corrupt,
    /// A stored object is gone.
    Missing,
    /// The store, or the system, gave up; trying again may help.
    Unavailable,
    /// No room is left.
    Full,
    /// A source file could not be read.
    Source,
    /// Made by a newer version, or not possible on this system.
    Unsupported,
    /// Something else stands where we wanted to write.
    Conflict,
    /// Stopped by a signal.
    Cancelled,
    /// Coffre itself is wrong.
    Bug,
}

type Source = Box<dyn std::error::Error + Send + Sync>;

/// One failure: kind, sentence, hint, cause.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    what: String,
    hint: Option<String>,
    source: Option<Source>,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident),* $(,)?) => {
        $($(#[$doc])* pub fn $name(what: impl Into<String>) -> Self { Self::new(ErrorKind::$kind, what) })*
    };
}

impl Error {
    /// Makes an error of `kind`; `what` names the object and the attempt, in lower case and without a period.
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, what: what.into(), hint: None, source: None }))
    }

    constructors! {
        /// See [`ErrorKind::Usage`].
        usage => Usage,
        /// See [`ErrorKind::NoVault`].
        no_vault => NoVault,
        /// See [`ErrorKind::NotFound`].
        not_found => NotFound,
        /// See [`ErrorKind::Locked`].
        locked => Locked,
        /// See [`ErrorKind::WrongKey`].
        wrong_key => WrongKey,
        /// See [`ErrorKind::Corrupt`].
        corrupt => Corrupt,
        /// See [`ErrorKind::Missing`].
        missing => Missing,
        /// See [`ErrorKind::Unavailable`].
        unavailable => Unavailable,
        /// See [`ErrorKind::Unsupported`].
        unsupported => Unsupported,
        /// See [`ErrorKind::Conflict`].
        conflict => Conflict,
        /// See [`ErrorKind::Bug`].
        bug => Bug,
    }

    /// The error of a run that a signal stopped.
    pub fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "interrupted")
    }

    /// Wraps an error of the operating system; a full disk keeps its own kind.
    pub fn io(what: impl Into<String>, e: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let kind = match e.kind() {
            Io::StorageFull | Io::QuotaExceeded => ErrorKind::Full,
            Io::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Unavailable,
        };
        let error = Self::new(kind, what).because(e);
        match kind {
            ErrorKind::Full => error.hint("make room and run the same command again; what was stored is reused"),
            _ => error,
        }
    }

    /// Adds the next step for the person who reads this.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    pub fn because(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Puts this error under a sentence that says what was being attempted; kind and hint stay.
    pub fn while_doing(self, what: impl Into<String>) -> Self {
        let (kind, hint) = (self.0.kind, self.0.hint.clone());
        Self(Box::new(Inner { kind, what: what.into(), hint, source: Some(Box::new(self)) }))
    }

    /// The same failure under another kind.
    pub fn as_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Which kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The next step, if there is one to suggest.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The sentence with its causes, joined by colons, each said once.
    pub fn chain(&self) -> String {
        let mut text = self.0.what.clone();
        let mut cause = std::error::Error::source(self);
        while let Some(e) = cause {
            let more = e.to_string();
            if !text.ends_with(&more) {
                text.push_str(": ");
                text.push_str(&more);
            }
            cause = e.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|e| e as _)
    }
}
