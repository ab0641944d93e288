//! A stage for turns: a model, an environment, a user and an audience that follow a script.
//!
//! The environment is no adapter and keeps no contract beyond what the script needs; what adapters
//! promise is tested by the conformance suite.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use forge_app::{Agent, AgentConfig, AgentEvent, Conversation, EventSink, TurnError, TurnReport};
use forge_domain::*;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// What the model does when it is asked.
#[derive(Debug)]
pub(crate) enum Line {
    /// It answers with these, one after the other.
    Answer(Vec<Result<ModelEvent, ModelError>>),
    /// It answers with these and then is silent for ever.
    Silence(Vec<ModelEvent>),
    /// It does not begin.
    Refuse(ModelError),
}

pub(crate) fn model_id() -> ModelId {
    ModelId::parse("test/scripted").unwrap()
}

/// An answer of text.
pub(crate) fn says(text: &str) -> Line {
    finished(vec![ModelEvent::Text(text.to_owned())], StopReason::Done)
}

/// An answer that ends for this reason.
pub(crate) fn finished(events: Vec<ModelEvent>, reason: StopReason) -> Line {
    let end = ModelEvent::Finished(reason);
    Line::Answer(events.into_iter().chain([end]).map(Ok).collect())
}

/// An answer that breaks off.
pub(crate) fn breaks_off(events: Vec<ModelEvent>) -> Line {
    Line::Answer(events.into_iter().map(Ok).chain([Err(broken_off())]).collect())
}

pub(crate) fn broken_off() -> ModelError {
    ModelError::BrokenOff { model: model_id(), reason: "the line went dead".to_owned() }
}

/// An answer with calls; their ids count from `first`.
pub(crate) fn calls_from(first: usize, calls: &[(&str, Value)]) -> Line {
    let event = |(index, (name, arguments)): (usize, &(&str, Value))| {
        ModelEvent::ToolCall(call(&(first + index).to_string(), name, &arguments.to_string()))
    };
    finished(calls.iter().enumerate().map(event).collect(), StopReason::ToolCalls)
}

pub(crate) fn calls(calls: &[(&str, Value)]) -> Line {
    calls_from(1, calls)
}

pub(crate) fn shell(command: &str) -> (&'static str, Value) {
    ("shell", json!({ "command": command }))
}

pub(crate) fn call(id: &str, name: &str, arguments: &str) -> ToolCall {
    let (name, arguments) = (name.to_owned(), arguments.to_owned());
    ToolCall { id: ToolCallId::new(id), name, arguments }
}

#[derive(Debug)]
pub(crate) struct ScriptedModel {
    id: ModelId,
    lines: Mutex<VecDeque<Line>>,
    pub(crate) requests: Mutex<Vec<ModelRequest>>,
}

#[async_trait]
impl LanguageModel for ScriptedModel {
    fn id(&self) -> &ModelId {
        &self.id
    }

    async fn answer(&self, request: ModelRequest) -> Result<ModelStream, ModelError> {
        self.requests.lock().unwrap().push(request);
        let line = self.lines.lock().unwrap().pop_front();
        match line.expect("the model was asked more often than the script has lines") {
            Line::Answer(events) => Ok(Box::pin(futures_util::stream::iter(events))),
            Line::Silence(events) => {
                let events = futures_util::stream::iter(events.into_iter().map(Ok));
                Ok(Box::pin(events.chain(futures_util::stream::pending())))
            }
            Line::Refuse(error) => Err(error),
        }
    }
}

/// What the environment was asked to do, in order.
#[derive(Debug, Default)]
pub(crate) struct Stage {
    pub(crate) log: Mutex<Vec<String>>,
    pub(crate) files: Mutex<BTreeMap<PathBuf, Bytes>>,
    pub(crate) network: Option<Network>,
    /// How long a read takes, and how many were under way at the same time at the most.
    pub(crate) read_takes: Duration,
    pub(crate) reading: Mutex<(usize, usize)>,
    pub(crate) prepare_takes: Duration,
    /// What taking in answers; `None` where changes are not tracked.
    pub(crate) taken_in: Option<TakenIn>,
    /// A command that was running when its future was dropped.
    pub(crate) dropped: Arc<Mutex<Vec<String>>>,
    pub(crate) cancelled: Mutex<Vec<String>>,
    pub(crate) requests: Mutex<Vec<CommandRequest>>,
}

struct DropGuard(Option<String>, Arc<Mutex<Vec<String>>>);

impl Drop for DropGuard {
    fn drop(&mut self) {
        if let Some(command) = self.0.take() {
            self.1.lock().unwrap().push(command);
        }
    }
}

/// Notes how a start ended.
struct Start<'a> {
    stage: &'a Stage,
    end: &'static str,
}

impl Drop for Start<'_> {
    fn drop(&mut self) {
        self.stage.note(self.end);
    }
}

impl Stage {
    fn note(&self, what: impl Into<String>) {
        self.log.lock().unwrap().push(what.into());
    }

    fn text_of(request: &CommandRequest) -> String {
        match &request.program {
            Program::Shell(text) => text.to_str().unwrap().to_owned(),
            Program::Argv { .. } => panic!("the tools use the shell"),
        }
    }
}

pub(crate) fn lost() -> EnvironmentError {
    EnvironmentError::ContactLost {
        environment: EnvironmentKind::Fake,
        operation: "a test".to_owned(),
        source: None,
    }
}

#[async_trait]
impl Commands for Stage {
    async fn run(
        &self,
        request: CommandRequest,
        io: CommandIo,
    ) -> Result<CommandExit, CommandError> {
        let text = Self::text_of(&request);
        self.note(format!("run {text}"));
        self.requests.lock().unwrap().push(request.clone());
        let mut running = DropGuard(Some(text.clone()), self.dropped.clone());
        let CommandIo { mut sink, mut control, .. } = io;
        let began = Instant::now();
        let mut buffer = OutputBuffer::new(request.output_limits);
        let mut notices = Vec::new();
        let (word, rest) = text.split_once(' ').unwrap_or((&text, ""));
        let mut print = async |bytes: Vec<u8>| {
            buffer.push(OutputStream::Stdout, &bytes);
            sink.write(OutputStream::Stdout, bytes.into()).await.unwrap();
        };
        let ending = match word {
            "echo" => {
                print(format!("{rest}\n").into_bytes()).await;
                Ending::Exited(0)
            }
            "fail" => {
                print(format!("{rest}\n").into_bytes()).await;
                Ending::Exited(1)
            }
            "flood" => {
                let line = b"0123456789abcde\n".repeat(64);
                for _ in 0..rest.parse::<usize>().unwrap() {
                    print(line.clone()).await;
                }
                Ending::Exited(0)
            }
            "cat" => match self.files.lock().unwrap().get(Path::new(rest)).cloned() {
                Some(bytes) => {
                    buffer.push(OutputStream::Stdout, &bytes);
                    Ending::Exited(0)
                }
                None => Ending::Exited(1),
            },
            "recreated" => {
                let reason = "it was lost".to_owned();
                notices.push(Notice::EnvironmentRecreated { reason });
                Ending::Exited(0)
            }
            "lost" => {
                running.0 = None;
                return Err(lost().into());
            }
            // Prints, and then waits for its limit or to be cancelled.
            "hang" => {
                print(b"begun\n".to_vec()).await;
                let limit = request.time_limit.unwrap_or(Duration::from_secs(1_000_000));
                tokio::select! {
                    Some(ControlRequest::Cancel) = control.next() => {
                        self.cancelled.lock().unwrap().push(text.clone());
                        print(b"ended\n".to_vec()).await;
                        Ending::Cancelled
                    }
                    () = sleep_until(began + limit) => Ending::TimedOut { limit },
                }
            }
            // Prints and listens to nobody.
            "deaf" => {
                print(b"begun\n".to_vec()).await;
                std::future::pending().await
            }
            other => panic!("the stage knows no command {other}"),
        };
        running.0 = None;
        Ok(CommandExit {
            ending,
            output: buffer.finish(None),
            elapsed: began.elapsed(),
            stopped_by: None,
            notices,
        })
    }
}

#[async_trait]
impl BackgroundCommands for Stage {
    async fn start(&self, request: CommandRequest) -> Result<BackgroundId, CommandError> {
        self.note(format!("start {}", Self::text_of(&request)));
        self.requests.lock().unwrap().push(request);
        Ok(BackgroundId::parse("b1").unwrap())
    }

    async fn poll(
        &self,
        id: &BackgroundId,
        since: OutputOffset,
        _wait: Duration,
    ) -> Result<BackgroundStatus, BackgroundError> {
        self.note(format!("poll {id} {}", since.0));
        if id.as_str() != "b1" {
            return Err(BackgroundError::NotFound { id: id.clone() });
        }
        let bytes = Bytes::from(format!("output after {}\n", since.0));
        let next = OutputOffset(since.0 + bytes.len() as u64);
        let output = vec![Chunk { stream: OutputStream::Stdout, bytes }];
        Ok(BackgroundStatus { output, skipped_bytes: 0, next, ending: None, stopped_by: None })
    }

    async fn stop(
        &self,
        id: &BackgroundId,
        since: OutputOffset,
    ) -> Result<BackgroundStatus, BackgroundError> {
        let status = self.poll(id, since, Duration::ZERO).await?;
        let ending = Some(Ending::Cancelled);
        Ok(BackgroundStatus { ending, stopped_by: Some(StopMethod::Terminate), ..status })
    }

    async fn list_background(&self) -> Result<Vec<BackgroundSummary>, EnvironmentError> {
        Ok(vec![BackgroundSummary { id: BackgroundId::parse("b1").unwrap(), ending: None }])
    }
}

#[async_trait]
impl Files for Stage {
    async fn read(&self, path: &Path, range: ByteRange) -> Result<FileContents, FileError> {
        self.note(format!("read {}", path.display()));
        {
            let mut reading = self.reading.lock().unwrap();
            reading.0 += 1;
            reading.1 = reading.1.max(reading.0);
        }
        sleep(self.read_takes).await;
        self.reading.lock().unwrap().0 -= 1;
        let files = self.files.lock().unwrap();
        let whole = files.get(path).ok_or(FileError::NotFound { path: path.to_owned() })?;
        let from = usize::try_from(range.offset).unwrap().min(whole.len());
        let length = usize::try_from(range.max_bytes).unwrap().min(whole.len() - from);
        let bytes = whole.slice(from..from + length);
        Ok(FileContents { bytes, total_bytes: whole.len() as u64 })
    }

    async fn write(
        &self,
        path: &Path,
        contents: Bytes,
        _options: WriteOptions,
    ) -> Result<(), FileError> {
        self.note(format!("write {}", path.display()));
        self.files.lock().unwrap().insert(path.to_owned(), contents);
        Ok(())
    }

    async fn remove(&self, path: &Path, removal: Removal) -> Result<(), FileError> {
        self.note(format!("remove {} {removal:?}", path.display()));
        match self.files.lock().unwrap().remove(path) {
            Some(_) => Ok(()),
            None => Err(FileError::NotFound { path: path.to_owned() }),
        }
    }

    async fn list(&self, path: &Path) -> Result<Vec<DirectoryEntry>, FileError> {
        self.note(format!("list {}", path.display()));
        let files = self.files.lock().unwrap();
        let entry = |(path, bytes): (&PathBuf, &Bytes)| DirectoryEntry {
            name: path.file_name().unwrap().to_owned(),
            kind: FileKind::File,
            size_bytes: bytes.len() as u64,
        };
        Ok(files.iter().map(entry).collect())
    }

    async fn stat(&self, path: &Path) -> Result<FileStat, FileError> {
        let files = self.files.lock().unwrap();
        let bytes = files.get(path).ok_or(FileError::NotFound { path: path.to_owned() })?;
        let size_bytes = bytes.len() as u64;
        Ok(FileStat { kind: FileKind::File, size_bytes, mode: None, modified: None })
    }
}

/// No tool has a terminal.
#[async_trait]
impl Terminals for Stage {
    async fn run_on_terminal(
        &self,
        _: CommandRequest,
        _: TerminalSize,
        _: TerminalIo,
    ) -> Result<CommandExit, CommandError> {
        panic!("a tool asked for a terminal")
    }
}

#[async_trait]
impl Search for Stage {
    async fn search(&self, query: SearchQuery) -> Result<SearchOutcome, SearchError> {
        self.note(format!("search {:?} {:?}", query.pattern, query.globs));
        if query.pattern.as_deref() == Some("(") {
            return Err(SearchError::Pattern { reason: "unclosed group".to_owned() });
        }
        let found = |line_number, line: &str| SearchMatch {
            path: "src/a.rs".into(),
            line_number,
            line: line.to_owned(),
        };
        let matches = vec![found(3, "one"), found(12, "\ttwo")];
        Ok(SearchOutcome { matches, truncated: true, ..SearchOutcome::default() })
    }
}

#[async_trait]
impl Describe for Stage {
    async fn describe(&self) -> Result<Description, EnvironmentError> {
        Ok(Description {
            kind: EnvironmentKind::Fake,
            operating_system: "Stage 1".to_owned(),
            shell: "/bin/sh".into(),
            user: None,
            workspace: "/w".into(),
            working_directory: "/w".into(),
            scratch: "/s".into(),
            persistence: Persistence::Session,
            network: self.network.unwrap_or(Network::Full),
            limits: Vec::new(),
            remarks: Vec::new(),
            capabilities: Capabilities {
                change_tracking: ChangeTracking::Untracked,
                streams_exact_bytes: true,
                finds_detached_children: true,
            },
        })
    }

    fn kind(&self) -> EnvironmentKind {
        EnvironmentKind::Fake
    }
}

#[async_trait]
impl Changes for Stage {
    async fn changes(&self) -> Result<ChangeSet, ChangesError> {
        Err(ChangesError::NotTracked { environment: self.kind() })
    }

    async fn take_in(&self) -> Result<TakenIn, ChangesError> {
        match &self.taken_in {
            Some(taken_in) => Ok(taken_in.clone()),
            None => Err(ChangesError::NotTracked { environment: self.kind() }),
        }
    }

    async fn discard_changes(&self) -> Result<(), ChangesError> {
        Err(ChangesError::NotTracked { environment: self.kind() })
    }
}

#[async_trait]
impl Lifecycle for Stage {
    async fn prepare(&self) -> Result<(), EnvironmentError> {
        self.note("prepare");
        let mut start = Start { stage: self, end: "given up" };
        sleep(self.prepare_takes).await;
        start.end = "prepared";
        Ok(())
    }

    async fn checkpoint(&self) -> Result<(), EnvironmentError> {
        self.note("checkpoint");
        Ok(())
    }

    async fn close(&self) -> Result<(), EnvironmentError> {
        Ok(())
    }
}

/// A user who answers what the script says, and waits for ever after that.
#[derive(Debug, Default)]
pub(crate) struct User {
    pub(crate) answers: Mutex<VecDeque<Approval>>,
    pub(crate) asked: Mutex<Vec<ApprovalRequest>>,
}

#[async_trait]
impl Approver for User {
    async fn ask(&self, request: &ApprovalRequest) -> Approval {
        self.asked.lock().unwrap().push(request.clone());
        let answer = self.answers.lock().unwrap().pop_front();
        match answer {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }
}

/// Keeps the events, and cancels the turn at the first that fits.
pub(crate) struct Audience {
    pub(crate) events: Vec<AgentEvent>,
    cancel: CancellationToken,
    cancel_at: Option<fn(&AgentEvent) -> bool>,
}

#[async_trait]
impl EventSink for Audience {
    async fn event(&mut self, event: AgentEvent) {
        if self.cancel_at.is_some_and(|fits| fits(&event)) {
            self.cancel.cancel();
        }
        self.events.push(event);
    }
}

/// Everything a turn needs.
pub(crate) struct Play {
    pub(crate) agent: Agent,
    pub(crate) model: Arc<ScriptedModel>,
    pub(crate) stage: Arc<Stage>,
    pub(crate) user: Arc<User>,
    pub(crate) audience: Audience,
    pub(crate) conversation: Conversation,
}

impl Play {
    pub(crate) fn new(lines: Vec<Line>) -> Self {
        Self::with(lines, AgentConfig::default(), Stage::default(), Vec::new())
    }

    pub(crate) fn with(
        lines: Vec<Line>,
        config: AgentConfig,
        stage: Stage,
        answers: Vec<Approval>,
    ) -> Self {
        let stage = Arc::new(stage);
        Self::set_up(lines, config, stage.clone(), stage, answers)
    }

    /// In an environment that keeps its contract, where nobody is asked.
    pub(crate) fn within(
        environment: impl ExecutionEnvironment + 'static,
        lines: Vec<Line>,
    ) -> Self {
        let stage = Arc::new(Stage::default());
        Self::set_up(lines, AgentConfig::default(), Arc::new(environment), stage, vec![])
    }

    fn set_up(
        lines: Vec<Line>,
        config: AgentConfig,
        environment: Arc<dyn ExecutionEnvironment>,
        stage: Arc<Stage>,
        answers: Vec<Approval>,
    ) -> Self {
        let (lines, requests) = (Mutex::new(lines.into()), Mutex::default());
        let model = Arc::new(ScriptedModel { id: model_id(), lines, requests });
        let user = Arc::new(User { answers: Mutex::new(answers.into()), ..User::default() });
        let agent = Agent::new(environment, model.clone(), user.clone(), Vec::new(), config);
        let cancel = CancellationToken::new();
        let audience = Audience { events: Vec::new(), cancel, cancel_at: None };
        Self { agent, model, stage, user, audience, conversation: Conversation::new() }
    }

    pub(crate) fn cancel_at(mut self, fits: fn(&AgentEvent) -> bool) -> Self {
        self.audience.cancel_at = Some(fits);
        self
    }

    /// Gives the prompt and waits for the end of the turn.
    pub(crate) async fn prompt(&mut self, text: &str) -> Result<TurnReport, TurnError> {
        let cancel = self.audience.cancel.clone();
        let text = text.to_owned();
        let turn = self.agent.run_turn(&mut self.conversation, text, &mut self.audience, &cancel);
        let report = turn.await;
        self.assert_conversation_is_valid();
        report
    }

    /// Lets the script go on.
    pub(crate) fn add(&mut self, lines: Vec<Line>) {
        self.model.lines.lock().unwrap().extend(lines);
    }

    /// Cancels the turn from elsewhere.
    pub(crate) fn canceller(&self) -> CancellationToken {
        self.audience.cancel.clone()
    }

    /// The next turn is one that nobody has cancelled yet.
    pub(crate) fn forget_cancellation(&mut self) {
        self.audience.cancel = CancellationToken::new();
        self.audience.cancel_at = None;
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.stage.log.lock().unwrap().clone()
    }

    /// The results of the tools so far: whether each is an error, and its text.
    pub(crate) fn results(&self) -> Vec<(bool, String)> {
        let results = self.conversation.messages().iter().filter_map(|message| match message {
            Message::ToolResults(results) => Some(results),
            Message::User(_) | Message::Assistant { .. } => None,
        });
        results.flatten().map(|result| (result.is_error, result.content.clone())).collect()
    }

    /// The messages of the request with this number.
    pub(crate) fn sent(&self, request: usize) -> Vec<Message> {
        self.model.requests.lock().unwrap()[request].messages.clone()
    }

    fn assert_conversation_is_valid(&self) {
        let messages = self.conversation.messages();
        for (index, message) in messages.iter().enumerate() {
            match message {
                Message::User(text) => assert!(!text.is_empty()),
                Message::Assistant { text, tool_calls } => {
                    assert!(!text.trim().is_empty() || !tool_calls.is_empty());
                    if tool_calls.is_empty() {
                        continue;
                    }
                    let Some(Message::ToolResults(results)) = messages.get(index + 1) else {
                        panic!("the calls of message {index} have no results: {messages:#?}")
                    };
                    let ids = |result: &ToolResult| result.call_id.clone();
                    let answered: Vec<ToolCallId> = results.iter().map(ids).collect();
                    let asked: Vec<ToolCallId> =
                        tool_calls.iter().map(|call| call.id.clone()).collect();
                    assert_eq!(answered, asked);
                }
                Message::ToolResults(_) => {
                    let before = index.checked_sub(1).map(|before| &messages[before]);
                    assert!(matches!(before, Some(Message::Assistant { .. })));
                }
            }
        }
    }
}
