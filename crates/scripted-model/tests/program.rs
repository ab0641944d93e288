//! The program: one line when it is ready.

use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

/// Ends the program also when an assertion fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the test starts the program that it is about")]
fn the_program_prints_its_url_when_it_is_ready_to_serve() {
    let child = Command::new(env!("CARGO_BIN_EXE_scripted-model"))
        .args(["--shell-commands", "2"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut running = Running(child);
    let mut line = String::new();
    BufReader::new(running.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim_end().strip_prefix("http://").unwrap();
    assert!(address.starts_with("127.0.0.1:"), "{line}");
    TcpStream::connect(address).unwrap();
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the test starts the program that it is about")]
fn an_unknown_option_is_refused_with_the_usage() {
    let output = Command::new(env!("CARGO_BIN_EXE_scripted-model")).arg("--frob").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(said.contains("--frob: not an option") && said.contains("usage:"), "{said}");
}
