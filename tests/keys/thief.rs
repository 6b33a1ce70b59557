//! A thief: has a sealer's state directory, what its memory held after a seal, and the whole vault. Opens nothing.

use std::{
    cell::RefCell,
    fs,
    os::{fd::OwnedFd, unix::fs::FileExt, unix::fs::MetadataExt},
    process::{Child, Stdio},
    str::FromStr,
};

use coffre::{
    error::ErrorKind,
    format::unhex,
    pack::{Identity, Unwrap, open_whole},
    vault::{OwnerKeys, SealerKeys, Token},
};
use ring::{aead, hkdf};
use rustix::process::Signal;

use crate::{
    Machine,
    common::{
        bin::{Coffre, Home, everything_in, run_tool, secret, send, tool, until},
        tree,
    },
};

/// A pipe that takes nothing any more: who writes to it waits.
fn full_pipe() -> (OwnedFd, OwnedFd) {
    use rustix::fs::{OFlags, fcntl_setfl};
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    while rustix::io::write(&writer, &[b'.'; 4096]).is_ok() {}
    while rustix::io::write(&writer, b".").is_ok() {}
    fcntl_setfl(&writer, OFlags::empty()).unwrap();
    (reader, writer)
}

/// Runs `command` until it wants to print its result, and no further.
fn held(mut command: Coffre) -> (Child, OwnedFd) {
    let (reader, writer) = full_pipe();
    let child = command.0.stdout(Stdio::from(writer)).stderr(Stdio::null()).spawn().unwrap();
    drop(command);
    let call = format!("/proc/{}/syscall", child.id());
    // The number of the call differs between machines; its first argument is standard output.
    until("it prints", || fs::read_to_string(&call).is_ok_and(|text| text.split(' ').nth(1) == Some("0x1")));
    (child, reader)
}

/// Everything that a process could write to, as its memory was.
pub fn memory_of(child: &Child) -> Vec<Vec<u8>> {
    let maps = fs::read_to_string(format!("/proc/{}/maps", child.id())).unwrap();
    let memory = fs::File::open(format!("/proc/{}/mem", child.id())).unwrap();
    let mut parts = Vec::new();
    for line in maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|mode| mode.starts_with("rw"))) {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let (from, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        let mut part = vec![0; (to - from) as usize];
        if memory.read_exact_at(&mut part, from).is_ok() {
            parts.push(part);
        }
    }
    assert!(parts.iter().map(Vec::len).sum::<usize>() > 1 << 20, "the memory was read");
    parts
}

pub fn contains(parts: &[Vec<u8>], what: &[u8]) -> bool {
    let first = what[0];
    parts.iter().any(|part| part.windows(what.len()).any(|window| window[0] == first && window == what))
}

/// Texts of age identities, wherever they stand.
fn identities_in(part: &[u8]) -> Vec<Identity> {
    const START: &[u8] = b"AGE-SECRET-KEY-1";
    let starts = (0..part.len().saturating_sub(74)).filter(|at| part[*at] == b'A' && part[*at..].starts_with(START));
    starts.filter_map(|at| Identity::from_str(std::str::from_utf8(&part[at..at + 74]).ok()?).ok()).collect()
}

/// 32 bytes as an X25519 identity: as they are, and as arithmetic uses them.
fn raw_forms(identity: &str) -> Vec<Vec<u8>> {
    let (_, bytes) = bech32::decode(identity).unwrap();
    let mut clamped = bytes.clone();
    clamped[0] &= 248;
    clamped[31] = clamped[31] & 127 | 64;
    vec![bytes, clamped]
}

/// The objects of the vault that are sealed, with their names.
fn sealed_objects(home: &Home) -> Vec<(String, Vec<u8>)> {
    let all = everything_in(&home.vault()).into_iter().filter_map(|(path, bytes)| Some((path.to_str()?.to_owned(), bytes?)));
    all.filter(|(name, _)| name.ends_with(".age")).collect()
}

/// What an age file hides behind its first block's key: the nonce of the file, the first bytes, and the nonce of its first block.
struct Target {
    name: String,
    first_block: Vec<u8>,
    starts_with: [u8; 4],
    nonce: [u8; 12],
}

impl Target {
    fn new(name: &str, file: &[u8]) -> Self {
        let head = file.windows(4).position(|w| w == b"--- ").unwrap();
        let payload = head + file[head..].iter().position(|b| *b == b'\n').unwrap() + 1 + 16;
        let first_block = file[payload..file.len().min(payload + (64 << 10) + 16)].to_vec();
        let mut nonce = [0; 12];
        nonce[11] = u8::from(payload + first_block.len() == file.len());
        let magic: u32 = if name.starts_with("packs/") { 0x184D_2A5C } else { 0xFD2F_B528 };
        Self { name: name.to_owned(), first_block, starts_with: magic.to_le_bytes(), nonce }
    }

    /// Whether these 32 bytes are the key of its blocks. The first bytes of the key stream say so at once for nearly all that are not.
    fn opens(&self, key: &[u8]) -> bool {
        let mut sample = [0; 16];
        sample[0] = 1;
        sample[4..].copy_from_slice(&self.nonce);
        let mask = aead::quic::HeaderProtectionKey::new(&aead::quic::CHACHA20, key).unwrap().new_mask(&sample).unwrap();
        if (0..4).any(|i| mask[i] ^ self.first_block[i] != self.starts_with[i]) {
            return false;
        }
        let key = aead::LessSafeKey::new(aead::UnboundKey::new(&aead::CHACHA20_POLY1305, key).unwrap());
        let nonce = aead::Nonce::assume_unique_for_key(self.nonce);
        key.open_in_place(nonce, aead::Aad::empty(), &mut self.first_block.clone()).is_ok()
    }
}

/// The targets whose block key lies somewhere in memory.
fn keys_found(parts: &[Vec<u8>], targets: &[Target]) -> Vec<String> {
    let mut found = Vec::new();
    for part in parts {
        for at in (0..part.len().saturating_sub(31)).step_by(4) {
            let key = &part[at..at + 32];
            // No key has a word twice, but for one in a hundred million.
            let mut words: Vec<&[u8]> = key.chunks(4).collect();
            if words[0] == words[1] || words[2] == words[3] || words[5] == words[6] {
                continue;
            }
            words.sort_unstable();
            words.dedup();
            if words.len() == 8 {
                found.extend(targets.iter().filter(|t| t.opens(key)).map(|t| t.name.clone()));
            }
        }
    }
    found
}

/// Keeps the file key that an identity unwraps.
struct Catch<'a>(&'a Identity, RefCell<Vec<u8>>);

impl age::Identity for Catch<'_> {
    fn unwrap_stanza(&self, stanza: &age_core::format::Stanza) -> Option<Result<age_core::format::FileKey, age::DecryptError>> {
        use age::secrecy::ExposeSecret;
        let opened = self.0.unwrap_stanza(stanza)?;
        if let Ok(key) = &opened {
            *self.1.borrow_mut() = key.expose_secret().to_vec();
        }
        Some(opened)
    }
}

/// The key of the blocks of an age file, for who may have it.
fn block_key(file: &[u8], identity: &Identity) -> [u8; 32] {
    struct Len;
    impl hkdf::KeyType for Len {
        fn len(&self) -> usize {
            32
        }
    }
    let catch = Catch(identity, RefCell::default());
    drop(age::Decryptor::new(file).unwrap().decrypt(std::iter::once(&catch as &dyn age::Identity)).unwrap());
    let head = file.windows(4).position(|w| w == b"--- ").unwrap();
    let at = head + file[head..].iter().position(|b| *b == b'\n').unwrap() + 1;
    let mut key = [0; 32];
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, &file[at..at + 16]).extract(&catch.1.borrow());
    prk.expand(&[b"payload"], Len).unwrap().fill(&mut key).unwrap();
    key
}

#[test]
fn a_thief_of_state_memory_and_vault_opens_no_pack_tree_or_manifest() {
    let home = Home::new();
    tree::small(&home.source());
    home.seal();
    let web2 = Machine::enrolled(&home, "web2");
    tree::small(&web2.source());
    fs::write(web2.source().join("large"), tree::noise(3, 9_000_000)).unwrap();
    let (mut child, reader) = held(web2.coffre(&["seal", web2.source().to_str().unwrap()]));
    let memory = memory_of(&child);
    send(&child, Signal::KILL);
    child.wait().unwrap();
    drop(reader);

    // What an owner has, and a thief would like to.
    let owner_file = home.vault().join("keys/owner-0001-age.age");
    let keys = run_tool("age", "age", &["-d", "-i", home.key().to_str().unwrap(), owner_file.to_str().unwrap()]);
    let mut secrets: Vec<Vec<u8>> = Vec::new();
    let owner_key = fs::read_to_string(home.key()).unwrap();
    for line in keys.lines().chain(owner_key.lines()) {
        if line.starts_with("AGE-SECRET-KEY-") {
            secrets.extend(raw_forms(line));
            secrets.push(line.as_bytes().to_vec());
        } else if let Some(hex) = line.strip_prefix("# coffre-vs ").or(line.strip_prefix("# coffre-sign ")) {
            secrets.extend([unhex::<32>(hex).unwrap().to_vec(), hex.as_bytes().to_vec()]);
        }
    }
    assert_eq!(secrets.len(), 4 * 3 + 2 * 2, "two pairs' halves, the way's, the owner's own; and two that are no identities");
    let state: Vec<Vec<u8>> = everything_in(&web2.state()).into_iter().filter_map(|(_, bytes)| bytes).collect();
    let sealer_text = state.iter().find(|bytes| bytes.starts_with(b"coffre-sealer 1\n")).unwrap();
    let sealer = SealerKeys::decode(std::str::from_utf8(sealer_text).unwrap()).unwrap();
    // The search works: what a sealer needs is found in both places.
    assert!(contains(&memory, sealer.sign.seed()) && contains(&state, coffre::format::hex(sealer.sign.seed()).as_bytes()));
    for secret in &secrets {
        assert!(!contains(&memory, secret) && !contains(&state, secret), "a secret of the owner, {} bytes long", secret.len());
    }

    // Every identity that can be made of what was found, on every object.
    let mut found: Vec<Identity> = memory.iter().chain(&state).flat_map(|part| identities_in(part)).collect();
    found.push(sealer.index_identity());
    for line in std::str::from_utf8(sealer_text).unwrap().lines() {
        if let Some(bytes) = line.split(' ').nth(1).and_then(unhex::<32>) {
            found.push(coffre::pack::identity_from_bytes(&bytes));
        }
    }
    let unwraps: Vec<Unwrap> = found.iter().map(|identity| identity as Unwrap).collect();
    let own_index = format!("index/{}/", sealer.domain.short());
    let objects = sealed_objects(&home);
    for (name, file) in &objects {
        let opened = open_whole(&unwraps, file, name);
        // A second copy is the same object.
        match name.strip_prefix("parity/").unwrap_or(name).starts_with(&own_index) {
            // The one thing that it may: which chunks its domain has. No content, no names.
            true => assert!(opened.is_ok(), "{name}"),
            false => assert_eq!(opened.err().map(|e| e.kind()), Some(ErrorKind::WrongKey), "{name}"),
        }
    }
    assert!(objects.len() > 12 && OwnerKeys::decode(std::str::from_utf8(sealer_text).unwrap(), sealer.vault).is_err());

    // Not even the keys of single objects, which it had while it made them, are left.
    let made: Vec<Target> = objects
        .iter()
        .filter(|(name, _)| name.starts_with("packs/") || name.starts_with("snaps/web2/"))
        .map(|(name, file)| Target::new(name, file))
        .collect();
    let identities: Vec<Identity> = keys.lines().filter_map(|line| Identity::from_str(line).ok()).collect();
    for (name, file) in objects.iter().filter(|(name, _)| name.starts_with("packs/")) {
        // Again: the search works.
        let key = identities.iter().find_map(|id| open_whole(&[id], file, name).is_ok().then(|| block_key(file, id))).unwrap();
        assert_eq!(keys_found(&[[&[1; 8][..], &key, &[2; 8]].concat()], &made), std::slice::from_ref(name));
    }
    assert_eq!(keys_found(&memory, &made), Vec::<String>::new());
}

#[test]
fn every_command_of_a_thief_fails_that_would_read() {
    let home = Home::new();
    let web2 = Machine::enrolled(&home, "web2");
    tree::small(&web2.source());
    web2.seal(&web2.source());
    home.owner(["key", "rotate"]).ok();
    web2.seal(&web2.source());
    let file = format!("latest:{}/hello", web2.source().display());
    let kit = home.owner(["key", "kit"]).ok().text();
    secret(&home.path("kit"), &kit);
    secret(&home.path("new"), "mine now\n");
    let mnt = home.mnt();
    let commands: [&[&str]; 12] = [
        &["cat", &file],
        &["mount", mnt.to_str().unwrap()],
        &["mount", "--daemon", mnt.to_str().unwrap()],
        &["verify", "--depth", "chunks"],
        &["key", "add", "--new-passphrase-file", "new"],
        &["key", "add", "--sealer", "web9"],
        &["key", "add", "--sealer", "web2", "--again"],
        &["key", "remove", "1"],
        &["key", "rotate"],
        &["key", "kit"],
        &["key", "restore", "kit"],
        &["--passphrase-file", "new", "cat", &file],
    ];
    let vault = everything_in(&home.vault());
    for command in commands {
        web2.coffre(command).refused(12);
    }
    // Its files are no keys, for coffre and for age.
    let state = fs::read_dir(web2.state()).unwrap().next().unwrap().unwrap().path();
    for name in ["sealer", "owner.pub", "heads"] {
        let path = state.join(name);
        web2.coffre(&["--identity", path.to_str().unwrap(), "cat", &file]).refused(2);
        let done = Coffre({
            let mut command = tool("python3");
            command.arg(home.vault().join("RESTORE.py")).arg(&path).arg(home.path("dest")).current_dir("/");
            command
        });
        assert_ne!(done.run().code, 0, "{name}");
    }
    assert!(everything_in(&home.vault()) == vault, "and nothing was changed");
    assert!(SealerKeys::decode(&fs::read_to_string(state.join("sealer")).unwrap()).is_ok());
}

#[test]
fn a_running_coffre_is_not_dumped_and_not_looked_into() {
    let home = Home::without_vault();
    // Copied by another process: a file that this one has open for writing cannot be run.
    run_tool("cp", "coreutils", &[env!("CARGO_BIN_EXE_coffre"), home.path("binary").to_str().unwrap()]);
    run_tool("chmod", "coreutils", &["755", home.path("binary").to_str().unwrap(), home.path("").to_str().unwrap()]);
    let nobody = |program: &str, args: &[&str]| {
        let mut command = tool("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", program]).args(args).current_dir(home.path(""));
        Coffre(command)
    };
    for (program, args, owner) in [("./binary", ["man"], 0), ("cat", ["/proc/self/maps"], 65534)] {
        let (mut child, reader) = held(nobody(program, &args));
        // The kernel gives the files of a process that may not be looked into to root.
        let seen = fs::metadata(format!("/proc/{}/environ", child.id())).unwrap().uid();
        child.kill().unwrap();
        child.wait().unwrap();
        drop(reader);
        assert_eq!(seen, owner, "{program}");
    }
}

#[test]
fn no_secret_comes_back_in_words() {
    let home = Home::new();
    let web2 = Machine::new(&home, "web2");
    web2.invite(&[]);
    let token = fs::read_to_string(web2.token()).unwrap().trim().to_owned();
    let part = token.split(':').nth(3).unwrap();
    let done = web2.coffre(&["enroll", &token]).refused(2);
    assert!(!done.err.contains(part), "{}", done.err);
    let key = fs::read_to_string(home.key()).unwrap().lines().last().unwrap().to_owned();
    // A key among other lines, a key in the wrong place, a key that is cut.
    secret(&home.path("odd"), &format!("{key}\nnonsense\n"));
    secret(&home.path("cut"), &key[..60]);
    for args in [&["--identity", "odd", "key", "kit"][..], &["--identity", "cut", "key", "kit"], &["key", "add", "--recipient", &key]] {
        let done = home.coffre(args).run();
        assert!(done.code != 0 && !done.err.contains(&key[16..58]), "{}", done.err);
    }
    for args in [&["key", "list"][..], &["key", "kit"], &["verify", "--depth", "chunks"], &["snapshots"]] {
        let done = home.owner(["--json"]).args(args).ok();
        let said = format!("{}{}", done.text(), done.err);
        assert!(!said.contains("SECRET") && !said.contains(&key[16..]), "{said}");
    }
    // Nor in how a value shows itself where a program fails.
    let shown = format!("{:?}", Token::decode(&token).unwrap());
    assert!(!shown.contains(part) && shown.contains("web2"), "{shown}");
    assert!(!format!("{:?}", coffre::format::Key32::new([7; 32])).contains('7'));
}

#[test]
fn a_key_file_that_others_can_read_is_refused_before_anything_else() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new();
    for mode in [0o640, 0o604, 0o644, 0o660] {
        fs::set_permissions(home.key(), fs::Permissions::from_mode(mode)).unwrap();
        home.owner(["snapshots"]).refused(12).says(&format!("mode is {mode:04o}")).says("chmod 600");
    }
    fs::set_permissions(home.key(), fs::Permissions::from_mode(0o600)).unwrap();
    home.owner(["snapshots"]).ok();
    secret(&home.path("pass"), "x\n");
    fs::set_permissions(home.path("pass"), fs::Permissions::from_mode(0o644)).unwrap();
    home.coffre(["snapshots", "--passphrase-file", "pass"]).refused(12).says("chmod 600");
}

#[test]
fn a_passphrase_in_the_environment_is_kept_from_commands() {
    let home = Home::new();
    let seal = ["seal", "--stdin-name", "env", "--from-command", "env"];
    home.coffre(seal).env("COFFRE_PASSPHRASE", "very secret").ok();
    let text = home.owner(["cat", "latest:/env"]).ok().text();
    assert!(text.contains("COFFRE_STATE_DIR=") && !text.contains("very secret"), "{text}");
}
