//! A monitor that has handed over, and whose heir came to nothing, goes on.
//!
//! It has ended all but the process: the state is written and unlocked, the sockets are still open. So
//! the same program begins anew in the same process with the same arguments (execve(2)), finds the state
//! as after any restart, and its sockets by their numbers, which it leaves itself in the environment.

use super::Failure;
use super::takeover::Sockets;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{self, Command};

const VARIABLE: &str = "SYSTOLE_RESUMES";
/// The program of this process, also when its file has been replaced (proc_pid_exe(5)).
const PROGRAM: &str = "/proc/self/exe";

/// The numbers of the sockets.
#[derive(Serialize, Deserialize)]
struct Left {
    /// To whom; whoever inherits the variable alone has no such sockets.
    pid: u32,
    groups: Vec<Vec<RawFd>>,
    http: RawFd,
}

/// Begins the program anew with these sockets; returns only when it cannot.
pub fn go_on(sockets: &Sockets) -> Failure {
    let failed = |error: io::Error| Failure::failed(format!("going on with the sockets: {error}"));
    let groups = sockets.groups.iter().map(|group| group.iter().map(AsRawFd::as_raw_fd).collect());
    let left =
        Left { pid: process::id(), groups: groups.collect(), http: sockets.http.as_raw_fd() };
    let left = match serde_json::to_string(&left) {
        Ok(left) => left,
        Err(error) => return failed(error.into()),
    };
    for descriptor in sockets.descriptors() {
        if let Err(error) = close_on_exec(descriptor, false) {
            return failed(error);
        }
    }
    let mut arguments = std::env::args_os();
    let mut program = Command::new(PROGRAM);
    if let Some(name) = arguments.next() {
        program.arg0(name);
    }
    failed(program.args(arguments).env(VARIABLE, left).exec())
}

/// The sockets that this process has left itself, if it goes on; to be asked once.
///
/// # Errors
/// They are not there.
pub fn left() -> Result<Option<Sockets>, Failure> {
    let Ok(left) = std::env::var(VARIABLE) else { return Ok(None) };
    match serde_json::from_str::<Left>(&left) {
        Ok(left) if left.pid == process::id() => {
            take(left).map(Some).map_err(|error| Failure::failed(format!("{VARIABLE}: {error}")))
        }
        // Inherited from a monitor that started us, or nothing of ours.
        _ => Ok(None),
    }
}

fn take(left: Left) -> io::Result<Sockets> {
    let take = |descriptor| {
        close_on_exec(descriptor, true)?;
        // SAFETY: it is open, as has just been seen, and the number was left to us alone.
        Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
    };
    let group = |group: Vec<RawFd>| {
        group.into_iter().map(|descriptor| take(descriptor).map(UdpSocket::from)).collect()
    };
    let groups = left.groups.into_iter().map(group).collect::<io::Result<_>>()?;
    Ok(Sockets { groups, http: TcpListener::from(take(left.http)?) })
}

fn close_on_exec(descriptor: RawFd, yes: bool) -> io::Result<()> {
    // SAFETY: fcntl(2) with F_SETFD takes integers, and refuses a descriptor that is not open.
    match unsafe { libc::fcntl(descriptor, libc::F_SETFD, if yes { libc::FD_CLOEXEC } else { 0 }) }
    {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
