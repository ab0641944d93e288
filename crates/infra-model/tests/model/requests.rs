//! What goes to the server.

use forge_domain::{
    LanguageModel as _, Message, ModelEvent, ModelId, ModelRequest, ToolCall, ToolCallId,
    ToolResult,
};
use forge_infra_model::{GenaiModel, Provider};
use forge_scripted_model::{Answer, Fault, FaultKind, Place, Script, ScriptedModel};
use futures_util::StreamExt as _;
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::asked::{BOUND, PROVIDERS, answered, config, request, served};

fn call(id: &str, arguments: &str) -> ToolCall {
    ToolCall { id: ToolCallId::new(id), name: "shell".to_owned(), arguments: arguments.to_owned() }
}

fn result(id: &str, content: &str, is_error: bool) -> ToolResult {
    ToolResult {
        call_id: ToolCallId::new(id),
        name: "shell".to_owned(),
        content: content.to_owned(),
        is_error,
    }
}

fn conversation() -> ModelRequest {
    let mut request = request("go");
    request.messages.extend([
        Message::Assistant {
            text: "Let me look.".to_owned(),
            tool_calls: vec![call("a", r#"{"command":"ls"}"#), call("b", "{broken")],
        },
        Message::ToolResults(vec![result("a", "one", false), result("b", "no JSON", true)]),
        Message::Assistant { text: String::new(), tool_calls: Vec::new() },
    ]);
    request
}

/// The body of the only request that the server got.
async fn sent(provider: Provider, request: ModelRequest) -> Value {
    let (server, model) = served(provider, Script::new([Answer::text("ok")])).await;
    answered(&model, request).await;
    let requests = server.requests();
    assert_eq!(requests.len(), 1);
    requests[0].body.clone()
}

#[tokio::test]
async fn each_provider_is_asked_at_its_endpoint_for_the_model_as_the_user_named_it() {
    for (provider, path) in [
        (Provider::Anthropic, "/v1/messages"),
        (Provider::OpenAi, "/v1/chat/completions"),
        (Provider::OpenRouter, "/api/v1/chat/completions"),
        (Provider::Ollama, "/api/chat"),
    ] {
        // Names that genai would send to another endpoint, or would change.
        for name in ["gpt-5-codex", "gpt-5-pro", "o3-mini", "claude-x", "a/b:free", "qwen3:8b"] {
            let server = ScriptedModel::start(Script::new([Answer::text("ok")])).await.unwrap();
            let id = ModelId::parse(&format!("{provider}/{name}")).unwrap();
            let config = config(provider, &server.base_url()).model(id);
            answered(&GenaiModel::new(config).unwrap(), request("go")).await;
            let asked = &server.requests()[0];
            assert_eq!((asked.path.as_str(), &asked.body["model"]), (path, &json!(name)));
        }
    }
}

#[tokio::test]
async fn a_name_that_ends_like_an_effort_or_holds_colons_is_sent_whole() {
    for provider in [Provider::OpenAi, Provider::OpenRouter, Provider::Anthropic] {
        for name in ["o3-mini-high", "some-low", "claude-sonnet-4-5-high", "a::b"] {
            let server = ScriptedModel::start(Script::new([Answer::text("ok")])).await.unwrap();
            let id = ModelId::parse(&format!("{provider}/{name}")).unwrap();
            let config = config(provider, &server.base_url()).model(id);
            answered(&GenaiModel::new(config).unwrap(), request("go")).await;
            let body = &server.requests()[0].body;
            assert_eq!((&body["model"], &body["reasoning_effort"]), (&json!(name), &Value::Null));
            assert_eq!(body["thinking"], Value::Null, "{provider}/{name}");
        }
    }
}

#[tokio::test]
async fn a_conversation_is_sent_as_chat_completions() {
    let body = sent(Provider::OpenAi, conversation()).await;
    let function = |arguments: &str| json!({ "name": "shell", "arguments": arguments });
    let expected = json!([
        { "role": "system", "content": "be brief" },
        { "role": "user", "content": "go" },
        { "role": "assistant", "content": "Let me look.", "tool_calls": [
            { "type": "function", "id": "a", "function": function(r#"{"command":"ls"}"#) },
            { "type": "function", "id": "b",
              "function": function(r#"{"invalid_arguments":"{broken"}"#) },
        ] },
        { "role": "tool", "tool_call_id": "a", "content": "one" },
        { "role": "tool", "tool_call_id": "b", "content": "no JSON" },
    ]);
    assert_eq!(body["messages"], expected);
    assert_eq!(body["tools"][0]["function"]["name"], "shell");
    assert_eq!(body["stream_options"], json!({ "include_usage": true }));
}

#[tokio::test]
async fn a_conversation_is_sent_as_anthropics_messages_with_failed_calls_marked() {
    let body = sent(Provider::Anthropic, conversation()).await;
    let expected = json!([
        { "role": "user", "content": "go" },
        { "role": "assistant", "content": [
            { "type": "text", "text": "Let me look." },
            { "type": "tool_use", "id": "a", "name": "shell", "input": { "command": "ls" } },
            { "type": "tool_use", "id": "b", "name": "shell",
              "input": { "invalid_arguments": "{broken" } },
        ] },
        { "role": "user", "content": [
            { "type": "tool_result", "tool_use_id": "a", "content": "one" },
            { "type": "tool_result", "tool_use_id": "b", "content": "no JSON", "is_error": true,
              "cache_control": { "type": "ephemeral" } },
        ] },
    ]);
    assert_eq!(body["messages"], expected);
    assert_eq!(body["system"], "be brief");
    assert_eq!(body["tools"][0]["name"], "shell");
    assert!(body["max_tokens"].as_u64() > Some(1000), "{body}");
}

#[tokio::test]
async fn a_conversation_is_sent_to_ollama_with_every_result() {
    let body = sent(Provider::Ollama, conversation()).await;
    let expected = json!([
        { "role": "system", "content": "be brief" },
        { "role": "user", "content": "go" },
        { "role": "assistant", "content": "Let me look.", "tool_calls": [
            { "function": { "name": "shell", "arguments": { "command": "ls" } } },
            { "function": { "name": "shell", "arguments": { "invalid_arguments": "{broken" } } },
        ] },
        { "role": "tool", "content": "one" },
        { "role": "tool", "content": "no JSON" },
    ]);
    assert_eq!(body["messages"], expected);
}

#[tokio::test]
async fn fifty_calls_have_their_results_in_order() {
    for provider in PROVIDERS {
        let (server, model) = served(provider, Script::shell_commands(50)).await;
        let mut request = request("go");
        let mut calls_made = 0;
        loop {
            let mut calls = Vec::new();
            for event in answered(&model, request.clone()).await {
                if let ModelEvent::ToolCall(call) = event {
                    calls.push(call);
                }
            }
            if calls.is_empty() {
                break;
            }
            let results = calls.iter().map(|call| {
                calls_made += 1;
                result(call.id.as_str(), &format!("step-{calls_made}"), false)
            });
            let results = Message::ToolResults(results.collect());
            request.messages.push(Message::Assistant { text: String::new(), tool_calls: calls });
            request.messages.push(results);
        }
        let last = server.requests().pop().unwrap();
        let expected: Vec<String> = (1..=50).map(|n| format!("step-{n}")).collect();
        assert_eq!(last.ordered_tool_results().unwrap(), expected, "{provider}");
    }
}

#[tokio::test]
async fn ten_megabytes_are_sent_whole() {
    for provider in PROVIDERS {
        let text = "0123456789ä ".repeat(10 * 1024 * 1024 / 13);
        let body = sent(provider, request(&text)).await;
        let message = body["messages"].as_array().unwrap().last().unwrap();
        // Anthropic's last message is a list of parts, for the mark of the cache.
        let content = &message["content"];
        let actual = content.as_str().or(content[0]["text"].as_str()).unwrap();
        assert!(actual == text, "{provider}: {} of {} bytes", actual.len(), text.len());
    }
}

#[tokio::test]
async fn dropping_an_answer_closes_its_connection() {
    for provider in PROVIDERS {
        let script = Script::new([Answer::text("a long answer, of which only a part is read")])
            .with_fault(Fault::always(FaultKind::Silent(Place::BeforeFinish)));
        let (server, model) = served(provider, script).await;
        let mut stream = model.answer(request("go")).await.unwrap();
        stream.next().await.unwrap().unwrap();
        assert_eq!(server.abandoned(), 0);
        drop(stream);
        timeout(BOUND, server.wait_for_abandoned(1)).await.unwrap();
    }
}

#[tokio::test]
async fn dropping_the_future_before_the_answer_begins_ends_the_request() {
    for provider in PROVIDERS {
        let script = Script::default().with_fault(Fault::always(FaultKind::SilentFromTheStart));
        let (server, model) = served(provider, script).await;
        tokio::select! {
            _ = model.answer(request("go")) => panic!("the server says nothing"),
            waited = timeout(BOUND, server.wait_for_requests(1)) => waited.unwrap(),
        }
        timeout(BOUND, server.wait_for_abandoned(1)).await.unwrap();
    }
}
