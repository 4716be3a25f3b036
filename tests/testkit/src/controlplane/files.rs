//! The files and command lines of a control plane's processes.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::options::AuditLevel;
use crate::{
    Result,
    error::Doing as _,
    pki::{self, Authority, Identity},
    ports::Port,
    scratch::Scratch,
};

/// Files that several processes read.
pub(super) struct Files {
    dir: PathBuf,
    audit: AuditLevel,
    address: IpAddr,
}

impl Files {
    pub fn write(scratch: &Scratch, authority: &Authority, audit: AuditLevel, address: IpAddr) -> Result<Self> {
        let files = Self { dir: scratch.join("pki"), audit, address };
        fs::create_dir(&files.dir).doing("make a folder for certificates")?;
        let (private, public) = pki::signing_key()?;
        let serving = authority.server(&[&address.to_string(), "localhost", "kubernetes.default.svc"])?;
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

    pub fn apiserver_args(&self, etcd: &Port, port: &Port) -> Vec<String> {
        let dir = self.dir.display();
        let mut args = vec![
            format!("--etcd-servers=http://127.0.0.1:{}", etcd.number()),
            format!("--secure-port={}", port.number()),
            format!("--bind-address={}", self.address),
            format!("--advertise-address={}", self.address),
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

pub(super) fn etcd_args(scratch: &Scratch, port: &Port, peer_port: &Port) -> Vec<String> {
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

pub(super) fn controller_args(kubeconfig: &Path, files: &Files, controllers: &[String]) -> Vec<String> {
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
