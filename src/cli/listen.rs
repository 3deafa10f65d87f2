//! Where the monitor's sockets come from: bound here, inherited from who started us, or handed over
//! by the monitor that had them before.
//!
//! Inherited sockets (systemd's socket activation, sd_listen_fds(3)) are taken for the addresses that
//! they are bound to, and one that is for none of ours is said; what is listened on besides is bound.
//! Their queues outlive the monitor, so what arrives while there is none is read by the next.

use super::foresee::Http;
use super::{Failure, rival, state};
use crate::config::Settings;
use crate::io::sockets::{self, BindError, Group};
use listenfd::ListenFd;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// How long to wait for the sockets of a killed process.
const LET_GO: Duration = Duration::from_secs(5);

/// Everything that the monitor listens on.
pub struct Listening {
    /// For each UDP address, the reactors' sockets.
    pub groups: Vec<Group>,
    /// For HTTP.
    pub http: TcpListener,
}

impl Listening {
    /// Takes what was inherited, and binds the rest.
    ///
    /// # Errors
    /// Exit code 2: an address is taken, or cannot be had.
    pub fn open(settings: &Settings, reactors: usize) -> Result<Listening, Failure> {
        let Inherited { mut udp, http } = Inherited::take()?;
        // Whoever hands sockets down says by them where to listen, unless we were told.
        let told = !settings.udp_is_default || udp.is_empty();
        let wanted = if told { settings.udp.clone() } else { udp.keys().copied().collect() };
        let found: Vec<_> =
            wanted.into_iter().map(|address| (address, udp.remove(&address))).collect();
        // Said before anything is bound: it may be why something cannot be.
        udp.into_keys().for_each(say_unused);
        let mut groups = Vec::new();
        for (address, sockets) in found {
            match sockets {
                Some(sockets) => groups.extend(join(address, sockets, settings, reactors)?),
                None => groups.extend(bind_udp(address, settings, reactors)?),
            }
        }
        if groups.is_empty() {
            let says = "this machine has neither IPv4 nor IPv6; give --udp an address";
            return Err(Failure::usage(says));
        }
        let http = match http {
            Some(listener) => listener,
            None => bind_http(settings.http)?,
        };
        say(&groups);
        Ok(Listening { groups, http })
    }

    /// Goes on with sockets that were handed over: for each address the reactors', and HTTP's, unless
    /// that moves.
    ///
    /// # Errors
    /// What was handed over are no such sockets.
    pub fn adopt(
        groups: Vec<Vec<UdpSocket>>,
        http: TcpListener,
        moves: Http,
        settings: &Settings,
    ) -> Result<Listening, Failure> {
        let adopt = |sockets| sockets::adopt(sockets, settings.receive_buffer_bytes);
        let groups =
            groups.into_iter().map(adopt).collect::<Result<Vec<_>, _>>().map_err(|error| {
                Failure::failed(format!("the sockets that were handed over: {error}"))
            })?;
        say(&groups);
        let http = match moves {
            Http::Inherits => http,
            Http::Moves(listener) => {
                info!(from = ?http.local_addr().ok(), to = %settings.http, "HTTP moves");
                listener
            }
        };
        Ok(Listening { groups, http })
    }

    /// The UDP addresses, ports resolved.
    pub fn udp(&self) -> Vec<SocketAddr> {
        self.groups.iter().map(|group| group.address).collect()
    }
}

/// The sockets that who started us has passed down.
struct Inherited {
    /// For heartbeats, by the address that they are bound to; one address may have several.
    udp: BTreeMap<SocketAddr, Vec<UdpSocket>>,
    http: Option<TcpListener>,
}

impl Inherited {
    fn take() -> Result<Inherited, Failure> {
        let mut passed = ListenFd::from_env();
        let (mut udp, mut http) = (BTreeMap::<_, Vec<_>>::new(), None);
        for nth in 0..passed.len() {
            if let Ok(Some(socket)) = passed.take_udp_socket(nth) {
                // The transports ask for MSG_DONTWAIT themselves.
                let _ = socket.set_nonblocking(false);
                udp.entry(address_of(nth, socket.local_addr())?).or_default().push(socket);
            } else if let Ok(Some(listener)) = passed.take_tcp_listener(nth) {
                let address = address_of(nth, listener.local_addr())?;
                match http {
                    None => http = Some(listener),
                    Some(_) => say_unused(address),
                }
            } else {
                let says = format!(
                    "inherited socket {nth} is neither UDP nor a TCP listener: correct the sockets \
                     of the service (systemd: ListenDatagram=, ListenStream=)"
                );
                return Err(Failure::usage(says));
            }
        }
        let sockets: usize = udp.values().map(Vec::len).sum();
        if sockets > 0 || http.is_some() {
            info!(udp = sockets, http = http.is_some(), "sockets are inherited");
        }
        Ok(Inherited { udp, http })
    }
}

fn address_of(nth: usize, address: io::Result<SocketAddr>) -> Result<SocketAddr, Failure> {
    address
        .map_err(|error| Failure::failed(format!("the address of inherited socket {nth}: {error}")))
}

/// Who started us keeps the socket open, so the kernel takes what is sent there, and nobody gets it.
fn say_unused(address: SocketAddr) {
    warn!(
        %address,
        "an inherited socket is not used, and what is sent there is lost: listen there (--udp), or \
         take it from the sockets of the service (systemd: ListenDatagram=, ListenStream=)"
    );
}

/// Groups of inherited sockets of one address; where they are too few, more are bound.
fn join(
    address: SocketAddr,
    mut sockets: Vec<UdpSocket>,
    settings: &Settings,
    reactors: usize,
) -> Result<Vec<Group>, Failure> {
    let passed = sockets.len();
    let mut groups = Vec::new();
    while !sockets.is_empty() {
        let rest = sockets.split_off(reactors.min(sockets.len()));
        let group = sockets::join(sockets, reactors, settings.receive_buffer_bytes);
        groups.push(group.map_err(|error| match error {
            BindError::Taken { .. } => Failure::usage(format!(
                "{address} is inherited from another user, so that no more sockets can be bound to it, \
                 and each of the {reactors} reactors needs one: pass that many (systemd: \
                 ListenDatagram= as often, and ReusePort=yes), or give --reactors {passed}"
            )),
            error => Failure::usage(error.to_string()),
        })?);
        sockets = rest;
    }
    Ok(groups)
}

/// A monitor that was killed closes its sockets in no known order.
fn bind_http(address: SocketAddr) -> Result<TcpListener, Failure> {
    let began = Instant::now();
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && began.elapsed() < LET_GO / 10 => {
                std::thread::sleep(Duration::from_millis(1));
            }
            bound => return bound.map_err(|error| http_refused(address, &error)),
        }
    }
}

/// Why HTTP cannot be had there, and what to do about it.
pub(super) fn http_refused(address: SocketAddr, error: &io::Error) -> Failure {
    let what = match error.kind() {
        ErrorKind::AddrInUse => rival::answering(address, None).unwrap_or_else(|| {
            "another program listens there; stop it or choose another address with --http".into()
        }),
        ErrorKind::PermissionDenied => {
            "no privilege for this port; choose one from 1024 up with --http".to_owned()
        }
        ErrorKind::AddrNotAvailable => {
            "this machine has no such address; choose one that `ip address` lists".to_owned()
        }
        _ => error.to_string(),
    };
    Failure::usage(format!("cannot listen on http address {address}: {what}"))
}

/// One address; `None` when the machine lacks its family and nobody asked for it.
fn bind_udp(
    address: SocketAddr,
    settings: &Settings,
    reactors: usize,
) -> Result<Option<Group>, Failure> {
    // Without state nobody says that there was one, and whoever starts a second by mistake waits too.
    let patience = if state::is_there(settings) { LET_GO } else { LET_GO / 10 };
    let buffer = settings.receive_buffer_bytes;
    match sockets::bind_group_within(patience, address, reactors, buffer) {
        Ok(group) => Ok(Some(group)),
        Err(error @ BindError::FamilyUnavailable { .. }) if settings.udp_is_default => {
            warn!(%address, "not listening there: {error}");
            Ok(None)
        }
        Err(error @ BindError::Taken { .. }) => {
            Err(Failure::usage(match rival::answering(settings.http, Some(address)) {
                Some(rival) => format!("{address} is taken: {rival}"),
                None => error.to_string(),
            }))
        }
        Err(error) => Err(Failure::usage(error.to_string())),
    }
}

fn say(groups: &[Group]) {
    for group in groups {
        let buffer = group.receive_buffer;
        if buffer.granted < buffer.asked {
            warn!(
                address = %group.address, asked_bytes = buffer.asked, granted_bytes = buffer.granted,
                "the receive buffer is smaller than asked for; bursts may be dropped: raise \
                 net.core.rmem_max (sysctl) or grant CAP_NET_ADMIN"
            );
        } else {
            info!(address = %group.address, receive_buffer_bytes = buffer.granted, "listening");
        }
        if let Some(error) = &group.unsteered {
            warn!(
                address = %group.address, %error,
                "the kernel does not steer heartbeats to their reactor; they are handed over instead"
            );
        }
    }
}
