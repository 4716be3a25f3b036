//! What a control plane should be like.

use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

/// Removes the content of namespaces that are deleted. It starts 5 s after the deletion, which is built in.
pub const NAMESPACE: &str = "namespace-controller";
/// Makes each namespace's service account `default`, without which no pod can be created.
pub const SERVICE_ACCOUNT: &str = "serviceaccount-controller";
/// Deletes what is owned by what is gone.
pub const GARBAGE_COLLECTOR: &str = "garbage-collector-controller";
/// Writes the addresses behind Services, which cluster DNS answers with.
pub const ENDPOINT_SLICE: &str = "endpointslice-controller";
/// Gives each namespace the config map that pods with API tokens mount.
pub const ROOT_CA: &str = "root-ca-certificate-publisher-controller";
/// Fills the roles `admin`, `edit` and `view`, which are made of other roles.
pub const ROLES: &str = "clusterrole-aggregation-controller";
/// Deletes pods of nodes that are gone.
pub const POD_GC: &str = "pod-garbage-collector-controller";

/// What the audit log holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AuditLevel {
    /// Nothing.
    Off,
    /// Requests that change something.
    #[default]
    Writes,
    /// Reads and watches too: for tests that count load.
    All,
}

/// What a control plane should be like.
#[derive(Debug, Clone)]
pub struct ControlPlaneOptions {
    /// Appears in names of folders, processes and errors.
    pub name: String,
    /// The controllers that run, by kube-controller-manager's names: the constants here.
    pub controllers: Vec<String>,
    /// Definitions to install before the controllers start. The garbage
    /// collector looks for new kinds every 30 s only, so install them here.
    pub crds: Vec<CustomResourceDefinition>,
    /// What the audit log holds.
    pub audit: AuditLevel,
    /// Where the API server listens and is reached.
    pub address: IpAddr,
    /// More flags for kube-apiserver.
    pub apiserver_args: Vec<String>,
    /// More flags for kube-controller-manager.
    pub controller_args: Vec<String>,
}

impl ControlPlaneOptions {
    /// For a hub or a Site: namespaces, service accounts, roles and garbage collection.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            controllers: [NAMESPACE, SERVICE_ACCOUNT, ROLES, GARBAGE_COLLECTOR].map(str::to_owned).into(),
            crds: Vec::new(),
            audit: AuditLevel::default(),
            address: Ipv4Addr::LOCALHOST.into(),
            apiserver_args: Vec::new(),
            controller_args: Vec::new(),
        }
    }

    /// An API server alone, for tests of schemas and roles.
    #[must_use]
    pub fn bare(name: &str) -> Self {
        Self::new(name).controllers([])
    }

    /// For a Site with a real node: Services get their endpoint slices.
    #[must_use]
    pub fn real_node(name: &str) -> Self {
        let mut options = Self::new(name);
        options.controllers.extend([ENDPOINT_SLICE, ROOT_CA].map(str::to_owned));
        options
    }

    /// Runs these controllers instead.
    #[must_use]
    pub fn controllers<'a>(mut self, controllers: impl IntoIterator<Item = &'a str>) -> Self {
        self.controllers = controllers.into_iter().map(str::to_owned).collect();
        self
    }

    /// Installs these definitions before the controllers start.
    #[must_use]
    pub fn crds(mut self, crds: impl IntoIterator<Item = CustomResourceDefinition>) -> Self {
        self.crds.extend(crds);
        self
    }

    /// Sets where the API server listens and is reached: an address of this machine, such as a [`crate::Wire`]'s.
    #[must_use]
    pub fn address(mut self, address: IpAddr) -> Self {
        self.address = address;
        self
    }

    /// Sets what the audit log holds.
    #[must_use]
    pub fn audit(mut self, level: AuditLevel) -> Self {
        self.audit = level;
        self
    }

    /// Adds flags for kube-apiserver, such as `--feature-gates=…`.
    #[must_use]
    pub fn apiserver_args<'a>(mut self, args: impl IntoIterator<Item = &'a str>) -> Self {
        self.apiserver_args.extend(args.into_iter().map(str::to_owned));
        self
    }
}
