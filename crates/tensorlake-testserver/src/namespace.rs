//! A mount namespace in which a project's directory is another one.

use std::io;
use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// A process that holds the namespace open. Dropping it ends the namespace with its last process.
#[derive(Debug)]
pub(crate) struct Namespace {
    holder: Child,
    has_users: bool,
}

/// `$1`: what becomes `/tmp`, `$2`: what becomes `$3`, where that is not below `/tmp` anyway.
const SET_UP: &str = r#"mount --make-rprivate / && mount --bind "$1" /tmp || exit 1
case $3 in /tmp/*) ;; *) mount --bind "$2" "$3" || exit 1 ;; esac
echo ready
exec sleep 2147483647
"#;

impl Namespace {
    /// Makes one. Takes user namespaces where the caller is not root.
    pub(crate) async fn make(own: &Path, workspace: &Path) -> io::Result<Self> {
        let (tmp, project) = (own.join("tmp"), own.join("project"));
        std::fs::create_dir_all(&tmp)?;
        std::fs::create_dir_all(&project)?;
        let has_users = !rustix::process::geteuid().is_root();
        let mut command = Command::new("unshare");
        if has_users {
            command.args(["--user", "--map-current-user", "--keep-caps"]);
        }
        let mut holder = command
            .args(["--mount", "sh", "-c", SET_UP, "sh"])
            .args([&tmp, &project])
            .arg(workspace)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = holder.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).await?;
        if line != "ready\n" {
            return Err(io::Error::other("the mount namespace could not be made"));
        }
        Ok(Self { holder, has_users })
    }

    /// A command that runs its program inside.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        let holder = self.holder.id().unwrap_or_default().to_string();
        command.args(["--target", &holder, "--mount"]);
        if self.has_users {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.arg("--").arg(program);
        command
    }
}
