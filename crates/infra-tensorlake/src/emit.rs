//! Output on its way to the sink, the result and the file in the guest.

use bytes::Bytes;
use forge_domain::{OutputBuffer, OutputLimits, OutputSink, OutputStream, RetainedOutput, Spill};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::scripts::Guest;
use crate::spill::SpillWriter;

/// Output that came together.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) stream: OutputStream,
    pub(crate) bytes: Bytes,
}

/// Passes output on, one piece after the other, as fast as the sink takes it.
pub(crate) struct Emitter {
    sink: Box<dyn OutputSink>,
    limits: OutputLimits,
    buffer: OutputBuffer,
    guest: Guest,
    spill_name: String,
    spill: Option<SpillWriter>,
    closed: [bool; 2],
    broken: CancellationToken,
}

impl Emitter {
    /// The token is cancelled when the command goes on writing to a stream that nobody reads.
    pub(crate) fn new(
        sink: Box<dyn OutputSink>,
        limits: OutputLimits,
        guest: Guest,
        token: &str,
        broken: CancellationToken,
    ) -> Self {
        Self {
            sink,
            limits,
            buffer: OutputBuffer::new(limits),
            guest,
            spill_name: format!("output-{token}.log"),
            spill: None,
            closed: [false; 2],
            broken,
        }
    }

    /// Takes pieces until there are no more, and says what is kept of them.
    pub(crate) async fn run(mut self, mut pieces: mpsc::Receiver<Piece>) -> RetainedOutput {
        while let Some(piece) = pieces.recv().await {
            self.take(piece).await;
        }
        let spill = match self.spill {
            Some(spill) => spill.finish().await,
            None => None,
        };
        self.buffer.finish(spill)
    }

    async fn take(&mut self, Piece { stream, bytes }: Piece) {
        let index = usize::from(stream == OutputStream::Stderr);
        if self.closed[index] {
            self.broken.cancel();
            return;
        }
        if let Spill::WhenCut { max_file_bytes } = self.limits.spill
            && self.spill.is_none()
            && self.buffer.would_cut(bytes.len())
        {
            let path = self.guest.scratch.join(&self.spill_name);
            let mut spill = SpillWriter::new(self.guest.clone(), path, max_file_bytes);
            for retained in self.buffer.retained_bytes() {
                spill.write(retained).await;
            }
            self.spill = Some(spill);
        }
        if let Some(spill) = &mut self.spill {
            spill.write(&bytes).await;
        }
        self.buffer.push(stream, &bytes);
        if self.sink.write(stream, bytes).await.is_err() {
            self.closed[index] = true;
        }
    }
}
