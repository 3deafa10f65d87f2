//! `--check CMD`: a command whose exit code becomes the status of the beats.
//!
//! One thread runs it, one run at a time, each bounded; the beats never wait for it. Exit codes are
//! those of the monitoring plugins: 0 ok, 1 warning, everything else critical, and so is a run that
//! takes too long or cannot be started.

use super::super::words;
use super::Notice;
use super::process::PidFd;
use crate::wire::Status;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The status that the beats take.
    pub status: Status,
    /// Why, for the log.
    pub why: String,
}

/// Runs the command when asked.
pub struct Checker {
    requests: SyncSender<()>,
    /// True from a request until its verdict was taken.
    running: bool,
    /// Process group of the run at hand; present only while it cannot have been given to another.
    group: Arc<Mutex<Option<i32>>>,
}

impl Checker {
    /// A thread that runs `command` with `sh -c`, for `timeout` at most; verdicts come as
    /// [`Notice::Checked`].
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn new(command: String, timeout: Duration, notices: Sender<Notice>) -> io::Result<Checker> {
        let (requests, asked) = sync_channel(1);
        let group = Arc::new(Mutex::new(None));
        let runner = Runner { command, timeout, group: Arc::clone(&group) };
        std::thread::Builder::new()
            .name("check".into())
            .spawn(move || runner.run_forever(&asked, &notices))?;
        Ok(Checker { requests, running: false, group })
    }

    /// Starts a run, unless one is at hand.
    pub fn start(&mut self) {
        if !self.running {
            // The thread ends only with us, and its channel is empty: it has answered the last one.
            self.running = self.requests.try_send(()).is_ok();
        }
    }

    /// Says that the verdict of the run has been taken.
    pub fn taken(&mut self) {
        self.running = false;
    }
}

impl Drop for Checker {
    /// Ends the run at hand with all that it started.
    fn drop(&mut self) {
        let group = self.group.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(group) = *group {
            kill_group(group);
        }
    }
}

struct Runner {
    command: String,
    timeout: Duration,
    group: Arc<Mutex<Option<i32>>>,
}

impl Runner {
    fn run_forever(&self, asked: &Receiver<()>, notices: &Sender<Notice>) {
        while asked.recv().is_ok() {
            let verdict = self.run().unwrap_or_else(|error| Verdict {
                status: Status::Critical,
                why: format!("the check cannot be run: {error}"),
            });
            if notices.send(Notice::Checked(verdict)).is_err() {
                return;
            }
        }
    }

    fn run(&self) -> io::Result<Verdict> {
        let mut child = Command::new("/bin/sh")
            .args(["-c", &self.command])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let group = child.id() as i32;
        *self.group.lock().unwrap_or_else(PoisonError::into_inner) = Some(group);
        let ended = PidFd::of(&child).and_then(|process| process.ends_within(self.timeout));
        if !matches!(ended, Ok(true)) {
            kill_group(group);
        }
        // Before the child is waited for: after that the number can be another's.
        *self.group.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let status = child.wait()?;
        Ok(match ended? {
            true => verdict(status),
            false => Verdict {
                status: Status::Critical,
                why: format!("no result within {}", words::exact(self.timeout.as_nanos() as u64)),
            },
        })
    }
}

fn verdict(ended: ExitStatus) -> Verdict {
    let (status, why) = match (ended.code(), ended.signal()) {
        (Some(0), _) => (Status::Ok, "exit code 0".into()),
        (Some(1), _) => (Status::Warn, "exit code 1".into()),
        (Some(code), _) => (Status::Critical, format!("exit code {code}")),
        (None, signal) => (Status::Critical, format!("ended by signal {}", signal.unwrap_or(0))),
    };
    Verdict { status, why }
}

fn kill_group(group: i32) {
    // SAFETY: the call takes two integers. The group is a child's that nobody has waited for yet, so
    // the number is not another's.
    unsafe { libc::kill(-group, libc::SIGKILL) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    fn check(command: &str, timeout: Duration) -> Verdict {
        let (notices, received) = channel();
        let mut checker = Checker::new(command.into(), timeout, notices).unwrap();
        checker.start();
        match received.recv_timeout(Duration::from_secs(20)) {
            Ok(Notice::Checked(verdict)) => verdict,
            _ => panic!("no verdict on {command}"),
        }
    }

    #[test]
    fn exit_codes_are_those_of_the_monitoring_plugins() {
        let long = Duration::from_secs(20);
        for (command, status, why) in [
            ("true", Status::Ok, "exit code 0"),
            ("exit 1", Status::Warn, "exit code 1"),
            ("exit 2", Status::Critical, "exit code 2"),
            ("exit 3", Status::Critical, "exit code 3"),
            ("kill -9 $$", Status::Critical, "ended by signal 9"),
            ("/nonexistent/command", Status::Critical, "exit code 127"),
        ] {
            assert_eq!(check(command, long), Verdict { status, why: why.into() }, "{command}");
        }
    }

    #[test]
    fn a_run_that_takes_too_long_is_critical_and_ended_with_its_children() {
        let verdict = check("sleep 600 & sleep 600", Duration::from_millis(50));
        assert_eq!(verdict.status, Status::Critical);
        assert_eq!(verdict.why, "no result within 50 ms");
    }
}
