//! What stats, plans, reports and lists say: the same numbers, whoever says them.

use std::sync::atomic::Ordering;

use coffre::ops::{look::Look, prune::Options, stats, undelete};

use crate::{
    DAY, all, assert_all,
    common::library::{Host, copy_of},
    context, forget, options, prune, vault,
};

fn stats_of(host: &Host) -> stats::Report {
    let (look, findings) = Look::open(&host.vault, host.owner.clone(), &host.state).unwrap();
    assert!(findings.is_empty(), "{findings:?}");
    stats::run(&look).unwrap()
}

/// Objects and bytes of one kind.
fn kind(report: &stats::Report, kind: &str) -> (u64, u64) {
    report.objects.iter().find(|o| o.kind == kind).map(|o| (o.objects, o.bytes)).unwrap()
}

/// Objects and bytes of what prune deals with.
fn data(report: &stats::Report) -> (u64, u64) {
    ["packs", "index", "snaps"].iter().map(|name| kind(report, name)).fold((0, 0), |(n, len), (more, bytes)| (n + more, len + bytes))
}

fn ways() -> Vec<(&'static str, Options)> {
    let now = Options { shorten: true, ..options(0) };
    vec![
        ("as always", now),
        ("nothing unused", Options { max_unused_permille: 0, ..now }),
        ("nothing rewritten", Options { max_unused_permille: 1_000, ..now }),
        ("small ones together", Options { repack_small: true, ..now }),
        ("pressed", Options { max_unused_permille: 0, repack_small: true, ..now }),
        ("a little at a time", Options { max_unused_permille: 0, max_rewrite: Some(150_000), ..now }),
    ]
}

#[test]
fn what_was_planned_is_what_is_there_afterwards() {
    let (_guard, _, first) = vault(6);
    forget(&first, &["latest~1", "latest~2", "latest~4"]).unwrap();
    for (way, options) in ways() {
        let host = first.twin(std::sync::Arc::new(copy_of(&*first.vault.store)));
        let expected = all(&host);
        let before = stats_of(&host);
        let dry = prune(&host, &Options { dry_run: true, ..options }).unwrap();
        assert_eq!(data(&stats_of(&host)), data(&before), "{way}: a dry run changes nothing");
        let done = prune(&host, &options).unwrap();
        assert_eq!(done.plan, dry.plan, "{way}");
        assert_eq!((done.condemned_objects, done.condemned_bytes), (dry.condemned_objects, dry.condemned_bytes), "{way}");
        let p = &done.plan;
        assert_eq!(kind(&before, "packs"), (p.packs_kept + p.packs_deleted + p.packs_rewritten, p.bytes_before), "{way}");
        let after = stats_of(&host);
        let (objects, bytes) = data(&before);
        let expect = (objects + done.written_objects - done.deleted_objects, bytes + done.written_bytes - done.deleted_bytes);
        assert_eq!(data(&after), expect, "{way}");
        assert_eq!((done.deleted_objects, done.deleted_bytes), (done.condemned_objects, done.condemned_bytes), "{way}");
        let (packs, bytes) = kind(&after, "packs");
        assert_eq!(packs, p.packs_kept + p.objects_written, "{way}");
        assert_eq!(bytes, done.bytes_after, "{way}");
        // Noise in headers, and what is compressed anew: never more than a fiftieth.
        assert!(p.bytes_after.abs_diff(bytes) * 50 <= bytes, "{way}: {} planned, {bytes} are there", p.bytes_after);
        assert_eq!((after.forgotten, after.condemned_objects), (0, 0), "{way}");
        let again = prune(&host, &Options { dry_run: true, ..options }).unwrap();
        assert_eq!(again.plan.bytes_before, bytes, "{way}");
        assert_all(&host, &expected, way);
    }
}

#[test]
fn what_waits_is_counted_once_and_said_by_everybody() {
    let (_guard, _, host) = vault(5);
    let before = stats_of(&host);
    forget(&host, &["latest~1", "latest~2", "latest~3"]).unwrap();
    let oldest = host.vault.snapshots(&host.owner).unwrap().0[0].id;
    assert_eq!(stats_of(&host).forgotten, 3);
    let report = prune(&host, &Options { max_unused_permille: 0, repack_small: true, ..options(86_400) }).unwrap();
    assert!(report.plan.packs_rewritten > 0, "content lies in two packs now: {report:?}");
    let waits = stats_of(&host);
    assert_eq!((waits.condemned_objects, waits.condemned_bytes), (report.condemned_objects, report.condemned_bytes));
    assert_eq!((waits.unique_bytes, waits.forgotten), (before.unique_bytes, 3), "twice stored is not twice there");
    assert!(waits.compressed_bytes.abs_diff(before.compressed_bytes) * 100 < before.compressed_bytes);
    let list = prune::list(&context(&host, &host.reader())).unwrap();
    let sum = |waiting: &[prune::Waiting]| waiting.iter().fold((0, 0), |(n, len), w| (n + w.objects, len + w.bytes));
    assert_eq!(sum(&list.waiting), (report.condemned_objects, report.condemned_bytes));
    assert_eq!(list.snapshots.len(), 3);

    // One comes back: what it needs does not wait, and the plan is that of the prune that finds out.
    let back = list.snapshots[1].id.clone();
    undelete::run(&host.vault, &host.owner, 0, &[back]).unwrap();
    let expected = all(&host);
    assert!(expected.contains_key(&oldest));
    let list = prune::list(&context(&host, &host.reader())).unwrap();
    let wanted: u64 = list.waiting.iter().map(|w| w.wanted).sum();
    assert!(wanted > 0 && sum(&list.waiting).0 + wanted == report.condemned_objects, "{list:?}");
    host.clock.ahead_ns.fetch_add(DAY / 24, Ordering::SeqCst);
    let now = Options { shorten: true, ..options(0) };
    let dry = prune(&host, &Options { dry_run: true, ..now }).unwrap();
    assert_eq!(sum(&dry.waiting), sum(&list.waiting));
    let done = prune(&host, &now).unwrap();
    assert_eq!(done.plan, dry.plan);
    assert_eq!((dry.condemned_objects, dry.condemned_bytes), (done.condemned_objects, done.condemned_bytes));
    let gone = sum(&list.waiting);
    assert_eq!((done.deleted_objects, done.deleted_bytes), (gone.0 + done.condemned_objects, gone.1 + done.condemned_bytes));
    assert_eq!(done.spared_objects, wanted);
    assert_all(&host, &expected, "pruned");
}
