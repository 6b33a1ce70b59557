//! A machine for one page: places that are nobody else's, a vault with two snapshots, and a copy of it.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use tempfile::TempDir;

/// What each command ended with and said, all of that for people, and whether what must hold at the end does.
pub struct Outcome {
    pub steps: Vec<(i32, String)>,
    pub all: String,
    pub is_whole: bool,
}

pub struct Machine(TempDir);

/// Marks that cannot be in what a command says.
const MARK: &str = "@@@step";
const END: &str = "@@@end";

/// The lines of a script that run one command, in the shell itself: `cd` and `export` last.
pub fn step(n: usize, command: &str, input: &str) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
    // Nothing was sealed yesterday.
    let examples = [("yesterday", "$YESTERDAY"), ("2026-11-25T03:00", "$SINCE"), ("1a2b3c4d", "$SNAP"), ("/var/log/", "/root/")];
    let typed = examples.iter().fold(command.to_owned(), |typed, (example, real)| typed.replace(example, real));
    let (shown, typed) = (quoted(&format!("$ {command}")), quoted(&typed));
    if !input.is_empty() {
        // Who is asked has a terminal.
        return format!(
            "printf '%s\\n' '{MARK} {n}' {shown}\nprintf %b {} | script -qec {typed} /dev/null\nprintf '\\n%s %s\\n' '{END} {n}' $?\n",
            quoted(input)
        );
    }
    format!("printf '%s\\n' '{MARK} {n}' {shown}\neval {typed} < /dev/null\nprintf '\\n%s %s\\n' '{END} {n}' $?\n")
}

impl Machine {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("coffre-test-").tempdir().unwrap();
        for name in ["srv", "root", "home", "media", "mnt", "bin"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_coffre"), dir.path().join("bin/coffre")).unwrap();
        // Another machine is this one; packages are there already.
        for (name, script) in [("ssh", "#!/bin/sh\nshift\nexec sh -c \"$*\"\n"), ("apt", "#!/bin/sh\n")] {
            let path = dir.path().join("bin").join(name);
            fs::write(&path, script).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self(dir)
    }

    pub fn run(&self, script: &str, then: &str) -> Outcome {
        let at = self.0.path().display();
        let script = format!(
            "exec 2>&1
set -e
mount --make-rprivate /
for d in srv root home media mnt; do mount --bind {at}/$d /$d; done
unset COFFRE_PASSPHRASE COFFRE_STATE_DIR COFFRE_CACHE_DIR COFFRE_TEST_HOST
export PATH={at}/bin:$PATH HOME=/root TZ=UTC LC_ALL=C.UTF-8 COFFRE_VAULT=/srv/vault COFFRE_IDENTITY=/root/owner.key
cd /root
hostname web1
{TOOLS}
{SETUP}
set +e
{script}
cd /
if {then}; then echo '@@@whole'; fi
grep ' fuse.coffre ' /proc/self/mounts | cut -d' ' -f2 | while read -r m; do umount -l \"$m\"; done
"
        );
        let output = Command::new("unshare").args(["--mount", "--uts", "bash", "-c", &script]).output().unwrap();
        let all = String::from_utf8_lossy(&output.stdout).into_owned();
        let steps = all.split(MARK).skip(1).filter_map(|step| {
            let (said, end) = step.split_once(END)?;
            Some((end.lines().next()?.split(' ').nth(2)?.parse().ok()?, said.to_owned()))
        });
        Outcome { steps: steps.collect(), is_whole: all.contains("@@@whole"), all }
    }
}

/// What the scripts of pages use.
const TOOLS: &str = r#"
flip() {
    python3 -c 'import sys; f = open(sys.argv[1], "r+b"); n = int(sys.argv[2]); f.seek(n); b = f.read(1); f.seek(n); f.write(bytes([b[0] ^ 8]))' "$1" "$2"
}
largest() { find /srv/vault/packs -name '*.age' -printf '%s %p\n' | sort -n | tail -1 | cut -d' ' -f2; }
# The newest snapshot reads as the source is.
READS() { rm -rf /root/check; coffre restore latest --to /root/check && diff -r /home/u/studio /root/check/home/u/studio; }
"#;

/// Two snapshots, in two seconds, of a tree with content of every size, and a copy of the vault.
const SETUP: &str = r#"
age-keygen -o /root/owner.key 2>/dev/null
mkdir -p /home/u/studio/app /media/offsite
coffre init --recipient "$(age-keygen -y /root/owner.key)" > /root/kit 2>/dev/null
echo one > /home/u/studio/app/app.py; echo SECRET=1 > /home/u/studio/.env
head -c 3000000 /dev/urandom > /home/u/studio/app/blob; head -c 200000 /dev/urandom > /home/u/studio/blob
coffre -q seal /home/u/studio
export YESTERDAY=$(date +%FT%T)
while [ "$(date +%FT%T)" = "$YESTERDAY" ]; do :; done
echo two > /home/u/studio/app/app.py; head -c 150000 /dev/urandom > /home/u/studio/later
coffre -q seal /home/u/studio
coffre -q copy /media/offsite/vault
"#;
