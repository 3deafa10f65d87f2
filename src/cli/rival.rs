//! Another monitor in our place: found before anything is bound, named, and what to do about it.
//!
//! The one that uses our state directory offers its sockets there, so it is known for certain. One
//! without it, or with another, is known by what answers at our HTTP address.

use super::client::Client;
use super::{Failure, state, takeover, words};
use crate::api::Summary;
use crate::config::Settings;
use std::net::SocketAddr;
use std::time::Duration;

/// How long what answers may take to say who it is.
const PATIENCE: Duration = Duration::from_secs(1);

/// Refuses to start beside the monitor that uses our state directory.
///
/// # Errors
/// There is one (exit code 2).
pub fn refuse(settings: &Settings) -> Result<(), Failure> {
    let Some((directory, _)) = state::place(settings) else { return Ok(()) };
    if !takeover::is_offered(&directory) {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "a monitor runs here already, with its state in {}: --takeover replaces it without losing a \
         heartbeat (an upgrade); a second one beside it needs --udp, --http and --state-dir of its own",
        directory.display()
    )))
}

/// What to say of the monitor that listens on our HTTP address, and on this UDP port if one is given;
/// `None` when no monitor answers there.
pub fn answering(http: SocketAddr, udp: Option<SocketAddr>) -> Option<String> {
    let client = Client::patient_for(&http.to_string(), PATIENCE).ok()?;
    let summary: Summary = client.get("/api/v1/summary").ok()?;
    let port = |address: &String| address.parse().ok().map(|address: SocketAddr| address.port());
    match udp {
        Some(udp) if !summary.udp.iter().any(|a| port(a) == Some(udp.port())) => None,
        _ => Some(about(&summary, http)),
    }
}

fn about(summary: &Summary, http: SocketAddr) -> String {
    let running = words::between(&summary.started, words::timestamp(&summary.time));
    let what = match &summary.state {
        Some(state) => format!(
            "to replace it without losing a heartbeat give this one --takeover and --state-dir {}",
            state.directory
        ),
        None => "it keeps no state to hand over, so stop it first".into(),
    };
    format!(
        "the monitor that answers at http://{http} has it (version {}, running for {}); {what}, or \
         give this one ports of its own with --udp and --http",
        summary.version,
        words::duration(running)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::StateFigures;

    #[test]
    fn who_has_the_port_is_said_with_the_way_to_replace_it() {
        let state = StateFigures { directory: "/run/s".into(), ..StateFigures::default() };
        let summary = Summary {
            version: "0.1.0".into(),
            started: "2026-11-23T10:00:00Z".into(),
            time: "2026-11-23T12:03:00Z".into(),
            state: Some(state),
            ..Summary::default()
        };
        let http = "127.0.0.1:4680".parse().unwrap();
        assert_eq!(
            about(&summary, http),
            "the monitor that answers at http://127.0.0.1:4680 has it (version 0.1.0, running for \
             2h 3m); to replace it without losing a heartbeat give this one --takeover and \
             --state-dir /run/s, or give this one ports of its own with --udp and --http"
        );
        let forgetful = Summary { state: None, ..summary };
        assert!(about(&forgetful, http).contains("keeps no state to hand over, so stop it first"));
    }

    #[test]
    fn what_is_no_monitor_is_not_named() {
        // It accepts, in its queue, and never answers.
        let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(answering(mute.local_addr().unwrap(), None), None);
    }
}
