//! What goes over the wire, seen by a client that knows no more of HTTP than it must.
#![expect(clippy::unwrap_used, reason = "the functions that tests share fail as tests do")]

use std::time::Duration;

use forge_scripted_model::{
    Answer, Call, Delivery, Fault, FaultKind, Finish, Place, Script, ScriptedModel, TokenCount,
};
use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

const BOUND: Duration = Duration::from_secs(30);

/// Sends a request and leaves the connection open.
async fn send(server: &ScriptedModel, version: &str, path: &str, body: &Value) -> TcpStream {
    let address = server.base_url().replace("http://", "");
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/{version}\r\nhost: {address}\r\nauthorization: Bearer hush\r\n\
         connection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len(),
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    stream
}

/// The head and the body of the whole reply; HTTP/1.0, so that the body comes as it is.
async fn post(server: &ScriptedModel, path: &str, body: &Value) -> (String, String) {
    let mut stream = send(server, "1.0", path, body).await;
    let mut reply = String::new();
    timeout(BOUND, stream.read_to_string(&mut reply)).await.unwrap().unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// The JSON values of a reply in events or lines.
fn values(body: &str) -> Vec<Value> {
    let lines = body.lines().map(|line| line.strip_prefix("data: ").unwrap_or(line));
    lines.filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn ask(stream: bool) -> Value {
    json!({
        "model": "scripted", "stream": stream, "stream_options": { "include_usage": true },
        "messages": [{ "role": "user", "content": "go" }],
    })
}

fn full_answer() -> Answer {
    Answer {
        reasoning: "hm, so".to_owned(),
        text: "Grüße 🦀".to_owned(),
        calls: vec![Call::new("shell", r#"{"command":"ls"}"#), Call::new("read", "{not json")],
        usage: Some(TokenCount { input: 10, cached: 4, output: 5 }),
        finish: Finish::Natural,
    }
}

#[tokio::test]
async fn chat_completions_come_as_events_and_the_raw_arguments_survive() {
    let delivery = Delivery { event_chars: 3, chunk_bytes: Some(1), delay_ms: 0 };
    let script = Script::new([full_answer()]).delivered(delivery);
    let server = ScriptedModel::start(script).await.unwrap();
    let (head, body) = post(&server, "/v1/chat/completions", &ask(true)).await;
    assert!(head.contains("text/event-stream"), "{head}");
    assert!(body.ends_with("data: [DONE]\n\n"), "{body}");
    let events = values(&body);
    let joined = |pick: fn(&Value) -> &Value| -> String {
        events.iter().filter_map(|event| pick(event).as_str()).collect()
    };
    let delta = |event: &Value| event["choices"][0]["delta"].clone();
    assert_eq!(joined(|event| &event["choices"][0]["delta"]["content"]), "Grüße 🦀");
    assert_eq!(joined(|event| &event["choices"][0]["delta"]["reasoning_content"]), "hm, so");
    let arguments = |index: u64| -> String {
        let parts = events.iter().map(delta).filter_map(|delta| {
            let call = delta["tool_calls"][0].clone();
            (call["index"] == index)
                .then(|| call["function"]["arguments"].as_str().unwrap().to_owned())
        });
        parts.collect()
    };
    assert_eq!([arguments(0), arguments(1)], [r#"{"command":"ls"}"#, "{not json"]);
    let last = events.last().unwrap();
    assert_eq!(last["usage"]["prompt_tokens_details"]["cached_tokens"], 4);
    assert_eq!(last["choices"], json!([]));
}

#[tokio::test]
async fn each_format_answers_whole_when_it_is_not_streamed() {
    let server = ScriptedModel::start(Script::new([full_answer()])).await.unwrap();
    let (_, openai) = post(&server, "/v1/chat/completions", &ask(false)).await;
    let (_, anthropic) = post(&server, "/v1/messages", &ask(false)).await;
    let (_, ollama) = post(&server, "/api/chat", &ask(false)).await;
    let [openai, anthropic, ollama]: [Value; 3] =
        [openai, anthropic, ollama].map(|body| serde_json::from_str(&body).unwrap());
    assert_eq!(openai["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(openai["usage"]["prompt_tokens"], 10);
    assert_eq!(anthropic["stop_reason"], "tool_use");
    assert_eq!(anthropic["usage"]["input_tokens"], 6);
    assert_eq!(anthropic["content"][2]["input"], json!({ "command": "ls" }));
    assert_eq!(ollama["message"]["tool_calls"][1]["function"]["arguments"], "{not json");
    assert_eq!(ollama["done"], true);
}

#[tokio::test]
async fn anthropic_events_are_named_and_their_blocks_are_closed() {
    let server = ScriptedModel::start(Script::new([full_answer()])).await.unwrap();
    let (_, body) = post(&server, "/v1/messages", &ask(true)).await;
    let kinds: Vec<String> = values(&body)
        .iter()
        .map(|event| event["type"].as_str().unwrap().replace("content_block_", ""))
        .collect();
    let block = ["start", "delta", "stop"];
    let expected: Vec<&str> = ["message_start"]
        .into_iter()
        .chain([block; 4].concat())
        .chain(["message_delta", "message_stop"])
        .collect();
    assert_eq!(kinds, expected);
    assert!(body.starts_with("event: message_start\n"), "{body}");
}

#[tokio::test]
async fn each_turn_begins_with_the_first_answer() {
    let server = ScriptedModel::start(Script::shell_commands(2)).await.unwrap();
    let said = |messages: Value| {
        let server = &server;
        async move {
            let request = json!({ "model": "m", "messages": messages });
            let (_, body) = post(server, "/v1/messages", &request).await;
            let body: Value = serde_json::from_str(&body).unwrap();
            let content = &body["content"][0];
            content["input"]["description"]
                .as_str()
                .or(content["text"].as_str())
                .unwrap()
                .to_owned()
        }
    };
    let user = json!({ "role": "user", "content": [{ "type": "text", "text": "go" }] });
    let call = json!({ "role": "assistant", "content": [{ "type": "tool_use", "id": "a" }] });
    let result =
        json!({ "role": "user", "content": [{ "type": "tool_result", "tool_use_id": "a" }] });
    assert_eq!(said(json!([user])).await, "Log step 1");
    assert_eq!(said(json!([user, call, result])).await, "Log step 2");
    let whole = json!([user, call, result, call, result]);
    assert_eq!(said(whole).await, "All 2 commands ran.");
    let next =
        json!([user, call, result, call, result, { "role": "assistant", "content": "x" }, user]);
    assert_eq!(said(next).await, "Log step 1");
}

#[tokio::test]
async fn requests_are_kept_without_their_keys_and_results_are_checked_against_calls() {
    let server = ScriptedModel::start(Script::default()).await.unwrap();
    let conversation = |first: &str, second: &str| {
        json!({ "model": "m", "messages": [
            { "role": "user", "content": "go" },
            { "role": "assistant", "tool_calls": [{ "id": "a" }, { "id": "b" }] },
            { "role": "tool", "tool_call_id": first, "content": "one" },
            { "role": "tool", "tool_call_id": second, "content": "two" },
        ] })
    };
    post(&server, "/v1/chat/completions", &conversation("a", "b")).await;
    post(&server, "/v1/chat/completions", &conversation("b", "a")).await;
    let requests = server.requests();
    assert_eq!(requests[0].ordered_tool_results().unwrap(), ["one", "two"]);
    assert!(requests[1].ordered_tool_results().is_err());
    assert_eq!(requests[0].header("authorization"), Some("(not recorded)"));
    assert!(!format!("{requests:?}").contains("hush"));
}

#[tokio::test]
async fn a_fault_happens_to_the_requests_it_is_for() {
    let script = Script::new([Answer::text("ok")])
        .with_fault(Fault::first(2, FaultKind::retry_after(429, "7")));
    let server = ScriptedModel::start(script).await.unwrap();
    let mut heads = Vec::new();
    for _ in 0..3 {
        heads.push(post(&server, "/v1/chat/completions", &ask(false)).await.0);
    }
    let statuses: Vec<&str> = heads.iter().map(|head| &head[9..12]).collect();
    assert_eq!(statuses, ["429", "429", "200"]);
    assert!(heads[0].contains("retry-after: 7"), "{}", heads[0]);
}

#[tokio::test]
async fn a_cut_answer_has_half_a_call_and_no_end_and_an_early_end_has_one() {
    for (kind, ends) in
        [(FaultKind::Cut(Place::InToolCall), false), (FaultKind::EndEarly(Place::InToolCall), true)]
    {
        let script = Script::shell_commands(1).with_fault(Fault::always(kind));
        let server = ScriptedModel::start(script).await.unwrap();
        let mut stream = send(&server, "1.1", "/v1/chat/completions", &ask(true)).await;
        let mut reply = Vec::new();
        drop(timeout(BOUND, stream.read_to_end(&mut reply)).await.unwrap());
        let reply = String::from_utf8(reply).unwrap();
        assert!(reply.contains(r#"{\"command\""#), "{reply}");
        assert!(!reply.contains("description"), "{reply}");
        assert_eq!(reply.ends_with("\r\n0\r\n\r\n"), ends, "{reply}");
    }
}

#[tokio::test]
async fn a_silent_answer_is_noticed_when_its_client_leaves() {
    for kind in [FaultKind::SilentFromTheStart, FaultKind::Silent(Place::BeforeFinish)] {
        let script = Script::shell_commands(1).with_fault(Fault::always(kind));
        let server = ScriptedModel::start(script).await.unwrap();
        let stream = send(&server, "1.1", "/v1/messages", &ask(true)).await;
        timeout(BOUND, server.wait_for_requests(1)).await.unwrap();
        assert_eq!(server.abandoned(), 0);
        drop(stream);
        timeout(BOUND, server.wait_for_abandoned(1)).await.unwrap();
    }
}

#[test]
fn a_script_is_read_from_json_and_a_wrong_field_is_refused() {
    let actual: Script = serde_json::from_str(
        r#"{
            "answers": [{ "text": "hi", "finish": { "named": "odd" } }],
            "delivery": { "chunk_bytes": 5 },
            "faults": [
                { "kind": { "cut": { "bytes": 9 } }, "requests": 1 },
                { "kind": "silent_from_the_start" },
                { "kind": { "reply": { "status": 500 } } }
            ]
        }"#,
    )
    .unwrap();
    let reply = FaultKind::Reply { status: 500, headers: Vec::new(), body: String::new() };
    let expected =
        Script::new([Answer { finish: Finish::Named("odd".to_owned()), ..Answer::text("hi") }])
            .delivered(Delivery { chunk_bytes: Some(5), ..Delivery::default() })
            .with_fault(Fault::first(1, FaultKind::Cut(Place::Bytes(9))))
            .with_fault(Fault::always(FaultKind::SilentFromTheStart))
            .with_fault(Fault::always(reply));
    assert_eq!(actual, expected);
    assert!(serde_json::from_str::<Script>(r#"{ "answer": [] }"#).is_err());
}
