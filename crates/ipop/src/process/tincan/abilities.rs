//! What the kernel and the CPU do for the fast path: asked for at start, and told where it is missing.
//!
//! Promises: everything works without any of it, only slower; `IPOP_WITHOUT`, a list of `vnet`, `uso`, `gso`, `gro`,
//! `aes`, `workers` and `cores`, leaves parts away, so that the way without them can be tested and measured on any machine.
//! Refuses to know: how frames are cut and joined.

use anyhow::bail;
use os::{Family, Nic, NicConfig, NicKind, UdpConfig, UdpSockets};

use super::workers;

/// The environment variable that leaves parts away.
pub(crate) const WITHOUT: &str = "IPOP_WITHOUT";

/// Parts that are not asked for, though the kernel may have them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Without {
    /// Joined frames from and to the NIC.
    vnet: bool,
    /// Joined UDP frames from and to the NIC.
    uso: bool,
    /// Joined datagrams to the network.
    gso: bool,
    /// Joined datagrams from the network.
    gro: bool,
    /// The CPU's instructions for AES.
    aes: bool,
    /// More than one worker.
    workers: bool,
    /// Little traffic staying on its core.
    cores: bool,
}

impl Without {
    /// As the environment says.
    pub(crate) fn from_env() -> anyhow::Result<Self> {
        match std::env::var(WITHOUT) {
            Ok(list) => Self::parse(&list),
            Err(_) => Ok(Self::default()),
        }
    }

    pub(super) fn parse(list: &str) -> anyhow::Result<Self> {
        let mut without = Self::default();
        for word in list.split(',').filter(|word| !word.is_empty()) {
            match word {
                "vnet" => without.vnet = true,
                "uso" => without.uso = true,
                "gso" => without.gso = true,
                "gro" => without.gro = true,
                "aes" => without.aes = true,
                "workers" => without.workers = true,
                "cores" => without.cores = true,
                _ => bail!("{WITHOUT} is a list of vnet, uso, gso, gro, aes, workers and cores; it has {word:?}"),
            }
        }
        Ok(without)
    }

    /// How to open the sockets.
    pub(crate) fn udp(self, port: u16, workers: usize) -> UdpConfig {
        UdpConfig {
            port,
            gso: !self.gso,
            gro: !self.gro,
            steering: Some(workers::steering(workers)),
            ..UdpConfig::default()
        }
    }

    /// How many workers there should be.
    pub(crate) fn workers(self) -> usize {
        if self.workers { 1 } else { workers::count() }
    }

    /// Whether little traffic is spread over all cores, too.
    pub(crate) fn cores(self) -> bool {
        self.cores
    }

    /// Whether there are instructions for AES-GCM; without them ChaCha20-Poly1305 is faster.
    pub(crate) fn has_aes(self) -> bool {
        !self.aes && cpu_has_aes()
    }

    /// Makes a NIC with what the kernel has of the rest.
    pub(crate) fn make_nic(self, config: &NicConfig) -> Result<Nic, os::Error> {
        let offload = NicConfig {
            offload: true,
            joined_udp: !self.uso,
            ..config.clone()
        };
        // Ethernet frames are neither cut nor joined yet.
        if self.vnet || config.kind == NicKind::Tap {
            return Nic::create(config);
        }
        // An old kernel without headers on frames refuses as if the name were taken; if it is, the second try says so.
        Nic::create(&offload).or_else(|_| Nic::create(config))
    }
}

fn cpu_has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

/// What is missing, and what it costs; what the sockets lost.
pub(crate) fn notes<'a>(sockets: &UdpSockets, nics: impl Iterator<Item = &'a Nic>) -> Vec<String> {
    let mut notes = Vec::new();
    let families = [Family::V4, Family::V6];
    let there = || families.into_iter().filter(|family| sockets.missing(*family).is_none());
    if there().any(|family| sockets.max_segments(family) == 1) {
        notes.push("datagrams leave one by one, at more CPU: the kernel or the network device has no UDP GSO".into());
    }
    if there().any(|family| !sockets.joins_received(family)) {
        notes.push("datagrams come one by one, at more CPU: the kernel has no UDP GRO".into());
    }
    for nic in nics.filter(|nic| nic.kind() == NicKind::Tun) {
        let missing = match (nic.offload().tcp, nic.offload().udp) {
            (false, _) => "frames pass",
            (true, false) => "UDP frames pass",
            (true, true) => continue,
        };
        notes.push(format!(
            "{missing} NIC {} one by one, at more CPU: the kernel joins none (it does from Linux 6.2 on)",
            nic.name()
        ));
    }
    let wanted = UdpConfig::default().buffer;
    if let Some(sizes) = there()
        .filter_map(|family| sockets.buffers(family))
        .min_by_key(|s| s.receive)
        && sizes.receive < wanted
    {
        notes.push(format!(
            "the receive buffer has {} of {} wanted KiB, so bursts are lost: give CAP_NET_ADMIN, or set net.core.rmem_max to {wanted}",
            sizes.receive >> 10,
            wanted >> 10
        ));
    }
    let counts = sockets.counts();
    if counts.kernel_drops > 0 {
        notes.push(format!(
            "{} datagrams were dropped by the kernel because they came faster than they were read",
            counts.kernel_drops
        ));
    }
    if counts.send_full > 0 {
        notes.push(format!(
            "{} sends were given up because the network device took no more",
            counts.send_full
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_read_and_strange_words_are_refused() {
        assert_eq!(Without::parse("").unwrap(), Without::default());
        let some = Without {
            vnet: true,
            gro: true,
            ..Without::default()
        };
        assert_eq!(Without::parse("gro,vnet").unwrap(), some);
        assert!(!Without::parse("aes").unwrap().has_aes());
        assert_eq!(some.has_aes(), cpu_has_aes());
        assert!(Without::parse("gso,tso").is_err());
    }

    #[test]
    fn each_part_can_be_left_away_and_is_missed_aloud() {
        for (list, words) in [
            ("", ""),
            ("gso", "GSO"),
            ("gro", "GRO"),
            ("uso", "UDP frames"),
            ("vnet", "frames pass"),
        ] {
            os::netns::run_in_new(|| {
                let without = Without::parse(list).unwrap();
                let sockets = UdpSockets::bind(&without.udp(0, 2)).unwrap();
                let nic = without.make_nic(&NicConfig::new(NicKind::Tun)).unwrap();
                let tap = without.make_nic(&NicConfig::new(NicKind::Tap)).unwrap();
                assert!(!tap.offload().header);
                let notes = notes(&sockets, [&nic, &tap].into_iter());
                if words.is_empty() {
                    assert_eq!(notes, Vec::<String>::new());
                } else {
                    assert_eq!(notes.len(), 1, "{notes:?}");
                    assert!(notes[0].contains(words), "{notes:?}");
                }
            })
            .unwrap();
        }
    }
}
