//! Servers that stall, cut, lie and refuse: what the environment makes of them.

#![expect(clippy::unwrap_used, reason = "a step that fails ends its test")]

mod gone;
mod server;

use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use forge_domain::{
    CommandError, CommandExit, CommandIo, CommandRequest, Commands, Ending, EnvironmentError,
    Fidelity, Lifecycle, OutputLimits, OutputStream, Program, WorkspaceLocation,
};
use forge_infra_tensorlake::{TensorlakeConfig, TensorlakeEnvironment};
use pretty_assertions::assert_eq;
use secrecy::SecretString;
use serde_json::json;

use server::{Asked, Hostile, Reply, Step, eof, line, pid};

pub(crate) const KEY: &str = "tl_s3cret";

fn workspace() -> WorkspaceLocation {
    WorkspaceLocation { root: "/w".into(), working_directory: "/w".into() }
}

fn config(server: &Hostile) -> TensorlakeConfig {
    TensorlakeConfig::new(SecretString::from(KEY))
        .api_url(server.url.clone())
        .silence_limit(Duration::from_millis(700))
}

fn environment(server: &Hostile) -> TensorlakeEnvironment {
    TensorlakeEnvironment::new(config(server), workspace()).unwrap()
}

async fn run(server: &Hostile) -> Result<CommandExit, CommandError> {
    run_as(server, Fidelity::Readable).await
}

async fn run_as(server: &Hostile, fidelity: Fidelity) -> Result<CommandExit, CommandError> {
    let request = CommandRequest::new(Program::argv("echo", ["x"]))
        .fidelity(fidelity)
        .output_limits(OutputLimits::head_and_tail(16 * 1024 * 1024));
    environment(server).run(request, CommandIo::detached()).await
}

fn is_run(asked: &Asked) -> bool {
    asked.is("POST", "/processes/run")
}

fn is_follow(asked: &Asked) -> bool {
    asked.is("GET", "/processes/7/output/follow")
}

fn is_status(asked: &Asked) -> bool {
    asked.is("GET", "/processes/7")
}

/// The stream of a `run` whose command has begun.
fn begun(asked: &Asked) -> Reply {
    Reply::stream().chunk(pid()).chunk(line("stdout", &format!("{} start 7", asked.token())))
}

fn exited(code: i32) -> Reply {
    Reply::json(200, &json!({"pid": 7, "status": "exited", "exit_code": code}))
}

fn lines(stream: &str, texts: &[String]) -> Reply {
    Reply::json(
        200,
        &json!({"pid": 7, "lines": texts, "line_count": texts.len(), "stream": stream}),
    )
}

fn starts(server: &Hostile) -> usize {
    server.count("POST", "/processes/run") + server.count("POST", "/processes")
}

#[tokio::test]
async fn a_run_that_never_answers_is_given_up_and_not_sent_again() {
    let server = Hostile::start(|asked| is_run(asked).then(Reply::silence)).await;
    let error = run(&server).await.unwrap_err();
    let is_lost = matches!(&error, CommandError::Environment(EnvironmentError::ContactLost { .. }));
    assert!(is_lost, "{error:?}");
    assert_eq!(starts(&server), 1);
}

/// The stream is cut inside of a character; the process is found by its pid, and what was heard before is
/// neither lost nor repeated.
#[tokio::test]
async fn a_stream_that_is_cut_is_followed_to_the_true_end() {
    let server = Hostile::start(|asked| {
        let all =
            || [format!("{} start 7", "f"), "é1".to_owned(), "é2".to_owned(), "é3".to_owned()];
        if is_run(asked) {
            let whole = line("stdout", "é1") + &line("stderr", "e1") + &line("stdout", "é2");
            let at = whole.rfind('é').unwrap() + 1;
            return Some(begun(asked).chunk(&whole.as_bytes()[..at]).then(Step::Cut));
        }
        if is_follow(asked) {
            // From its beginning, stdout before stderr, as a server replays it.
            let replay: String = all().iter().map(|text| line("stdout", text)).collect();
            return Some(Reply::stream().chunk(replay + &line("stderr", "e1") + eof()).end());
        }
        if asked.is("GET", "/processes/7/stdout") {
            return Some(lines("stdout", &[&all()[..], &["é4".to_owned()]].concat()));
        }
        if asked.is("GET", "/processes/7/stderr") {
            return Some(lines("stderr", &["e1".to_owned()]));
        }
        is_status(asked).then(|| exited(5))
    })
    .await;
    let exit = run(&server).await.unwrap();
    assert_eq!(exit.ending, Ending::Exited(5));
    // The last line was in no stream, only in what the server keeps.
    assert_eq!(exit.output.of(OutputStream::Stdout), "é1\né2\né3\né4\n".as_bytes());
    assert_eq!(exit.output.of(OutputStream::Stderr), b"e1\n");
    assert_eq!(starts(&server), 1);
}

#[tokio::test]
async fn exact_output_survives_a_cut_and_a_gap() {
    let server = Hostile::start(|asked| {
        if is_run(asked) {
            // The second piece is lost on its way, and the third comes.
            let reply = begun(asked).chunk(line("stdout", "0 AAE=") + &line("stdout", "2 BAU="));
            return Some(reply.then(Step::Hang));
        }
        if is_follow(asked) {
            let pieces = ["0 AAE=", "1 AgM=", "2 BAU="];
            let replay: String = pieces.iter().map(|piece| line("stdout", piece)).collect();
            return Some(Reply::stream().chunk(replay + eof()).end());
        }
        is_status(asked).then(|| exited(0))
    })
    .await;
    let exit = run_as(&server, Fidelity::Exact).await.unwrap();
    assert_eq!(exit.output.interleaved(), [0, 1, 2, 3, 4, 5]);
    // The text's own last line never came, so nobody knows how the command ended.
    assert_eq!((exit.ending, starts(&server)), (Ending::Unknown, 1));
}

#[tokio::test]
async fn a_stream_that_breaks_for_ever_is_contact_lost_with_the_pid() {
    let server = Hostile::start(|asked| {
        if is_run(asked) {
            return Some(begun(asked).chunk(line("stdout", "partial")).then(Step::Cut));
        }
        is_follow(asked).then(|| Reply(vec![Step::Cut]))
    })
    .await;
    let exit = run(&server).await.unwrap();
    let Ending::ContactLost { command, cause } = &exit.ending else { panic!("{exit:?}") };
    assert_eq!((command.as_deref(), cause.is_empty()), (Some("pid 7"), false));
    assert_eq!(exit.output.interleaved(), b"partial\n");
    assert_eq!(starts(&server), 1);
}

#[tokio::test]
async fn silence_in_a_stream_is_a_break_and_comments_are_not() {
    let server = Hostile::start(|asked| {
        if is_run(asked) {
            let mut reply = begun(asked);
            for _ in 0..4 {
                reply = reply.then(Step::Wait(Duration::from_millis(400))).chunk(":\n\n");
            }
            return Some(reply.chunk(line("stdout", "late")).then(Step::Hang));
        }
        if is_follow(asked) {
            let replay = line("stdout", "f start") + &line("stdout", "late") + eof();
            return Some(Reply::stream().chunk(replay).end());
        }
        if asked.is("GET", "/stdout") || asked.is("GET", "/stderr") {
            return Some(lines("any", &[]));
        }
        is_status(asked).then(|| exited(0))
    })
    .await;
    let exit = run(&server).await.unwrap();
    assert_eq!((exit.ending, exit.output.interleaved()), (Ending::Exited(0), b"late\n".to_vec()));
    assert_eq!(server.count("GET", "/output/follow"), 1);
}

#[tokio::test]
async fn a_stream_that_drips_byte_by_byte_is_the_same_stream() {
    let server = Hostile::start(|asked| {
        is_run(asked).then(|| {
            let text = line("stdout", "é\tdrip") + "data: {\"exit_code\":3}\n\n";
            let mut reply = begun(asked);
            for byte in text.bytes() {
                reply = reply.chunk([byte]).then(Step::Wait(Duration::from_millis(3)));
            }
            reply.end()
        })
    })
    .await;
    let exit = run(&server).await.unwrap();
    let expected = (Ending::Exited(3), "é\tdrip\n".as_bytes().to_vec());
    assert_eq!((exit.ending, exit.output.interleaved()), expected);
}

#[tokio::test]
async fn ten_megabytes_in_one_line_arrive_whole() {
    let server = Hostile::start(|asked| {
        is_run(asked).then(|| {
            let end = "data: {\"exit_code\":0}\n\n";
            begun(asked).chunk(line("stdout", &"x".repeat(10_000_000)) + end).end()
        })
    })
    .await;
    let exit = run(&server).await.unwrap();
    assert_eq!(exit.ending, Ending::Exited(0));
    assert_eq!(exit.output.total_bytes(OutputStream::Stdout), 10_000_001);
}

#[tokio::test]
async fn events_that_cannot_be_read_are_passed_over() {
    let server = Hostile::start(|asked| {
        is_run(asked).then(|| {
            let garbage = "data: {nonsense\n\ndata: [1,2]\n\ndata: \"text\"\n\nevent: x\ndata\n\n\
                           data: {}\n\ndata: {\"line\":7}\n\n";
            let rest = line("stdout", "good") + "data: {\"exit_code\":0}\n\n";
            begun(asked).chunk(garbage).chunk([0xff, 0xfe, b'\n', b'\n']).chunk(rest).end()
        })
    })
    .await;
    let exit = run(&server).await.unwrap();
    assert_eq!((exit.ending, exit.output.interleaved()), (Ending::Exited(0), b"good\n".to_vec()));
}

#[tokio::test]
async fn an_answer_of_another_type_is_an_error_and_nothing_is_started_again() {
    let server = Hostile::start(|asked| {
        is_run(asked).then(|| Reply::status(200, "Content-Type: text/html\r\n", "<p>hello</p>"))
    })
    .await;
    let error = run(&server).await.unwrap_err();
    assert!(in_full(&error).contains("text/html"), "{}", in_full(&error));
    assert_eq!(starts(&server), 1);
}

/// Runs against a server that first refuses in this way.
async fn refused_once(
    status: u16,
    body: &'static str,
) -> (Result<CommandExit, CommandError>, usize) {
    let refused = AtomicUsize::new(0);
    let server = Hostile::start(move |asked| {
        is_run(asked).then(|| {
            if refused.fetch_add(1, Ordering::Relaxed) == 0 {
                Reply::status(status, "Content-Type: application/json\r\n", body)
            } else {
                begun(asked).chunk("data: {\"exit_code\":0}\n\n").end()
            }
        })
    })
    .await;
    (run(&server).await, starts(&server))
}

#[tokio::test]
async fn a_start_is_sent_again_only_where_nothing_was_begun() {
    for code in [
        "SANDBOX_UPSTREAM_ERROR",
        "SANDBOX_NOT_READY",
        "SANDBOX_UNREACHABLE",
        "AUTH_SERVICE_UNAVAILABLE",
    ] {
        let body: &'static str = format!("{{\"error\":\"e\",\"code\":\"{code}\"}}").leak();
        let (result, starts) = refused_once(503, body).await;
        assert_eq!((result.unwrap().ending, starts), (Ending::Exited(0), 2), "{code}");
    }
    for (status, body) in [
        (503, "{\"error\":\"plain\"}"),
        (503, ""),
        (429, "{}"),
        (500, "{\"error\":\"Failed to spawn process\"}"),
        (502, "bad gateway"),
        (409, "{\"code\":\"SANDBOX_NOT_READY\"}"),
    ] {
        let (result, starts) = refused_once(status, body).await;
        assert!(matches!(result, Err(CommandError::Environment(_))), "{status} {body}: {result:?}");
        assert_eq!(starts, 1, "{status} {body}");
    }
}

#[tokio::test]
async fn what_does_no_harm_twice_is_asked_again_after_429() {
    let asked_before = AtomicUsize::new(0);
    let server = Hostile::start(move |asked| {
        let busy = || Reply::status(429, "Retry-After: 0\r\n", "");
        let healthy = || Reply::json(200, &json!({"healthy": true}));
        asked.is("GET", "/health").then(|| {
            if asked_before.fetch_add(1, Ordering::Relaxed) == 0 { busy() } else { healthy() }
        })
    })
    .await;
    environment(&server).health().await.unwrap();
    assert_eq!(server.count("GET", "/health"), 2);
}

#[tokio::test]
async fn a_redirect_takes_the_key_nowhere() {
    let elsewhere = Hostile::start(|_| Some(Reply::status(200, "", "{}"))).await;
    let location = format!("Location: {}/api/v1/processes/run\r\n", elsewhere.url);
    let server =
        Hostile::start(move |asked| is_run(asked).then(|| Reply::status(307, &location, ""))).await;
    let error = run(&server).await.unwrap_err();
    assert!(matches!(error, CommandError::Environment(_)), "{error:?}");
    assert_eq!(elsewhere.asked().len(), 0);
    assert_eq!(starts(&server), 1);
}

#[tokio::test]
async fn access_that_is_refused_is_said_at_once() {
    for status in [401, 403] {
        let server =
            Hostile::start(move |asked| is_run(asked).then(|| Reply::status(status, "", "no")))
                .await;
        let error = run(&server).await.unwrap_err();
        let CommandError::Environment(EnvironmentError::AccessRefused { reason, .. }) = &error
        else {
            panic!("{error:?}")
        };
        assert!(reason.contains("check"), "{reason}");
        assert_eq!(starts(&server), 1);
    }
}

/// The image's user cannot make the project's directory; root makes it and gives it to them.
#[tokio::test]
async fn a_workspace_that_the_user_cannot_make_is_made_by_root_once() {
    let server = Hostile::start(|asked| {
        if !is_run(asked) {
            return None;
        }
        let body: serde_json::Value = serde_json::from_slice(&asked.body).unwrap();
        let text = body["args"][1].as_str().unwrap();
        if body["user"] == "root" {
            let (made, owned) = ("mkdir -p -- '/w'", "chown -- 1000:100 '/w'");
            assert!(text.contains(made) && text.contains(owned), "{text}");
            let last = text.trim_end().lines().last().unwrap();
            let token = last.split(' ').nth(3).unwrap();
            let said = line("stdout", &format!("{token} 0")) + "data: {\"exit_code\":0}\n\n";
            return Some(Reply::stream().chunk(pid()).chunk(said).end());
        }
        let refused = line("stdout", &format!("{} workspace 1000:100", asked.token()));
        Some(Reply::stream().chunk(pid()).chunk(refused + "data: {\"exit_code\":0}\n\n").end())
    })
    .await;
    // It is refused again, as if root had not been able to either, and nobody tries for ever.
    let error = run(&server).await.unwrap_err();
    assert!(in_full(&error).contains("cannot be made in the sandbox"), "{}", in_full(&error));
    let by_root = server.asked().iter().filter(|asked| asked.body.ends_with(b"\"root\"}")).count();
    assert_eq!((by_root, starts(&server)), (1, 3));
}

pub(crate) fn in_full(error: &dyn Error) -> String {
    let mut text = format!("{error} {error:?}");
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error} {error:?}"));
        source = error.source();
    }
    text
}

/// A server that says back everything that it is told, in each of its errors.
#[tokio::test]
async fn no_error_shows_the_key_whatever_the_server_says() {
    for status in [400, 401, 403, 404, 409, 413, 422, 429, 500, 503] {
        for what in ["/sandboxes", "/processes/run", "/sandboxes/sb1"] {
            let server = Hostile::start(move |asked| {
                let hit = asked.path.ends_with(what) && asked.method != "DELETE";
                hit.then(|| {
                    let echo =
                        json!({"error": asked.head, "code": asked.head, "reason": asked.head});
                    Reply::json(status, &echo)
                })
            })
            .await;
            let environment = environment(&server);
            let request = CommandRequest::new(Program::argv("echo", ["x"]));
            let result = environment.run(request, CommandIo::detached()).await;
            let mut shown = format!("{environment:?} {:?}", config(&server));
            match &result {
                Ok(exit) => shown.push_str(&format!("{exit:?}")),
                Err(error) => shown.push_str(&in_full(error)),
            }
            if let Err(error) = environment.close().await {
                shown.push_str(&in_full(&error));
            }
            assert!(!shown.contains("s3cret"), "{status} {what}: {shown}");
        }
    }
}
