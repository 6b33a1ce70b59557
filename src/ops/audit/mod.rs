//! Audit: everything that can be known of a vault without any secret, where it is stored.
//!
//! Every object is held against its hash, every receipt against its signature, every snapshot against the ones around it. What
//! that cannot show is in the report as well. `README.txt` in every vault does the same with `ssh-keygen` and `b3sum`.

mod scrub;

use serde::Serialize;

use crate::{
    error::Result,
    event::Sink,
    format::words_of,
    ops::chain::{Judged, judge},
    sys::{Cancel, Clock},
    vault::{Expected, Finding, StateDir, Vault, settle},
};

/// What an audit works with.
pub struct Context<'a> {
    /// The vault.
    pub vault: &'a Vault,
    /// The owner's public key, `ssh-ed25519 AAAA…`, as it is known from elsewhere.
    pub owner: Option<&'a str>,
    /// This machine's memory of the vault, if it has any.
    pub state: &'a StateDir,
    /// Snapshots that must be there.
    pub expect: &'a [Expected],
    /// Time.
    pub clock: &'a dyn Clock,
    /// Where events go.
    pub sink: &'a dyn Sink,
    /// Stops the work.
    pub cancel: &'a Cancel,
    /// Threads; each holds 1 MiB.
    pub workers: usize,
}

/// Why the list of signers is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trust {
    /// It is signed by the owner's key that was given.
    Given,
    /// It is signed by the owner's key that this machine pinned before.
    Pinned,
    /// It vouches for itself.
    Itself,
}

/// A sealer, and where its chain ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SealerRow {
    /// Its name.
    pub sealer: String,
    /// Its public key.
    pub key: String,
    /// Snapshots that count.
    pub snapshots: u64,
    /// Number of the newest; `None` if there is none.
    pub seq: Option<u64>,
    /// Its id in words.
    pub words: Option<String>,
    /// Its id.
    pub id: Option<String>,
    /// When it was revoked, if it was.
    pub revoked: Option<String>,
}

/// What was found, and what cannot be.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Why the list of signers is believed.
    pub trust: Trust,
    /// The owner's public key, by which it is.
    pub owner: Option<String>,
    /// The list.
    pub list: Option<String>,
    /// Sealers, in the order of the list.
    pub sealers: Vec<SealerRow>,
    /// Snapshots that count.
    pub snapshots: u64,
    /// Objects read.
    pub objects: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Packs and segments that no receipt names.
    pub unreferenced: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What is worth a word.
    pub notices: Vec<Finding>,
    /// What an audit with what it was given cannot know.
    pub unknown: Vec<&'static str>,
    /// How long it took.
    pub seconds: f64,
}

/// Audits. What is wrong is in the report, not an error.
pub fn run(context: &Context) -> Result<Report> {
    let began = context.clock.monotonic();
    let pinned = context.state.pinned_owner()?;
    let owner = context.owner.map(str::to_owned).or_else(|| pinned.clone());
    let trust = match (context.owner, &pinned) {
        (Some(_), _) => Trust::Given,
        (None, Some(_)) => Trust::Pinned,
        (None, None) => Trust::Itself,
    };
    let judged = judge(context.vault, owner.as_deref(), context.state, context.expect)?;
    let mut report = Report {
        trust,
        owner: owner.or_else(|| judged.signers.as_ref()?.signers.owner().map(str::to_owned)),
        list: judged.signers.as_ref().map(|s| s.key.to_string()),
        sealers: sealers(&judged),
        snapshots: judged.chain.committed.len() as u64,
        objects: 0,
        bytes: 0,
        unreferenced: 0,
        findings: Vec::new(),
        notices: judged.notices,
        unknown: unknown(context, trust)?,
        seconds: 0.0,
    };
    report.findings.extend(judged.damage.into_iter().chain(judged.forks).chain(judged.lost));
    scrub::run(context, &judged.chain, &mut report)?;
    settle(&mut report.findings);
    report.seconds = (context.clock.monotonic() - began).as_secs_f64();
    Ok(report)
}

fn sealers(judged: &Judged) -> Vec<SealerRow> {
    let heads = judged.chain.heads();
    let lines = judged.signers.iter().flat_map(|s| &s.signers.0).filter(|s| !s.owner);
    lines
        .map(|line| {
            let head = heads.get(&line.name);
            SealerRow {
                sealer: line.name.clone(),
                key: line.key.clone(),
                snapshots: judged.chain.committed.iter().filter(|c| c.key.sealer == line.name).count() as u64,
                seq: head.map(|(seq, _)| *seq),
                words: head.map(|(_, id)| words_of(id)),
                id: head.map(|(_, id)| id.to_string()),
                revoked: line.revoked.as_ref().map(|r| r.since_text()),
            }
        })
        .collect()
}

/// What this audit has no way to know.
fn unknown(context: &Context, trust: Trust) -> Result<Vec<&'static str>> {
    let mut unknown = Vec::new();
    if trust == Trust::Itself {
        unknown.push(
            "whether these signers are the owner's: nobody vouches for the list; compare the owner's key above with the recovery kit, or give it (--owner-key)",
        );
    }
    if context.expect.is_empty() && context.state.heads()?.is_empty() {
        unknown.push(
            "whether newer snapshots were taken away: compare the heads above with what the hosts say (coffre head), or give them (--expect-head)",
        );
    }
    unknown.push("whether a sealer told the truth about what it sealed: that takes an owner's key (coffre verify --depth chunks)");
    Ok(unknown)
}
