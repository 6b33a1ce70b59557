//! Init: a new vault, with this host as its first sealer.

use std::sync::Arc;

use crate::{
    error::Result,
    store::Store,
    vault::{self, Promise, StateDir, Vault, Way},
};

/// What was made.
pub struct Report {
    /// The vault.
    pub vault: Vault,
    /// Name of the first sealer.
    pub sealer: String,
    /// What to print and keep.
    pub recovery_kit: String,
}

/// Creates a vault in `store`, with these promises, that opens in each of `ways`, and enrols this host as `sealer` below the state directory `state_base`.
pub fn run(store: Arc<dyn Store>, ways: &[Way], sealer: &str, promise: Promise, state_base: &std::path::Path) -> Result<Report> {
    let created = vault::create_with(store, ways, sealer, promise)?;
    let state = StateDir::new(state_base, created.vault.config.id);
    let kept = state.keep_sealer(&created.sealer).and_then(|()| state.pin_owner(&created.owner.sign.public()));
    kept.map_err(|e| {
        e.while_doing("the vault was made, but this host cannot keep its sealing keys")
            .hint("mend the state directory; the next seal with an owner's key enrols this host")
    })?;
    let recovery_kit = created.vault.recovery_kit(&created.owner, None)?;
    Ok(Report { vault: created.vault, sealer: sealer.to_owned(), recovery_kit })
}
