//! Kubeconfigs with everything inside, and clients from them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

use crate::{Error, Result, error::Doing as _, pki::Identity};

/// A kubeconfig; JSON, which is YAML too.
pub(crate) fn render(server: &str, authority: &str, user: &str, identity: &Identity) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {
            "server": server,
            "certificate-authority-data": STANDARD.encode(authority),
        }}],
        "users": [{"name": user, "user": {
            "client-certificate-data": STANDARD.encode(&identity.certificate),
            "client-key-data": STANDARD.encode(&identity.key),
        }}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
    })
}

/// A client that talks as the kubeconfig says.
pub async fn client(kubeconfig: Value) -> Result<Client> {
    let wrong =
        |source: Box<dyn std::error::Error + Send + Sync>| Error::Kube { doing: "use a kubeconfig".to_owned(), source };
    let kubeconfig: Kubeconfig = serde_json::from_value(kubeconfig).map_err(|error| wrong(error.into()))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|error| wrong(error.into()))?;
    Client::try_from(config).doing("make a client")
}
