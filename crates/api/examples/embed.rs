//! Forge in a program of one's own: a command on this host with its output as it comes, and, where
//! `OPENAI_API_KEY` is set, a prompt.
//!
//! `cargo run -p forge-api --example embed`
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "an example is a program, and may print and read its environment"
)]

use async_trait::async_trait;
use forge_api::{
    AgentEvent, Bytes, CommandIo, CommandRequest, Commands, ControlRequests, ExecutorConfig,
    ForgeAPI, ForgeConfig, LocalOptions, ModelConfig, OutputSink, OutputStream, Program,
    SinkClosed, Stdin,
};
use futures_util::StreamExt;

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
    let forge = match std::env::var("OPENAI_API_KEY") {
        Ok(key) => {
            let mut model = ModelConfig::new().openai_key(key);
            model.openai_base_url = std::env::var("OPENAI_BASE_URL").ok();
            ForgeAPI::init_local(".", std::env::vars_os(), model).await?
        }
        Err(_) => {
            let options = LocalOptions::inherit(std::env::vars_os());
            ForgeAPI::init(ForgeConfig::new(".", ExecutorConfig::Local(options))).await?
        }
    };
    println!("The workspace is {}.", forge.workspace().root.display());

    let request = CommandRequest::new(Program::shell("echo hello; uname -s; exit 3"));
    let io =
        CommandIo { stdin: Stdin::Empty, sink: Box::new(Shown), control: ControlRequests::none() };
    let exit = forge.executor().run(request, io).await?;
    println!("It ended: {:?} after {:?}.", exit.ending, exit.elapsed);

    if forge.model_id().is_some() {
        let conversation = forge.conversation();
        let mut turn = forge.prompt(conversation, "In one sentence: what is this project?");
        while let Some(event) = turn.next().await {
            match event {
                AgentEvent::Text(text) => print!("{text}"),
                AgentEvent::ToolStarted { tool, summary, .. } => println!("[{tool} {summary}]"),
                _ => {}
            }
        }
        // The conversation can go on with another prompt.
        let (_conversation, report) = turn.finish().await;
        println!("\nThe turn ended: {:?}.", report?.outcome);
    }

    forge.close().await?;
    Ok(())
}
