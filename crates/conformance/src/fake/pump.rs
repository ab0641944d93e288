//! From a command of the fake to its sink, its result and its spill file.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use forge_domain::{
    OutputBuffer, OutputLimits, OutputSink, OutputStream, RetainedOutput, Spill, SpillFile,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::environment::Inner;
use super::tree::Node;

/// Which streams nobody reads any more.
#[derive(Debug, Default)]
pub(super) struct ClosedStreams {
    stdout: AtomicBool,
    stderr: AtomicBool,
}

impl ClosedStreams {
    pub(super) fn of(&self, stream: OutputStream) -> &AtomicBool {
        match stream {
            OutputStream::Stdout => &self.stdout,
            OutputStream::Stderr => &self.stderr,
        }
    }
}

pub(super) struct Pump<'a> {
    pub(super) inner: &'a Inner,
    pub(super) sink: Box<dyn OutputSink>,
    pub(super) limits: OutputLimits,
    pub(super) closed: Arc<ClosedStreams>,
    pub(super) cut_after: Option<u64>,
    pub(super) cut: CancellationToken,
}

impl Pump<'_> {
    pub(super) async fn run(
        mut self,
        mut output: mpsc::Receiver<(OutputStream, Bytes)>,
    ) -> RetainedOutput {
        let mut buffer = OutputBuffer::new(self.limits);
        let mut spill: Option<Vec<u8>> = None;
        let mut delivered = 0;
        while let Some((stream, mut bytes)) = output.recv().await {
            if self.closed.of(stream).load(Ordering::Acquire) {
                continue;
            }
            if let Some(limit) = self.cut_after {
                let room = usize::try_from(limit - delivered).unwrap_or(usize::MAX);
                bytes.truncate(room);
                delivered += bytes.len() as u64;
                if delivered == limit {
                    self.cut.cancel();
                    output.close();
                }
                if bytes.is_empty() {
                    continue;
                }
            }
            let wanted = matches!(self.limits.spill, Spill::WhenCut { .. });
            if wanted && spill.is_none() && buffer.would_cut(bytes.len()) {
                spill = Some(buffer.retained_bytes().collect::<Vec<_>>().concat());
            }
            if let Some(whole) = &mut spill {
                whole.extend_from_slice(&bytes);
            }
            buffer.push(stream, &bytes);
            if self.sink.write(stream, bytes).await.is_err() {
                self.closed.of(stream).store(true, Ordering::Release);
            }
        }
        buffer.finish(spill.map(|whole| self.keep(whole)))
    }

    fn keep(&self, mut whole: Vec<u8>) -> SpillFile {
        let limit = match self.limits.spill {
            Spill::WhenCut { max_file_bytes } => {
                usize::try_from(max_file_bytes).unwrap_or(usize::MAX)
            }
            Spill::Never => 0,
        };
        let complete = whole.len() <= limit;
        whole.truncate(limit);
        let path = self.inner.next_spill();
        let bytes = whole.len() as u64;
        self.inner.tree().put(&path, Node::File { bytes: whole, mode: 0o600 });
        SpillFile { path, bytes, complete }
    }
}
