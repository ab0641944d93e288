//! What runs inside the sandbox: texts for its `sh`, and what they answer.
//!
//! All that is asked of a guest is a POSIX shell, the tools of coreutils, `grep`, `find`, `xargs`, and
//! `setsid` and `flock` of util-linux; busybox has all of them. Only search needs GNU `grep`. Every text is given with the request that runs it; nothing is installed.

mod command;
pub(crate) mod files;
mod heard;
mod words;

pub(crate) use command::{
    CommandText, Delivery, Input, MARK, Purpose, check_mark, command_text, enter, shell_argv,
    signal_marked_text, signal_text, terminal_text,
};
pub(crate) use heard::{Heard, Listener, Refusal, refusal};
pub(crate) use words::{word, words};
