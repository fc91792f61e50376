//! The embedded resolver: a thread and a socket for each network that answer what `names` knows.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use anyhow::Context;
use os::Waker;

use super::names::{Names, answer};

const PORT: u16 = 53;
/// RFC 1035 section 4.2.1: a question over UDP has at most 512 bytes.
const QUESTION_BYTES_MAX: usize = 512;

/// Answers on port 53 of an own inner address until the waker that it gives wakes.
pub(crate) fn serve(names: &Names, address: IpAddr) -> anyhow::Result<Waker> {
    let socket = UdpSocket::bind(SocketAddr::new(address, PORT))
        .with_context(|| format!("names will not resolve: port 53 of {address} cannot be used"))?;
    let waker = Waker::new().context("cannot make a waker")?;
    let (names, end) = (names.clone(), waker.clone());
    let answer_all = move || {
        let mut buffer = [0; QUESTION_BYTES_MAX];
        while os::wait_readable(&[socket.as_fd(), end.as_fd()], None).is_ok() && !end.is_set() {
            if let Ok((read, asker)) = socket.recv_from(&mut buffer)
                && let Some(reply) = answer(&names, &buffer[..read])
            {
                let _ = socket.send_to(&reply, asker);
            }
        }
    };
    super::spawn("names", answer_all)?;
    Ok(waker)
}
