//! The program as the kernel runs it (BPF_PROG_TEST_RUN), against a plain reading of the same frames.

use super::super::bpf::{Program, SocketMap};
use super::super::packet::tests::Recipe;
use super::super::packet::{self, Malformed};
use super::*;
use crate::io::tests::{Random, seeds, without_capabilities};

/// A program whose map is empty, so that what it would take is dropped; `None`, with a word why,
/// where that is not allowed.
fn program(destinations: &[SocketAddr]) -> Option<(SocketMap, Program)> {
    let loaded = SocketMap::new(1).and_then(|map| {
        let code = assemble(destinations, map.descriptor(), Action::Drop);
        Program::load(&code).map(|program| (map, program))
    });
    match loaded {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => {
            eprintln!("not tested here: bpf(2): {error}");
            None
        }
        loaded => Some(loaded.expect("the verifier accepts it")),
    }
}

fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

const OURS: [&str; 4] =
    ["10.0.0.1:4600", "192.168.255.254:65535", "[fd00::1]:4600", "[fe80::ffff:8000]:1"];

/// The same decision by other means: by what a parser for sockets says of the frame.
fn is_ours(frame: &[u8], destinations: &[SocketAddr]) -> bool {
    // Up to the UDP header the lengths are the program's business, behind it they are not.
    let ip = match (frame.get(12), frame.get(13)) {
        (Some(0x81), Some(0x00)) | (Some(0x88), Some(0xA8)) => 18,
        _ => 14,
    };
    if frame.len() > LONGEST_FRAME || frame.len() < ip {
        return false;
    }
    let packet = &frame[ip..];
    match frame[ip - 2..ip] {
        [0x08, 0x00] if packet.len() >= 28 => {
            let port = u16::from_be_bytes([packet[22], packet[23]]);
            let to: [u8; 4] = packet[16..20].try_into().expect("four bytes");
            let whole = packet[6] & 0x3F == 0 && packet[7] == 0;
            packet[0] == 0x45
                && packet[9] == 17
                && whole
                && destinations.contains(&(to, port).into())
        }
        [0x86, 0xDD] if packet.len() >= 48 => {
            let port = u16::from_be_bytes([packet[42], packet[43]]);
            let to: [u8; 16] = packet[24..40].try_into().expect("sixteen bytes");
            packet[0] >> 4 == 6 && packet[6] == 17 && destinations.contains(&(to, port).into())
        }
        _ => false,
    }
}

#[track_caller]
fn check(program: &Program, frame: &[u8], taken: bool) {
    let answer = program.run(frame).expect("it runs");
    let expected = if taken { Action::Drop } else { Action::Pass };
    assert_eq!(answer, expected as u32, "{frame:02x?}");
}

#[test]
fn our_datagrams_are_taken_and_whatever_else_there_is_passes() {
    let ours = addresses(&OURS);
    let Some((_map, program)) = program(&ours) else { return };
    for to in OURS {
        let from = if to.starts_with('[') { "[fd00::2]:9" } else { "10.0.0.2:9" };
        let recipe = Recipe::new(from, to, b"hello");
        check(&program, &recipe.frame(), true);
        for tag in [0x8100, 0x88A8] {
            check(&program, &Recipe { tags: vec![(tag, 100)], ..recipe.clone() }.frame(), true);
        }
        check(&program, &Recipe { payload: vec![], ..recipe.clone() }.frame(), true);
        check(&program, &Recipe { payload: vec![7; 1472], ..recipe.clone() }.frame(), true);
        let room = LONGEST_FRAME - recipe.frame().len() + recipe.payload.len();
        check(&program, &Recipe { payload: vec![7; room], ..recipe.clone() }.frame(), true);
        // From here on: not ours.
        check(&program, &Recipe { payload: vec![7; room + 1], ..recipe.clone() }.frame(), false);
        let twice = vec![(0x88A8, 1), (0x8100, 2)];
        check(&program, &Recipe { tags: twice, ..recipe.clone() }.frame(), false);
        for protocol in [1, 6, 58, 0, 43, 44, 132] {
            check(&program, &Recipe { protocol, ..recipe.clone() }.frame(), false);
        }
        let mut other = recipe.clone();
        other.to.set_port(recipe.to.port() ^ 0x0100);
        check(&program, &other.frame(), false);
    }
    for (to, fragment) in
        [("10.0.0.1:4600", 0x2000), ("10.0.0.1:4600", 0x0001), ("10.0.0.1:4600", 0x1FFF)]
    {
        check(&program, &Recipe { fragment, ..Recipe::new("10.0.0.2:9", to, b"x") }.frame(), false);
    }
    let options = Recipe { options: vec![1; 4], ..Recipe::new("10.0.0.2:9", OURS[0], b"x") };
    check(&program, &options.frame(), false);
    // The port of one address is not that of another, nor is a neighbour's address ours.
    for to in ["10.0.0.1:65535", "192.168.255.254:4600", "10.0.0.3:4600", "11.0.0.1:4600"] {
        check(&program, &Recipe::new("10.0.0.2:9", to, b"x").frame(), false);
    }
    for to in ["[fd00::1]:1", "[fd00::3]:4600", "[fd01::1]:4600", "[fd00:0:0:1::1]:4600"] {
        check(&program, &Recipe::new("[fd00::2]:9", to, b"x").frame(), false);
    }
    let arp = [&[0xFF; 6][..], &[2; 6], &[0x08, 0x06], &[0; 46]].concat();
    check(&program, &arp, false);
}

#[test]
fn spoilt_frames_are_decided_as_a_plain_reading_would() {
    let ours = addresses(&OURS);
    let Some((_map, program)) = program(&ours) else { return };
    let (mut taken, mut passed) = (0, 0);
    for seed in seeds() {
        let mut random = Random(seed);
        for _ in 0..4_000 {
            let to = OURS[random.below(4) as usize];
            let from = if to.starts_with('[') { "[fd00::2]:9" } else { "10.0.0.2:9" };
            let payload = vec![0; random.below(40) as usize];
            let mut recipe = Recipe::new(from, to, &payload);
            if random.below(3) == 0 {
                recipe.tags = vec![(if random.below(2) == 0 { 0x8100 } else { 0x88A8 }, 7)];
            }
            let mut frame = recipe.frame();
            for _ in 0..random.below(3) {
                let at = random.below(frame.len() as u64) as usize;
                frame[at] ^= 1 << random.below(8);
            }
            if random.below(4) == 0 {
                // The kernel runs no program on less than an Ethernet header.
                frame.truncate(14 + random.below(frame.len() as u64 - 14) as usize);
            }
            let expected = is_ours(&frame, &ours);
            check(&program, &frame, expected);
            if expected {
                taken += 1;
                // Whatever is taken is of a kind that the parser knows: nothing else can be lost.
                let parsed = packet::parse(&frame, false);
                assert!(
                    !matches!(parsed, Err(Malformed::Foreign | Malformed::Short)),
                    "{frame:02x?}"
                );
            } else {
                passed += 1;
            }
        }
    }
    assert!(taken > 1_000 && passed > 1_000, "{taken} taken, {passed} passed");
}

#[test]
fn as_many_destinations_as_are_allowed_fit_into_one_program() {
    let nth = |nth: usize| SocketAddr::from(([0xFD00, 0, 0, 0, 0, 0, 0, nth as u16 + 1], 4600));
    let destinations: Vec<_> = (0..MOST_DESTINATIONS).map(nth).collect();
    let Some((_map, program)) = program(&destinations) else { return };
    for place in [0, 1, MOST_DESTINATIONS - 1] {
        let to = nth(place).to_string();
        check(&program, &Recipe::new("[fd00::ffff]:9", &to, b"x").frame(), true);
    }
    let beyond = nth(MOST_DESTINATIONS).to_string();
    check(&program, &Recipe::new("[fd00::ffff]:9", &beyond, b"x").frame(), false);
}

#[test]
fn without_privilege_the_kernel_says_eperm() {
    if program(&addresses(&OURS)).is_none() {
        return;
    }
    without_capabilities(|| {
        let Err(error) = SocketMap::new(1) else { panic!("made a map without privilege") };
        assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
    });
}

#[test]
fn what_the_verifier_dislikes_is_told_with_its_words() {
    if program(&addresses(&OURS)).is_none() {
        return;
    }
    let mut a = Assembler::default();
    a.exit();
    let Err(error) = Program::load(&a.finish()) else { panic!("register 0 was never written") };
    assert!(error.to_string().contains("R0 !read_ok"), "{error}");
}
