//! What the tests share: a model at a scripted server, and its answer as a whole.

use std::time::Duration;

use forge_domain::{
    LanguageModel as _, Message, ModelError, ModelEvent, ModelId, ModelRequest, ToolSchema,
};
use forge_infra_model::{GenaiModel, ModelConfig, Provider};
use forge_scripted_model::{Script, ScriptedModel};
use futures_util::StreamExt as _;
use tokio::time::timeout;

/// Bounds what must end by itself.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

/// The key of all tests.
pub(crate) const KEY: &str = "sk-hidden-key-0123456789";

/// The providers, each of the three wire formats among them.
pub(crate) const PROVIDERS: [Provider; 4] = Provider::ALL;

/// Those whose calls come in pieces.
pub(crate) const WITH_PIECES: [Provider; 3] =
    [Provider::Anthropic, Provider::OpenAi, Provider::OpenRouter];

/// A configuration for a model of that provider at an address without a path.
pub(crate) fn config(provider: Provider, base: &str) -> ModelConfig {
    ModelConfig::new()
        .model(ModelId::parse(&format!("{provider}/scripted")).unwrap())
        .anthropic_key(KEY)
        .openai_key(KEY)
        .openrouter_key(KEY)
        .anthropic_base_url(base)
        .openai_base_url(format!("{base}/v1"))
        .openrouter_base_url(format!("{base}/api/v1/"))
        .ollama_host(base)
        .first_pause(Duration::from_millis(5))
}

/// A server with that script, and a model of the provider there.
pub(crate) async fn served(provider: Provider, script: Script) -> (ScriptedModel, GenaiModel) {
    let server = ScriptedModel::start(script).await.unwrap();
    let model = GenaiModel::new(config(provider, &server.base_url())).unwrap();
    (server, model)
}

/// A request with one text of the user and one tool.
pub(crate) fn request(text: &str) -> ModelRequest {
    ModelRequest {
        system: "be brief".to_owned(),
        messages: vec![Message::User(text.to_owned())],
        tools: vec![ToolSchema {
            name: "shell".to_owned(),
            description: "Runs a command.".to_owned(),
            parameters: serde_json::json!({
                "type": "object", "properties": { "command": { "type": "string" } },
            }),
        }],
    }
}

/// All events, adjacent texts and thoughts joined, and the error that ended them.
pub(crate) async fn ask(
    model: &GenaiModel,
    request: ModelRequest,
) -> (Vec<ModelEvent>, Option<ModelError>) {
    let all = async {
        let mut stream = match model.answer(request).await {
            Ok(stream) => stream,
            Err(error) => return (Vec::new(), Some(error)),
        };
        let mut events = Vec::new();
        while let Some(item) = stream.next().await {
            match item {
                Ok(event) => join(&mut events, event),
                Err(error) => {
                    assert!(stream.next().await.is_none(), "something came after {error}");
                    return (events, Some(error));
                }
            }
        }
        (events, None)
    };
    timeout(BOUND, all).await.unwrap()
}

/// All events of an answer that does not fail.
pub(crate) async fn answered(model: &GenaiModel, request: ModelRequest) -> Vec<ModelEvent> {
    match ask(model, request).await {
        (events, None) => events,
        (events, Some(error)) => panic!("{error:?} after {events:?}"),
    }
}

/// The error of an answer that fails.
pub(crate) async fn failed(model: &GenaiModel, request: ModelRequest) -> ModelError {
    match ask(model, request).await {
        (_, Some(error)) => error,
        (events, None) => panic!("no error after {events:?}"),
    }
}

fn join(events: &mut Vec<ModelEvent>, event: ModelEvent) {
    match (events.last_mut(), event) {
        (Some(ModelEvent::Text(text)), ModelEvent::Text(more))
        | (Some(ModelEvent::Reasoning(text)), ModelEvent::Reasoning(more)) => text.push_str(&more),
        (_, event) => events.push(event),
    }
}
