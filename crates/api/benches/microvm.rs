//! What a turn pays where the project is in a microVM: what the host has edited brought in, and what the guest has changed brought
//! back, one of ten thousand files each; and how many requests each of it takes, and the first upload, with 40 ms of latency.
//!
//! Its argument is the address of a server that takes the key `k`; see benches/microvm.sh.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement that fails says so")]

#[path = "../../infra-tensorlake/tests/relay/mod.rs"]
mod relay;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use forge_api::{
    Changes, CommandIo, CommandRequest, Commands, Ending, Executor, ExecutorConfig, ForgeAPI,
    ForgeConfig, Lifecycle, Program, SecretString, TensorlakeConfig,
};
use tempfile::TempDir;

use crate::relay::{Fate, Relay};

const FILES: usize = 10_000;
const ROUNDS: usize = 9;

#[tokio::main]
async fn main() {
    let url = std::env::args().skip(1).find(|argument| argument.starts_with("http")).unwrap();
    // The first way to the server has nothing in between.
    measure(&url, None, "on the loopback").await;
    let relay = Relay::start(&url, Duration::from_millis(20), |_| Fate::Pass);
    measure(&relay.url, Some(&relay), "with 40 ms of latency").await;
}

async fn measure(url: &str, relay: Option<&Relay>, what: &str) {
    let directory = project();
    let root = directory.path().join("project");
    let config = TensorlakeConfig::new(SecretString::from("k")).api_url(url);
    let config = ForgeConfig::new(&root, ExecutorConfig::Tensorlake(Box::new(config)));
    let forge = ForgeAPI::init(config.state_directory(directory.path().join("state"))).await;
    let forge = forge.unwrap();
    let executor = forge.executor();
    println!("{FILES} files, {what}, ms: median of {ROUNDS}");

    let mut first = Times::new(relay);
    first.of(executor.prepare()).await.unwrap();
    first.show("a microVM, until the project is in it");
    let mut first = Times::new(relay);
    first.of(run(executor, "true")).await;
    first.show("the first command");
    let (mut command, mut delta, mut changes) =
        (Times::new(relay), Times::new(relay), Times::new(relay));
    for round in 0..ROUNDS {
        command.of(run(executor, "true")).await;
        // A turn ends with one.
        executor.checkpoint().await.unwrap();
        fs::write(root.join("directory-7/file-7"), format!("edited {round}\n")).unwrap();
        assert_eq!(delta.of(executor.take_in()).await.unwrap().updated_paths, 1);
        run(executor, &format!("echo changed {round} >directory-8/file-8")).await;
        assert_eq!(changes.of(executor.changes()).await.unwrap().changes.len(), 1);
    }
    command.show("a command (`true`)");
    delta.show("the delta after one edit on the host");
    changes.show("the change set after one edit in the guest");
    let mut end = Times::new(relay);
    let closed = end.of(forge.close()).await;
    end.show("the end, with the microVM's deletion");
    if let Err(error) = closed {
        println!("  {error}");
    }
}

fn project() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for number in 0..FILES {
        let path = format!("project/directory-{}/file-{}", number / 100, number % 100);
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
        fs::write(path, format!("{number}\n").repeat(40)).unwrap();
    }
    directory
}

async fn run(executor: &Executor, text: &str) {
    let request = CommandRequest::new(Program::shell(text));
    let exit = executor.run(request, CommandIo::detached()).await.unwrap();
    assert_eq!(exit.ending, Ending::Exited(0));
}

/// How long something took, and how many requests.
struct Times<'a> {
    relay: Option<&'a Relay>,
    times: Vec<Duration>,
    requests: usize,
}

impl<'a> Times<'a> {
    fn new(relay: Option<&'a Relay>) -> Self {
        Self { relay, times: Vec::new(), requests: 0 }
    }

    async fn of<T>(&mut self, work: impl Future<Output = T>) -> T {
        let count = || self.relay.map_or(0, Relay::requests);
        let (before, begin) = (count(), Instant::now());
        let done = work.await;
        self.times.push(begin.elapsed());
        self.requests = count() - before;
        done
    }

    fn show(mut self, what: &str) {
        self.times.sort_unstable();
        let at = |index: usize| self.times[index].as_secs_f64() * 1000.0;
        let (median, most) = (at(self.times.len() / 2), at(self.times.len() - 1));
        let requests = match self.relay {
            Some(_) => format!(", {} requests", self.requests),
            None => String::new(),
        };
        println!("  {what:48} {median:8.1} (at the most {most:.1}){requests}");
    }
}
