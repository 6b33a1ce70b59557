//! Enroll: this host becomes a sealer of a vault, with what an owner's token leads to.

use serde::Serialize;

use crate::{
    error::{ErrorKind, Result},
    event::{Event, Sink},
    vault::{SignerList, StateDir, Token, Vault, may_seal},
};

/// Who this host is now.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The vault.
    pub vault: String,
    /// The sealer.
    pub sealer: String,
    /// The owner's public key, which this host trusts from now on.
    pub owner: String,
}

/// Enrols. Waits for a seal of this host.
///
/// Doing it again with the same token is no error, as long as the host holds the keys that it led to.
///
/// # Errors
/// `WrongKey` if the token was used already, `Conflict` if it is of another vault, or this host is another sealer and `replace` was not given.
pub fn run(vault: &Vault, state: &StateDir, token: &Token, replace: bool, sink: &dyn Sink) -> Result<Report> {
    state.create()?;
    let _lock = state.lock(|holder| sink.send(Event::Note(format!("waiting for a seal of this host (process {holder})"))))?;
    let report = Report { vault: token.vault.to_string(), sealer: token.name.clone(), owner: token.owner.clone() };
    let keys = match vault.redeem(token, state) {
        // It did so before.
        Err(e) if e.kind() == ErrorKind::WrongKey && is_enrolled(vault, state, token)? => {
            sink.send(Event::Note(format!("this host is sealer {} already", token.name)));
            return Ok(report);
        }
        other => other?,
    };
    state.enrol(&keys, &token.owner, replace)?;
    if let Err(e) = vault.forget_token(token) {
        let text = format!("the token can be used again, as its object cannot be taken out of the vault: {}; destroy the token", e.chain());
        sink.send(Event::Warning(text));
    }
    Ok(report)
}

/// Whether this host is what the token would make it, and may still seal.
fn is_enrolled(vault: &Vault, state: &StateDir, token: &Token) -> Result<bool> {
    let Some(had) = state.sealer()?.filter(|had| had.name == token.name && had.vault == token.vault) else { return Ok(false) };
    let owner = state.pinned_owner()?;
    let signers = SignerList::load(&*vault.store, owner.as_deref())?;
    may_seal(&signers, &had.name, &had.sign.public())?;
    Ok(owner.as_deref() == Some(&token.owner) && signers.signers.sealer(&had.name).is_some())
}
