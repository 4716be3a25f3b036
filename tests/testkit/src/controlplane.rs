//! etcd, an API server and the controllers that a test asks for.

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
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
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::{
    Audit, Error, ManagedProcess, ProcessSpec, Result,
    error::Doing as _,
    kubeconfig,
    pki::{self, Authority, Identity},
    ports::Port,
    scratch::Scratch,
    tools,
    wait::{eventually, wait_for},
};

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

/// How long anything of the control plane may take to be ready: it takes 3 s on an idle machine.
const START_LIMIT: Duration = Duration::from_mins(2);

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

/// A running control plane on 127.0.0.1; it ends on drop.
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
        let files = Files::write(&scratch, &authority, options.audit)?;

        let spec = |part: &str| {
            ProcessSpec::new(format!("{} {part}", options.name), &kube, scratch.join(format!("{part}.log")))
                .args([part])
        };
        let etcd = ManagedProcess::start(spec("etcd").args(etcd_args(&scratch, &etcd_port, &peer_port)))?;
        let apiserver = ManagedProcess::start(
            spec("apiserver").args(files.apiserver_args(&etcd_port, &port)).args(&options.apiserver_args),
        )?;

        let server = format!("https://127.0.0.1:{}", port.number());
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
        format!("https://127.0.0.1:{}", self.port.number())
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
        const LIMIT: Duration = Duration::from_mins(2);
        let args: Vec<OsString> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        let mut path = crate::binaries::dir()?.into_os_string();
        if let Some(inherited) = std::env::var_os("PATH") {
            path.push(":");
            path.push(inherited);
        }
        let mut child = tokio::process::Command::new(tools::path("kube")?)
            .arg("kubectl")
            .args(&args)
            .env("KUBECONFIG", kubeconfig)
            // Its caches and preferences are the test's own.
            .env("HOME", self.scratch.path())
            .env("PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .doing("start kubectl")?;
        let stdin = child.stdin.take();
        let feed = async {
            if let Some(mut stdin) = stdin {
                // kubectl may end without reading; what it says then is the better message.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
        };
        let run = async { tokio::join!(feed, child.wait_with_output()).1 };
        let command = args.join(OsStr::new(" ")).to_string_lossy().into_owned();
        let output = tokio::time::timeout(LIMIT, run)
            .await
            .map_err(|_| Error::Timeout {
                what: format!("kubectl {command}"),
                after: LIMIT,
                last: "it runs on".to_owned(),
            })?
            .doing("run kubectl")?;
        Ok(KubectlOutput {
            command: format!("kubectl {command}"),
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
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

/// What kubectl said.
#[derive(Debug, Clone)]
pub struct KubectlOutput {
    command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error: where refusals are.
    pub stderr: String,
}

impl KubectlOutput {
    /// The standard output of a success; an error with the standard error otherwise.
    pub fn ok(self) -> Result<String> {
        if self.status.success() {
            Ok(self.stdout)
        } else {
            Err(Error::Command { command: self.command, status: self.status.to_string(), stderr: self.stderr })
        }
    }
}

fn write_kubeconfig(path: &Path, config: &Value) -> Result<()> {
    fs::write(path, config.to_string()).doing(format!("write {}", path.display()))
}

/// Files that several processes read.
struct Files {
    dir: PathBuf,
    audit: AuditLevel,
}

impl Files {
    fn write(scratch: &Scratch, authority: &Authority, audit: AuditLevel) -> Result<Self> {
        let files = Self { dir: scratch.join("pki"), audit };
        fs::create_dir(&files.dir).doing("make a folder for certificates")?;
        let (private, public) = pki::signing_key()?;
        let serving = authority.server(&["127.0.0.1", "localhost", "kubernetes.default.svc"])?;
        let kubelet_client = authority.client("kube-apiserver-kubelet-client", &["system:masters"])?;
        files.put("ca.crt", authority.certificate())?;
        files.put("sa.key", &private)?;
        files.put("sa.pub", &public)?;
        files.put_identity("apiserver", &serving)?;
        files.put_identity("kubelet-client", &kubelet_client)?;
        files.put("audit-policy.json", &audit_policy(audit).to_string())?;
        Ok(files)
    }

    fn put(&self, name: &str, content: &str) -> Result<()> {
        fs::write(self.dir.join(name), content).doing(format!("write {name}"))
    }

    fn put_identity(&self, name: &str, identity: &Identity) -> Result<()> {
        self.put(&format!("{name}.crt"), &identity.certificate)?;
        self.put(&format!("{name}.key"), &identity.key)
    }

    fn apiserver_args(&self, etcd: &Port, port: &Port) -> Vec<String> {
        let dir = self.dir.display();
        let mut args = vec![
            format!("--etcd-servers=http://127.0.0.1:{}", etcd.number()),
            format!("--secure-port={}", port.number()),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            format!("--client-ca-file={dir}/ca.crt"),
            format!("--tls-cert-file={dir}/apiserver.crt"),
            format!("--tls-private-key-file={dir}/apiserver.key"),
            format!("--kubelet-client-certificate={dir}/kubelet-client.crt"),
            format!("--kubelet-client-key={dir}/kubelet-client.key"),
            "--kubelet-preferred-address-types=InternalIP,Hostname".to_owned(),
            "--authorization-mode=Node,RBAC".to_owned(),
            // It marks each new node not-ready until the node lifecycle controller, which does not run, clears that.
            "--disable-admission-plugins=TaintNodesByCondition".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-signing-key-file={dir}/sa.key"),
            format!("--service-account-key-file={dir}/sa.pub"),
            "--max-requests-inflight=4000".to_owned(),
            "--max-mutating-requests-inflight=2000".to_owned(),
            "--profiling=false".to_owned(),
        ];
        if self.audit != AuditLevel::Off {
            args.extend([
                format!("--audit-policy-file={dir}/audit-policy.json"),
                format!("--audit-log-path={dir}/../audit.log"),
                // Events are in the log when the answer is, and the log is never rotated.
                "--audit-log-mode=blocking".to_owned(),
                "--audit-log-maxsize=1000000".to_owned(),
            ]);
        }
        args
    }
}

fn audit_policy(level: AuditLevel) -> Value {
    let mut rule = json!({"level": "Metadata"});
    if level == AuditLevel::Writes {
        rule["verbs"] = json!(["create", "update", "patch", "delete", "deletecollection"]);
    }
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [rule],
    })
}

fn etcd_args(scratch: &Scratch, port: &Port, peer_port: &Port) -> Vec<String> {
    let client = format!("http://127.0.0.1:{}", port.number());
    let peer = format!("http://127.0.0.1:{}", peer_port.number());
    vec![
        "--name=test".to_owned(),
        format!("--data-dir={}", scratch.join("etcd").display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=test={peer}"),
        // Tests restart processes, never the machine.
        "--unsafe-no-fsync".to_owned(),
        "--quota-backend-bytes=8589934592".to_owned(),
        "--log-level=warn".to_owned(),
    ]
}

fn controller_args(kubeconfig: &Path, files: &Files, controllers: &[String]) -> Vec<String> {
    let dir = files.dir.display();
    vec![
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--controllers={}", controllers.join(",")),
        "--leader-elect=false".to_owned(),
        "--secure-port=0".to_owned(),
        format!("--root-ca-file={dir}/ca.crt"),
        "--kube-api-qps=1000".to_owned(),
        "--kube-api-burst=2000".to_owned(),
        "--concurrent-namespace-syncs=10".to_owned(),
        "--concurrent-gc-syncs=20".to_owned(),
        "--concurrent-serviceaccount-token-syncs=5".to_owned(),
        "--min-resync-period=12h".to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_audit_policy_leaves_reads_out_unless_asked() {
        let writes = audit_policy(AuditLevel::Writes);
        assert!(!writes["rules"][0]["verbs"].as_array().unwrap().contains(&json!("get")));
        assert!(audit_policy(AuditLevel::All)["rules"][0].get("verbs").is_none());
    }
}
