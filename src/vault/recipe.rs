//! What a person needs on the worst day: the recipe that lies in every vault, and the kit that `init` prints.

use crate::vault::{OwnerKeys, Vault, Way};

/// `RESTORE.py`, put into every vault.
pub const RESTORE: &str = include_str!("recipe/RESTORE.py");
/// `README.txt`, put into every vault.
pub const README: &str = include_str!("recipe/README.txt");

/// Returns the recovery kit as text: what to keep, where, and the exact stock commands. Fits on a page.
pub fn recovery_kit(vault: &Vault, owner: &OwnerKeys, ways: &[Way]) -> String {
    let place = vault.store.describe();
    let mut text = format!(
        "COFFRE RECOVERY KIT\n\n\
         vault   {}\n\
         place   {place}\n\
         owner   {}\n\n\
         This vault opens with any one of:\n",
        vault.config.id,
        owner.sign.public()
    );
    for (n, way) in ways.iter().enumerate() {
        text.push_str(&format!("  {}. {}   (keys/owner-{:04}-{}.age)\n", n + 1, way.describe(), n + 1, way.label()));
    }
    text.push_str(
        "\nKeep, apart from this machine and apart from the vault:\n  \
         - the passphrase, or the private key file, of at least one way above;\n  \
         - this page;\n  \
         - a second copy of the vault itself (any plain copy of the directory is complete).\n\
         Without a way in, nobody can read the vault, and nobody can help.\n\n\
         To restore with coffre:\n  \
         coffre --vault PLACE mount DIR      then copy out of DIR/latest\n\n\
         To restore without coffre (Debian: apt-get install age zstd python3):\n  cd PLACE\n",
    );
    let unlock = match ways.first() {
        Some(way @ Way::Passphrase(_)) => {
            format!("age -d keys/owner-0001-{}.age > /dev/shm/id      # asks for the passphrase", way.label())
        }
        Some(way) => format!("age -d -i YOUR-KEY-FILE keys/owner-0001-{}.age > /dev/shm/id", way.label()),
        None => String::new(),
    };
    text.push_str(&format!("  {unlock}\n  python3 RESTORE.py /dev/shm/id DEST\n  rm /dev/shm/id\n"));
    text
}
