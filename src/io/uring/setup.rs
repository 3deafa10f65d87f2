//! Making the ring, and saying in one line why it cannot be made.

use super::buffers::{BufferPlan, BufferRing};
use io_uring::IoUring;
use std::fs;
use std::io;

/// Where the system switch for io_uring shows (Linux 6.6).
const SWITCH: &str = "/proc/sys/kernel/io_uring_disabled";

/// Sizes of a ring. [`UringPlan::for_sockets`] is what serves; tests and benches ask for others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UringPlan {
    /// The receive buffers.
    pub buffers: BufferPlan,
    /// Entries of the completion queue, a power of two. With more than there are buffers it can
    /// hardly overflow, since each datagram's completion holds a buffer.
    pub completions: u32,
}

impl UringPlan {
    /// What `sockets` sockets need: 32 buffers each, 64 at least and 1,024 at most.
    ///
    /// The kernel takes up to 32 datagrams of each socket in one go, then we look, so more buffers
    /// only spread the same datagrams over more pages. Measured (benches/receive.rs), 64 cost 437
    /// ns a datagram and 256 cost 471, and 457 against 566 where others compete for the caches.
    /// With fewer nothing is lost, but receives end for want of buffers.
    pub fn for_sockets(sockets: usize) -> Self {
        let count = (32 * sockets).next_power_of_two().clamp(64, 1024) as u16;
        let buffers = BufferPlan { count, bytes: crate::io::BUFFER_BYTES };
        Self { buffers, completions: 4 * u32::from(count) }
    }
}

/// io_uring cannot be used here. Displays as one line that says why.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Unavailable {
    reason: String,
    errno: Option<i32>,
}

impl Unavailable {
    /// The errno behind it, `None` when the kernel lacks a feature without saying so.
    pub fn errno(&self) -> Option<i32> {
        self.errno
    }

    pub(super) fn of(call: &'static str, error: &io::Error) -> Self {
        let switch = fs::read_to_string(SWITCH).ok();
        Self { reason: reason(call, error, switch.as_deref()), errno: error.raw_os_error() }
    }
}

/// The likely cause of a refused call, given what the system switch says.
fn reason(call: &str, error: &io::Error, switch: Option<&str>) -> String {
    let switch = switch.map_or("", str::trim);
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => match switch {
            "2" => "io_uring is switched off (sysctl kernel.io_uring_disabled=2)".into(),
            "1" => "io_uring is for privileged processes only \
                    (sysctl kernel.io_uring_disabled=1)"
                .into(),
            _ => format!(
                "io_uring is forbidden to this process, most likely by a container's seccomp \
                 profile ({call}: EPERM)"
            ),
        },
        Some(libc::ENOSYS) => {
            format!("this kernel has no io_uring, or a seccomp profile hides it ({call}: ENOSYS)")
        }
        Some(libc::EINVAL) => {
            format!("this kernel's io_uring is too old, 6.1 or newer is needed ({call}: EINVAL)")
        }
        Some(libc::ENOMEM) => format!(
            "io_uring's rings exceed the memory that this process may lock; raise the limit \
             (`ulimit -l`, LimitMEMLOCK= in systemd), run fewer reactors or grant CAP_IPC_LOCK \
             ({call}: ENOMEM)"
        ),
        _ => format!("io_uring could not be set up ({call}: {error})"),
    }
}

/// A ring with its buffers, before any socket is attached.
pub(super) struct Parts {
    // Field order is drop order: the ring goes before the memory that it may write to.
    pub(super) ring: IoUring,
    pub(super) buffers: BufferRing,
}

/// Makes a ring that takes up to `requests` submissions at a time.
pub(super) fn build(plan: UringPlan, requests: usize) -> Result<Parts, Unavailable> {
    // One thread submits and reaps (SINGLE_ISSUER), and the kernel's part of a receive runs only
    // inside that thread's own io_uring_enter (DEFER_TASKRUN, which includes what COOP_TASKRUN
    // gives): no interruptions, and no write to a buffer at any other time. TASKRUN_FLAG shows in
    // shared memory whether there is anything to run, so that looking costs no system call.
    let ring = IoUring::builder()
        .dontfork()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(plan.completions)
        .build(requests.next_power_of_two() as u32)
        .map_err(|error| Unavailable::of("io_uring_setup", &error))?;
    if !ring.params().is_feature_nodrop() || !ring.params().is_feature_ext_arg() {
        let reason = "this kernel's io_uring is too old, 6.1 or newer is needed".into();
        return Err(Unavailable { reason, errno: None });
    }
    let buffers = BufferRing::new(plan.buffers);
    // SAFETY: `Parts` and `UringBackend` both drop the ring before the buffers, and the backend
    // cancels what is in flight before that; receives run in the owner's enter only, see above.
    unsafe { buffers.register(&ring.submitter()) }
        .map_err(|error| Unavailable::of("io_uring_register", &error))?;
    // A profile may allow the set-up and forbid the use: enter once, with nothing to do.
    ring.submit().map_err(|error| Unavailable::of("io_uring_enter", &error))?;
    Ok(Parts { ring, buffers })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(errno: i32, switch: Option<&str>, part: &str) {
        let text = reason("io_uring_setup", &io::Error::from_raw_os_error(errno), switch);
        assert!(text.contains(part), "{text}");
        assert!(!text.contains('\n'), "one line: {text}");
    }

    #[test]
    fn buffers_grow_with_the_sockets() {
        let count = |sockets| UringPlan::for_sockets(sockets).buffers.count;
        assert_eq!([0, 1, 2, 3, 5, 32, 1000].map(count), [64, 64, 64, 128, 256, 1024, 1024]);
    }

    #[test]
    fn the_reason_names_the_likely_cause() {
        check(libc::EPERM, Some("2\n"), "kernel.io_uring_disabled=2");
        check(libc::EPERM, Some("1\n"), "privileged");
        check(libc::EPERM, Some("0\n"), "seccomp");
        check(libc::EPERM, None, "seccomp");
        check(libc::ENOSYS, None, "no io_uring");
        check(libc::EINVAL, None, "6.1 or newer");
        check(libc::ENOMEM, None, "`ulimit -l`");
        check(libc::ENOMEM, None, "LimitMEMLOCK=");
        check(libc::EMFILE, None, "Too many open files");
    }
}
