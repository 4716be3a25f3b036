//! The configurations of what makes up a real node.

use std::{net::IpAddr, path::Path};

use serde_json::{Value, json};

/// The image that holds a pod's namespaces.
pub(super) const PAUSE: &str = "atoll.test/pause:1";

/// containerd's configuration. Its state and socket are outside of /run, so that the machine's own programs can reach it.
pub(super) fn containerd(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"version = 3
root = "{dir}/containerd"
state = "{dir}/containerd-state"
imports = []
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]

[grpc]
address = "{dir}/containerd.sock"

[ttrpc]
address = "{dir}/containerd.sock.ttrpc"

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{PAUSE}"

[plugins."io.containerd.cri.v1.runtime"]
# Lowering it is refused on machines that are containers themselves.
restrict_oom_score_adj = true
cdi_spec_dirs = ["{dir}/cdi"]

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "{dir}/cni"

[plugins."io.containerd.metadata.v1.bolt"]
no_sync = true
"#
    )
}

/// Pods get addresses on the bridge, and reach each other and the node but nothing beyond.
pub(super) fn cni(bridge: &str, subnet: &str, gateway: &str) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": bridge,
        "plugins": [{
            "type": "bridge",
            "bridge": bridge,
            // The bridge has its address already; making the plugin set it would turn the machine into a router.
            "isGateway": false,
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": subnet, "gateway": gateway}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    })
}

/// What differs between kubelets.
pub(super) struct Kubelet<'a> {
    pub dir: &'a Path,
    pub address: &'a str,
    pub port: u16,
    pub cgroup: &'a str,
}

impl Kubelet<'_> {
    /// Its `KubeletConfiguration`, with `extra` on top.
    pub fn configuration(&self, extra: &Value) -> Value {
        let dir = self.dir.display();
        let mut config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.address,
            "port": self.port,
            "healthzPort": 0,
            "authentication": {
                "anonymous": {"enabled": false},
                "webhook": {"enabled": true},
                "x509": {"clientCAFile": format!("{dir}/ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": format!("{dir}/kubelet.crt"),
            "tlsPrivateKeyFile": format!("{dir}/kubelet.key"),
            "containerRuntimeEndpoint": format!("unix://{dir}/containerd.sock"),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": self.cgroup,
            "failCgroupV1": false,
            "enforceNodeAllocatable": [],
            "failSwapOn": false,
            "localStorageCapacityIsolation": false,
            "makeIPTablesUtilChains": false,
            "clusterDNS": [self.address],
            "clusterDomain": "cluster.local",
            "resolvConf": "",
            "volumePluginDir": format!("{dir}/volume-plugins"),
            // The machine's disk is not the node's own.
            "evictionHard": {
                "memory.available": "1Mi",
                "nodefs.available": "0%",
                "nodefs.inodesFree": "0%",
                "imagefs.available": "0%",
                "imagefs.inodesFree": "0%",
            },
            "imageGCHighThresholdPercent": 100,
            "nodeStatusUpdateFrequency": "2s",
            "syncFrequency": "10s",
            "serializeImagePulls": false,
        });
        if let (Some(config), Some(extra)) = (config.as_object_mut(), extra.as_object()) {
            config.extend(extra.clone());
        }
        config
    }
}

/// `CoreDNS` answers for Services from the node's control plane; it knows no other names.
pub(super) fn corefile(address: &str, ready_at: IpAddr, ready_port: u16, kubeconfig: &Path) -> String {
    format!(
        "cluster.local:53 in-addr.arpa:53 {{
    bind {address}
    errors
    ready {ready_at}:{ready_port}
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {} test
        ttl 0
    }}
}}
",
        kubeconfig.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_can_change_the_kubelet() {
        let kubelet = Kubelet { dir: Path::new("/d"), address: "10.0.0.1", port: 1, cgroup: "/c" };
        let config = kubelet.configuration(&json!({"maxPods": 3, "port": 2}));
        assert_eq!((&config["maxPods"], &config["port"]), (&json!(3), &json!(2)));
        assert_eq!(config["cgroupRoot"], "/c");
    }
}
