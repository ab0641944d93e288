//! The helper: what runs when this program is executed again to hold a session.
//!
//! Three kinds of processes, each with a single thread. The *launcher* stays outside of the namespaces,
//! makes them, writes the maps, and takes away what is left when the session ends. The session's
//! *init* is the first process of the namespaces: it lays out the root and starts a *keeper* for each
//! command. A keeper is the first process of the command's own pid namespace: when it ends, the kernel
//! ends everything that the command has started. Where commands share one, it adopts and ends what the
//! command leaves behind.
//!
//! The host's side holds one socket to the init, whose end ends the session, and one to each keeper,
//! whose end ends the command. So nothing outlives the program that asked for it, however that ends.

mod cgroup;
mod confine;
mod descendants;
mod freezer;
mod init;
mod keeper;
mod kernel;
mod launcher;
mod mounts;
mod proc_masks;
mod root;
mod seccomp;
mod shown;
mod terminal;

pub(crate) use init::kernel_version;

pub(crate) use launcher::run;
pub(crate) use root::{SCRATCH, WRITTEN};
