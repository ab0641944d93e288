//! The view in which every path can be written and nothing of the host is.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a fixture that cannot be made fails its test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use forge_domain::{
    ByteRange, Changes, ChangesError, CommandIo, CommandRequest, Commands, Ending, Files,
    Lifecycle, OutputLimits, Program, WorkspaceLocation, WriteOptions,
};
use forge_infra_sandbox::{
    HelperProgram, SandboxConfig, SandboxEnvironment, SandboxView, SessionChoice,
};
use pretty_assertions::assert_eq;

fn environment(state: &Path, session: SessionChoice) -> SandboxEnvironment {
    let helper = HelperProgram::Path(env!("CARGO_BIN_EXE_forge-sandbox-helper").into());
    let config =
        SandboxConfig::new(state).helper(helper).view(SandboxView::WholeRoot).session(session);
    let root = PathBuf::from("/");
    SandboxEnvironment::new(config, WorkspaceLocation { working_directory: root.clone(), root })
}

/// Runs a script, which has to succeed; what it printed.
async fn shell(environment: &SandboxEnvironment, script: &str) -> String {
    let request = CommandRequest::new(Program::shell(format!("set -e\n{script}")))
        .time_limit(Duration::from_secs(60))
        .output_limits(OutputLimits::head_and_tail(1024 * 1024));
    let exit = environment.run(request, CommandIo::detached()).await.unwrap();
    let output = String::from_utf8_lossy(&exit.output.interleaved()).into_owned();
    assert_eq!(exit.ending, Ending::Exited(0), "{output}");
    output
}

/// What the host has in some directories, and when each was last changed.
fn host() -> BTreeMap<PathBuf, (u64, std::time::SystemTime)> {
    let mut found = BTreeMap::new();
    for directory in ["/", "/etc", "/usr", "/opt", "/home", "/root", "/srv", "/var"] {
        let Ok(entries) = fs::read_dir(directory) else { continue };
        for entry in entries {
            let entry = entry.unwrap();
            // What others use meanwhile.
            if ["/tmp", "/proc", "/dev", "/run", "/sys"].contains(&&*entry.path().to_string_lossy())
            {
                continue;
            }
            let metadata = entry.metadata().unwrap();
            let modified = metadata.modified().unwrap();
            found.insert(entry.path(), (metadata.len(), modified));
        }
    }
    found
}

#[tokio::test]
async fn everything_can_be_written_and_the_host_stays_as_it_is() {
    let state = tempfile::tempdir().unwrap();
    let before = host();
    let environment = environment(state.path(), SessionChoice::Fresh);
    shell(
        &environment,
        "for directory in / /etc /usr /opt /home /root /srv /var /var/lib /mnt /run /tmp /home/forge; do
             echo written > $directory/forge-was-here
         done
         mkdir -p /data/deep /usr/forge/bin
         cp /bin/sh /usr/forge/bin/sh
         rm /etc/passwd
         echo changed > /etc/passwd
         rm -r /etc/profile.d || mkdir /etc/profile.d.new",
    )
    .await;
    let seen = shell(
        &environment,
        "cat /forge-was-here /etc/passwd; /usr/forge/bin/sh -c 'echo runs'; ls -d /data/deep",
    )
    .await;
    assert_eq!(seen, "written\nchanged\nruns\n/data/deep\n");
    environment.close().await.unwrap();
    assert_eq!(host(), before);
}

#[tokio::test]
async fn what_was_written_is_there_when_the_session_is_gone_on_with() {
    let state = tempfile::tempdir().unwrap();
    let first = environment(state.path(), SessionChoice::Fresh);
    shell(
        &first,
        "echo kept > /etc/forge-test; rm /etc/hosts; mkdir /data; echo more > /data/file",
    )
    .await;
    let id = first.session().unwrap().id;
    first.close().await.unwrap();
    let again = environment(state.path(), SessionChoice::Named(id));
    let seen = shell(&again, "cat /etc/forge-test /data/file; test ! -e /etc/hosts").await;
    assert_eq!(seen, "kept\nmore\n");
    again.discard_changes().await.unwrap();
    let seen = shell(&again, "ls /etc/forge-test /data 2>/dev/null | wc -l; ls /etc/hosts").await;
    assert_eq!(seen, "0\n/etc/hosts\n");
    again.close().await.unwrap();
}

#[tokio::test]
async fn files_and_commands_share_it() {
    let state = tempfile::tempdir().unwrap();
    let environment = environment(state.path(), SessionChoice::Fresh);
    let path = Path::new("/etc/forge-test/file");
    environment.write(path, "by port".into(), WriteOptions::default()).await.unwrap();
    assert_eq!(shell(&environment, "cat /etc/forge-test/file").await, "by port");
    shell(&environment, "echo by command > /opt/file").await;
    let read = environment.read(Path::new("/opt/file"), ByteRange::first(64)).await.unwrap();
    assert_eq!(read.bytes, "by command\n");
    environment.close().await.unwrap();
}

#[tokio::test]
async fn what_is_secret_and_what_is_the_kernels_stays_closed() {
    let state = tempfile::tempdir().unwrap();
    let environment = environment(state.path(), SessionChoice::Fresh);
    let script =
        "for path in /etc/shadow /proc/sys/kernel/core_pattern /proc/sysrq-trigger /dev/x \
                  /proc/kcore /.forge/file /.forge/x; do
                      if ( cat $path || echo x > $path ) 2>/dev/null; then echo open: $path; fi
                  done";
    // Read: a pattern of the machine's is no secret.
    let seen = shell(&environment, script).await;
    let open: Vec<&str> = seen.lines().filter(|line| line.starts_with("open:")).collect();
    assert_eq!(open, ["open: /proc/sys/kernel/core_pattern"]);
    shell(&environment, "! echo x > /proc/sys/kernel/core_pattern").await;
    environment.close().await.unwrap();
}

#[tokio::test]
async fn there_is_no_change_set() {
    let state = tempfile::tempdir().unwrap();
    let environment = environment(state.path(), SessionChoice::Fresh);
    let error = environment.changes().await.unwrap_err();
    assert!(matches!(error, ChangesError::NotTracked { .. }), "{error:?}");
    environment.close().await.unwrap();
}
