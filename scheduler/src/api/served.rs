//! What the API server has.

use std::time::Duration;

use atoll_runtime::backoff::Backoff;

const RETRY_BASE: Duration = Duration::from_millis(200);
const RETRY_CAP: Duration = Duration::from_secs(20);

/// Whether a kind is served: group and version such as `atoll.dev/v1alpha1`, and the plural name. Asks until there is
/// an answer.
pub async fn is_served(client: &kube::Client, group_version: &str, plural: &str) -> bool {
    let backoff = Backoff::new(RETRY_BASE, RETRY_CAP);
    loop {
        match client.list_api_group_resources(group_version).await {
            Ok(list) => return list.resources.iter().any(|resource| resource.name == plural),
            Err(kube::Error::Api(status)) if status.code == 404 => return false,
            Err(error) => {
                let pause = backoff.next(&());
                tracing::warn!(group_version, %error, ?pause, "cannot ask what the API server has");
                tokio::time::sleep(pause).await;
            }
        }
    }
}
