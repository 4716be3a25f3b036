//! etcd, an API server and the controllers that a test asks for.

mod files;
mod kubectl;
mod options;

use std::{
    ffi::OsStr,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::{Namespace, ServiceAccount},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ObjectMeta, PostParams},
};
use serde_json::Value;

use files::{Files, controller_args, etcd_args};
pub use kubectl::KubectlOutput;
pub use options::{
    AuditLevel, ControlPlaneOptions, ENDPOINT_SLICE, GARBAGE_COLLECTOR, NAMESPACE, POD_GC, ROLES, ROOT_CA,
    SERVICE_ACCOUNT,
};

use crate::{
    Audit, ManagedProcess, ProcessSpec, Result,
    error::Doing as _,
    kubeconfig,
    pki::Authority,
    ports::Port,
    scratch::Scratch,
    tools,
    wait::{eventually, wait_for},
};

/// How long anything of the control plane may take to be ready: it takes 3 s on an idle machine.
const START_LIMIT: Duration = Duration::from_mins(2);

/// A running control plane on 127.0.0.1, or where its options say; it ends on drop.
pub struct ControlPlane {
    // Fields are dropped in this order: clients before servers, the folder last.
    controllers: Option<ManagedProcess>,
    apiserver: ManagedProcess,
    etcd: ManagedProcess,
    client: Client,
    authority: Authority,
    kubeconfig: PathBuf,
    options: ControlPlaneOptions,
    port: Port,
    _etcd_ports: [Port; 2],
    scratch: Scratch,
}

impl std::fmt::Debug for ControlPlane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("ControlPlane");
        shown.field("name", &self.options.name).field("server", &self.server());
        shown.finish_non_exhaustive()
    }
}

impl ControlPlane {
    /// Starts one and returns when it is ready: the API server answers, the
    /// CRDs are established and pods can be created in `default`.
    pub async fn start(options: ControlPlaneOptions) -> Result<Self> {
        let kube = tools::path("kube")?;
        let scratch = Scratch::new(&options.name)?;
        let (etcd_port, peer_port, port) = (Port::lease()?, Port::lease()?, Port::lease()?);
        let authority = Authority::new(&format!("atoll-test-{}", options.name))?;
        let files = Files::write(&scratch, &authority, options.audit, options.address)?;

        let spec = |part: &str| {
            ProcessSpec::new(format!("{} {part}", options.name), &kube, scratch.join(format!("{part}.log")))
                .args([part])
        };
        let etcd = ManagedProcess::start(spec("etcd").args(etcd_args(&scratch, &etcd_port, &peer_port)))?;
        let apiserver = ManagedProcess::start(
            spec("apiserver").args(files.apiserver_args(&etcd_port, &port)).args(&options.apiserver_args),
        )?;

        let server = format!("https://{}", SocketAddr::new(options.address, port.number()));
        let admin = authority.client("kubernetes-admin", &["system:masters"])?;
        let config = kubeconfig::render(&server, authority.certificate(), "kubernetes-admin", &admin);
        let kubeconfig = scratch.join("admin.kubeconfig");
        write_kubeconfig(&kubeconfig, &config)?;
        let client = kubeconfig::client(config).await?;

        let mut plane = Self {
            controllers: None,
            apiserver,
            etcd,
            client,
            authority,
            kubeconfig,
            options,
            port,
            _etcd_ports: [etcd_port, peer_port],
            scratch,
        };
        plane.wait_ready().await?;
        plane.install_crds(&plane.options.crds).await?;
        if !plane.options.controllers.is_empty() {
            let spec = ProcessSpec::new(
                format!("{} controller-manager", plane.options.name),
                kube,
                plane.scratch.join("controller-manager.log"),
            );
            let args = controller_args(&plane.kubeconfig, &files, &plane.options.controllers);
            let spec = spec.args(["controller-manager"]).args(args).args(&plane.options.controller_args);
            plane.controllers = Some(ManagedProcess::start(spec)?);
        }
        plane.wait_pods_possible("default").await?;
        Ok(plane)
    }

    /// The API server's URL.
    #[must_use]
    pub fn server(&self) -> String {
        format!("https://{}", self.server_address())
    }

    /// Where the API server listens.
    #[must_use]
    pub fn server_address(&self) -> SocketAddr {
        SocketAddr::new(self.options.address, self.port.number())
    }

    /// The options that it was started with.
    #[must_use]
    pub fn options(&self) -> &ControlPlaneOptions {
        &self.options
    }

    /// A client that may do everything.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The file of a kubeconfig that may do everything.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A client of this user in these groups (two at most), by a client certificate: it may do what RBAC says.
    pub async fn client_as(&self, user: &str, groups: &[&str]) -> Result<Client> {
        kubeconfig::client(self.config_as(user, groups)?).await
    }

    /// The file of a kubeconfig of this user in these groups (two at most).
    ///
    /// A process that runs as a service account gets
    /// `kubeconfig_as("system:serviceaccount:NS:NAME", &["system:serviceaccounts", "system:serviceaccounts:NS"])`.
    pub fn kubeconfig_as(&self, user: &str, groups: &[&str]) -> Result<PathBuf> {
        let path = self.scratch.join(format!("{}.kubeconfig", user.replace(['/', ':'], "_")));
        write_kubeconfig(&path, &self.config_as(user, groups)?)?;
        Ok(path)
    }

    fn config_as(&self, user: &str, groups: &[&str]) -> Result<Value> {
        let identity = self.authority.client(user, groups)?;
        Ok(kubeconfig::render(&self.server(), self.authority.certificate(), user, &identity))
    }

    /// The authority that signs this control plane's certificates.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Its audit log.
    #[must_use]
    pub fn audit(&self) -> Audit {
        Audit::new(self.scratch.join("audit.log"))
    }

    /// A folder that goes with the control plane: for logs and the like.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.scratch.path()
    }

    /// The API server's process, to kill, stop or measure.
    #[must_use]
    pub fn apiserver(&self) -> &ManagedProcess {
        &self.apiserver
    }

    /// etcd's process.
    #[must_use]
    pub fn etcd(&self) -> &ManagedProcess {
        &self.etcd
    }

    /// kube-controller-manager's process, if any controllers run.
    #[must_use]
    pub fn controllers(&self) -> Option<&ManagedProcess> {
        self.controllers.as_ref()
    }

    /// Waits until the API server is ready, for example after a restart.
    pub async fn wait_ready(&self) -> Result<()> {
        let what = format!("{}'s API server to be ready", self.options.name);
        let limit = Duration::from_secs(5);
        let ready = eventually(&what, START_LIMIT, async || {
            if let Err(error) = self.etcd.check_running().and_then(|()| self.apiserver.check_running()) {
                return Ok(Err(error));
            }
            let request = http::Request::get("/readyz").body(Vec::new()).map_err(|error| error.to_string())?;
            match tokio::time::timeout(limit, self.client.request_text(request)).await {
                Ok(Ok(_)) => Ok(Ok(())),
                Ok(Err(error)) => Err(format!("{error}\n{}", self.apiserver.log_tail(10))),
                Err(_) => Err("no answer".to_owned()),
            }
        });
        ready.await?
    }

    /// Kills the API server, starts it again and waits until it is ready.
    pub async fn restart_apiserver(&self) -> Result<()> {
        self.apiserver.restart().await?;
        self.wait_ready().await
    }

    /// Ends everything in order. Dropping does the same with SIGKILL, which is faster.
    pub async fn stop(self) -> Result<()> {
        let limit = Duration::from_secs(20);
        if let Some(controllers) = &self.controllers {
            controllers.terminate(limit).await?;
        }
        self.apiserver.terminate(limit).await?;
        self.etcd.terminate(limit).await?;
        Ok(())
    }

    /// Creates definitions and waits until they are served.
    pub async fn install_crds(&self, crds: &[CustomResourceDefinition]) -> Result<()> {
        let api: Api<CustomResourceDefinition> = Api::all(self.client());
        for crd in crds {
            api.create(&PostParams::default(), crd).await.doing(format!("create CRD {}", crd.name_any()))?;
        }
        for crd in crds {
            wait_for(&api, &crd.name_any(), "to be established", START_LIMIT, |crd| {
                let conditions = crd.status.iter().flat_map(|status| status.conditions.iter().flatten());
                conditions.into_iter().any(|c| c.type_ == "Established" && c.status == "True")
            })
            .await?;
        }
        Ok(())
    }

    /// Creates a namespace and waits until pods can be created in it.
    pub async fn create_namespace(&self, name: &str) -> Result<()> {
        let namespace = Namespace {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            ..Namespace::default()
        };
        Api::all(self.client())
            .create(&PostParams::default(), &namespace)
            .await
            .doing(format!("create namespace {name}"))?;
        self.wait_pods_possible(name).await
    }

    async fn wait_pods_possible(&self, namespace: &str) -> Result<()> {
        if !self.options.controllers.iter().any(|name| name == SERVICE_ACCOUNT) {
            return Ok(());
        }
        let api: Api<ServiceAccount> = Api::namespaced(self.client(), namespace);
        let found = wait_for(&api, "default", "to be made", START_LIMIT, |_| true).await;
        if let Some(controllers) = &self.controllers {
            controllers.check_running()?;
        }
        found.map(drop)
    }

    /// Runs kubectl with the admin's kubeconfig.
    pub async fn kubectl<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<KubectlOutput> {
        self.kubectl_with(&self.kubeconfig, args, "").await
    }

    /// Runs kubectl with the admin's kubeconfig and `input` on its standard input, for `apply -f -`.
    pub async fn kubectl_input<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
        input: &str,
    ) -> Result<KubectlOutput> {
        self.kubectl_with(&self.kubeconfig, args, input).await
    }

    /// Runs kubectl with a kubeconfig from [`ControlPlane::kubeconfig_as`]. Atoll's plugin is found if it is built.
    pub async fn kubectl_with<S: AsRef<OsStr>>(
        &self,
        kubeconfig: &Path,
        args: impl IntoIterator<Item = S>,
        input: &str,
    ) -> Result<KubectlOutput> {
        let args = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        // Its caches and preferences are the test's own.
        kubectl::run(kubeconfig, self.scratch.path(), args, input).await
    }

    /// Starts Kubernetes' own scheduler, for comparisons; `config` is a file with a `KubeSchedulerConfiguration`.
    pub fn start_kube_scheduler(&self, config: Option<&Path>, args: &[&str]) -> Result<ManagedProcess> {
        let name = format!("{} scheduler", self.options.name);
        let spec = ProcessSpec::new(name, tools::path("kube")?, self.scratch.join("scheduler.log"))
            .args(["scheduler", "--leader-elect=false", "--secure-port=0"])
            .args(["--kube-api-qps=10000", "--kube-api-burst=20000"]);
        let spec = match config {
            Some(config) => spec.args([OsStr::new("--config"), config.as_os_str()]),
            None => spec.args([OsStr::new("--kubeconfig"), self.kubeconfig.as_os_str()]),
        };
        ManagedProcess::start(spec.args(args))
    }
}

fn write_kubeconfig(path: &Path, config: &Value) -> Result<()> {
    fs::write(path, config.to_string()).doing(format!("write {}", path.display()))
}
