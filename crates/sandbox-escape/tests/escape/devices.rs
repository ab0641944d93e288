//! Attempts on devices, `/proc` and `/sys`: rows 16 to 20.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::attempt::Attempt;
use crate::stage::Stage;
use crate::trial::{Scene, Trial, has_open, says};

/// The name of a symbol of this kernel.
pub(crate) fn kernel_symbol() -> String {
    let table = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    let name = table.lines().nth(20).and_then(|line| line.split_whitespace().nth(2));
    name.unwrap_or("no symbol").to_owned()
}

pub(crate) fn lacks_kernel_symbols() -> Option<&'static str> {
    (kernel_symbol() == "no symbol").then_some("no table of the kernel's symbols")
}

/// A file of the kernel is open for writing.
fn written(name: &'static str) -> impl FnMut(&Scene) -> bool {
    move |scene| {
        scene.descriptors().iter().any(|(path, link)| {
            let information = path.to_str().unwrap().replace("/fd/", "/fdinfo/");
            let text = fs::read_to_string(information).unwrap_or_default();
            let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
            let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
            link.to_string_lossy().contains(name)
                && flags.is_some_and(|flags| flags & libc::O_ACCMODE != libc::O_RDONLY)
        })
    }
}

/// A terminal of the host: the master's side, and the path of the other.
fn terminal() -> (OwnedFd, String) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let path = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    rustix::io::ioctl_fionbio(&master, true).unwrap();
    (master, path)
}

fn lacks_terminals() -> Option<&'static str> {
    // A terminal that cannot be opened by its path is none of this mount of devpts.
    let usable = || {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).ok()?;
        grantpt(&master).ok()?;
        unlockpt(&master).ok()?;
        let path = ptsname(&master, Vec::new()).ok()?.into_string().ok()?;
        fs::File::options().read(true).write(true).open(path).ok()
    };
    usable().is_none().then_some("no pseudo-terminals here")
}

fn lacks_input_pushing() -> Option<&'static str> {
    let allowed = fs::read_to_string("/proc/sys/dev/tty/legacy_tiocsti");
    let off = allowed.is_ok_and(|text| text.trim() == "0");
    if off && !rustix::process::geteuid().is_root() {
        return Some("this kernel lets nobody push input");
    }
    lacks_terminals()
}

fn open_terminal(path: &str) -> fs::File {
    let mut options = fs::File::options();
    options.read(true).write(true).custom_flags(libc::O_NOCTTY).open(path).unwrap()
}

/// The line discipline that keeps everything for itself (`N_NULL`).
const NULL_DISCIPLINE: i32 = 27;

/// A canary in a terminal: what comes out on the master's side.
fn on_terminal(stage: &mut Stage, attempt: &str) -> Trial {
    let (master, path) = terminal();
    let other = open_terminal(&path);
    let (token, mut text) = (stage.token.clone(), Vec::new());
    stage.trial(attempt, [stage.token.clone(), path]).judged(move |_| {
        let _open = &other;
        let mut bytes = [0; 4096];
        if let Ok(length) = rustix::io::read(&master, &mut bytes) {
            text.extend_from_slice(&bytes[..length]);
        }
        String::from_utf8_lossy(&text).contains(&token)
    })
}

pub(crate) fn attempts() -> Vec<Attempt> {
    vec![
        Attempt::new("read_kernel_symbols", "17", |stage| {
            stage.trial("read", ["/proc/kallsyms"]).judged(says(&kernel_symbol()))
        })
        .unless(lacks_kernel_symbols)
        .allowed_inside(),
        Attempt::new("read_kernel_log", "17", |stage| {
            let mut line = None;
            stage.trial("read-kernel-log", [""; 0]).judged(move |scene| {
                let known = line.get_or_insert_with(crate::host::kernel_log_word);
                !known.is_empty() && scene.output.contains(known.as_str())
            })
        })
        .root_only(),
        Attempt::new("open_the_memory_of_the_kernel", "17, 18", |stage| {
            let paths = ["/proc/kcore", "/dev/mem", "/dev/kmem", "/dev/port"];
            stage.trial("read", paths).judged(says("\u{7f}ELF"))
        })
        .root_only()
        .allowed_inside()
        .unless(|| fs::File::open("/proc/kcore").is_err().then_some("no /proc/kcore")),
        Attempt::new("open_the_sysrq_trigger", "17", |stage| {
            let trial = stage.trial("open-for-writing", ["/proc/sysrq-trigger"]);
            trial.judged(written("sysrq-trigger"))
        })
        .root_only()
        .two_locks()
        .unless(|| (!Path::new("/proc/sysrq-trigger").exists()).then_some("no sysrq here")),
        Attempt::new("write_back_the_core_pattern", "16", |stage| {
            let path = "/proc/sys/kernel/core_pattern";
            let watch = crate::host::Watch::on(path);
            stage.trial("write-back", [path]).judged(move |_| watch.saw_writing())
        })
        .root_only()
        .two_locks(),
        Attempt::new("open_settings_of_the_kernel", "16", |stage| {
            let trial = stage.trial("open-all-for-writing", ["/proc/sys/kernel", "/proc/sys/vm"]);
            trial.judged(written("/sys/"))
        })
        .root_only()
        .two_locks(),
        Attempt::new("open_helpers_of_the_kernel", "16", |stage| {
            let paths = [
                "/sys/kernel/uevent_helper",
                "/proc/sys/kernel/modprobe",
                "/proc/sys/kernel/hotplug",
                "/proc/sys/fs/binfmt_misc/register",
                "/sys/kernel/mm/transparent_hugepage/enabled",
                "/sys/kernel/profiling",
                "/sys/power/state",
            ];
            stage.trial("open-for-writing", paths).judged(written("/"))
        })
        .root_only()
        .two_locks(),
        Attempt::new("read_the_devices_of_the_machine", "16, 39", |stage| {
            let names = fs::read_dir("/sys").unwrap().flatten();
            let name = names.map(|entry| entry.path()).next().unwrap();
            stage.trial("read", ["/sys"]).judged(says(name.to_str().unwrap()))
        })
        .allowed_inside()
        .unless(|| (!Path::new("/sys/kernel").exists()).then_some("no /sys here")),
        Attempt::new("open_devices", "18", |stage| {
            stage.trial("open-devices", [""; 0]).judged(|scene| {
                let own = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)];
                scene.descriptors().iter().any(|(path, link)| {
                    let Ok(found) = path.metadata() else { return false };
                    let kind = found.file_type();
                    let number = (libc::major(found.rdev()), libc::minor(found.rdev()));
                    link.starts_with("/dev")
                        && (kind.is_char_device() || kind.is_block_device())
                        && !own.contains(&number)
                })
            })
        })
        .unless(lacks_devices),
        Attempt::new("make_a_device_and_open_it", "19", |stage| {
            // The kernel's log, to be read.
            stage.trial("make-node", ["node", "1", "11"]).judged(has_open("/node"))
        })
        .root_only(),
        Attempt::new("write_to_a_terminal", "20", |stage| on_terminal(stage, "write-over"))
            .unless(lacks_terminals)
            .two_locks(),
        Attempt::new("push_input_into_a_terminal", "20", |stage| on_terminal(stage, "push-input"))
            .unless(lacks_input_pushing),
        Attempt::new("set_the_line_discipline_of_a_terminal", "20", |stage| {
            let (master, path) = terminal();
            let other = open_terminal(&path);
            let number = NULL_DISCIPLINE.to_string();
            stage.trial("set-line-discipline", [path, number]).judged(move |_| {
                let _open = &master;
                crate::host::line_discipline(&other) == Some(NULL_DISCIPLINE)
            })
        })
        .unless(lacks_terminals),
        Attempt::new("write_to_a_terminal_from_an_own_one", "20", |stage| {
            // The own one may have the same path; what is written there is of no interest.
            on_terminal(stage, "write-over").on_own_terminal()
        })
        .unless(lacks_terminals)
        .allowed_inside()
        .holds_without_landlock(),
        Attempt::new("push_input_into_the_own_terminal", "20", |stage| {
            // A terminal shows what is in its input.
            let token = stage.token.clone();
            let trial = stage.trial("push-own-input", [token.clone()]).on_own_terminal();
            trial.judged(says(&token))
        })
        .unless(lacks_input_pushing)
        .holds_without_landlock(),
        Attempt::new("control_the_console_by_the_own_terminal", "20", |stage| {
            let trial = stage.trial("control-console", [""; 0]).on_own_terminal();
            trial.judged(says("the call arrived"))
        })
        .unless(lacks_terminals)
        .holds_without_landlock(),
    ]
}

/// A device that the user may open and that not everybody has.
fn lacks_devices() -> Option<&'static str> {
    let mut waiting = vec![Path::new("/dev").to_path_buf()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(kind) = entry.file_type() else { continue };
            let everybodys = ["null", "zero", "full", "random", "urandom", "tty", "ptmx"]
                .contains(&name.as_str());
            if kind.is_dir() {
                waiting.push(entry.path());
            } else if (kind.is_char_device() || kind.is_block_device())
                && !everybodys
                && !name.starts_with("watchdog")
                && rustix::fs::access(entry.path(), rustix::fs::Access::READ_OK).is_ok()
            {
                return None;
            }
        }
    }
    Some("no device that this user may open")
}
