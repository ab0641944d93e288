//! One sandbox: what was asked for, its life, its processes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use forge_domain::{Lifecycle, Network as NetworkAccess, WorkspaceLocation};
use forge_infra_sandbox::{
    ProcessView, SandboxConfig, SandboxEnvironment, SandboxLimits, SandboxView, SessionChoice,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::failure::{Failure, chain};
use crate::process::Process;
use crate::state::StateDirectory;
use crate::terminal::Terminals;
use crate::wire::{
    CreateSandboxResponse, Network, Resources, SandboxFacts, SandboxResponse, now_ms,
};

/// So many processes that have ended are remembered.
const REMEMBERED: usize = 256;

/// Processes of a sandbox at the same time. Their numbers begin again after as many, so that it is more than
/// anybody needs.
const MAX_PROCESSES: u64 = 8192;

const MIB: u64 = 1024 * 1024;

/// Where relative paths and commands begin.
const HOME: &str = "/home/forge";

/// What was asked for, with every default filled in.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub(crate) id: String,
    pub(crate) namespace: String,
    pub(crate) name: Option<String>,
    pub(crate) image: Option<String>,
    pub(crate) entrypoint: Option<Vec<String>>,
    pub(crate) resources: Resources,
    /// 0 is none.
    pub(crate) timeout_secs: u64,
    pub(crate) network: Network,
    pub(crate) auto_resume: bool,
}

/// Where a sandbox is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Pending,
    Running,
    Suspended,
    /// It never ran.
    Failed,
    Terminated,
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Suspended => "suspended",
            Self::Failed => "failed",
            Self::Terminated => "terminated",
        }
    }

    pub(crate) fn is_over(self) -> bool {
        matches!(self, Self::Failed | Self::Terminated)
    }
}

/// Why a sandbox ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    Asked,
    Cancelled,
    Timeout,
    ServerEnds,
}

impl Reason {
    fn name(self) -> &'static str {
        match self {
            Self::Asked => "user_requested",
            Self::Cancelled => "cancelled",
            Self::Timeout => "timeout",
            Self::ServerEnds => "server_shutdown",
        }
    }
}

/// What can be asked of a sandbox's life but its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Suspend,
    Resume,
}

/// A sandbox, and what is left to say about it when it has ended.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    wish: Wish,
    created_ms: u64,
    pub(crate) environment: SandboxEnvironment,
    state_directory: Arc<StateDirectory>,
    facts: Mutex<Facts>,
    status: watch::Sender<Status>,
    processes: Mutex<Processes>,
    pub(crate) terminals: Arc<Terminals>,
    /// Held by whoever suspends or resumes it.
    transition: tokio::sync::Mutex<()>,
    /// Cancelled when everything of it is gone.
    gone: CancellationToken,
}

/// What changes.
#[derive(Debug)]
struct Facts {
    name: Option<String>,
    auto_resume: bool,
    ended_ms: Option<u64>,
    reason: Option<Reason>,
    error: Option<String>,
    /// Ends the wait for its time limit.
    timer: Option<CancellationToken>,
}

#[derive(Debug, Default)]
struct Processes {
    /// In order of their start.
    all: BTreeMap<u64, Arc<Process>>,
    by_pid: BTreeMap<u32, u64>,
    started: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sandbox {
    pub(crate) fn new(
        wish: Wish,
        template: &SandboxConfig,
        state_directory: &Arc<StateDirectory>,
    ) -> Arc<Self> {
        let environment = environment(&wish, template, state_directory);
        let facts = Facts {
            name: wish.name.clone(),
            auto_resume: wish.auto_resume,
            ended_ms: None,
            reason: None,
            error: None,
            timer: None,
        };
        Arc::new(Self {
            id: wish.id.clone(),
            wish,
            created_ms: now_ms(),
            environment,
            state_directory: Arc::clone(state_directory),
            facts: Mutex::new(facts),
            status: watch::Sender::new(Status::Pending),
            processes: Mutex::default(),
            terminals: Arc::default(),
            transition: tokio::sync::Mutex::default(),
            gone: CancellationToken::new(),
        })
    }

    pub(crate) fn status(&self) -> Status {
        *self.status.borrow()
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.wish.namespace
    }

    pub(crate) fn name(&self) -> Option<String> {
        lock(&self.facts).name.clone()
    }

    pub(crate) fn set_name(&self, name: &str) {
        lock(&self.facts).name = Some(name.to_owned());
    }

    pub(crate) fn set_auto_resume(&self, auto_resume: bool) {
        lock(&self.facts).auto_resume = auto_resume;
    }

    pub(crate) fn response(&self, url: &str) -> SandboxResponse {
        SandboxResponse { id: self.id.clone(), facts: self.facts(url) }
    }

    pub(crate) fn create_response(&self, url: &str) -> CreateSandboxResponse {
        CreateSandboxResponse { sandbox_id: self.id.clone(), facts: self.facts(url) }
    }

    fn facts(&self, url: &str) -> SandboxFacts {
        let (facts, status) = (lock(&self.facts), self.status());
        let wish = self.wish.clone();
        SandboxFacts {
            namespace: wish.namespace,
            name: facts.name.clone(),
            status: status.name(),
            pending_reason: (status == Status::Pending).then_some("scheduling"),
            image: wish.image,
            entrypoint: wish.entrypoint,
            resources: wish.resources,
            timeout_secs: wish.timeout_secs,
            network: wish.network,
            auto_resume: facts.auto_resume,
            allow_unauthenticated_access: false,
            created_at: self.created_ms,
            terminated_at: facts.ended_ms,
            reason: (status == Status::Failed).then_some("StartupFailure"),
            termination_reason: facts.reason.map(Reason::name),
            error_details: facts.error.clone(),
            sandbox_url: url.to_owned(),
        }
    }

    /// Makes it, in a task of its own: whoever has asked may be gone.
    pub(crate) fn begin(self: &Arc<Self>) {
        let sandbox = Arc::clone(self);
        tokio::spawn(async move {
            let prepared = sandbox.environment.prepare().await;
            match prepared {
                Ok(()) if sandbox.move_on(Status::Pending, Status::Running) => {
                    info!(sandbox_id = %sandbox.id, "A sandbox runs.");
                    sandbox.arm();
                }
                Err(error) if sandbox.move_on(Status::Pending, Status::Failed) => {
                    warn!(sandbox_id = %sandbox.id, %error, "A sandbox could not be made.");
                    {
                        let mut facts = lock(&sandbox.facts);
                        facts.error = Some(chain(&error));
                        facts.ended_ms = Some(now_ms());
                    }
                    sandbox.dispose(Status::Failed).await;
                }
                // It was ended meanwhile, and whoever did that sees to it.
                Ok(()) | Err(_) => {}
            }
        });
    }

    /// Waits until it runs, or is known never to.
    pub(crate) async fn settled(&self) -> Status {
        let mut status = self.status.subscribe();
        let settled = status.wait_for(|status| *status != Status::Pending).await;
        // The sender is this sandbox's own.
        settled.map_or(Status::Terminated, |status| *status)
    }

    fn move_on(&self, from: Status, to: Status) -> bool {
        self.status.send_if_modified(|status| {
            let is_there = *status == from;
            if is_there {
                *status = to;
            }
            is_there
        })
    }

    /// Begins the wait for the time limit anew.
    fn arm(self: &Arc<Self>) {
        if self.wish.timeout_secs == 0 {
            return;
        }
        let timer = CancellationToken::new();
        if let Some(before) = lock(&self.facts).timer.replace(timer.clone()) {
            before.cancel();
        }
        let limit = Duration::from_secs(self.wish.timeout_secs);
        // The sandbox is not kept by waiting for its end.
        let sandbox = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::select! {
                () = timer.cancelled() => return,
                () = tokio::time::sleep(limit) => {}
            }
            let Some(sandbox) = sandbox.upgrade() else { return };
            info!(sandbox_id = %sandbox.id, "The time of a sandbox is over.");
            // One with a name waits to be used again.
            let suspended = match sandbox.name() {
                Some(_) => sandbox.suspend().await.is_ok(),
                None => false,
            };
            if !suspended {
                sandbox.terminate(Reason::Timeout).await;
            }
        });
    }

    /// Makes everything in it stand still. One that does already stays so.
    ///
    /// # Cancel safety
    /// To be called in a task of its own: a dropped future may leave it still and called running.
    async fn suspend(self: &Arc<Self>) -> Result<(), Failure> {
        let _transition = self.transition.lock().await;
        match self.status() {
            Status::Suspended => return Ok(()),
            Status::Running => {}
            Status::Pending | Status::Failed | Status::Terminated => return Err(self.unfit()),
        }
        if self.name().is_none() {
            let text = "a sandbox without a name cannot be suspended";
            return Err(Failure::bad(text));
        }
        self.environment.freeze().await?;
        if !self.move_on(Status::Running, Status::Suspended) {
            // It was ended meanwhile, which is to find it going.
            self.environment.thaw().await?;
            return Err(self.unfit());
        }
        if let Some(timer) = lock(&self.facts).timer.take() {
            timer.cancel();
        }
        info!(sandbox_id = %self.id, "A sandbox was suspended.");
        Ok(())
    }

    /// Lets it go on, with all of its time before it. One that runs already does so.
    async fn resume(self: &Arc<Self>) -> Result<(), Failure> {
        let _transition = self.transition.lock().await;
        match self.status() {
            Status::Running => return Ok(()),
            Status::Suspended => {}
            Status::Pending | Status::Failed | Status::Terminated => return Err(self.unfit()),
        }
        self.environment.thaw().await?;
        if !self.move_on(Status::Suspended, Status::Running) {
            return Err(self.unfit());
        }
        self.arm();
        info!(sandbox_id = %self.id, "A sandbox was resumed.");
        Ok(())
    }

    /// Carries a change of its life out to its end, whatever becomes of who has asked.
    pub(crate) async fn change(self: &Arc<Self>, change: Change) -> Result<(), Failure> {
        let sandbox = Arc::clone(self);
        let task = tokio::spawn(async move {
            match change {
                Change::Suspend => sandbox.suspend().await,
                Change::Resume => sandbox.resume().await,
            }
        });
        match task.await {
            Ok(result) => result,
            Err(error) => Err(Failure::internal(&error)),
        }
    }

    fn unfit(&self) -> Failure {
        let text = format!("the sandbox is {}", self.status().name());
        Failure::new(StatusCode::CONFLICT, "SANDBOX_NOT_RUNNING", text)
    }

    /// Ends it with everything in it, and returns when it is gone. Goes on where the caller gives up; a
    /// second call waits for the first.
    pub(crate) async fn terminate(self: &Arc<Self>, reason: Reason) {
        let mut before = Status::Terminated;
        self.status.send_if_modified(|status| {
            before = *status;
            if !before.is_over() {
                *status = Status::Terminated;
            }
            !before.is_over()
        });
        if !before.is_over() {
            let reason = match (reason, before) {
                (Reason::Asked, Status::Pending) => Reason::Cancelled,
                (reason, _) => reason,
            };
            {
                let mut facts = lock(&self.facts);
                facts.reason = Some(reason);
                facts.ended_ms = Some(now_ms());
                if let Some(timer) = facts.timer.take() {
                    timer.cancel();
                }
            }
            let sandbox = Arc::clone(self);
            tokio::spawn(async move { sandbox.dispose(before).await });
        }
        self.gone.cancelled().await;
    }

    async fn dispose(&self, before: Status) {
        let _gone = self.gone.clone().drop_guard();
        let _transition = self.transition.lock().await;
        // What stands still does not end when it is asked to.
        if before == Status::Suspended
            && let Err(error) = self.environment.thaw().await
        {
            debug!(sandbox_id = %self.id, %error, "A sandbox could not be resumed for its end.");
        }
        for process in self.processes() {
            process.log.release();
        }
        self.terminals.release();
        if let Err(error) = self.environment.close().await {
            warn!(sandbox_id = %self.id, %error, "A sandbox was not closed in full.");
        }
        *lock(&self.processes) = Processes::default();
        if let Some(session) = self.environment.session() {
            let state = Arc::clone(&self.state_directory);
            let removed = tokio::task::spawn_blocking(move || state.remove(&session.id)).await;
            if let Ok(Err(error)) = removed {
                warn!(sandbox_id = %self.id, %error, "What a sandbox wrote could not be removed.");
            }
        }
        debug!(sandbox_id = %self.id, "A sandbox is gone.");
    }

    /// Refuses what needs it to run, where it does not; one that is suspended is resumed, unless it is not to
    /// be.
    pub(crate) async fn running(self: &Arc<Self>) -> Result<(), Failure> {
        let wakes = lock(&self.facts).auto_resume;
        if self.status() == Status::Suspended && wakes {
            return self.change(Change::Resume).await;
        }
        let code = match self.status() {
            Status::Running => return Ok(()),
            // Official clients try again for a while.
            Status::Pending => "SANDBOX_NOT_READY",
            Status::Suspended | Status::Failed | Status::Terminated => "SANDBOX_NOT_RUNNING",
        };
        let text = format!("the sandbox is {}", self.status().name());
        Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, code, text))
    }

    /// Remembers a process; one of before that had its number is forgotten.
    pub(crate) fn remember(&self, process: &Arc<Process>) {
        let mut processes = lock(&self.processes);
        processes.started += 1;
        let number = processes.started;
        if let Some(before) = processes.by_pid.insert(process.pid, number) {
            processes.all.remove(&before);
        }
        processes.all.insert(number, Arc::clone(process));
        if processes.all.len() > REMEMBERED {
            let oldest = processes.all.iter().find(|(_, process)| !process.is_running());
            if let Some((number, pid)) = oldest.map(|(number, process)| (*number, process.pid)) {
                processes.all.remove(&number);
                processes.by_pid.remove(&pid);
            }
        }
    }

    pub(crate) fn process(&self, pid: u32) -> Option<Arc<Process>> {
        let processes = lock(&self.processes);
        let number = processes.by_pid.get(&pid)?;
        processes.all.get(number).cloned()
    }

    /// All that are remembered, in order of their start.
    pub(crate) fn processes(&self) -> Vec<Arc<Process>> {
        lock(&self.processes).all.values().cloned().collect()
    }

    /// How many were ever started.
    pub(crate) fn started(&self) -> u64 {
        lock(&self.processes).started
    }

    pub(crate) fn uptime_secs(&self) -> u64 {
        now_ms().saturating_sub(self.created_ms) / 1000
    }
}

fn environment(
    wish: &Wish,
    template: &SandboxConfig,
    state: &StateDirectory,
) -> SandboxEnvironment {
    let Resources { cpus, memory_mb, disk_mb } = wish.resources;
    let milli_cpus = (cpus * 1000.0).round();
    let disk_bytes = disk_mb.saturating_mul(MIB);
    let limits = SandboxLimits {
        processes: MAX_PROCESSES,
        file_bytes: Some(disk_bytes),
        memory_bytes: Some(memory_mb.saturating_mul(MIB)),
        // It was looked at when it came: some thousandths, and not many.
        milli_cpus: Some(milli_cpus as u64),
        disk_bytes,
        ..template.limits
    };
    let network = match wish.network.allow_internet_access {
        true => NetworkAccess::Full,
        false => NetworkAccess::None,
    };
    let mut config = template
        .clone()
        .view(SandboxView::WholeRoot)
        .processes(ProcessView::Shared)
        .session(SessionChoice::Fresh)
        .network(network)
        .limits(limits);
    config.state_directory.clone_from(&state.path);
    let workspace =
        WorkspaceLocation { root: PathBuf::from("/"), working_directory: PathBuf::from(HOME) };
    SandboxEnvironment::new(config, workspace)
}
