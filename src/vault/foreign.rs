//! Key files that are there and should not be: whoever can write to the storage can put some there. Found without any secret.

use crate::{
    error::Result,
    format::VaultId,
    store::Store,
    vault::{
        Finding, Trouble, epochs, removed,
        ways::{key_names, way_files},
    },
};

/// What is wrong with `keys/`, and what is worth a word, for who knows `owner`, the owner's public key.
pub fn key_findings(store: &dyn Store, owner: &str, vault: VaultId) -> Result<(Vec<Finding>, Vec<Finding>)> {
    let names = key_names(store)?;
    let mut wrong = Vec::new();
    if removed::is_any(&names) {
        let removed = removed::list(store, owner, vault)?;
        let back = way_files(store)?.into_iter().filter(|way| removed.contains(&way.path()));
        let text = "an owner removed this way in, and its file is there again: an older copy may have been copied over the vault";
        wrong.extend(back.map(|way| Finding::of(Trouble::Returned, way.path(), text)));
    }
    let (untold, some_told) = epochs::untold(store, &names, owner, vault)?;
    let untold = untold.into_iter().map(|file| match some_told {
        true => Finding::of(Trouble::Stranger, file, "is no epoch that an owner tells of"),
        // Whoever moved a genuine one out of the vault would lose what was sealed since.
        false => Finding {
            next: "coffre key rotate, by an owner, tells one from the other; until then leave it where it is",
            ..Finding::of(Trouble::Unsigned, file, "is an epoch that no owner tells of: an older coffre made it, or somebody who may not")
        },
    });
    Ok(match some_told {
        true => (wrong.into_iter().chain(untold).collect(), Vec::new()),
        false => (wrong, untold.collect()),
    })
}
