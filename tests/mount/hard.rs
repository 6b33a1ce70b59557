//! What must not break a mount: seals beside it, packs that go and come back, failures inside it.

use std::{
    fs,
    path::Path,
    process::{Child, Stdio},
};

use crate::common::{
    bin::{Home, Mounted, tool, until},
    tree,
};

/// Starts a comparison of two trees.
fn comparing(a: &Path, b: &Path) -> Child {
    tool("diff").arg("-r").args([a, b]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn eight_readers_compare_contents_while_snapshots_are_added() {
    let home = Home::new();
    for n in 0..160usize {
        tree::write(home.source().join(format!("kept/{}/file-{n}", n % 8)), tree::noise(n as u64, 20_000 + 900 * n));
    }
    home.seal();
    let mounted = Mounted::start(&home, &["--cache", "24M"]);
    let first = fs::read_dir(home.mnt().join("snapshots")).unwrap().next().unwrap().unwrap().path();
    let mut rounds = 0;
    for round in 0..6u64 {
        let readers: Vec<Child> = (0..8)
            .map(|n| {
                let part = home.source().join(format!("kept/{n}"));
                // Half of them look into the newest, whatever that is then.
                let there = if n % 2 == 0 { home.inside(&first, &part) } else { mounted.latest(&part) };
                comparing(&part, &there)
            })
            .collect();
        tree::write(home.source().join(format!("new/{round}")), tree::noise(1000 + round, 300_000));
        home.seal();
        for reader in readers {
            let done = reader.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
            assert!(done.status.success() && said.is_empty(), "round {round}: {said}\n{}", mounted.said());
            rounds += 1;
        }
    }
    assert_eq!(rounds, 48);
    until("all snapshots are there", || fs::read_dir(home.mnt().join("snapshots")).unwrap().count() == 7);
    until("the newest one is latest", || mounted.latest(&home.source()).join("new/5").exists());
    tree::assert_same(&home.source(), &mounted.latest(&home.source()));
    assert!(!mounted.said().contains("warning"), "{}", mounted.said());
}

#[test]
fn a_pack_that_goes_while_mounted_costs_its_own_files_until_it_is_back() {
    let home = Home::new();
    let names: Vec<String> = (0..24).map(|n| format!("file-{n:02}")).collect();
    for (n, name) in names.iter().enumerate() {
        tree::write(home.source().join(name), tree::noise(n as u64, 300_000));
    }
    home.seal();
    let mounted = Mounted::start(&home, &[]);
    let top = mounted.latest(&home.source());
    assert_eq!(fs::read_dir(&top).unwrap().count(), names.len(), "the directory is known; no content is");
    let pack = home.objects("packs", ".age").into_iter().max_by_key(|p| fs::metadata(p).unwrap().len()).unwrap();
    let away = home.path("away");
    fs::rename(&pack, &away).unwrap();
    let (good, bad) = crate::readable(&top, &home.source(), &names);
    assert!(!good.is_empty() && !bad.is_empty(), "{} good, {} bad", good.len(), bad.len());
    let named: Vec<&String> = names.iter().filter(|name| mounted.said().contains(&format!("/{name} "))).collect();
    assert_eq!(named, bad.iter().collect::<Vec<_>>(), "the log names them and no others: {}", mounted.said());
    fs::rename(&away, &pack).unwrap();
    assert_eq!(crate::readable(&top, &home.source(), &names).1, [] as [String; 0], "at once: {}", mounted.said());
}

#[test]
fn a_failure_inside_answers_eio_and_the_mount_lives() {
    let home = tree::sealed_small();
    tree::write(home.source().join("unlucky"), "x");
    home.seal();
    let mounted = Mounted::of(&home, home.owner(["mount"]).env("COFFRE_TEST_PANIC_AT", "unlucky"), &home.mnt());
    let top = mounted.latest(&home.source());
    // More often than there are threads to lose.
    for _ in 0..20 {
        assert_eq!(fs::symlink_metadata(top.join("unlucky")).map(drop).map_err(|e| e.raw_os_error()), Err(Some(5)));
        assert_eq!(fs::read_to_string(top.join("hello")).unwrap(), "hello, world\n");
    }
    assert_eq!(mounted.said().matches("internal failure").count(), 20, "{}", mounted.said());
}
