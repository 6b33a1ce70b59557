//! What happened, told upwards: operations send events, the faces show them. The library never prints.

/// Something worth telling while an operation runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A fact for the person watching, one line.
    Note(String),
    /// Something is wrong but the work goes on, one line.
    Warning(String),
    /// A line that a command of the person's wrote to its standard error.
    Said(String),
    /// How far the work is.
    Progress {
        /// Entries done.
        entries: u64,
        /// Bytes done.
        bytes: u64,
        /// Bytes in all, if known.
        bytes_total: Option<u64>,
    },
}

/// Where events go. Called from several threads.
pub trait Sink: Send + Sync {
    /// Takes one event. Must be quick: workers wait for it.
    fn send(&self, event: Event);
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
}
