//! The vendor's Rust client against `forge serve`: the core of what `client.py` does.
//!
//!     sdk-rust URL [--flat]        the key is taken from TENSORLAKE_API_KEY

use std::error::Error;
use std::time::Duration;

use serde_json::{Value, json};
use tensorlake::ClientBuilder;
use tensorlake::sandboxes::models::{CreateSandboxRequest, UpdateSandboxRequest};
use tensorlake::sandboxes::{SandboxProxyClient, SandboxesClient, resolve_sandbox_proxy_target};

type Outcome = Result<(), Box<dyn Error>>;

#[tokio::main]
async fn main() -> Outcome {
    let mut arguments = std::env::args().skip(1);
    let mut url = arguments.next().ok_or("a URL is needed")?;
    let is_flat = arguments.next().as_deref() == Some("--flat");
    if is_flat {
        // The same machine under a name that the client does not take for it.
        url = url.replace("127.0.0.1", "0.0.0.0");
    }
    let key = std::env::var("TENSORLAKE_API_KEY")?;
    let client = ClientBuilder::new(&url).bearer_token(&key).build()?;
    let sandboxes = SandboxesClient::new(client.clone(), "default", !is_flat);

    let request: CreateSandboxRequest = serde_json::from_value(json!({
        "name": "rust", "timeout_secs": 120, "resources": {"cpus": 1.0, "memory_mb": 512},
        "network": {"allow_internet_access": false, "allow_out": [], "deny_out": []},
    }))?;
    let created = sandboxes.create_and_wait(&request).await?.into_inner();
    let id = created.sandbox_id.clone();
    let base = created.sandbox_url.clone().ok_or("no address came")?;
    let target = resolve_sandbox_proxy_target(&base, &id)?;
    let inside = SandboxProxyClient::new(client.with_base_url(&target.base_url), target.host_override)
        .with_sandbox_id(is_flat.then(|| id.clone()));

    run(&inside).await?;
    process(&inside).await?;
    terminal(&inside).await?;
    files(&inside).await?;
    lifecycle(&sandboxes, &inside, &id).await?;
    println!("good");
    Ok(())
}

fn check(what: &str, is_so: bool) -> Outcome {
    if is_so { Ok(()) } else { Err(format!("it does not hold: {what}").into()) }
}

async fn run(inside: &SandboxProxyClient) -> Outcome {
    let payload = json!({"command": "sh", "args": ["-c", "echo out; echo err >&2; exit 3"]});
    let events = inside.run_process(&payload).await?.into_inner();
    let events: Vec<Value> = events.iter().map(serde_json::to_value).collect::<Result<_, _>>()?;
    let text = serde_json::to_string(&events)?;
    check("a run has both streams", text.contains("\"out\"") && text.contains("\"err\""))?;
    let code = events.iter().find_map(|event| event["exit_code"].as_i64());
    check("a run has its code", code == Some(3))?;
    let refused = inside.run_process(&json!({"command": "no-such-program"})).await;
    check("a missing program is an error", refused.is_err())
}

async fn process(inside: &SandboxProxyClient) -> Outcome {
    let payload = json!({"command": "cat", "stdin_mode": "pipe"});
    let pid = u64::try_from(inside.start_process(&payload).await?.pid)?;
    inside.write_stdin(pid, b"one\ntwo\n".to_vec()).await?;
    inside.close_stdin(pid).await?;
    let lines = inside.follow_output(pid).await?.into_inner();
    let lines: Vec<&str> = lines.iter().map(|event| event.line.as_str()).collect();
    check("what was written comes back", lines == ["one", "two"])?;
    check("it is known how it ended", inside.get_process(pid).await?.exit_code == Some(0))?;

    let payload = json!({"command": "sleep", "args": ["1000"]});
    let pid = u64::try_from(inside.start_process(&payload).await?.pid)?;
    inside.send_signal(pid, 15).await?;
    for _ in 0..200 {
        let process = inside.get_process(pid).await?;
        if process.signal == Some(15) {
            return check("it is listed", inside.list_processes().await?.len() >= 2);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err("a signal did not end the process".into())
}

/// This client starts terminals and deletes them; what goes over their sockets is left to its users.
async fn terminal(inside: &SandboxProxyClient) -> Outcome {
    let payload = json!({"command": "sleep", "args": ["271828"], "rows": 30, "cols": 100});
    let session = inside.create_pty_session(&payload).await?.into_inner();
    let text = |name: &str| session[name].as_str().unwrap_or_default().to_owned();
    let (id, token) = (text("session_id"), text("token"));
    check("a terminal has an id and a token", !id.is_empty() && !token.is_empty())?;
    let sleeps = json!({"command": "pgrep", "args": ["-fx", "sleep 271828"]});
    let found = inside.run_process(&sleeps).await?.into_inner();
    let found: Vec<Value> = found.iter().map(serde_json::to_value).collect::<Result<_, _>>()?;
    check("its command runs", found.iter().any(|event| event["exit_code"] == 0))?;
    inside.delete_pty_session(&id).await?;
    check("it is gone", inside.delete_pty_session(&id).await.is_err())?;
    let refused = inside.create_pty_session(&json!({"command": "no-such-program"})).await;
    check("a missing program is an error", refused.is_err())
}

async fn files(inside: &SandboxProxyClient) -> Outcome {
    for length in [0, 1, 10_000_000] {
        let contents: Vec<u8> = (0..length).map(|n: u32| n as u8).collect();
        inside.write_file("/data/file", contents.clone()).await?;
        check("a file comes back", *inside.read_file("/data/file").await? == contents)?;
    }
    let listing = serde_json::to_value(&*inside.list_directory("/data").await?)?;
    check("it is listed", listing["entries"][0]["name"] == "file")?;
    inside.delete_file("/data/file").await?;
    check("it is gone", inside.read_file("/data/file").await.is_err())
}

async fn lifecycle(
    sandboxes: &SandboxesClient,
    inside: &SandboxProxyClient,
    id: &str,
) -> Outcome {
    check("it is healthy", inside.health().await?.healthy)?;
    let request: UpdateSandboxRequest = serde_json::from_value(json!({"name": "rust-renamed"}))?;
    sandboxes.update(id, &request).await?;
    check("the new name finds it", status(sandboxes, "rust-renamed").await? == "running")?;
    let wait = Duration::from_secs(30);
    check("it suspends", *sandboxes.suspend_and_wait(id, wait).await?)?;
    check("it is suspended", status(sandboxes, id).await? == "suspended")?;
    check("it resumes", *sandboxes.resume_and_wait(id, wait).await?)?;
    check("it is listed", sandboxes.list().await?.len() == 1)?;
    check("a pool is refused", sandboxes.list_pools().await.is_err())?;
    sandboxes.delete(id).await?;
    sandboxes.delete(id).await?;
    check("it is terminated", status(sandboxes, id).await? == "terminated")
}

async fn status(sandboxes: &SandboxesClient, name: &str) -> Result<String, Box<dyn Error>> {
    let info = serde_json::to_value(&*sandboxes.get(name).await?)?;
    Ok(info["status"].as_str().unwrap_or_default().to_owned())
}
