//! Attempts on processes of the host. Only canaries are ever harmed.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;

use crate::arguments::Arguments;
use crate::files::show;
use crate::kernel::{address, call, hold, patiently};
use crate::{Entry, Outcome};

pub(crate) const ATTEMPTS: &[Entry] = &[
    ("canary", canary),
    ("canary-in-user-namespace", canary_in_user_namespace),
    ("list-processes", list_processes),
    ("read-environments", read_environments),
    ("read-own-environment", read_own_environment),
    ("read-through-processes", read_through_processes),
    ("kill", kill),
    ("kill-by-descriptor", kill_by_descriptor),
    ("trace", trace),
    ("read-memory", read_memory),
    ("write-memory", write_memory),
    ("read-memory-file", read_memory_file),
    ("write-memory-file", write_memory_file),
    ("take-descriptor", take_descriptor),
    ("compare-descriptors", compare_descriptors),
    ("lower-priority", lower_priority),
    ("set-limit", set_limit),
    ("raise-oom-score", raise_oom_score),
    ("replace-program", replace_program),
    ("execute-for-rights", execute_for_rights),
    ("gain-capabilities", gain_capabilities),
    ("regain-capabilities", regain_capabilities),
    ("outlive", outlive),
];

/// The process on the host that attempts are made on: it holds a text in its memory, and two
/// descriptors of one file with it. At the end of its stdin it prints its memory and ends.
fn canary(_: &Arguments) -> Outcome {
    let secret = std::env::var("FORGE_CANARY").map_err(io::Error::other)?;
    // Where only descendants may be traced, allow everybody: PR_SET_PTRACER, PR_SET_PTRACER_ANY.
    drop(call!(libc::SYS_prctl, libc::PR_SET_PTRACER, -1_i64, 0, 0, 0));
    let memory = secret.clone().into_bytes();
    let name = c"canary";
    let first = call!(libc::SYS_memfd_create, name, 0)?;
    let mut file = OpenOptions::new().write(true).open(format!("/proc/self/fd/{first}"))?;
    file.write_all(secret.as_bytes())?;
    let second = call!(libc::SYS_dup, first)?;
    let place = u64::from_ne_bytes(address(&memory));
    writeln!(io::stdout(), "{} {place} {} {first} {second}", std::process::id(), memory.len())?;
    io::stdout().flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    io::stdout().write_all(std::hint::black_box(&memory))
}

fn canary_in_user_namespace(arguments: &Arguments) -> Outcome {
    call!(libc::SYS_unshare, libc::CLONE_NEWUSER)?;
    canary(arguments)
}

fn others() -> io::Result<Vec<String>> {
    let own = std::process::id();
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.parse::<u32>().is_ok_and(|pid| pid != own) {
            pids.push(name);
        }
    }
    Ok(pids)
}

fn of_others(file: &str) -> Outcome {
    let mut found = false;
    for pid in others()? {
        found |= show(&format!("/proc/{pid}/{file}")).is_ok();
    }
    if found { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}

fn list_processes(_: &Arguments) -> Outcome {
    of_others("cmdline")
}

fn read_environments(_: &Arguments) -> Outcome {
    of_others("environ")
}

fn read_own_environment(_: &Arguments) -> Outcome {
    show("/proc/self/environ")
}

fn read_through_processes(arguments: &Arguments) -> Outcome {
    let path = arguments.text(0)?;
    let up = "../".repeat(32);
    of_others(&format!("root{path}")).or_else(|_| of_others(&format!("cwd/{up}{path}")))
}

fn kill(arguments: &Arguments) -> Outcome {
    call!(libc::SYS_kill, arguments.number(0)?, libc::SIGKILL).map(drop)
}

fn kill_by_descriptor(arguments: &Arguments) -> Outcome {
    let fd = call!(libc::SYS_pidfd_open, arguments.number(0)?, 0)?;
    call!(libc::SYS_pidfd_send_signal, fd, libc::SIGKILL, 0, 0).map(drop)
}

fn trace(arguments: &Arguments) -> Outcome {
    call!(libc::SYS_ptrace, 0x4206 /* PTRACE_SEIZE */, arguments.number(0)?, 0, 0)?;
    hold()
}

/// `struct iovec`.
fn vector(place: i64, length: i64) -> Vec<u8> {
    [place.to_ne_bytes(), length.to_ne_bytes()].concat()
}

fn read_memory(arguments: &Arguments) -> Outcome {
    let (pid, place, length) = (arguments.number(0)?, arguments.number(1)?, arguments.number(2)?);
    let buffer = vec![0_u8; 4096];
    let local = [address(&buffer), length.to_ne_bytes()].concat();
    let remote = vector(place, length);
    call!(libc::SYS_process_vm_readv, pid, &local[..], 1, &remote[..], 1, 0)?;
    io::stdout().write_all(std::hint::black_box(&buffer))
}

fn write_memory(arguments: &Arguments) -> Outcome {
    let (pid, place) = (arguments.number(0)?, arguments.number(1)?);
    let text = arguments.text(3)?.as_bytes();
    let length = i64::try_from(text.len()).map_err(io::Error::other)?;
    let local = [address(text), length.to_ne_bytes()].concat();
    let remote = vector(place, length);
    call!(libc::SYS_process_vm_writev, pid, &local[..], 1, &remote[..], 1, 0).map(drop)
}

fn memory_file(arguments: &Arguments, write: bool) -> io::Result<fs::File> {
    let path = format!("/proc/{}/mem", arguments.number(0)?);
    let mut file = OpenOptions::new().read(true).write(write).open(path)?;
    file.seek(SeekFrom::Start(arguments.number(1)?.cast_unsigned()))?;
    Ok(file)
}

fn read_memory_file(arguments: &Arguments) -> Outcome {
    let mut bytes = vec![0; usize::try_from(arguments.number(2)?).map_err(io::Error::other)?];
    memory_file(arguments, false)?.read_exact(&mut bytes)?;
    io::stdout().write_all(&bytes)
}

fn write_memory_file(arguments: &Arguments) -> Outcome {
    memory_file(arguments, true)?.write_all(arguments.text(3)?.as_bytes())
}

fn take_descriptor(arguments: &Arguments) -> Outcome {
    let process = call!(libc::SYS_pidfd_open, arguments.number(0)?, 0)?;
    let fd = call!(libc::SYS_pidfd_getfd, process, arguments.number(1)?, 0)?;
    show(&format!("/proc/self/fd/{fd}"))
}

/// Says how descriptors of another process compare, and one of them with one of its own.
fn compare_descriptors(arguments: &Arguments) -> Outcome {
    let (pid, first, second) = (arguments.number(0)?, arguments.number(1)?, arguments.number(2)?);
    let same = call!(libc::SYS_kcmp, pid, pid, 0, first, second)?;
    let other = call!(libc::SYS_kcmp, pid, pid, 0, first, 0)?;
    writeln!(io::stdout(), "kcmp {same} {}", other.signum()).map(drop)
}

fn lower_priority(arguments: &Arguments) -> Outcome {
    call!(libc::SYS_setpriority, 0, arguments.number(0)?, 19).map(drop)
}

fn set_limit(arguments: &Arguments) -> Outcome {
    let limit = [64_u64.to_ne_bytes(), 64_u64.to_ne_bytes()].concat();
    let files = libc::RLIMIT_NOFILE.cast_signed();
    call!(libc::SYS_prlimit64, arguments.number(0)?, files, &limit[..], 0).map(drop)
}

fn raise_oom_score(arguments: &Arguments) -> Outcome {
    fs::write(format!("/proc/{}/oom_score_adj", arguments.number(0)?), "777")
}

/// Keeps hold of a program while it runs, and writes to it when it no longer does.
fn replace_program(arguments: &Arguments) -> Outcome {
    let text = arguments.text(0)?;
    let pid = arguments.number(1)?;
    let mut held = Vec::new();
    for process in others()? {
        let link = std::ffi::CString::new(format!("/proc/{process}/exe"))?;
        let at = libc::AT_FDCWD;
        if let Ok(fd) = call!(libc::SYS_openat, at, link.as_c_str(), libc::O_PATH, 0) {
            // None but the canary and what the session itself is: never a program of the host.
            if process == pid.to_string() || others()?.len() < 8 {
                held.push(fd);
            }
        }
    }
    drop(call!(libc::SYS_kill, pid, libc::SIGKILL));
    patiently(|| {
        let mut last = Err(io::ErrorKind::NotFound.into());
        for fd in &held {
            let opened = OpenOptions::new().append(true).open(format!("/proc/self/fd/{fd}"));
            last = opened.and_then(|mut file| file.write_all(text.as_bytes()));
        }
        last
    })
}

/// Executes a program whose file gives rights.
fn execute_for_rights(arguments: &Arguments) -> Outcome {
    use std::os::unix::process::CommandExt;
    let mut command = std::process::Command::new(arguments.text(0)?);
    Err(command.args(&arguments.all()[1..]).exec())
}

/// The same in a user namespace of its own, if it can have one.
fn gain_capabilities(arguments: &Arguments) -> Outcome {
    crate::namespaces::gain(0);
    regain_capabilities(arguments)
}

/// Asks for every capability that there is.
fn regain_capabilities(_: &Arguments) -> Outcome {
    let header = [0x2008_0522_u32.to_ne_bytes(), 0_u32.to_ne_bytes()].concat();
    for set in [u32::MAX, 1 << 12, 1 << 21] {
        // Effective, permitted, inheritable of the lower 32, then of the upper.
        let wanted: Vec<u8> =
            [set, set, 0, 0, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
        drop(call!(libc::SYS_capset, &header[..], &wanted[..]));
    }
    let status = fs::read_to_string("/proc/self/status")?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t"));
    match effective {
        Some(set) if set.bytes().any(|digit| digit != b'0') => hold(),
        _ => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

/// Leaves a process behind that belongs to no group and no session of its parent's. It ends itself.
fn outlive(_: &Arguments) -> Outcome {
    if crate::kernel::fork()?.is_some() {
        std::thread::sleep(std::time::Duration::from_millis(50));
        return Ok(());
    }
    call!(libc::SYS_setsid)?;
    if crate::kernel::fork()?.is_some() {
        crate::kernel::leave(0);
    }
    let nothing = fs::File::open("/dev/null")?;
    call!(libc::SYS_dup2, nothing.as_raw_fd(), 0)?;
    std::thread::sleep(std::time::Duration::from_secs(15));
    crate::kernel::leave(0)
}
