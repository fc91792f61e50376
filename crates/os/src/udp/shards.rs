//! Several sockets on one port (SO_REUSEPORT), and a small program in the kernel that says which of them a datagram waits at.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, Socket, Type};

use super::config::Steering;
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

/// Attaches the program (SO_ATTACH_REUSEPORT_CBPF, socket(7)); what it gives is the number of a socket, in the order of their binding.
fn attach(socket: &Socket, steering: &Steering) -> io::Result<()> {
    let instruction = |code: u32, k: usize, (jt, jf)| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k: k as u32,
    };
    let plain = (0, 0);
    let Steering {
        mask,
        value,
        number,
        shards,
    } = *steering;
    let mut program = [
        // The first byte of the datagram, kept in X.
        instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, plain),
        instruction(libc::BPF_MISC | libc::BPF_TAX, 0, plain),
        instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, mask.into(), plain),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value.into(), (0, 4)),
        instruction(libc::BPF_MISC | libc::BPF_TXA, 0, plain),
        instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, number.into(), plain),
        instruction(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, shards, plain),
        instruction(libc::BPF_RET | libc::BPF_A, 0, plain),
        instruction(libc::BPF_RET | libc::BPF_K, 0, plain),
    ];
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
