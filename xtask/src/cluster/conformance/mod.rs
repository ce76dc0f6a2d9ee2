//! `cargo xtask conformance`: conformance suites against Forebay, each in a cluster of its own. Gateway API's tests the
//! gateway. That of the inference extension tests the gateway with pickers; Forebay's take the place of its reference picker.

mod echo;
mod gateway_api;
mod inference_extension;
mod suite;

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::Result;

use self::suite::Program;
use super::{Channel, Cluster, network};
use crate::{build, image, run};

const RELEASE: &str = "conformance";

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Run only this suite.
    #[arg(long, value_enum)]
    suite: Option<Name>,
    /// Run only this test of the suite. No report is written. Without --suite, a test of Gateway API's.
    #[arg(long)]
    run_test: Option<String>,
    /// Keep the cluster and Forebay running after the tests.
    #[arg(long, requires = "suite")]
    keep: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Name {
    GatewayApi,
    InferenceExtension,
}

/// A conformance suite, and what it needs.
struct Suite {
    title: &'static str,
    program: Program,
    /// Version of Gateway API whose definitions are installed.
    gateway_api: &'static str,
    channel: Channel,
    /// Namespace of Forebay.
    namespace: &'static str,
    /// Further `--set` values of the chart.
    values: &'static [&'static str],
    /// Image names of the echo server in the manifests of the suite.
    echo_images: &'static [&'static str],
    profile: &'static str,
    report: String,
    /// Makes the other images of the manifests.
    images: fn(&Cluster, &Path) -> Result<()>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(reason) = super::why_unavailable() {
        run::say(&format!("skipped: conformance suites: {reason}"));
        return Ok(());
    }
    let names = match (options.suite, &options.run_test) {
        (Some(name), _) => vec![name],
        (None, Some(_)) => vec![Name::GatewayApi],
        (None, None) => vec![Name::GatewayApi, Name::InferenceExtension],
    };
    let archives = image::write_for_tests(&mut build::programs())?;
    names.into_iter().try_for_each(|name| {
        let suite = match name {
            Name::GatewayApi => gateway_api::suite(),
            Name::InferenceExtension => inference_extension::suite(),
        };
        suite.run(&archives, options)
    })
}

impl Suite {
    fn run(&self, archives: &[PathBuf], options: &Options) -> Result<()> {
        let test = self.program.build()?;
        let echo_images = echo::images(self.echo_images)?;
        Cluster::default().during(options.keep, |cluster| {
            cluster.load(archives)?;
            cluster.load(&echo_images)?;
            (self.images)(cluster, test.parent().unwrap_or(&test))?;
            cluster.install_crds(self.channel, self.gateway_api)?;
            self.install(cluster)?;
            self.test(cluster, &test, options)
        })
    }

    fn install(&self, cluster: &Cluster) -> Result<()> {
        let chart = run::root().join("charts/forebay");
        let mut helm = cluster.command("helm", ["upgrade", "--install", RELEASE]);
        helm.arg(chart).args([
            "--namespace",
            self.namespace,
            "--create-namespace",
            "--wait",
            "--timeout",
            "120s",
        ]);
        helm.args(["--set", "agent.enabled=false", "--set", "gateway.resources.requests.cpu=50m"]);
        helm.args(self.values.iter().flat_map(|value| ["--set", value]));
        run::step("installing Forebay", helm.stdout(Stdio::null()))?;
        // The image may have changed under the same tag.
        let mut restart = cluster.command("kubectl", ["rollout", "restart", "deployment"]);
        run::quiet(restart.args(["-n", self.namespace]))?;
        let mut status = cluster.command("kubectl", ["rollout", "status", "deployment"]);
        run::quiet(status.args(["-n", self.namespace, "--timeout=120s"]))?;
        // The suites read the supported features from the GatewayClass.
        let accepted = ["wait", "gatewayclass/forebay", "--for=condition=Accepted", "--timeout=60s"];
        run::quiet(&mut cluster.command("kubectl", accepted))
    }

    fn test(&self, cluster: &Cluster, program: &Path, options: &Options) -> Result<()> {
        let mut test = network::command(&program.to_string_lossy());
        test.current_dir(program.parent().unwrap_or(program)).env("KUBECONFIG", cluster.admin());
        test.args(["-test.v", "-test.timeout=60m", "--gateway-class=forebay"]);
        test.args(["--organization=forebay", "--project=forebay", "--contact=forebay.dev"]);
        test.args([
            format!("--version=v{}", env!("CARGO_PKG_VERSION")).as_str(),
            "--url=https://forebay.dev",
        ]);
        test.arg(format!("--conformance-profiles={}", self.profile));
        match &options.run_test {
            Some(name) => test.arg(format!("--run-test={name}")),
            None => {
                let report = run::root().join("tests/conformance").join(&self.report);
                test.arg(format!("--report-output={}", report.display()))
            }
        };
        run::step(self.title, &mut test)
    }
}
