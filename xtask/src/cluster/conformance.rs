//! `cargo xtask conformance`: the Gateway API conformance suite against Forebay in the cluster.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{Channel, Cluster, binaries, binaries::go_module, containers, network};
use crate::{
    build,
    image::{self, Image, Layer},
    run,
};

const VERSION: &str = "1.6.3";
const MODULE: &str = "sigs.k8s.io/gateway-api/conformance";
/// Image names of the echo server in the manifests of the suite.
const ECHO_IMAGES: &[&str] = &[
    "registry.k8s.io/gateway-api/echo-basic:v1.5.1",
    "registry.k8s.io/gateway-api/echo-basic:v1.6.0-dev.2",
    "registry.k8s.io/gateway-api/echo-basic:v1.6.0-dev.3",
];
/// The suite waits for this pod, but uses it only for UDP routes, which are not part of the profile. An image that
/// only waits is enough.
const DNS_IMAGE: &str = "registry.k8s.io/coredns/coredns:v1.12.2";
const RELEASE: &str = "conformance";
const NAMESPACE: &str = "forebay-system";

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Run only this test of the suite. No report is written.
    #[arg(long)]
    run_test: Option<String>,
    /// Keep the cluster and Forebay running after the tests.
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(reason) = super::why_unavailable() {
        run::say(&format!("skipped: Gateway API conformance suite: {reason}"));
        return Ok(());
    }
    let suite = build_suite()?;
    let archives = image::write_for_tests(&mut build::programs())?;
    Cluster::default().during(options.keep, |cluster| {
        cluster.load(&archives)?;
        cluster.load(&echo_images(&suite)?)?;
        containers::import_pause_image(cluster, DNS_IMAGE, "coredns")?;
        // Some claimed features are only in the experimental channel.
        cluster.install_crds(Channel::Experimental)?;
        install(cluster)?;
        test(cluster, &suite, options)
    })
}

/// Report of a complete run.
fn report() -> PathBuf {
    run::root().join(format!("tests/conformance/gateway-api-v{VERSION}.yaml"))
}

struct Suite {
    folder: PathBuf,
}

impl Suite {
    fn test(&self) -> PathBuf {
        self.folder.join("conformance.test")
    }

    fn echo(&self) -> PathBuf {
        self.folder.join("echo-basic")
    }
}

/// The suite and its echo server, built once.
fn build_suite() -> Result<Suite> {
    let suite = Suite { folder: binaries::cache()?.join(format!("conformance-{VERSION}")) };
    fs::create_dir_all(&suite.folder)?;
    let source = go_module(MODULE, VERSION)?;
    if !suite.echo().is_file() {
        let work = suite.folder.join("echo-source");
        copy(&source.join("echo-basic"), &work)?;
        // Go modules leave out nested modules, so the suite ships their go.mod under another name.
        for file in ["go.mod", "go.sum"] {
            fs::rename(work.join(format!(".{file}")), work.join(file))?;
        }
        go(&work, &["build", "-ldflags=-s -w", "-o"], &suite.echo(), "building echo-basic")?;
        fs::remove_dir_all(&work)?;
    }
    if !suite.test().is_file() {
        let work = suite.folder.join("suite-source");
        fs::create_dir_all(&work)?;
        fs::write(
            work.join("go.mod"),
            format!(
                "module suite\n\ngo 1.26.0\n\nrequire (\n\t{MODULE} v{VERSION}\n\tsigs.k8s.io/gateway-api v{VERSION}\n)\n"
            ),
        )?;
        fs::write(
            work.join("conformance_test.go"),
            format!(
                "package suite\n\nimport (\n\t\"testing\"\n\n\t\"{MODULE}\"\n)\n\nfunc TestConformance(t *testing.T) {{ conformance.RunConformance(t) }}\n"
            ),
        )?;
        run::quiet(Command::new("go").args(["mod", "tidy"]).current_dir(&work))?;
        go(&work, &["test", "-c", "-o"], &suite.test(), "building the conformance suite")?;
        fs::remove_dir_all(&work)?;
    }
    Ok(suite)
}

fn go(folder: &Path, args: &[&str], output: &Path, what: &str) -> Result<()> {
    let mut go = Command::new("go");
    go.current_dir(folder).env("CGO_ENABLED", "0").args(args).arg(output).arg(".");
    run::step(what, &mut go)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            // Not fs::copy: the module cache is read-only, and so would be the copy.
            fs::write(target, fs::read(entry.path())?)?;
        }
    }
    Ok(())
}

fn echo_images(suite: &Suite) -> Result<Vec<PathBuf>> {
    let mut layer = Layer::new();
    layer.file("echo-basic", 0o755, &fs::read(suite.echo())?)?;
    layer.folder("tmp", 0o1777)?;
    let layer = layer.finish()?;
    ECHO_IMAGES
        .iter()
        .enumerate()
        .map(|(number, name)| {
            let image = Image {
                name: (*name).to_owned(),
                entrypoint: "/echo-basic".to_owned(),
                user: "65532:65532",
                title: "echo-basic",
                description: "Echo server of the Gateway API conformance suite",
                version: VERSION,
                layers: vec![layer.clone()],
            };
            let archive = suite.folder.join(format!("echo-basic-{number}.tar"));
            image.write(&archive)?;
            Ok(archive)
        })
        .collect()
}

fn install(cluster: &Cluster) -> Result<()> {
    let chart = run::root().join("charts/forebay");
    let mut helm = cluster.command("helm", ["upgrade", "--install", RELEASE]);
    helm.arg(chart).args(["--namespace", NAMESPACE, "--create-namespace", "--wait", "--timeout", "120s"]);
    helm.args(["--set", "agent.enabled=false", "--set", "gateway.resources.requests.cpu=50m"]);
    // The suite creates Secrets for listeners in namespaces of its own. There are no pickers of ours.
    helm.args(["--set", "gateway.allSecrets=true", "--set", "tls.enabled=false"]);
    run::step("installing Forebay", helm.stdout(std::process::Stdio::null()))?;
    // The image may have changed under the same tag.
    run::quiet(&mut cluster.command("kubectl", ["rollout", "restart", "deployment", "-n", NAMESPACE]))?;
    run::quiet(
        &mut cluster
            .command("kubectl", ["rollout", "status", "deployment", "-n", NAMESPACE, "--timeout=120s"]),
    )?;
    // The suite reads the supported features from the GatewayClass.
    run::quiet(
        &mut cluster.command(
            "kubectl",
            ["wait", "gatewayclass/forebay", "--for=condition=Accepted", "--timeout=60s"],
        ),
    )
}

fn test(cluster: &Cluster, suite: &Suite, options: &Options) -> Result<()> {
    let mut test = network::command(&suite.test().to_string_lossy());
    test.current_dir(&suite.folder).env("KUBECONFIG", cluster.admin());
    test.args([
        "-test.v",
        "-test.timeout=60m",
        "--gateway-class=forebay",
        "--organization=forebay",
        "--project=forebay",
    ]);
    test.args([format!("--version=v{}", env!("CARGO_PKG_VERSION")).as_str(), "--url=https://forebay.dev"]);
    test.args(["--contact=forebay.dev", "--conformance-profiles=GATEWAY-HTTP"]);
    match &options.run_test {
        Some(name) => {
            test.arg(format!("--run-test={name}"));
        }
        None => {
            let report = report();
            fs::create_dir_all(report.parent().unwrap_or(&suite.folder))?;
            test.arg(format!("--report-output={}", report.display()));
        }
    }
    run::step("Gateway API conformance suite", &mut test)
}
