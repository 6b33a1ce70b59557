//! A conversation with an SFTP server through the system's `ssh`: version 3 of the protocol (draft-ietf-secsh-filexfer-02), which is
//! what everybody speaks. Requests of many threads share one connection.

use std::{
    collections::HashMap,
    io::{Read, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU32, Ordering},
        mpsc::{self, Receiver, SyncSender},
    },
    time::Duration,
};

use crate::{
    error::Error,
    store::remote::{Attempt, Failure},
};

/// Longest answer accepted, in bytes: what OpenSSH sends.
const PACKET_MAX: usize = 512 << 10;
/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(60);
/// As much of what ssh says is kept.
const SAID_MAX: usize = 2000;

/// One connection.
pub struct Ssh {
    child: Mutex<Child>,
    input: Mutex<ChildStdin>,
    waiting: Arc<Mutex<HashMap<u32, SyncSender<Packet>>>>,
    said: Arc<Mutex<String>>,
    next: AtomicU32,
    /// The process that made it: a child that was forked has none of its threads.
    pub process: u32,
    /// What the server can do besides.
    pub extensions: Vec<String>,
}

/// One message of the server: its type, and what follows the number.
#[derive(Debug)]
pub struct Packet {
    /// Its type.
    pub kind: u8,
    /// What it says.
    pub body: Vec<u8>,
}

/// An answer that is on its way.
pub struct Expected(Receiver<Packet>);

/// Builds a message.
#[derive(Default)]
pub struct Message(Vec<u8>);

impl Message {
    /// Adds a number.
    pub fn u32(mut self, n: u32) -> Self {
        self.0.extend(n.to_be_bytes());
        self
    }

    /// Adds a long number.
    pub fn u64(mut self, n: u64) -> Self {
        self.0.extend(n.to_be_bytes());
        self
    }

    /// Adds bytes, after their length.
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend((bytes.len() as u32).to_be_bytes());
        self.0.extend(bytes);
        self
    }
}

/// Takes a message apart.
pub struct Words<'a>(pub &'a [u8]);

impl<'a> Words<'a> {
    /// The next number.
    pub fn u32(&mut self) -> Option<u32> {
        let (n, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*n))
    }

    /// The next long number.
    pub fn u64(&mut self) -> Option<u64> {
        let (n, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*n))
    }

    /// The next bytes.
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()? as usize;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }
}

impl Ssh {
    /// Connects with `command`, which speaks SFTP on its standard input and output.
    pub fn connect(mut command: Command) -> Attempt<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(|e| {
            Failure::lasting(Error::io(format!("cannot start {program}"), e).hint("install openssh-client, or set COFFRE_SSH_COMMAND"))
        })?;
        let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(mut input), Some(mut output), Some(errors)) = (input, output, errors) else {
            return Err(Failure::lasting(Error::bug("a child without pipes")));
        };
        let said: Arc<Mutex<String>> = Arc::default();
        start({
            let said = said.clone();
            move || listen(errors, &said)
        })?;
        let hello = input.write_all(&[0, 0, 0, 5, 1, 0, 0, 0, 3]).and_then(|()| input.flush());
        let version = hello.ok().and_then(|()| read_packet(&mut output));
        let Some((2, body)) = version else {
            let _ = child.kill();
            let _ = child.wait();
            return Err(broken_off(&said));
        };
        let mut words = Words(body.get(4..).unwrap_or_default());
        let mut extensions = Vec::new();
        while let (Some(name), Some(_)) = (words.bytes(), words.bytes()) {
            extensions.push(String::from_utf8_lossy(name).into_owned());
        }
        let waiting: Arc<Mutex<HashMap<u32, SyncSender<Packet>>>> = Arc::default();
        start({
            let waiting = waiting.clone();
            move || {
                while let Some((kind, body)) = read_packet(&mut output) {
                    let Some((id, rest)) = body.split_first_chunk::<4>() else { break };
                    let waits = lock(&waiting).remove(&u32::from_be_bytes(*id));
                    if let Some(waits) = waits {
                        let _ = waits.send(Packet { kind, body: rest.to_vec() });
                    }
                }
                // Whoever waits learns that nothing comes any more.
                lock(&waiting).clear();
            }
        })?;
        let process = std::process::id();
        Ok(Self { child: Mutex::new(child), input: Mutex::new(input), waiting, said, next: AtomicU32::new(0), process, extensions })
    }

    /// Sends a request; the answer is waited for later, so that many can be on their way.
    pub fn send(&self, kind: u8, message: Message) -> Attempt<Expected> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = mpsc::sync_channel(1);
        lock(&self.waiting).insert(id, tell);
        let mut packet = Vec::with_capacity(message.0.len() + 9);
        packet.extend((message.0.len() as u32 + 5).to_be_bytes());
        packet.push(kind);
        packet.extend(id.to_be_bytes());
        packet.extend(message.0);
        let mut input = self.input.lock().expect("nobody panics while sending");
        match input.write_all(&packet).and_then(|()| input.flush()) {
            Ok(()) => Ok(Expected(told)),
            Err(_) => {
                lock(&self.waiting).remove(&id);
                Err(broken_off(&self.said))
            }
        }
    }

    /// Waits for an answer.
    pub fn receive(&self, expected: Expected) -> Attempt<Packet> {
        expected.0.recv_timeout(ANSWER).map_err(|e| match e {
            mpsc::RecvTimeoutError::Timeout => {
                Failure::passing(Error::unavailable(format!("the server says nothing for {} s", ANSWER.as_secs())))
            }
            mpsc::RecvTimeoutError::Disconnected => broken_off(&self.said),
        })
    }

    /// Sends a request and waits for its answer.
    pub fn ask(&self, kind: u8, message: Message) -> Attempt<Packet> {
        self.send(kind, message).and_then(|expected| self.receive(expected))
    }

    /// Whether the other end is still there.
    pub fn is_up(&self) -> bool {
        self.process == std::process::id() && matches!(self.child.lock().map(|mut child| child.try_wait()), Ok(Ok(None)))
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        if self.process == std::process::id()
            && let Ok(child) = self.child.get_mut()
        {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn start(work: impl FnOnce() + Send + 'static) -> Attempt<()> {
    let thread = std::thread::Builder::new().name("sftp".to_owned()).spawn(work);
    thread.map(drop).map_err(|e| Failure::lasting(Error::io("cannot start a thread", e)))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics while holding what waits")
}

/// Keeps the last of what ssh says.
fn listen(mut errors: impl Read, said: &Mutex<String>) {
    let mut buf = [0; 512];
    while let Ok(n @ 1..) = errors.read(&mut buf) {
        let mut said = lock(said);
        said.push_str(&String::from_utf8_lossy(&buf[..n]));
        while said.len() > SAID_MAX {
            said.remove(0);
        }
    }
}

fn read_packet(output: &mut impl Read) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    output.read_exact(&mut head).ok()?;
    let len = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let mut body = vec![0; len.checked_sub(1).filter(|len| *len <= PACKET_MAX)?];
    output.read_exact(&mut body).ok()?;
    Some((head[4], body))
}

/// Why there is no connection any more, in ssh's words.
fn broken_off(said: &Mutex<String>) -> Failure {
    let said = lock(said).clone();
    let line =
        said.lines().rev().map(str::trim).find(|line| !line.is_empty() && !line.starts_with("Connection closed")).unwrap_or("").to_owned();
    let lasting = [
        "Permission denied",
        "Could not resolve",
        "Host key verification failed",
        "Connection refused",
        "Bad configuration",
        "subsystem request failed",
    ];
    let error = match line.is_empty() {
        true => Error::unavailable("the connection broke"),
        false => Error::unavailable(format!("ssh says: {line}"))
            .hint("try the same by hand: ssh HOST; keys and hosts are those of ~/.ssh, and no password is asked for"),
    };
    match lasting.iter().any(|text| said.contains(text)) {
        true => Failure::lasting(error),
        false => Failure::passing(error),
    }
}
