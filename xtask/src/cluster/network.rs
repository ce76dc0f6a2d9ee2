//! The cluster's network namespace: one bridge as the node's own interface and no
//! default route, so no packet leaves.

use std::process::Command;

use anyhow::Result;

use super::NAMESPACE;
use crate::run;

/// 198.18.0.0/15 is the range for tests of network devices (RFC 2544).
pub(super) const NODE: &str = "198.18.0.1";
pub(super) const PODS: &str = "198.18.1.0/24";
pub(super) const SERVICES: &str = "198.19.0.0/16";
/// The API server's own Service: the first of [`SERVICES`].
pub(super) const API_SERVICE: &str = "198.19.0.1";

/// A program inside. Not by `ip netns exec`: that hides /sys/fs/cgroup.
pub(super) fn inside(program: &str) -> Command {
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
        // Services are reached from the node, too; where to is decided after the route.
        &["route", "add", SERVICES, "dev", "eth0"],
    ] {
        ip(&[&["-n", NAMESPACE], args].concat())?;
    }
    run::quiet(inside("sysctl").args(["-qw", "net.ipv4.ip_forward=1"]))
}

/// The network namespaces there are.
pub(super) fn namespaces() -> Vec<String> {
    let list = run::output(Command::new("ip").args(["netns", "list"])).unwrap_or_default();
    list.lines().filter_map(|line| line.split_whitespace().next()).map(String::from).collect()
}

/// The cluster's namespace, and those of its pods that were killed before the
/// runtime could remove theirs; none that was there `before` the cluster.
pub(super) fn remove(before: &[String]) {
    for name in namespaces() {
        let ours = name == NAMESPACE || (name.starts_with("cni-") && !before.contains(&name));
        if ours {
            let _ = run::quiet(Command::new("ip").args(["netns", "del", &name]));
        }
    }
}
