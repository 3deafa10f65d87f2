//! What would keep a monitor from starting, found out before anything is begun: before the one that runs
//! is asked to hand over, for which it has to pause, and for `--check`, which only asks.
//!
//! Nothing is changed by it. An address is bound for an instant, without sharing it, so that no datagram
//! goes astray; one that the monitor that runs holds is no obstacle, since it lets go of it.

use super::client::Client;
use super::run::default_reactors;
use super::takeover::{self, Terms};
use super::{Failure, listen, outputs, rival, state};
use crate::api::Summary;
use crate::config::Settings;
use crate::io::sockets::{self, BindError};
use crate::io::{self, TransportChoice};
use crate::store::StateDir;
use crate::trace::recorder::may_record;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::time::Duration;

/// How long a monitor may take to say whose state it keeps.
const PATIENCE: Duration = Duration::from_secs(2);

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

/// Finds out whether the HTTP address is that of the monitor with its state in `directory`, or can be had.
///
/// # Errors
/// Somebody else has it, or nobody can (exit code 2).
pub fn http(address: SocketAddr, directory: Option<&Path>) -> Result<Http, Failure> {
    if address.port() == 0 {
        return Ok(Http::Inherits);
    }
    match TcpListener::bind(address) {
        Ok(listener) => Ok(Http::Moves(listener)),
        Err(error) if error.kind() == ErrorKind::AddrInUse => match directory {
            Some(directory) if keeps(address, directory) => inherits(address),
            _ => Err(listen::http_refused(address, &error)),
        },
        Err(error) => Err(listen::http_refused(address, &error)),
    }
}

/// The one before has this port. If it is by another address (all of the machine's, or one of them),
/// neither can both have it nor can one be turned into the other.
fn inherits(address: SocketAddr) -> Result<Http, Failure> {
    match listens(address) {
        true => Ok(Http::Inherits),
        false => Err(Failure::usage(format!(
            "cannot listen on http address {address}: the monitor that runs has this port by another \
             address; take over with the same --http, or with another port"
        ))),
    }
}

/// Whether somebody listens on this very address, by what the kernel lists.
fn listens(address: SocketAddr) -> bool {
    let (file, host) = match address.ip() {
        IpAddr::V4(ip) => ("/proc/net/tcp", hex(&ip.octets())),
        IpAddr::V6(ip) => ("/proc/net/tcp6", hex(&ip.octets())),
    };
    let local = format!("{host}:{:04X}", address.port());
    // Where it is not listed the benefit of the doubt: the one before has answered there.
    let Ok(all) = std::fs::read_to_string(file) else { return true };
    let is = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        words.next() == Some(&local) && words.nth(1) == Some("0A")
    };
    all.lines().any(is)
}

/// As /proc/net writes an address: words of four bytes in the machine's order.
fn hex(octets: &[u8]) -> String {
    let words =
        octets.chunks_exact(4).map(|four| u32::from_ne_bytes([four[0], four[1], four[2], four[3]]));
    words.map(|word| format!("{word:08X}")).collect()
}

/// Whether the monitor that answers there keeps its state in this directory.
fn keeps(address: SocketAddr, directory: &Path) -> bool {
    let ask = || -> Option<Summary> {
        Client::patient_for(&address.to_string(), PATIENCE).ok()?.get("/api/v1/summary").ok()
    };
    let same = |path: &str| Path::new(path) == directory || is_same(Path::new(path), directory);
    ask().and_then(|summary| summary.state).is_some_and(|state| same(&state.directory))
}

fn is_same(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(a), Ok(b)) if a == b)
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
    let place = state::place(settings).map(|(directory, _)| directory);
    let heir_of = place.filter(|directory| settings.takeover && takeover::is_offered(directory));
    if let Some(directory) = &heir_of {
        let reactors = settings.reactors.unwrap_or_else(default_reactors);
        takeover::look(directory, &Terms::of(settings, reactors))?;
    }
    let found = http(settings.http, heir_of.as_deref());
    let is_monitors = heir_of.is_none() && rival::answering(settings.http, None).is_some();
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
