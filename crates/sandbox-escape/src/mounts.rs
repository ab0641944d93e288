//! Attempts to mount, to unmount and to change mounts. Each first tries to gain what that takes, in
//! namespaces of its own: nothing of the host's mounts changes when it succeeds.

use std::fs;
use std::io;

use crate::arguments::Arguments;
use crate::files::show;
use crate::kernel::{call, hold, in_child};
use crate::namespaces::gain;
use crate::{Entry, Outcome};

pub(crate) const ATTEMPTS: &[Entry] = &[
    ("mount-memory", mount_memory),
    ("mount-bind", mount_bind),
    ("mount-by-descriptor", mount_by_descriptor),
    ("copy-tree", copy_tree),
    ("set-mount-attributes", set_mount_attributes),
    ("mount-cgroup", mount_cgroup),
    ("mount-proc", mount_proc),
    ("unmask", unmask),
    ("remount", remount),
];

fn flags(flags: u64) -> io::Result<i64> {
    i64::try_from(flags).map_err(io::Error::other)
}

/// In a child with a mount namespace of its own where it can have one, so that nothing stays.
fn alone(work: impl FnOnce() -> Outcome) -> Outcome {
    in_child(|| {
        gain(libc::CLONE_NEWNS);
        let private = flags(libc::MS_REC | libc::MS_PRIVATE)?;
        drop(call!(libc::SYS_mount, c"none", c"/", 0, private, 0));
        work()
    })
}

fn mount_memory(arguments: &Arguments) -> Outcome {
    let target = arguments.c_text(0)?;
    alone(|| {
        fs::create_dir_all(arguments.text(0)?)?;
        call!(libc::SYS_mount, c"none", target.as_c_str(), c"tmpfs", 0, 0)?;
        hold()
    })
}

fn mount_bind(arguments: &Arguments) -> Outcome {
    let target = arguments.c_text(0)?;
    alone(|| {
        fs::create_dir_all(arguments.text(0)?)?;
        call!(libc::SYS_mount, c"/usr", target.as_c_str(), 0, flags(libc::MS_BIND)?, 0)?;
        hold()
    })
}

fn mount_by_descriptor(arguments: &Arguments) -> Outcome {
    let target = arguments.c_text(0)?;
    alone(|| {
        fs::create_dir_all(arguments.text(0)?)?;
        let context = call!(libc::SYS_fsopen, c"tmpfs", 0)?;
        call!(libc::SYS_fsconfig, context, 6 /* FSCONFIG_CMD_CREATE */, 0, 0, 0)?;
        let mount = call!(libc::SYS_fsmount, context, 0, 0)?;
        let (at, empty) = (libc::AT_FDCWD, 4 /* MOVE_MOUNT_F_EMPTY_PATH */);
        call!(libc::SYS_move_mount, mount, c"", at, target.as_c_str(), empty)?;
        hold()
    })
}

fn copy_tree(arguments: &Arguments) -> Outcome {
    let target = arguments.c_text(0)?;
    alone(|| {
        fs::create_dir_all(arguments.text(0)?)?;
        let at = libc::AT_FDCWD;
        // With CAP_SYS_ADMIN over the namespace of a mount only.
        let mount = call!(libc::SYS_open_tree, at, c"/usr", 1 | libc::AT_RECURSIVE)?;
        call!(libc::SYS_move_mount, mount, c"", at, target.as_c_str(), 4)?;
        hold()
    })
}

/// On a mount of its own, to be seen in the mount table.
fn set_mount_attributes(arguments: &Arguments) -> Outcome {
    let target = arguments.c_text(0)?;
    alone(|| {
        fs::create_dir_all(arguments.text(0)?)?;
        drop(call!(libc::SYS_mount, c"none", target.as_c_str(), c"tmpfs", 0, 0));
        // `struct mount_attr`: MOUNT_ATTR_NOEXEC is set.
        let attributes: Vec<u8> = [8_u64, 0, 0, 0].into_iter().flat_map(u64::to_ne_bytes).collect();
        let at = libc::AT_FDCWD;
        call!(libc::SYS_mount_setattr, at, target.as_c_str(), 0, &attributes[..], 32)?;
        hold()
    })
}

fn mount_cgroup(arguments: &Arguments) -> Outcome {
    let target = arguments.c_text(0)?;
    in_child(|| {
        gain(libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP);
        let private = flags(libc::MS_REC | libc::MS_PRIVATE)?;
        drop(call!(libc::SYS_mount, c"none", c"/", 0, private, 0));
        fs::create_dir_all(arguments.text(0)?)?;
        call!(libc::SYS_mount, c"none", target.as_c_str(), c"cgroup2", 0, 0).or_else(|_| {
            call!(libc::SYS_mount, c"none", target.as_c_str(), c"cgroup", 0, c"memory")
        })?;
        hold()
    })
}

/// A `/proc` without masks. It takes rights over the pid namespace, so new ones do not help.
fn mount_proc(arguments: &Arguments) -> Outcome {
    let target = arguments.c_text(0)?;
    in_child(|| {
        drop(call!(libc::SYS_unshare, libc::CLONE_NEWNS));
        let private = flags(libc::MS_REC | libc::MS_PRIVATE)?;
        drop(call!(libc::SYS_mount, c"none", c"/", 0, private, 0));
        fs::create_dir_all(arguments.text(0)?)?;
        call!(libc::SYS_mount, c"none", target.as_c_str(), c"proc", 0, 0)?;
        hold()
    })
}

/// Takes away what covers a file, and reads the file.
fn unmask(arguments: &Arguments) -> Outcome {
    for path in arguments.all() {
        let target = std::ffi::CString::new(path.as_str())?;
        drop(call!(libc::SYS_umount2, target.as_c_str(), libc::MNT_DETACH));
    }
    show(arguments.text(0)?)
}

/// `remount DIRECTORY TEXT NAME`: makes a mount writable, then writes.
fn remount(arguments: &Arguments) -> Outcome {
    let directory = arguments.c_text(0)?;
    let again = flags(libc::MS_REMOUNT | libc::MS_BIND)?;
    let changed = call!(libc::SYS_mount, c"none", directory.as_c_str(), 0, again, 0);
    let path = format!("{}/{}", arguments.text(0)?, arguments.text(2)?);
    fs::write(path, arguments.text(1)?)?;
    // The write is what counts.
    drop(changed);
    Ok(())
}
