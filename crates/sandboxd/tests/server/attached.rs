//! Terminals over their sockets: what a client sees and does, and what becomes of it when it vanishes.

use std::time::{Duration, Instant};

use pretty_assertions::assert_eq;
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::net::TcpStream;

use crate::socket::Farewell;
use crate::stage::{answer, eventually, stage, stage_with};

#[tokio::test]
async fn a_command_is_typed_to_and_its_code_comes_last() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let terminal = sandbox.on_terminal("read a; echo \"<$a>\"; exit 7").await;
    let mut socket = terminal.attach().await;
    socket.type_in(b"hello\r").await;
    let farewell = socket.farewell().await;
    assert_eq!(farewell, Farewell::exited(7));
    assert_eq!(socket.screen, "hello\r\n<hello>\r\n");
    let (_, told) = terminal.look().await;
    assert_eq!((&told["is_alive"], &told["exit_code"]), (&json!(false), &json!(7)));
    stage.end().await;
}

#[tokio::test]
async fn any_byte_goes_in_and_comes_out() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let script = "stty raw -echo; echo ready; head -c 512 | od -An -v -tu1 | tr -s ' \\n' '\\n'; \
                  echo; printf '\\000\\377\\200'; exit 0";
    let terminal = sandbox.on_terminal(script).await;
    let mut socket = terminal.attach().await;
    socket.until("ready").await;
    let all: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
    for piece in all.chunks(100) {
        socket.type_in(piece).await;
    }
    assert_eq!(socket.farewell().await, Farewell::exited(0));
    let numbers = socket.screen.split_whitespace().filter_map(|word| word.parse().ok());
    assert_eq!(numbers.collect::<Vec<u8>>(), all);
    assert!(socket.screen.ends_with("\0\u{fffd}\u{fffd}"), "{:?}", socket.screen);
    stage.end().await;
}

#[tokio::test]
async fn a_command_sees_its_size_and_is_told_of_another() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let script = "trap 'stty size' WINCH; stty size; while :; do sleep 0.05; done";
    let terminal = sandbox.on_terminal(script).await;
    let mut socket = terminal.attach().await;
    socket.until("24 80\r\n").await;
    socket.resize(132, 43).await;
    socket.until("43 132\r\n").await;
    let resize = json!({"rows": 50, "cols": 100});
    let (status, _) =
        sandbox.ask(Method::POST, &format!("{}/resize", terminal.path()), resize).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    socket.until("50 100\r\n").await;
    // What is no size, and what no terminal has.
    socket.send(&[1, 0, 80]).await;
    socket.send(&[1, 0, 0, 0, 0]).await;
    let (_, told) = terminal.look().await;
    assert_eq!(told["is_alive"], true);
    terminal.delete().await;
    stage.end().await;
}

#[tokio::test]
async fn ctrl_c_interrupts_what_runs_in_the_foreground() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let terminal = sandbox.on_terminal("trap 'echo caught' INT; sleep 600; echo after $?").await;
    let mut socket = terminal.attach().await;
    let sleeps = "pgrep -x sleep >/dev/null && echo yes || echo no";
    eventually(async || (sandbox.shell(sleeps).await == "yes").then_some(())).await;
    socket.type_in(b"\x03").await;
    socket.until("after 130").await;
    assert_eq!(socket.farewell().await, Farewell::exited(0));
    assert!(socket.screen.contains("caught"), "{:?}", socket.screen);

    let terminal = sandbox.on_terminal("echo begun; exec sleep 600").await;
    let mut socket = terminal.attach().await;
    socket.until("begun").await;
    socket.type_in(b"\x03").await;
    assert_eq!(socket.farewell().await, Farewell::exited(-1));
    stage.end().await;
}

#[tokio::test]
async fn nothing_is_shown_before_the_client_is_ready() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let terminal = sandbox.on_terminal("echo early; read a").await;
    let mut socket = terminal.open().await;
    let early = tokio::time::timeout(Duration::from_millis(300), socket.until("early")).await;
    assert!(early.is_err());
    // Neither is what cannot be understood an end of it.
    for frame in [&[][..], &[0], &[9, 9], &[3, 0, 0, 0, 0]] {
        socket.send(frame).await;
    }
    socket.send(&[2]).await;
    socket.until("early").await;
    terminal.delete().await;
    stage.end().await;
}

#[tokio::test]
async fn a_client_that_leaves_finds_its_command_again() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let terminal = sandbox.on_terminal("echo one; read a; echo two; read b; exit 4").await;
    let mut first = terminal.attach().await;
    first.until("one").await;
    // Without a close, as a machine that loses its network or its program.
    drop(first);
    let mut second = terminal.attach().await;
    second.type_in(b"x\r").await;
    second.until("two").await;
    assert!(!second.screen.contains("one"), "{:?}", second.screen);
    second.type_in(b"y\r").await;
    assert_eq!(second.farewell().await, Farewell::exited(4));
    stage.end().await;
}

#[tokio::test]
async fn a_command_that_is_alone_for_too_long_is_ended() {
    let limit = Duration::from_millis(600);
    let stage = stage_with(|config| config.alone_limit(limit)).await;
    let sandbox = stage.create(json!({})).await;
    // One that nobody came for, one that its client left, one whose client was taken over and is there.
    let unvisited = sandbox.on_terminal("sleep 600").await;
    let left = sandbox.on_terminal("sleep 600").await;
    drop(left.attach().await);
    let visited = sandbox.on_terminal("cat").await;
    let mut former = visited.attach().await;
    let mut client = visited.attach().await;
    former.farewell().await;
    unvisited.gone().await;
    left.gone().await;
    tokio::time::sleep(limit * 2).await;
    client.type_in(b"here\r").await;
    client.until("here\r\nhere").await;
    drop(client);
    visited.gone().await;
    stage.end().await;
}

#[tokio::test]
async fn a_client_that_gives_no_sign_of_itself_counts_as_gone() {
    let stage = stage_with(|config| {
        config
            .ping_interval(Duration::from_millis(50))
            .silence_limit(Duration::from_millis(600))
            .alone_limit(Duration::from_millis(300))
    })
    .await;
    let sandbox = stage.create(json!({})).await;
    let terminal = sandbox.on_terminal("sleep 600").await;
    // It reads nothing, so that nothing in it answers; the connection stands.
    let silent = terminal.attach().await;
    let asked = terminal.id.clone();
    terminal.gone().await;
    let attached = sandbox.on_terminal("cat").await;
    assert_ne!(attached.id, asked);
    let mut client = attached.attach().await;
    // One that reads answers, by what reads for it.
    let quiet = tokio::time::timeout(Duration::from_millis(1500), client.until("nothing")).await;
    assert!(quiet.is_err());
    client.type_in(b"here\r").await;
    client.until("here\r\nhere").await;
    drop(silent);
    stage.end().await;
}

#[tokio::test]
async fn another_client_takes_the_terminal_over() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let terminal = sandbox.on_terminal("cat").await;
    let mut first = terminal.attach().await;
    first.type_in(b"first\r").await;
    first.until("first\r\nfirst\r\n").await;
    let mut second = terminal.attach().await;
    let farewell = first.farewell().await;
    assert_eq!(farewell, Farewell::closed(4001, "another client has taken the terminal over"));
    second.type_in(b"second\r").await;
    second.until("second\r\nsecond\r\n").await;
    assert_eq!(second.screen, "second\r\nsecond\r\n");
    second.type_in(b"\x04").await;
    assert_eq!(second.farewell().await, Farewell::exited(0));
    stage.end().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_taken_over_and_deleted_as_any() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let terminal = sandbox.on_terminal("yes").await;
    let stuck = terminal.attach().await;
    // Until it is held back.
    tokio::time::sleep(Duration::from_millis(700)).await;
    let mut second = terminal.attach().await;
    second.until("y\r\ny\r\n").await;
    let also_stuck = second;
    tokio::time::sleep(Duration::from_millis(700)).await;
    let began = Instant::now();
    terminal.delete().await;
    assert_eq!(terminal.look().await.0, StatusCode::NOT_FOUND);
    let left = "pgrep -x yes >/dev/null && echo yes || echo no";
    eventually(async || (sandbox.shell(left).await == "no").then_some(())).await;
    sandbox.delete().await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    drop((stuck, also_stuck));
    stage.end().await;
}

#[tokio::test]
async fn a_deleted_terminal_says_so_to_its_client() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let terminal = sandbox.on_terminal("echo begun; sleep 600").await;
    let mut socket = terminal.attach().await;
    socket.until("begun").await;
    terminal.delete().await;
    assert_eq!(socket.farewell().await, Farewell::closed(1001, "session terminated"));
    assert_eq!(terminal.look().await.0, StatusCode::NOT_FOUND);
    // One that does not want to hear of it is killed.
    let terminal = sandbox.on_terminal("trap '' HUP TERM; echo begun; sleep 600; sleep 600").await;
    let mut socket = terminal.attach().await;
    socket.until("begun").await;
    let began = Instant::now();
    terminal.delete().await;
    assert_eq!(socket.farewell().await, Farewell::closed(1001, "session terminated"));
    assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());
    stage.end().await;
}

#[tokio::test]
async fn a_deleted_sandbox_ends_its_terminals_and_lets_no_other_begin() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let terminal = sandbox.on_terminal("echo begun; sleep 600").await;
    let mut socket = terminal.attach().await;
    socket.until("begun").await;
    let unvisited = sandbox.on_terminal("yes").await;
    let began = Instant::now();
    // Some of these come before the end, some while it goes on; none is left.
    let starts = async {
        for _ in 0..40 {
            let body = json!({"command": "yes"});
            let (status, answer) = sandbox.ask(Method::POST, "/pty", body).await;
            let expected = [StatusCode::CREATED, StatusCode::SERVICE_UNAVAILABLE];
            assert!(expected.contains(&status), "{status} {answer}");
        }
    };
    let ((), (), farewell) = tokio::join!(sandbox.delete(), starts, socket.farewell());
    assert_eq!(farewell, Farewell::closed(1001, "session terminated"));
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(unvisited.look().await.0, StatusCode::SERVICE_UNAVAILABLE);
    stage.end().await;
}

#[tokio::test]
async fn a_server_that_ends_says_so_to_the_clients_of_its_terminals() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let (one, other) = (sandbox.on_terminal("sleep 600").await, sandbox.on_terminal("yes").await);
    let (mut quiet, stuck) = (one.attach().await, other.attach().await);
    let began = Instant::now();
    let ((), farewell) = tokio::join!(stage.end(), quiet.farewell());
    assert_eq!(farewell, Farewell::closed(1001, "session terminated"));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    drop(stuck);
}

#[tokio::test]
async fn an_open_terminal_stands_still_with_its_sandbox_and_goes_on_with_it() {
    let stage = stage().await;
    let sandbox = stage.create(json!({"name": "still"})).await;
    let script = "stty -echo; while read a; do echo \"<$a>\"; done";
    let terminal = sandbox.on_terminal(script).await;
    let mut socket = terminal.attach().await;
    socket.type_in(b"before\r").await;
    socket.until("<before>").await;
    let (status, _) = stage.ask(Method::POST, "/sandboxes/still/suspend", json!({})).await;
    assert_eq!(status, StatusCode::OK);
    socket.type_in(b"meanwhile\r").await;
    let meanwhile =
        tokio::time::timeout(Duration::from_millis(400), socket.until("<meanwhile>")).await;
    assert!(meanwhile.is_err(), "{:?}", socket.screen);
    let (_, body) = stage.get("/sandboxes/still").await;
    assert_eq!(body["status"], "suspended");
    let (status, _) = stage.ask(Method::POST, "/sandboxes/still/resume", json!({})).await;
    assert_eq!(status, StatusCode::OK);
    socket.until("<meanwhile>").await;
    // One that is deleted while it stands still tells its client as well.
    let (status, _) = stage.ask(Method::POST, "/sandboxes/still/suspend", json!({})).await;
    assert_eq!(status, StatusCode::OK);
    let began = Instant::now();
    sandbox.delete().await;
    assert_eq!(socket.farewell().await, Farewell::closed(1001, "session terminated"));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    stage.end().await;
}

#[tokio::test]
async fn sizes_come_through_where_a_command_does_not_read_what_is_typed() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let script = "stty raw -echo; trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done";
    let terminal = sandbox.on_terminal(script).await;
    let mut socket = terminal.attach().await;
    socket.until("ready").await;
    // More than a terminal holds.
    for _ in 0..8 {
        socket.type_in(&[b'x'; 32 * 1024]).await;
    }
    socket.resize(101, 31).await;
    socket.until("31 101").await;
    // Without any bound it is not taken in; the other way to resize is open.
    let piece = [b'x'; 60 * 1024];
    let typing = async {
        for _ in 0..2000 {
            socket.type_in(&piece).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(2), typing).await.is_err());
    let resize = json!({"rows": 32, "cols": 102});
    let path = format!("{}/resize", terminal.path());
    assert_eq!(sandbox.ask(Method::POST, &path, resize).await.0, StatusCode::NO_CONTENT);
    socket.until("32 102").await;
    terminal.delete().await;
    stage.end().await;
}

#[tokio::test]
async fn an_end_is_known_though_nobody_has_read_what_came_before_it() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    // As much as is taken ahead; what waits for its turn; what waits in the terminal when the command ends.
    let script = "head -c 262144 /dev/zero | tr '\\0' x; sleep 0.3; printf '%3000s' y; sleep 0.3; \
                  printf '%3000s' z; exit 9";
    let terminal = sandbox.on_terminal(script).await;
    assert_eq!(terminal.ended().await, json!(9));
    let mut late = terminal.attach().await;
    assert_eq!(late.farewell().await, Farewell::exited(9));
    assert_eq!(late.screen.len(), 262_144 + 6000);
    // And once more, with nothing left to show.
    let mut later = terminal.attach().await;
    assert_eq!(later.farewell().await, Farewell::exited(9));
    assert_eq!(later.screen, "");
    stage.end().await;
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_by_name() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let terminal = sandbox.on_terminal("cat").await;
    let mut socket = terminal.attach().await;
    socket.type_in(&[b'x'; 70_000]).await;
    let farewell = socket.farewell().await;
    assert_eq!(farewell, Farewell::closed(1009, "a message is at most 65536 bytes"));
    let mut again = terminal.attach().await;
    again.type_in(b"on\r").await;
    again.until("on\r\non").await;
    stage.end().await;
}

#[tokio::test]
async fn terminals_that_have_ended_give_way_to_others() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let first = sandbox.on_terminal("exit 3").await;
    first.ended().await;
    for _ in 0..64 {
        sandbox.on_terminal("exec cat").await;
    }
    assert_eq!(first.look().await.0, StatusCode::NOT_FOUND);
    let (status, _) = sandbox.ask(Method::POST, "/pty", json!({"command": "cat"})).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    stage.end().await;
}

#[tokio::test]
async fn a_socket_is_opened_by_the_right_token_and_no_other() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let (one, other) = (sandbox.on_terminal("cat").await, sandbox.on_terminal("cat").await);
    let upgrade = |query: &str, header: Option<&str>| {
        let request = sandbox
            .request(Method::GET, &format!("{}/ws{query}", one.path()))
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        match header {
            Some(token) => request.header("x-pty-token", token),
            None => request,
        }
    };
    let wrong = [
        (upgrade("?token=wrong", None), StatusCode::FORBIDDEN),
        (upgrade(&format!("?token={}", other.token), None), StatusCode::FORBIDDEN),
        (upgrade(&format!("?token={}0", one.token), None), StatusCode::FORBIDDEN),
        (upgrade("?token=", None), StatusCode::FORBIDDEN),
        (upgrade("", Some(&other.token)), StatusCode::FORBIDDEN),
        (upgrade("", None), StatusCode::BAD_REQUEST),
    ];
    for (request, expected) in wrong {
        let (status, body) = answer(request.send().await.unwrap()).await;
        assert_eq!(status, expected, "{body}");
    }
    // The token is not the key, and does not stand for it.
    let url = format!("{}/api/v1{}/ws?token={}", stage.server.url(), one.path(), one.token);
    let keyless = stage.http.get(url).header("x-tensorlake-sandbox-id", &sandbox.id);
    assert_eq!(keyless.send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    for request in [
        upgrade(&format!("?token={}", one.token), None),
        upgrade("", Some(&one.token)),
        upgrade(&format!("?token={}&x=y", one.token), Some(&one.token)),
    ] {
        assert_eq!(request.send().await.unwrap().status(), StatusCode::SWITCHING_PROTOCOLS);
    }
    stage.end().await;
}

#[tokio::test]
async fn clients_that_come_and_go_leave_no_connection() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let terminal = sandbox.on_terminal("yes").await;
    let address = stage.server.address();
    for round in 0..30 {
        let mut socket = terminal.attach().await;
        if round % 2 == 0 {
            socket.until("y\r\n").await;
        }
        if round % 3 == 0 {
            socket.connection().set_zero_linger().unwrap();
        }
    }
    // Connections that say nothing, and that say what is none of it.
    drop(TcpStream::connect(address).await.unwrap());
    let mut socket = terminal.attach().await;
    socket.until("y\r\n").await;
    socket.type_in(b"\x03").await;
    assert_eq!(socket.farewell().await, Farewell::exited(-1));
    stage.end().await;
}
