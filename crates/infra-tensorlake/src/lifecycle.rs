//! Making, waiting for and deleting sandboxes: what is asked, and what the answers mean.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use forge_domain::EnvironmentError;
use reqwest::Method;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::address::{Base, Lifecycle};
use crate::client::{Client, json_body};
use crate::config::TensorlakeConfig;
use crate::failure::{RequestError, unavailable};
use crate::retry::Repeatable;
use crate::wire::{
    CreateSandboxRequest, SandboxResponse, SandboxStatus, WireNetwork, WireResources,
};

/// How often a sandbox that starts is asked for: fast at first, then every second.
const FIRST_POLL: Duration = Duration::from_millis(50);
const LAST_POLL: Duration = Duration::from_secs(1);
/// How long a sandbox is looked for by its name whose creation may be on its way.
const SEARCH_LIMIT: Duration = Duration::from_secs(5);
const SEARCH_INTERVAL: Duration = Duration::from_millis(250);

/// A sandbox that commands can be sent to.
#[derive(Debug, Clone)]
pub(crate) struct Ready {
    pub(crate) id: String,
    /// Where its own interface is.
    base: Base,
    routing_hint: Option<String>,
    /// Whether `run` is missing there; found out once.
    lacks_run: Arc<OnceLock<()>>,
}

impl Ready {
    /// Whether processes have to be started and followed, since `run` is missing.
    pub(crate) fn lacks_run(&self) -> bool {
        self.lacks_run.get().is_some()
    }

    pub(crate) fn remember_that_run_is_missing(&self) {
        if self.lacks_run.set(()).is_ok() {
            info!(sandbox_id = %self.id, "The sandbox has no `run`; commands are started and followed.");
        }
    }

    /// Whether it is reached without a network, over which it pays to send less.
    pub(crate) fn is_near(&self) -> bool {
        self.base.is_loopback()
    }

    /// Addresses a request to the sandbox: by `Host` on this machine, else by a header.
    pub(crate) fn request(
        &self,
        client: &Client,
        method: Method,
        path: &str,
    ) -> reqwest::RequestBuilder {
        let request = client.request(method, &format!("{}{path}", self.base.url));
        let request = if self.base.host == "localhost" || self.base.host == "127.0.0.1" {
            request.header("host", format!("{}.local", self.id))
        } else {
            request.header("x-tensorlake-sandbox-id", &self.id)
        };
        match &self.routing_hint {
            Some(hint) => request.header("x-tensorlake-route-hint", hint),
            None => request,
        }
    }
}

/// What a create came to.
#[derive(Debug)]
pub(crate) struct Created {
    /// Owned from now on, whatever its status.
    pub(crate) id: String,
    pub(crate) response: SandboxResponse,
}

/// What a sandbox is asked for by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SandboxName {
    /// Nothing.
    None,
    /// What somebody wants it to be called: others may have one that is called so.
    Given(String),
    /// What nobody else has ever called one.
    Chosen(String),
}

impl SandboxName {
    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Given(name) | Self::Chosen(name) => Some(name),
        }
    }
}

/// Why there is no sandbox.
#[derive(Debug)]
pub(crate) struct NotCreated {
    pub(crate) error: EnvironmentError,
    pub(crate) remains: Remains,
}

/// What may be left of a creation that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remains {
    Nothing,
    /// A sandbox that nobody knows of: the request may have arrived.
    Perhaps,
}

/// Asks for a sandbox. Every answer that names one is taken, the failures included: what is named exists
/// and has to be deleted. Where the answer is lost, a sandbox with a chosen name is found by that.
pub(crate) async fn create(
    client: &Client,
    lifecycle: &Lifecycle,
    config: &TensorlakeConfig,
    name: &SandboxName,
) -> Result<Created, NotCreated> {
    let NotCreated { error, remains } = match ask(client, lifecycle, config, name).await {
        Ok(created) => return Ok(created),
        Err(not_created) => not_created,
    };
    let SandboxName::Chosen(name) = name else { return Err(NotCreated { error, remains }) };
    if remains == Remains::Nothing {
        return Err(NotCreated { error, remains });
    }
    warn!(name, %error, "It is not known what came of a creation; the sandbox is looked for by its name.");
    match find(client, lifecycle, name).await {
        Ok(Some(response)) if let Some(id) = response.own_id() => {
            info!(sandbox_id = %id, name, "The sandbox was found by its name.");
            Ok(Created { id, response })
        }
        Ok(_) | Err(_) => Err(NotCreated { error, remains }),
    }
}

async fn ask(
    client: &Client,
    lifecycle: &Lifecycle,
    config: &TensorlakeConfig,
    name: &SandboxName,
) -> Result<Created, NotCreated> {
    let body = CreateSandboxRequest {
        resources: WireResources {
            cpus: config.resources.cpus,
            memory_mb: config.resources.memory_mb,
            disk_mb: config.resources.disk_mb,
        },
        image: config.image.as_deref(),
        snapshot_id: config.snapshot_id.as_deref(),
        name: name.as_str(),
        timeout_secs: config.lifetime.as_secs(),
        network: (!config.internet).then_some(WireNetwork { allow_internet_access: false }),
    };
    let operation = "the creation of a sandbox";
    let failed = |error: RequestError| NotCreated {
        remains: if error.may_have_arrived() { Remains::Perhaps } else { Remains::Nothing },
        error: error.in_environment(operation),
    };
    let request = client.request(Method::POST, &lifecycle.sandboxes());
    let request = json_body(request, &body).map_err(failed)?;
    // The newer service holds the answer back until the sandbox runs.
    let response = client
        .send_within(config.start_limit, request, Repeatable::No, &[409, 422, 504])
        .await
        .map_err(failed)?;
    let status = response.status().as_u16();
    let body = client.body(response).await.map_err(failed)?;
    let parsed = serde_json::from_slice::<SandboxResponse>(&body).unwrap_or_default();
    match parsed.own_id() {
        Some(id) if status != 409 => {
            info!(sandbox_id = %id, status, "A sandbox was created.");
            Ok(Created { id, response: parsed })
        }
        _ if status == 409 => {
            let name = name.as_str().unwrap_or_default();
            let error = unavailable(format!("a sandbox named {name:?} exists already"));
            // Somebody else's, unless nobody else can have called one so.
            Err(NotCreated { error, remains: Remains::Perhaps })
        }
        _ => Err(NotCreated {
            error: unavailable(format!(
                "{operation} was answered with {status} and no id: {}",
                client.shown(&String::from_utf8_lossy(&body))
            )),
            remains: Remains::Perhaps,
        }),
    }
}

/// Looks for a sandbox by its id or name, for a while where it may be about to be made. `None` where the server knows none.
pub(crate) async fn find(
    client: &Client,
    lifecycle: &Lifecycle,
    name: &str,
) -> Result<Option<SandboxResponse>, EnvironmentError> {
    let give_up = Instant::now() + SEARCH_LIMIT;
    loop {
        let found = known(client, lifecycle, name).await?;
        if found.is_some() || Instant::now() + SEARCH_INTERVAL > give_up {
            return Ok(found);
        }
        tokio::time::sleep(SEARCH_INTERVAL).await;
    }
}

/// What the server says of a sandbox; `None` where it knows none.
pub(crate) async fn known(
    client: &Client,
    lifecycle: &Lifecycle,
    id_or_name: &str,
) -> Result<Option<SandboxResponse>, EnvironmentError> {
    let failed = |error: RequestError| error.in_environment("a look at the sandbox");
    let request = client.request(Method::GET, &lifecycle.sandbox(id_or_name));
    match client.send(request, Repeatable::Yes, &[]).await {
        Ok(response) => client.json(response).await.map(Some).map_err(failed),
        Err(error) if error.is(404) || error.is(410) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// What a wait began with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beginning {
    Creation,
    /// The sandbox may be suspended for a while yet.
    Resumption,
}

/// Waits until a sandbox runs, asking fast at first.
pub(crate) async fn wait_until_running(
    client: &Client,
    lifecycle: &Lifecycle,
    config: &TensorlakeConfig,
    id: &str,
    mut response: SandboxResponse,
    beginning: Beginning,
) -> Result<Ready, EnvironmentError> {
    let give_up = Instant::now() + config.start_limit;
    let mut interval = FIRST_POLL;
    loop {
        match SandboxStatus::of(response.status.as_deref()) {
            SandboxStatus::Running => return ready(client, id, response),
            SandboxStatus::Suspended if beginning == Beginning::Resumption => {}
            SandboxStatus::Failed | SandboxStatus::Terminated | SandboxStatus::Suspended => {
                return Err(unavailable(ended(client, id, &response)));
            }
            // An answer that was not asked for yet.
            SandboxStatus::Unknown(status) if status.is_empty() => {}
            SandboxStatus::Unknown(status) => {
                let status = client.shown(&status);
                warn!(sandbox_id = %id, %status, "The sandbox has a status that is not known.");
            }
            SandboxStatus::Pending | SandboxStatus::Changing => {}
        }
        if Instant::now() + interval > give_up {
            return Err(unavailable(format!(
                "the sandbox {id} did not run within {:?}",
                config.start_limit
            )));
        }
        tokio::time::sleep(interval).await;
        interval = (interval * 2).min(LAST_POLL);
        response = get(client, lifecycle, id).await?;
    }
}

async fn get(
    client: &Client,
    lifecycle: &Lifecycle,
    id: &str,
) -> Result<SandboxResponse, EnvironmentError> {
    let failed = |error: RequestError| error.in_environment("the wait for the sandbox");
    let request = client.request(Method::GET, &lifecycle.sandbox(id));
    let response = client.send(request, Repeatable::Yes, &[]).await.map_err(failed)?;
    client.json(response).await.map_err(failed)
}

fn ready(client: &Client, id: &str, response: SandboxResponse) -> Result<Ready, EnvironmentError> {
    let Some(url) = response.sandbox_url else {
        return Err(unavailable(format!("the server gave no address for the sandbox {id}")));
    };
    let base = Base::parse(&url).map_err(|error| {
        let error = client.shown(&error.to_string());
        unavailable(format!("the sandbox {id} cannot be addressed: {error}"))
    })?;
    Ok(Ready {
        id: id.to_owned(),
        base,
        routing_hint: response.routing_hint,
        lacks_run: Arc::default(),
    })
}

fn ended(client: &Client, id: &str, response: &SandboxResponse) -> String {
    let reasons = [
        response.reason.clone(),
        response.termination_reason.clone(),
        response.error_details.as_ref().map(ToString::to_string),
    ];
    let reasons: Vec<String> =
        reasons.into_iter().flatten().map(|reason| client.shown(&reason)).collect();
    let status = response.status.as_deref().unwrap_or_default();
    let became = format!("the sandbox {id} became {}", client.shown(status));
    if reasons.is_empty() { became } else { format!("{became}: {}", reasons.join("; ")) }
}

/// Deletes a sandbox. One that is gone already is deleted.
pub(crate) async fn delete(
    client: &Client,
    lifecycle: &Lifecycle,
    id: &str,
) -> Result<(), RequestError> {
    let request = client.request(Method::DELETE, &lifecycle.sandbox(id));
    match client.send(request, Repeatable::Yes, &[]).await {
        Ok(_) => {
            info!(sandbox_id = %id, "The sandbox was deleted.");
            Ok(())
        }
        Err(error) if error.is(404) => Ok(()),
        Err(error) => Err(error),
    }
}

/// How a sandbox stands that seems not to be there.
#[derive(Debug)]
pub(crate) enum Standing {
    /// It runs, or is about to.
    Running,
    Suspended,
    /// It is no more, for this reason.
    Gone(String),
}

/// Asks how a sandbox stands.
pub(crate) async fn look(
    client: &Client,
    lifecycle: &Lifecycle,
    id: &str,
) -> Result<Standing, EnvironmentError> {
    let Some(response) = known(client, lifecycle, id).await? else {
        return Ok(Standing::Gone(format!("the sandbox {id} no longer exists")));
    };
    Ok(standing(client, id, &response))
}

/// What an answer about a sandbox says.
pub(crate) fn standing(client: &Client, id: &str, response: &SandboxResponse) -> Standing {
    match SandboxStatus::of(response.status.as_deref()) {
        SandboxStatus::Suspended => Standing::Suspended,
        SandboxStatus::Failed | SandboxStatus::Terminated => {
            Standing::Gone(ended(client, id, response))
        }
        SandboxStatus::Running
        | SandboxStatus::Pending
        | SandboxStatus::Changing
        | SandboxStatus::Unknown(_) => Standing::Running,
    }
}

/// Asks for a suspended sandbox to run again; whether it does is seen by waiting.
pub(crate) async fn resume(
    client: &Client,
    lifecycle: &Lifecycle,
    id: &str,
) -> Result<(), EnvironmentError> {
    let url = format!("{}/resume?wait_ms=30000", lifecycle.sandbox(id));
    let request = client.request(Method::POST, &url);
    // 409: it was resumed or suspended meanwhile; the wait tells.
    let sent = client.send(request, Repeatable::Yes, &[409]).await;
    sent.map(drop).map_err(|error| error.in_environment("the resumption of the sandbox"))
}

/// Asks for a sandbox to stand still. The server may go on with that after its answer.
pub(crate) async fn suspend(
    client: &Client,
    lifecycle: &Lifecycle,
    id: &str,
) -> Result<(), RequestError> {
    let url = format!("{}/suspend", lifecycle.sandbox(id));
    client.send(client.request(Method::POST, &url), Repeatable::Yes, &[]).await.map(drop)
}
