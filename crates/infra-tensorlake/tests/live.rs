//! The real service. It costs money, so nothing here runs by itself: `just live`, with `TENSORLAKE_API_KEY`.

#![expect(clippy::unwrap_used, reason = "a step that fails ends its test")]

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use forge_domain::{
    BackgroundCommands, ByteRange, CommandExit, CommandIo, CommandRequest, Commands, Describe,
    Ending, Fidelity, Files, Lifecycle, OutputOffset, Program, WorkspaceLocation, WriteOptions,
};
use forge_infra_tensorlake::{TensorlakeConfig, TensorlakeEnvironment};
use pretty_assertions::assert_eq;
use secrecy::SecretString;

#[expect(clippy::disallowed_methods, reason = "a live test has its key from whoever starts it")]
fn environment() -> TensorlakeEnvironment {
    let key = std::env::var("TENSORLAKE_API_KEY").expect("TENSORLAKE_API_KEY is set");
    let mut config = TensorlakeConfig::new(SecretString::from(key))
        // What a test that is killed leaves behind ends soon.
        .lifetime(Duration::from_secs(300));
    if let Ok(url) = std::env::var("TENSORLAKE_API_URL") {
        config = config.api_url(url);
    }
    let root = Path::new("/home/forge-live/project").to_path_buf();
    let workspace = WorkspaceLocation { root: root.clone(), working_directory: root };
    TensorlakeEnvironment::new(config, workspace).unwrap()
}

async fn run(
    environment: &TensorlakeEnvironment,
    text: &str,
    fidelity: Fidelity,
    limit: Option<Duration>,
) -> CommandExit {
    let mut request = CommandRequest::new(Program::shell(text)).fidelity(fidelity);
    request.time_limit = limit;
    environment.run(request, CommandIo::detached()).await.unwrap()
}

/// Everything in one sandbox, which is deleted whatever happens.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs TENSORLAKE_API_KEY"]
async fn the_real_service_does_what_the_reference_says() {
    let environment = environment();
    let outcome = tokio::spawn({
        let environment = environment.clone();
        async move { everything(&environment).await }
    })
    .await;
    environment.close().await.unwrap();
    outcome.unwrap();
}

async fn everything(environment: &TensorlakeEnvironment) {
    let description = environment.describe().await.unwrap();
    assert!(description.operating_system.starts_with("Linux"), "{description:?}");
    let readable = run(environment, "pwd; exit 3", Fidelity::Readable, None).await;
    assert_eq!(readable.ending, Ending::Exited(3));
    assert_eq!(readable.output.interleaved(), b"/home/forge-live/project\n");
    let exact = run(environment, "printf '\\377\\000x'", Fidelity::Exact, None).await;
    assert_eq!(exact.output.interleaved(), [0xff, 0, b'x']);
    let limit = Duration::from_secs(2);
    let late = run(environment, "echo begun; sleep 60", Fidelity::Readable, Some(limit)).await;
    assert_eq!(late.ending, Ending::TimedOut { limit });
    assert_eq!(late.output.interleaved(), b"begun\n");
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let path = Path::new("directory/file");
    environment.write(path, Bytes::from(bytes.clone()), WriteOptions::default()).await.unwrap();
    let read = environment.read(path, ByteRange::first(u64::MAX)).await.unwrap();
    assert!(read.bytes == bytes);
    let server = CommandRequest::new(Program::shell("echo up; sleep 1000"));
    let id = environment.start(server).await.unwrap();
    let status = environment.poll(&id, OutputOffset(0), Duration::from_secs(20)).await.unwrap();
    assert_eq!(status.ending, None);
    let status = environment.stop(&id, OutputOffset(0)).await.unwrap();
    assert_eq!(status.ending, Some(Ending::Cancelled));
}
