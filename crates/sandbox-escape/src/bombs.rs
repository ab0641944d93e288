//! Attempts to use up what the host has. All of them are bounded.

use std::fs;
use std::io::{self, Seek, SeekFrom, Write};
use std::time::Duration;

use rustix::event::Timespec;

use crate::arguments::Arguments;
use crate::kernel::{call, fork, hold, hold_for, leave};
use crate::{Entry, Outcome};

pub(crate) const ATTEMPTS: &[Entry] = &[
    ("fork-bomb", fork_bomb),
    ("memory-bomb", memory_bomb),
    ("large-file", large_file),
    ("sparse-file", sparse_file),
    ("many-files", many_files),
    ("fill-directory", fill_directory),
    ("open-files", open_files),
    ("spin", spin),
    ("flood", flood),
    ("crash", crash),
];

const MIB: usize = 1024 * 1024;

/// How long a child of a bomb waits before it ends itself, should nobody end it.
const CHILD_LIFE: Duration = Duration::from_secs(20);

/// `fork-bomb COUNT`.
fn fork_bomb(arguments: &Arguments) -> Outcome {
    for _ in 0..arguments.number(0)? {
        if fork()?.is_none() {
            std::thread::sleep(CHILD_LIFE);
            leave(0);
        }
    }
    hold()
}

/// `memory-bomb CHILDREN MIB`: so many processes with so much each.
fn memory_bomb(arguments: &Arguments) -> Outcome {
    let bytes = usize::try_from(arguments.number(1)?).map_err(io::Error::other)? * MIB;
    for _ in 0..arguments.number(0)? {
        if fork()?.is_none() {
            let mut memory = Vec::new();
            if memory.try_reserve_exact(bytes).is_err() {
                leave(1);
            }
            memory.resize(bytes, 1_u8);
            std::hint::black_box(&memory);
            std::thread::sleep(CHILD_LIFE);
            leave(0);
        }
    }
    hold_for(Timespec { tv_sec: 6, tv_nsec: 0 })
}

fn fill(path: &str, mebibytes: i64) -> Outcome {
    let mut file = fs::File::create(path)?;
    let block = vec![b'x'; MIB];
    for _ in 0..mebibytes {
        file.write_all(&block)?;
    }
    Ok(())
}

/// `large-file PATH MIB`.
fn large_file(arguments: &Arguments) -> Outcome {
    ignore_file_size_signal()?;
    fill(arguments.text(0)?, arguments.number(1)?)
}

fn sparse_file(arguments: &Arguments) -> Outcome {
    ignore_file_size_signal()?;
    let mut file = fs::File::create(arguments.text(0)?)?;
    let length = arguments.number(1)?.cast_unsigned() * MIB as u64;
    file.set_len(length)?;
    file.seek(SeekFrom::Start(length))?;
    file.write_all(b"x")
}

/// `many-files DIRECTORY COUNT MIB`: files of a size each, at a pace that can be kept up with.
fn many_files(arguments: &Arguments) -> Outcome {
    let directory = arguments.text(0)?;
    fs::create_dir_all(directory)?;
    for number in 0..arguments.number(1)? {
        fill(&format!("{directory}/{number}"), arguments.number(2)?)?;
        if arguments.number(2)? > 0 {
            std::thread::sleep(Duration::from_millis(30));
        }
    }
    Ok(())
}

/// `fill-directory PATH MIB`: one file, which is removed at once where it could be written.
fn fill_directory(arguments: &Arguments) -> Outcome {
    let path = arguments.text(0)?;
    let filled = fill(path, arguments.number(1)?);
    if filled.is_ok() {
        hold()?;
    }
    fs::remove_file(path)?;
    filled
}

fn open_files(arguments: &Arguments) -> Outcome {
    let wanted = arguments.number(0)?;
    let limit = [wanted.to_ne_bytes(), wanted.to_ne_bytes()].concat();
    drop(call!(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE.cast_signed(), &limit[..], 0));
    let mut held = Vec::new();
    while i64::try_from(held.len()).is_ok_and(|count| count < wanted - 16) {
        match fs::File::open("/dev/null") {
            Ok(file) => held.push(file),
            Err(_) => break,
        }
    }
    writeln!(io::stdout(), "opened {}", held.len())?;
    if i64::try_from(held.len()).is_ok_and(|count| count < wanted - 16) {
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    hold()
}

/// `flood MIB`: to stdout.
fn flood(arguments: &Arguments) -> Outcome {
    let block = vec![b'x'; MIB];
    for _ in 0..arguments.number(0)? {
        io::stdout().write_all(&block)?;
    }
    Ok(())
}

/// Ignores what can be ignored, and computes.
fn spin(_: &Arguments) -> Outcome {
    for signal in [libc::SIGTERM, libc::SIGHUP, libc::SIGINT] {
        ignore(signal)?;
    }
    let begun = std::time::Instant::now();
    // Nobody else may be left to end it.
    while begun.elapsed() < CHILD_LIFE {
        std::hint::black_box(());
    }
    Ok(())
}

/// Ends by a signal that writes the memory to a file.
fn crash(_: &Arguments) -> Outcome {
    let all = [u64::MAX.to_ne_bytes(), u64::MAX.to_ne_bytes()].concat();
    drop(call!(libc::SYS_prlimit64, 0, libc::RLIMIT_CORE.cast_signed(), &all[..], 0));
    std::process::abort()
}

fn ignore_file_size_signal() -> io::Result<()> {
    ignore(libc::SIGXFSZ)
}

/// `struct sigaction` of the kernel: the handler comes first, and 1 is SIG_IGN.
fn ignore(signal: i32) -> io::Result<()> {
    let mut action = [0_u8; 32];
    action[0] = 1;
    call!(libc::SYS_rt_sigaction, signal, &action[..], 0, 8).map(drop)
}
