//! The server as a program: prints one line with its URL when it is ready, and serves until it is
//! killed.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use forge_scripted_model::{Script, ScriptedModel, StartOptions};
use thiserror::Error;

const USAGE: &str = "\
usage: scripted-model [--port N] [--shell-commands N | --script FILE.json]

  --port N              the port on 127.0.0.1; 0, the default, takes a free one
  --shell-commands N    asks for N different shell commands, one an answer, then says a text; default 3
  --script FILE.json    says what the file tells it (the crate's README shows the shape)
";

#[derive(Debug, Error)]
enum StartError {
    #[error("{0}\n{USAGE}")]
    Arguments(String),
    #[error("{path:?} cannot be read: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path:?} is no script: {source}")]
    Script { path: PathBuf, source: serde_json::Error },
    #[error("the server cannot be started: {0}")]
    Start(io::Error),
}

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(io::stderr(), "scripted-model: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: impl Iterator<Item = String>) -> Result<(), StartError> {
    let (options, script) = parse(arguments)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::Start)?;
    runtime.block_on(async {
        let server = ScriptedModel::start_with(script, options).await.map_err(StartError::Start)?;
        let mut stdout = io::stdout();
        writeln!(stdout, "{}", server.base_url())
            .and_then(|()| stdout.flush())
            .map_err(StartError::Start)?;
        server.serve().await;
        Ok(())
    })
}

fn parse(
    mut arguments: impl Iterator<Item = String>,
) -> Result<(StartOptions, Script), StartError> {
    let mut options = StartOptions { port: 0, keep_requests: false };
    let mut script = None;
    while let Some(name) = arguments.next() {
        let mut value =
            || arguments.next().ok_or_else(|| StartError::Arguments(format!("{name}: no value")));
        match name.as_str() {
            "--port" => options.port = number(&name, &value()?)?,
            "--shell-commands" => {
                script = Some(Script::shell_commands(number(&name, &value()?)?));
            }
            "--script" => script = Some(read(value()?.into())?),
            _ => return Err(StartError::Arguments(format!("{name}: not an option"))),
        }
    }
    Ok((options, script.unwrap_or_else(|| Script::shell_commands(3))))
}

fn number<N: std::str::FromStr>(name: &str, text: &str) -> Result<N, StartError> {
    text.parse().map_err(|_| StartError::Arguments(format!("{name}: {text:?} is no such number")))
}

fn read(path: PathBuf) -> Result<Script, StartError> {
    let text = std::fs::read_to_string(&path)
        .map_err(|source| StartError::Read { path: path.clone(), source })?;
    serde_json::from_str(&text).map_err(|source| StartError::Script { path, source })
}
