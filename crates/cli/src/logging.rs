//! The log on stderr, with `-v`.

use std::io;

use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::terminal::Paint;

/// Starts the log: nothing without `-v`, then what forge did, then one line a request, then
/// everything, other libraries included.
pub(crate) fn start(verbose: u8, paint: Paint) {
    let targets = Targets::new();
    let targets = match verbose {
        0 => return,
        1 => targets.with_target("forge", Level::INFO),
        2 => targets.with_target("forge", Level::DEBUG),
        _ => targets.with_default(Level::DEBUG).with_target("forge", Level::TRACE),
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(paint == Paint::Colored)
        .with_writer(io::stderr)
        .log_internal_errors(false);
    // It fails where a log was started before, which then goes on.
    drop(tracing_subscriber::registry().with(targets).with(lines).try_init());
}
