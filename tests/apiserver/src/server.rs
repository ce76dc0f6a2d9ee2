//! kube-apiserver and etcd.

use std::{
    fs,
    net::Ipv4Addr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use forebay_resources::cluster::{self, Rule};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::json;

use crate::process::{Process, find};

const START_TIMEOUT: Duration = Duration::from_secs(120);
const POLL_INTERVAL: Duration = Duration::from_millis(100);
const TOKEN: &str = "for-tests-on-loopback-only";

/// A running API server. Drop kills it and removes its files.
pub struct ApiServer {
    address: Ipv4Addr,
    program: PathBuf,
    /// Dropped before etcd: the supervisor of etcd removes the folder.
    server: Option<Process>,
    _etcd: Process,
    folder: PathBuf,
}

impl ApiServer {
    /// Starts an API server without objects. `None` if the programs are not installed; the reason is printed.
    ///
    /// # Errors
    /// When a program does not start.
    pub async fn start() -> Result<Option<Self>> {
        let (Some(etcd), Some(program)) = (find("etcd"), find("kube-apiserver")) else {
            #[expect(clippy::print_stderr, reason = "a test that is skipped must say so")]
            {
                eprintln!(
                    "skipped: kube-apiserver or etcd not found (set KUBEBUILDER_ASSETS or run `cargo xtask cluster build`)"
                );
            }
            return Ok(None);
        };
        let folder = tempfile::Builder::new().prefix("forebay-apiserver-").tempdir()?.keep();
        let address = address();
        let etcd_url = format!("http://{address}:2379");
        let peer_url = format!("http://{address}:2380");
        let arguments = [
            format!("--data-dir={}", folder.join("etcd").display()),
            format!("--listen-client-urls={etcd_url}"),
            format!("--advertise-client-urls={etcd_url}"),
            format!("--listen-peer-urls={peer_url}"),
            format!("--initial-advertise-peer-urls={peer_url}"),
            format!("--initial-cluster=default={peer_url}"),
            "--unsafe-no-fsync".into(),
        ];
        let etcd = Process::start(&etcd, &arguments, &folder.join("etcd.log"), Some(&folder))?;
        fs::write(folder.join("tokens.csv"), format!("{TOKEN},admin,admin,\"system:masters\"\n"))?;
        let key = rcgen::KeyPair::generate().context("cannot make the key for service accounts")?;
        fs::write(folder.join("accounts.key"), key.serialize_pem())?;
        fs::write(folder.join("accounts.pub"), key.public_key_pem())?;
        let mut server = Self { address, program, server: None, _etcd: etcd, folder };
        server.start_again().await?;
        Ok(Some(server))
    }

    /// Kills the API server. etcd keeps the objects.
    pub fn stop(&mut self) {
        self.server = None;
    }

    /// Starts the API server again and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_again(&mut self) -> Result<()> {
        let Self { address, folder, .. } = &*self;
        let path = |name: &str| folder.join(name).display().to_string();
        let arguments = [
            format!("--etcd-servers=http://{address}:2379"),
            format!("--bind-address={address}"),
            format!("--advertise-address={address}"),
            "--secure-port=6443".into(),
            format!("--cert-dir={}", path("certificates")),
            format!("--token-auth-file={}", path("tokens.csv")),
            "--authorization-mode=RBAC".into(),
            format!("--service-account-key-file={}", path("accounts.pub")),
            format!("--service-account-signing-key-file={}", path("accounts.key")),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            "--service-cluster-ip-range=10.96.0.0/16".into(),
            // No controller creates the default ServiceAccount of namespaces.
            "--disable-admission-plugins=ServiceAccount".into(),
            "--endpoint-reconciler-type=none".into(),
            // Tests with many writes must not measure the limits of the API server.
            "--enable-priority-and-fairness=false".into(),
            "--max-requests-inflight=0".into(),
            "--max-mutating-requests-inflight=0".into(),
        ];
        let log = folder.join("kube-apiserver.log");
        self.server = Some(Process::start(&self.program, &arguments, &log, None)?);
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Ok(client) = self.client().await
                && client.request_text(http::Request::get("/readyz").body(Vec::new())?).await.is_ok()
            {
                return Ok(());
            }
            if Instant::now() > deadline {
                let log = fs::read_to_string(&log).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(20).collect();
                bail!(
                    "kube-apiserver is not ready; the end of its log, last line first:\n{}",
                    tail.join("\n")
                );
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// A client with cluster-admin permissions.
    ///
    /// # Errors
    /// When the API server has not been started yet.
    pub async fn client(&self) -> Result<Client> {
        Ok(cluster::connect(Some(&self.kubeconfig()?)).await?)
    }

    /// A client that impersonates `user` with its RBAC permissions, for example
    /// `system:serviceaccount:NAMESPACE:NAME`.
    ///
    /// # Errors
    /// As [`ApiServer::client`].
    pub async fn client_as(&self, user: &str) -> Result<Client> {
        Ok(cluster::connect(Some(&self.kubeconfig_as(user)?)).await?)
    }

    /// Writes a kubeconfig with cluster-admin permissions.
    ///
    /// # Errors
    /// As [`ApiServer::client`].
    pub fn kubeconfig(&self) -> Result<PathBuf> {
        self.write_kubeconfig("admin", "")
    }

    /// Writes a kubeconfig for [`ApiServer::client_as`].
    ///
    /// # Errors
    /// As [`ApiServer::client`].
    pub fn kubeconfig_as(&self, user: &str) -> Result<PathBuf> {
        self.write_kubeconfig(&user.replace(':', "-"), &format!(", as: \"{user}\""))
    }

    fn write_kubeconfig(&self, name: &str, more: &str) -> Result<PathBuf> {
        let certificate = self.path("certificates/apiserver.crt");
        if !certificate.is_file() {
            bail!("the API server has no certificate yet");
        }
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters: [{{ name: test, cluster: {{ server: \"https://{}:6443\", certificate-authority: {} }} }}]\n\
             users: [{{ name: test, user: {{ token: {TOKEN}{more} }} }}]\n\
             contexts: [{{ name: test, context: {{ cluster: test, user: test }} }}]\n",
            self.address,
            certificate.display()
        );
        let path = self.path(&format!("{name}.kubeconfig"));
        if fs::read_to_string(&path).is_ok_and(|known| known == text) {
            return Ok(path);
        }
        fs::write(&path, text)?;
        Ok(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Grants `user` these rules in one namespace, or in all namespaces if `namespace` is `None`.
    ///
    /// # Errors
    /// When the API server rejects the role.
    pub async fn grant(
        &self,
        user: &str,
        namespace: Option<&str>,
        rules: impl IntoIterator<Item = &Rule>,
    ) -> Result<()> {
        let name = format!("{}-{}", user.replace(':', "-"), namespace.unwrap_or("everywhere"));
        let kind = if namespace.is_some() { "Role" } else { "ClusterRole" };
        let rules: Vec<_> = rules
            .into_iter()
            .map(|rule| json!({ "apiGroups": rule.api_groups, "resources": rule.resources, "verbs": rule.verbs }))
            .collect();
        let role = json!({ "metadata": { "name": name }, "rules": rules });
        let binding = json!({
            "metadata": { "name": name },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user }],
        });
        let client = self.client().await?;
        for (kind, mut object) in [(kind.to_owned(), role), (format!("{kind}Binding"), binding)] {
            object["apiVersion"] = json!("rbac.authorization.k8s.io/v1");
            object["kind"] = json!(kind);
            let resource =
                ApiResource::from_gvk(&GroupVersionKind::gvk("rbac.authorization.k8s.io", "v1", &kind));
            let api: Api<DynamicObject> = match namespace {
                Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
                None => Api::all_with(client.clone(), &resource),
            };
            let params = PatchParams::apply("forebay-tests").force();
            api.patch(&name, &params, &Patch::Apply(&object)).await?;
        }
        Ok(())
    }

    /// Installs CRDs and waits until objects of these kinds can be created.
    ///
    /// # Errors
    /// When the API server rejects a definition.
    pub async fn install(
        &self,
        definitions: impl IntoIterator<Item = CustomResourceDefinition>,
    ) -> Result<()> {
        let api = Api::<CustomResourceDefinition>::all(self.client().await?);
        let names: Vec<String> = {
            let mut names = Vec::new();
            for definition in definitions {
                let name = definition.metadata.name.clone().context("the definition has no name")?;
                api.patch(&name, &PatchParams::apply("forebay-tests").force(), &Patch::Apply(&definition))
                    .await
                    .with_context(|| format!("the API server rejected the definition {name}"))?;
                names.push(name);
            }
            names
        };
        let deadline = Instant::now() + START_TIMEOUT;
        for name in names {
            while !is_established(&api.get(&name).await?) {
                if Instant::now() > deadline {
                    bail!("{name} is not established");
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        }
        Ok(())
    }
}

fn is_established(definition: &CustomResourceDefinition) -> bool {
    let conditions = definition.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|it| it.type_ == "Established" && it.status == "True")
}

/// A random loopback address for each server, so that all servers can use the default ports.
fn address() -> Ipv4Addr {
    let random = rand();
    Ipv4Addr::new(127, 64 | (random[0] & 63), random[1], random[2].clamp(1, 254))
}

fn rand() -> [u8; 8] {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(std::process::id()).to_be_bytes()
}
