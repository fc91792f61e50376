//! The rig itself: wires with length, loss, and that nothing stays behind.

use std::time::Duration;

use lab::{Delay, Failure, Rig, Site};

#[test]
fn a_wire_has_the_length_it_is_given() {
    lab::run(|rig| {
        let delay = Delay {
            one_way: Duration::from_millis(20),
            jitter: Duration::ZERO,
        };
        let near = rig.host("near", Site::Public)?;
        let far = rig.distant_host("far", Site::PortRestricted, delay)?;
        far.ping(&near.addresses()[0].to_string())?;
        let text = far.run("ping", &["-c", "3", "-i", "0.05", &near.addresses()[0].to_string()])?;
        // `rtt min/avg/max/mdev = 40.1/40.2/40.3/0.1 ms`
        let least = text
            .rsplit_once("= ")
            .and_then(|(_, figures)| figures.split('/').next()?.parse::<f64>().ok());
        assert!(least.is_some_and(|ms| ms >= 40.0), "{text}");
        Ok(())
    });
}

#[test]
fn what_is_to_be_lost_is_lost() {
    lab::run(|rig| {
        let (a, b) = (rig.host("a", Site::Public)?, rig.host("b", Site::Public)?);
        let target = b.addresses()[0].to_string();
        a.ping(&target)?;
        rig.loss(&a, 1000)?;
        let output = a.output("ping", &["-c", "2", "-i", "0.1", "-W", "1", &target])?;
        assert_eq!(
            output.status.code(),
            Some(1),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
        Ok(())
    });
}

#[test]
fn nothing_of_a_rig_stays_behind() -> Result<(), Failure> {
    let mut rig = Rig::new()?;
    let host = rig.host("host", Site::Cgnat)?;
    let mut sleeping = host.command("sleep");
    let mut sleeper = host.spawn("sleep", sleeping.arg("1000"))?;
    lab::until("the process on the host", Duration::from_secs(5), || {
        match host.processes() {
            none if none.is_empty() => Err("none".into()),
            some => Ok(some),
        }
    })?;
    let folder = rig.folder().to_owned();
    let mark = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    drop(rig);
    assert!(!folder.exists());
    let namespaces = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let left: Vec<_> = namespaces
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&mark))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(
        sleeper.wait(Duration::from_secs(5))?,
        None,
        "the process on the host was not ended"
    );
    Ok(())
}

#[test]
fn each_host_has_a_resolver_file_of_its_own() {
    lab::run(|rig| {
        let (a, b) = (rig.host("a", Site::Public)?, rig.host("b", Site::Public)?);
        a.run("sh", &["-c", "echo nameserver 192.0.2.53 > /etc/resolv.conf"])?;
        assert_eq!(a.run("cat", &["/etc/resolv.conf"])?, "nameserver 192.0.2.53\n");
        assert_eq!(b.run("cat", &["/etc/resolv.conf"])?, "# of the lab\n");
        let below = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        assert!(
            !below.contains("192.0.2.53"),
            "the file of the machine below was changed: {below}"
        );
        Ok(())
    });
}

#[test]
fn hosts_of_one_segment_reach_each_other() {
    lab::run(|rig| {
        let [ann, bob] = rig.neighbours(["ann", "bob"])?;
        ann.ping(&bob.addresses()[0].to_string())?;
        let hosts = rig.lan(&["one", "two", "three"])?;
        hosts[0].ping(&hosts[2].addresses()[0].to_string())?;
        hosts[1].ping(&hosts[0].addresses()[0].to_string())
    });
}
