//! Streams that break, and streams of nonsense.

use forge_domain::{Ending, Lifecycle, OutputStream};
use pretty_assertions::assert_eq;
use serde_json::json;

use crate::sandbox::{
    CREATE, DELETE, FOLLOW, RUN, START, STATUS, STDIN, Token, environment, exited, life, run,
};
use crate::server::{Reply, Server};

#[tokio::test]
async fn a_stream_cut_inside_a_character_is_followed_without_loss_or_repetition() {
    let token = Token::default();
    let server = Server::start(move |request| match request.shape.as_str() {
        RUN => {
            token.note(request);
            let line = r#"data: {"line":"zwölf €","stream":"stdout"}"#;
            let inside = line.find('€').unwrap() + 1;
            Reply::stream().started(request).out("one").bytes(&line.as_bytes()[..inside]).cut()
        }
        FOLLOW => {
            let started = format!("{} start 12", token.get());
            let whole = Reply::stream().out(&started).out("one").out("zwölf €");
            // It breaks a second time, in the middle of what is repeated, and then later.
            match request.nth {
                0 => Reply::stream().out(&started).cut(),
                1 => whole.cut(),
                _ => whole.out("three").eof(),
            }
        }
        STATUS => exited(),
        "GET /api/v1/processes/4711/stdout" => {
            let lines = [&*format!("{} start 12", token.get()), "one", "zwölf €", "three", "four"];
            Reply::json(200, &json!({"pid": 4711, "lines": lines, "line_count": 5}))
        }
        "GET /api/v1/processes/4711/stderr" => {
            Reply::json(200, &json!({"pid": 4711, "lines": ["e"], "line_count": 1}))
        }
        _ => life(request),
    })
    .await;
    let environment = environment(&server);
    let exit = run(&environment).await.unwrap();
    environment.close().await.unwrap();

    assert_eq!(exit.ending, Ending::Exited(7));
    let output = exit.output.of(OutputStream::Stdout);
    assert_eq!(String::from_utf8(output).unwrap(), "one\nzwölf €\nthree\nfour\n");
    assert_eq!(exit.output.of(OutputStream::Stderr), b"e\n", "also what the follow did not bring");
    assert_eq!((server.count(RUN), server.count(START), server.count(FOLLOW)), (1, 0, 3));
}

#[tokio::test]
async fn exact_output_is_followed_without_loss_or_repetition_too() {
    let token = Token::default();
    let server = Server::start(move |request| match request.shape.as_str() {
        RUN => Reply::empty(405),
        START => {
            token.note(request);
            Reply::json(201, &json!({"pid": 4711, "status": "running"}))
        }
        STDIN => Reply::empty(204),
        FOLLOW => {
            let token = token.get();
            let begun = Reply::stream().out(&format!("{token} start 12")).out("0 b25l");
            let end = |reply: Reply| {
                reply
                    .event(&json!({"line": format!("{token} end"), "stream": "stderr"}))
                    .out(&format!("{token} end 7"))
                    .eof()
            };
            match request.nth {
                0 => begun.bytes(b"data: {\"line\":\"1 dHd\xe2\x82").cut(),
                // Without the middle, as a server whose buffer ran over has it; all at once.
                1 => {
                    let lines = [&*format!("{token} start 12"), "0 b25l", "2 ISE="];
                    let mut text = String::new();
                    for line in lines {
                        text.push_str(&format!("data: {}\n\n", json!({"line": line})));
                    }
                    for (stream, line) in [("stderr", "end"), ("stdout", "end 7")] {
                        let line = format!("{token} {line}");
                        let event = json!({"line": line, "stream": stream});
                        text.push_str(&format!("data: {event}\n\n"));
                    }
                    Reply::stream().bytes(text).eof()
                }
                _ => end(begun.out("1 dHdv").out("2 ISE=")),
            }
        }
        STATUS => exited(),
        _ => life(request),
    })
    .await;
    let environment = environment(&server);
    let exit = run(&environment).await.unwrap();
    environment.close().await.unwrap();

    assert_eq!(exit.ending, Ending::Exited(7));
    assert_eq!(exit.output.interleaved(), b"onetwo!!");
    assert_eq!((server.count(START), server.count(STDIN)), (1, 1));
}

async fn breaks_for_ever(replayed: bool) {
    let token = Token::default();
    let server = Server::start(move |request| match request.shape.as_str() {
        RUN => {
            token.note(request);
            Reply::stream().started(request).out("one").cut()
        }
        FOLLOW if replayed => {
            Reply::stream().out(&format!("{} start 12", token.get())).out("one").cut()
        }
        FOLLOW => Reply::stream().cut(),
        _ => life(request),
    })
    .await;
    let environment = environment(&server);
    let exit = run(&environment).await.unwrap();
    environment.close().await.unwrap();
    let Ending::ContactLost { command, cause } = exit.ending else { panic!("{:?}", exit.ending) };
    assert_eq!(command.as_deref(), Some("pid 4711"));
    assert!(cause.contains("the connection failed"), "{cause}");
    assert_eq!(exit.output.of(OutputStream::Stdout), b"one\n", "what was heard is kept");
    assert_eq!((server.count(RUN), server.count(START), server.count(DELETE)), (1, 0, 1));
}

#[tokio::test]
async fn a_stream_that_breaks_for_ever_is_contact_lost_and_names_the_process() {
    breaks_for_ever(false).await;
}

#[tokio::test]
async fn a_stream_that_only_repeats_itself_and_breaks_is_contact_lost_too() {
    breaks_for_ever(true).await;
}

#[tokio::test]
async fn a_stream_that_breaks_before_it_names_the_process_is_contact_lost() {
    let server = Server::start(|request| match request.shape.as_str() {
        RUN => Reply::stream().bytes(": hello\n\n").cut(),
        _ => life(request),
    })
    .await;
    let environment = environment(&server);
    let exit = run(&environment).await.unwrap();
    environment.close().await.unwrap();
    assert!(matches!(exit.ending, Ending::ContactLost { command: None, .. }), "{:?}", exit.ending);
    assert_eq!(server.shapes(), [CREATE, RUN, DELETE]);
}
