//! Attempts to get at parts of the kernel that commands have no use for. What is got is held, so that
//! the host sees it among the descriptors of the process.

use std::io;

use crate::arguments::Arguments;
use crate::kernel::{call, hold};
use crate::{Entry, Outcome};

pub(crate) const ATTEMPTS: &[Entry] = &[
    ("io-uring", io_uring),
    ("bpf-map", bpf_map),
    ("perf-event", perf_event),
    ("userfault", userfault),
    ("fanotify", fanotify),
    ("exhaust-watches", exhaust_watches),
    ("set-mode-i386", set_mode_i386),
];

fn io_uring(_: &Arguments) -> Outcome {
    // `struct io_uring_params`, all of it nought.
    let mut parameters = [0_u8; 120];
    call!(libc::SYS_io_uring_setup, 1, &mut parameters[..])?;
    hold()
}

fn bpf_map(_: &Arguments) -> Outcome {
    // `union bpf_attr` of BPF_MAP_CREATE: an array of one value of four bytes.
    let mut attributes = [0_u8; 72];
    for (at, word) in [2_u32, 4, 4, 1].into_iter().enumerate() {
        attributes[4 * at..4 * at + 4].copy_from_slice(&word.to_ne_bytes());
    }
    call!(libc::SYS_bpf, 0, &mut attributes[..], 72)?;
    hold()
}

fn perf_event(_: &Arguments) -> Outcome {
    // `struct perf_event_attr`: a software clock, of user space only.
    let mut attributes = [0_u8; 112];
    attributes[..4].copy_from_slice(&1_u32.to_ne_bytes());
    attributes[4..8].copy_from_slice(&112_u32.to_ne_bytes());
    let exclude_kernel_and_hypervisor = (1_u64 << 5) | (1 << 6) | 1;
    attributes[40..48].copy_from_slice(&exclude_kernel_and_hypervisor.to_ne_bytes());
    call!(libc::SYS_perf_event_open, &attributes[..], 0, -1, -1, 0)?;
    hold()
}

fn userfault(_: &Arguments) -> Outcome {
    let user_mode_only = 1;
    call!(libc::SYS_userfaultfd, user_mode_only)?;
    hold()
}

fn fanotify(_: &Arguments) -> Outcome {
    let report_ids = 0x200;
    call!(libc::SYS_fanotify_init, report_ids, libc::O_RDONLY)?;
    hold()
}

/// Takes every instance of inotify that the user has, so that none is left for the host.
fn exhaust_watches(_: &Arguments) -> Outcome {
    let mut count = 0;
    while count < 10_000 && call!(libc::SYS_inotify_init1, 0).is_ok() {
        count += 1;
    }
    if count == 0 { Err(io::ErrorKind::PermissionDenied.into()) } else { hold() }
}

/// chmod(2) by the number that it has for 32-bit programs: a set-user-id bit.
#[cfg(target_arch = "x86_64")]
fn set_mode_i386(arguments: &Arguments) -> Outcome {
    std::fs::write(arguments.text(0)?, "")?;
    let path = crate::kernel::low_text(&arguments.c_text(0)?)?;
    crate::kernel::call_i386(15, path, 0o4755)?;
    Ok(())
}

#[cfg(not(target_arch = "x86_64"))]
fn set_mode_i386(_: &Arguments) -> Outcome {
    Err(io::ErrorKind::Unsupported.into())
}
