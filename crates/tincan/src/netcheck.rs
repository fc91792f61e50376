//! What the network around this node lets through: UDP, address families, NAT mapping and filtering (RFC 5780).
