//! The two XDP programs, assembled here.
//!
//! * The Pod ports' hands every frame to the socket of its interface and queue. Without a socket it
//!   drops: a Pod whose datapath died reaches nobody.
//! * The uplink's takes only what the claims map names, and passes all else to the kernel, so the
//!   node is never cut off from its own network. What is claimed is dropped without a socket, not
//!   passed: the kernel knows nothing of tunnels that are ours.

use std::os::fd::{AsRawFd, RawFd};

use super::bpf::Map;

/// One BPF instruction (`struct bpf_insn`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    /// As it lies in memory.
    pub fn bytes(&self) -> [u8; 8] {
        let [o0, o1] = self.offset.to_ne_bytes();
        let [i0, i1, i2, i3] = self.immediate.to_ne_bytes();
        [self.code, self.registers, o0, o1, i0, i1, i2, i3]
    }
}

/// A register: R0 answers, R1 to R5 are arguments and lost in calls, R6 to R9 are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Register {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    /// One past the end of the stack frame.
    Stack = 10,
}
use Register::{R0, R1, R2, R3, R4, R5, R6, R7, R8, Stack};

/// The size of a memory access.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Size {
    Word = 0x00,
    Half = 0x08,
    Byte = 0x10,
}
use Size::{Byte, Half, Word};

/// Arithmetic on 64 bits.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Operation {
    Add = 0x00,
    And = 0x50,
    ShiftLeft = 0x60,
    ShiftRight = 0x70,
    Move = 0xb0,
}
use Operation::{Add, And, Move, ShiftLeft, ShiftRight};

/// When a jump is taken. Comparisons are unsigned.
#[derive(Clone, Copy)]
#[repr(u8)]
enum When {
    Equal = 0x10,
    Above = 0x20,
    NotEqual = 0x50,
    Below = 0xa0,
}

/// Where jumps go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Label {
    Ipv4,
    Ipv6,
    Ports,
    Lookup,
    Pass,
    Drop,
}

const HELPER_LOOKUP: i32 = 1;
const HELPER_REDIRECT: i32 = 51;
const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;

/// Offsets in `struct xdp_md`.
const CONTEXT_DATA: i16 = 0;
const CONTEXT_DATA_END: i16 = 4;
const CONTEXT_INTERFACE: i16 = 12;
const CONTEXT_QUEUE: i16 = 16;

/// Puts instructions in a row and resolves jumps at the end.
#[derive(Default)]
struct Assembler {
    instructions: Vec<Instruction>,
    jumps: Vec<(usize, Label)>,
    labels: Vec<(Label, usize)>,
}

impl Assembler {
    fn emit(&mut self, code: u8, target: Register, source: u8, offset: i16, immediate: i32) {
        let registers = target as u8 | source << 4;
        self.instructions.push(Instruction { code, registers, offset, immediate });
    }

    fn load(&mut self, size: Size, target: Register, source: Register, offset: i16) {
        self.emit(0x61 | size as u8, target, source as u8, offset, 0);
    }

    fn store(&mut self, size: Size, target: Register, offset: i16, source: Register) {
        self.emit(0x63 | size as u8, target, source as u8, offset, 0);
    }

    fn store_value(&mut self, size: Size, target: Register, offset: i16, value: i32) {
        self.emit(0x62 | size as u8, target, 0, offset, value);
    }

    fn operate(&mut self, operation: Operation, target: Register, source: Register) {
        self.emit(0x0f | operation as u8, target, source as u8, 0, 0);
    }

    fn operate_value(&mut self, operation: Operation, target: Register, value: i32) {
        self.emit(0x07 | operation as u8, target, 0, 0, value);
    }

    /// A map's address: the kernel puts it in place of the descriptor.
    fn load_map(&mut self, target: Register, map: RawFd) {
        const DESCRIPTOR: u8 = 1;
        self.emit(0x18, target, DESCRIPTOR, 0, map);
        self.emit(0, R0, 0, 0, 0);
    }

    fn jump(&mut self, when: When, left: Register, right: Register, label: Label) {
        self.jumps.push((self.instructions.len(), label));
        self.emit(0x0d | when as u8, left, right as u8, 0, 0);
    }

    fn jump_value(&mut self, when: When, left: Register, right: i32, label: Label) {
        self.jumps.push((self.instructions.len(), label));
        self.emit(0x05 | when as u8, left, 0, 0, right);
    }

    fn go(&mut self, label: Label) {
        self.jumps.push((self.instructions.len(), label));
        self.emit(0x05, R0, 0, 0, 0);
    }

    fn label(&mut self, label: Label) {
        self.labels.push((label, self.instructions.len()));
    }

    fn call(&mut self, helper: i32) {
        self.emit(0x85, R0, 0, 0, helper);
    }

    fn exit(&mut self) {
        self.emit(0x95, R0, 0, 0, 0);
    }

    fn finish(mut self) -> Vec<Instruction> {
        for (from, label) in self.jumps {
            let Some(&(_, to)) = self.labels.iter().find(|(name, _)| *name == label) else {
                unreachable!("a jump to {label:?}, which is nowhere");
            };
            // Jumps count from the instruction after; the programs are short.
            self.instructions[from].offset = (to as isize - from as isize - 1) as i16;
        }
        self.instructions
    }
}

/// Hands the frame to the socket of its queue, drops it if there is none. `R6` is the context.
fn redirect(assembler: &mut Assembler, sockets: &Map) {
    assembler.load(Word, R2, R6, CONTEXT_QUEUE);
    assembler.load_map(R1, sockets.as_raw_fd());
    assembler.operate_value(Move, R3, XDP_DROP);
    assembler.call(HELPER_REDIRECT);
    assembler.exit();
}

/// The program of all Pod ports: interface to its first slot, queue added, slot to socket.
pub(super) fn pod(ports: RawFd, sockets: RawFd) -> Vec<Instruction> {
    const INTERFACE: i16 = -4;
    let mut a = Assembler::default();
    a.operate(Move, R6, R1);
    a.load(Word, R2, R6, CONTEXT_INTERFACE);
    a.store(Word, Stack, INTERFACE, R2);
    a.load_map(R1, ports);
    a.operate(Move, R2, Stack);
    a.operate_value(Add, R2, i32::from(INTERFACE));
    a.call(HELPER_LOOKUP);
    a.jump_value(When::Equal, R0, 0, Label::Drop);
    a.load(Word, R2, R0, 0);
    a.load(Word, R3, R6, CONTEXT_QUEUE);
    a.operate(Add, R2, R3);
    a.load_map(R1, sockets);
    a.operate_value(Move, R3, XDP_DROP);
    a.call(HELPER_REDIRECT);
    a.exit();
    a.label(Label::Drop);
    a.operate_value(Move, R0, XDP_DROP);
    a.exit();
    a.finish()
}

/// The program of a Pod's own end, for sockets lent to it: IP to the socket of its queue. What
/// hosts ask their neighbours (ARP, ICMPv6) stays the Pod's kernel's, and so does all when there is
/// no socket.
pub(super) fn loan(sockets: &Map) -> Vec<Instruction> {
    let mut a = Assembler::default();
    a.operate(Move, R6, R1);
    a.load(Word, R7, R6, CONTEXT_DATA);
    a.load(Word, R8, R6, CONTEXT_DATA_END);
    bounds(&mut a, ETHERNET_BYTES + 20);
    a.load(Half, R2, R7, 12);
    a.jump_value(When::Equal, R2, big_endian(0x0800), Label::Lookup);
    a.jump_value(When::NotEqual, R2, big_endian(0x86dd), Label::Pass);
    a.load(Byte, R2, R7, 20);
    a.jump_value(When::Equal, R2, ICMPV6, Label::Pass);
    a.label(Label::Lookup);
    a.load(Word, R2, R6, CONTEXT_QUEUE);
    a.load_map(R1, sockets.as_raw_fd());
    a.operate_value(Move, R3, XDP_PASS);
    a.call(HELPER_REDIRECT);
    a.exit();
    a.label(Label::Pass);
    a.operate_value(Move, R0, XDP_PASS);
    a.exit();
    a.finish()
}

/// The key of the claims map. Without gaps: the map compares all bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub(super) struct ClaimKey {
    /// IPv6, or IPv4 mapped into it.
    pub address: [u8; 16],
    pub protocol: u8,
    pub zero: u8,
    /// Network order.
    pub port: [u8; 2],
}

/// Where the key lies on the stack, and its fields in it.
const KEY: i16 = -(size_of::<ClaimKey>() as i16) - 4;
const KEY_PROTOCOL: i16 = KEY + 16;
const KEY_PORT: i16 = KEY + 18;

const ETHERNET_BYTES: i32 = 14;
const IPV6_BYTES: i32 = 40;
const TCP: i32 = 6;
const UDP: i32 = 17;
const ICMPV6: i32 = 58;

/// The program of the uplink. `R6` context, `R7` packet, `R8` its end, `R4` protocol.
///
/// Seen are TCP and UDP, over IPv4 with or without options, and over IPv6 without extension
/// headers. A fragment that is not the first has no ports and passes; the claimed senders set
/// "don't fragment".
pub(super) fn uplink(claims: &Map, sockets: &Map) -> Vec<Instruction> {
    let mut a = Assembler::default();
    a.operate(Move, R6, R1);
    a.load(Word, R7, R6, CONTEXT_DATA);
    a.load(Word, R8, R6, CONTEXT_DATA_END);
    bounds(&mut a, ETHERNET_BYTES);
    a.load(Half, R2, R7, 12);
    a.jump_value(When::Equal, R2, big_endian(0x0800), Label::Ipv4);
    a.jump_value(When::Equal, R2, big_endian(0x86dd), Label::Ipv6);
    a.go(Label::Pass);

    a.label(Label::Ipv4);
    bounds(&mut a, ETHERNET_BYTES + 20);
    a.load(Byte, R2, R7, 14);
    a.operate(Move, R3, R2);
    a.operate_value(ShiftRight, R3, 4);
    a.jump_value(When::NotEqual, R3, 4, Label::Pass);
    a.operate_value(And, R2, 0xf);
    a.jump_value(When::Below, R2, 5, Label::Pass);
    a.operate_value(ShiftLeft, R2, 2);
    a.load(Half, R3, R7, 20);
    a.operate_value(And, R3, big_endian(0x1fff));
    a.jump_value(When::NotEqual, R3, 0, Label::Pass);
    a.load(Byte, R4, R7, 23);
    a.store_value(Word, Stack, KEY, 0);
    a.store_value(Word, Stack, KEY + 4, 0);
    a.store_value(Word, Stack, KEY + 8, i32::from_ne_bytes([0, 0, 0xff, 0xff]));
    a.load(Word, R5, R7, 30);
    a.store(Word, Stack, KEY + 12, R5);
    a.operate_value(Add, R7, ETHERNET_BYTES);
    a.operate(Add, R7, R2);
    a.go(Label::Ports);

    a.label(Label::Ipv6);
    bounds(&mut a, ETHERNET_BYTES + IPV6_BYTES);
    a.load(Byte, R4, R7, 20);
    for word in 0..4 {
        a.load(Word, R5, R7, 38 + word * 4);
        a.store(Word, Stack, KEY + word * 4, R5);
    }
    a.operate_value(Add, R7, ETHERNET_BYTES + IPV6_BYTES);

    a.label(Label::Ports);
    bounds(&mut a, 4);
    a.store_value(Word, Stack, KEY_PROTOCOL, 0);
    a.store(Byte, Stack, KEY_PROTOCOL, R4);
    a.load(Half, R2, R7, 2);
    a.store(Half, Stack, KEY_PORT, R2);
    // Other protocols have no ports there.
    a.jump_value(When::Equal, R4, TCP, Label::Lookup);
    a.jump_value(When::NotEqual, R4, UDP, Label::Pass);
    a.label(Label::Lookup);
    a.load_map(R1, claims.as_raw_fd());
    a.operate(Move, R2, Stack);
    a.operate_value(Add, R2, i32::from(KEY));
    a.call(HELPER_LOOKUP);
    a.jump_value(When::Equal, R0, 0, Label::Pass);
    redirect(&mut a, sockets);

    a.label(Label::Pass);
    a.operate_value(Move, R0, XDP_PASS);
    a.exit();
    a.finish()
}

fn big_endian(value: u16) -> i32 {
    i32::from(value.to_be())
}

/// Passes packets with fewer than `bytes` bytes from `R7` on.
fn bounds(assembler: &mut Assembler, bytes: i32) {
    assembler.operate(Move, R1, R7);
    assembler.operate_value(Add, R1, bytes);
    assembler.jump(When::Above, R1, R8, Label::Pass);
}
