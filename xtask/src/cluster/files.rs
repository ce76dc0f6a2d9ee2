//! Configuration files of the programs of the cluster.

use std::{fs, path::Path};

use anyhow::Result;

use super::network::PODS;

pub(super) const PAUSE_IMAGE: &str = "docker.io/forebay/pause:test";

// Longer than the limit: it consists of the text of the files.
pub(super) fn write(state: &Path, runc: &Path) -> Result<()> {
    let s = state.display();
    let runc = runc.display();
    // Without CAP_SYS_RESOURCE runc fails with "can't get final child's PID from pipe" unless
    // restrict_oom_score_adj is set.
    let containerd = format!(
        r#"version = 3
root = "{s}/containerd"
state = "{s}/containerd-run"
[grpc]
address = "{s}/containerd.sock"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{PAUSE_IMAGE}"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
SystemdCgroup = false
BinaryName = "{runc}"
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "{s}/cni"
"#
    );
    let cni = format!(
        r#"{{"cniVersion": "1.0.0", "name": "forebay", "plugins": [
 {{"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
  "ipam": {{"type": "host-local", "ranges": [[{{"subnet": "{PODS}"}}]], "routes": [{{"dst": "0.0.0.0/0"}}], "dataDir": "{s}/ipam"}}}},
 {{"type": "portmap", "capabilities": {{"portMappings": true}}}}]}}
"#
    );
    let kubelet = format!(
        r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
localStorageCapacityIsolation: false
containerRuntimeEndpoint: unix://{s}/containerd.sock
authentication: {{x509: {{clientCAFile: {s}/pki/ca.crt}}, anonymous: {{enabled: false}}, webhook: {{enabled: true}}}}
authorization: {{mode: Webhook}}
tlsCertFile: {s}/pki/server.crt
tlsPrivateKeyFile: {s}/pki/server.key
evictionHard: {{nodefs.available: "1%", imagefs.available: "1%", memory.available: "50Mi"}}
resolvConf: /dev/null
clusterDomain: cluster.local
podLogsDir: {s}/podlogs
"#
    );
    let proxy = format!(
        r"apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: {{kubeconfig: {s}/proxy.conf}}
clusterCIDR: {PODS}
hostnameOverride: node-0
conntrack: {{maxPerCore: 0, min: 0}}
"
    );
    for (file, text) in [
        ("containerd.toml", containerd),
        ("cni/10-forebay.conflist", cni),
        ("kubelet.yaml", kubelet),
        ("proxy.yaml", proxy),
    ] {
        fs::write(state.join(file), text)?;
    }
    Ok(())
}
