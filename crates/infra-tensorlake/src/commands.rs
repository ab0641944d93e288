//! Commands: from a request to what the guest's shell is given, and the start.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use forge_domain::{
    CommandError, CommandExit, CommandIo, CommandRequest, ControlRequest, ControlRequests, Ending,
    EnvironmentError, Fidelity, Notice, Program, RetainedOutput, Stdin,
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::description::ask;
use crate::environment::{Inner, random_name};
use crate::failure::{RequestError, closed, unavailable};
use crate::follow::{FAR_FUTURE, Follower, Limits, next_request};
use crate::guest::{
    CommandText, Delivery, Input, MARK, Refusal, command_text, shell_argv, terminal_text, word,
};
use crate::process::{Launch, Process, Replay};
use crate::retry::Repeatable;
use crate::scripts::{Guest, Script, Way};

/// The kernel's limit for one argument, its NUL included (`MAX_ARG_STRLEN`).
const MAX_ARGUMENT_BYTES: usize = 128 * 1024 - 1;
/// A request's body may be limited to 2 MiB; what JSON makes of a text comes on top.
const MAX_ALL_ARGUMENTS_BYTES: usize = 1024 * 1024;
/// How long, past limit and grace, the guest waits before it ends a command by itself.
const BOUND_MARGIN: Duration = Duration::from_secs(5);

/// How the command is looked after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Somebody waits for it.
    Foreground,
    /// It goes on by itself, so it is a process of its own and not one of a `run`, whose leftovers end
    /// with it.
    Background,
}

/// A command, ready to be put into a request.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) token: String,
    argv: Vec<OsString>,
    variables: Vec<OsString>,
    directory: PathBuf,
    delivery: Delivery,
    input: Input,
    bound: Option<Duration>,
    manner: Manner,
}

impl Plan {
    pub(crate) fn new(
        inner: &Inner,
        request: &CommandRequest,
        stdin: &Stdin,
        manner: Manner,
    ) -> Result<Self, CommandError> {
        let config = &inner.config;
        let argv = match &request.program {
            Program::Argv { program, arguments } => {
                if program.is_empty() {
                    return Err(invalid("the program has no name"));
                }
                [program].into_iter().chain(arguments).cloned().collect()
            }
            Program::Shell(text) => shell_argv(text),
        };
        let variables: Vec<OsString> = config
            .environment
            .iter()
            .chain(&request.environment)
            .map(|variable| {
                let mut text = variable.name().as_os_str().to_owned();
                text.push("=");
                text.push(variable.value().expose());
                text
            })
            .collect();
        check(argv.iter().chain(&variables))?;
        let directory = match &request.working_directory {
            Some(directory) => inner.workspace.working_directory.join(directory),
            None => inner.workspace.working_directory.clone(),
        };
        if directory.as_os_str().as_bytes().contains(&0) {
            return Err(invalid("the working directory holds a NUL byte"));
        }
        let grace = request.termination_grace;
        Ok(Self {
            token: format!("f{}", random_name()),
            argv,
            variables,
            directory,
            delivery: match (request.fidelity, manner) {
                (Fidelity::Readable, Manner::Foreground) => Delivery::Lines,
                (Fidelity::Exact, _) | (_, Manner::Background) => Delivery::Exact,
            },
            input: match stdin {
                Stdin::Empty => Input::Nothing,
                Stdin::Stream(_) => Input::Pieces,
            },
            bound: request
                .time_limit
                .map(|limit| limit.min(FAR_FUTURE) + grace.min(FAR_FUTURE) + BOUND_MARGIN),
            manner,
        })
    }

    /// The same for a terminal of this kind, where the request and the environment say no other.
    pub(crate) fn on_terminal(mut self, kind: &str) -> Self {
        if !self.variables.iter().any(|variable| variable.as_bytes().starts_with(b"TERM=")) {
            self.variables.push(format!("TERM={kind}").into());
        }
        self
    }

    /// What goes to the guest for a command on a terminal.
    pub(crate) fn terminal_text(&self, inner: &Inner) -> (String, Vec<String>) {
        terminal_text(&self.text(inner, Way::Run, Delivery::Exact))
    }

    fn text<'a>(&'a self, inner: &'a Inner, way: Way, delivery: Delivery) -> CommandText<'a> {
        CommandText {
            token: &self.token,
            workspace: &inner.workspace.root,
            home: &inner.workspace.working_directory,
            directory: &self.directory,
            scratch: &inner.scratch,
            mark: inner.project_mark(),
            variables: &self.variables,
            argv: &self.argv,
            delivery,
            input: self.input,
            held: way == Way::Held,
            own_bound: self.bound.filter(|_| way == Way::Held),
        }
    }

    /// What goes to the guest. A held process delivers exactly, whatever was asked for: a server without
    /// `run` loses lines and ends programs that print what is no UTF-8.
    fn launch(&self, inner: &Inner, way: Way) -> (Launch, Delivery) {
        let delivery = match way {
            Way::Run => self.delivery,
            Way::Held => Delivery::Exact,
        };
        let (text, arguments) = command_text(&self.text(inner, way, delivery));
        let environment = match delivery {
            Delivery::Lines => BTreeMap::from([(MARK.to_owned(), self.token.clone())]),
            Delivery::Exact => BTreeMap::new(),
        };
        let bound = self.bound.filter(|_| way == Way::Run);
        let repeatable = Repeatable::No;
        (Launch { text, arguments, environment, bound, user: None, repeatable }, delivery)
    }

    async fn start(
        &self,
        inner: &Inner,
        guest: &Guest,
    ) -> Result<(Process, Delivery), RequestError> {
        let replay = |delivery| match delivery {
            Delivery::Lines => Replay::Counted,
            Delivery::Exact => Replay::Numbered,
        };
        if self.input == Input::Pieces || self.manner == Manner::Background {
            let (launch, delivery) = self.launch(inner, Way::Held);
            let Guest { client, ready, .. } = guest;
            let process = Process::start_held(client, ready, &launch, replay(delivery)).await?;
            return Ok((process, delivery));
        }
        let (process, way) =
            guest.start(replay(self.delivery), |way| self.launch(inner, way).0).await?;
        let delivery = if way == Way::Held { Delivery::Exact } else { self.delivery };
        Ok((process.with_replay(replay(delivery)), delivery))
    }
}

fn invalid(reason: impl Into<String>) -> CommandError {
    CommandError::Invalid { reason: reason.into() }
}

fn check<'a>(words: impl Iterator<Item = &'a OsString>) -> Result<(), CommandError> {
    let mut all = 0;
    for word in words {
        if word.as_bytes().contains(&0) {
            return Err(invalid("it holds a NUL byte"));
        }
        if word.len() > MAX_ARGUMENT_BYTES {
            return Err(invalid(
                "a part of it is longer than the 128 KiB that an argument can have",
            ));
        }
        all += word.len() + 1;
    }
    if all > MAX_ALL_ARGUMENTS_BYTES {
        return Err(invalid("it is longer than the 1 MiB that can be sent"));
    }
    Ok(())
}

impl Inner {
    /// Runs a command in a task of its own, which goes on where the caller gives up, to end the command.
    pub(crate) async fn run_command(
        self: &Arc<Self>,
        request: CommandRequest,
        io: CommandIo,
    ) -> Result<CommandExit, CommandError> {
        let plan = Plan::new(self, &request, &io.stdin, Manner::Foreground)?;
        let abandoned = CancellationToken::new();
        let _abandon = abandoned.clone().drop_guard();
        let (started, _) = oneshot::channel();
        let task = tokio::spawn(command(Arc::clone(self), plan, request, io, abandoned, started));
        joined(task.await)
    }

    /// Starts a command that goes on. The receiver hears when it has begun; dropping the token ends it.
    pub(crate) fn start_background(
        self: &Arc<Self>,
        request: CommandRequest,
        io: CommandIo,
        abandoned: CancellationToken,
    ) -> Result<BackgroundStart, CommandError> {
        let plan = Plan::new(self, &request, &io.stdin, Manner::Background)?;
        let (started, begun) = oneshot::channel();
        let task = tokio::spawn(command(Arc::clone(self), plan, request, io, abandoned, started));
        Ok(BackgroundStart { begun, task })
    }
}

/// A background command that is being started.
#[derive(Debug)]
pub(crate) struct BackgroundStart {
    pub(crate) begun: oneshot::Receiver<()>,
    pub(crate) task: tokio::task::JoinHandle<Result<CommandExit, CommandError>>,
}

/// What a command's task came to.
pub(crate) fn joined(
    outcome: Result<Result<CommandExit, CommandError>, tokio::task::JoinError>,
) -> Result<CommandExit, CommandError> {
    match outcome {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(closed().into()),
    }
}

async fn command(
    inner: Arc<Inner>,
    plan: Plan,
    request: CommandRequest,
    io: CommandIo,
    abandoned: CancellationToken,
    started: oneshot::Sender<()>,
) -> Result<CommandExit, CommandError> {
    // Held to the end, so that an end which keeps the sandbox can wait for it.
    let _call = Arc::clone(&inner.calls).read_owned().await;
    inner.may_change_files();
    let CommandIo { stdin, sink, control } = io;
    let mut control = Some(control);
    let mut made_workspace = false;
    let mut notices = Vec::new();
    let follower = loop {
        // Until there is a sandbox, nobody who waits means that nothing is started.
        tokio::select! {
            ready = inner.ready() => drop(ready?),
            () = abandoned.cancelled() => return Err(closed().into()),
        }
        let running = tokio::select! {
            running = begin(&inner, &plan) => running?,
            () = inner.closing.cancelled() => return Err(closed().into()),
        };
        let Running { process, delivery, guest, notices: new } = running;
        notices.extend(new);
        let limits = Limits {
            time_limit: request.time_limit,
            grace: request.termination_grace.min(FAR_FUTURE),
            output: request.output_limits,
        };
        let mut follower =
            Follower::new(guest.clone(), plan.token.clone(), process, delivery, limits);
        match follower.begun(&abandoned).await {
            None => break follower,
            Some(Refusal::Workspace { user, group }) if !made_workspace => {
                follower.finish().await;
                // A project may take long on its way. Who begins again begins from scratch.
                tokio::select! {
                    made = make_workspace(&inner, &guest, user, group) => made?,
                    request = next_request(&mut control) => return Ok(never_begun(request)),
                    () = abandoned.cancelled() => return Err(closed().into()),
                    () = inner.closing.cancelled() => return Err(closed().into()),
                }
                made_workspace = true;
            }
            Some(refusal) => {
                follower.finish().await;
                return Err(refused(&inner, &plan, &request, refusal));
            }
        }
    };
    // A background command goes on for as long as the environment lives, and must not keep it alive.
    drop(inner);
    // Nobody waits for it where the command is in the foreground.
    let _ = started.send(());
    let control = control.unwrap_or_else(ControlRequests::none);
    let mut exit = follower.follow(CommandIo { stdin, sink, control }, abandoned).await;
    exit.notices = notices;
    Ok(exit)
}

/// How a command ended that was asked to end before it had begun: as one does that handles no signal.
fn never_begun(request: ControlRequest) -> CommandExit {
    CommandExit {
        ending: match request {
            ControlRequest::Signal(signal) => Ending::Signalled(signal),
            ControlRequest::Cancel => Ending::Cancelled,
        },
        output: RetainedOutput::default(),
        elapsed: Duration::ZERO,
        stopped_by: None,
        notices: Vec::new(),
    }
}

struct Running {
    process: Process,
    delivery: Delivery,
    guest: Guest,
    notices: Vec<Notice>,
}

async fn begin(inner: &Inner, plan: &Plan) -> Result<Running, CommandError> {
    let begun = inner
        .on_sandbox("the start of a command", |ready| {
            Box::pin(async move {
                let guest = inner.guest(ready);
                let (process, delivery) = plan.start(inner, &guest).await?;
                Ok((process, delivery, guest))
            })
        })
        .await;
    match begun {
        Ok((process, delivery, guest)) => {
            let notices = inner.take_notices().await;
            Ok(Running { process, delivery, guest, notices })
        }
        Err(error) => Err(error.into()),
    }
}

/// Makes the workspace, as root where the sandbox's own user cannot, and brings the project into it.
pub(crate) async fn make_workspace(
    inner: &Inner,
    guest: &Guest,
    user: u32,
    group: u32,
) -> Result<(), EnvironmentError> {
    let (root, home) = (&inner.workspace.root, &inner.workspace.working_directory);
    let between = home.ancestors().take_while(|path| path.starts_with(root));
    let owned: Vec<String> =
        between.chain([inner.scratch.as_path()]).map(|path| word(path.as_os_str())).collect();
    let owned = owned.join(" ");
    // Where no project is to go in, the command has tried this itself.
    if inner.project_mark().is_some() {
        let ask = ask();
        let text = format!(
            "{ask}mkdir -p -- {owned} || exit\nfor d in {owned}; do [ -w \"$d\" ] || exit 1; done"
        );
        let made = guest.script(&Script::new(text, [])).await;
        let made = made.map_err(|error| error.in_environment("making the workspace"))?;
        inner.note_facts(&made.lines)?;
        if made.status == 0 {
            return inner.bring_in(guest).await;
        }
    }
    let text = format!("mkdir -p -- {owned} && chown -- {user}:{group} {owned}");
    let made = guest.script(&Script::new(text, []).by_user("root")).await;
    match made {
        Ok(output) if output.status == 0 => inner.bring_in(guest).await,
        Ok(output) => Err(unavailable(format!(
            "the workspace {} cannot be made in the sandbox: {}",
            root.display(),
            guest.client.shown(&output.complaint)
        ))),
        Err(error) => Err(error.in_environment("making the workspace")),
    }
}

pub(crate) fn refused(
    inner: &Inner,
    plan: &Plan,
    request: &CommandRequest,
    refusal: Refusal,
) -> CommandError {
    let program = match &request.program {
        Program::Argv { program, .. } => program.clone(),
        Program::Shell(_) => OsStr::new("/bin/sh").to_owned(),
    };
    match refusal {
        Refusal::Missing => CommandError::NotFound { program },
        Refusal::Denied => CommandError::NotExecutable { program, source: None },
        Refusal::Directory(kind) => CommandError::WorkingDirectory {
            path: request.working_directory.clone().unwrap_or_else(|| plan.directory.clone()),
            source: Some(kind.into()),
        },
        Refusal::Workspace { .. } | Refusal::Scratch => {
            let paths = [&inner.workspace.root, &inner.scratch];
            let [workspace, scratch] = paths.map(|path| path.display());
            unavailable(format!("{workspace} and {scratch} cannot be made in the sandbox")).into()
        }
    }
}
