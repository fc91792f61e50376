//! The contract file: every method and event with its schema, as an OpenRPC document.
//!
//! Promises: the file `docs/contract.json` says what the code says; a change must show in review.

use serde_json::{Value, json};

use crate::control::ControlCall;
use crate::link::{API_VERSION, Event, LinkCall};
use crate::rpc::{MethodDoc, schema};

/// The whole contract.
pub fn document() -> Value {
    json!({
        "openrpc": "1.3.2",
        "info": { "title": "IPOP", "version": API_VERSION.to_string() },
        "x-link-api": { "socket": "STATE/tincan.sock", "methods": methods(LinkCall::contract()), "event": schema::<Event>() },
        "x-control-api": { "socket": "STATE/control.sock" },
        "methods": methods(ControlCall::contract()),
    })
}

fn methods(docs: Vec<MethodDoc>) -> Vec<Value> {
    docs.into_iter().map(method).collect()
}

fn method(doc: MethodDoc) -> Value {
    json!({
        "name": doc.name,
        "summary": doc.summary,
        "paramStructure": "by-name",
        "params": [{ "name": "params", "schema": doc.params }],
        "result": { "name": "result", "schema": doc.result },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `IPOP_WRITE_CONTRACT=1 cargo nextest run -p api contract` writes the file anew.
    #[test]
    fn contract_file_is_fresh() {
        let path = std::env::var("CARGO_MANIFEST_DIR").expect("cargo runs tests") + "/../../docs/contract.json";
        let fresh = serde_json::to_string_pretty(&document()).expect("a document is JSON") + "\n";
        if std::env::var_os("IPOP_WRITE_CONTRACT").is_some() {
            std::fs::write(&path, &fresh).expect("docs/ is writable");
        }
        let file = std::fs::read_to_string(&path).expect("docs/contract.json is there");
        assert!(
            file == fresh,
            "docs/contract.json differs from the code: review the change, then write it anew"
        );
    }
}
