//! Key: who can read a vault, and who can seal into it. Writes small objects; no pack is ever touched.

mod list;

pub use list::{Listed, SealerRow, WayRow, list};

use crate::{
    error::{Error, Result},
    vault::{OwnerKeys, WayFile},
};

/// Which passphrase is meant: the one that was chosen, the one that was used, or the only one.
///
/// # Errors
/// `Usage` if there are several; `NotFound` if there is none.
pub fn passphrase_way<'a>(ways: &'a [WayFile], chosen: Option<&'a WayFile>, owner: &OwnerKeys) -> Result<&'a WayFile> {
    let all: Vec<&WayFile> = ways.iter().filter(|way| way.kind == "passphrase").collect();
    let used = all.iter().find(|way| owner.came_by() == Some(way.file())).copied();
    match (chosen.or(used), all.as_slice()) {
        (Some(way), _) => Ok(way),
        (None, [way]) => Ok(*way),
        (None, []) => Err(Error::not_found("no passphrase opens this vault").hint("coffre key add adds one")),
        (None, _) => Err(Error::usage("several passphrases open this vault").hint("give its number: coffre key list")),
    }
}
