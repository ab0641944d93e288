//! System calls by number, and what several attempts do around them.

#![expect(unsafe_code, reason = "an attempt makes calls that no safe wrapper offers")]

use std::ffi::CStr;
use std::io::{self, Write};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long an attempt holds what it got, should nobody tell it to let go.
const HOLD_LIMIT: Timespec = Timespec { tv_sec: 8, tv_nsec: 0 };

/// One argument of a call.
pub(crate) enum Word<'a> {
    Number(i64),
    Text(&'a CStr),
    Read(&'a [u8]),
    Write(&'a mut [u8]),
}

impl From<i32> for Word<'_> {
    fn from(number: i32) -> Self {
        Self::Number(number.into())
    }
}

impl From<i64> for Word<'_> {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl<'a> From<&'a CStr> for Word<'a> {
    fn from(text: &'a CStr) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a [u8]> for Word<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Read(bytes)
    }
}

impl<'a> From<&'a mut [u8]> for Word<'a> {
    fn from(bytes: &'a mut [u8]) -> Self {
        Self::Write(bytes)
    }
}

/// Makes a call with up to six arguments: `call!(SYS_getpid)`.
macro_rules! call {
    ($number:expr $(, $word:expr)* $(,)?) => {
        crate::kernel::perform($number, [$(crate::kernel::Word::from($word)),*])
    };
}
pub(crate) use call;

/// The call behind [`call!`]. Not for calls that change this process's own memory.
pub(crate) fn perform<const N: usize>(number: i64, words: [Word<'_>; N]) -> io::Result<i64> {
    let mut raw = [0_usize; 6];
    for (slot, word) in raw.iter_mut().zip(words) {
        *slot = match word {
            #[expect(clippy::cast_possible_truncation, reason = "registers are 64 bits wide")]
            Word::Number(number) => number.cast_unsigned() as usize,
            Word::Text(text) => text.as_ptr().addr(),
            Word::Read(bytes) => bytes.as_ptr().expose_provenance(),
            Word::Write(bytes) => bytes.as_mut_ptr().expose_provenance(),
        };
    }
    let [a, b, c, d, e, f] = raw;
    // SAFETY: every pointer is that of a slice borrowed for longer than this call; how much of it the
    // kernel touches is told by a length beside it or by the structure that it holds.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The address of bytes, for a structure that is passed to the kernel.
pub(crate) fn address(bytes: &[u8]) -> [u8; 8] {
    bytes.as_ptr().expose_provenance().to_ne_bytes()
}

/// Forks. `true` in the child. This program has one thread.
pub(crate) fn fork() -> io::Result<Option<i32>> {
    // SAFETY: one thread, so the child lacks no thread that could hold a lock.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(pid)),
    }
}

/// Ends this process at once, without what a return from `main` would do.
pub(crate) fn leave(code: i32) -> ! {
    // SAFETY: never returns.
    unsafe { libc::_exit(code) }
}

/// Does it in a child, while the parent stays what it was: the two can be compared from outside.
pub(crate) fn in_child(work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let Some(pid) = fork()? else {
        leave(match work() {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().filter(|errno| *errno < 256).unwrap_or(255),
        })
    };
    let mut status = [0_u8; 4];
    call!(libc::SYS_wait4, pid, &mut status[..], 0, 0)?;
    match i32::from_ne_bytes(status) {
        0 => Ok(()),
        status if libc::WIFEXITED(status) => {
            Err(io::Error::from_raw_os_error(libc::WEXITSTATUS(status)))
        }
        status => Err(io::Error::other(format!("ended by signal {}", libc::WTERMSIG(status)))),
    }
}

/// Keeps what was got until stdin ends, so that it can be seen from outside.
pub(crate) fn hold() -> io::Result<()> {
    hold_for(HOLD_LIMIT)
}

/// The same for no longer than this, where what is held takes a moment to come.
pub(crate) fn hold_for(limit: Timespec) -> io::Result<()> {
    writeln!(io::stdout(), "holding")?;
    io::stdout().flush()?;
    let stdin = rustix::stdio::stdin();
    poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&limit))?;
    Ok(())
}

/// Tries again for two seconds at the most.
pub(crate) fn patiently(mut work: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let mut last = Ok(());
    for _ in 0..100 {
        last = work();
        if last.is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    last
}

/// Makes one descriptor of this process readable at a number that the tests know.
pub(crate) fn place(fd: i64) -> io::Result<()> {
    call!(libc::SYS_dup2, fd, 77).map(drop)
}

/// A call of the i386 interface, from a 64-bit process. Its pointers are 32 bits wide.
#[cfg(target_arch = "x86_64")]
pub(crate) fn call_i386(number: i32, first: u32, second: u32) -> io::Result<i32> {
    let result: i32;
    // SAFETY: the interrupt changes no memory but what the call itself does, and `rbx`, which the
    // compiler keeps for itself, is put back.
    unsafe {
        std::arch::asm!(
            "xchg rbx, {first:r}",
            "int 0x80",
            "xchg rbx, {first:r}",
            first = inout(reg) u64::from(first) => _,
            inlateout("eax") number => result,
            in("ecx") second,
            in("edx") 0,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result) }
}

/// Memory whose address fits into 32 bits, with a text in it.
#[cfg(target_arch = "x86_64")]
pub(crate) fn low_text(text: &CStr) -> io::Result<u32> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping where the kernel chooses; nothing else refers to it.
    let memory = unsafe { libc::mmap(std::ptr::null_mut(), 4096, access, flags, -1, 0) };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let bytes = text.to_bytes_with_nul();
    if bytes.len() > 4096 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the mapping is 4096 bytes long and writable.
    unsafe { memory.cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    u32::try_from(memory.addr()).map_err(io::Error::other)
}
