//! The pages of docs/OPERATIONS.md for the bad days: every command on them, run as it is shown, on a vault that was hurt that way.
//!
//! Each page has a machine of its own: a mount namespace with its own `/srv`, `/root`, `/home`, `/media` and `/mnt`, in which the places that the
//! pages name are really there. A command that is not run has its reason beside it, and one that the page has no longer fails the test.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

#[path = "pages/machine.rs"]
mod machine;
#[path = "pages/text.rs"]
mod text;

use machine::{Machine, Outcome};

/// What is done about a command that is not simply run and ends with 0.
enum But {
    /// It ends with this exit code, and says this.
    Ends(i32, &'static str),
    /// It is asked something, and is told this.
    Told(&'static str),
    /// It is not run, for this reason.
    Not(&'static str),
    /// This is run first.
    After(&'static str),
}
use But::{After, Ends, Not, Told};

/// A page: its title, how the vault or the machine is hurt, and commands (by how they begin) with what is special about them. Each stands for the
/// first such command from the one before it on.
struct Page {
    title: &'static str,
    hurt: &'static str,
    special: &'static [(&'static str, But)],
    /// What must hold at the end.
    then: &'static str,
}

/// Every command of the page, and the page as a whole.
fn follow(page: &Page) {
    let commands = text::commands(page.title);
    assert!(!commands.is_empty(), "{} has commands", page.title);
    let machine = Machine::new();
    let mut special = page.special.iter().peekable();
    let mut script = format!("{}\n", page.hurt);
    let mut wanted = Vec::new();
    for command in &commands {
        let (mut code, mut says, mut input, mut reason) = (0, "", "", None);
        while let Some((_, but)) = special.next_if(|(start, _)| command.starts_with(start)) {
            match but {
                Ends(wanted, text) => (code, says) = (*wanted, *text),
                Told(text) => input = text,
                Not(why) => reason = Some(*why),
                After(first) => script.push_str(&format!("{first}\n")),
            }
        }
        if reason.is_none() {
            script.push_str(&machine::step(wanted.len(), command, input));
            wanted.push((command.clone(), code, says));
        }
    }
    assert!(special.peek().is_none(), "{} has no command any more that begins with {:?}", page.title, special.peek().unwrap().0);
    let Outcome { steps, all, is_whole } = machine.run(&script, page.then);
    println!("{all}");
    for (n, (command, code, says)) in wanted.iter().enumerate() {
        let (ended, said) = steps.get(n).unwrap_or_else(|| panic!("{}: it came to an end before `{command}`\n{all}", page.title));
        assert_eq!(ended, code, "{}: the exit code of `{command}`\n{all}", page.title);
        assert!(said.contains(says), "{}: `{command}` says `{says}`\n{all}", page.title);
    }
    assert!(is_whole, "{}: {}\n{all}", page.title, page.then);
}

#[test]
fn restore_now() {
    follow(&Page {
        title: "Restore now",
        hurt: "mkdir /srv/keep; cp -a /home/u/studio /srv/keep/; rm -r /home/u/studio/app",
        special: &[
            ("coffre restore yesterday:/home/u/studio --in-place --delete --dry-run", After("echo more > /home/u/studio/extra")),
            ("coffre restore yesterday:/home/u/studio --in-place --delete  ", Told("y\n")),
            ("coffre dump latest", After("rm -rf /home/u/studio/app")),
        ],
        then: "diff -r /srv/keep/studio /home/u/studio && diff -r /srv/keep/studio /srv/back && cmp /root/.env.back /srv/keep/studio/.env",
    });
}

#[test]
fn restore_without_coffre() {
    follow(&Page {
        title: "Restore without Coffre",
        hurt: "mv /home/u/studio /srv/kept",
        special: &[],
        then: "diff -r /srv/kept /srv/back/home/u/studio && [ \"$(cat /srv/back2/home/u/studio/app/app.py)\" = one ]",
    });
}

#[test]
fn lost_or_wrong_key() {
    follow(&Page {
        title: "Lost or wrong key",
        hurt: "mkdir -p /root/.ssh; ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519
               age-keygen -o /root/wrong.key 2>/dev/null; coffre --identity /root/wrong.key snapshots",
        special: &[("cp -a ", After("flip /srv/vault/keys/owner-0001-age.age 400; coffre verify"))],
        then: "coffre key restore /root/kit && READS",
    });
}

#[test]
fn keys_are_gone() {
    follow(&Page {
        title: "Keys/ is gone",
        hurt: "rm -r /srv/vault/keys /srv/vault/parity/keys; coffre snapshots",
        special: &[("coffre --identity /root/owner.key verify", Ends(4, "keys/sealer-web1.age  deleted"))],
        then: "coffre seal /home/u/studio && coffre verify --depth chunks && READS",
    });
}

#[test]
fn a_former_owner() {
    follow(&Page {
        title: "A former owner",
        hurt: "age-keygen -o /root/other.key 2>/dev/null; coffre key add --name other --recipient \"$(age-keygen -y /root/other.key)\"",
        special: &[],
        then: "READS && ! coffre --identity /root/other.key snapshots",
    });
}

#[test]
fn every_way_in() {
    follow(&Page {
        title: "Ways in",
        hurt: "age-keygen -o /root/safe.key 2>/dev/null; age-keygen -y /root/safe.key > /root/recipients",
        special: &[
            ("coffre key add  ", Told("two words\\ntwo words\\n")),
            ("coffre key add --name safe", Not("age1… stands for a key; the next line adds one")),
            ("coffre key passphrase", Told("three\\nthree\\n")),
        ],
        then: "READS",
    });
}

#[test]
fn lost_catalog() {
    follow(&Page {
        title: "Lost or damaged catalog",
        hurt: "rm -r /root/.local/state/coffre/*/catalog*; coffre seal /home/u/studio; rm -r /root/.local/state/coffre/*/catalog*",
        special: &[],
        then: "coffre verify --depth chunks && READS",
    });
}

#[test]
fn a_new_host() {
    follow(&Page {
        title: "New host",
        hurt: "",
        special: &[("coffre enroll", After("export COFFRE_STATE_DIR=/root/web2; unset COFFRE_IDENTITY"))],
        then: "export COFFRE_IDENTITY=/root/owner.key; coffre verify --depth chunks && coffre snapshots | grep web2",
    });
}

#[test]
fn lost_state_directory() {
    follow(&Page {
        title: "Lost state directory",
        hurt: "coffre key add --sealer web2 --output /root/first.token; export COFFRE_STATE_DIR=/root/web2
               coffre enroll /root/first.token; coffre seal /home/u/studio; rm -r /root/web2; coffre --identity /root/none seal /home/u/studio",
        special: &[],
        then: "coffre verify --depth chunks && [ \"$(coffre snapshots | grep -c web2)\" = 2 ]",
    });
}

#[test]
fn lost_host() {
    follow(&Page {
        title: "Lost host",
        hurt: "mv /home/u/studio /root/kept; rm -r /srv/vault /root/.local",
        special: &[],
        then: "diff -r /root/kept /home/u/studio && coffre verify --depth chunks && [ \"$(coffre snapshots | grep -c web1)\" = 3 ]",
    });
}

#[test]
fn interrupted_seal() {
    follow(&Page {
        title: "Interrupted seal",
        hurt: "head -c 40000000 /dev/urandom > /home/u/studio/large; timeout -s KILL 0.2 coffre seal /home/u/studio; coffre verify",
        special: &[],
        then: "READS",
    });
}

#[test]
fn damaged_or_missing_objects() {
    follow(&Page {
        title: "Damaged or missing objects",
        hurt: "flip \"$(largest)\" 700000; rm \"$(find /srv/vault/packs -name '*.age' -size -300k -size +100k | head -1)\"",
        special: &[
            ("coffre verify", Ends(4, "damaged  packs/")),
            ("coffre verify --repair", Ends(4, "repaired packs/")),
            ("coffre verify --repair --from", Ends(0, "from another copy")),
            ("coffre verify | awk", After("rm \"$(largest)\"")),
            ("coffre verify --repair --from-source", After("rm -r /srv/vault/damaged; rm \"$(largest)\"")),
            ("coffre verify --repair --from-source", Ends(0, "is stored again")),
        ],
        then: "coffre verify --depth chunks && READS",
    });
}

#[test]
fn a_vault_on_a_dying_disk() {
    follow(&Page {
        title: "A vault on a dying disk",
        hurt: "for pack in $(find /srv/vault/packs -name '*.age'); do flip $pack 3000; done; rm /srv/vault/index/*/*; coffre verify",
        special: &[("coffre copy", Ends(4, "wrong    packs/"))],
        then: "export COFFRE_VAULT=/media/new/vault; READS",
    });
}

#[test]
fn wrong_files_sealed() {
    follow(&Page {
        title: "Wrong files sealed",
        hurt: "head -c 90000 /dev/urandom > /home/u/studio/secret.pem; coffre seal /home/u/studio; coffre copy /media/offsite/vault
               SNAP=$(coffre --json snapshots --last 1 | grep -o '\"id\": *\"[0-9a-f]*' | grep -o '[0-9a-f]*$' | cut -c1-8)",
        special: &[],
        then:
            "! coffre find secret.pem | grep . && coffre verify --depth chunks && coffre --vault /media/offsite/vault verify --depth chunks
               rm /home/u/studio/secret.pem; READS",
    });
}

#[test]
fn rolled_back() {
    follow(&Page {
        title: "The vault was rolled back",
        hurt: "rm /srv/vault/snaps/web1/0000000002.*; coffre verify",
        special: &[],
        then: "coffre verify --depth chunks && READS",
    });
}

#[test]
fn a_stolen_host() {
    follow(&Page {
        title: "A host was stolen or taken over",
        hurt: "for n in 3 4 5; do coffre -q seal /home/u/studio; done
               now=$(date +%FT%T); while [ \"$(date +%FT%T)\" = \"$now\" ]; do :; done; SINCE=$(date +%FT%T)
               for n in 6 7; do coffre -q seal /home/u/studio; done",
        special: &[],
        then: "coffre verify --depth chunks && [ \"$(coffre snapshots | grep -c web1)\" = 5 ] && ! coffre seal /home/u/studio && READS",
    });
}

#[test]
fn full_disk() {
    follow(&Page {
        title: "Full disk",
        hurt: "mkdir /media/large /srv/small; mount -t tmpfs -o size=8m none /srv/small; cp -a /srv/vault /srv/small/; rm -r /srv/vault
               mkdir /srv/vault; mount --bind /srv/small/vault /srv/vault
               head -c 9000000 /dev/urandom > /home/u/studio/large; coffre seal /home/u/studio",
        special: &[],
        then: "export COFFRE_VAULT=/media/large/vault; coffre verify --depth chunks && READS",
    });
}

#[test]
fn dead_or_busy_mount() {
    follow(&Page {
        title: "Dead or busy mount",
        hurt: "mkdir /mnt/vault; coffre mount /mnt/vault & served=$!
               until mountpoint -q /mnt/vault; do :; done; kill -9 $served; ls /mnt/vault",
        special: &[("coffre unmount --lazy", After("cd /mnt/vault; coffre unmount /mnt/vault; cd /root"))],
        then: "ls /mnt/vault/latest/home/u/studio/app",
    });
}

#[test]
fn copies() {
    follow(&Page {
        title: "Copy offsite",
        hurt: "mkdir /media/usb",
        special: &[("coffre --vault /srv/vault copies add far", Not("there is no bucket; tests/remote.rs has one"))],
        then: "COFFRE_VAULT=/media/offsite/vault; coffre verify --depth chunks && READS",
    });
}
