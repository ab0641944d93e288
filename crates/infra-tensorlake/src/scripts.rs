//! Short texts that the adapter itself runs in the guest.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use forge_domain::{EnvironmentError, OutputStream, Signal, WorkspaceLocation};
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::commands::make_workspace;
use crate::environment::{Inner, random_name};
use crate::failure::{RequestError, unavailable};
use crate::guest::files::BOUNDS;
use crate::guest::{Purpose, check_mark, enter, signal_marked_text, signal_text, word, words};
use crate::lifecycle::Ready;
use crate::process::{Launch, Process, ProcessEnd, ProcessEvent, Replay};
use crate::retry::Repeatable;

/// The means to speak to a running sandbox. It does not own it.
#[derive(Debug, Clone)]
pub(crate) struct Guest {
    pub(crate) client: Client,
    pub(crate) ready: Ready,
    pub(crate) scratch: PathBuf,
    pub(crate) closing: CancellationToken,
    /// Whether the sandbox outlives the environment.
    pub(crate) keep: bool,
}

/// How a process is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// By `run`.
    Run,
    /// By `POST /processes`; its text waits for a line on stdin.
    Held,
}

/// A text and what it is given.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    text: String,
    /// Words of a shell.
    arguments: String,
    user: Option<&'static str>,
    repeatable: Repeatable,
    /// Texts of any length that may hold no NUL and are UTF-8; they follow the arguments.
    long: Vec<String>,
    limit: Duration,
}

impl Script {
    /// A text. What it prints has to be UTF-8.
    pub(crate) fn new<'a>(
        text: impl Into<String>,
        arguments: impl IntoIterator<Item = &'a OsStr>,
    ) -> Self {
        let arguments = words(arguments);
        let repeatable = Repeatable::Yes;
        let (text, long, limit) = (text.into(), Vec::new(), SCRIPT_LIMIT);
        Self { text, arguments, user: None, repeatable, long, limit }
    }

    /// Runs it as another user, where the server can do that.
    pub(crate) fn by_user(mut self, user: &'static str) -> Self {
        self.user = Some(user);
        self
    }

    /// A second one would say something else than the first.
    pub(crate) fn once(mut self) -> Self {
        self.repeatable = Repeatable::No;
        self
    }

    /// Adds a text that is too long for the script itself.
    pub(crate) fn long(mut self, text: String) -> Self {
        self.long.push(text);
        self
    }

    /// Lets it take longer: for what grows with the project's bytes.
    pub(crate) fn patient(mut self) -> Self {
        self.limit = PATIENT_LIMIT;
        self
    }

    fn launch(&self, way: Way, token: &str) -> Launch {
        let hold = match way {
            Way::Run => "",
            Way::Held => "read -r g || exit 0\n",
        };
        let Self { text, arguments, .. } = self;
        // In a subshell, so that whatever the text does, the last line is printed.
        let text = format!(
            "{hold}set -- {arguments} \"$@\"\n(\n{text}\n) </dev/null\nprintf '%s %s\\n' {token} $?\n"
        );
        Launch {
            text,
            arguments: self.long.clone(),
            environment: BTreeMap::new(),
            bound: Some(self.limit),
            user: self.user,
            repeatable: self.repeatable,
        }
    }
}

/// What came of a text that is to run in the workspace.
#[derive(Debug)]
pub(crate) enum Entered {
    /// It ran.
    Yes(ScriptOutput),
    /// The workspace was made, and the text did not run.
    Made,
}

/// No text of the adapter takes longer, a search of a large tree included.
const SCRIPT_LIMIT: Duration = Duration::from_secs(120);
/// But for those that unpack or pack a project.
const PATIENT_LIMIT: Duration = Duration::from_secs(15 * 60);

/// What a text may print at the most: a list of two million paths is shorter, compressed or not.
const MAX_PRINTED_BYTES: usize = 256 * 1024 * 1024;

/// What a text printed, and its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScriptOutput {
    pub(crate) lines: Vec<String>,
    /// What it and its tools complained of.
    pub(crate) complaint: String,
    pub(crate) status: u8,
}

impl Guest {
    /// Starts a process by `run`, or held where `run` is missing. Which of the two is found out by the first
    /// process of a sandbox.
    pub(crate) async fn start(
        &self,
        replay: Replay,
        launch: impl Fn(Way) -> Launch,
    ) -> Result<(Process, Way), RequestError> {
        let Self { client, ready, .. } = self;
        if !ready.lacks_run() {
            match Process::run(client, ready, &launch(Way::Run), replay).await {
                Ok(process) => return Ok((process, Way::Run)),
                Err(error) if error.says_no_such_request() => {
                    // A server without codes says the same of a sandbox that it does not know.
                    if error.is(404) && !self.is_running().await {
                        return Err(error);
                    }
                    ready.remember_that_run_is_missing();
                }
                Err(error) => return Err(error),
            }
        }
        let process = Process::start_held(client, ready, &launch(Way::Held), replay).await?;
        Ok((process, Way::Held))
    }

    async fn is_running(&self) -> bool {
        let path = "/api/v1/health";
        let request = self.ready.request(&self.client, reqwest::Method::GET, path);
        self.client.send(request, Repeatable::Yes, &[]).await.is_ok()
    }

    /// Runs a text to its end and gives what it printed.
    ///
    /// # Cancel safety
    /// When the future is dropped, the text may go on in the guest for as long as it likes.
    pub(crate) async fn script(&self, script: &Script) -> Result<ScriptOutput, RequestError> {
        let run = self.script_once(script);
        let limit = script.limit + Duration::from_secs(10);
        tokio::time::timeout(limit, run).await.map_err(|_| RequestError::Silent { limit })?
    }

    async fn script_once(&self, script: &Script) -> Result<ScriptOutput, RequestError> {
        let token = random_name();
        let (mut process, _) =
            self.start(Replay::Counted, |way| script.launch(way, &token)).await?;
        let (mut lines, mut complaint, mut status) = (Vec::new(), String::new(), None);
        let mut printed_bytes = 0;
        'all: loop {
            for event in process.next().await.map_err(|lost| lost.error)? {
                match event {
                    ProcessEvent::Line(OutputStream::Stdout, line) => {
                        printed_bytes += line.len();
                        if printed_bytes > MAX_PRINTED_BYTES {
                            return Err(RequestError::Unreadable(
                                "the guest printed more than it may".to_owned(),
                            ));
                        }
                        match line.strip_prefix(&token).and_then(|rest| rest.trim().parse().ok()) {
                            Some(code) => status = Some(code),
                            None => lines.push(line),
                        }
                    }
                    ProcessEvent::Line(OutputStream::Stderr, line) => {
                        if complaint.len() < 4096 {
                            complaint.push_str(&line);
                            complaint.push('\n');
                        }
                    }
                    ProcessEvent::Ended(end) => {
                        process.finish().await;
                        if status.is_none() {
                            return Err(cut_off(end));
                        }
                        break 'all;
                    }
                }
            }
        }
        Ok(ScriptOutput { lines, complaint, status: status.unwrap_or(u8::MAX) })
    }

    /// Signals a command. Failures are logged: whoever sent it goes on waiting for what it should do.
    pub(crate) async fn signal(
        &self,
        token: &str,
        leader: Option<u64>,
        signal: i32,
        purpose: Purpose,
    ) {
        let text = signal_text(token, &self.scratch, leader, signal, purpose);
        if let Err(error) = self.script(&Script::new(text, [])).await {
            tracing::warn!(sandbox_id = %self.ready.id, signal, %error, "A signal was not delivered.");
        }
    }
}

impl Guest {
    /// Signals everything that carries a command's mark, in the same way.
    pub(crate) async fn signal_marked(&self, token: &str, signal: Signal) {
        let text = signal_marked_text(token, signal.number());
        if let Err(error) = self.script(&Script::new(text, [])).await {
            tracing::warn!(sandbox_id = %self.ready.id, %signal, %error, "A signal was not delivered.");
        }
    }
}

fn cut_off(end: ProcessEnd) -> RequestError {
    RequestError::Unreadable(format!("a helper in the guest was cut off: {end:?}"))
}

impl Inner {
    /// Runs a text within the bounds, in the working directory, which is made where it is missing, as are
    /// the workspace and the scratch space. `W` and `K` are their resolved paths.
    pub(crate) async fn entered(
        &self,
        operation: &str,
        text: &str,
        script: impl Fn(String) -> Script,
    ) -> Result<ScriptOutput, EnvironmentError> {
        for _ in 0..2 {
            if let Entered::Yes(output) = self.entered_once(operation, text, &script).await? {
                return Ok(output);
            }
        }
        Err(self.no_entry())
    }

    /// The same, but where something had to be made first the text has not run.
    pub(crate) async fn entered_once(
        &self,
        operation: &str,
        text: &str,
        script: impl Fn(String) -> Script,
    ) -> Result<Entered, EnvironmentError> {
        let WorkspaceLocation { root: workspace, working_directory } = &self.workspace;
        let [root, scratch] = [workspace, &self.scratch].map(|path| word(path.as_os_str()));
        let mark = check_mark(self.project_mark());
        let enter = enter(workspace, working_directory, &self.scratch, working_directory);
        let text = format!(
            "say() {{ echo \"cannot enter: $*\"; }}\n{mark}{enter}\
             cd -P -- {scratch} && K=$PWD; cd -P -- {root} && W=$PWD\n{BOUNDS}{text}"
        );
        let script = script(text);
        let (guest, output) = self
            .on_sandbox(operation, |ready| {
                let (guest, script) = (self.guest(ready), script.clone());
                Box::pin(async move {
                    let output = guest.script(&script).await?;
                    Ok((guest, output))
                })
            })
            .await?;
        let refused = output.lines.first().and_then(|line| line.strip_prefix("cannot enter: "));
        let Some(reason) = refused else { return Ok(Entered::Yes(output)) };
        let ids = reason.strip_prefix("workspace ").and_then(|ids| ids.split_once(':'));
        match ids.map(|(user, group)| (user.parse(), group.parse())) {
            Some((Ok(user), Ok(group))) => {
                make_workspace(self, &guest, user, group).await?;
                Ok(Entered::Made)
            }
            _ => Err(self.no_entry()),
        }
    }

    fn no_entry(&self) -> EnvironmentError {
        let directory = self.workspace.working_directory.display();
        unavailable(format!("{directory} cannot be used in the sandbox"))
    }
}
