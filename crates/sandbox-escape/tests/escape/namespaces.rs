//! Attempts by namespaces, mounts and roots: rows 11 to 15, 37, 39, 54.

use std::os::fd::OwnedFd;
use std::path::Path;

use forge_infra_sandbox::Layers;

use crate::attempt::Attempt;
use crate::host::{lacks_i386, lacks_time_namespaces, lacks_user_namespaces, lacks_x32};
use crate::stage::Stage;
use crate::trial::{Scene, Trial, differ_in, mounted_at, says};

/// Nobody in a session has rights over mounts, but root's commands where these are off.
const WITH_RIGHTS: Layers = Layers::ALL.without_privileges().without_landlock().without_seccomp();

/// An attempt that mounts something at a place of its own.
fn mounting(stage: &mut Stage, attempt: &str) -> Trial {
    let name = stage.token.replace("token", "mount");
    let place = stage.project().join(&name).to_str().unwrap().to_owned();
    stage.trial(attempt, [place]).judged(mounted_at(&name))
}

/// An attempt that makes a namespace in a child.
fn making(stage: &mut Stage, attempt: &str, link: &'static str) -> Trial {
    stage.trial(attempt, [""; 0]).judged(differ_in(link))
}

/// The roots of two processes of the attempt are different directories.
fn other_root(scene: &Scene) -> bool {
    use std::os::unix::fs::MetadataExt;
    let roots = scene.pids.iter().filter_map(|pid| {
        let root = Path::new(&format!("/proc/{pid}/root")).metadata().ok()?;
        Some((root.dev(), root.ino()))
    });
    let roots: Vec<_> = roots.collect();
    roots.iter().any(|root| *root != roots[0])
}

/// The mask over the table of the kernel's symbols.
fn unmask(stage: &mut Stage) -> Trial {
    let path = "/proc/kallsyms";
    stage.trial("unmask", [path]).judged(says(&crate::devices::kernel_symbol()))
}

pub(crate) fn attempts() -> Vec<Attempt> {
    let mut attempts = nested();
    attempts.extend(mounts());
    attempts.extend(machine());
    attempts
}

fn nested() -> Vec<Attempt> {
    vec![
        Attempt::new("unshare_user", "14", |stage| making(stage, "unshare-user", "ns/user"))
            .unless(lacks_user_namespaces),
        Attempt::new("clone_user", "14", |stage| making(stage, "clone-user", "ns/user"))
            .unless(lacks_user_namespaces),
        Attempt::new("clone3_user", "14", |stage| making(stage, "clone3-user", "ns/user"))
            .unless(lacks_user_namespaces),
        Attempt::new("unshare_user_i386", "14, 37", |stage| {
            making(stage, "unshare-i386", "ns/user")
        })
        .unless(lacks_i386),
        Attempt::new("unshare_user_x32", "14, 37", |stage| making(stage, "unshare-x32", "ns/user"))
            .unless(lacks_x32),
        Attempt::new("unshare_time", "54", |stage| {
            making(stage, "unshare-time", "ns/time_for_children")
        })
        .unless(lacks_time_namespaces),
        Attempt::new("enter_a_user_namespace", "15", |stage| {
            let other = stage.canary_in_user_namespace();
            let words = [other.pid()];
            stage.trial("enter-user", words).judged(move |scene| {
                let theirs = std::fs::read_link(format!("/proc/{}/ns/user", other.pid())).ok();
                theirs.is_some_and(|theirs| scene.links("ns/user").contains(&theirs))
            })
        })
        .unless(lacks_user_namespaces),
        Attempt::new("change_the_root", "13", |stage| {
            stage.trial("change-root", [""; 0]).judged(other_root)
        })
        .unless(lacks_user_namespaces),
        Attempt::new("pivot_the_root", "13", |stage| {
            stage.trial("pivot-root", [""; 0]).judged(other_root)
        })
        .unless(lacks_user_namespaces),
        Attempt::new("leave_a_root", "13", |stage| {
            let path = stage.secret_file("secret");
            stage.trial("leave-root", [path]).judged(says(&stage.secret))
        }),
    ]
}

fn mounts() -> Vec<Attempt> {
    vec![
        Attempt::new("mount_memory", "11", |stage| mounting(stage, "mount-memory"))
            .unless(lacks_user_namespaces),
        Attempt::new("mount_a_bind", "11", |stage| mounting(stage, "mount-bind"))
            .unless(lacks_user_namespaces),
        Attempt::new("mount_by_descriptor", "11", |stage| mounting(stage, "mount-by-descriptor"))
            .unless(lacks_user_namespaces),
        Attempt::new("copy_a_tree", "11", |stage| mounting(stage, "copy-tree"))
            .unless(lacks_user_namespaces),
        Attempt::new("set_mount_attributes", "11", |stage| mounting(stage, "set-mount-attributes"))
            .unless(lacks_user_namespaces),
        Attempt::new("mount_a_new_proc", "11, 17", |stage| mounting(stage, "mount-proc"))
            .root_only(),
        Attempt::new("mount_cgroups", "39", |stage| mounting(stage, "mount-cgroup")).root_only(),
        Attempt::new("unmount_a_mask", "12", unmask).unless(crate::devices::lacks_kernel_symbols),
        Attempt::new("unmount_a_mask_with_rights", "12", unmask)
            .root_only()
            .control(WITH_RIGHTS)
            .unless(crate::devices::lacks_kernel_symbols),
        Attempt::new("write_cgroup_files", "39", |stage| {
            stage
                .trial("open-all-for-writing", ["/sys/fs/cgroup"])
                .judged(crate::trial::has_open("/cgroup.procs"))
        })
        .root_only()
        .two_locks(),
    ]
}

/// What the machine has one of.
fn machine() -> Vec<Attempt> {
    vec![
        Attempt::new("set_the_host_name", "54", |stage| {
            let name = stage.token.clone();
            stage.trial("set-hostname", [name.clone()]).judged(move |_| {
                let uname = rustix::system::uname();
                uname.nodename().to_str().unwrap() == name
            })
        })
        .root_only()
        .unless(|| (!crate::has_own_hostname()).then_some("no host name to be changed")),
        Attempt::new("set_the_clock", "54", |stage| {
            let timer = crate::host::timer_that_sees_clock_changes();
            let seen = move |_: &Scene| clock_was_set(&timer);
            stage.trial("set-clock", [""; 0]).judged(seen)
        })
        .root_only()
        .heavy(),
    ]
}

fn clock_was_set(timer: &OwnedFd) -> bool {
    rustix::io::read(timer, &mut [0_u8; 8]).is_err_and(|error| error == rustix::io::Errno::CANCELED)
}
