//! `forge serve`: a Tensorlake-compatible server over the embedded sandbox.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use forge_api::{
    ApiKey, OutputStream, SandboxConfig, Server, ServerConfig, Signal, TOOLCHAIN_VARIABLES,
};
use secrecy::SecretString;

use crate::arguments::{ServeArguments, TypedKey};
use crate::choice;
use crate::executor::store_directory;
use crate::exit::Conclusion;
use crate::failure::{self, Failure};
use crate::sessions;
use crate::settings::SettingsError;
use crate::signals::{Arrival, Signals};
use crate::terminal::Paint;
use crate::variables;

/// The key, for those who set neither option.
const KEY_VARIABLE: &str = "FORGE_SERVE_API_KEY";

/// What nobody is to overlook who serves others.
const SHARED_NETWORK: &str = "sandboxes have this machine's network, its loopback and what listens there included, \
                              unless they are made with \"network\": {\"allow_internet_access\": false}";

/// Serves until a signal asks for the end, and then ends every sandbox.
///
/// # Errors
/// The options do not go together, or there can be no server.
pub(crate) async fn run(arguments: ServeArguments) -> Result<Conclusion, Failure> {
    let paint = Paint::choose(arguments.color.unwrap_or_default(), OutputStream::Stderr);
    let listen = listen(&arguments)?;
    let given = given_key(&arguments)?;
    if given.is_none() && !listen.ip().is_loopback() {
        return Err(Failure::Usage(format!(
            "--listen {listen} is more than this machine, and needs a key: --api-key-file FILE, or \
             {KEY_VARIABLE}"
        )));
    }
    let generated = given.is_none();
    let key = match given {
        Some(key) => key,
        None => ApiKey::generate()
            .map_err(|source| Failure::System { what: "no key could be made", source })?,
    };
    let state = match arguments.state_dir {
        Some(directory) => directory,
        None => store_directory()?.join("serve"),
    };
    let state = std::path::absolute(state).map_err(|source| Failure::System {
        what: "the state directory cannot be named",
        source,
    })?;
    // Before anything is there that would have to be ended.
    let mut signals = Signals::listen()
        .map_err(|source| Failure::System { what: "signals cannot be listened to", source })?;
    let mut config = ServerConfig::new(&state, key.clone()).listen(listen);
    config.sandbox = template(state);
    if let Some(limit) = arguments.max_file {
        config = config.max_file_bytes(limit.0.saturating_mul(1024 * 1024));
    }
    raise_descriptor_limit();
    let server = Server::start(config).await?;
    failure::warn(SHARED_NETWORK, paint);
    if generated {
        let text = format!("no key was given; clients need TENSORLAKE_API_KEY={}", key.expose());
        failure::note(&text, paint);
    }
    sessions::print(format!("{}\n", server.url()).as_bytes())?;
    signals.next().await;
    // Whoever asks again does not want to wait.
    tokio::select! {
        () = server.close() => Ok(Conclusion::Done),
        arrival = signals.next() => Ok(Conclusion::Ended(match arrival {
            Arrival::Interrupt => Signal::INT,
            Arrival::Terminate(signal) => signal,
        })),
    }
}

fn listen(arguments: &ServeArguments) -> Result<SocketAddr, Failure> {
    let text = &arguments.listen;
    text.parse().map_err(|_| {
        Failure::Usage(format!("--listen takes an address and a port, as 127.0.0.1:0: {text:?}"))
    })
}

fn given_key(arguments: &ServeArguments) -> Result<Option<ApiKey>, Failure> {
    let secret = match (&arguments.api_key, &arguments.api_key_file) {
        (Some(TypedKey(key)), _) => Some(key.clone()),
        (None, Some(file)) => Some(choice::read_key(file).map_err(SettingsError::from)?),
        (None, None) => variables::text(KEY_VARIABLE)
            .map_err(|name| Failure::Usage(format!("{name} is not UTF-8")))?
            .map(SecretString::from),
    };
    let key = secret.map(|secret| {
        ApiKey::parse(&secret).ok_or_else(|| {
            Failure::Usage("the key is empty, or holds what a header cannot".to_owned())
        })
    });
    key.transpose()
}

/// Takes as many descriptors as there are to be had: each sandbox has some, and each process whose output is
/// much. What commands may have open is a limit of the sandbox's own.
fn raise_descriptor_limit() {
    let resource = rustix::process::Resource::Nofile;
    let limit = rustix::process::getrlimit(resource);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    // With fewer it works as well, with fewer sandboxes.
    if let Err(error) = rustix::process::setrlimit(resource, raised) {
        tracing::debug!(%error, "The limit of open files could not be raised.");
    }
}

/// What all sandboxes have in common: where the user's toolchains are.
fn template(state: PathBuf) -> SandboxConfig {
    let toolchains: Vec<(OsString, OsString)> = std::env::vars_os()
        .filter(|(name, _)| TOOLCHAIN_VARIABLES.iter().any(|known| name == known))
        .collect();
    let mut config = SandboxConfig::new(state).toolchain_variables(toolchains);
    config.home = variables::absolute_path("HOME");
    config
}
