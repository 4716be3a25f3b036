//! A Site's end of the protocol without an agent behind it: certificates made by the hub's own CA, TLS, HTTP/2 and frames
//! of gRPC, each open to whoever wants them otherwise than they should be.

pub mod chance;
mod identity;
mod link;

pub use identity::{Authority, Identity, PkiError, Validity};
pub use link::{Call, Endpoint, Incoming, JOIN, Link, LinkError, MAX_FRAME, RENEW, SESSION, frame, message};
