//! Fuzz targets: for every parser of outside bytes, and every machine that takes them, a plain function over bytes.
//!
//! Promises: a target panics when a promise of the code under it is broken, and never for another reason; the same
//! bytes take the same way, but for keys that TLS and HPKE draw. Refuses to know: who calls it. libFuzzer does
//! (`fuzz_targets`), the program `fuzz` does, and an ordinary test does with the corpus and seeded mutations of it.
#![forbid(unsafe_code)]

mod controller;
pub mod corpus;
pub mod mutate;
mod rendezvous;
mod resolver;
mod script;
mod texts;
mod tincan;

/// One target.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name; its corpus lies in `corpus/NAME`.
    pub name: &'static str,
    /// What is tried: panics when a promise is broken.
    pub run: fn(&[u8]),
    /// Inputs that get far, made by the code of today.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Mutations that the ordinary test tries: fewer where each costs a handshake.
    pub mutations: usize,
}

const fn target(name: &'static str, run: fn(&[u8]), seeds: fn() -> Vec<Vec<u8>>) -> Target {
    Target {
        name,
        run,
        seeds,
        mutations: 4_000,
    }
}

/// A target that costs milliseconds.
const fn slow(name: &'static str, run: fn(&[u8]), seeds: fn() -> Vec<Vec<u8>>) -> Target {
    Target {
        name,
        run,
        seeds,
        mutations: 300,
    }
}

/// Every target.
pub const TARGETS: &[Target] = &[
    target("api_control_line", texts::control_line, texts::control_lines),
    target("api_link_line", texts::link_line, texts::link_lines),
    target("api_server_address", texts::server_address, texts::server_addresses),
    target("api_words", texts::words, texts::some_words),
    target("controller_card", controller::card, controller::cards),
    target("controller_entry", controller::entry, controller::entries),
    target("controller_invite", controller::invite, controller::invites),
    Target {
        mutations: 500,
        ..target("controller_log", controller::log, controller::log_scripts)
    },
    target("controller_message", controller::message, controller::messages),
    target("controller_store", controller::store, controller::stores),
    target("os_vnet_header", texts::vnet_header, texts::vnet_headers),
    target("ipop_resolver", resolver::question, resolver::questions),
    target(
        "rendezvous_scram_client",
        rendezvous::scram_client,
        rendezvous::challenges,
    ),
    target(
        "rendezvous_scram_server",
        rendezvous::scram_server,
        rendezvous::openings,
    ),
    target("rendezvous_stranger", rendezvous::stranger, rendezvous::requests),
    target(
        "rendezvous_turn_server",
        rendezvous::turn_server,
        rendezvous::turn_scripts,
    ),
    target("rendezvous_turn_wire", rendezvous::turn_wire, rendezvous::turn_frames),
    target(
        "rendezvous_xmpp_client",
        rendezvous::xmpp_client,
        rendezvous::server_streams,
    ),
    target(
        "rendezvous_xmpp_server",
        rendezvous::xmpp_server,
        rendezvous::client_streams,
    ),
    target("rendezvous_xml_stream", rendezvous::xml_stream, rendezvous::xml_streams),
    target("tincan_agent", tincan::ice::agent, tincan::ice::agent_scripts),
    target(
        "tincan_binding_answer",
        tincan::ice::binding_answer,
        tincan::ice::stun_messages,
    ),
    target("tincan_candidate", tincan::ice::candidate, tincan::ice::candidates),
    target("tincan_stun", tincan::ice::stun, tincan::ice::stun_messages),
    target(
        "tincan_control_stream",
        tincan::link::control_stream,
        tincan::link::control_streams,
    ),
    slow(
        "tincan_handshake",
        tincan::link::handshake,
        tincan::link::handshake_scripts,
    ),
    target("tincan_hello", tincan::link::hello, tincan::link::hellos),
    Target {
        mutations: 200,
        ..slow("tincan_node", tincan::node::node, tincan::node::scripts)
    },
    target(
        "tincan_netcheck",
        tincan::servers::netcheck,
        tincan::servers::netcheck_scripts,
    ),
    target("tincan_relays", tincan::servers::relays, tincan::servers::relay_scripts),
    target(
        "tincan_turn_framer",
        tincan::servers::turn_framer,
        rendezvous::turn_frames,
    ),
    target("tincan_fast_slice", tincan::joined::slice, tincan::joined::super_frames),
    target("tincan_fast_merge", tincan::joined::merge, tincan::joined::batches),
    target("tincan_fast_inbound", tincan::records::inbound, tincan::records::frames),
    target(
        "tincan_fast_outbound",
        tincan::records::outbound,
        tincan::records::frames,
    ),
    target("tincan_frame", tincan::records::frame, tincan::records::frames),
    target("tincan_parts", tincan::parts::parts, tincan::parts::some),
    target("tincan_transit", tincan::transit::transit, tincan::transit::some),
    target("tincan_record_header", tincan::records::header, tincan::records::sealed),
    target("tincan_record_open", tincan::records::open, tincan::records::sealed),
    target(
        "tincan_sealed_blob",
        tincan::signals::sealed_blob,
        tincan::signals::blobs,
    ),
    target(
        "tincan_sealed_inside",
        tincan::signals::sealed_inside,
        tincan::signals::insides,
    ),
    target("tincan_signal", tincan::signals::signal, tincan::signals::signals),
];

/// The target of that name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
