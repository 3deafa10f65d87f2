//! The program against a tiny interpreter, and against the kernel itself.

use super::*;
use crate::io::sockets::bind_group;
use crate::io::tests::{Random, seeds};
use std::net::{SocketAddr, UdpSocket};

/// Runs a classic BPF program as the kernel would, on the instructions that ours may use.
fn interpret(program: &[libc::sock_filter], datagram: &[u8]) -> u32 {
    let (mut a, mut x, mut pc) = (0u32, 0u32, 0usize);
    let load = |offset: u32, bytes: usize| -> Option<u32> {
        let field = datagram.get(offset as usize..offset as usize + bytes)?;
        Some(field.iter().fold(0, |word, &byte| word << 8 | u32::from(byte)))
    };
    loop {
        let libc::sock_filter { code, jt, jf, k } = program[pc];
        pc += 1;
        match code {
            0x80 => a = datagram.len() as u32,
            // A load past the end ends the program with 0.
            0x20 => match load(k, 4) {
                Some(word) => a = word,
                None => return 0,
            },
            0x30 => match load(k, 1) {
                Some(byte) => a = byte,
                None => return 0,
            },
            0x05 => pc += k as usize,
            0x15 => pc += usize::from(if a == k { jt } else { jf }),
            0x35 => pc += usize::from(if a >= k { jt } else { jf }),
            0x07 => x = a,
            0x0c => a = a.wrapping_add(x),
            0x24 => a = a.wrapping_mul(k),
            0x74 => a >>= k,
            0x94 => a %= k,
            0x16 => return a,
            _ => panic!("instruction {code:#x} is not in this interpreter"),
        }
    }
}

/// A datagram of any length, with the magic in front in half of the cases.
fn datagram(random: &mut Random) -> Vec<u8> {
    let length = random.below(40) as usize;
    let mut bytes: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
    if let Some(first) = bytes.first_mut() {
        *first = if random.below(2) == 0 { MAGIC } else { b'a' };
    }
    bytes
}

#[test]
fn the_program_does_what_owner_says() {
    for seed in seeds() {
        let mut random = Random(seed);
        for _ in 0..20_000 {
            let reactors = 1 + random.below(64) as u32;
            let datagram = datagram(&mut random);
            let expected = owner(&datagram, reactors);
            assert!(expected < reactors);
            assert_eq!(
                interpret(&program(reactors), &datagram),
                expected,
                "seed {seed}, {reactors} reactors, {datagram:?}"
            );
        }
    }
}

#[test]
fn owner_is_the_published_formula() {
    let id: u64 = 0x0123_4567_89ab_cdef;
    let mut beat = [0u8; 32];
    beat[0] = MAGIC;
    beat[8..16].copy_from_slice(&id.to_le_bytes());
    let word = u32::from_be_bytes(beat[8..12].try_into().expect("four"));
    assert_eq!(word, 0xefcd_ab89);
    assert_eq!(owner(&beat, 7), (word.wrapping_mul(0x9E37_79B1) >> 16) % 7);
    // The kernel's choice and the reactors' own must be the same, or every heartbeat is handed over.
    let mut random = Random(7);
    for reactors in 1..=16 {
        let id = random.next();
        beat[8..16].copy_from_slice(&id.to_le_bytes());
        let steered = crate::wire::steer(crate::wire::PeerId(id), reactors);
        assert_eq!(owner(&beat, reactors), steered, "{id:016x} of {reactors}");
    }
    assert_eq!(owner(&beat, 0), 0);
    assert_eq!(owner(&[], 5), 0);
}

#[test]
fn peers_and_names_are_spread_evenly() {
    const REACTORS: u32 = 6;
    let mut random = Random(1);
    let mut peers = [0u32; REACTORS as usize];
    let mut names = [0u32; REACTORS as usize];
    for nth in 0..60_000 {
        let mut beat = [0u8; 32];
        beat[0] = MAGIC;
        beat[8..16].copy_from_slice(&random.next().to_le_bytes());
        peers[owner(&beat, REACTORS) as usize] += 1;
        names[owner(format!("host-{nth:05} status=ok").as_bytes(), REACTORS) as usize] += 1;
    }
    for share in peers.into_iter().chain(names) {
        assert!((8_000..12_000).contains(&share), "peers {peers:?}, names {names:?}");
    }
}

/// Sends datagrams of all kinds to a real group and looks who got which.
fn check_kernel(address: SocketAddr, reactors: usize) {
    let group = match bind_group(address, reactors, 1 << 20) {
        Err(error) if error.is_family_unavailable() => return,
        group => group.expect("bind"),
    };
    assert!(group.unsteered.is_none(), "{:?}", group.unsteered);
    let sender = UdpSocket::bind((address.ip(), 0)).expect("sender");
    for seed in seeds() {
        let mut random = Random(seed);
        let mut expected = vec![Vec::new(); reactors];
        for _ in 0..500 {
            let datagram = datagram(&mut random);
            sender.send_to(&datagram, group.address).expect("send");
            expected[owner(&datagram, reactors as u32) as usize].push(datagram);
        }
        for (reactor, socket) in group.sockets.iter().enumerate() {
            socket.set_nonblocking(true).expect("nonblocking");
            let mut got = Vec::new();
            let mut buffer = [0; 2048];
            while let Ok(length) = socket.recv(&mut buffer) {
                got.push(buffer[..length].to_vec());
            }
            assert_eq!(got, expected[reactor], "seed {seed}, reactor {reactor} of {reactors}");
        }
    }
}

#[test]
fn the_kernel_steers_as_owner_says() {
    for reactors in [1, 2, 3, 8] {
        check_kernel("127.0.0.1:0".parse().expect("address"), reactors);
        check_kernel("[::1]:0".parse().expect("address"), reactors);
        check_kernel("0.0.0.0:0".parse().expect("address"), reactors);
    }
}

#[test]
fn there_is_nothing_to_steer_on_a_lone_socket() {
    let lone = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let error = attach(&lone, 2).expect_err("not in a group");
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
}
