//! Forge as a library, with real commands in a temporary workspace.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use forge_api::{
    AgentEvent, BackgroundCommands, CommandError, CommandIo, CommandRequest, Commands, Ending,
    EnvironmentError, EnvironmentVariable, ExecutorConfig, ForgeAPI, ForgeConfig, HostError,
    InitError, LanguageModel, LocalOptions, Message, ModelError, ModelEvent, ModelId, ModelRequest,
    ModelStream, OutputStream, Program, StopReason, ToolCall, ToolCallId, TurnError, TurnOutcome,
    VariableName,
};
use futures_util::{StreamExt, stream};
use pretty_assertions::assert_eq;
use serde_json::json;
use tempfile::TempDir;

/// A model that gives these answers, one after the other, and keeps what it was asked.
#[derive(Debug)]
struct ScriptedModel {
    id: ModelId,
    answers: Mutex<VecDeque<Vec<ModelEvent>>>,
    requests: Mutex<Vec<ModelRequest>>,
}

impl ScriptedModel {
    fn new(answers: Vec<Vec<ModelEvent>>) -> Arc<Self> {
        let id = ModelId::parse("test/scripted").unwrap();
        Arc::new(Self { id, answers: Mutex::new(answers.into()), requests: Mutex::default() })
    }
}

#[async_trait]
impl LanguageModel for ScriptedModel {
    fn id(&self) -> &ModelId {
        &self.id
    }

    async fn answer(&self, request: ModelRequest) -> Result<ModelStream, ModelError> {
        self.requests.lock().unwrap().push(request);
        let events = self.answers.lock().unwrap().pop_front().unwrap();
        Ok(Box::pin(stream::iter(events.into_iter().map(Ok))))
    }
}

fn says(text: &str) -> Vec<ModelEvent> {
    vec![ModelEvent::Text(text.to_owned()), ModelEvent::Finished(StopReason::Done)]
}

fn runs(commands: &[&str]) -> Vec<ModelEvent> {
    let call = |(index, command): (usize, &&str)| {
        ModelEvent::ToolCall(ToolCall {
            id: ToolCallId::new(format!("call-{index}")),
            name: "shell".to_owned(),
            arguments: json!({ "command": command }).to_string(),
        })
    };
    let end = ModelEvent::Finished(StopReason::ToolCalls);
    commands.iter().enumerate().map(call).chain([end]).collect()
}

fn variable(name: &str, value: &str) -> EnvironmentVariable {
    EnvironmentVariable::new(VariableName::parse(name).unwrap(), value).unwrap()
}

fn config(workspace: &TempDir) -> ForgeConfig {
    let options = LocalOptions::new(vec![variable("PATH", "/usr/local/bin:/usr/bin:/bin")]);
    ForgeConfig::new(workspace.path(), ExecutorConfig::Local(options))
}

async fn forge(workspace: &TempDir) -> ForgeAPI {
    ForgeAPI::init(config(workspace)).await.unwrap()
}

async fn forge_with(workspace: &TempDir, model: Arc<ScriptedModel>) -> ForgeAPI {
    ForgeAPI::init(config(workspace).language_model(model)).await.unwrap()
}

fn shell(text: &str) -> CommandRequest {
    CommandRequest::new(Program::shell(text)).time_limit(Duration::from_secs(60))
}

/// Waits until it holds, for a minute at the most.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), waiting).await.is_ok(), "{what}");
}

/// Whether the process of the id in this file is there. A file that is not complete yet says so.
fn is_running(pid_file: &Path) -> bool {
    let pid = std::fs::read_to_string(pid_file).unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    // What comes after the name, which stands in parentheses, begins with the state.
    let state = stat.rsplit(')').next().unwrap_or_default().trim_start().chars().next();
    !matches!(state, None | Some('Z' | 'X'))
}

fn is_complete(pid_file: &Path) -> bool {
    std::fs::read_to_string(pid_file).is_ok_and(|text| text.ends_with('\n'))
}

#[tokio::test]
async fn the_executor_runs_a_command_in_the_workspace() {
    let workspace = tempfile::tempdir().unwrap();
    let forge = forge(&workspace).await;
    let request = shell("echo hello > file && cat file && pwd -P");
    let exit = forge.executor().run(request, CommandIo::detached()).await.unwrap();
    let root = workspace.path().canonicalize().unwrap();
    assert_eq!(exit.ending, Ending::Exited(0));
    let printed = String::from_utf8(exit.output.of(OutputStream::Stdout)).unwrap();
    assert_eq!(printed, format!("hello\n{}\n", root.display()));
    assert_eq!(forge.workspace().root, root);
    assert_eq!(std::fs::read_to_string(root.join("file")).unwrap(), "hello\n");
    forge.close().await.unwrap();
}

#[tokio::test]
async fn a_prompt_runs_commands_whose_effect_is_on_disk_in_their_order() {
    let workspace = tempfile::tempdir().unwrap();
    let commands =
        ["echo one >> log; echo said one", "echo two >> log; echo said two", "cat log; exit 3"];
    let model = ScriptedModel::new(vec![runs(&commands), says("Done.")]);
    let forge = forge_with(&workspace, model).await;
    let mut turn = forge.prompt(forge.conversation(), "go");
    let mut output = Vec::new();
    while let Some(event) = turn.next().await {
        if let AgentEvent::ToolOutput { bytes, .. } = event {
            output.extend_from_slice(&bytes);
        }
    }
    let (conversation, report) = turn.finish().await;
    let report = report.unwrap();
    assert_eq!((report.outcome, report.text.as_str()), (TurnOutcome::Done, "Done."));
    let log = std::fs::read_to_string(workspace.path().join("log")).unwrap();
    assert_eq!(log, "one\ntwo\n");
    assert_eq!(String::from_utf8(output).unwrap(), "said one\nsaid two\none\ntwo\n");
    let Message::ToolResults(results) = &conversation.messages()[2] else {
        panic!("{conversation:#?}")
    };
    let first_lines: Vec<&str> =
        results.iter().map(|result| result.content.lines().next().unwrap()).collect();
    assert_eq!(first_lines, ["said one", "said two", "one"]);
    assert_eq!(results.iter().map(|r| r.is_error).collect::<Vec<_>>(), [false, false, true]);
    forge.close().await.unwrap();
}

#[tokio::test]
async fn dropping_a_turn_ends_its_command() {
    let workspace = tempfile::tempdir().unwrap();
    let model = ScriptedModel::new(vec![runs(&["sleep 1000 & echo $! > pid; wait"])]);
    let forge = forge_with(&workspace, model).await;
    let pid_file = workspace.path().join("pid");
    let mut turn = forge.prompt(forge.conversation(), "go");
    {
        let mut polling = std::pin::pin!(async { while turn.next().await.is_some() {} });
        let begun = until("the command begins", async || is_complete(&pid_file));
        tokio::select! {
            () = &mut polling => panic!("the turn ended by itself"),
            () = begun => {}
        }
    }
    assert!(is_running(&pid_file));
    drop(turn);
    until("the command ends", async || !is_running(&pid_file)).await;
    forge.close().await.unwrap();
}

#[tokio::test]
async fn cancelling_a_turn_keeps_the_conversation_and_what_was_printed() {
    let workspace = tempfile::tempdir().unwrap();
    let model = ScriptedModel::new(vec![runs(&["echo begun; sleep 1000"]), says("Yes.")]);
    let forge = forge_with(&workspace, model).await;
    let mut turn = forge.prompt(forge.conversation(), "go");
    let canceller = turn.canceller();
    while let Some(event) = turn.next().await {
        if let AgentEvent::ToolOutput { .. } = event {
            canceller.cancel();
        }
    }
    let (conversation, report) = turn.finish().await;
    assert_eq!(report.unwrap().outcome, TurnOutcome::Cancelled);
    let Message::ToolResults(results) = &conversation.messages()[2] else {
        panic!("{conversation:#?}")
    };
    assert!(results[0].content.starts_with("begun\n[cancelled"), "{results:?}");
    let (_, report) = forge.prompt(conversation, "and now?").finish().await;
    assert_eq!(report.unwrap().text, "Yes.");
    forge.close().await.unwrap();
}

#[tokio::test]
async fn two_prompts_in_a_row_keep_the_conversation() {
    let workspace = tempfile::tempdir().unwrap();
    let model = ScriptedModel::new(vec![says("One."), says("Two.")]);
    let forge = forge_with(&workspace, model.clone()).await;
    let (conversation, _) = forge.prompt(forge.conversation(), "first").finish().await;
    let (conversation, report) = forge.prompt(conversation, "second").finish().await;
    assert_eq!(report.unwrap().text, "Two.");
    assert_eq!(conversation.messages().len(), 4);
    let sent = model.requests.lock().unwrap()[1].messages.clone();
    assert_eq!(sent, conversation.messages()[..3]);
    forge.close().await.unwrap();
}

#[tokio::test]
async fn the_model_is_told_of_the_project_and_its_instructions() {
    let workspace = tempfile::tempdir().unwrap();
    std::fs::write(workspace.path().join("AGENTS.md"), "Speak in verse.\n").unwrap();
    let model = ScriptedModel::new(vec![says("Aye.")]);
    let forge = forge_with(&workspace, model.clone()).await;
    forge.prompt(forge.conversation(), "go").finish().await.1.unwrap();
    let system = model.requests.lock().unwrap()[0].system.clone();
    let root = workspace.path().canonicalize().unwrap();
    assert!(system.contains("Speak in verse."), "{system}");
    assert!(system.contains(&root.display().to_string()), "{system}");
    forge.close().await.unwrap();
}

#[tokio::test]
async fn closing_ends_background_commands_and_everything_after_it_is_refused() {
    let workspace = tempfile::tempdir().unwrap();
    let forge = forge(&workspace).await;
    let pid_file = workspace.path().join("pid");
    let request = CommandRequest::new(Program::shell("echo $$ > pid; exec sleep 1000"));
    forge.executor().start(request).await.unwrap();
    until("the command begins", async || is_complete(&pid_file)).await;
    assert!(is_running(&pid_file));
    let (one, two) = tokio::join!(forge.close(), forge.close());
    assert!(one.is_ok() && two.is_ok(), "{one:?} {two:?}");
    until("the command ends", async || !is_running(&pid_file)).await;
    let actual = forge.executor().run(shell("true"), CommandIo::detached()).await;
    let Err(CommandError::Environment(EnvironmentError::Closed { .. })) = actual else {
        panic!("{actual:?}")
    };
}

#[tokio::test]
async fn a_prompt_without_a_model_is_refused_and_gives_the_conversation_back() {
    let workspace = tempfile::tempdir().unwrap();
    let forge = forge(&workspace).await;
    assert_eq!(forge.model_id(), None);
    let (conversation, report) = forge.prompt(forge.conversation(), "go").finish().await;
    assert!(matches!(report, Err(TurnError::NoModel)), "{report:?}");
    assert!(conversation.is_empty());
}

#[tokio::test]
async fn a_missing_directory_is_refused_by_name() {
    let workspace = tempfile::tempdir().unwrap();
    let missing = workspace.path().join("missing");
    let config = ForgeConfig::new(&missing, ExecutorConfig::Local(LocalOptions::new(vec![])));
    match ForgeAPI::init(config).await {
        Err(InitError::Host(HostError::NotFound { path })) => assert_eq!(path, missing),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn nothing_public_shows_a_key_in_its_debug_form() {
    let workspace = tempfile::tempdir().unwrap();
    let options = LocalOptions::new(vec![variable("OPENAI_API_KEY", "s3cret-value")]);
    let config = ForgeConfig::new(workspace.path(), ExecutorConfig::Local(options))
        .language_model(ScriptedModel::new(vec![]));
    let mut shown = format!("{config:?}");
    let forge = ForgeAPI::init(config).await.unwrap();
    let turn = forge.prompt(forge.conversation(), "go");
    shown.push_str(&format!("{forge:?} {:?} {turn:?}", forge.executor()));
    assert!(!shown.contains("s3cret-value"), "{shown}");
}

/// A prompt answered by the model server that scripts tell what to say, over HTTP.
mod served {
    use forge_api::{ModelConfig, ModelConfigError, SecretString};
    use forge_scripted_model::{Answer, Call, Fault, FaultKind, Place, Script, ScriptedModel};
    use pretty_assertions::assert_eq;

    use super::*;

    fn three_commands() -> Script {
        let calls =
            (1..=3).map(|n| Call::shell(&format!("echo {n} >> log; echo said {n}"), "count"));
        Script::new([Answer::calls(calls), Answer::text("Counted.")])
    }

    fn models(server: &ScriptedModel) -> [ModelConfig; 2] {
        let openai = ModelConfig::new()
            .model(ModelId::parse("openai/scripted").unwrap())
            .openai_key("s3cret-value")
            .openai_base_url(format!("{}/v1", server.base_url()));
        let anthropic = ModelConfig::new()
            .model(ModelId::parse("anthropic/scripted").unwrap())
            .anthropic_key("s3cret-value")
            .anthropic_base_url(server.base_url());
        [openai, anthropic]
    }

    #[tokio::test]
    async fn a_prompt_runs_commands_in_order_over_either_wire_format() {
        let server = ScriptedModel::start(three_commands()).await.unwrap();
        for model in models(&server) {
            let workspace = tempfile::tempdir().unwrap();
            let variables = [("PATH".into(), "/usr/bin:/bin".into())];
            let forge = ForgeAPI::init_local(workspace.path(), variables, model).await.unwrap();
            let (_, report) = forge.prompt(forge.conversation(), "count").finish().await;
            let report = report.unwrap();
            assert_eq!((report.outcome, report.text.as_str()), (TurnOutcome::Done, "Counted."));
            assert_eq!((report.model_calls, report.tool_calls), (2, 3));
            let log = std::fs::read_to_string(workspace.path().join("log")).unwrap();
            assert_eq!(log, "1\n2\n3\n");
            let told = server.requests().last().unwrap().ordered_tool_results().unwrap();
            let heads: Vec<&str> = told.iter().map(|text| text.lines().next().unwrap()).collect();
            assert_eq!(heads, ["said 1", "said 2", "said 3"]);
            forge.close().await.unwrap();
        }
    }

    #[tokio::test]
    async fn no_key_shows_in_a_debug_form() {
        let server = ScriptedModel::start(three_commands()).await.unwrap();
        for model in models(&server) {
            let workspace = tempfile::tempdir().unwrap();
            let config = config(&workspace).model(model);
            let mut shown = format!("{config:?}");
            let forge = ForgeAPI::init(config).await.unwrap();
            let turn = forge.prompt(forge.conversation(), "go");
            shown.push_str(&format!("{forge:?} {turn:?}"));
            assert!(!shown.contains("s3cret-value"), "{shown}");
        }
    }

    #[tokio::test]
    async fn a_model_without_a_key_is_refused_at_once() {
        let workspace = tempfile::tempdir().unwrap();
        let variables = [("OPENAI_API_KEY".into(), "of the environment".into())];
        let actual = ForgeAPI::init_local(workspace.path(), variables, ModelConfig::new()).await;
        let Err(InitError::Model(ModelConfigError::NoKey)) = actual else { panic!("{actual:?}") };
        let empty = ModelConfig::new().openai_key(SecretString::from(" "));
        let actual = ForgeAPI::init(config(&workspace).model(empty)).await;
        let Err(InitError::Model(ModelConfigError::NoKey)) = actual else { panic!("{actual:?}") };
    }

    #[tokio::test]
    async fn the_home_directory_is_refused_as_a_workspace() {
        let home = tempfile::tempdir().unwrap();
        let variables = [("HOME".into(), home.path().into())];
        let model = ModelConfig::new().openai_key("k");
        let actual = ForgeAPI::init_local(home.path(), variables, model).await;
        let Err(InitError::Host(HostError::Unsuitable { .. })) = actual else {
            panic!("{actual:?}")
        };
    }

    /// What becomes of a prompt to a server of OpenAI's format, and what the commands left in `log`.
    async fn prompted(script: Script) -> (Result<forge_api::TurnReport, TurnError>, String) {
        let server = ScriptedModel::start(script).await.unwrap();
        let workspace = tempfile::tempdir().unwrap();
        let [mut model, _] = models(&server);
        model.silence_limit = Duration::from_millis(300);
        model.first_pause = Duration::from_millis(1);
        let forge = ForgeAPI::init(config(&workspace).model(model)).await.unwrap();
        let (_, report) = forge.prompt(forge.conversation(), "go").finish().await;
        forge.close().await.unwrap();
        let log = std::fs::read_to_string(workspace.path().join("log")).unwrap_or_default();
        (report, log)
    }

    #[tokio::test]
    async fn half_a_tool_call_is_not_carried_out_and_the_answer_is_asked_for_again() {
        for kind in [FaultKind::Silent(Place::InToolCall), FaultKind::Cut(Place::InToolCall)] {
            let script = three_commands().with_fault(Fault::first(1, kind));
            let (report, log) = prompted(script).await;
            let report = report.unwrap();
            assert_eq!((report.outcome, report.model_calls), (TurnOutcome::Done, 3));
            assert_eq!(log, "1\n2\n3\n");
        }
    }

    #[tokio::test]
    async fn a_server_that_breaks_off_again_and_again_is_an_error() {
        let fault = Fault::always(FaultKind::Silent(Place::InToolCall));
        let (report, log) = prompted(three_commands().with_fault(fault)).await;
        let Err(TurnError::Model(ModelError::BrokenOff { .. })) = report else {
            panic!("{report:?}")
        };
        assert_eq!(log, "");
    }

    #[tokio::test]
    async fn a_model_that_repeats_a_failing_call_for_ever_ends_the_turn() {
        let (report, _) = prompted(Script::repeat_failing_call()).await;
        let expected = TurnOutcome::RepeatedFailures { tool: "shell".to_owned(), count: 5 };
        assert_eq!(report.unwrap().outcome, expected);
    }

    #[tokio::test]
    async fn calls_that_make_no_sense_go_back_to_the_model_and_it_goes_on() {
        let odd = [
            Call::new("launch", "{}"),
            Call::new("shell", "{\"command\": 1"),
            Call::new("read", ""),
        ];
        let script = Script::new([Answer::calls(odd), Answer::text("I see.")]);
        let (report, _) = prompted(script).await;
        let report = report.unwrap();
        assert_eq!((report.outcome, report.text.as_str()), (TurnOutcome::Done, "I see."));
    }
}

#[tokio::test]
async fn a_program_uses_a_microvm_by_one_entry() {
    use forge_api::{ModelConfig, SecretString, TensorlakeConfig};
    use forge_tensorlake_testserver::{ServerOptions, TestServer};

    let directory = tempfile::tempdir().unwrap();
    let project = directory.path().canonicalize().unwrap();
    let options = ServerOptions { workspace: Some(project.clone()), ..ServerOptions::default() };
    let server = TestServer::start(options).await.unwrap();
    let tensorlake = TensorlakeConfig::new(SecretString::from("tl_s3cret")).api_url(server.url());
    let model = ModelConfig::new().model(ModelId::parse("ollama/none").unwrap());
    let forge = ForgeAPI::init_with_tensorlake(&project, tensorlake, model).await.unwrap();
    let request = CommandRequest::new(Program::shell("pwd; echo made > file"));
    let exit = forge.executor().run(request, CommandIo::detached()).await.unwrap();
    assert_eq!(exit.output.interleaved(), format!("{}\n", project.display()).into_bytes());
    assert_eq!(std::fs::read_dir(&project).unwrap().count(), 0);
    assert!(!format!("{forge:?}").contains("s3cret"));
    forge.close().await.unwrap();
    assert_eq!((server.count("POST", "/sandboxes"), server.running().len()), (1, 0));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_is_changed_in_a_microvm_is_a_session_of_this_machine() {
    use std::fs::{create_dir, read_dir, read_to_string, write};

    use forge_api::planning::Choices;
    use forge_api::{
        Changes, Describe, ExecutorConfig, ForgeConfig, SecretString, TensorlakeConfig,
    };
    use forge_tensorlake_testserver::{ServerOptions, TestServer};

    let directory = tempfile::tempdir().unwrap();
    let project = directory.path().canonicalize().unwrap().join("project");
    create_dir(&project).unwrap();
    for (path, text) in [("a", "one\n"), ("b", "one\n"), ("c", "one\n")] {
        write(project.join(path), text).unwrap();
    }
    let options = ServerOptions { workspace: Some(project.clone()), ..ServerOptions::default() };
    let server = TestServer::start(options).await.unwrap();
    let forge = async || {
        let tensorlake = TensorlakeConfig::new(SecretString::from("k")).api_url(server.url());
        let executor = ExecutorConfig::Tensorlake(Box::new(tensorlake));
        let mut config = ForgeConfig::new(&project, executor);
        config.state_directory = Some(directory.path().join("state"));
        ForgeAPI::init(config).await.unwrap()
    };
    let shell = async |forge: &ForgeAPI, text: &str| {
        let request = CommandRequest::new(Program::shell(text));
        let exit = forge.executor().run(request, CommandIo::detached()).await.unwrap();
        String::from_utf8(exit.output.interleaved()).unwrap()
    };
    let changed = async |forge: &ForgeAPI| -> Vec<String> {
        let changes = forge.executor().changes().await.unwrap().changes;
        changes.iter().map(|change| change.path.display().to_string()).collect()
    };

    let first = forge().await;
    assert_eq!(changed(&first).await, [""; 0], "nothing is made for that");
    assert_eq!(server.running().len(), 0);
    shell(&first, "echo two >a; rm b; echo new >d").await;
    assert_eq!(changed(&first).await, ["a", "b", "d"]);
    let tracking = first.executor().describe().await.unwrap().capabilities.change_tracking;
    assert_eq!(tracking, forge_api::ChangeTracking::Tracked);
    // Between turns: what the user edits goes in, and what both changed is said.
    write(project.join("c"), "host\n").unwrap();
    write(project.join("a"), "host\n").unwrap();
    let taken_in = first.executor().take_in().await.unwrap();
    assert_eq!((taken_in.updated_paths, taken_in.conflicts), (1, vec!["a".into()]));
    assert_eq!(shell(&first, "cat a c").await, "two\nhost\n");
    // What is clean is applied; what is not, waits.
    let report = first.review(|review| review.apply(&Choices::default())).await.unwrap().unwrap();
    assert_eq!(report.unwrap().applied.unwrap().paths.len(), 2);
    assert!(!project.join("b").exists());
    assert_eq!(read_to_string(project.join("a")).unwrap(), "host\n");
    assert_eq!(changed(&first).await, ["a"]);
    first.close().await.unwrap();
    assert_eq!(server.running().len(), 0);
    assert!(first.executor().changes().await.is_err(), "it is closed");

    // Another run goes on with it, in another microVM.
    let second = forge().await;
    assert_eq!(shell(&second, "cat a c d; ls").await, "two\nhost\nnew\na\nc\nd\n");
    assert_eq!(changed(&second).await, ["a"]);
    second.executor().discard_changes().await.unwrap();
    assert_eq!(shell(&second, "cat a; echo later >e").await, "host\n");
    assert_eq!(changed(&second).await, ["e"]);
    second.executor().discard_changes().await.unwrap();
    second.close().await.unwrap();
    let sessions = read_dir(directory.path().join("state/sessions")).unwrap().count();
    assert_eq!((sessions, server.running().len()), (0, 0), "nothing is left of it");
}
