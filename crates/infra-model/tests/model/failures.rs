//! What goes wrong, and what comes of it.

use std::net::TcpListener;
use std::time::{Duration, Instant, SystemTime};

use forge_domain::{LanguageModel as _, ModelError, ModelEvent, StopReason};
use forge_infra_model::{GenaiModel, Provider};
use forge_scripted_model::{Answer, Fault, FaultKind, Place, Script, ScriptedModel};
use pretty_assertions::assert_eq;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::asked::{KEY, PROVIDERS, WITH_PIECES, answered, ask, config, failed, request, served};

fn script() -> Script {
    Script::new([Answer::text("ok")])
}

fn broken(kind: FaultKind) -> Script {
    Script::shell_commands(1).with_fault(Fault::always(kind))
}

fn ok_events() -> [ModelEvent; 2] {
    [ModelEvent::Text("ok".to_owned()), ModelEvent::Finished(StopReason::Done)]
}

/// Anything that could be printed of an error.
fn printed(error: &ModelError) -> String {
    let mut text = format!("{error:?} {error}");
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text.push_str(&format!(" {inner:?} {inner}"));
        source = inner.source();
    }
    text
}

/// A name for the variant with its status and attempts.
fn shape(error: &ModelError) -> String {
    match error {
        ModelError::AccessRefused { status, .. } => format!("access refused {status}"),
        ModelError::NoSuchModel { .. } => "no such model".to_owned(),
        ModelError::Rejected { status, .. } => format!("rejected {status}"),
        ModelError::Busy { status, attempts, .. } => format!("busy {status} after {attempts}"),
        ModelError::Unreachable { .. } => "unreachable".to_owned(),
        ModelError::BrokenOff { .. } => "broken off".to_owned(),
        ModelError::Unreadable { .. } => "unreadable".to_owned(),
    }
}

#[tokio::test]
async fn each_status_is_told_apart_and_tried_again_only_where_that_helps() {
    let body = r#"{"error":{"type":"t","message":"the server's words"}}"#;
    for provider in PROVIDERS {
        for (status, expected, attempts) in [
            (400, "rejected 400", 1),
            (401, "access refused 401", 1),
            (403, "access refused 403", 1),
            (404, "no such model", 1),
            (408, "busy 408 after 3", 3),
            (413, "rejected 413", 1),
            (422, "rejected 422", 1),
            (429, "busy 429 after 3", 3),
            (500, "busy 500 after 3", 3),
            (503, "busy 503 after 3", 3),
            (529, "busy 529 after 3", 3),
            (302, "rejected 302", 1),
        ] {
            let script = script().with_fault(Fault::always(FaultKind::status(status, body)));
            let server = ScriptedModel::start(script).await.unwrap();
            let config = config(provider, &server.base_url()).attempts(3u32);
            let model = GenaiModel::new(config).unwrap();
            let error = failed(&model, request("go")).await;
            assert_eq!(shape(&error), expected, "{provider}");
            assert!(printed(&error).contains("the server's words"), "{error:?}");
            assert_eq!(server.requests().len(), attempts, "{provider} {status}");
        }
    }
}

#[tokio::test]
async fn a_server_that_recovers_is_not_noticed() {
    for provider in PROVIDERS {
        let script = script().with_fault(Fault::first(3, FaultKind::status(503, "")));
        let (server, model) = served(provider, script).await;
        assert_eq!(answered(&model, request("go")).await, ok_events(), "{provider}");
        assert_eq!(server.requests().len(), 4);
    }
}

/// The moment of the second request, after a first that is answered with that `Retry-After`.
async fn asked_again(provider: Provider, wait: &str) -> (SystemTime, Duration) {
    let script = script().with_fault(Fault::first(1, FaultKind::retry_after(429, wait)));
    let (server, model) = served(provider, script).await;
    let begin = Instant::now();
    assert_eq!(answered(&model, request("go")).await, ok_events(), "{provider}: {wait}");
    assert_eq!(server.requests().len(), 2);
    (SystemTime::now(), begin.elapsed())
}

#[tokio::test]
async fn the_servers_wait_is_kept_in_seconds_and_as_a_date() {
    for provider in WITH_PIECES {
        let (_, waited) = asked_again(provider, "1").await;
        assert!(waited >= Duration::from_secs(1), "{provider}: {waited:?}");
        let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(2));
        let (again, _) = asked_again(provider, &date).await;
        assert!(again >= httpdate::parse_http_date(&date).unwrap(), "{provider}: {date}");
    }
}

#[tokio::test]
async fn a_server_that_asks_for_a_longer_wait_than_allowed_is_not_asked_again() {
    let script = script().with_fault(Fault::always(FaultKind::retry_after(429, "61")));
    let (server, model) = served(Provider::OpenAi, script).await;
    let error = failed(&model, request("go")).await;
    let ModelError::Busy { status: 429, attempts: 1, retry_after, message, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!((retry_after, message.as_str()), (Some(Duration::from_secs(61)), "come back later"));
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_closed_port_is_unreachable_and_named_by_its_origin() {
    for provider in PROVIDERS {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let model = GenaiModel::new(config(provider, &origin)).unwrap();
        match failed(&model, request("go")).await {
            ModelError::Unreachable { address, .. } => assert_eq!(address, origin),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_server_that_comes_up_meanwhile_is_reached() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let config = config(Provider::OpenAi, &format!("http://127.0.0.1:{port}"))
        .attempts(10u32)
        .first_pause(Duration::from_millis(50));
    let model = GenaiModel::new(config).unwrap();
    let later = async {
        tokio::time::sleep(Duration::from_millis(120)).await;
        let options = forge_scripted_model::StartOptions { port, keep_requests: true };
        ScriptedModel::start_with(script(), options).await.unwrap()
    };
    let (events, _server) = tokio::join!(answered(&model, request("go")), later);
    assert_eq!(events, ok_events());
}

#[tokio::test]
async fn silence_in_the_middle_breaks_the_answer_off_and_no_call_comes_of_it() {
    for provider in PROVIDERS {
        let script = broken(FaultKind::Silent(Place::InToolCall));
        let server = ScriptedModel::start(script).await.unwrap();
        let config = config(provider, &server.base_url()).silence_limit(Duration::from_millis(300));
        let (events, error) = ask(&GenaiModel::new(config).unwrap(), request("go")).await;
        assert_eq!(shape(&error.unwrap()), "broken off", "{provider}");
        assert!(!events.iter().any(|event| matches!(event, ModelEvent::ToolCall(_))));
        assert_eq!(server.requests().len(), 1);
    }
}

#[tokio::test]
async fn silence_from_the_start_breaks_the_answer_off() {
    for provider in PROVIDERS {
        let server = ScriptedModel::start(broken(FaultKind::SilentFromTheStart)).await.unwrap();
        let config =
            config(provider, &server.base_url()).first_byte_limit(Duration::from_millis(300));
        let error = failed(&GenaiModel::new(config).unwrap(), request("go")).await;
        assert_eq!(shape(&error), "broken off", "{provider}");
        assert!(error.to_string().contains("300ms"), "{error}");
    }
}

#[tokio::test]
async fn a_slow_answer_is_not_a_silent_one() {
    for provider in PROVIDERS {
        let delivery =
            forge_scripted_model::Delivery { event_chars: 1, chunk_bytes: Some(40), delay_ms: 40 };
        let server = ScriptedModel::start(script().delivered(delivery)).await.unwrap();
        let config = config(provider, &server.base_url()).silence_limit(Duration::from_secs(10));
        let actual = answered(&GenaiModel::new(config).unwrap(), request("go")).await;
        assert_eq!(actual, ok_events(), "{provider}");
    }
}

#[tokio::test]
async fn a_cut_or_an_early_end_anywhere_breaks_the_answer_off() {
    for provider in PROVIDERS {
        for place in [Place::InToolCall, Place::BeforeFinish, Place::Bytes(40)] {
            for kind in [FaultKind::Cut(place), FaultKind::EndEarly(place)] {
                let (server, model) = served(provider, broken(kind.clone())).await;
                let (events, error) = ask(&model, request("go")).await;
                let shape = error.as_ref().map(shape);
                assert_eq!(shape.as_deref(), Some("broken off"), "{provider} {kind:?}: {error:?}");
                assert!(!events.iter().any(|event| matches!(event, ModelEvent::ToolCall(_))));
                assert_eq!(server.requests().len(), 1);
            }
        }
    }
}

#[tokio::test]
async fn garbage_is_unreadable() {
    let reply = |content_type: &str, body: &str| FaultKind::Reply {
        status: 200,
        headers: vec![("content-type".to_owned(), content_type.to_owned())],
        body: body.to_owned(),
    };
    for provider in PROVIDERS {
        for kind in [
            reply("text/event-stream", "event: content_block_start\ndata: {no json\n\n"),
            reply("text/html", "<html>\n<body>Welcome</body>\n</html>\n"),
            reply("application/json", "[]"),
            reply("text/event-stream", ""),
        ] {
            let (server, model) = served(provider, broken(kind.clone())).await;
            let error = failed(&model, request("go")).await;
            assert_eq!(shape(&error), "unreadable", "{provider} {kind:?}: {error:?}");
            assert_eq!(server.requests().len(), 1);
        }
    }
}

#[tokio::test]
async fn an_error_within_the_stream_is_tried_again_only_before_anything_was_delivered() {
    let overloaded = r#"{"type":"error","error":{"type":"overloaded_error","message":"full"}}"#;
    let reply = |begin: &str| FaultKind::Reply {
        status: 200,
        headers: vec![("content-type".to_owned(), "text/event-stream".to_owned())],
        body: format!("{begin}event: error\ndata: {overloaded}\n\n"),
    };
    let begun = "event: content_block_start\ndata: {\"content_block\":{\"type\":\"text\"}}\n\n\
                 event: content_block_delta\ndata: {\"delta\":{\"text\":\"half\"}}\n\n";
    let text_begun = "data: {\"choices\":[{\"delta\":{\"content\":\"half\"}}]}\n\n";
    for (provider, begun) in [(Provider::Anthropic, begun), (Provider::OpenAi, text_begun)] {
        let at_once = script().with_fault(Fault::first(1, reply("")));
        let (server, model) = served(provider, at_once).await;
        assert_eq!(answered(&model, request("go")).await, ok_events(), "{provider}");
        assert_eq!(server.requests().len(), 2);
        let midway = script().with_fault(Fault::first(1, reply(begun)));
        let (server, model) = served(provider, midway).await;
        let (events, error) = ask(&model, request("go")).await;
        assert_eq!(events, [ModelEvent::Text("half".to_owned())]);
        assert_eq!(shape(&error.unwrap()), "broken off");
        assert_eq!(server.requests().len(), 1);
    }
}

#[tokio::test]
async fn the_key_is_in_no_error_however_the_server_echoes_it() {
    let stream = |body: String| FaultKind::Reply {
        status: 200,
        headers: vec![("content-type".to_owned(), "text/event-stream".to_owned())],
        body,
    };
    for provider in WITH_PIECES {
        for kind in [
            FaultKind::status(401, format!(r#"{{"error":{{"message":"bad key {KEY}"}}}}"#)),
            FaultKind::status(400, format!("Authorization: Bearer {KEY}")),
            FaultKind::status(500, format!("{}{KEY}", "x".repeat(490))),
            stream(format!("event: error\ndata: {{\"error\":{{\"message\":\"{KEY}\"}}}}\n\n")),
            stream(format!("event: message_start\ndata: {KEY}\n\n")),
        ] {
            let script = script().with_fault(Fault::always(kind.clone()));
            let (server, model) = served(provider, script).await;
            let error = failed(&model, request("go")).await;
            let text = printed(&error) + &format!("{model:?}");
            assert!(!text.contains(KEY) && !text.contains("sk-hidden"), "{kind:?}: {text}");
            assert!(!format!("{:?}", config(provider, &server.base_url())).contains(KEY));
        }
    }
}

#[tokio::test]
async fn a_long_message_of_the_server_is_shortened_and_shown_without_control_characters() {
    let body = format!("\u{1b}[31m{}\u{7}", "é".repeat(100_000));
    let script = script().with_fault(Fault::always(FaultKind::status(400, body)));
    let (_server, model) = served(Provider::OpenAi, script).await;
    match failed(&model, request("go")).await {
        ModelError::Rejected { message, .. } => {
            assert_eq!(message.chars().count(), 501);
            assert!(!message.chars().any(char::is_control), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_server_that_closes_without_a_reply_is_tried_again() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let mut seen = 0;
        while seen < 3 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = [0; 1024];
            assert!(stream.read(&mut bytes).await.unwrap() > 0);
            stream.shutdown().await.unwrap();
            seen += 1;
        }
        seen
    });
    let config = config(Provider::OpenAi, &origin).attempts(3u32);
    let error = failed(&GenaiModel::new(config).unwrap(), request("go")).await;
    assert_eq!(shape(&error), "unreachable", "{error:?}");
    assert_eq!(server.await.unwrap(), 3);
}

#[tokio::test]
async fn an_error_that_falls_silent_in_its_middle_is_told_by_its_status() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // A client may drop a reply that comes before its request.
        let mut request = [0; 1024];
        assert!(stream.read(&mut request).await.unwrap() > 0);
        let half = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 100\r\n\r\n{\"error\":";
        stream.write_all(half).await.unwrap();
        // Until the client leaves.
        let mut rest = Vec::new();
        drop(stream.read_to_end(&mut rest).await);
    });
    let config = config(Provider::OpenAi, &origin).silence_limit(Duration::from_millis(200));
    let error = failed(&GenaiModel::new(config).unwrap(), request("go")).await;
    assert_eq!(shape(&error), "access refused 401", "{error:?}");
    tokio::time::timeout(crate::asked::BOUND, server).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_server_without_tls_is_unreachable_over_it() {
    let (server, _) = served(Provider::OpenAi, script()).await;
    let https = server.base_url().replace("http://", "https://");
    let config = config(Provider::OpenAi, &https).attempts(1u32);
    let model = GenaiModel::new(config).unwrap();
    assert_eq!(model.id().to_string(), "openai/scripted");
    let error = failed(&model, request("go")).await;
    assert_eq!(shape(&error), "unreachable", "{error:?}");
}

#[tokio::test]
async fn an_error_within_ollamas_stream_is_told() {
    let kind = FaultKind::Reply {
        status: 200,
        headers: vec![("content-type".to_owned(), "application/x-ndjson".to_owned())],
        body: "{\"message\":{\"content\":\"half\"}}\n{\"error\":\"out of memory\"}\n".to_owned(),
    };
    let (_server, model) = served(Provider::Ollama, broken(kind)).await;
    let (events, error) = ask(&model, request("go")).await;
    assert_eq!(events, [ModelEvent::Text("half".to_owned())]);
    match error {
        Some(ModelError::BrokenOff { reason, .. }) => {
            assert_eq!(reason, "the server reports an error: out of memory");
        }
        other => panic!("{other:?}"),
    }
}
