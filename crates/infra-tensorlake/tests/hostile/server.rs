//! A server that answers byte by byte what a test says, whatever that breaks.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    pub(crate) fn is(&self, method: &str, path_end: &str) -> bool {
        self.method == method && self.path.ends_with(path_end)
    }

    /// The word that marks the lines of a command's text.
    pub(crate) fn token(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap();
        let text = body["args"][1].as_str().unwrap();
        let line = text.lines().find(|line| line.starts_with("t=f")).unwrap();
        line[2..].split(' ').next().unwrap().to_owned()
    }
}

/// What is done on the connection, in order.
pub(crate) enum Step {
    Send(Vec<u8>),
    Wait(Duration),
    /// Nothing more is ever said.
    Hang,
    /// The connection ends here.
    Cut,
}

pub(crate) struct Reply(pub(crate) Vec<Step>);

impl Reply {
    pub(crate) fn status(status: u16, headers: &str, body: &str) -> Self {
        let length = body.len();
        let head =
            format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
        Self(vec![Step::Send(head.into_bytes())])
    }

    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self::status(status, "Content-Type: application/json\r\n", &body.to_string())
    }

    /// The beginning of a stream of events; chunks follow.
    pub(crate) fn stream() -> Self {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                    Transfer-Encoding: chunked\r\n\r\n";
        Self(vec![Step::Send(head.into())])
    }

    pub(crate) fn chunk(mut self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        let framed = [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
        self.0.push(Step::Send(framed));
        self
    }

    pub(crate) fn then(mut self, step: Step) -> Self {
        self.0.push(step);
        self
    }

    /// The end of a stream, as HTTP has it.
    pub(crate) fn end(self) -> Self {
        self.then(Step::Send(b"0\r\n\r\n".to_vec()))
    }

    pub(crate) fn silence() -> Self {
        Self(vec![Step::Hang])
    }
}

pub(crate) fn line(stream: &str, text: &str) -> String {
    let data = json!({"line": text, "timestamp": 1, "stream": stream});
    format!("event: output\ndata: {data}\n\n")
}

pub(crate) fn pid() -> &'static str {
    "data: {\"pid\":7,\"started_at\":1}\n\n"
}

pub(crate) fn eof() -> &'static str {
    "event: eof\ndata: {}\n\n"
}

type Answer = dyn Fn(&Asked) -> Option<Reply> + Send + Sync;

/// The server. It makes the sandbox `sb1`, deletes it, says that it runs, and asks the test for the rest.
pub(crate) struct Hostile {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Hostile {
    pub(crate) async fn start(
        answer: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let answer: Arc<Answer> = Arc::new(answer);
        let (log, base) = (Arc::clone(&asked), url.clone());
        let task = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let (log, answer, base) = (Arc::clone(&log), Arc::clone(&answer), base.clone());
                tokio::spawn(async move { drop(serve(connection, &log, &*answer, &base).await) });
            }
        });
        Self { url, asked, task }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, method: &str, path_end: &str) -> usize {
        self.asked().iter().filter(|asked| asked.is(method, path_end)).count()
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut connection: TcpStream,
    log: &Mutex<Vec<Asked>>,
    answer: &Answer,
    base: &str,
) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let Some(asked) = read(&mut connection, &mut buffer).await? else { return Ok(()) };
        log.lock().unwrap().push(asked.clone());
        let reply = answer(&asked).unwrap_or_else(|| usual(&asked, base));
        for step in reply.0 {
            match step {
                Step::Send(bytes) => connection.write_all(&bytes).await?,
                Step::Wait(time) => tokio::time::sleep(time).await,
                Step::Hang => std::future::pending().await,
                Step::Cut => return Ok(()),
            }
        }
    }
}

fn usual(asked: &Asked, base: &str) -> Reply {
    let running = json!({"sandbox_id": "sb1", "status": "running", "sandbox_url": base});
    if asked.is("POST", "/sandboxes") || asked.is("GET", "/sandboxes/sb1") {
        Reply::json(200, &running)
    } else if asked.is("DELETE", "/sandboxes/sb1") {
        Reply::status(200, "", "")
    } else {
        Reply::status(404, "", "")
    }
}

async fn read(connection: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<Option<Asked>> {
    let head_end = loop {
        if let Some(at) = buffer.windows(4).position(|part| part == b"\r\n\r\n") {
            break at + 4;
        }
        if connection.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&buffer[..head_end]).into_owned();
    let length = head
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok()
        })
        .unwrap_or(0_usize);
    while buffer.len() < head_end + length {
        if connection.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
    let body = buffer[head_end..head_end + length].to_vec();
    buffer.drain(..head_end + length);
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
    let path = target.split('?').next().unwrap().to_owned();
    Ok(Some(Asked { method, path, head, body }))
}
