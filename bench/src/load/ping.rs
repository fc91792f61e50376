//! Round trips, by the system's ping.

use std::net::IpAddr;

use lab::Host;

/// Round trips of pings with pauses of 5 ms between them, milliseconds. Those that were lost are not among them.
pub(crate) fn round_trips(host: &Host, target: IpAddr, count: usize) -> anyhow::Result<Vec<f64>> {
    let text = host.run(
        "ping",
        &["-n", "-c", &count.to_string(), "-i", "0.005", &target.to_string()],
    )?;
    Ok(times(&text))
}

/// The times in what ping prints.
fn times(text: &str) -> Vec<f64> {
    text.lines()
        .filter_map(|line| line.split_once("time=")?.1.split(' ').next()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_lines_are_read() {
        let text = "PING 10.0.0.2 (10.0.0.2) 56(84) bytes of data.\n\
                    64 bytes from 10.0.0.2: icmp_seq=1 ttl=64 time=0.045 ms\n\
                    64 bytes from 10.0.0.2: icmp_seq=2 ttl=64 time=40.1 ms\n\n\
                    --- 10.0.0.2 ping statistics ---\n\
                    2 packets transmitted, 2 received, 0% packet loss, time 1001ms\n";
        assert_eq!(times(text), [0.045, 40.1]);
    }
}
