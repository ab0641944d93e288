//! Attempts on what processes of the host share with one another.

use std::io::{self, Write};

use crate::arguments::Arguments;
use crate::kernel::call;
use crate::{Entry, Outcome};

pub(crate) const ATTEMPTS: &[Entry] = &[
    ("receive-message", receive_message),
    ("send-message", send_message),
    ("read-shared-memory", read_shared_memory),
    ("count-semaphores", count_semaphores),
    ("receive-posix-message", receive_posix_message),
    ("read-key", read_key),
];

/// From a System V queue of the host, by its key.
fn receive_message(arguments: &Arguments) -> Outcome {
    let queue = call!(libc::SYS_msgget, arguments.number(0)?, 0)?;
    let mut message = vec![0_u8; 1032];
    let length = call!(libc::SYS_msgrcv, queue, &mut message[..], 1024, 0, libc::IPC_NOWAIT)?;
    io::stdout().write_all(&message[8..8 + usize::try_from(length).unwrap_or_default()])
}

fn send_message(arguments: &Arguments) -> Outcome {
    let queue = call!(libc::SYS_msgget, arguments.number(0)?, 0)?;
    let text = arguments.text(1)?.as_bytes();
    let message = [&1_i64.to_ne_bytes()[..], text].concat();
    let length = i64::try_from(text.len()).map_err(io::Error::other)?;
    call!(libc::SYS_msgsnd, queue, &message[..], length, libc::IPC_NOWAIT).map(drop)
}

/// Changes the mode of a segment of the host to the mode that its canary looks for.
fn read_shared_memory(arguments: &Arguments) -> Outcome {
    let segment = call!(libc::SYS_shmget, arguments.number(0)?, 0, 0)?;
    // `struct shmid_ds`: the mode stands at 20, user and group at 4 and 8.
    let mut buffer = vec![0_u8; 256];
    call!(libc::SYS_shmctl, segment, libc::IPC_STAT, &mut buffer[..])?;
    buffer[20..24].copy_from_slice(&0o640_u32.to_ne_bytes());
    call!(libc::SYS_shmctl, segment, libc::IPC_SET, &buffer[..]).map(drop)
}

/// Sets the first semaphore of a set of the host.
fn count_semaphores(arguments: &Arguments) -> Outcome {
    let set = call!(libc::SYS_semget, arguments.number(0)?, 0, 0)?;
    call!(libc::SYS_semctl, set, 0, 16 /* SETVAL */, 77).map(drop)
}

fn receive_posix_message(arguments: &Arguments) -> Outcome {
    let name = arguments.c_text(0)?;
    let queue = call!(libc::SYS_mq_open, name.as_c_str(), libc::O_RDONLY | libc::O_NONBLOCK, 0, 0)?;
    let mut buffer = vec![0_u8; 8192];
    let length = call!(libc::SYS_mq_timedreceive, queue, &mut buffer[..], 8192, 0, 0)?;
    io::stdout().write_all(&buffer[..usize::try_from(length).unwrap_or_default()])
}

/// A key of the session keyring, by its description.
fn read_key(arguments: &Arguments) -> Outcome {
    let (kind, description) = (c"user", arguments.c_text(0)?);
    let (search, read, session) = (10, 11, -3);
    let key = call!(libc::SYS_keyctl, search, session, kind, description.as_c_str(), 0)?;
    let mut buffer = vec![0_u8; 1024];
    let length = call!(libc::SYS_keyctl, read, key, &mut buffer[..], 1024)?;
    io::stdout().write_all(&buffer[..usize::try_from(length).unwrap_or_default()])
}
