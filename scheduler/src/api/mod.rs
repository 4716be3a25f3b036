//! The wire to the API server: connections of its own, protobuf lists and watches, bindings.
//!
//! A scheduler binds and reads more than anything else on a Site, so these paths go around the general client: HTTP/2
//! over a fixed number of connections, and protobuf instead of JSON. Certificates, tokens and their refresh are still
//! the client's, from the same `kube::Config`.

mod connections;
mod kinds;
mod lists;
mod reply;
#[cfg(test)]
pub(crate) mod scripted;
mod served;
mod watching;

pub use connections::{Answer, Connections, Method, RequestError, SetupError};
pub(crate) use reply::Reply;
pub use served::is_served;
pub use watching::{Change, Listed, Watch};
