//! What happened, told upwards: operations send events, the faces show them. The library never prints.

use serde::Serialize;

/// Something worth telling while an operation runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A fact for the person watching, one line.
    Note(String),
    /// Something is wrong but the work goes on, one line.
    Warning(String),
    /// A line that a command of the person's wrote to its standard error.
    Said(String),
    /// Something is left out. Only sent to who asks for it.
    LeftOut(Box<LeftOut>),
    /// How far the work is.
    Progress(HowFar),
}

/// How far some work is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HowFar {
    /// Since it began.
    pub elapsed_ms: u64,
    /// Entries or objects done.
    pub entries: u64,
    /// Bytes done with, whether they had to be read or not.
    pub bytes: u64,
    /// Bytes in all, if known; an estimate where things change.
    pub bytes_total: Option<u64>,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// What is being worked on.
    pub current: Option<String>,
}

/// Something that a seal leaves out, and the rule that says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Absolute path, with what is not UTF-8 replaced.
    pub path: String,
    /// It is a directory that is taken without what is in it.
    pub content_only: bool,
    /// Why.
    #[serde(flatten)]
    pub rule: Rule,
}

/// Why something is left out, in words, for people and scripts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// The option that asked for it; `None` for what is never sealed.
    pub option: Option<String>,
    /// The file that the pattern stands in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Its line, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The pattern.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// All of that in a few words.
    pub text: String,
}

/// Where events go. Called from several threads.
pub trait Sink: Send + Sync {
    /// Takes one event. Must be quick: workers wait for it.
    fn send(&self, event: Event);

    /// Whether anybody looks at progress: finding out how much there is to do costs something.
    fn wants_progress(&self) -> bool {
        false
    }
}

/// A sink that forgets everything.
pub struct Silent;

impl Sink for Silent {
    fn send(&self, _: Event) {}
}

/// A sink that remembers, for tests.
impl Sink for std::sync::Mutex<Vec<Event>> {
    fn send(&self, event: Event) {
        self.lock().expect("no sender panics while it holds this").push(event);
    }

    fn wants_progress(&self) -> bool {
        true
    }
}
