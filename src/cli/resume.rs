//! A monitor that has handed over, and whose heir came to nothing, goes on.
//!
//! It has ended all but the process: the state is written and unlocked, the sockets are still open. So
//! the same program begins anew in the same process with the same arguments (execve(2)), finds the state
//! as after any restart, and its sockets by their numbers, which it leaves itself in the environment. So it
//! does with copies of the files that it was started with: an upgrade is when somebody changes them.

use super::Failure;
use super::takeover::Sockets;
use crate::config::Settings;
use serde::{Deserialize, Serialize};
use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

const VARIABLE: &str = "SYSTOLE_RESUMES";
/// The program of this process, also when its file has been replaced (proc_pid_exe(5)).
const PROGRAM: &str = "/proc/self/exe";

/// Copies, in memory, of the files that the process was started with.
pub struct Files {
    config: Option<File>,
    keys: Option<File>,
}

impl Files {
    /// Those that these settings were read from. Of what can be read only once, as a pipe, there is none,
    /// and it is asked for again.
    ///
    /// # Errors
    /// The system refuses.
    pub fn of(settings: &Settings) -> io::Result<Files> {
        let copy = |path: Option<&Path>, copied: Option<PathBuf>| {
            let path = path.map(|path| copied.as_deref().unwrap_or(path));
            let path = path.filter(|path| path.is_file());
            path.map(|path| in_memory(&std::fs::read(path)?)).transpose()
        };
        Ok(Files {
            config: copy(settings.config.as_deref(), config())?,
            keys: copy(settings.keys.as_deref(), keys())?,
        })
    }
}

/// The copy of the config file that this process has left itself, to be read in its place.
pub fn config() -> Option<PathBuf> {
    found().and_then(|left| left.config).map(descriptor_path)
}

/// The same of the keys.
pub fn keys() -> Option<PathBuf> {
    found().and_then(|left| left.keys).map(descriptor_path)
}

fn descriptor_path(descriptor: RawFd) -> PathBuf {
    format!("/proc/self/fd/{descriptor}").into()
}

/// A file that only this process has (memfd_create(2)), closed when another program begins.
fn in_memory(bytes: &[u8]) -> io::Result<File> {
    // SAFETY: the name is a string that ends in 0, and lives through the call.
    let descriptor = unsafe { libc::memfd_create(c"systole".as_ptr(), libc::MFD_CLOEXEC) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and ours alone.
    let mut file = File::from(unsafe { OwnedFd::from_raw_fd(descriptor) });
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(bytes)?;
    Ok(file)
}

/// The numbers of what is left open.
#[derive(Serialize, Deserialize)]
struct LeftOpen {
    /// To whom; whoever inherits the variable alone has no such sockets.
    pid: u32,
    groups: Vec<Vec<RawFd>>,
    http: RawFd,
    config: Option<RawFd>,
    keys: Option<RawFd>,
}

/// Begins the program anew with these sockets and files; returns only when it cannot.
pub fn go_on(sockets: &Sockets, files: &Files) -> Failure {
    let failed = |error: io::Error| Failure::failed(format!("going on with the sockets: {error}"));
    let groups = sockets.groups.iter().map(|group| group.iter().map(AsRawFd::as_raw_fd).collect());
    let [config, keys] = [&files.config, &files.keys].map(|f| f.as_ref().map(AsRawFd::as_raw_fd));
    let (pid, http) = (process::id(), sockets.http.as_raw_fd());
    let left = LeftOpen { pid, groups: groups.collect(), http, config, keys };
    let left = match serde_json::to_string(&left) {
        Ok(left) => left,
        Err(error) => return failed(error.into()),
    };
    for descriptor in sockets.descriptors().into_iter().chain(config).chain(keys) {
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
    let taken = found().map(take).transpose();
    taken.map_err(|error| Failure::failed(format!("{VARIABLE}: {error}")))
}

/// What this process has left itself; `None` too for what a monitor that started us has.
fn found() -> Option<LeftOpen> {
    let left: LeftOpen = serde_json::from_str(&std::env::var(VARIABLE).ok()?).ok()?;
    (left.pid == process::id()).then_some(left)
}

fn take(left: LeftOpen) -> io::Result<Sockets> {
    let take = |descriptor| {
        close_on_exec(descriptor, true)?;
        // SAFETY: it is open, as has just been seen, and the number was left to us alone.
        Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
    };
    for copy in left.config.into_iter().chain(left.keys) {
        // Read again when there is a next time; its number may not go to another program.
        close_on_exec(copy, true)?;
    }
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
