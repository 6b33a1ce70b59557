//! `coffre verify --repair`: what every command that repairs has in common.

use std::sync::Arc;

use crate::{
    cli::{self, Opened, Run, state_base},
    error::{Error, Result},
    ops::{
        repair::{self, Context, FromSource, How, Repaired, Report, Scope},
        seal,
    },
    store::Store,
    sys,
    vault::{Finding, OwnerKeys, StateDir, Vault},
};

/// Options of a repair.
#[derive(clap::Args)]
pub struct RepairArgs {
    /// Put damaged and missing objects right, from their parity and second copies; needs no key. What is replaced is kept in damaged/ in the vault
    #[arg(long)]
    repair: bool,
    /// Another copy of the vault, for what this one cannot mend by itself (repeatable)
    #[arg(long, value_name = "PLACE", requires = "repair")]
    from: Vec<String>,
}

/// What was in packs that nothing mends, from the files of this host.
pub fn from_source(run: &Run, opened: &Opened, owner: Option<&Arc<OwnerKeys>>, lost: &[Finding]) -> Result<FromSource> {
    let sealer = seal::sealer_keys(&opened.vault, &opened.state)
        .map_err(|e| e.while_doing("--from-source: what is stored again is signed by the host that has the files"))?;
    let options = seal::Options {
        paths: Vec::new(),
        listed: Vec::new(),
        rules: seal::Rules::default(),
        explain: false,
        never: opened.path.iter().cloned().collect(),
        host: opened.host()?,
        tags: vec!["repair".to_owned()],
        labels: Default::default(),
        accept_changes: true,
        compression: seal::Compression::standard(None),
        bytes_per_sec: None,
        workers: sys::available_cores(),
        coin: None,
    };
    repair::from_source(&cli::seal::context(run, opened, &sealer), owner, &options, lost)
}

impl RepairArgs {
    /// Repairs, if that was asked for; `owner` is the owner's public key if it was given. Every object is read.
    pub fn run(&self, run: &Run, owner: Option<&str>) -> Result<Option<Report>> {
        if !self.repair {
            return Ok(None);
        }
        let (store, path) = run.globals.store()?;
        let mut from: Vec<Arc<dyn Store>> = Vec::new();
        for other in &self.from {
            let (other, its_path) = run.globals.store_at(other)?;
            if other.describe() == store.describe() || (path.is_some() && its_path == path) {
                return Err(Error::usage("--from names the vault itself").hint("name another copy of it, or leave --from out"));
            }
            from.push(other);
        }
        // Where VAULT is damaged, this host cannot tell which vault it is, and so not whose.
        let owner = match (owner, Vault::open(store.clone()), state_base()) {
            (Some(owner), _, _) => Some(owner.to_owned()),
            (None, Ok(vault), Ok(base)) => StateDir::new(&base, vault.config.id).pinned_owner()?,
            _ => None,
        };
        let context = Context {
            store,
            from: &from,
            owner,
            clock: &*run.clock,
            sink: &**run.screen,
            cancel: &run.cancel,
            workers: sys::available_cores(),
        };
        repair::run(&context, &Scope::Everything).map(Some)
    }
}

/// One repaired object, for people.
pub fn line(repaired: &Repaired) -> String {
    let how = match repaired.how {
        How::Parity => "by parity",
        How::Copy => "by its second copy",
        How::Other => "from another copy",
        How::Again => "made again",
    };
    let aside = repaired.aside.as_ref().map_or_else(String::new, |aside| format!("; before: {aside}"));
    format!("repaired {}  {how}{aside}\n", repaired.object)
}
