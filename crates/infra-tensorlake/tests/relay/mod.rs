//! A relay between a client and a server on the loopback, which does to each request what a test or a measurement wants.
//!
//! It has threads of its own and needs no runtime, so that a test of the program and a benchmark can use it too. A request is
//! read whole before it goes on; of an answer, every byte goes on as it comes. The server's address in an answer is replaced by
//! the relay's own, so that a client comes back here.

#![allow(
    dead_code,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "each of those who include it uses a part; a relay listens and connects; one that cannot has no test"
)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// A request as it came.
#[derive(Debug)]
pub(crate) struct Request {
    /// Method and path, without the query.
    pub(crate) shape: String,
    pub(crate) body: Vec<u8>,
    head: String,
}

/// What becomes of a request.
#[derive(Debug)]
pub(crate) enum Fate {
    Pass,
    /// It goes on with another body.
    With(Vec<u8>),
    /// Half of its body goes on; then the connection breaks.
    CutMidway,
    /// It goes on when it is released.
    Hold,
    /// It goes on, and nothing comes back on its connection until it is released.
    HoldAnswer,
}

type Decide = dyn Fn(&Request) -> Fate + Send + Sync;

/// Ends with the process, or when it is dropped.
#[derive(Clone)]
pub(crate) struct Relay {
    shared: Arc<Shared>,
    pub(crate) url: String,
}

struct Shared {
    own: SocketAddr,
    target: Mutex<SocketAddr>,
    /// In each direction.
    delay: Duration,
    decide: Box<Decide>,
    is_down: AtomicBool,
    is_released: Mutex<bool>,
    released: Condvar,
    requests: AtomicUsize,
    held: AtomicUsize,
    connections: Mutex<Vec<TcpStream>>,
}

impl Relay {
    /// Listens, and passes on what comes, each way after the delay, to the server at this address.
    pub(crate) fn start(
        server_url: &str,
        delay: Duration,
        decide: impl Fn(&Request) -> Fate + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            own,
            target: Mutex::new(address(server_url)),
            delay,
            decide: Box::new(decide),
            is_down: AtomicBool::new(false),
            is_released: Mutex::new(false),
            released: Condvar::new(),
            requests: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            connections: Mutex::default(),
        });
        let theirs = Arc::downgrade(&shared);
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let Some(shared) = theirs.upgrade() else { return };
                if !shared.is_down.load(Ordering::SeqCst) {
                    thread::spawn(move || shared.serve(connection));
                }
            }
        });
        Self { shared, url: format!("http://{own}") }
    }

    /// Breaks every connection, and each that is made from now on.
    pub(crate) fn go_down(&self) {
        self.shared.is_down.store(true, Ordering::SeqCst);
        for connection in self.shared.connections.lock().unwrap().drain(..) {
            // One that is closed already is as good.
            drop(connection.shutdown(Shutdown::Both));
        }
    }

    /// Passes on again.
    pub(crate) fn come_back(&self) {
        self.shared.is_down.store(false, Ordering::SeqCst);
    }

    /// Passes on to another server from now on.
    pub(crate) fn aim_at(&self, server_url: &str) {
        *self.shared.target.lock().unwrap() = address(server_url);
    }

    /// Lets go on what is held, and all that comes.
    pub(crate) fn release(&self) {
        *self.shared.is_released.lock().unwrap() = true;
        self.shared.released.notify_all();
    }

    /// How many requests are held, or were.
    pub(crate) fn held(&self) -> usize {
        self.shared.held.load(Ordering::SeqCst)
    }

    /// How many requests have come.
    pub(crate) fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn serve(self: Arc<Self>, client: TcpStream) {
        let target = *self.target.lock().unwrap();
        // The way there and back that a connection takes to be made.
        thread::sleep(self.delay * 2);
        let Ok(server) = TcpStream::connect(target) else { return };
        for connection in [&client, &server] {
            connection.set_nodelay(true).unwrap();
            self.connections.lock().unwrap().push(connection.try_clone().unwrap());
        }
        let answers = (server.try_clone().unwrap(), client.try_clone().unwrap());
        let holds = Arc::new(AtomicBool::new(false));
        let (this, held) = (Arc::clone(&self), Arc::clone(&holds));
        thread::spawn(move || this.answer(answers.0, answers.1, target, &held));
        self.ask(&client, &server, &holds);
        drop((client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both)));
    }

    /// `None` when the connection ends.
    fn ask(&self, client: &TcpStream, mut server: &TcpStream, holds: &AtomicBool) -> Option<()> {
        let mut client = BufReader::new(client);
        loop {
            let request = read_request(&mut client)?;
            self.requests.fetch_add(1, Ordering::SeqCst);
            thread::sleep(self.delay);
            let fate = (self.decide)(&request);
            let Request { mut head, mut body, .. } = request;
            match fate {
                Fate::Pass => {}
                Fate::With(other) => {
                    let fields = head.lines().filter(|line| !is_length(line) && !line.is_empty());
                    let fields: String = fields.map(|line| format!("{line}\r\n")).collect();
                    head = format!("{fields}content-length: {}\r\n\r\n", other.len());
                    body = other;
                }
                Fate::CutMidway => {
                    server.write_all(head.as_bytes()).ok()?;
                    server.write_all(&body[..body.len() / 2]).ok()?;
                    return None;
                }
                Fate::Hold => {
                    self.held.fetch_add(1, Ordering::SeqCst);
                    self.wait_for_release();
                }
                Fate::HoldAnswer => {
                    self.held.fetch_add(1, Ordering::SeqCst);
                    holds.store(true, Ordering::SeqCst);
                }
            }
            // At once: a server that answers without having looked at the body closes a connection on which that is not whole.
            server.write_all(&[head.as_bytes(), &body].concat()).ok()?;
        }
    }

    fn wait_for_release(&self) {
        let is_released = self.is_released.lock().unwrap();
        drop(self.released.wait_while(is_released, |is_released| !*is_released));
    }

    fn answer(
        &self,
        mut server: TcpStream,
        mut client: TcpStream,
        target: SocketAddr,
        holds: &AtomicBool,
    ) {
        let (sender, due) = mpsc::channel::<(Instant, Vec<u8>)>();
        let delay = self.delay;
        let (theirs, ours) = (target.to_string(), self.own.to_string());
        let writer = thread::spawn(move || {
            for (came, bytes) in due {
                thread::sleep((came + delay).saturating_duration_since(Instant::now()));
                if client.write_all(&bytes).is_err() {
                    break;
                }
            }
            drop(client.shutdown(Shutdown::Both));
        });
        let mut piece = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = server.read(&mut piece) {
            if holds.load(Ordering::SeqCst) {
                self.wait_for_release();
            }
            let bytes = replaced(&piece[..read], theirs.as_bytes(), ours.as_bytes());
            if sender.send((Instant::now(), bytes)).is_err() {
                break;
            }
        }
        drop(sender);
        writer.join().unwrap();
    }
}

fn address(url: &str) -> SocketAddr {
    url.trim_start_matches("http://").parse().unwrap()
}

fn is_length(line: &str) -> bool {
    line.to_ascii_lowercase().starts_with("content-length:")
}

fn read_request(client: &mut BufReader<&TcpStream>) -> Option<Request> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if client.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = head.lines().find(|line| is_length(line));
    let length = length.map_or(0, |line| line[15..].trim().parse().unwrap());
    let mut body = vec![0; length];
    client.read_exact(&mut body).ok()?;
    let mut words = head.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let shape = format!("{method} {}", target.split('?').next()?);
    Some(Request { shape, body, head })
}

/// Addresses of the same length: what counts the bytes stays right. Only an answer that is short has one.
fn replaced(bytes: &[u8], theirs: &[u8], ours: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if theirs.len() == ours.len() && bytes.len() < 8 * 1024 {
        let mut at = 0;
        while let Some(found) = bytes[at..].windows(theirs.len()).position(|part| part == theirs) {
            bytes[at + found..at + found + ours.len()].copy_from_slice(ours);
            at += found + ours.len();
        }
    }
    bytes
}
