//! The processes of a node and how they start and end.

pub(crate) mod background;
pub(crate) mod controller;
pub(crate) mod server;
pub(crate) mod supervisor;
pub(crate) mod tincan;
