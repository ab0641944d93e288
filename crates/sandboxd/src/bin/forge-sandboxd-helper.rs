//! A program that is the helper of the server's sandboxes and nothing else, for tests and for programs that embed the
//! server and cannot call its hook in their own `main`.

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    forge_sandboxd::sandbox_hook();
    // Reached only where somebody else than the sandbox has executed it.
    ExitCode::from(125)
}
