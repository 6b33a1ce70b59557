//! Seal, while somebody works on the source: files that change, vanish, or turn into something else.

use std::{
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, symlink},
    path::Path,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::common::library::{Host, Tree, noise, temp, write_files};

/// Seals `file` while `disturb` works on it, and returns what was stored, and whether it was said to have changed.
fn seal_disturbed(dir: &Path, file: &Path, disturb: impl Fn(&File, &AtomicBool) + Sync) -> (Vec<u8>, bool) {
    let host = Host::memory();
    let (stop, start) = (AtomicBool::new(false), Barrier::new(2));
    let report = thread::scope(|scope| {
        scope.spawn(|| {
            let open = File::options().write(true).open(file).unwrap();
            start.wait();
            disturb(&open, &stop);
        });
        start.wait();
        let report = host.seal(&[dir]);
        stop.store(true, Ordering::SeqCst);
        report.unwrap()
    });
    assert_eq!(report.unreadable.len(), 0, "{:?}", report.unreadable);
    assert!(report.changed.iter().all(|p| Path::new(&p.path) == file), "{:?}", report.changed);
    host.assert_clean();
    let tree = host.read_latest(dir);
    assert_eq!(tree[dir.join("still").as_os_str().as_encoded_bytes()].1, b"still");
    let (meta, bytes) = tree[file.as_os_str().as_encoded_bytes()].clone();
    assert_eq!(meta.size, bytes.len() as u64);
    (bytes, !report.changed.is_empty())
}

const LARGE: usize = 12 << 20;

#[test]
fn a_file_that_is_rewritten_meanwhile_is_taken_block_by_block_and_named() {
    let (_guard, dir) = temp();
    let file = dir.join("file");
    write_files(&dir, &[("file", &vec![0; LARGE]), ("still", b"still")]);
    let (bytes, changed) = seal_disturbed(&dir, &file, |open, stop| {
        for n in (1..250u8).cycle() {
            for at in (0..LARGE).step_by(64 << 10) {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                open.write_all_at(&[n; 64 << 10], at as u64).unwrap();
            }
        }
    });
    assert_eq!(bytes.len(), LARGE);
    // Linux copies a page out while another processor writes into it, so one may be caught half-way; never with anything else in it.
    let seams = |page: &[u8]| page.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(bytes.chunks(4096).all(|page| seams(page) <= 2 && page.iter().all(|b| *b < 250)), "a page that nobody wrote");
    assert!(changed, "twelve megabytes were written over without a pause, and nobody noticed");
}

#[test]
fn a_file_that_grows_meanwhile_is_taken_up_to_some_moment() {
    let (_guard, dir) = temp();
    let file = dir.join("file");
    let content = noise(4 * LARGE, 6);
    write_files(&dir, &[("file", &content[..LARGE]), ("still", b"still")]);
    let (bytes, _) = seal_disturbed(&dir, &file, |mut open, stop| {
        open.seek(SeekFrom::End(0)).unwrap();
        for piece in content[LARGE..].chunks(4099) {
            if !stop.load(Ordering::SeqCst) {
                open.write_all(piece).unwrap();
            }
        }
    });
    assert!(bytes.len() >= LARGE && bytes == content[..bytes.len()], "{} bytes that the file never had", bytes.len());
}

#[test]
fn a_file_that_is_cut_meanwhile_is_taken_up_to_some_moment() {
    let (_guard, dir) = temp();
    let file = dir.join("file");
    let content = noise(LARGE, 7);
    for _ in 0..3 {
        write_files(&dir, &[("file", &content), ("still", b"still")]);
        let (bytes, _) = seal_disturbed(&dir, &file, |open, stop| {
            while !stop.load(Ordering::SeqCst) {
                open.set_len(100_000).unwrap();
                open.write_all_at(&content[100_000..], 100_000).unwrap();
            }
        });
        assert!(bytes.len() >= 100_000 && bytes == content[..bytes.len()], "{} bytes that the file never had", bytes.len());
    }
}

/// A tree in which things vanish and directories become links to `outside`.
fn shaky_tree(root: &Path) {
    let _ = fs::remove_dir_all(root);
    write_files(
        root,
        &[("a/1", b"a1"), ("b/inner/2", b"b2"), ("b/x", b"bx"), ("c-file", &noise(50_000, 1)), ("d/3", b"d3"), ("e-link-to-be/4", b"e4")],
    );
}

fn assert_never_outside(tree: &Tree, what: &str) {
    for (path, (_, bytes)) in tree {
        let path = String::from_utf8_lossy(path);
        assert!(!bytes.windows(6).any(|w| w == b"SECRET") && !path.contains("secret"), "{what}: {path} came from outside the source");
    }
}

#[test]
fn what_vanishes_or_becomes_a_link_at_any_step_never_leads_outside() {
    let (_guard, dir) = temp();
    let (root, outside) = (dir.join("source"), dir.join("outside"));
    write_files(&outside, &[("secret", b"SECRET"), ("inner/2", b"SECRET"), ("3", b"SECRET"), ("4", b"SECRET"), ("x", b"SECRET")]);
    let mut moments = 0;
    for moment in 0.. {
        shaky_tree(&root);
        let host = Host::memory();
        let (at, to) = (root.clone(), outside.clone());
        let hit = Arc::new(AtomicBool::new(false));
        let told = hit.clone();
        *host.clock.hook.lock().unwrap() = Some(Box::new(move |n| {
            if n == moment {
                told.store(true, Ordering::SeqCst);
                fs::remove_file(at.join("c-file")).unwrap();
                fs::remove_dir_all(at.join("d")).unwrap();
                for name in ["b", "e-link-to-be"] {
                    fs::rename(at.join(name), at.parent().unwrap().join(format!("moved-{name}-{n}"))).unwrap();
                    symlink(&to, at.join(name)).unwrap();
                }
            }
        }));
        let report = host.seal(&[&root]).unwrap_or_else(|e| panic!("moment {moment}: {}", e.chain()));
        if !hit.load(Ordering::SeqCst) {
            break;
        }
        moments += 1;
        let tree = host.read_latest(&root);
        assert_never_outside(&tree, &format!("moment {moment}"));
        assert_eq!(tree[root.join("a/1").as_os_str().as_encoded_bytes()].1, b"a1", "moment {moment}");
        // What vanished is no problem; what became something else is one, or is sealed as what it became.
        assert!(report.unreadable.iter().all(|p| !p.path.contains("c-file")), "moment {moment}: {:?}", report.unreadable);
        host.assert_clean();
    }
    assert!(moments >= 8, "only {moments} moments were tried");
}

#[test]
fn a_directory_that_turns_into_a_link_again_and_again_never_leads_outside() {
    let (_guard, dir) = temp();
    let (root, outside) = (dir.join("source"), dir.join("outside"));
    write_files(&outside, &[("secret", b"SECRET"), ("f", b"SECRET")]);
    symlink(&outside, dir.join("swap")).unwrap();
    for n in 0..40 {
        write_files(&root, &[(&format!("d{n:02}/f"), b"fine")]);
    }
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                for n in 0..40 {
                    renameat_with(CWD, dir.join("swap"), CWD, root.join(format!("d{n:02}")), RenameFlags::EXCHANGE).unwrap();
                }
            }
        });
        for round in 0..10 {
            let host = Host::memory();
            let sealed = host.seal(&[&root]).map(|_| host.read_latest(&root));
            stop.store(round == 9 || sealed.is_err(), Ordering::SeqCst);
            assert_never_outside(&sealed.unwrap_or_else(|e| panic!("{}", e.chain())), &format!("round {round}"));
        }
    });
}

/// Found by reading: the second name of an inode was left out, and said to be unreadable, when the first one was removed
/// between the listing and the reading, though it was there and could be read.
#[test]
fn a_file_is_sealed_under_its_second_name_though_the_first_one_vanished() {
    let (_guard, dir) = temp();
    let root = dir.join("source");
    for moment in 0.. {
        let _ = fs::remove_dir_all(&root);
        write_files(&root, &[("a/1", b"a1"), ("name-1", &noise(50_000, 1))]);
        fs::hard_link(root.join("name-1"), root.join("name-2")).unwrap();
        let host = Host::memory();
        let (first, hit) = (root.join("name-1"), Arc::new(AtomicBool::new(false)));
        let told = hit.clone();
        *host.clock.hook.lock().unwrap() = Some(Box::new(move |n| {
            if n == moment {
                told.store(true, Ordering::SeqCst);
                fs::remove_file(&first).unwrap();
            }
        }));
        let report = host.seal(&[&root]).unwrap();
        if !hit.load(Ordering::SeqCst) {
            assert!(moment > 4);
            return;
        }
        let tree = host.read_latest(&root);
        let second = tree.get(root.join("name-2").as_os_str().as_encoded_bytes()).map(|(_, bytes)| bytes.clone());
        assert!(second == Some(noise(50_000, 1)), "moment {moment}: name-2 is not sealed: {:?}", report.unreadable);
        assert_eq!(report.unreadable.len(), 0, "moment {moment}: {:?}", report.unreadable);
    }
}
