//! Forge in a program of one's own: a command on this host, and its output as it comes.
//!
//! `cargo run -p forge-api --example embed`
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "an example is a program, and may print and read its environment"
)]

use async_trait::async_trait;
use forge_api::{
    Bytes, CommandIo, CommandRequest, Commands, ControlRequests, ExecutorConfig, ForgeAPI,
    ForgeConfig, LocalOptions, OutputSink, OutputStream, Program, SinkClosed, Stdin,
};

/// Shows what a command prints.
struct Shown;

#[async_trait]
impl OutputSink for Shown {
    async fn write(&mut self, stream: OutputStream, bytes: Bytes) -> Result<(), SinkClosed> {
        print!("{stream:?}: {}", String::from_utf8_lossy(&bytes));
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Commands get the variables of this process, less the keys of model servers.
    let options = LocalOptions::inherit(std::env::vars_os());
    let forge = ForgeAPI::init(ForgeConfig::new(".", ExecutorConfig::Local(options))).await?;
    println!("The workspace is {}.", forge.workspace().root.display());

    let request = CommandRequest::new(Program::shell("echo hello; uname -s; exit 3"));
    let io =
        CommandIo { stdin: Stdin::Empty, sink: Box::new(Shown), control: ControlRequests::none() };
    let exit = forge.executor().run(request, io).await?;
    println!("It ended: {:?} after {:?}.", exit.ending, exit.elapsed);

    forge.close().await?;
    Ok(())
}
