//! What the endings of `run` are taken for.

use std::time::Duration;

use forge_domain::{
    CommandIo, CommandRequest, Commands, Ending, Lifecycle, Program, Signal, StopMethod,
};
use forge_infra_tensorlake::TensorlakeEnvironment;
use pretty_assertions::assert_eq;
use serde_json::{Value, json};

use crate::guest::{RUN, SANDBOXES, config_for, new_server, out, serve_run, serve_sandbox, shapes};

const LIMIT: Duration = Duration::from_secs(60);

/// The ending of a command that has a limit, and what ended it.
async fn taken_for(end: Value) -> (Ending, Option<StopMethod>) {
    let server = new_server().await;
    serve_sandbox(&server, SANDBOXES, &server.uri()).await;
    serve_run(&server, vec![out("a part"), end]).await;
    let environment =
        TensorlakeEnvironment::new(config_for(&server.uri()), crate::guest::workspace()).unwrap();
    let request = CommandRequest::new(Program::shell("x")).time_limit(LIMIT);
    let exit = environment.run(request, CommandIo::detached()).await.unwrap();
    environment.close().await.unwrap();
    assert_eq!(exit.output.interleaved(), b"a part\n");
    assert_eq!(shapes(&server).await.iter().filter(|shape| *shape == RUN).count(), 1);
    (exit.ending, exit.stopped_by)
}

#[tokio::test]
async fn a_code_is_a_code() {
    for code in [0, 1, 3, 126, 127, 128, 137, 255] {
        let expected = (Ending::Exited(code), None);
        assert_eq!(taken_for(json!({"exit_code": code})).await, expected);
        let newer = json!({"exit_code": code, "signal": null, "reason": "exited"});
        assert_eq!(taken_for(newer).await, expected);
    }
}

#[tokio::test]
async fn a_signal_is_a_signal() {
    for number in [1, 9, 11, 15] {
        let expected = (Ending::Signalled(Signal::from_number(number).unwrap()), None);
        assert_eq!(taken_for(json!({"signal": number})).await, expected);
        let newer = json!({"exit_code": null, "signal": number, "reason": "signaled"});
        assert_eq!(taken_for(newer).await, expected);
    }
}

#[tokio::test]
async fn used_up_memory_is_said_by_either_of_its_signs() {
    for end in [
        json!({"signal": 9, "oom_killed": true, "reason": "oom_killed"}),
        json!({"signal": 9, "oom_killed": true}),
        json!({"signal": 9, "reason": "oom_killed"}),
        json!({"reason": "oom_killed"}),
    ] {
        assert_eq!(taken_for(end.clone()).await, (Ending::OutOfMemory, None), "{end}");
    }
}

#[tokio::test]
async fn a_limit_that_the_server_kept_is_the_commands_own() {
    let expected = (Ending::TimedOut { limit: LIMIT }, Some(StopMethod::Kill));
    for end in [
        json!({"signal": 9, "reason": "timed_out"}),
        json!({"exit_code": -1, "reason": "timed_out"}),
        json!({"reason": "timed_out"}),
    ] {
        assert_eq!(taken_for(end.clone()).await, expected, "{end}");
    }
}

#[tokio::test]
async fn a_reason_that_is_not_known_changes_nothing() {
    let end = json!({"exit_code": 4, "reason": "abducted"});
    assert_eq!(taken_for(end).await, (Ending::Exited(4), None));
    let end = json!({"signal": 15, "reason": "abducted"});
    assert_eq!(taken_for(end).await, (Ending::Signalled(Signal::TERM), None));
}

#[tokio::test]
async fn what_says_no_code_and_no_signal_is_unknown_and_never_success() {
    for end in [
        json!({"exit_code": -1}),
        json!({"exit_code": -1, "reason": "exited"}),
        json!({"exit_code": 256}),
        json!({"exit_code": null, "reason": "exited"}),
        json!({"reason": "abducted"}),
        json!({"signal": 0}),
        json!({"signal": -9}),
    ] {
        assert_eq!(taken_for(end.clone()).await, (Ending::Unknown, None), "{end}");
    }
}
