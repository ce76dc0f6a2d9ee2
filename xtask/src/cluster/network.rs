//! The cluster's network namespace: one bridge as the node's own interface and no
//! default route, so no packet leaves.

use std::process::Command;

use anyhow::Result;

use super::NAMESPACE;
use crate::run;

/// Addresses of 198.18.0.0/15, the range for benchmarks (RFC 2544).
pub(super) const NODE: &str = "198.18.0.1";
pub(super) const PODS: &str = "198.18.1.0/24";
pub(super) const SERVICES: &str = "198.19.0.0/16";
/// Address of the Service `kubernetes`: the first address of [`SERVICES`].
pub(super) const API_SERVICE: &str = "198.19.0.1";

/// A command in the network namespace. Uses nsenter, because `ip netns exec` hides /sys/fs/cgroup.
pub(super) fn command(program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{NAMESPACE}")).arg("--").arg(program);
    for proxy in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
        command.env_remove(proxy);
    }
    command
}

pub(super) fn make() -> Result<()> {
    let ip = |args: &[&str]| run::quiet(Command::new("ip").args(args));
    ip(&["netns", "add", NAMESPACE])?;
    for args in [
        &["link", "set", "lo", "up"][..],
        &["link", "add", "eth0", "type", "bridge"],
        &["addr", "add", &format!("{NODE}/24"), "dev", "eth0"],
        &["link", "set", "eth0", "up"],
        // The node also uses Service addresses. kube-proxy rewrites them after routing.
        &["route", "add", SERVICES, "dev", "eth0"],
    ] {
        ip(&[&["-n", NAMESPACE], args].concat())?;
    }
    run::quiet(command("sysctl").args(["-qw", "net.ipv4.ip_forward=1"]))
}

/// Names of all network namespaces.
pub(super) fn namespaces() -> Vec<String> {
    let list = run::output(Command::new("ip").args(["netns", "list"])).unwrap_or_default();
    list.lines().filter_map(|line| line.split_whitespace().next()).map(String::from).collect()
}

/// Removes the network namespace of the cluster and those of its pods. Namespaces that existed `before` the cluster are
/// kept.
pub(super) fn remove(before: &[String]) {
    for name in namespaces() {
        let is_ours = name == NAMESPACE || (name.starts_with("cni-") && !before.contains(&name));
        if is_ours {
            let _ = run::quiet(Command::new("ip").args(["netns", "del", &name]));
        }
    }
}
