//! The tools: what the model can do, all of it through the environment.

mod arguments;
mod command_report;
mod context;
mod edit;
mod lines;
mod list;
mod nearest;
mod process;
mod read;
mod registry;
mod remove;
mod report;
mod search;
mod shell;
mod write;

pub(crate) use context::{OutputCursors, ToolContext};
pub(crate) use edit::edit;
pub(crate) use list::list;
pub(crate) use process::{output as process_output, stop as process_stop};
pub(crate) use read::read;
pub(crate) use registry::{Action, Change, Read, schemas};
pub(crate) use remove::remove;
pub(crate) use report::{Report, ToolFailure};
pub(crate) use search::search;
pub(crate) use shell::{background, foreground};
pub(crate) use write::write;
