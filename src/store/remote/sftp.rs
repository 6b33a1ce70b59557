//! A folder of a host that one reaches by ssh.

use std::{
    process::Command,
    sync::{Arc, Mutex},
};

use crate::{
    error::{Error, ErrorKind, Result},
    format::hex,
    store::{
        place::Url,
        remote::{
            Attempt, Backend, Failure, Found, Page, Put, Settings,
            ssh::{Message, Packet, Ssh, Words},
        },
    },
    sys,
};

const OPEN: u8 = 3;
const CLOSE: u8 = 4;
const READ: u8 = 5;
const WRITE: u8 = 6;
const OPENDIR: u8 = 11;
const READDIR: u8 = 12;
const REMOVE: u8 = 13;
const MKDIR: u8 = 14;
const STAT: u8 = 17;
const RENAME: u8 = 18;
const EXTENDED: u8 = 200;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRS: u8 = 105;

const OK: u32 = 0;
const END: u32 = 1;
const NO_SUCH_FILE: u32 = 2;

/// Bytes of one read or write: every server takes so many.
const PIECE: usize = 32 << 10;
/// Deepest folder looked into; a vault has four levels.
const DEPTH_MAX: usize = 8;
/// Folders listed at once, all by the one connection.
const FOLDERS_AT_ONCE: usize = 64;
/// The kind of file in its mode.
const TYPE: u32 = 0o170_000;
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;

/// A folder on a host.
pub struct Sftp {
    settings: Arc<Settings>,
    command: Vec<String>,
    folder: String,
    shown: String,
    connection: Mutex<Option<Arc<Ssh>>>,
}

impl Sftp {
    /// `sftp://[USER@]HOST[:PORT]/PATH`, from the root of the host; `/~/PATH` from the home there.
    pub fn open(url: &Url, settings: Arc<Settings>) -> Result<Self> {
        url.only(&[])?;
        let (host, port) = url.host.split_once(':').map_or((url.host.as_str(), None), |(host, port)| (host, Some(port)));
        if host.starts_with('-') || url.user.as_deref().is_some_and(|user| user.starts_with('-')) {
            return Err(Error::usage("this is no host"));
        }
        let ssh = (settings.env)("COFFRE_SSH_COMMAND").unwrap_or_else(|| "ssh".to_owned());
        let mut command: Vec<String> = ssh.split_whitespace().map(str::to_owned).collect();
        for option in ["BatchMode=yes", "ConnectTimeout=15", "ServerAliveInterval=15", "ServerAliveCountMax=3"] {
            command.extend(["-o".to_owned(), option.to_owned()]);
        }
        command.extend(port.into_iter().flat_map(|port| ["-p".to_owned(), port.to_owned()]));
        command.extend(url.user.iter().flat_map(|user| ["-l".to_owned(), user.clone()]));
        command.extend(["-s".to_owned(), "--".to_owned(), host.to_owned(), "sftp".to_owned()]);
        let path = format!("/{}", url.folder());
        let folder = path.strip_prefix("/~/").map_or(path.clone(), str::to_owned);
        let shown = format!("sftp://{}{path}", url.host).trim_end_matches('/').to_owned();
        Ok(Self { settings, command, folder, shown, connection: Mutex::default() })
    }

    /// The connection, made anew if it is gone.
    fn ssh(&self) -> Attempt<Arc<Ssh>> {
        let mut connection = self.connection.lock().expect("nobody panics while connecting");
        if let Some(ssh) = connection.as_ref().filter(|ssh| ssh.is_up()) {
            return Ok(ssh.clone());
        }
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]);
        let ssh = Arc::new(Ssh::connect(command)?);
        *connection = Some(ssh.clone());
        Ok(ssh)
    }

    fn path(&self, path: &str) -> Vec<u8> {
        format!("{}{path}", self.folder).trim_end_matches('/').as_bytes().to_vec()
    }

    fn ask(&self, ssh: &Ssh, kind: u8, message: Message) -> Attempt<Packet> {
        self.settings.traffic.request();
        ssh.ask(kind, message)
    }

    /// Opens a file; `None` if there is no such file.
    fn open_file(&self, ssh: &Ssh, path: &[u8], flags: u32) -> Attempt<Option<Vec<u8>>> {
        self.handle(self.ask(ssh, OPEN, Message::default().bytes(path).u32(flags).u32(4).u32(0o644))?)
    }

    fn handle(&self, packet: Packet) -> Attempt<Option<Vec<u8>>> {
        match (packet.kind, status(&packet)) {
            (HANDLE, _) => Words(&packet.body).bytes().map(|handle| Some(handle.to_vec())).ok_or_else(nonsense),
            (STATUS, Some(NO_SUCH_FILE)) => Ok(None),
            _ => Err(refused(&packet)),
        }
    }

    /// Makes the folder `path` and those above it.
    fn make_folders(&self, ssh: &Ssh, path: &[u8]) -> Attempt<()> {
        let made = self.ask(ssh, MKDIR, Message::default().bytes(path).u32(0))?;
        if status(&made) == Some(OK) || self.kind_of(ssh, path)? == Some(FOLDER) {
            return Ok(());
        }
        let above = path.iter().rposition(|b| *b == b'/').filter(|at| *at > 0).map(|at| &path[..at]);
        self.make_folders(ssh, above.ok_or_else(|| refused(&made))?)?;
        let made = self.ask(ssh, MKDIR, Message::default().bytes(path).u32(0))?;
        match status(&made) == Some(OK) || self.kind_of(ssh, path)? == Some(FOLDER) {
            true => Ok(()),
            false => Err(refused(&made)),
        }
    }

    fn attributes(&self, ssh: &Ssh, path: &[u8]) -> Attempt<Option<Attributes>> {
        let packet = self.ask(ssh, STAT, Message::default().bytes(path))?;
        match (packet.kind, status(&packet)) {
            (ATTRS, _) => attributes(&mut Words(&packet.body)).map(Some).ok_or_else(nonsense),
            (STATUS, Some(NO_SUCH_FILE)) => Ok(None),
            // A file where a folder should be, says one server in these words.
            (STATUS, Some(4)) => Ok(None),
            _ => Err(refused(&packet)),
        }
    }

    fn kind_of(&self, ssh: &Ssh, path: &[u8]) -> Attempt<Option<u32>> {
        Ok(self.attributes(ssh, path)?.map(|found| found.mode & TYPE))
    }

    /// Writes a file that nobody sees yet, and has it reach the disk if the server can do that.
    fn write(&self, ssh: &Ssh, path: &[u8], bytes: &[u8]) -> Attempt<()> {
        // Write, create, exclusively.
        let handle =
            self.open_file(ssh, path, 0x02 | 0x08 | 0x20)?.ok_or_else(|| Failure::passing(Error::unavailable("the folder is gone")))?;
        let mut answers = Vec::new();
        for (n, piece) in bytes.chunks(PIECE).enumerate() {
            self.settings.may_send(piece.len()).map_err(Failure::lasting)?;
            answers.push(ssh.send(WRITE, Message::default().bytes(&handle).u64((n * PIECE) as u64).bytes(piece))?);
        }
        self.settings.traffic.bytes(bytes.len(), 0);
        // All of them are on their way together: a server does one after the other.
        if ssh.extensions.iter().any(|name| name == "fsync@openssh.com") {
            self.settings.traffic.request();
            answers.push(ssh.send(EXTENDED, Message::default().bytes(b"fsync@openssh.com").bytes(&handle))?);
        }
        self.settings.traffic.request();
        let closed = ssh.send(CLOSE, Message::default().bytes(&handle))?;
        for answer in answers {
            done(&ssh.receive(answer)?)?;
        }
        done(&ssh.receive(closed)?)
    }

    fn folder(&self, ssh: &Ssh, path: &str) -> Attempt<Option<Vec<Found>>> {
        let Some(handle) = self.handle(self.ask(ssh, OPENDIR, Message::default().bytes(&self.path(path)))?)? else { return Ok(None) };
        let mut found = Vec::new();
        let more = || {
            self.settings.traffic.request();
            ssh.send(READDIR, Message::default().bytes(&handle))
        };
        // One ahead: most folders are told in one answer, and the second says that this was all.
        let mut ahead = more()?;
        loop {
            let next = more()?;
            let packet = ssh.receive(std::mem::replace(&mut ahead, next))?;
            if status(&packet) == Some(END) {
                break;
            }
            if packet.kind != NAME {
                return Err(refused(&packet));
            }
            self.settings.traffic.bytes(0, packet.body.len());
            let mut words = Words(&packet.body);
            for _ in 0..words.u32().ok_or_else(nonsense)? {
                let (name, _) = (words.bytes().ok_or_else(nonsense)?, words.bytes().ok_or_else(nonsense)?);
                let Attributes { mode, len, stored_ns } = attributes(&mut words).ok_or_else(nonsense)?;
                let name = String::from_utf8_lossy(name);
                let whole = if path.is_empty() { name.to_string() } else { format!("{path}/{name}") };
                match mode & TYPE {
                    _ if name == "." || name == ".." => (),
                    FOLDER => found.push(Found { path: format!("{whole}/"), ..Found::default() }),
                    FILE => found.push(Found { path: whole, len, stored_ns, tag: stored_ns.map(|at| at.to_string()).unwrap_or_default() }),
                    _ => (),
                }
            }
        }
        let _ = ssh.send(CLOSE, Message::default().bytes(&handle));
        Ok(Some(found))
    }
}

/// What is said of a file.
struct Attributes {
    mode: u32,
    len: u64,
    stored_ns: Option<i128>,
}

fn attributes(words: &mut Words) -> Option<Attributes> {
    let flags = words.u32()?;
    let len = if flags & 1 != 0 { words.u64()? } else { 0 };
    if flags & 2 != 0 {
        words.u64()?;
    }
    let mode = if flags & 4 != 0 { words.u32()? } else { 0 };
    let mut stored_ns = None;
    if flags & 8 != 0 {
        words.u32()?;
        stored_ns = Some(i128::from(words.u32()?) * 1_000_000_000);
    }
    if flags & 0x8000_0000 != 0 {
        for _ in 0..words.u32()? {
            words.bytes()?;
            words.bytes()?;
        }
    }
    Some(Attributes { mode, len, stored_ns })
}

fn status(packet: &Packet) -> Option<u32> {
    if packet.kind == STATUS { Words(&packet.body).u32() } else { None }
}

fn done(packet: &Packet) -> Attempt<()> {
    if status(packet) == Some(OK) { Ok(()) } else { Err(refused(packet)) }
}

fn nonsense() -> Failure {
    Failure::lasting(Error::unavailable("what the server says is no SFTP"))
}

fn refused(packet: &Packet) -> Failure {
    let mut words = Words(&packet.body);
    let (code, text) = (words.u32().unwrap_or(0), words.bytes().unwrap_or_default());
    let text = String::from_utf8_lossy(text).into_owned();
    match (packet.kind, code) {
        (STATUS, _) if text.contains("No space left") || text.contains("quota") => super::full(),
        (STATUS, 3) => Failure::lasting(Error::unavailable(format!("the server says: {text}")).hint("check who may write there")),
        // Lost connections pass.
        (STATUS, 6 | 7) => Failure::passing(Error::unavailable(format!("the server says: {text}"))),
        (STATUS, _) => Failure::lasting(Error::new(ErrorKind::Unavailable, format!("the server says: {text}"))),
        _ => nonsense(),
    }
}

impl Backend for Sftp {
    fn put(&self, path: &str, bytes: &[u8]) -> Attempt<Put> {
        let ssh = &*self.ssh()?;
        let target = self.path(path);
        let above = target.iter().rposition(|b| *b == b'/').map(|at| target[..at].to_vec()).unwrap_or_default();
        let random: [u8; 8] = sys::random().map_err(Failure::lasting)?;
        let unfinished =
            [&above[..], if above.is_empty() { b"" } else { b"/" }, format!("{}{}", super::UNFINISHED, hex(&random)).as_bytes()].concat();
        if let Err(failure) = self.write(ssh, &unfinished, bytes) {
            let _ = self.ask(ssh, REMOVE, Message::default().bytes(&unfinished));
            // The first object of its folder.
            if self.kind_of(ssh, &above)? == Some(FOLDER) || above.is_empty() {
                return Err(failure);
            }
            self.make_folders(ssh, &above)?;
            self.write(ssh, &unfinished, bytes)?;
        }
        // This one leaves alone what is there, unlike that of POSIX; with a server that does not, the look before is what counts.
        let moved = self.ask(ssh, RENAME, Message::default().bytes(&unfinished).bytes(&target))?;
        if status(&moved) == Some(OK) {
            return Ok(Put::Done(None));
        }
        let _ = self.ask(ssh, REMOVE, Message::default().bytes(&unfinished));
        match self.attributes(ssh, &target)? {
            Some(_) => Ok(Put::Exists),
            None => Err(refused(&moved)),
        }
    }

    fn get(&self, path: &str, offset: u64, len: usize) -> Attempt<Option<Vec<u8>>> {
        let ssh = &*self.ssh()?;
        let Some(handle) = self.open_file(ssh, &self.path(path), 0x01)? else { return Ok(None) };
        let mut bytes = vec![0; len];
        let read = |at: usize, len: usize| ssh.send(READ, Message::default().bytes(&handle).u64(offset + at as u64).u32(len as u32));
        let pieces: Vec<usize> = (0..len).step_by(PIECE).collect();
        let answers = pieces.iter().map(|at| read(*at, PIECE.min(len - at))).collect::<Attempt<Vec<_>>>()?;
        let mut end = len;
        for (at, answer) in pieces.into_iter().zip(answers) {
            let (mut at, to, mut packet) = (at, len.min(at + PIECE), ssh.receive(answer)?);
            loop {
                if status(&packet) == Some(END) {
                    end = end.min(at);
                    break;
                }
                let mut words = Words(&packet.body);
                let data = words.bytes().filter(|data| packet.kind == DATA && !data.is_empty() && data.len() <= to - at);
                let data = data.ok_or_else(|| refused(&packet))?;
                bytes[at..at + data.len()].copy_from_slice(data);
                self.settings.traffic.bytes(0, data.len());
                self.settings.may_receive(data.len()).map_err(Failure::lasting)?;
                at += data.len();
                if at == to {
                    break;
                }
                // A server may send less than it was asked for.
                packet = ssh.receive(read(at, to - at)?)?;
            }
        }
        bytes.truncate(end);
        let _ = ssh.send(CLOSE, Message::default().bytes(&handle));
        Ok(Some(bytes))
    }

    fn stat(&self, path: &str) -> Attempt<Option<u64>> {
        let found = self.attributes(&*self.ssh()?, &self.path(path))?;
        Ok(found.filter(|found| found.mode & TYPE == FILE).map(|found| found.len))
    }

    fn stored_ns(&self, path: &str) -> Attempt<Option<i128>> {
        Ok(self.attributes(&*self.ssh()?, &self.path(path))?.and_then(|found| found.stored_ns))
    }

    fn list(&self, folder: &str, _: Option<&str>) -> Attempt<Page> {
        let ssh = &*self.ssh()?;
        super::list_folders(folder, DEPTH_MAX, FOLDERS_AT_ONCE, &|path| self.folder(ssh, path))
    }

    fn glance(&self, folder: &str) -> Attempt<Option<Vec<Found>>> {
        let ssh = &*self.ssh()?;
        super::glance_folders(folder, DEPTH_MAX, FOLDERS_AT_ONCE, &|path| self.folder(ssh, path))
    }

    fn delete(&self, path: &str) -> Attempt<()> {
        let packet = self.ask(&*self.ssh()?, REMOVE, Message::default().bytes(&self.path(path)))?;
        match status(&packet) {
            Some(OK | NO_SUCH_FILE) => Ok(()),
            _ => Err(refused(&packet)),
        }
    }

    fn describe(&self) -> String {
        self.shown.clone()
    }
}
