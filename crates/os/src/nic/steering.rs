//! Which queue of an interface a frame waits at: a small program in the kernel says so (eBPF), or else its flow.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use libc::c_int;

use crate::PerCore;

/// Has the frames that a core hands over wait at that core's queue; refused where programs may not be loaded (CAP_BPF).
pub(super) fn by_core(queue: &OwnedFd, per_core: PerCore) -> io::Result<()> {
    let program = load(&program(per_core))?;
    set(queue, program.as_raw_fd())
}

/// Has frames wait at the queue that was written to last with frames of their flow.
pub(super) fn by_flow(queue: &OwnedFd) -> io::Result<()> {
    set(queue, -1)
}

fn set(queue: &OwnedFd, program: c_int) -> io::Result<()> {
    // SAFETY: the kernel reads one int, which outlives the call, and holds the program itself.
    let outcome = unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETSTEERINGEBPF as _, &program) };
    if outcome < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// One instruction (`struct bpf_insn`, linux/bpf.h); every register is r0.
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

// linux/bpf.h, and the numbering of helpers there.
const CALL: u8 = 0x85;
const MODULO: u8 = 0x97;
const TIMES: u8 = 0x27;
const PLUS: u8 = 0x07;
const EXIT: u8 = 0x95;
const GET_SMP_PROCESSOR_ID: i32 = 8;

fn program(PerCore { first, step, cores }: PerCore) -> [Instruction; 5] {
    let instruction = |code, immediate| Instruction {
        code,
        registers: 0,
        offset: 0,
        immediate,
    };
    [
        instruction(CALL, GET_SMP_PROCESSOR_ID),
        instruction(MODULO, cores.into()),
        instruction(TIMES, step.into()),
        instruction(PLUS, first.into()),
        instruction(EXIT, 0),
    ]
}

/// The head of `union bpf_attr` for BPF_PROG_LOAD, whose further fields are zero.
#[repr(C)]
struct Load {
    kind: u32,
    instructions: u32,
    program: u64,
    license: u64,
    log: [u64; 2],
    version_and_flags: u64,
}

const BPF_PROG_LOAD: c_int = 5;
const BPF_PROG_TYPE_SOCKET_FILTER: u32 = 1;

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let license = c"MIT";
    let load = Load {
        kind: BPF_PROG_TYPE_SOCKET_FILTER,
        instructions: program.len() as u32,
        program: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log: [0; 2],
        version_and_flags: 0,
    };
    // SAFETY: the kernel reads the attributes, and what they point to, which all outlive the call.
    let outcome = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of::<Load>()) };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel gave a new descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(outcome as c_int) })
}
