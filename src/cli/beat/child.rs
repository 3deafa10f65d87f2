//! `-- CMD…`: a child process that we beat for as long as it lives.

use super::Notice;
use super::process::PidFd;
use crate::cli::Failure;
use std::io::{self, IsTerminal};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::mpsc::Sender;

/// A running child.
pub struct Child {
    process: PidFd,
    /// We were told to stop, and passed it on.
    stopping: bool,
}

/// How we take leave of the monitor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Farewell {
    /// A BYE: no alarm follows.
    Bye,
    /// A last beat with status critical and no BYE: the alarm follows.
    Alarm,
}

impl Child {
    /// Starts the command with our stdin, stdout and stderr; its end comes as
    /// [`Notice::ChildEnded`].
    ///
    /// # Errors
    /// The command is not found (exit code 127) or cannot be run (126), as a shell would say.
    pub fn start(command: &[String], notices: Sender<Notice>) -> Result<Child, Failure> {
        let mut child = Command::new(&command[0]).args(&command[1..]).spawn().map_err(|error| {
            let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
            Failure::with_code(code, format!("cannot run `{}`: {error}", command[0]))
        })?;
        let watched = PidFd::of(&child).and_then(|process| {
            std::thread::Builder::new().name("child".into()).spawn(move || {
                if let Ok(status) = child.wait() {
                    // Nobody listens any more only when we are about to exit ourselves.
                    let _ = notices.send(Notice::ChildEnded(status));
                }
            })?;
            Ok(process)
        });
        let process = watched.map_err(|error| {
            Failure::failed(format!("cannot watch over `{}`: {error}", command[0]))
        })?;
        Ok(Child { process, stopping: false })
    }

    /// Passes on a signal that tells us to stop.
    pub fn stop(&mut self, signal: i32) {
        self.stopping = true;
        // Ctrl-C goes to the whole foreground group of the terminal: the child has it already, and
        // many programs take a second one as "at once".
        if signal != libc::SIGINT || !in_foreground() {
            self.process.signal(signal);
        }
    }

    /// How to take leave, and what to exit with, when the child has ended so.
    pub fn farewell(&self, ended: ExitStatus) -> (Farewell, u8) {
        farewell(ended, self.stopping)
    }
}

/// A child that did its work, or that was stopped on purpose, leaves; one that failed alarms.
fn farewell(ended: ExitStatus, stopping: bool) -> (Farewell, u8) {
    let code = match (ended.code(), ended.signal()) {
        (Some(code), _) => code as u8,
        (None, signal) => 128 + signal.unwrap_or(0) as u8,
    };
    let farewell = if ended.success() || stopping { Farewell::Bye } else { Farewell::Alarm };
    (farewell, code)
}

/// Whether our process group is the terminal's foreground group.
fn in_foreground() -> bool {
    if !io::stdin().is_terminal() {
        return false;
    }
    // SAFETY: both calls take and return integers only.
    unsafe { libc::tcgetpgrp(libc::STDIN_FILENO) == libc::getpgrp() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_alarms_and_all_else_is_a_leave() {
        let exited = |code: i32| ExitStatus::from_raw(code << 8);
        let killed = ExitStatus::from_raw;
        assert_eq!(farewell(exited(0), false), (Farewell::Bye, 0));
        assert_eq!(farewell(exited(3), false), (Farewell::Alarm, 3));
        assert_eq!(farewell(killed(9), false), (Farewell::Alarm, 137));
        assert_eq!(farewell(killed(15), true), (Farewell::Bye, 143));
        assert_eq!(farewell(exited(1), true), (Farewell::Bye, 1));
    }
}
