//! Commands on a terminal of the sandbox, over a socket.
//!
//! What the frames mean (`frames`) and what becomes of the command (`life`) is told without I/O;
//! `connection` makes the socket, and `session` is the loop around all of it.

mod connection;
mod frames;
mod life;
mod session;
