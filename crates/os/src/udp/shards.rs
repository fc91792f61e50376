//! Several sockets on one port (SO_REUSEPORT), and a small program in the kernel that says which of them a datagram waits at.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, Socket, Type};

use super::config::{Choice, PerCore, Steering};
use super::set_option;

/// The second and further sockets beside `first`, which is bound already: so no other program's socket can be there.
pub(super) fn open(first: &Socket, address: SocketAddr, steering: &Steering) -> io::Result<Vec<Socket>> {
    set_option(first, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    let others = (1..steering.shards)
        .map(|_| open_one(address))
        .collect::<io::Result<Vec<_>>>()?;
    // Without the program (before Linux 4.5) the kernel spreads by address: all sockets are read, so nothing is lost.
    let _ = attach(first, steering);
    Ok(others)
}

fn open_one(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Offset of what the kernel knows of a datagram beside its bytes, and there the number of the core (SKF_AD_CPU, linux/filter.h).
const CORE: usize = (libc::SKF_AD_OFF + libc::SKF_AD_CPU) as u32 as usize;

/// Attaches the program (SO_ATTACH_REUSEPORT_CBPF, socket(7)), in place of one that is there; what it gives is the number of a
/// socket, in the order of their binding.
pub(super) fn attach(socket: &Socket, steering: &Steering) -> io::Result<()> {
    let mut program = program(steering);
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    let length = size_of_val(&filter) as libc::socklen_t;
    // SAFETY: the kernel copies the program, which outlives the call.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const filter).cast(),
            length,
        )
    };
    if outcome < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn program(steering: &Steering) -> Vec<libc::sock_filter> {
    let instruction = |code: u32, k: usize, (jt, jf)| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k: k as u32,
    };
    let plain = |code, k: usize| instruction(code, k, (0, 0));
    let mut program = vec![
        // The first byte of the datagram, kept in X.
        plain(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0),
        plain(libc::BPF_MISC | libc::BPF_TAX, 0),
        plain(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, steering.mask.into()),
        instruction(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            steering.value.into(),
            (1, 0),
        ),
        plain(libc::BPF_RET | libc::BPF_K, 0),
    ];
    match steering.choice {
        Choice::Number(bits) => program.extend([
            plain(libc::BPF_MISC | libc::BPF_TXA, 0),
            plain(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, bits.into()),
        ]),
        Choice::Core(PerCore { first, step, cores }) => program.extend([
            plain(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, CORE),
            plain(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, cores.into()),
            plain(libc::BPF_ALU | libc::BPF_MUL | libc::BPF_K, step.into()),
            plain(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_K, first.into()),
        ]),
    }
    program.extend([
        plain(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, steering.shards),
        plain(libc::BPF_RET | libc::BPF_A, 0),
    ]);
    program
}
