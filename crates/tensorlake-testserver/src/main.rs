//! The server as a program: prints its address and serves until it is interrupted or its stdin ends.

#![expect(clippy::print_stdout, reason = "it prints its address, for whoever started it")]

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use forge_tensorlake_testserver::{Creation, Daemon, ServerOptions, TestServer};
use tokio::io::AsyncReadExt as _;

/// A server that speaks Tensorlake's sandbox interface and executes on this machine, for tests.
#[derive(Debug, Parser)]
struct Arguments {
    /// The port; 0 is a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Show processes directories of the server's own in place of this one and of /tmp
    #[arg(long)]
    workspace: Option<PathBuf>,
    /// Be like the open daemon, without `run`
    #[arg(long)]
    open_daemon: bool,
    /// Answer creations with running, pending or timeout
    #[arg(long, default_value = "running", value_parser = ["running", "pending", "timeout"])]
    create: String,
    /// Delay each request by so many milliseconds
    #[arg(long, default_value_t = 0)]
    latency_ms: u64,
}

fn main() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(serve(Arguments::parse()));
    // A read of stdin may still wait; nobody waits for it.
    runtime.shutdown_background();
    outcome
}

async fn serve(arguments: Arguments) -> std::io::Result<()> {
    let server = TestServer::start(ServerOptions {
        port: arguments.port,
        workspace: arguments.workspace,
        daemon: if arguments.open_daemon { Daemon::Open } else { Daemon::WithRun },
        creation: match arguments.create.as_str() {
            "pending" => Creation::Pending,
            "timeout" => Creation::TimedOut,
            _ => Creation::Running,
        },
        latency: Duration::from_millis(arguments.latency_ms),
        ..ServerOptions::default()
    })
    .await?;
    println!("{}", server.url());
    let mut stdin = tokio::io::stdin();
    let mut rest = [0; 64];
    let ended = async { while stdin.read(&mut rest).await.is_ok_and(|bytes| bytes > 0) {} };
    tokio::select! {
        () = ended => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    drop(server);
    Ok(())
}
