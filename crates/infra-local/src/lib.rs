//! The host as an environment: commands run as the user who runs Forge, in the user's own tree.
//!
//! Nothing is isolated here and nothing is promised about isolation. What is promised is everything
//! else that the ports ask for: commands with their children under control, exact bytes, bounded
//! memory, files and search confined to the workspace and a scratch directory.
//!
//! [`LocalHost`] is the other adapter of this crate: what has to be read on the user's machine
//! whatever the environment is.

mod config;
mod environment;
mod files;
mod group;
mod host;
mod launch;
mod paths;
mod ports;
mod run;
mod search;
mod terminal;

pub use config::LocalConfig;
pub use environment::LocalEnvironment;
pub use host::LocalHost;
