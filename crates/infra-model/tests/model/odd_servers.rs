//! Servers that speak a format almost as its owner does, and streams that end in odd places.

use forge_domain::{ModelError, ModelEvent, StopReason, ToolCall, ToolCallId, Usage};
use forge_infra_model::{GenaiModel, Provider};
use forge_scripted_model::{Answer, Call, Fault, FaultKind, Place, Script, TokenCount};
use pretty_assertions::assert_eq;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::asked::{ask, config, request, served};

fn reply(body: &str) -> Script {
    Script::default().with_fault(Fault::always(FaultKind::Reply {
        status: 200,
        headers: vec![("content-type".to_owned(), "text/event-stream".to_owned())],
        body: body.to_owned(),
    }))
}

fn text(text: &str) -> ModelEvent {
    ModelEvent::Text(text.to_owned())
}

/// A model at a server that answers once with a stream in these writes, each in a packet of its own.
async fn served_in_writes(provider: Provider, writes: Vec<Vec<u8>>) -> GenaiModel {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"}") {
            assert!(stream.read_buf(&mut seen).await.unwrap() > 0);
        }
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\
                    transfer-encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        for write in writes {
            let mut chunk = format!("{:x}\r\n", write.len()).into_bytes();
            chunk.extend(write);
            chunk.extend(b"\r\n");
            stream.write_all(&chunk).await.unwrap();
            // So that each chunk is a read of its own.
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        stream.write_all(b"0\r\n\r\n").await.unwrap();
        stream.shutdown().await.unwrap();
    });
    GenaiModel::new(config(provider, &origin)).unwrap()
}

/// Anthropic's stream of one short text, with these ends of lines.
fn anthropic(end: &str) -> String {
    [
        ("message_start", r#"{"type":"message_start","message":{}}"#),
        (
            "content_block_start",
            r#"{"type":"content_block_start","content_block":{"type":"text"}}"#,
        ),
        ("content_block_delta", r#"{"type":"content_block_delta","delta":{"text":"one "}}"#),
        ("content_block_delta", r#"{"type":"content_block_delta","delta":{"text":"two"}}"#),
        ("content_block_stop", r#"{"type":"content_block_stop"}"#),
        ("message_delta", r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"}}"#),
        ("message_stop", r#"{"type":"message_stop"}"#),
    ]
    .map(|(name, data)| format!("event: {name}{end}data: {data}{end}{end}"))
    .concat()
}

const CHUNKS: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"one \"}}]}\n\n\
    data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"a\",\"function\":\
    {\"name\":\"shell\",\"arguments\":\"{ }\"}}]}}]}\n\n";
const FINISH: &str = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\n";
const COUNT: &str =
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2}}\n\n";

#[tokio::test]
async fn an_answer_with_its_finish_reason_is_complete_also_without_the_mark_of_the_end() {
    let call = ModelEvent::ToolCall(ToolCall {
        id: ToolCallId::new("a"),
        name: "shell".to_owned(),
        arguments: "{ }".to_owned(),
    });
    let usage = ModelEvent::Usage(Usage {
        input_tokens: Some(9),
        cached_input_tokens: None,
        output_tokens: Some(2),
    });
    let started = ModelEvent::ToolCallStarted { name: "shell".to_owned() };
    let finished = ModelEvent::Finished(StopReason::ToolCalls);
    for provider in [Provider::OpenAi, Provider::OpenRouter] {
        for (end, expected) in [
            (FINISH.to_owned(), vec![&call, &finished]),
            (format!("{FINISH}{COUNT}"), vec![&call, &usage, &finished]),
            // The last event without the empty line that ends it.
            (format!("{FINISH}{}", COUNT.trim_end()), vec![&call, &usage, &finished]),
            (format!("{FINISH}{COUNT}data: [DONE]\n\n"), vec![&call, &usage, &finished]),
        ] {
            let (_server, model) = served(provider, reply(&format!("{CHUNKS}{end}"))).await;
            let (events, error) = ask(&model, request("go")).await;
            assert!(error.is_none(), "{provider} {end}: {error:?}");
            let begin = [text("one "), started.clone()];
            let expected: Vec<ModelEvent> =
                begin.into_iter().chain(expected.into_iter().cloned()).collect();
            assert_eq!(events, expected, "{provider}: {end}");
        }
    }
}

#[tokio::test]
async fn an_event_that_ends_in_its_middle_is_broken_off() {
    let openai = format!("{CHUNKS}{}", &FINISH[..FINISH.len() / 2]);
    let anthropic = anthropic("\n");
    let anthropic = &anthropic[..anthropic.find("two").unwrap()];
    let ollama = "{\"message\":{\"content\":\"one \"}}\n{\"message\":{\"con";
    for (provider, body) in [
        (Provider::OpenAi, openai.as_str()),
        (Provider::Anthropic, anthropic),
        (Provider::Ollama, ollama),
    ] {
        let (_server, model) = served(provider, reply(body)).await;
        let (events, error) = ask(&model, request("go")).await;
        assert_eq!(events[0], text("one "), "{provider}");
        assert!(matches!(error, Some(ModelError::BrokenOff { .. })), "{provider}: {error:?}");
    }
}

#[tokio::test]
async fn lines_that_end_with_cr_lf_are_lines() {
    for provider in [Provider::Anthropic, Provider::OpenAi] {
        let body = match provider {
            Provider::Anthropic => anthropic("\r\n"),
            _ => format!(
                "data: {{\"choices\":[{{\"delta\":{{\"content\":\"one two\"}}}}]}}\n\n{}",
                "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n"
            )
            .replace('\n', "\r\n"),
        };
        let model = served_in_writes(provider, vec![body.into_bytes()]).await;
        let (events, error) = ask(&model, request("go")).await;
        assert!(error.is_none(), "{provider}: {error:?}");
        assert_eq!(events, [text("one two"), ModelEvent::Finished(StopReason::Done)]);
    }
}

/// `genai` takes a split between CR and LF for the end of an event. What it then makes of the answer
/// must never pass for the whole of it.
#[tokio::test]
async fn nothing_of_an_answer_is_lost_in_silence_where_cr_and_lf_are_split() {
    let body = anthropic("\r\n");
    for (at, _) in body.match_indices("\r\n") {
        let (first, second) = body.as_bytes().split_at(at + 1);
        let model =
            served_in_writes(Provider::Anthropic, vec![first.to_vec(), second.to_vec()]).await;
        let (events, error) = ask(&model, request("go")).await;
        let whole = [text("one two"), ModelEvent::Finished(StopReason::Done)];
        match error {
            None => assert_eq!(events, whole, "split at {at}"),
            Some(ModelError::BrokenOff { .. }) => {}
            Some(error) => panic!("split at {at}: {error:?}"),
        }
    }
}

#[tokio::test]
async fn a_call_whose_name_comes_late_is_announced_with_it_and_once() {
    let piece = |function: &str| {
        format!(
            "data: {{\"choices\":[{{\"delta\":{{\"tool_calls\":[{{\"index\":0,\"id\":\"a\",\
             \"function\":{function}}}]}}}}]}}\n\n"
        )
    };
    let body = format!(
        "{}{}{}{FINISH}data: [DONE]\n\n",
        piece(r#"{"arguments":""}"#),
        piece(r#"{"name":"shell","arguments":"{"}"#),
        piece(r#"{"arguments":"}"}"#),
    );
    let (_server, model) = served(Provider::OpenAi, reply(&body)).await;
    let (events, error) = ask(&model, request("go")).await;
    assert!(error.is_none(), "{error:?}");
    let expected = [
        ModelEvent::ToolCallStarted { name: "shell".to_owned() },
        ModelEvent::ToolCall(ToolCall {
            id: ToolCallId::new("a"),
            name: "shell".to_owned(),
            arguments: "{}".to_owned(),
        }),
        ModelEvent::Finished(StopReason::ToolCalls),
    ];
    assert_eq!(events, expected);
}

/// Whatever stands between here and there may end a stream without a sign that it was cut.
#[tokio::test]
async fn a_stream_that_ends_after_any_byte_is_the_whole_answer_or_broken_off() {
    let answer = Answer {
        calls: vec![Call { id: Some("a".to_owned()), ..Call::new("shell", r#"{"c":"ä"}"#) }],
        usage: Some(TokenCount { input: 9, cached: 0, output: 2 }),
        ..Answer::text("ü")
    };
    for provider in [Provider::Anthropic, Provider::OpenAi, Provider::Ollama] {
        let (_server, model) = served(provider, Script::new([answer.clone()])).await;
        let (whole, _) = ask(&model, request("go")).await;
        let [.., ModelEvent::Usage(_), finished] = whole.as_slice() else { panic!("{whole:?}") };
        let (mut broken_off, mut whole_in_a_row) = (0, 0);
        // Ends where nothing is cut any more: the mark of the end, which may be missing, is shorter.
        for bytes in 1.. {
            let kind = FaultKind::EndEarly(Place::Bytes(bytes));
            let script = Script::new([answer.clone()]).with_fault(Fault::always(kind));
            let (_server, model) = served(provider, script).await;
            let (events, error) = ask(&model, request("go")).await;
            match error {
                Some(ModelError::BrokenOff { .. }) => {
                    broken_off += 1;
                    let is_end = |event: &ModelEvent| {
                        matches!(event, ModelEvent::ToolCall(_) | ModelEvent::Finished(_))
                    };
                    assert!(!events.iter().any(is_end), "{provider} {bytes}: {events:?}");
                }
                // The first bytes hold no event at all.
                Some(ModelError::Unreadable { .. }) if events.is_empty() => {}
                Some(error) => panic!("{provider} {bytes}: {error:?} after {events:?}"),
                None => {
                    // What it cost comes last and may be cut off; all else is there.
                    let rest = events.iter().filter(|event| !matches!(event, ModelEvent::Usage(_)));
                    let expected =
                        whole.iter().filter(|event| !matches!(event, ModelEvent::Usage(_)));
                    assert_eq!(rest.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
                    assert_eq!(events.last(), Some(finished));
                    whole_in_a_row = if events == whole { whole_in_a_row + 1 } else { 0 };
                    if whole_in_a_row > 20 {
                        break;
                    }
                }
            }
        }
        assert!(broken_off > 100, "{provider}: {broken_off}");
    }
}

#[tokio::test]
async fn calls_of_a_server_that_numbers_them_badly_or_not_at_all_are_neither_lost_nor_mixed() {
    let piece = |calls: &str| {
        format!("data: {{\"choices\":[{{\"delta\":{{\"tool_calls\":{calls}}}}}]}}\n\n")
    };
    let call = |id: &str, name: &str, arguments: &str| {
        ModelEvent::ToolCall(ToolCall {
            id: ToolCallId::new(id),
            name: name.to_owned(),
            arguments: arguments.to_owned(),
        })
    };
    let shell = r#""id":"a","function":{"name":"shell","arguments":"{}"}"#;
    let read = r#""id":"b","function":{"name":"read","arguments":"{\"p\":1}"}"#;
    let both = [call("a", "shell", "{}"), call("b", "read", r#"{"p":1}"#)];
    for (body, expected) in [
        (piece(&format!("[{{{shell}}}]")), &both[..1]),
        (piece(&format!("[{{{shell}}},{{{read}}}]")), &both[..]),
        (
            piece(&format!("[{{\"index\":0,{shell}}}]"))
                + &piece(&format!("[{{\"index\":0,{read}}}]")),
            &both[..],
        ),
        // As many entries as that nobody can have.
        (piece(&format!("[{{\"index\":4294967295,{shell}}}]")), &both[..1]),
    ] {
        let script = reply(&format!("{body}{FINISH}data: [DONE]\n\n"));
        let (_server, model) = served(Provider::OpenAi, script).await;
        let (events, error) = ask(&model, request("go")).await;
        assert!(error.is_none(), "{error:?}");
        let names =
            ["shell", "read"].map(|name| ModelEvent::ToolCallStarted { name: name.to_owned() });
        let started = names.into_iter().take(expected.len());
        let end = [ModelEvent::Finished(StopReason::ToolCalls)];
        let expected: Vec<ModelEvent> =
            started.chain(expected.iter().cloned()).chain(end).collect();
        assert_eq!(events, expected, "{body}");
    }
}
