//! The kernel steers: a classic BPF program picks the socket from the peer id in the datagram.
//!
//! All reactors' sockets of one listen address form a SO_REUSEPORT group, in reactor order. The
//! kernel runs the program with the datagram's payload at offset 0 and takes the result as the
//! index of the socket, so a heartbeat lands on the core that owns its peer.
//!
//! ```text
//!    length < 12 (no id in it) ───▶ spread(length)
//!    first byte is not 0xBE (text) ▶ spread(word[4..8] + word[8..12])
//!    otherwise (binary)        ───▶ spread(word[8..12])       the id's first four bytes
//!
//!    spread(x) = ((x * 0x9E3779B1 mod 2^32) >> 16) mod reactors
//! ```
//!
//! Words are big-endian, as classic BPF loads them. The length is tested first, since a load past
//! the end ends the program with 0 and would send every runt to reactor 0. Text is spread by its
//! first bytes, where its name is; which reactor owns it takes a SHA-256, so it is handed over.
//!
//! Steering saves hand-overs. It is never a condition of correctness: a program that fails to
//! attach, or a foreign choice of socket, costs time only.

use super::sys::set_option;
use std::io;
use std::os::fd::AsRawFd;

/// The first byte of every binary form; no text starts with it.
const MAGIC: u8 = 0xBE;
/// The peer id's first four bytes lie here.
const ID_OFFSET: u32 = 8;
/// Where the second word lies that text is spread by.
const TEXT_OFFSET: u32 = 4;
/// A shorter datagram has no complete word at [`ID_OFFSET`].
const LEAST_LENGTH: u32 = 12;
/// 2^32 divided by the golden ratio, odd: Knuth's multiplicative hash.
const GOLDEN: u32 = 0x9E37_79B1;
/// The product's upper half is the well mixed one.
const SHIFT: u32 = 16;

/// Which of `reactors` sockets the kernel's program picks for `datagram`.
///
/// For binary forms this is the owner of the peer. 0 when there are no reactors to choose from.
pub fn owner(datagram: &[u8], reactors: u32) -> u32 {
    let word = |offset: u32| {
        let at = offset as usize;
        datagram.get(at..at + 4).map(|bytes| u32::from_be_bytes(bytes.try_into().expect("four")))
    };
    match (datagram.first(), word(TEXT_OFFSET), word(ID_OFFSET)) {
        (Some(&MAGIC), _, Some(id)) => spread(id, reactors),
        (_, Some(second), Some(third)) => spread(second.wrapping_add(third), reactors),
        _ => spread(datagram.len() as u32, reactors),
    }
}

fn spread(word: u32, reactors: u32) -> u32 {
    (word.wrapping_mul(GOLDEN) >> SHIFT).checked_rem(reactors).unwrap_or(0)
}

/// Makes the kernel steer the group that `socket` belongs to.
///
/// `socket` may be any member; the group must exist, that is, be bound with SO_REUSEPORT.
///
/// # Errors
/// As setsockopt(2) with SO_ATTACH_REUSEPORT_CBPF.
pub(super) fn attach(socket: &impl AsRawFd, reactors: u32) -> io::Result<()> {
    let mut program = program(reactors);
    let filter =
        libc::sock_fprog { len: program.len() as libc::c_ushort, filter: program.as_mut_ptr() };
    // The kernel copies the program, so it need not outlive the call.
    set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, filter)
}

/// The program of [`owner`].
fn program(reactors: u32) -> Vec<libc::sock_filter> {
    use libc::{
        BPF_A, BPF_ABS, BPF_ADD, BPF_ALU, BPF_B, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD,
        BPF_LEN, BPF_MISC, BPF_MOD, BPF_MUL, BPF_RET, BPF_RSH, BPF_TAX, BPF_W, BPF_X,
    };
    assert!(reactors > 0, "nothing to steer to");
    let step = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let branch = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter {
        code: (BPF_JMP | code | BPF_K) as u16,
        jt,
        jf,
        k,
    };
    vec![
        step(BPF_LD | BPF_W | BPF_LEN, 0),         //             a = length
        branch(BPF_JGE, LEAST_LENGTH, 0, 8),       //           a runt: spread its length
        step(BPF_LD | BPF_B | BPF_ABS, 0),         //             a = first byte
        branch(BPF_JEQ, u32::from(MAGIC), 0, 2),   //
        step(BPF_LD | BPF_W | BPF_ABS, ID_OFFSET), //     binary: a = id
        step(BPF_JMP | BPF_JA, 4),                 //
        step(BPF_LD | BPF_W | BPF_ABS, TEXT_OFFSET), //   text: a = second word + third word
        step(BPF_MISC | BPF_TAX, 0),
        step(BPF_LD | BPF_W | BPF_ABS, ID_OFFSET),
        step(BPF_ALU | BPF_ADD | BPF_X, 0),
        step(BPF_ALU | BPF_MUL | BPF_K, GOLDEN), //       spread
        step(BPF_ALU | BPF_RSH | BPF_K, SHIFT),
        step(BPF_ALU | BPF_MOD | BPF_K, reactors),
        step(BPF_RET | BPF_A, 0),
    ]
}

#[cfg(test)]
mod tests;
