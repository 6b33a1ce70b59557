//! Who can seal, who can read: sealing hosts, owners, and a thief.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

mod common;
#[path = "keys/cost.rs"]
mod cost;
#[path = "keys/hostile.rs"]
mod hostile;
#[path = "keys/owners.rs"]
mod owners;
#[path = "keys/planted.rs"]
mod planted;
#[path = "keys/races.rs"]
mod races;
#[path = "keys/sealers.rs"]
mod sealers;
#[path = "keys/telling.rs"]
mod telling;
#[path = "keys/thief.rs"]
mod thief;

use std::path::{Path, PathBuf};

use common::bin::{Coffre, Home};
use serde_json::Value;

/// A home with one small snapshot.
pub fn sealed() -> Home {
    let home = Home::new();
    common::tree::small(&home.source());
    home.seal();
    home
}

/// A file in it, in the words of `cat`.
pub fn hello(home: &Home) -> String {
    format!("latest:{}/hello", home.source().display())
}

/// Another machine that seals into the vault of `home`: its own state directory and source, and no key.
pub struct Machine<'a> {
    home: &'a Home,
    name: &'a str,
}

impl<'a> Machine<'a> {
    /// A machine that is not enrolled yet.
    pub fn new(home: &'a Home, name: &'a str) -> Self {
        std::fs::create_dir_all(home.path(format!("{name}.source"))).unwrap();
        Self { home, name }
    }

    /// The same, enrolled by the owner as sealer `name`.
    pub fn enrolled(home: &'a Home, name: &'a str) -> Self {
        let machine = Self::new(home, name);
        machine.invite(&[]);
        machine.coffre(&["enroll", machine.token().to_str().unwrap()]).ok();
        machine
    }

    /// The owner makes a token for it.
    pub fn invite(&self, more: &[&str]) {
        let token = self.token();
        let _ = std::fs::remove_file(&token);
        self.home.owner(["key", "add", "--sealer", self.name, "--output", token.to_str().unwrap()]).args(more).ok();
    }

    /// Where its token lies.
    pub fn token(&self) -> PathBuf {
        self.home.path(format!("{}.token", self.name))
    }

    /// Its state.
    pub fn state(&self) -> PathBuf {
        self.home.path(format!("{}.state", self.name))
    }

    /// What it seals.
    pub fn source(&self) -> PathBuf {
        self.home.path(format!("{}.source", self.name))
    }

    /// `coffre --vault VAULT ARGS` on this machine.
    pub fn coffre(&self, args: &[&str]) -> Coffre {
        self.home.coffre(args).env("COFFRE_STATE_DIR", self.state())
    }

    /// Seals `path`.
    pub fn seal(&self, path: &Path) -> Value {
        self.coffre(&["--json", "seal", path.to_str().unwrap()]).ok().json()
    }
}
