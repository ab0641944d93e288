//! A server that does to its connections whatever a test wants.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// A request that came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Method and path, without the query.
    pub(crate) shape: String,
    /// How many of the same shape came before.
    pub(crate) nth: usize,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    /// The token of a command, or of a helper text, whose last line shows it.
    pub(crate) fn token(&self) -> String {
        let text = self.text();
        let begins = |line: &str, start: &str| {
            line.strip_prefix(start).and_then(|rest| rest.split(' ').next()).map(str::to_owned)
        };
        let of_command = text.lines().find_map(|line| begins(line, "t=f")).map(|t| format!("f{t}"));
        let of_helper = || text.lines().find_map(|line| begins(line, "printf '%s %s\\n' "));
        if self.is_helper() { of_helper().unwrap() } else { of_command.unwrap() }
    }

    /// Whether a text of the adapter's own is to be run, and no command.
    pub(crate) fn is_helper(&self) -> bool {
        self.text().trim_end().ends_with("$?")
    }

    fn text(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap();
        body["args"][1].as_str().unwrap().to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

#[derive(Debug, Clone)]
enum Step {
    Send(Vec<u8>),
    Pause(Duration),
    Hang,
    Cut,
}

/// What is done to the connection that a request came on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply(Vec<Step>);

impl Reply {
    pub(crate) fn of(status: u16, kind: &str, headers: &str, body: &str) -> Self {
        let length = body.len();
        Self::default().raw(format!(
            "HTTP/1.1 {status} Because\r\ncontent-type: {kind}\r\n{headers}\
             content-length: {length}\r\n\r\n{body}"
        ))
    }

    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self::of(status, "application/json", "", &body.to_string())
    }

    /// Whether these words are in what is sent.
    pub(crate) fn says(&self, words: &str) -> bool {
        let holds = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains(words);
        self.0.iter().any(|step| matches!(step, Step::Send(bytes) if holds(bytes)))
    }

    /// An answer without a body.
    pub(crate) fn empty(status: u16) -> Self {
        Self::of(status, "text/plain", "", "")
    }

    /// The head of a stream of events.
    pub(crate) fn stream() -> Self {
        Self::default().raw(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
             transfer-encoding: chunked\r\n\r\n",
        )
    }

    /// Nothing at all, and the connection stays open.
    pub(crate) fn never() -> Self {
        Self::default().hang()
    }

    /// The connection is closed without a word.
    pub(crate) fn nothing() -> Self {
        Self::default().cut()
    }

    pub(crate) fn raw(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.0.push(Step::Send(bytes.as_ref().to_vec()));
        self
    }

    /// A chunk of these bytes.
    pub(crate) fn bytes(self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend_from_slice(bytes);
        chunk.extend_from_slice(b"\r\n");
        self.raw(chunk)
    }

    pub(crate) fn event(self, data: &Value) -> Self {
        self.bytes(format!("data: {data}\n\n"))
    }

    pub(crate) fn out(self, line: &str) -> Self {
        self.event(&json!({"line": line, "timestamp": 1, "stream": "stdout"}))
    }

    /// A command that begins.
    pub(crate) fn started(self, request: &Seen) -> Self {
        let pid = json!({"pid": 4711, "started_at": 1});
        self.event(&pid).out(&format!("{} start 12", request.token()))
    }

    pub(crate) fn exit(self, code: i64) -> Self {
        self.event(&json!({"exit_code": code})).end()
    }

    /// The end of a follow.
    pub(crate) fn eof(self) -> Self {
        self.bytes("event: eof\ndata: {}\n\n").end()
    }

    /// The end of the stream, as HTTP has it.
    pub(crate) fn end(self) -> Self {
        self.raw("0\r\n\r\n")
    }

    pub(crate) fn pause(mut self, time: Duration) -> Self {
        self.0.push(Step::Pause(time));
        self
    }

    pub(crate) fn hang(mut self) -> Self {
        self.0.push(Step::Hang);
        self
    }

    pub(crate) fn cut(mut self) -> Self {
        self.0.push(Step::Cut);
        self
    }
}

type Answers = dyn Fn(&Seen) -> Reply + Send + Sync;

pub(crate) struct Server {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Server {
    /// Answers with what the function says.
    pub(crate) async fn start(answers: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let (log, answers): (_, Arc<Answers>) = (Arc::clone(&seen), Arc::new(answers));
        let counts = Arc::<Mutex<HashMap<String, usize>>>::default();
        let task = tokio::spawn(async move {
            // They end with this task.
            let mut connections = JoinSet::new();
            while let Ok((connection, _)) = listener.accept().await {
                connection.set_nodelay(true).unwrap();
                let (log, counts) = (Arc::clone(&log), Arc::clone(&counts));
                connections.spawn(serve(connection, Arc::clone(&answers), log, counts));
            }
        });
        Self { url, seen, task }
    }

    /// Every request so far, in order.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn shapes(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.shape).collect()
    }

    pub(crate) fn count(&self, shape: &str) -> usize {
        self.shapes().iter().filter(|seen| *seen == shape).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    connection: TcpStream,
    answers: Arc<Answers>,
    log: Arc<Mutex<Vec<Seen>>>,
    counts: Arc<Mutex<HashMap<String, usize>>>,
) {
    let mut connection = BufReader::new(connection);
    while let Some((shape, head, body)) = read_request(&mut connection).await {
        let nth = {
            let mut counts = counts.lock().unwrap();
            let count = counts.entry(shape.clone()).or_default();
            *count += 1;
            *count - 1
        };
        let seen = Seen { shape, nth, head, body };
        log.lock().unwrap().push(seen.clone());
        for step in answers(&seen).0 {
            match step {
                Step::Send(bytes) => {
                    if connection.get_mut().write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                Step::Pause(time) => tokio::time::sleep(time).await,
                Step::Hang => std::future::pending().await,
                Step::Cut => return,
            }
        }
    }
}

async fn read_request(connection: &mut BufReader<TcpStream>) -> Option<(String, String, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if connection.read_line(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    let length = head.lines().find_map(|line| {
        let (field, value) = line.split_once(':')?;
        field.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().unwrap())
    });
    let mut body = vec![0; length.unwrap_or(0)];
    connection.read_exact(&mut body).await.ok()?;
    let mut words = head.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?);
    let path = target.split('?').next()?;
    Some((format!("{method} {path}"), head, body))
}
