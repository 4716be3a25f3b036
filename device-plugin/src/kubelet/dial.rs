//! Connections to sockets of the kubelet.

use std::path::Path;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

/// A local socket answers at once or not at all.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Connects to the socket at `path`; calls take at most `limit`.
pub(super) async fn dial(path: &Path, limit: Duration) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("unix:{}", path.display()))?;
    endpoint.connect_timeout(CONNECT_LIMIT).timeout(limit).connect().await
}
