//! What comes out of an answer.

use forge_domain::{LanguageModel as _, ModelEvent, StopReason, ToolCall, ToolCallId, Usage};
use forge_infra_model::Provider;
use forge_scripted_model::{Answer, Call, Delivery, Finish, Script, TokenCount};
use futures_util::StreamExt as _;
use pretty_assertions::assert_eq;

use crate::asked::{PROVIDERS, WITH_PIECES, answered, request, served};

fn call(id: &str, name: &str, arguments: &str) -> ModelEvent {
    ModelEvent::ToolCall(ToolCall {
        id: ToolCallId::new(id),
        name: name.to_owned(),
        arguments: arguments.to_owned(),
    })
}

fn started(name: &str) -> ModelEvent {
    ModelEvent::ToolCallStarted { name: name.to_owned() }
}

fn with_id(id: &str, call: Call) -> Call {
    Call { id: Some(id.to_owned()), ..call }
}

/// Thought, text beyond ASCII, two calls of which one is no JSON, and a count.
fn rich() -> Answer {
    Answer {
        reasoning: "hm — so\n".to_owned(),
        text: "Grüße 🦀, 你好\n\ndone".to_owned(),
        calls: vec![
            with_id("a", Call::new("shell", r#"{ "command":  "echo ü" }"#)),
            with_id("b", Call::new("read", r#"{"path": "x"#)),
        ],
        usage: Some(TokenCount { input: 100, cached: 40, output: 7 }),
        finish: Finish::Natural,
    }
}

fn rich_events() -> Vec<ModelEvent> {
    vec![
        ModelEvent::Reasoning("hm — so\n".to_owned()),
        ModelEvent::Text("Grüße 🦀, 你好\n\ndone".to_owned()),
        started("shell"),
        started("read"),
        call("a", "shell", r#"{ "command":  "echo ü" }"#),
        call("b", "read", r#"{"path": "x"#),
        ModelEvent::Usage(Usage {
            input_tokens: Some(100),
            cached_input_tokens: Some(40),
            output_tokens: Some(7),
        }),
        ModelEvent::Finished(StopReason::ToolCalls),
    ]
}

#[tokio::test]
async fn an_answer_is_the_same_wherever_its_bytes_are_split() {
    for provider in WITH_PIECES {
        for chunk_bytes in [None, Some(1), Some(2), Some(3), Some(7), Some(64), Some(1500)] {
            let delivery = Delivery { event_chars: 3, chunk_bytes, delay_ms: 0 };
            let script = Script::new([rich()]).delivered(delivery);
            let (_server, model) = served(provider, script).await;
            let actual = answered(&model, request("go")).await;
            assert_eq!(actual, rich_events(), "{provider} in pieces of {chunk_bytes:?}");
        }
    }
}

#[tokio::test]
async fn ollamas_calls_come_whole_with_ids_and_their_text_is_kept_where_it_is_no_json() {
    for chunk_bytes in [None, Some(1), Some(5)] {
        let delivery = Delivery { event_chars: 3, chunk_bytes, delay_ms: 0 };
        let script = Script::new([rich()]).delivered(delivery);
        let (_server, model) = served(Provider::Ollama, script).await;
        let mut expected = rich_events();
        expected[4] = call("a", "shell", r#"{"command":"echo ü"}"#);
        expected[6] = ModelEvent::Usage(Usage {
            input_tokens: Some(100),
            cached_input_tokens: None,
            output_tokens: Some(7),
        });
        assert_eq!(answered(&model, request("go")).await, expected);
    }
}

#[tokio::test]
async fn text_comes_as_it_is_sent_and_not_at_the_end() {
    for provider in PROVIDERS {
        let script = Script::new([Answer::text("one two three")])
            .delivered(Delivery { event_chars: 4, ..Delivery::default() });
        let (_server, model) = served(provider, script).await;
        let stream = model.answer(request("go")).await.unwrap();
        let texts = stream.filter_map(|event| async { event.ok() }).collect::<Vec<_>>().await;
        let text = |text: &str| ModelEvent::Text(text.to_owned());
        let expected = [
            text("one "),
            text("two "),
            text("thre"),
            text("e"),
            ModelEvent::Finished(StopReason::Done),
        ];
        assert_eq!(texts, expected, "{provider}");
    }
}

#[tokio::test]
async fn a_call_is_announced_before_its_arguments_are_complete() {
    for provider in WITH_PIECES {
        let script = Script::shell_commands(1).with_fault(forge_scripted_model::Fault::always(
            forge_scripted_model::FaultKind::Silent(forge_scripted_model::Place::InToolCall),
        ));
        let (_server, model) = served(provider, script).await;
        let mut stream = model.answer(request("go")).await.unwrap();
        let first = stream.next().await.unwrap().unwrap();
        assert_eq!(first, started("shell"), "{provider}");
    }
}

#[tokio::test]
async fn many_calls_come_in_the_models_order() {
    for provider in PROVIDERS {
        let calls = (0..20).map(|n| {
            with_id(&format!("id-{n}"), Call::new("shell", format!(r#"{{"command":"{n}"}}"#)))
        });
        let (_server, model) = served(provider, Script::new([Answer::calls(calls)])).await;
        let actual: Vec<ModelEvent> = answered(&model, request("go"))
            .await
            .into_iter()
            .filter(|event| matches!(event, ModelEvent::ToolCall(_)))
            .collect();
        let expected: Vec<ModelEvent> = (0..20)
            .map(|n| call(&format!("id-{n}"), "shell", &format!(r#"{{"command":"{n}"}}"#)))
            .collect();
        assert_eq!(actual, expected, "{provider}");
    }
}

#[tokio::test]
async fn arguments_are_the_models_own_text_and_none_are_an_empty_object() {
    for provider in WITH_PIECES {
        for (sent, expected) in [
            ("", "{}"),
            ("null", "{}"),
            ("{}", "{}"),
            ("{\"a\":", "{\"a\":"),
            ("not json", "not json"),
            ("[1]", "[1]"),
            ("\"text\"", "\"text\""),
            ("{\"b\":1, \"a\":1e3}", "{\"b\":1, \"a\":1e3}"),
        ] {
            let answer = Answer::calls([with_id("a", Call::new("shell", sent))]);
            let (_server, model) = served(provider, Script::new([answer])).await;
            let actual = answered(&model, request("go")).await;
            let expected = [
                started("shell"),
                call("a", "shell", expected),
                ModelEvent::Finished(StopReason::ToolCalls),
            ];
            assert_eq!(actual, expected, "{provider}: {sent:?}");
        }
    }
}

#[tokio::test]
async fn each_reason_to_stop_is_told_apart() {
    for provider in PROVIDERS {
        for (finish, expected) in [
            (Finish::Natural, StopReason::Done),
            (Finish::Length, StopReason::Length),
            (Finish::Filtered, StopReason::Filtered),
            (Finish::Named("pause_turn".to_owned()), StopReason::Other("pause_turn".to_owned())),
        ] {
            let answer = Answer { finish, ..Answer::text("x") };
            let (_server, model) = served(provider, Script::new([answer])).await;
            let actual = answered(&model, request("go")).await;
            let expected = [ModelEvent::Text("x".to_owned()), ModelEvent::Finished(expected)];
            assert_eq!(actual, expected, "{provider}");
        }
    }
}

#[tokio::test]
async fn calls_of_a_server_that_says_it_is_done_are_calls_all_the_same() {
    let answer = Answer {
        finish: Finish::Named("stop".to_owned()),
        ..Answer::calls([Call::new("shell", "{}")])
    };
    let (_server, model) = served(Provider::OpenAi, Script::new([answer])).await;
    let actual = answered(&model, request("go")).await;
    assert_eq!(actual.last(), Some(&ModelEvent::Finished(StopReason::ToolCalls)));
}

#[tokio::test]
async fn an_answer_of_nothing_is_an_answer() {
    for provider in PROVIDERS {
        let (_server, model) = served(provider, Script::default()).await;
        let actual = answered(&model, request("go")).await;
        assert_eq!(actual, [ModelEvent::Finished(StopReason::Done)], "{provider}");
    }
}
