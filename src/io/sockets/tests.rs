//! Real sockets on loopback: groups, taken ports, families, buffers.

use super::*;
use crate::io::tests::without_capabilities;

fn any_port(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("address"), 0)
}

#[test]
fn a_group_shares_one_resolved_port() {
    let group = bind_group(any_port("127.0.0.1"), 4, 65_536).expect("bind");
    assert_ne!(group.address.port(), 0);
    for socket in &group.sockets {
        assert_eq!(socket.local_addr().expect("bound"), group.address);
    }
    assert_eq!(group.sockets.len(), 4);
    assert!(group.unsteered.is_none());
}

#[test]
fn several_sockets_of_one_address_are_completed_to_one_for_each_reactor() {
    let bound = bind_group(any_port("127.0.0.1"), 2, 65_536).expect("bind");
    let of = |sockets: &[UdpSocket]| sockets.iter().map(AsRawFd::as_raw_fd).collect::<Vec<_>>();
    for reactors in [2, 3] {
        let copies = bound.sockets.iter().map(|socket| socket.try_clone().expect("a copy"));
        let copies: Vec<_> = copies.collect();
        let given = of(&copies);
        let group = join(copies, reactors, 65_536).expect("they are of one user");
        assert_eq!((group.address, group.sockets.len()), (bound.address, reactors));
        assert_eq!(of(&group.sockets)[..2], given);
        assert!(group.unsteered.is_none());
        for socket in &group.sockets {
            assert_eq!(socket.local_addr().expect("bound"), bound.address);
        }
    }
}

#[test]
fn the_same_sockets_are_known_again_and_no_others() {
    let bind = || bind_group(any_port("127.0.0.1"), 2, 65_536).expect("bind").sockets;
    let (ours, others) = (bind(), bind());
    let copy = |socket: &UdpSocket| socket.try_clone().expect("a copy");
    let copies: Vec<_> = ours.iter().map(copy).collect();
    let turned: Vec<_> = ours.iter().rev().map(copy).collect();
    assert_ne!(identity(&ours), 0);
    assert_eq!(identity(&copies), identity(&ours));
    for not_ours in [&others[..], &turned, &ours[..1], &[]] {
        assert_ne!(identity(not_ours), identity(&ours));
    }
}

#[test]
fn a_second_monitor_of_the_same_user_is_told_that_the_port_is_taken() {
    for ours in [1, 2, 3] {
        let group = bind_group(any_port("127.0.0.1"), ours, 65_536).expect("bind");
        for theirs in [1, 2] {
            let second = bind_group(group.address, theirs, 65_536);
            assert!(matches!(second, Err(BindError::Taken { .. })), "{ours}/{theirs}: {second:?}");
            let mut wildcard = group.address;
            wildcard.set_ip([0, 0, 0, 0].into());
            let second = bind_group(wildcard, theirs, 65_536);
            assert!(matches!(second, Err(BindError::Taken { .. })), "{ours}/{theirs}: {second:?}");
        }
    }
}

#[test]
fn of_monitors_that_start_at_one_instant_one_gets_the_port() {
    for _ in 0..50 {
        let address = bind_group(any_port("127.0.0.1"), 1, 65_536).expect("bind").address;
        let start = std::sync::Barrier::new(4);
        let groups: Vec<_> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        bind_group(address, 2, 65_536)
                    })
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().expect("no panic")).collect()
        });
        let got = groups.iter().filter(|group| group.is_ok()).count();
        // A foreign process may have taken the freed port; two winners are never right.
        assert!(got <= 1, "{got} monitors listen on {address}");
        for group in groups {
            assert!(matches!(group, Ok(_) | Err(BindError::Taken { .. })), "{group:?}");
        }
    }
}

#[test]
fn the_port_is_free_again_when_the_group_is_gone() {
    let group = bind_group(any_port("127.0.0.1"), 2, 65_536).expect("bind");
    let address = group.address;
    drop(group);
    bind_group(address, 2, 65_536).expect("bind again");
}

#[test]
fn both_families_listen_on_one_port() {
    let v4 = bind_group(any_port("0.0.0.0"), 2, 65_536).expect("bind");
    let v6 = SocketAddr::new("::".parse().expect("address"), v4.address.port());
    match bind_group(v6, 2, 65_536) {
        Ok(group) => assert_eq!(group.address, v6),
        // Somebody else's ephemeral port on IPv6, or no IPv6 here.
        Err(error) => assert!(
            matches!(error, BindError::Taken { .. } | BindError::FamilyUnavailable { .. }),
            "{error}"
        ),
    }
}

#[test]
fn errors_say_what_to_do() {
    let address: SocketAddr = "192.0.2.1:4600".parse().expect("address");
    let error = bind_group(address, 1, 65_536).expect_err("TEST-NET-1 is nobody's");
    assert!(matches!(error, BindError::NotLocal { .. }), "{error:?}");
    assert!(error.to_string().contains("192.0.2.1:4600"), "{error}");

    let of = |errno, address: &str| {
        let address: SocketAddr = address.parse().expect("address");
        BindError::of(address, "bind", io::Error::from_raw_os_error(errno))
    };
    assert!(of(libc::EAFNOSUPPORT, "[::]:4600").is_family_unavailable());
    assert!(of(libc::EADDRNOTAVAIL, "[::]:4600").is_family_unavailable());
    assert!(of(libc::EADDRNOTAVAIL, "[::1]:4600").is_family_unavailable());
    assert!(!of(libc::EADDRNOTAVAIL, "[2001:db8::1]:4600").is_family_unavailable());
    assert!(of(libc::EAFNOSUPPORT, "[::]:4600").to_string().contains("no IPv6"));
    assert!(of(libc::EMFILE, "[::]:4600").to_string().contains("bind"));
}

#[test]
fn without_privilege_the_buffer_is_what_the_system_allows_and_low_ports_are_refused() {
    let largest: usize = std::fs::read_to_string("/proc/sys/net/core/rmem_max")
        .expect("sysctl")
        .trim()
        .parse()
        .expect("number");
    let unprivileged_from =
        std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
            .map_or(1024, |text| text.trim().parse::<u16>().expect("number"));
    without_capabilities(move || {
        let group = bind_group(any_port("127.0.0.1"), 2, largest * 2).expect("bind");
        assert_eq!(group.receive_buffer, ReceiveBuffer { asked: largest * 2, granted: largest });
        if unprivileged_from > 7 {
            let error = bind_group("127.0.0.1:7".parse().expect("address"), 1, 65_536)
                .expect_err("a reserved port");
            assert!(matches!(error, BindError::Privilege { .. }), "{error:?}");
            assert!(error.to_string().contains("CAP_NET_BIND_SERVICE"), "{error}");
        }
    });
}

#[test]
fn with_privilege_the_buffer_is_what_was_asked_for() {
    let group = bind_group(any_port("127.0.0.1"), 2, 32 << 20).expect("bind");
    // Without CAP_NET_ADMIN it is less, as the test above has it.
    let granted = group.receive_buffer.granted;
    assert!(granted <= 32 << 20 && granted > 0);
}

#[test]
fn a_large_buffer_that_was_inherited_stays_without_privilege() {
    const LARGE: usize = 32 << 20;
    let given = bind_group(any_port("127.0.0.1"), 1, LARGE).expect("bind");
    let had = given.receive_buffer.granted;
    without_capabilities(move || {
        let group = join(given.sockets, 1, had).expect("join");
        assert_eq!(group.receive_buffer, ReceiveBuffer { asked: had, granted: had });
    });
}

#[test]
fn reactors_get_a_socket_of_each_group() {
    let a = bind_group(any_port("127.0.0.1"), 3, 65_536).expect("bind");
    let b = bind_group(any_port("127.0.0.1"), 3, 65_536).expect("bind");
    let (port_a, port_b) = (a.address.port(), b.address.port());
    let order: Vec<_> = a.sockets.iter().chain(&b.sockets).map(AsRawFd::as_raw_fd).collect();
    let reactors = by_reactor([a.sockets, b.sockets]);
    assert_eq!(reactors.len(), 3);
    for (nth, sockets) in reactors.iter().enumerate() {
        let ports: Vec<_> =
            sockets.iter().map(|socket| socket.local_addr().expect("bound").port()).collect();
        assert_eq!(ports, [port_a, port_b]);
        assert_eq!(sockets[0].as_raw_fd(), order[nth]);
        assert_eq!(sockets[1].as_raw_fd(), order[3 + nth]);
    }
    assert!(by_reactor([]).is_empty());
}
