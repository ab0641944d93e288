//! The filter of system calls: everything is allowed but what is listed here.
//!
//! A filter has one action for its matches, so there are several, and one before them for the calls of
//! the x32 ABI, whose numbers no rule would match. Calls of another architecture end the process,
//! which the library's own check of the architecture does.
//!
//! Installing a filter takes the kernel longer than starting a process. So most of them are installed
//! once, in the session's init, and are inherited; what the init and the keepers themselves need is
//! refused in a last, small one that each command installs.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: TargetArch = TargetArch::aarch64;

/// Numbers that `libc` does not have yet; they are the same on every architecture.
const SYS_FCHMODAT2: libc::c_long = 452;
const SYS_OPEN_TREE_ATTR: libc::c_long = 467;

/// Calls that the init and the keepers make, and no command may.
const KEEPERS: [libc::c_long; 7] = [
    libc::SYS_fspick,
    libc::SYS_mount,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_mount_setattr,
];

/// Calls that are refused whatever their arguments, as not permitted.
const REFUSED: &[libc::c_long] = &[
    // Mounts and roots.
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    SYS_OPEN_TREE_ATTR,
    libc::SYS_setns,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    libc::SYS_mbind,
    // Large surfaces of the kernel that builds and tests do not need.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_userfaultfd,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    // The machine as a whole.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_settimeofday,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
];

/// The flags that make namespaces, but `CLONE_NEWTIME`, whose bit means something else in clone(2).
const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];
const CLONE_NEWTIME: u64 = 0x80;

/// Controls of a terminal that put characters into its input (tty_ioctl(4)), or change what it is.
const TERMINAL_CONTROLS: [u64; 3] =
    [0x5412 /* TIOCSTI */, 0x541c /* TIOCLINUX */, 0x5423 /* TIOCSETD */];

/// What the session's init installs, for itself and all that come from it.
pub(super) fn of_session() -> io::Result<Vec<BpfProgram>> {
    let mut programs = Vec::new();
    if cfg!(target_arch = "x86_64") {
        programs.push(no_x32());
    }
    programs.push(filter(refused()?, libc::EPERM)?);
    // glibc and musl fall back to clone(2), whose flags can be looked at.
    programs.push(filter(BTreeMap::from([(libc::SYS_clone3, Vec::new())]), libc::ENOSYS)?);
    programs.push(filter(sockets()?, libc::EAFNOSUPPORT)?);
    Ok(programs)
}

/// What each command installs on top.
pub(super) fn of_command() -> io::Result<Vec<BpfProgram>> {
    let mut rules: Rules = KEEPERS.into_iter().map(|call| (call, Vec::new())).collect();
    let mut clone = Vec::new();
    for flag in NAMESPACES {
        clone.push(has_bits(0, u64::from(flag.cast_unsigned()))?);
    }
    rules.insert(libc::SYS_clone, clone);
    Ok(vec![filter(rules, libc::EPERM)?])
}

/// Installs the programs for this process and all that come from it.
pub(super) fn install(programs: &[BpfProgram]) -> io::Result<()> {
    for program in programs {
        seccompiler::apply_filter(program).map_err(io::Error::other)?;
    }
    Ok(())
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn filter(rules: Rules, errno: i32) -> io::Result<BpfProgram> {
    let action = SeccompAction::Errno(errno.cast_unsigned());
    SeccompFilter::new(rules, SeccompAction::Allow, action, ARCHITECTURE)
        .and_then(BpfProgram::try_from)
        .map_err(io::Error::other)
}

fn refused() -> io::Result<Rules> {
    let mut rules: Rules = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let mut unshare = vec![has_bits(0, CLONE_NEWTIME)?];
    for flag in NAMESPACES {
        unshare.push(has_bits(0, u64::from(flag.cast_unsigned()))?);
    }
    rules.insert(libc::SYS_unshare, unshare);
    let controls = TERMINAL_CONTROLS
        .into_iter()
        .map(|control| rule([(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, control)]));
    rules.insert(libc::SYS_ioctl, controls.collect::<io::Result<_>>()?);
    let special_bits = |argument| {
        [libc::S_ISUID, libc::S_ISGID].map(|bit| has_bits(argument, u64::from(bit))).into_iter()
    };
    let with_mode = [
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_chmod, 1),
        (libc::SYS_fchmod, 1),
        (libc::SYS_fchmodat, 2),
        (SYS_FCHMODAT2, 2),
    ];
    for (call, argument) in with_mode {
        rules.insert(call, special_bits(argument).collect::<io::Result<_>>()?);
    }
    Ok(rules)
}

/// Local and internet sockets, and the one netlink family that lists interfaces; nothing else.
fn sockets() -> io::Result<Rules> {
    let domain = |operator, family: i32| {
        (0, SeccompCmpArgLen::Dword, operator, u64::from(family.cast_unsigned()))
    };
    let other = rule([
        domain(SeccompCmpOp::Ne, libc::AF_UNIX),
        domain(SeccompCmpOp::Ne, libc::AF_INET),
        domain(SeccompCmpOp::Ne, libc::AF_INET6),
        domain(SeccompCmpOp::Ne, libc::AF_NETLINK),
    ])?;
    let other_netlink = rule([
        domain(SeccompCmpOp::Eq, libc::AF_NETLINK),
        (
            2,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::Ne,
            u64::from(libc::NETLINK_ROUTE.cast_unsigned()),
        ),
    ])?;
    Ok(BTreeMap::from([(libc::SYS_socket, vec![other, other_netlink])]))
}

fn has_bits(argument: u8, bits: u64) -> io::Result<SeccompRule> {
    rule([(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(bits), bits)])
}

fn rule<const N: usize>(
    conditions: [(u8, SeccompCmpArgLen, SeccompCmpOp, u64); N],
) -> io::Result<SeccompRule> {
    let conditions = conditions.into_iter().map(|(argument, length, operator, value)| {
        SeccompCondition::new(argument, length, operator, value)
    });
    let conditions = conditions.collect::<Result<_, _>>().map_err(io::Error::other)?;
    SeccompRule::new(conditions).map_err(io::Error::other)
}

/// Answers every call of the x32 ABI (seccomp(2): bit 30 of the number) with `ENOSYS`, as a kernel
/// without it does.
fn no_x32() -> BpfProgram {
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_GREATER_OR_EQUAL: u16 = 0x35;
    const RETURN: u16 = 0x06;
    const X32_BIT: u32 = 0x4000_0000;
    const ALLOW: u32 = 0x7fff_0000;
    const ERRNO: u32 = 0x0005_0000;
    vec![
        // The number of the call is the first word of `struct seccomp_data`.
        sock_filter { code: LOAD_WORD, jt: 0, jf: 0, k: 0 },
        sock_filter { code: JUMP_IF_GREATER_OR_EQUAL, jt: 0, jf: 1, k: X32_BIT },
        sock_filter { code: RETURN, jt: 0, jf: 0, k: ERRNO | libc::ENOSYS.cast_unsigned() },
        sock_filter { code: RETURN, jt: 0, jf: 0, k: ALLOW },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_can_be_made() {
        let programs = [of_session().unwrap(), of_command().unwrap()].concat();
        assert!(programs.iter().all(|program| !program.is_empty() && program.len() < 4096));
    }
}
