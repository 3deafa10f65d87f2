//! The XDP program: which frames are ours, decided before the kernel's network stack sees them.
//!
//! ```text
//!   frame ─▶ at most one VLAN tag ─▶ IPv4, no options, no fragment ─┐
//!                                 └▶ IPv6, no extension header ─────┴▶ UDP to one of our
//!                                                                      addresses and its port
//!                                                                             │
//!        everything else, untouched ─▶ stack ◀── no socket for the queue ── socket of the queue
//! ```
//!
//! It is assembled here, instruction by instruction, so that no compiler for eBPF is needed to build
//! and no object file has to be trusted; [`bpf`](super::bpf) hands it to the kernel's verifier. The
//! addresses and ports are in its code: a few comparisons are cheaper than a look-up in a map, and
//! there is nothing that could be changed behind its back.
//!
//! Invariant: when in doubt, pass. What it takes never reaches the stack, so a mistake on that side
//! would be a loss; what it passes reaches the UDP sockets, as if it were not there. So headers that
//! it does not understand in full (options, extensions, fragments, a second tag) are the stack's, and
//! so is a frame too long for a buffer of ours.

use std::net::{IpAddr, SocketAddr};

/// The longest frame that is taken. A buffer has so many bytes behind the kernel's own headroom.
pub(super) const LONGEST_FRAME: usize = super::umem::FRAME_BYTES - HEADROOM_BYTES;

/// `XDP_PACKET_HEADROOM`, which the kernel keeps free at the start of each buffer.
const HEADROOM_BYTES: usize = 256;

/// What a program answers (linux/bpf.h, `enum xdp_action`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(super) enum Action {
    /// Throw the frame away. Ours never does; tests tell by it what it would have taken.
    #[cfg(test)]
    Drop = 1,
    /// On to the stack.
    Pass = 2,
}

/// Comparisons that one program may hold; destinations beyond it go through the stack.
pub(super) const MOST_DESTINATIONS: usize = 256;

/// One instruction as the kernel reads it (linux/bpf.h, `struct bpf_insn`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub(super) struct Instruction {
    code: u8,
    /// The destination in the low half, the source in the high one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

// Registers: 0 holds results, 1 to 5 arguments, of which none survives a call.
const R0: u8 = 0;
const CONTEXT: u8 = 1;
/// Where the frame starts; behind a tag four bytes on, so that all that follows has the same offset.
const FRAME: u8 = 2;
const END: u8 = 3;
const LIMIT: u8 = 4;
const FIELD: u8 = 5;

// Offsets into `struct xdp_md`.
const DATA: i16 = 0;
const DATA_END: i16 = 4;
const RX_QUEUE_INDEX: i16 = 16;

// Offsets into a frame.
const ETHER_TYPE: i16 = 12;
const TAGGED_ETHER_TYPE: i16 = 16;
const IP: i16 = 14;
const IPV4_FRAGMENT: i16 = IP + 6;
const IPV4_PROTOCOL: i16 = IP + 9;
const IPV4_DESTINATION: i16 = IP + 16;
const IPV4_PORT: i16 = IP + 20 + 2;
const IPV6_NEXT_HEADER: i16 = IP + 6;
const IPV6_DESTINATION: i16 = IP + 24;
const IPV6_PORT: i16 = IP + 40 + 2;
const UDP_BYTES: i32 = 8;

/// `bpf_redirect_map`.
const REDIRECT_MAP: i32 = 51;

/// The program for these destinations, none of them unspecified, that redirects into the map `map`
/// by the receive queue, and answers `otherwise` where the queue has no socket.
pub(super) fn assemble(
    destinations: &[SocketAddr],
    map: i32,
    otherwise: Action,
) -> Vec<Instruction> {
    let mut a = Assembler::default();
    a.load(4, FRAME, CONTEXT, DATA);
    a.load(4, END, CONTEXT, DATA_END);
    a.limit(LONGEST_FRAME as i32);
    a.jump_below(LIMIT, END, Label::Pass);
    a.require(i32::from(ETHER_TYPE) + 2);
    a.load(2, FIELD, FRAME, ETHER_TYPE);
    a.jump_equal(FIELD, network_order(0x8100), Label::Tagged);
    a.jump_equal(FIELD, network_order(0x88A8), Label::Tagged);
    a.jump(Label::Network);

    a.place(Label::Tagged);
    a.require(i32::from(TAGGED_ETHER_TYPE) + 2);
    a.load(2, FIELD, FRAME, TAGGED_ETHER_TYPE);
    a.add(FRAME, 4);

    a.place(Label::Network);
    a.jump_equal(FIELD, network_order(0x0800), Label::V4);
    a.jump_equal(FIELD, network_order(0x86DD), Label::V6);
    a.jump(Label::Pass);

    a.place(Label::V4);
    a.require(i32::from(IP) + 20 + UDP_BYTES);
    a.load(1, FIELD, FRAME, IP);
    a.jump_unequal(FIELD, 0x45, Label::Pass);
    a.load(2, FIELD, FRAME, IPV4_FRAGMENT);
    // "More fragments" and the offset; "don't fragment" is welcome.
    a.jump_if_any(FIELD, network_order(0x3FFF), Label::Pass);
    a.load(1, FIELD, FRAME, IPV4_PROTOCOL);
    a.jump_unequal(FIELD, libc::IPPROTO_UDP, Label::Pass);
    for (nth, (ip, port)) in of_family(destinations, SocketAddr::is_ipv4).enumerate() {
        a.destination(IPV4_PORT, port, IPV4_DESTINATION, &ip, Label::NextV4(nth));
    }
    a.jump(Label::Pass);

    a.place(Label::V6);
    a.require(i32::from(IP) + 40 + UDP_BYTES);
    a.load(1, FIELD, FRAME, IP);
    a.and(FIELD, 0xF0);
    a.jump_unequal(FIELD, 0x60, Label::Pass);
    a.load(1, FIELD, FRAME, IPV6_NEXT_HEADER);
    a.jump_unequal(FIELD, libc::IPPROTO_UDP, Label::Pass);
    for (nth, (ip, port)) in of_family(destinations, SocketAddr::is_ipv6).enumerate() {
        a.destination(IPV6_PORT, port, IPV6_DESTINATION, &ip, Label::NextV6(nth));
    }
    a.jump(Label::Pass);

    a.place(Label::Take);
    a.load(4, 2, CONTEXT, RX_QUEUE_INDEX);
    a.load_map(1, map);
    a.set(3, otherwise as i32);
    a.call(REDIRECT_MAP);
    a.exit();

    a.place(Label::Pass);
    a.set(R0, Action::Pass as i32);
    a.exit();
    a.finish()
}

/// Addresses and ports as they lie in a packet.
fn of_family(
    destinations: &[SocketAddr],
    is_it: impl Fn(&SocketAddr) -> bool,
) -> impl Iterator<Item = (Vec<u8>, u16)> {
    let bytes = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let chosen = destinations.iter().copied().filter(move |at| is_it(at));
    chosen.map(move |at| (bytes(at.ip()), at.port()))
}

/// A number as a register holds it that was loaded from a field in network order.
fn network_order(value: u16) -> i32 {
    i32::from(u16::from_ne_bytes(value.to_be_bytes()))
}

/// Places that are jumped to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Label {
    Tagged,
    Network,
    V4,
    V6,
    /// Behind the n-th comparison.
    NextV4(usize),
    NextV6(usize),
    Take,
    Pass,
}

/// Instructions one by one, and jumps to places that come later.
#[derive(Default)]
struct Assembler {
    code: Vec<Instruction>,
    jumps: Vec<(usize, Label)>,
    places: Vec<(Label, usize)>,
}

impl Assembler {
    fn push(&mut self, code: u32, to: u8, from: u8, offset: i16, immediate: i32) {
        let registers = to | from << 4;
        self.code.push(Instruction { code: code as u8, registers, offset, immediate });
    }

    /// Loads a field of so many bytes that lies at `offset` from where `from` points.
    fn load(&mut self, bytes: u32, to: u8, from: u8, offset: i16) {
        let size = match bytes {
            1 => libc::BPF_B,
            2 => libc::BPF_H,
            _ => libc::BPF_W,
        };
        self.push(libc::BPF_LDX | libc::BPF_MEM | size, to, from, offset, 0);
    }

    fn set(&mut self, to: u8, value: i32) {
        self.push(BPF_ALU64 | BPF_MOV | libc::BPF_K, to, 0, 0, value);
    }

    fn add(&mut self, to: u8, value: i32) {
        self.push(BPF_ALU64 | libc::BPF_ADD | libc::BPF_K, to, 0, 0, value);
    }

    fn and(&mut self, to: u8, value: i32) {
        self.push(BPF_ALU64 | libc::BPF_AND | libc::BPF_K, to, 0, 0, value);
    }

    /// `LIMIT` = so many bytes behind the frame's start.
    fn limit(&mut self, bytes: i32) {
        self.push(BPF_ALU64 | BPF_MOV | libc::BPF_X, LIMIT, FRAME, 0, 0);
        self.add(LIMIT, bytes);
    }

    /// A frame shorter than that is the stack's; the verifier wants it before each load.
    fn require(&mut self, bytes: i32) {
        self.limit(bytes);
        self.branch(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_X, LIMIT, END, 0, Label::Pass);
    }

    fn jump(&mut self, to: Label) {
        self.branch(libc::BPF_JMP | libc::BPF_JA, 0, 0, 0, to);
    }

    fn jump_below(&mut self, a: u8, b: u8, to: Label) {
        self.branch(libc::BPF_JMP | BPF_JLT | libc::BPF_X, a, b, 0, to);
    }

    fn jump_equal(&mut self, a: u8, value: i32, to: Label) {
        self.branch(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, a, 0, value, to);
    }

    /// Of 32 bits: the 64-bit comparison would extend the sign of `value`.
    fn jump_unequal(&mut self, a: u8, value: i32, to: Label) {
        self.branch(BPF_JMP32 | BPF_JNE | libc::BPF_K, a, 0, value, to);
    }

    fn jump_if_any(&mut self, a: u8, bits: i32, to: Label) {
        self.branch(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, a, 0, bits, to);
    }

    fn branch(&mut self, code: u32, a: u8, b: u8, value: i32, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.push(code, a, b, 0, value);
    }

    /// To `Take` if port and address are these; `next` is behind it.
    fn destination(&mut self, port_at: i16, port: u16, ip_at: i16, ip: &[u8], next: Label) {
        self.load(2, FIELD, FRAME, port_at);
        self.jump_unequal(FIELD, network_order(port), next);
        for (nth, word) in ip.chunks_exact(4).enumerate() {
            self.load(4, FIELD, FRAME, ip_at + 4 * nth as i16);
            let word = i32::from_ne_bytes(word.try_into().expect("four bytes"));
            self.jump_unequal(FIELD, word, next);
        }
        self.jump(Label::Take);
        self.place(next);
    }

    /// A map by its descriptor; takes two places.
    fn load_map(&mut self, to: u8, map: i32) {
        self.push(libc::BPF_LD | BPF_DW | libc::BPF_IMM, to, BPF_PSEUDO_MAP_FD, 0, map);
        self.push(0, 0, 0, 0, 0);
    }

    fn call(&mut self, helper: i32) {
        self.push(libc::BPF_JMP | BPF_CALL, 0, 0, 0, helper);
    }

    fn exit(&mut self) {
        self.push(libc::BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
    }

    fn place(&mut self, label: Label) {
        self.places.push((label, self.code.len()));
    }

    fn finish(mut self) -> Vec<Instruction> {
        for (from, label) in self.jumps {
            let place = self.places.iter().find(|(placed, _)| *placed == label);
            let (_, to) = place.expect("every label that is jumped to has its place");
            let distance = *to as i64 - from as i64 - 1;
            self.code[from].offset = distance.try_into().expect("destinations are limited");
        }
        self.code
    }
}

// What eBPF adds to classic BPF (linux/bpf.h).
const BPF_ALU64: u32 = 0x07;
const BPF_JMP32: u32 = 0x06;
const BPF_DW: u32 = 0x18;
const BPF_MOV: u32 = 0xB0;
const BPF_JNE: u32 = 0x50;
const BPF_JLT: u32 = 0xA0;
const BPF_CALL: u32 = 0x80;
const BPF_EXIT: u32 = 0x90;
const BPF_PSEUDO_MAP_FD: u8 = 1;

#[cfg(test)]
mod tests;
