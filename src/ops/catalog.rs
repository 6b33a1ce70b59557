//! Catalog: rebuild it by hand.

use serde::Serialize;

use crate::{
    error::Result,
    event::Event,
    ops::seal::{self, Context},
};

/// What was rebuilt.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Packs taken in.
    pub packs: usize,
    /// Chunks known.
    pub chunks: u64,
    /// How long it took.
    pub seconds: f64,
}

/// Makes a new catalog from the vault's index segments. Waits for a seal of this host.
pub fn rebuild(context: &Context) -> Result<Report> {
    context.state.create()?;
    let _lock =
        context.state.lock(|holder| context.sink.send(Event::Note(format!("waiting for a seal of this host (process {holder})"))))?;
    let began = context.clock.monotonic();
    let refreshed = seal::rebuild(context)?;
    let mut chunks = 0;
    refreshed.catalog.known(|_, ids| chunks += ids.count() as u64)?;
    Ok(Report { packs: refreshed.packs, chunks, seconds: (context.clock.monotonic() - began).as_secs_f64() })
}
