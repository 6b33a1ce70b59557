//! Looks at directories before the walk comes to them, on other threads.
//!
//! The walk goes in path order, one directory after the other; looking at one is most of the work of a seal that finds nothing
//! changed. So each directory that is announced is looked at by whoever is free, the walk itself included, in the order in which
//! the walk will want it. How far others run ahead is bounded: in directories, in those that are held open, and in entries.

use std::{
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    ops::seal::look::{Below, Looked, Looker},
    sys::FileType,
};

/// Directories looked at that the walk has not come to: all, and those that are held open; and entries of their listings that are kept.
const DIRS_MAX: usize = 4096;
const OPEN_MAX: usize = 128;
const ENTRIES_MAX: usize = 32 << 10;
/// Directories of one listing that are announced at once.
const WINDOW: usize = 64;
/// Announcements for which a sleeping thread is woken: the walk has done one or two itself before the other is awake.
const WAKE_AT: usize = 4;
/// How often a thread gives way while another is about to be done, before it sleeps: a wake-up costs more than most looks.
const PATIENCE: usize = 100;

/// A directory that was announced.
pub struct Visit<'s> {
    state: Mutex<VisitState<'s>>,
    changed: Condvar,
    is_ready: AtomicBool,
}

enum VisitState<'s> {
    Waiting(Below<'s>),
    Running,
    Ready(Box<Announced<'s>>),
    Taken,
}

/// What came of a look, and the directories in it that are announced already.
type Announced<'s> = io::Result<(Looked<'s>, Visits<'s>)>;

/// Directories of one listing, in order, each with its place there.
#[derive(Default)]
pub struct Visits<'s> {
    waiting: VecDeque<(usize, Arc<Visit<'s>>)>,
    /// Where in the listing the announcements stopped.
    next: usize,
}

/// What was announced, and how far ahead everybody is.
#[derive(Default)]
pub struct Ahead<'s> {
    state: Mutex<State<'s>>,
    wake: Condvar,
}

#[derive(Default)]
struct State<'s> {
    /// The next one on top.
    stack: Vec<Arc<Visit<'s>>>,
    dirs: usize,
    open: usize,
    entries: usize,
    sleeping: usize,
    closed: bool,
}

impl State<'_> {
    fn is_far(&self) -> bool {
        self.dirs >= DIRS_MAX || self.open >= OPEN_MAX || self.entries >= ENTRIES_MAX
    }

    /// Whether the walk has come so close that a thread that sleeps should go on.
    fn is_near(&self) -> bool {
        self.dirs <= DIRS_MAX / 2 && self.open <= OPEN_MAX / 2 && self.entries <= ENTRIES_MAX / 2
    }
}

impl<'s> Ahead<'s> {
    /// Nobody looks ahead where this process may have fewer than so many files open: what is ahead holds directories open.
    pub const FILES_MIN: u64 = 512;

    /// A walk that looks at everything itself.
    pub fn none() -> Self {
        Self { state: Mutex::new(State { closed: true, ..State::default() }), wake: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<'s>> {
        self.state.lock().expect("nobody panics while holding the announcements")
    }

    /// Announces the next directories of `looked`, unless earlier ones are still to be visited.
    pub fn announce(&self, looked: &Looked<'s>, visits: &mut Visits<'s>) {
        if !visits.waiting.is_empty() || self.lock().closed {
            return;
        }
        let is_dir = |stat: &crate::sys::Stat| stat.file_type() == FileType::Dir;
        while visits.waiting.len() < WINDOW
            && let Some(found) = looked.listing.get(visits.next)
        {
            if found.stat.as_ref().is_ok_and(is_dir) {
                let state = Mutex::new(VisitState::Waiting(looked.below(&found.name)));
                let visit = Visit { state, changed: Condvar::new(), is_ready: AtomicBool::new(false) };
                visits.waiting.push_back((visits.next, Arc::new(visit)));
            }
            visits.next += 1;
        }
        if visits.waiting.is_empty() {
            return;
        }
        let mut state = self.lock();
        state.stack.extend(visits.waiting.iter().rev().map(|(_, visit)| visit.clone()));
        if state.sleeping > 0 && state.stack.len() >= WAKE_AT && !state.is_far() {
            self.wake.notify_one();
        }
    }

    /// Looks at what is announced, until `close`.
    pub fn run(&self, looker: &Looker) {
        loop {
            let mut state = self.lock();
            for _ in 0..PATIENCE {
                if state.closed || !(state.is_far() || state.stack.is_empty()) {
                    break;
                }
                drop(state);
                std::thread::yield_now();
                state = self.lock();
            }
            while !state.closed && (state.is_far() || state.stack.is_empty()) {
                state.sleeping += 1;
                state = self.wake.wait(state).expect("nobody panics while holding the announcements");
                state.sleeping -= 1;
            }
            if state.closed {
                return;
            }
            self.look_at_next(state, looker);
        }
    }

    /// Looks at what is announced next; does nothing if somebody took that on already.
    fn look_at_next(&self, mut state: MutexGuard<'_, State<'s>>, looker: &Looker) {
        let Some(visit) = state.stack.pop() else { return };
        state.dirs += 1;
        drop(state);
        let Some(below) = visit.begin() else {
            self.lock().dirs -= 1;
            return;
        };
        let open = AssertUnwindSafe(|| looker.open(below));
        let opened = catch_unwind(open).unwrap_or_else(|panic| {
            // Whoever waits for this must not wait for ever; the panic itself ends the seal.
            visit.end(Err(io::Error::other("Coffre failed while it looked at it")));
            resume_unwind(panic)
        });
        let looked = opened.map(|looked| {
            let mut state = self.lock();
            state.entries += looked.listing.len();
            state.open += usize::from(looked.dir.is_some());
            drop(state);
            let mut visits = Visits::default();
            self.announce(&looked, &mut visits);
            (looked, visits)
        });
        visit.end(looked);
    }

    /// What is in the directory at place `at` of a listing, looked at now if nobody did.
    pub fn visit(&self, visits: &mut Visits<'s>, at: usize, looker: &Looker, below: impl FnOnce() -> Below<'s>) -> Announced<'s> {
        visits.next = visits.next.max(at + 1);
        match visits.waiting.pop_front() {
            Some((place, visit)) if place == at => match visit.begin() {
                Some(below) => {
                    let mut state = self.lock();
                    if state.stack.last().is_some_and(|top| Arc::ptr_eq(top, &visit)) {
                        state.stack.pop();
                    }
                    drop(state);
                    self.look(looker, below)
                }
                None => self.take(&visit, looker),
            },
            other => {
                other.into_iter().for_each(|later| visits.waiting.push_front(later));
                self.look(looker, below())
            }
        }
    }

    /// Takes back what is announced of a listing: each waiting directory keeps the one above it open.
    pub fn withdraw(&self, visits: &mut Visits<'s>, looker: &Looker) {
        for (_, visit) in visits.waiting.drain(..) {
            if visit.begin().is_none()
                && let Ok((_, mut inside)) = self.take(&visit, looker)
            {
                self.withdraw(&mut inside, looker);
            }
        }
    }

    /// What somebody else took on. While they are at it, there is more to look at.
    fn take(&self, visit: &Visit<'s>, looker: &Looker) -> Announced<'s> {
        while !visit.is_ready.load(Ordering::Acquire) {
            let state = self.lock();
            if state.is_far() || state.stack.is_empty() {
                break;
            }
            self.look_at_next(state, looker);
        }
        let announced = visit.take();
        let mut state = self.lock();
        state.dirs -= 1;
        if let Ok((looked, _)) = &announced {
            state.entries -= looked.listing.len();
            state.open -= usize::from(looked.dir.is_some());
        }
        if state.sleeping > 0 && state.is_near() && state.stack.len() >= WAKE_AT {
            self.wake.notify_one();
        }
        announced
    }

    fn look(&self, looker: &Looker, below: Below<'s>) -> Announced<'s> {
        looker.open(below).map(|looked| (looked, Visits::default()))
    }

    /// Lets everybody go.
    pub fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }
}

impl<'s> Visit<'s> {
    fn lock(&self) -> MutexGuard<'_, VisitState<'s>> {
        self.state.lock().expect("nobody panics while holding a visit")
    }

    /// Takes the visit on, if nobody has.
    fn begin(&self) -> Option<Below<'s>> {
        let mut state = self.lock();
        match &*state {
            VisitState::Waiting(_) => match std::mem::replace(&mut *state, VisitState::Running) {
                VisitState::Waiting(below) => Some(below),
                _ => None,
            },
            _ => None,
        }
    }

    fn end(&self, announced: Announced<'s>) {
        *self.lock() = VisitState::Ready(Box::new(announced));
        self.is_ready.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    /// Waits until whoever took it on is done.
    fn take(&self) -> Announced<'s> {
        for _ in 0..PATIENCE {
            if self.is_ready.load(Ordering::Acquire) {
                break;
            }
            std::thread::yield_now();
        }
        let mut state = self.lock();
        loop {
            match std::mem::replace(&mut *state, VisitState::Taken) {
                VisitState::Ready(announced) => return *announced,
                other => *state = other,
            }
            state = self.changed.wait(state).expect("nobody panics while holding a visit");
        }
    }
}
