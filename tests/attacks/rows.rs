//! The table: who, what they do, and who finds what. Add a row when you think of one.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use coffre::store::{Key, Memory, Store};

use super::{
    Plain, Raced, Revoked, Start, add_segment, append_as_host1, append_copy, at, copy, cut, flip, foreign_pack, foreign_signers,
    foreign_snapshot, forge, forge_over, others_chain, own_list, put_back, put_named, put_over, remove, replay, replay_list,
    replay_snapshot, swap, swap_snapshots, take_revocation_back, take_signatures_away, unnamed_pack, world::World,
};

/// Who, what, from where, how; and what verify, audit and a stranger find.
pub type Row =
    (&'static str, &'static str, Start, fn(&World, &Memory), &'static [&'static str], &'static [&'static str], &'static [&'static str]);

const STORAGE: &str = "storage";
const SEALER: &str = "other sealer";
const STOLEN: &str = "stolen sealer";
const READER: &str = "co-reader";

/// What section 10 of docs/FORMAT.md leaves to them.
const TAIL: &[&str] = &["left over: a fresh reader with one copy cannot know a missing tail"];
const UNTIL_REVOKED: &[&str] = &["left over: can forge future snapshots until revoked"];
/// Nothing that is read changes.
pub const HARMLESS: &[&str] = &["harmless"];

pub const ROWS: &[Row] = &[
    (STORAGE, "flip a byte of a pack", Plain, |w, s| flip(s, &w.pack), &["altered pack"], &["altered pack"], &["altered pack"]),
    (STORAGE, "truncate a pack", Plain, |w, s| cut(s, &w.pack), &["altered pack"], &["altered pack"], &["altered pack"]),
    (STORAGE, "delete a pack", Plain, |w, s| s.delete(&w.pack).unwrap(), &["deleted pack"], &["deleted pack"], &["deleted pack"]),
    (STORAGE, "swap two packs", Plain, |w, s| swap(s, &w.pack, &w.pack2), BOTH_PACKS, BOTH_PACKS, BOTH_PACKS),
    (
        STORAGE,
        "flip a byte of a manifest",
        Plain,
        |_, s| flip(s, &at(2, "age")),
        &["altered host1/2.age"],
        &["altered host1/2.age"],
        &["altered host1/2.age"],
    ),
    (
        STORAGE,
        "flip a byte of a receipt",
        Plain,
        |_, s| flip(s, &at(2, "b3")),
        &["altered host1/2.b3"],
        &["altered host1/2.b3"],
        &["altered host1/2.b3"],
    ),
    (
        STORAGE,
        "flip a byte of a signature",
        Plain,
        |_, s| flip(s, &at(2, "b3.sig")),
        &["altered host1/2.b3"],
        &["altered host1/2.b3"],
        &["altered host1/2.b3"],
    ),
    (
        STORAGE,
        "truncate the newest receipt",
        Plain,
        |_, s| cut(s, &at(3, "b3")),
        NEWEST_ALTERED,
        NEWEST_ALTERED_AUDIT,
        &["altered host1/3.b3"],
    ),
    (STORAGE, "swap two snapshots", Plain, swap_snapshots, SWAPPED, SWAPPED, SWAPPED),
    (
        STORAGE,
        "replay an old object in place of a newer one",
        Plain,
        |_, s| replay(s, "age"),
        &["altered host1/2.age"],
        &["altered host1/2.age"],
        &["altered host1/2.age"],
    ),
    (STORAGE, "replay an old snapshot in place of a newer one", Plain, replay_snapshot, REPLAYED, REPLAYED, REPLAYED),
    (
        STORAGE,
        "replay an old snapshot as the newest",
        Plain,
        append_copy,
        &["snapshot-reordered host1/4.b3"],
        &["snapshot-reordered host1/4.b3"],
        &["snapshot-reordered host1/4.b3"],
    ),
    (
        STORAGE,
        "mix two vaults: a snapshot of the other",
        Plain,
        foreign_snapshot,
        &["other-vault host1/4.b3"],
        &["other-vault host1/4.b3"],
        &["other-vault host1/4.b3"],
    ),
    (STORAGE, "mix two vaults: a pack in place of another", Plain, foreign_pack, &["altered pack"], &["altered pack"], &["altered pack"]),
    (
        STORAGE,
        "flip a byte of a pack that no receipt names",
        Plain,
        unnamed_pack,
        HARMLESS,
        &["altered other pack"],
        &["altered other pack"],
    ),
    (STORAGE, "mix two vaults: one more pack", Plain, |w, s| drop(copy(&w.other.store, s, &w.other.pack)), HARMLESS, HARMLESS, HARMLESS),
    (STORAGE, "mix two vaults: the list of signers", Plain, foreign_signers, FOREIGN_LIST, FOREIGN_LIST_AUDIT, FOREIGN_LIST_FRESH),
    (STORAGE, "delete the tail", Plain, |_, s| remove(s, 3), &["rolled-back host1/3.b3"], &["rolled-back snaps/host1"], TAIL),
    (
        STORAGE,
        "delete the middle",
        Plain,
        |_, s| remove(s, 2),
        &["snapshot-deleted host1/2.b3"],
        &["snapshot-deleted host1/2.b3"],
        &["snapshot-deleted host1/2.b3"],
    ),
    (
        STORAGE,
        "delete the signature of the newest",
        Plain,
        |_, s| s.delete(&at(3, "b3.sig")).unwrap(),
        &["rolled-back host1/3.b3"],
        UNSIGNED_TAIL,
        &["note: unsigned host1/3.b3"],
    ),
    (
        STORAGE,
        "delete a signature in the middle",
        Plain,
        |_, s| s.delete(&at(2, "b3.sig")).unwrap(),
        &["snapshot-deleted host1/2.b3"],
        &["snapshot-deleted host1/2.b3"],
        &["snapshot-deleted host1/2.b3"],
    ),
    (
        STORAGE,
        "put back the whole vault as it was",
        Plain,
        put_back,
        &["rolled-back host1/3.b3", "rolled-back host2/2.b3"],
        &["rolled-back snaps/host1", "rolled-back snaps/host2"],
        TAIL,
    ),
    (
        STORAGE,
        "take all snapshots of a sealer away",
        Plain,
        |_, s| (1..=3).for_each(|n| remove(s, n)),
        &["rolled-back host1/3.b3"],
        &["rolled-back snaps/host1"],
        TAIL,
    ),
    (STORAGE, "take all signatures away", Plain, take_signatures_away, NO_SIGNATURES, NO_SIGNATURES_AUDIT, NO_SIGNATURES_FRESH),
    (
        STORAGE,
        "insert a snapshot without a signature",
        Plain,
        |w, s| forge(w, s, "host1", 4, Some(3), None),
        &["note: unsigned host1/4.b3"],
        &["note: unsigned host1/4.b3"],
        &["note: unsigned host1/4.b3"],
    ),
    (
        STORAGE,
        "take a revocation back",
        Revoked,
        take_revocation_back,
        REVOCATION_GONE,
        &["deleted list3", "deleted list3.sig"],
        &["deleted list3", "deleted list3.sig"],
    ),
    (
        STORAGE,
        "replay an old list of signers as the newest",
        Revoked,
        replay_list,
        &["altered list9"],
        &["altered list9"],
        &["altered list9"],
    ),
    (
        STORAGE,
        "spoil a revocation",
        Revoked,
        |_, s| flip(s, &Key::fixed("signers/allowed_signers.0003")),
        &["altered list3", "rolled-back list2"],
        &["altered list3"],
        &["altered list3"],
    ),
    (
        SEALER,
        "sign a snapshot in another's place",
        Plain,
        |w, s| forge(w, s, "host1", 4, Some(3), Some("host2")),
        &["stranger host1/4.b3"],
        &["stranger host1/4.b3"],
        &["stranger host1/4.b3"],
    ),
    (
        SEALER,
        "go on from another's snapshot",
        Plain,
        others_chain,
        &["fork host2/2.b3", "snapshot-reordered host2/3.b3"],
        &["fork host2/2.b3", "snapshot-reordered host2/3.b3"],
        &["fork host2/2.b3", "snapshot-reordered host2/3.b3"],
    ),
    (
        SEALER,
        "make a sealer of its own",
        Plain,
        |w, s| forge(w, s, "host3", 1, None, Some("host2")),
        &["stranger host3/1.b3"],
        &["stranger host3/1.b3"],
        &["stranger host3/1.b3"],
    ),
    (SEALER, "add a list of signers", Plain, own_list, &["altered list3"], &["altered list3"], OWN_LIST_FRESH),
    (STOLEN, "append a snapshot", Plain, append_as_host1, &["fork host1/4.b3"], UNTIL_REVOKED, UNTIL_REVOKED),
    (
        STOLEN,
        "insert a back-dated snapshot before the first",
        Plain,
        |w, s| forge(w, s, "host1", 0, None, Some("host1")),
        &["fork host1/0.b3"],
        &["fork host1/0.b3"],
        &["fork host1/0.b3"],
    ),
    (
        STOLEN,
        "put a back-dated snapshot in place of another",
        Plain,
        |w, s| forge_over(w, s, 2),
        &["fork host1/2.b3"],
        &["fork host1/2.b3"],
        &["fork host1/2.b3"],
    ),
    (
        STOLEN,
        "put another in place of the newest",
        Plain,
        |w, s| forge_over(w, s, 3),
        &["fork host1/3.b3"],
        &["rolled-back snaps/host1"],
        UNTIL_REVOKED,
    ),
    (
        STOLEN,
        "append with a revoked key",
        Revoked,
        append_as_host1,
        &["revoked host1/4.b3"],
        &["revoked host1/4.b3"],
        &["revoked host1/4.b3"],
    ),
    (
        STOLEN,
        "back-date with a revoked key, before the first",
        Revoked,
        |w, s| forge(w, s, "host1", 0, None, Some("host1")),
        BACK_DATED,
        BACK_DATED,
        BACK_DATED,
    ),
    (STOLEN, "back-date with a revoked key, in place of another", Revoked, |w, s| forge_over(w, s, 2), REWRITTEN, REWRITTEN, REWRITTEN),
    (
        STOLEN,
        "rewrite the newest with a revoked key",
        Revoked,
        |w, s| forge_over(w, s, 3),
        REWRITTEN_LAST,
        REWRITTEN_LAST_AUDIT,
        REWRITTEN_LAST_FRESH,
    ),
    (STOLEN, "clone a host: one after the other", Plain, append_as_host1, &["fork host1/4.b3"], UNTIL_REVOKED, UNTIL_REVOKED),
    (
        STOLEN,
        "clone a host: at the same moment",
        Raced,
        |_, _| (),
        &["fork host1/4.b3", "fork host1/5.b3"],
        &["fork host1/4.b3"],
        &["fork host1/4.b3"],
    ),
    (
        READER,
        "forge a pack for a known recipient, and add it",
        Plain,
        |w, s| drop(put_named(s, "packs/", &w.forged())),
        HARMLESS,
        HARMLESS,
        HARMLESS,
    ),
    (
        READER,
        "forge a pack in place of another",
        Plain,
        |w, s| put_over(s, &w.pack, w.forged()),
        &["altered pack"],
        &["altered pack"],
        &["altered pack"],
    ),
    (
        READER,
        "forge a manifest for a known recipient",
        Plain,
        |w, s| put_over(s, &at(2, "age"), w.forged()),
        &["altered host1/2.age"],
        &["altered host1/2.age"],
        &["altered host1/2.age"],
    ),
    (READER, "forge an index segment, and add it", Plain, add_segment, HARMLESS, HARMLESS, HARMLESS),
    (
        READER,
        "sign a snapshot with a key of its own",
        Plain,
        |w, s| forge(w, s, "host1", 4, Some(3), Some("nobody")),
        &["stranger host1/4.b3"],
        &["stranger host1/4.b3"],
        &["stranger host1/4.b3"],
    ),
    (READER, "read what another sealed", Plain, |_, _| (), HARMLESS, HARMLESS, HARMLESS),
];

const NO_SIGNATURES: &[&str] = &["rolled-back host1/3.b3", "snapshot-deleted host1/1.b3", "snapshot-deleted host1/2.b3"];
const NO_SIGNATURES_AUDIT: &[&str] =
    &["note: unsigned host1/3.b3", "rolled-back snaps/host1", "snapshot-deleted host1/1.b3", "snapshot-deleted host1/2.b3"];
const NO_SIGNATURES_FRESH: &[&str] = &["note: unsigned host1/3.b3", "snapshot-deleted host1/1.b3", "snapshot-deleted host1/2.b3"];
const BOTH_PACKS: &[&str] = &["altered pack", "altered pack2"];
const SWAPPED: &[&str] = &["snapshot-reordered host1/1.b3", "snapshot-reordered host1/2.b3"];
const REPLAYED: &[&str] = &["snapshot-reordered host1/2.b3"];
const NEWEST_ALTERED: &[&str] = &["altered host1/3.b3"];
const NEWEST_ALTERED_AUDIT: &[&str] = &["altered host1/3.b3", "rolled-back snaps/host1"];
const UNSIGNED_TAIL: &[&str] = &["note: unsigned host1/3.b3", "rolled-back snaps/host1"];
const REVOCATION_GONE: &[&str] = &["deleted list3", "deleted list3.sig", "rolled-back list2"];
const FOREIGN_LIST: &[&str] = &[
    "altered list2",
    "altered list2.sig",
    "rolled-back host2/2.b3",
    "rolled-back signers/allowed_signers",
    "stranger host2/1.b3",
    "stranger host2/2.b3",
];
const FOREIGN_LIST_FRESH: &[&str] = &["altered list2", "altered list2.sig", "stranger host2/1.b3", "stranger host2/2.b3"];
const OWN_LIST_FRESH: &[&str] = &["stranger host1/1.b3", "stranger host1/2.b3", "stranger host1/3.b3"];
const FOREIGN_LIST_AUDIT: &[&str] =
    &["altered list2", "altered list2.sig", "rolled-back snaps/host2", "stranger host2/1.b3", "stranger host2/2.b3"];
const BACK_DATED: &[&str] = &["fork host1/0.b3", "revoked host1/0.b3"];
const REWRITTEN: &[&str] = &["fork host1/2.b3", "revoked host1/1.b3", "revoked host1/2.b3"];
const REWRITTEN_LAST: &[&str] =
    &["fork host1/3.b3", "revoked host1/1.b3", "revoked host1/2.b3", "revoked host1/3.b3", "snapshot-deleted host1/3.b3"];
const REWRITTEN_LAST_AUDIT: &[&str] =
    &["revoked host1/1.b3", "revoked host1/2.b3", "revoked host1/3.b3", "rolled-back snaps/host1", "snapshot-deleted host1/3.b3"];
const REWRITTEN_LAST_FRESH: &[&str] = &["revoked host1/1.b3", "revoked host1/2.b3", "revoked host1/3.b3", "snapshot-deleted host1/3.b3"];
