//! The terminal of the fake: what a kernel's line discipline does with keys and with output.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use forge_domain::{
    CommandController, CommandError, CommandExit, CommandIo, CommandRequest, OutputSink,
    OutputStream, Signal, SinkClosed, Stdin, TerminalInput, TerminalIo, TerminalRequest,
    TerminalRequests, TerminalSize, Terminals,
};
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;

use super::environment::{FakeEnvironment, lock};
use super::process::{OutputSender, follow_with};
use super::program::{prepare, with_terminal_kind};

/// SIGWINCH, as Linux numbers it.
pub(super) const WINDOW_CHANGED: Signal = match Signal::from_number(28) {
    Some(signal) => signal,
    None => panic!("28 is a signal"),
};

/// What a command sees of its terminal.
pub(super) struct Terminal(Mutex<State>);

struct State {
    size: TerminalSize,
    raw: bool,
}

impl Terminal {
    pub(super) fn size(&self) -> TerminalSize {
        lock(&self.0).size
    }

    pub(super) fn make_raw(&self) {
        lock(&self.0).raw = true;
    }

    fn is_raw(&self) -> bool {
        lock(&self.0).raw
    }

    /// What is shown of what is printed.
    pub(super) fn shown(&self, bytes: &[u8]) -> Vec<u8> {
        if self.is_raw() {
            return bytes.to_vec();
        }
        let mut shown = Vec::with_capacity(bytes.len());
        for byte in bytes {
            if *byte == b'\n' {
                shown.push(b'\r');
            }
            shown.push(*byte);
        }
        shown
    }
}

/// What a command reads of its terminal: bytes, or an end of file, after which it may go on.
type Typed = io::Result<Bytes>;

/// What happens between who types and the command.
pub(super) struct Discipline {
    pub(super) terminal: Arc<Terminal>,
    input: TerminalInput,
    requests: TerminalRequests,
    controller: CommandController,
    typed: mpsc::UnboundedSender<Typed>,
    line: VecDeque<u8>,
}

impl Discipline {
    /// Carries what is typed and asked until it is dropped.
    pub(super) async fn run(mut self, echo: OutputSender) -> Infallible {
        loop {
            // What was asked before something was typed is there before it.
            tokio::select! {
                biased;
                Some(request) = self.requests.next() => self.carry_out(request),
                Some(bytes) = self.input.next() => {
                    let shown = self.take(&bytes);
                    if !shown.is_empty() {
                        drop(echo.send((OutputStream::Stdout, shown.into())).await);
                    }
                }
                else => pending().await,
            }
        }
    }

    fn carry_out(&self, request: TerminalRequest) {
        match request {
            TerminalRequest::Resize(size) => {
                let before = std::mem::replace(&mut lock(&self.terminal.0).size, size);
                if before != size {
                    self.controller.signal(WINDOW_CHANGED);
                }
            }
            TerminalRequest::Signal(signal) => self.controller.signal(signal),
            TerminalRequest::Cancel => self.controller.cancel(),
        }
    }

    /// Takes keys, and gives what the terminal shows of them.
    fn take(&mut self, bytes: &Bytes) -> Vec<u8> {
        if self.terminal.is_raw() {
            drop(self.typed.send(Ok(bytes.clone())));
            return Vec::new();
        }
        let mut shown = Vec::new();
        for byte in bytes {
            match byte {
                0x03 | 0x1c => {
                    self.line.clear();
                    shown.extend([b'^', byte + 0x40]);
                    self.controller.signal(if *byte == 0x03 { Signal::INT } else { Signal::QUIT });
                }
                // Nobody could wake the command again, so it does not stop.
                0x1a => shown.extend(b"^Z"),
                0x04 if self.line.is_empty() => {
                    drop(self.typed.send(Err(io::ErrorKind::UnexpectedEof.into())));
                }
                0x04 => self.end_line(),
                0x7f => {
                    if self.line.pop_back().is_some() {
                        shown.extend(b"\x08 \x08");
                    }
                }
                b'\r' | b'\n' => {
                    self.line.push_back(b'\n');
                    shown.extend(b"\r\n");
                    self.end_line();
                }
                byte => {
                    self.line.push_back(*byte);
                    match byte {
                        0..0x20 if *byte != b'\t' => shown.extend([b'^', byte + 0x40]),
                        _ => shown.push(*byte),
                    }
                }
            }
        }
        shown
    }

    fn end_line(&mut self) {
        let line: Vec<u8> = self.line.drain(..).collect();
        drop(self.typed.send(Ok(line.into())));
    }
}

/// A sink whose closing is a window that was closed.
struct Window {
    sink: Option<Box<dyn OutputSink>>,
    controller: CommandController,
}

#[async_trait]
impl OutputSink for Window {
    async fn write(&mut self, stream: OutputStream, bytes: Bytes) -> Result<(), SinkClosed> {
        if let Some(sink) = &mut self.sink
            && sink.write(stream, bytes).await.is_err()
        {
            self.sink = None;
            self.controller.cancel();
        }
        Ok(())
    }
}

#[async_trait]
impl Terminals for FakeEnvironment {
    async fn run_on_terminal(
        &self,
        mut request: CommandRequest,
        size: TerminalSize,
        io: TerminalIo,
    ) -> Result<CommandExit, CommandError> {
        let _call = self.inner.enter("run_on_terminal").await?;
        request.output_limits = forge_domain::OutputLimits::NOTHING;
        let prepared = with_terminal_kind(prepare(&self.inner, &request)?);
        let (controller, control) = CommandController::new();
        let (typed, lines) = mpsc::unbounded_channel();
        let discipline = Discipline {
            terminal: Arc::new(Terminal(Mutex::new(State { size, raw: false }))),
            input: io.input,
            requests: io.control,
            controller: controller.clone(),
            typed,
            line: VecDeque::new(),
        };
        let lines = stream::unfold(lines, |mut lines| async {
            lines.recv().await.map(|line| (line, lines))
        });
        let io = CommandIo {
            stdin: Stdin::Stream(Box::pin(lines)),
            sink: Box::new(Window { sink: Some(io.sink), controller }),
            control,
        };
        let mut exit = follow_with(&self.inner, prepared, io, Some(discipline)).await;
        exit.output = forge_domain::RetainedOutput::default();
        Ok(exit)
    }
}
