//! Copy: bring another copy of a vault up to date. Needs no key: what is carried are objects, named by their hashes.
//!
//! `look` reads what both sides hold, `plan` says what goes in which order, `carry` carries it, `compare` holds both sides
//! against each other.

mod carry;
mod compare;
mod look;
mod plan;

use std::sync::Arc;

use serde::Serialize;

use crate::{
    error::{Error, Result},
    event::{Event, HowFar, Sink},
    format::SnapshotKey,
    store::Store,
    sys::{self, Cancel, Clock},
    vault::Finding,
};

pub use plan::Which;

/// How often the plan is made anew because objects went from the vault while they were to be copied: a prune ran.
const ROUNDS_MAX: usize = 4;

/// What a copy works with.
pub struct Context<'a> {
    /// The store to copy from.
    pub from: &'a Arc<dyn Store>,
    /// The store to bring up to date.
    pub to: &'a Arc<dyn Store>,
    /// Time.
    pub clock: &'a dyn Clock,
    /// Where events go.
    pub sink: &'a dyn Sink,
    /// Stops the work.
    pub cancel: &'a Cancel,
    /// Objects carried at once; each holds at most [`carry::STEP`] bytes.
    pub workers: usize,
}

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The snapshots to be copied, with those that they go on from; none means all.
    pub which: Vec<Which>,
    /// Read everything on both sides afterwards.
    pub compare: bool,
    /// Say what would be copied, and copy nothing.
    pub dry_run: bool,
}

/// What a copy did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Where from.
    pub from: String,
    /// Where to.
    pub to: String,
    /// Whether nothing was copied, only said.
    pub dry_run: bool,
    /// Snapshots that the copy has now and had not before.
    pub snapshots: u64,
    /// Those that it had not, where nothing was copied.
    #[serde(skip)]
    pub lacking: Vec<SnapshotKey>,
    /// Objects copied; each was read back, and is what its name or the vault says.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that the copy had already.
    pub present: u64,
    /// Objects read on both sides and found equal, with `compare`.
    pub compared: Option<u64>,
    /// What is wrong on one of the two sides.
    pub findings: Vec<Finding>,
    /// How long it took.
    pub seconds: f64,
}

/// Copies. Damage on either side is in the report, not an error.
///
/// # Errors
/// `Conflict` if the store to copy to holds another vault, or anything that is no vault; `NotFound` if `which` names nothing.
pub fn run(context: &Context, options: &Options) -> Result<Report> {
    let began = context.clock.monotonic();
    let mut report = Report { from: context.from.describe(), to: context.to.describe(), dry_run: options.dry_run, ..Report::default() };
    for round in 1.. {
        let sides = look::look(context, &options.which)?;
        if sides.lock_days > 0 && !options.dry_run && context.to.holds()?.locks {
            context.to.hold(sides.lock_days);
        }
        let plan = plan::plan(&sides);
        report.findings = plan.findings.clone();
        report.present = plan.present;
        if options.dry_run {
            report.snapshots += plan.lacking.len() as u64;
            report.objects += plan.objects();
            report.bytes += plan.bytes();
            report.lacking = plan.lacking;
            break;
        }
        let carried = carry::carry(context, &plan, began)?;
        report.snapshots += carried.snapshots;
        report.objects += carried.objects;
        report.bytes += carried.bytes;
        report.findings.extend(carried.findings);
        if !carried.vanished {
            break;
        }
        if round >= ROUNDS_MAX {
            return Err(Error::unavailable("objects keep going from the vault while they are being copied")
                .hint("wait until the prune that runs there is done, then run the same command again"));
        }
    }
    if options.compare {
        let (compared, findings) = compare::compare(context, &options.which)?;
        report.compared = Some(compared);
        report.findings.extend(findings);
    }
    report.findings.sort();
    report.findings.dedup();
    report.seconds = (context.clock.monotonic() - began).as_secs_f64();
    Ok(report)
}

impl Context<'_> {
    /// Tells how far the work is that began at `began` of the monotonic clock.
    fn told(&self, began: std::time::Duration, entries: u64, bytes: u64, total: u64, current: &str) {
        let elapsed_ms = u64::try_from((self.clock.monotonic() - began).as_millis()).unwrap_or(u64::MAX);
        let current = Some(current.to_owned());
        self.sink.send(Event::Progress(HowFar { elapsed_ms, entries, bytes, bytes_total: Some(total), bytes_read: bytes, current }));
    }

    /// Runs `work` on every item, on several threads. After an error no item is begun; the first one comes back.
    fn in_parallel<T: Sync>(&self, items: &[T], work: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
        use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let worker = || {
            while !stop.load(Ordering::Relaxed)
                && let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed))
            {
                self.cancel.check().and_then(|()| work(item)).inspect_err(|_| stop.store(true, Ordering::Relaxed))?;
            }
            Ok(())
        };
        sys::share(self.workers.clamp(1, items.len().max(1)), worker)
    }
}
