//! Commands on terminals: started, attached to by a socket, ended.

mod attach;
mod queue;
mod session;
mod table;

pub(crate) use session::{Patience, Terminal};
pub(crate) use table::Terminals;
