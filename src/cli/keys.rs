//! The keys of a running monitor: read at the start, and again whenever SIGHUP says so.
//!
//! Keys are changed without a restart: new ones are put into the file beside the old, the monitor is
//! told, then the senders, then the old ones are taken out. A file that cannot be read leaves the
//! keys as they were.

use super::Failure;
use crate::config::{Settings, keys_file};
use crate::engine::admission::SharedGuard;
use crate::wire::{Auth, Guard};
use anyhow::Context;
use arc_swap::ArcSwap;
use signal_hook::consts::SIGHUP;
use signal_hook::iterator::Signals;
use std::path::Path;
use std::sync::Arc;
use tracing::{error, info, warn};

/// The guard that the settings ask for. Where the file of keys cannot be read, `copy` is: it may have been
/// read since that was made.
///
/// # Errors
/// The file of keys cannot be used (exit code 2).
pub fn guard(settings: &Settings, copy: Option<&Path>) -> Result<SharedGuard, Failure> {
    let guard = match &settings.keys {
        Some(path) => match (read(settings.auth, path), copy) {
            (Err(error), Some(copy)) => {
                warn!("the keys are those of the start: {error}");
                read(settings.auth, copy)?
            }
            (read, _) => read?,
        },
        None => Guard::default(),
    };
    say_which(settings.keys.as_deref(), &guard);
    Ok(Arc::new(ArcSwap::from_pointee(guard)))
}

/// Reads the file of keys again on each SIGHUP, and calls `changed` when they are others. Without such a
/// file the signal stays what it is.
///
/// # Errors
/// The system refuses the signal or a thread.
pub fn read_again_on_hangup(
    settings: &Settings,
    guard: SharedGuard,
    changed: impl Fn() + Send + 'static,
) -> anyhow::Result<()> {
    let Some(path) = settings.keys.clone() else { return Ok(()) };
    let auth = settings.auth;
    let mut signals = Signals::new([SIGHUP]).context("taking over SIGHUP")?;
    let body = move || {
        for _ in signals.forever() {
            match read(auth, &path) {
                Ok(new) => {
                    let new = Arc::new(new);
                    guard.store(new.clone());
                    changed();
                    // Said once it is so: whoever waits for the line may use the new keys.
                    say_which(Some(&path), &new);
                }
                Err(error) => error!("the keys stay as they were: {error}"),
            }
        }
    };
    std::thread::Builder::new()
        .name("systole-keys".into())
        .spawn(body)
        .context("starting the thread that reads keys again")?;
    Ok(())
}

fn read(auth: Auth, path: &Path) -> Result<Guard, keys_file::KeysError> {
    Ok(Guard { auth, keys: keys_file::keyring(path)? })
}

fn say_which(path: Option<&Path>, guard: &Guard) {
    let Some(path) = path else { return };
    let ids: Vec<String> = guard.keys.keys().map(|key| key.id().to_string()).collect();
    info!(path = %path.display(), auth = guard.auth.as_str(), ids = ids.join(","), "keys read");
}
