//! What the adapter adds to a command, on the loopback: a command through it against the same request sent
//! by a bare client, interleaved; the same with 40 ms of latency; exact output and the open daemon beside it.
//!
//! With an address as its argument, which takes the key `k`, the first two are measured against that server alone.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement that fails says so")]

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use forge_domain::{
    CommandIo, CommandRequest, Commands, Ending, Fidelity, Lifecycle, Program, WorkspaceLocation,
};
use forge_infra_tensorlake::{TensorlakeConfig, TensorlakeEnvironment};
use forge_tensorlake_testserver::{Daemon, ServerOptions, TestServer};
use secrecy::SecretString;
use tokio::runtime::{Builder, Runtime};

const LATENCY: Duration = Duration::from_millis(40);

fn main() {
    // The server has a thread of its own, as another machine would.
    let servers = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    println!("a command (`true`), ms: median (p95)");
    if let Some(url) = std::env::args().skip(1).find(|argument| argument.starts_with("http")) {
        let scratch = PathBuf::from("/tmp/forge-bench");
        let bench = Bench::at(&runtime, url, scratch.join("project"), None);
        let (adapter, bare) = bench.interleaved(&runtime, 300);
        println!("  adapter, by run            {adapter}");
        println!("  the same request, bare     {bare}   ratio {:.3}", adapter.median / bare.median);
        runtime.block_on(bench.environment.close()).unwrap();
        return;
    }

    let near = Bench::new(&servers, &runtime, ServerOptions::default());
    let (adapter, bare) = near.interleaved(&runtime, 300);
    println!("  adapter, by run            {adapter}");
    println!("  the same request, bare     {bare}   ratio {:.3}", adapter.median / bare.median);
    let exact = near.alone(&runtime, 100, Fidelity::Exact);
    println!("  adapter, exact             {exact}");

    let far = ServerOptions { latency: LATENCY, ..ServerOptions::default() };
    let far = Bench::new(&servers, &runtime, far);
    let (slow, slow_bare) = far.interleaved(&runtime, 50);
    println!("  adapter, 40 ms of latency  {slow}   {:+.1} ms", slow.median - adapter.median);
    println!(
        "  bare, 40 ms of latency     {slow_bare}   {:+.1} ms",
        slow_bare.median - bare.median
    );

    let open = ServerOptions { daemon: Daemon::Open, ..ServerOptions::default() };
    let open = Bench::new(&servers, &runtime, open).alone(&runtime, 100, Fidelity::Readable);
    println!("  adapter, the open daemon   {open}");
}

struct Bench {
    _server: Option<TestServer>,
    url: String,
    environment: TensorlakeEnvironment,
    client: reqwest::Client,
    sandbox: String,
    body: Vec<u8>,
}

/// Milliseconds.
struct Figures {
    median: f64,
    p95: f64,
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:7.2} ({:.2})", self.median, self.p95)
    }
}

fn figures(mut times: Vec<Duration>) -> Figures {
    times.sort_unstable();
    let at = |share: f64| {
        let index = ((times.len() - 1) as f64 * share).round() as usize;
        times[index].as_secs_f64() * 1000.0
    };
    Figures { median: at(0.5), p95: at(0.95) }
}

fn request(fidelity: Fidelity) -> CommandRequest {
    CommandRequest::new(Program::argv("true", [""; 0])).fidelity(fidelity)
}

fn environment(url: &str, root: PathBuf) -> TensorlakeEnvironment {
    let workspace = WorkspaceLocation { root: root.clone(), working_directory: root };
    let config = TensorlakeConfig::new(SecretString::from("k")).api_url(url);
    let scratch = workspace.root.with_file_name("scratch");
    TensorlakeEnvironment::new(config.scratch_parent(scratch), workspace).unwrap()
}

impl Bench {
    fn new(servers: &Runtime, runtime: &Runtime, options: ServerOptions) -> Self {
        let server = servers.block_on(TestServer::start(options)).unwrap();
        let root = server.directory().join("project");
        Self::at(runtime, server.url(), root, Some(server))
    }

    fn at(runtime: &Runtime, url: String, root: PathBuf, server: Option<TestServer>) -> Self {
        let environment = environment(&url, root.clone());
        runtime.block_on(environment.prepare()).unwrap();
        let body = captured(runtime, root);
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls())
            .no_proxy()
            .tcp_nodelay(true)
            .build()
            .unwrap();
        let sandbox = environment.id().unwrap();
        Self { _server: server, url, environment, client, sandbox, body }
    }

    fn interleaved(&self, runtime: &Runtime, rounds: usize) -> (Figures, Figures) {
        let (mut adapter, mut bare) = (Vec::new(), Vec::new());
        for round in 0..rounds + 10 {
            let times = (self.by_adapter(runtime, Fidelity::Readable), self.by_client(runtime));
            // The first ones open connections and warm caches.
            if round >= 10 {
                adapter.push(times.0);
                bare.push(times.1);
            }
        }
        (figures(adapter), figures(bare))
    }

    fn alone(&self, runtime: &Runtime, rounds: usize, fidelity: Fidelity) -> Figures {
        let times = (0..rounds + 5).map(|_| self.by_adapter(runtime, fidelity));
        figures(times.skip(5).collect())
    }

    fn by_adapter(&self, runtime: &Runtime, fidelity: Fidelity) -> Duration {
        let begin = Instant::now();
        let run = self.environment.run(request(fidelity), CommandIo::detached());
        let exit = runtime.block_on(run).unwrap();
        let elapsed = begin.elapsed();
        assert_eq!(exit.ending, Ending::Exited(0));
        elapsed
    }

    fn by_client(&self, runtime: &Runtime) -> Duration {
        let begin = Instant::now();
        let text = runtime.block_on(async {
            let request = self
                .client
                .post(format!("{}/api/v1/processes/run", self.url))
                .header("host", format!("{}.local", self.sandbox))
                .header("authorization", "Bearer k")
                .header("accept", "text/event-stream")
                .header("content-type", "application/json")
                .body(self.body.clone());
            request.send().await.unwrap().text().await.unwrap()
        });
        let elapsed = begin.elapsed();
        assert!(text.contains("\"exit_code\":0"), "{text}");
        elapsed
    }
}

/// The client wants one, though it speaks no TLS here.
fn tls() -> rustls::ClientConfig {
    rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
}

/// What the adapter sends for the command.
fn captured(runtime: &Runtime, root: PathBuf) -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let base = url.clone();
    let capture = std::thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        loop {
            let (head, body) = read(&mut connection);
            if head.contains("/processes/run ") {
                return body;
            }
            let answer = format!(
                "{{\"sandbox_id\":\"s\",\"status\":\"running\",\"sandbox_url\":\"{base}\"}}"
            );
            let length = answer.len();
            write!(connection, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{answer}")
                .unwrap();
        }
    });
    let environment = environment(&url, root);
    let run = environment.run(request(Fidelity::Readable), CommandIo::detached());
    // The connection ends with the thread, and so does the command's chance.
    assert!(runtime.block_on(run).is_err());
    capture.join().unwrap()
}

fn read(connection: &mut std::net::TcpStream) -> (String, Vec<u8>) {
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    loop {
        let head_end = bytes.windows(4).position(|part| part == b"\r\n\r\n");
        if let Some(at) = head_end {
            let head = String::from_utf8_lossy(&bytes[..at]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |text| text.parse().unwrap());
            if bytes.len() >= at + 4 + length {
                return (head, bytes[at + 4..].to_vec());
            }
        }
        let count = connection.read(&mut part).unwrap();
        assert!(count > 0, "the adapter hung up");
        bytes.extend_from_slice(&part[..count]);
    }
}
