//! A line with delay and a bounded speed between a client and a server on loopback; counts what the client asks for.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use coffre::sys::{Clock, SystemClock};

/// A proxy of TCP. It ends with the process.
pub struct Line {
    /// Where clients connect.
    pub port: u16,
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
}

impl Line {
    /// A line to `port` of this machine: `delay` for each round trip, `bytes_per_sec` in each direction, over all connections.
    pub fn to(port: u16, delay: Duration, bytes_per_sec: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let line = Self { port: listener.local_addr().expect("it is bound").port(), sent: Arc::default(), received: Arc::default() };
        let lanes = [Lane::new(delay / 2, bytes_per_sec, &line.sent), Lane::new(delay / 2, bytes_per_sec, &line.received)];
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let (up, down) = (lanes[0].clone(), lanes[1].clone());
                // A connection costs a round trip too.
                SystemClock.sleep(delay / 2);
                let (Ok(from_client), Ok(to_client)) = (client.try_clone(), client.try_clone()) else { continue };
                let (Ok(from_server), Ok(to_server)) = (server.try_clone(), server.try_clone()) else { continue };
                std::thread::spawn(move || up.carry(from_client, to_server));
                std::thread::spawn(move || down.carry(from_server, to_client));
            }
        });
        line
    }

    /// A line that breaks each of the first `times` connections after `bytes` in either direction; later ones hold.
    pub fn that_breaks(port: u16, bytes: u64, times: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let line = Self { port: listener.local_addr().expect("it is bound").port(), sent: Arc::default(), received: Arc::default() };
        let counted = [line.sent.clone(), line.received.clone()];
        std::thread::spawn(move || {
            for (n, client) in (0..).zip(listener.incoming().flatten()) {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let left = Arc::new(AtomicU64::new(if n < times { bytes } else { u64::MAX }));
                let (Ok(client_again), Ok(server_again)) = (client.try_clone(), server.try_clone()) else { continue };
                let [sent, received] = counted.clone();
                let left_too = left.clone();
                std::thread::spawn(move || carry_until(client, server, &left, &sent));
                std::thread::spawn(move || carry_until(server_again, client_again, &left_too, &received));
            }
        });
        line
    }

    /// Bytes that went to the server, and came from it.
    pub fn bytes(&self) -> (u64, u64) {
        (self.sent.load(Ordering::SeqCst), self.received.load(Ordering::SeqCst))
    }
}

#[derive(Clone)]
struct Lane {
    delay: Duration,
    bytes_per_sec: u64,
    /// When the lane is free again, in ns of the monotonic clock.
    free: Arc<AtomicU64>,
    counted: Arc<AtomicU64>,
}

impl Lane {
    fn new(delay: Duration, bytes_per_sec: u64, counted: &Arc<AtomicU64>) -> Self {
        Self { delay, bytes_per_sec, free: Arc::default(), counted: counted.clone() }
    }

    /// Carries bytes until one end closes. What is on its way is kept apart from what is being read, so that delay costs no speed.
    fn carry(self, mut from: TcpStream, mut to: TcpStream) {
        let (tell, told) = std::sync::mpsc::sync_channel::<(u64, Vec<u8>)>(256);
        let delay = self.delay;
        let writer = std::thread::spawn(move || {
            for (at, bytes) in told {
                let now = SystemClock.monotonic().as_nanos() as u64;
                SystemClock.sleep(Duration::from_nanos((at + delay.as_nanos() as u64).saturating_sub(now)));
                if to.write_all(&bytes).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(std::net::Shutdown::Write);
        });
        let mut buf = vec![0; 16 << 10];
        while let Ok(n @ 1..) = from.read(&mut buf) {
            self.counted.fetch_add(n as u64, Ordering::SeqCst);
            let cost = n as u64 * 1_000_000_000 / self.bytes_per_sec;
            let now = SystemClock.monotonic().as_nanos() as u64;
            let begun = self.free.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |free| Some(free.max(now) + cost)).unwrap_or(now);
            if tell.send((begun.max(now) + cost, buf[..n].to_vec())).is_err() {
                break;
            }
        }
        drop(tell);
        let _ = writer.join();
    }
}

/// Carries bytes until no more are left, then breaks the connection in both directions.
fn carry_until(mut from: TcpStream, mut to: TcpStream, left: &AtomicU64, counted: &AtomicU64) {
    let mut buf = vec![0; 16 << 10];
    while let Ok(n @ 1..) = from.read(&mut buf) {
        counted.fetch_add(n as u64, Ordering::SeqCst);
        let before = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(n as u64));
        if before.is_err() || to.write_all(&buf[..n]).is_err() {
            break;
        }
    }
    for end in [from, to] {
        let _ = end.shutdown(std::net::Shutdown::Both);
    }
}
