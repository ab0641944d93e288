//! A program that is the sandbox's helper and nothing else, for tests and for programs that embed the
//! sandbox and cannot call its hook in their own `main`.

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    forge_infra_sandbox::sandbox_hook();
    // Reached only where somebody else than the sandbox has executed it.
    ExitCode::from(125)
}
