//! The rig is what it says: each kind of site does to datagrams what the tables tell.

use std::collections::BTreeMap;

use lab::{Failure, Host, Rig, Site, oracle, probe};

#[test]
fn every_site_behaves_as_the_table_says() {
    lab::run(|rig| {
        let server = rig.host("server", Site::Server)?;
        let echo = probe::Echo::start(&server)?;
        let hosts = one_of_each(rig, "a")?;
        let seen: BTreeMap<Site, _> = std::thread::scope(|scope| {
            let probes = hosts
                .iter()
                .map(|host| (host.site(), scope.spawn(|| probe::behaviour(host, &echo))));
            let probes: Vec<_> = probes.collect();
            probes
                .into_iter()
                .map(|(site, probe)| Ok((site, probe.join().expect("a probe does not panic")?)))
                .collect::<Result<_, Failure>>()
        })?;
        let expected: BTreeMap<Site, _> = Site::ALL.iter().map(|site| (*site, oracle::behaviour(*site))).collect();
        assert_eq!(seen, expected);
        Ok(())
    });
}

#[test]
fn who_can_reach_whom_is_as_the_table_says() {
    lab::run(|rig| {
        let server = rig.host("server", Site::Server)?;
        let echo = probe::Echo::start(&server)?;
        let (here, there) = (one_of_each(rig, "a")?, one_of_each(rig, "b")?);
        let pairs = here
            .iter()
            .enumerate()
            .flat_map(|(i, a)| there[i..].iter().map(move |b| (a, b)));
        let wrong: Vec<String> = std::thread::scope(|scope| {
            let punches = pairs.map(|(a, b)| (a.site(), b.site(), scope.spawn(|| probe::punch(a, b, &echo))));
            let punches: Vec<_> = punches.collect();
            let differs = punches.into_iter().filter_map(|(a, b, punch)| {
                let direct = punch.join().expect("a punch does not panic");
                match direct {
                    Ok(direct) if direct == oracle::direct(a, b) => None,
                    other => Some(format!("{a:?} and {b:?}: {other:?}")),
                }
            });
            differs.collect()
        });
        assert!(wrong.is_empty(), "not as in the table: {wrong:#?}");
        Ok(())
    });
}

fn one_of_each(rig: &mut Rig, prefix: &str) -> Result<Vec<Host>, Failure> {
    Site::ALL
        .iter()
        .enumerate()
        .map(|(number, site)| rig.host(&format!("{prefix}{number}"), *site))
        .collect()
}
