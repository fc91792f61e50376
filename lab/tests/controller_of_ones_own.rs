//! The link API is enough for anybody's controller: the example in Python makes a network of two.

use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::{Failure, Host, LINK_WITHIN, Process, Site, binary, until};

fn tincan(host: &Host) -> Result<(Process, PathBuf), Failure> {
    let state = host.folder();
    let mut command = host.command(binary()?);
    command.args(["tincan", "--state"]).arg(&state);
    let process = host.spawn("tincan", &mut command)?;
    let socket = state.join("tincan.sock");
    until("the socket of the link API", LINK_WITHIN, || {
        if socket.exists() { Ok(()) } else { Err(process.said()) }
    })?;
    Ok((process, socket))
}

#[test]
fn python_controller() {
    lab::run(|rig| {
        let (ann, bob) = (rig.host("ann", Site::PortRestricted)?, rig.host("bob", Site::Public)?);
        let ((mut ann_tincan, ann_socket), (_bob_tincan, bob_socket)) = (tincan(&ann)?, tincan(&bob)?);
        let example =
            Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default()).join("../examples/controller.py");
        let text = std::fs::read_to_string(&example).unwrap_or_default();
        assert!((1..=80).contains(&text.lines().count()), "an example is short");
        let mut command = ann.command("python3");
        command
            .args(["-I", "-S"])
            .arg(&example)
            .args([&ann_socket, &bob_socket]);
        let mut controller = ann.spawn("controller.py", &mut command)?;
        until("both ends of the link", LINK_WITHIN, || {
            let said = controller.said();
            let both = [
                "10.99.0.1 reaches 10.99.0.2: direct",
                "10.99.0.2 reaches 10.99.0.1: direct",
            ];
            if both.iter().all(|line| said.contains(line)) {
                Ok(())
            } else {
                Err(said)
            }
        })?;
        ann.ping("10.99.0.2")?;
        bob.ping("10.99.0.1")?;
        // The link lives without a controller; a controller does not live without its tincan.
        ann_tincan.signal("TERM")?;
        assert_eq!(ann_tincan.wait(LINK_WITHIN)?, Some(0));
        until("the end of both halves of the controller", LINK_WITHIN, || {
            if controller.is_running() {
                Err("it runs".into())
            } else {
                Ok(())
            }
        })?;
        controller.wait(Duration::ZERO)?;
        until("nothing left on ann", LINK_WITHIN, || match ann.processes() {
            none if none.is_empty() => Ok(()),
            some => Err(format!("{some:?}")),
        })
    });
}
