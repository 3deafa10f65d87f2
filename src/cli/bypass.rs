//! Attaches to the interfaces that the operator names, and says what was got.
//!
//! Asked for with `--transport xdp` it works or is an error; with `auto` and an interface the monitor
//! goes on without, and says why.

use super::Failure;
use crate::config::Settings;
use crate::io::TransportChoice;
use crate::io::xdp::{self, Attachment, Share};
use std::net::SocketAddr;
use tracing::{info, warn};

/// For datagrams to `listening`; the reactors' shares, none for each when there is nothing attached.
///
/// # Errors
/// Exit code 2: AF_XDP was asked for and is not to be had.
pub fn attach(
    settings: &Settings,
    listening: &[SocketAddr],
    reactors: usize,
) -> Result<(Option<Attachment>, Vec<Option<Share>>), Failure> {
    let without = || (None, (0..reactors).map(|_| None).collect());
    if settings.xdp.interfaces.is_empty() {
        return Ok(without());
    }
    match xdp::attach(&settings.xdp, listening, reactors) {
        Ok((attachment, shares)) => {
            say(&attachment);
            Ok((Some(attachment), shares.into_iter().map(Some).collect()))
        }
        Err(error) if settings.transport == TransportChoice::Auto => {
            warn!("heartbeats go through the kernel's stack instead of AF_XDP: {error}");
            Ok(without())
        }
        Err(error) => Err(Failure::usage(format!("transport xdp: {error}"))),
    }
}

fn say(attachment: &Attachment) {
    for attached in &attachment.attached {
        let (interface, queues) = (&attached.interface, attached.queues);
        info!(interface, queues, mode = %attached.mode, "AF_XDP receives");
        if let Some(reason) = &attached.not_native {
            warn!(interface, "AF_XDP mode generic instead of native: the driver says: {reason}");
        }
    }
    if attachment.beyond > 0 {
        let beyond = attachment.beyond;
        warn!(
            beyond,
            "that many of this host's addresses go through the stack: name them by --udp"
        );
    }
}
