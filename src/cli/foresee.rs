//! What would keep a monitor from starting, found out before anything is begun: before the one that runs
//! is asked to hand over, for which it has to pause, and for `--check`, which only asks.
//!
//! Nothing is changed by it. An address is bound for an instant, without sharing it, so that no datagram
//! goes astray; one that the monitor that runs holds is no obstacle, since it lets go of it.

use super::run::default_reactors;
use super::takeover::{self, Terms};
use super::{Failure, listen, outputs, rival, state};
use crate::config::Settings;
use crate::io::sockets::{self, BindError};
use crate::io::{self, TransportChoice};
use crate::store::StateDir;
use crate::trace::recorder::may_record;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;

/// Refuses what cannot be begun, whoever listens now: the recording, the transport, the state directory.
///
/// # Errors
/// Exit code 2, with the setting to correct.
pub fn files_and_transport(settings: &Settings) -> Result<(), Failure> {
    if let Some(record) = &settings.record {
        outputs::check(&[], &[("--record", &record.path)])?;
        may_record(&record.path)
            .map_err(|error| outputs::cannot("--record", &record.path, &error))?;
    }
    for interface in &settings.xdp.interfaces {
        let is_there = Path::new("/sys/class/net").join(interface.to_string()).exists();
        if !is_there && settings.transport == TransportChoice::Xdp {
            return Err(Failure::usage(format!(
                "transport xdp: there is no interface {interface}"
            )));
        }
    }
    if settings.transport == TransportChoice::Uring {
        let sockets = (0..settings.reactors.unwrap_or_else(default_reactors))
            .map(|_| UdpSocket::bind("127.0.0.1:0").or_else(|_| UdpSocket::bind("[::1]:0")));
        let sockets = sockets.collect::<Result<Vec<_>, _>>();
        let sockets = sockets.map_err(|error| Failure::usage(format!("a socket: {error}")))?;
        io::open(settings.transport, sockets).map_err(|e| Failure::usage(e.to_string()))?;
    }
    if let Some((path, true)) = state::place(settings) {
        StateDir::foresee(&path).map_err(|error| Failure::usage(error.to_string()))?;
    }
    Ok(())
}

/// Where a monitor that takes over will have its HTTP.
pub enum Http {
    /// Where the one before has it, or where the system chooses.
    Inherits,
    /// Elsewhere: bound already.
    Moves(TcpListener),
}

/// Finds out whether the HTTP address is `theirs`, of the monitor that would hand over, or can be had.
///
/// # Errors
/// Somebody else has it, or nobody can (exit code 2).
pub fn http(address: SocketAddr, theirs: Option<SocketAddr>) -> Result<Http, Failure> {
    if address.port() == 0 {
        return Ok(Http::Inherits);
    }
    match (TcpListener::bind(address), theirs) {
        (Ok(listener), _) => Ok(Http::Moves(listener)),
        (Err(error), _) if error.kind() != ErrorKind::AddrInUse => {
            Err(listen::http_refused(address, &error))
        }
        (Err(_), Some(theirs)) if theirs == address => Ok(Http::Inherits),
        // All of the machine's addresses, or one of them: neither can both have it nor can one be
        // turned into the other.
        (Err(_), Some(theirs)) if theirs.port() == address.port() => Err(Failure::usage(format!(
            "cannot listen on http address {address}: the monitor that runs has this port by another \
             address ({theirs}); take over with the same --http, or with another port"
        ))),
        (Err(error), _) => Err(listen::http_refused(address, &error)),
    }
}

/// All of it, and the addresses, for `--check`. What a monitor that runs holds will be free when it has
/// been stopped.
///
/// # Errors
/// Exit code 2, with what to correct.
pub fn everything(settings: &Settings) -> Result<(), Failure> {
    files_and_transport(settings)?;
    // Handed down, they are bound by whoever does that.
    if std::env::var_os("LISTEN_FDS").is_some() {
        return Ok(());
    }
    let offer = match state::place(settings) {
        Some((directory, _)) if settings.takeover => {
            let reactors = settings.reactors.unwrap_or_else(default_reactors);
            takeover::look(&directory, &Terms::of(settings, reactors))?
        }
        _ => None,
    };
    let found = http(settings.http, offer.map(|offer| offer.http));
    let is_monitors = offer.is_none() && rival::answering(settings.http, None).is_some();
    if !is_monitors {
        found?;
    }
    for (at, address) in settings.udp.iter().enumerate() {
        if let Some(other) = settings.udp[..at].iter().find(|other| overlap(other, address)) {
            return Err(Failure::usage(format!(
                "--udp {other} and {address} are one address, or one is part of the other; give one of them"
            )));
        }
    }
    for &address in &settings.udp {
        match sockets::probe(address) {
            Ok(()) | Err(BindError::Taken { .. }) => {}
            Err(error) if settings.udp_is_default && error.is_family_unavailable() => {}
            Err(error) => return Err(Failure::usage(error.to_string())),
        }
    }
    Ok(())
}

/// Whether nobody can have both.
fn overlap(one: &SocketAddr, other: &SocketAddr) -> bool {
    let (a, b) = (one.ip(), other.ip());
    let within = a == b || a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified());
    one.port() == other.port() && one.port() != 0 && within
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_addresses_that_are_part_of_one_another_nobody_can_have_both() {
        let check =
            |one: &str, other: &str| overlap(&one.parse().unwrap(), &other.parse().unwrap());
        assert!(check("127.0.0.1:1", "127.0.0.1:1") && check("127.0.0.1:1", "0.0.0.0:1"));
        assert!(check("[::]:1", "[::1]:1"));
        for (one, other) in [
            ("127.0.0.1:1", "127.0.0.1:2"),
            ("127.0.0.1:1", "127.0.0.2:1"),
            ("0.0.0.0:1", "[::]:1"),
            ("127.0.0.1:0", "127.0.0.1:0"),
        ] {
            assert!(!check(one, other), "{one} {other}");
        }
    }
}
