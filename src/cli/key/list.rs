//! `coffre key list`.

use crate::{
    cli::{Run, keys, output},
    error::Result,
    ops::key::{self, Listed},
    vault::shortened,
};

/// Runs it.
pub fn run(run: &Run) -> Result<u8> {
    let opened = run.globals.open()?;
    let unlocking = keys::unlocking(run.globals)?;
    let owner = match unlocking.is_empty() {
        true => None,
        false => Some(keys::open(run.globals, &opened.vault, unlocking)?),
    };
    let listed = key::list(&opened.vault, owner.as_ref(), &opened.state)?;
    run.screen.data(&listed, || text(&listed))?;
    Ok(0)
}

fn text(listed: &Listed) -> String {
    let ways: Vec<Vec<String>> = listed
        .ways
        .iter()
        .map(|w| {
            let known = |fact: &Option<String>| fact.clone().unwrap_or_else(|| "-".to_owned());
            let what = match w.standing {
                None | Some("current") => known(&w.what.as_deref().map(shortened)),
                Some("behind") => format!("{}  (lacks the keys of now: add it anew)", known(&w.what.as_deref().map(shortened))),
                Some("removed") => "(was removed, and its file is there again)".to_owned(),
                Some(_) => "(no owner vouches for it: older than coffre's cards, damaged, or put there by somebody)".to_owned(),
            };
            vec![w.number.to_string(), w.kind.clone(), w.name.clone().unwrap_or_default(), known(&w.added), what]
        })
        .collect();
    let sealers: Vec<Vec<String>> = listed
        .sealers
        .iter()
        .map(|s| {
            let here = if s.here { "  (this host)" } else { "" };
            let revoked = s.revoked.as_ref().map(|since| format!("  (revoked since {since})")).unwrap_or_default();
            vec![s.name.clone(), s.domain.clone().unwrap_or_else(|| "-".to_owned()), format!("{}{here}{revoked}", s.key)]
        })
        .collect();
    let epoch = listed.epoch.map(|epoch| format!("epoch of the keys: {epoch}\n")).unwrap_or_default();
    format!(
        "{}\n{}\nowner's signing key: {}\n{epoch}",
        output::columns(&["WAY IN", "KIND", "NAME", "ADDED", "KEY"], &ways),
        output::columns(&["SEALER", "DOMAIN", "KEY"], &sealers),
        listed.owner.as_deref().unwrap_or("unknown"),
    )
}
