//! Rendered charts: permissions of each program, and values that the tests in the cluster do not cover.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use forebay_agent::node::{OWNER_RULES, RULES};
use forebay_cluster_tests::charts::{helm, root};
use forebay_epp::{AGENT_RULES, POOL_RULES};
use forebay_gateway::{READ_RULES, STATUS_RULES, WRITE_RULES};
use forebay_resources::cluster::Rule;
use serde_json::Value;

const SYSTEM: &str = "forebay-system";
const MODELS: &str = "llm-d";
/// Certificates are not generated when a chart is rendered without a cluster.
const EXISTING: &str = "tls.existingSecrets=true";
const POOL_SECRET: &str = "forebay.tls.secretName=forebay-epp-tls";

/// Permissions as `verb resource.group [name]`, by namespace. The empty namespace is the whole cluster.
type Permissions = BTreeMap<String, BTreeSet<String>>;

fn right(verb: &str, resource: &str, group: &str, name: Option<&str>) -> String {
    let dot = if group.is_empty() { "" } else { "." };
    let name = name.map_or_else(String::new, |name| format!(" {name}"));
    format!("{verb} {resource}{dot}{group}{name}")
}

/// Permissions in the rule constants, which the API server tests use. `name` restricts them to one object.
fn of_rules<'a>(rules: impl IntoIterator<Item = &'a Rule>, name: Option<&str>) -> BTreeSet<String> {
    let mut rights = BTreeSet::new();
    for rule in rules {
        for (group, resource) in
            rule.api_groups.iter().flat_map(|group| rule.resources.iter().map(move |it| (group, it)))
        {
            rights.extend(rule.verbs.iter().map(|verb| right(verb, resource, group, name)));
        }
    }
    rights
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// Permissions of each service account in the chart.
fn granted(objects: &[Value]) -> BTreeMap<String, Permissions> {
    let mut accounts: BTreeMap<String, Permissions> = BTreeMap::new();
    for binding in objects.iter().filter(|it| it["kind"].as_str().is_some_and(|it| it.ends_with("Binding"))) {
        let namespace = binding["metadata"]["namespace"].as_str().unwrap_or_default();
        let reference = &binding["roleRef"];
        let role = objects.iter().find(|it| {
            it["kind"] == reference["kind"]
                && it["metadata"]["name"] == reference["name"]
                && it["metadata"]["namespace"].as_str().unwrap_or_default() == namespace
        });
        let role = role.unwrap_or_else(|| panic!("no role for {binding}"));
        let mut rights = BTreeSet::new();
        for rule in role["rules"].as_array().into_iter().flatten() {
            let names: Vec<Option<&str>> = match &rule["resourceNames"] {
                Value::Null => vec![None],
                names => texts(names).map(Some).collect(),
            };
            for group in texts(&rule["apiGroups"]) {
                for resource in texts(&rule["resources"]) {
                    for verb in texts(&rule["verbs"]) {
                        rights.extend(names.iter().map(|name| right(verb, resource, group, *name)));
                    }
                }
            }
        }
        for subject in binding["subjects"].as_array().into_iter().flatten() {
            assert_eq!(subject["kind"], "ServiceAccount", "{binding}");
            let account = subject["name"].as_str().unwrap_or_default().to_owned();
            accounts
                .entry(account)
                .or_default()
                .entry(namespace.to_owned())
                .or_default()
                .extend(rights.clone());
        }
    }
    accounts
}

fn rights<const N: usize>(by_namespace: [(&str, BTreeSet<String>); N]) -> Permissions {
    by_namespace.map(|(namespace, rights)| (namespace.to_owned(), rights)).into()
}

#[test]
fn service_accounts_have_exactly_the_required_permissions() {
    let Some(helm) = helm() else { return };
    let of_secrets = |right: &String| right.ends_with(" secrets");
    let with_secrets = of_rules(READ_RULES.iter().chain(STATUS_RULES), None);
    let without: BTreeSet<String> = with_secrets.iter().filter(|right| !of_secrets(right)).cloned().collect();
    let gateway = rights([("", without), (SYSTEM, of_rules(WRITE_RULES, None))]);
    let agent = rights([("", of_rules(RULES, None)), (SYSTEM, of_rules(OWNER_RULES, Some("forebay-agent")))]);
    let expected = BTreeMap::from([
        ("forebay-agent".to_owned(), agent.clone()),
        ("forebay-gateway".to_owned(), gateway.clone()),
    ]);
    assert_eq!(granted(&helm.render("forebay", SYSTEM, &[EXISTING])), expected);
    assert_eq!(
        granted(&helm.render("forebay", SYSTEM, &[EXISTING, "gateway.enabled=false"])),
        BTreeMap::from([("forebay-agent".to_owned(), agent)])
    );
    let picker = rights([(MODELS, of_rules(POOL_RULES, None)), (SYSTEM, of_rules(AGENT_RULES, None))]);
    let pool = ["inferencePool.modelServers.matchLabels.app=a", POOL_SECRET];
    assert_eq!(
        granted(&helm.render("inferencepool", MODELS, &pool)),
        BTreeMap::from([("inferencepool-epp".to_owned(), picker.clone())])
    );

    // The Secrets of TLS listeners: by name, by namespace, all.
    let secrets = |name: Option<&str>| -> BTreeSet<String> {
        ["list", "watch"].map(|verb| right(verb, "secrets", "", name)).into()
    };
    let set = |values: &[&str]| {
        let values: Vec<&str> = [EXISTING, "agent.enabled=false"].iter().chain(values).copied().collect();
        granted(&helm.render("forebay", SYSTEM, &values))["forebay-gateway"].clone()
    };
    let mut expected = gateway.clone();
    expected.insert("ingress".into(), secrets(Some("models")));
    expected.insert("certs".into(), secrets(None));
    let named = [
        "gateway.tlsSecrets[0].namespace=ingress",
        "gateway.tlsSecrets[0].names[0]=models",
        "gateway.tlsSecrets[1].namespace=certs",
    ];
    assert_eq!(set(&named), expected);
    let mut expected = gateway;
    expected.insert(String::new(), with_secrets);
    assert_eq!(set(&["gateway.allSecrets=true"]), expected);
}

/// A model team needs rights in its own namespace only.
#[test]
fn pools_of_listed_namespaces_create_nothing_elsewhere() {
    let Some(helm) = helm() else { return };
    let set = [
        "inferencePool.modelServers.matchLabels.app=a",
        "forebay.namespace=infra",
        "forebay.createAgentRole=false",
        POOL_SECRET,
    ];
    let pool = helm.render("inferencepool", MODELS, &set);
    for object in &pool {
        assert_eq!(object["metadata"]["namespace"], MODELS, "{object}");
        assert!(!object["kind"].as_str().is_some_and(|kind| kind.starts_with("Cluster")), "{object}");
    }
    assert_eq!(mounted(&pool), BTreeSet::from(["forebay-epp-tls".to_owned()]));
    let forebay = helm.render("forebay", SYSTEM, &[EXISTING, "pools.namespaces={llm-d,team-b}"]);
    let binding = of_kind(&forebay, "RoleBinding")["forebay-pickers"];
    let groups: Vec<_> = binding["subjects"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
    assert_eq!(groups, ["system:serviceaccounts:llm-d", "system:serviceaccounts:team-b"]);
    let role = of_kind(&forebay, "Role")["forebay-pickers"];
    let given = serde_json::json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"] }]);
    assert_eq!(role["rules"], given);
    let wanted = of_rules(AGENT_RULES, None);
    assert_eq!(wanted, BTreeSet::from(["list pods".to_owned(), "watch pods".to_owned()]));
}

/// Without a cluster, each render would make another CA, and a picker would run without TLS.
#[test]
fn certificates_are_never_generated_or_left_out_without_a_cluster() {
    let Some(helm) = helm() else { return };
    let error = helm.attempt("forebay", SYSTEM, &[]).unwrap_err();
    for part in ["tls.certManager.enabled=true", "tls.existingSecrets=true", "forebay certificates"] {
        assert!(error.contains(part), "{error}");
    }
    let labels = "inferencePool.modelServers.matchLabels.app=a";
    let error = helm.attempt("inferencepool", MODELS, &[labels]).unwrap_err();
    for part in ["forebay-system/forebay-ca", "forebay.tls.secretName", "forebay-epp.llm-d"] {
        assert!(error.contains(part), "{error}");
    }
    let plain = helm.render("inferencepool", MODELS, &[labels, "forebay.tls.enabled=false"]);
    assert!(mounted(&plain).is_empty());
}

#[test]
fn network_policies_close_the_admin_ports_to_other_pods() {
    let Some(helm) = helm() else { return };
    let forebay = helm.render("forebay", SYSTEM, &[EXISTING]);
    let labels = "inferencePool.modelServers.matchLabels.app=a";
    let pool = helm.render("inferencepool", MODELS, &[labels, POOL_SECRET]);
    for (objects, kind, name, admin) in [
        (&forebay, "DaemonSet", "forebay-agent", 9551),
        (&forebay, "Deployment", "forebay-gateway", 9100),
        (&pool, "Deployment", "inferencepool-epp", 9090),
    ] {
        let policy = &of_kind(objects, "NetworkPolicy")[name]["spec"];
        let pods = &of_kind(objects, kind)[name]["spec"];
        assert_eq!(policy["podSelector"], pods["selector"], "{name}");
        let rules = policy["ingress"].as_array().unwrap();
        let of_port = |port: i64| -> Vec<&Value> {
            let includes = |it: &Value| {
                let last = it["endPort"].as_i64().or(it["port"].as_i64());
                it["port"].as_i64() <= Some(port) && Some(port) <= last
            };
            rules.iter().filter(|rule| rule["ports"].as_array().unwrap().iter().any(includes)).collect()
        };
        // Every port of the container is in a rule; the admin port is for monitoring only.
        for port in pods["template"]["spec"]["containers"][0]["ports"].as_array().unwrap() {
            let rules = of_port(port["containerPort"].as_i64().unwrap());
            assert_eq!(rules.len(), 1, "{name} {port}");
            assert!(rules[0]["from"].is_array(), "{name} {port} is open to everybody");
        }
        let from = &of_port(admin)[0]["from"];
        let monitoring = &from[0]["namespaceSelector"]["matchExpressions"][0]["values"];
        assert!(texts(monitoring).any(|it| it == "monitoring"), "{name} {from}");
    }
    let gateway = &of_kind(&forebay, "NetworkPolicy")["forebay-gateway"]["spec"]["ingress"];
    assert!(gateway[0]["from"].is_null(), "requests come from everywhere");
    let off = helm.render("forebay", SYSTEM, &[EXISTING, "networkPolicy.enabled=false"]);
    assert!(of_kind(&off, "NetworkPolicy").is_empty());
}

/// Objects of a kind, by name.
fn of_kind<'a>(objects: &'a [Value], kind: &str) -> BTreeMap<&'a str, &'a Value> {
    let of_kind = objects.iter().filter(|it| it["kind"] == kind);
    of_kind.map(|it| (it["metadata"]["name"].as_str().unwrap_or_default(), it)).collect()
}

/// The Secrets that pods of these objects mount.
fn mounted(objects: &[Value]) -> BTreeSet<String> {
    let volumes =
        objects.iter().filter_map(|it| it.pointer("/spec/template/spec/volumes")?.as_array()).flatten();
    volumes.filter_map(|volume| Some(volume.pointer("/secret/secretName")?.as_str()?.to_owned())).collect()
}

#[test]
fn cert_manager_issues_every_mounted_certificate() {
    let Some(helm) = helm() else { return };
    let forebay = helm.render(
        "forebay",
        SYSTEM,
        &["tls.certManager.enabled=true", "tls.certManager.issuerRef.name=ca"],
    );
    let pool = helm.render(
        "inferencepool",
        MODELS,
        &[
            "inferencePool.modelServers.matchLabels.app=a",
            "forebay.tls.certManager.enabled=true",
            "forebay.tls.certManager.issuerRef.name=ca",
        ],
    );
    for (objects, clients) in [(forebay, &["forebay-cli-tls"][..]), (pool, &[])] {
        assert!(of_kind(&objects, "Secret").is_empty(), "cert-manager creates the keys");
        let certificates = of_kind(&objects, "Certificate");
        let made: BTreeSet<String> = certificates
            .values()
            .map(|it| {
                assert_eq!(it["spec"]["issuerRef"]["name"], "ca", "{it}");
                it["spec"]["secretName"].as_str().unwrap_or_default().to_owned()
            })
            .collect();
        let wanted: BTreeSet<String> =
            mounted(&objects).into_iter().chain(clients.iter().map(|it| (*it).to_owned())).collect();
        assert!(!wanted.is_empty());
        assert_eq!(made, wanted);
    }
}

#[test]
fn openshift_constraints_match_the_agent_pod() {
    let Some(helm) = helm() else { return };
    let set =
        [EXISTING, "openshift.enabled=true", "openshift.route.enabled=true", "inferenceGateway.port=8080"];
    let objects = helm.render("forebay", SYSTEM, &set);
    let constraints = of_kind(&objects, "SecurityContextConstraints")["forebay-agent"];
    let pod = &of_kind(&objects, "DaemonSet")["forebay-agent"]["spec"]["template"]["spec"];
    let asked = &pod["containers"][0]["securityContext"]["capabilities"];
    assert_eq!(constraints["allowedCapabilities"], asked["add"]);
    assert_eq!(constraints["requiredDropCapabilities"], asked["drop"]);
    assert_eq!(pod["securityContext"]["seLinuxOptions"]["type"], "spc_t");
    assert_eq!(
        texts(&constraints["users"]).collect::<Vec<_>>(),
        [format!("system:serviceaccount:{SYSTEM}:forebay-agent")]
    );
    let kinds = pod["volumes"].as_array().into_iter().flatten().flat_map(|volume| {
        volume.as_object().into_iter().flatten().map(|(kind, _)| kind.as_str()).filter(|kind| *kind != "name")
    });
    let allowed: BTreeSet<&str> = texts(&constraints["volumes"]).collect();
    for kind in kinds {
        assert!(allowed.contains(kind), "{kind} is not in {allowed:?}");
    }
    for switch in [
        "allowPrivilegedContainer",
        "allowPrivilegeEscalation",
        "allowHostIPC",
        "allowHostNetwork",
        "allowHostPID",
        "allowHostPorts",
    ] {
        assert_eq!(constraints[switch], false, "{switch}");
    }
    let gateway = of_kind(&objects, "RoleBinding")["forebay-gateway-scc"];
    assert_eq!(gateway["roleRef"]["name"], "system:openshift:scc:nonroot-v2");
    assert_eq!(gateway["subjects"][0]["name"], "forebay-gateway");
    let route = of_kind(&objects, "Route")["inference-gateway"];
    assert_eq!(route["spec"]["to"]["name"], "inference-gateway");
    assert_eq!(route["spec"]["port"]["targetPort"], 8080, "the listener's port, as the Service names it");
    let plain = helm.render("forebay", SYSTEM, &[EXISTING]);
    for kind in ["SecurityContextConstraints", "Route"] {
        assert!(of_kind(&plain, kind).is_empty(), "{kind} only with openshift.enabled");
    }
}

#[test]
fn values_reach_the_command_line_of_the_gateway() {
    let Some(helm) = helm() else { return };
    let container = |set: &[&str]| {
        let set: Vec<&str> = set.iter().copied().chain([EXISTING]).collect();
        let objects = helm.render("forebay", SYSTEM, &set);
        of_kind(&objects, "Deployment")["forebay-gateway"]["spec"]["template"]["spec"]["containers"][0]
            .clone()
    };
    let arguments = |set: &[&str]| texts(&container(set)["args"]).map(str::to_owned).collect::<Vec<_>>();
    let default = arguments(&[]);
    for (set, expected) in [
        (&["gateway.serviceType=LoadBalancer"][..], "--service-type=LoadBalancer"),
        (
            &["gateway.containerPorts.first=20000", "gateway.containerPorts.last=20999"],
            "--container-ports=20000-20999",
        ),
        (&["gateway.accessLog=true"], "--access-log"),
        (&["gateway.inProcessPolicy=round-robin"], "--in-process-policy=round-robin"),
        (&["gateway.usage.databaseSecret=db", "gateway.usage.retentionDays=7"], "--usage-retention-days=7"),
        (&["gateway.quotaStore.urlSecret=store", "gateway.quotaStore.leaseSeconds=9"], "--quota-lease=9"),
    ] {
        let given = arguments(set);
        assert!(given.iter().any(|it| it == expected), "{set:?}: {given:?}");
        assert!(!default.iter().any(|it| it == expected), "{expected} without {set:?}");
    }
    for wrong in ["gateway.serviceType=Other", "gateway.inProcessPolicy=best"] {
        assert!(helm.attempt("forebay", SYSTEM, &[EXISTING, wrong]).is_err(), "{wrong}");
    }

    let secret = |container: &Value, name: &str| {
        let variables = container["env"].as_array().unwrap();
        variables.iter().find(|it| it["name"] == name).map(|it| it["valueFrom"]["secretKeyRef"].clone())
    };
    let (plain, with_secrets) = (
        container(&[]),
        container(&["gateway.usage.databaseSecret=db", "gateway.quotaStore.urlSecret=store"]),
    );
    for (variable, name) in [("FOREBAY_USAGE_DB", "db"), ("FOREBAY_QUOTA_STORE", "store")] {
        let expected = serde_json::json!({"name": name, "key": "url"});
        assert_eq!(secret(&with_secrets, variable), Some(expected), "{variable}");
        assert_eq!(secret(&plain, variable), None, "{variable} without a Secret");
    }
}

/// YAML reads `1e3` as a number.
#[test]
fn names_that_look_like_numbers_stay_strings() {
    fn check(value: &Value, path: &str) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let path = format!("{path}.{name}");
                    if ["namespace", "name", "gatewayClassName"].contains(&name.as_str())
                        && !value.is_object()
                    {
                        assert!(value.is_string(), "{path}: {value}");
                    }
                    check(value, &path);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| check(item, path)),
            _ => {}
        }
    }
    let Some(helm) = helm() else { return };
    let forebay = [
        EXISTING,
        "inferenceGateway.enabled=true",
        "pools.namespaces={1e3}",
        "openshift.enabled=true",
        "openshift.route.enabled=true",
        "podMonitors.enabled=true",
        "alerts.enabled=true",
        "dashboards.enabled=true",
    ];
    let pool = [
        POOL_SECRET,
        "inferencePool.modelServers.matchLabels.app=a",
        "httpRoute.enabled=true",
        "httpRoute.baseModel=a",
        "inferenceExtension.podMonitor.enabled=true",
        "forebay.namespace=1e3",
    ];
    for (chart, set) in [("forebay", &forebay[..]), ("inferencepool", &pool)] {
        let objects = helm.render(chart, "1e3", set);
        assert!(objects.iter().any(|it| it["metadata"]["namespace"] == "1e3"), "{chart}");
        objects.iter().for_each(|it| check(it, &format!("{chart} {}", it["kind"])));
    }
}

#[test]
fn alerts_and_dashboards_are_those_of_the_files() {
    let Some(helm) = helm() else { return };
    let plain = helm.render("forebay", SYSTEM, &[EXISTING]);
    assert!(of_kind(&plain, "PrometheusRule").is_empty(), "off by default");
    assert!(!of_kind(&plain, "ConfigMap").keys().any(|name| name.contains("dashboard")), "off by default");

    let folder = root().join("charts/forebay");
    let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap();
    let objects = helm.render(
        "forebay",
        SYSTEM,
        &[
            EXISTING,
            "alerts.enabled=true",
            "alerts.labels.release=kps",
            "dashboards.enabled=true",
            "dashboards.annotations.grafana_folder=Forebay",
        ],
    );
    let rule = of_kind(&objects, "PrometheusRule")["forebay"];
    assert_eq!(rule["metadata"]["labels"]["release"], "kps");
    let expected: Value = serde_yaml_ng::from_str(&read("alerts.yaml")).unwrap();
    assert_eq!(rule["spec"], expected);

    let maps = of_kind(&objects, "ConfigMap");
    for file in fs::read_dir(folder.join("dashboards")).unwrap() {
        let file = file.unwrap().file_name().into_string().unwrap();
        let name =
            format!("forebay-dashboard-{}", file.trim_start_matches("forebay-").trim_end_matches(".json"));
        let map = maps[name.as_str()];
        assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
        assert_eq!(map["metadata"]["annotations"]["grafana_folder"], "Forebay");
        assert_eq!(map["data"][&file], read(&format!("dashboards/{file}")), "{file}");
    }
}

#[test]
fn values_of_gaies_chart_are_accepted() {
    let Some(helm) = helm() else { return };
    let set = [
        POOL_SECRET,
        "inferencePool.modelServers.matchLabels.app=a",
        "inferencePool.targetPortNumber=8200",
        "inferenceExtension.extProcPort=9902",
    ];
    let objects = helm.render("inferencepool", MODELS, &set);
    let pool = &of_kind(&objects, "InferencePool")["inferencepool"]["spec"];
    assert_eq!(pool["targetPorts"], serde_json::json!([{ "number": 8200 }]));
    assert_eq!(pool["endpointPickerRef"]["port"]["number"], 9902);
    let container =
        &of_kind(&objects, "Deployment")["inferencepool-epp"]["spec"]["template"]["spec"]["containers"][0];
    assert!(texts(&container["args"]).any(|it| it == "--grpc-listen=0.0.0.0:9902"));
    assert_eq!(container["ports"][0]["containerPort"], 9902);
}

#[test]
fn a_shared_picker_takes_the_place_of_an_own_one() {
    let Some(helm) = helm() else { return };
    let labels = "inferencePool.modelServers.matchLabels.app=a";
    let shared = [
        labels,
        "inferenceExtension.shared.name=forebay-epp",
        "inferenceExtension.shared.namespace=forebay-system",
        "inferenceExtension.shared.port=9005",
    ];
    let objects = helm.render("inferencepool", MODELS, &shared);
    let mut kinds: Vec<&str> = texts_of(&objects, "kind");
    kinds.sort_unstable();
    assert_eq!(kinds, ["InferencePool", "Service"], "no picker, permissions or certificate");
    let service = of_kind(&objects, "Service")["inferencepool-epp"]["spec"].clone();
    assert_eq!(service["type"], "ExternalName");
    assert_eq!(service["externalName"], "forebay-epp.forebay-system.svc.cluster.local");
    assert_eq!(service["ports"][0]["port"], 9005);
    let picker = &of_kind(&objects, "InferencePool")["inferencepool"]["spec"]["endpointPickerRef"];
    assert_eq!((&picker["name"], &picker["port"]["number"]), (&"inferencepool-epp".into(), &9005.into()));
    let error =
        helm.attempt("inferencepool", MODELS, &[labels, "inferenceExtension.shared.nam=a"]).unwrap_err();
    assert!(error.contains("nam"), "{error}");
}

#[test]
fn one_release_deploys_a_picker_for_the_pools_of_many_namespaces() {
    let Some(helm) = helm() else { return };
    let shared = [
        "sharedPicker.enabled=true",
        "sharedPicker.namespaces={models,other}",
        "forebay.namespace=forebay-system",
        POOL_SECRET,
    ];
    let objects = helm.render("inferencepool", SYSTEM, &shared);
    let kinds: BTreeSet<&str> = texts_of(&objects, "kind").into_iter().collect();
    assert!(!kinds.contains("InferencePool") && !kinds.contains("HTTPRoute"), "it has no pool: {kinds:?}");
    let container =
        of_kind(&objects, "Deployment")["inferencepool-epp"]["spec"]["template"]["spec"]["containers"][0]
            .clone();
    let pool_flags: Vec<&str> = texts(&container["args"]).filter(|it| it.starts_with("--pool-")).collect();
    assert_eq!(pool_flags, ["--pool-namespace=models,other"]);
    let grant = &of_kind(&objects, "ReferenceGrant")["inferencepool-epp"]["spec"];
    assert_eq!(texts_in(&grant["from"], "namespace"), ["models", "other"]);
    assert_eq!(
        (&grant["to"][0]["kind"], &grant["to"][0]["name"]),
        (&"Service".into(), &"inferencepool-epp".into())
    );
    let of_pools = of_rules(POOL_RULES, None);
    let picker =
        rights([("models", of_pools.clone()), ("other", of_pools), (SYSTEM, of_rules(AGENT_RULES, None))]);
    assert_eq!(granted(&objects), BTreeMap::from([("inferencepool-epp".to_owned(), picker)]));

    // A pool that is told its name uses the Service that this release has.
    let service = of_kind(&objects, "Service")["inferencepool-epp"]["spec"].clone();
    let user = [
        "inferencePool.modelServers.matchLabels.app=a",
        "inferenceExtension.shared.name=inferencepool-epp",
        "inferenceExtension.shared.namespace=forebay-system",
    ];
    let pool = helm.render("inferencepool", MODELS, &user);
    assert_eq!(
        of_kind(&pool, "Service")["inferencepool-epp"]["spec"]["externalName"],
        format!("inferencepool-epp.{SYSTEM}.svc.cluster.local")
    );
    let port =
        &of_kind(&pool, "InferencePool")["inferencepool"]["spec"]["endpointPickerRef"]["port"]["number"];
    assert_eq!(&service["ports"][0]["port"], port);
}

#[test]
fn certificate_of_a_shared_picker_has_the_names_of_all_namespaces() {
    let Some(helm) = helm() else { return };
    let shared = [
        "sharedPicker.enabled=true",
        "sharedPicker.namespaces={models,other,models}",
        "forebay.tls.certManager.enabled=true",
        "forebay.tls.certManager.issuerRef.name=ca",
    ];
    let objects = helm.render("inferencepool", SYSTEM, &shared);
    let certificate = &of_kind(&objects, "Certificate")["inferencepool-epp-tls"]["spec"];
    let names: Vec<&str> = texts(&certificate["dnsNames"]).collect();
    assert_eq!(names, ["forebay-epp.forebay-system", "forebay-epp.models", "forebay-epp.other"]);
}

#[test]
fn a_shared_picker_has_no_pool_of_its_own() {
    let Some(helm) = helm() else { return };
    let enabled = "sharedPicker.enabled=true";
    let namespaces = "sharedPicker.namespaces={models}";
    for (set, expected) in [
        (&[enabled][..], "sharedPicker.namespaces is empty"),
        (&[enabled, namespaces, "inferencePool.modelServers.matchLabels.app=a"], "has no pool"),
        (&[enabled, namespaces, "inferenceExtension.shared.name=a"], "exclude each other"),
        (&[enabled, namespaces, "httpRoute.enabled=true", "httpRoute.baseModel=a"], "has no pool"),
        (&[enabled, "sharedPicker.namespace=a"], "namespace"),
    ] {
        let set = [set, &[POOL_SECRET]].concat();
        let error = helm.attempt("inferencepool", SYSTEM, &set).unwrap_err();
        assert!(error.contains(expected), "{set:?}: {error}");
    }
}

fn texts_in<'a>(list: &'a Value, field: &str) -> Vec<&'a str> {
    list.as_array().map(|list| texts_of(list, field)).unwrap_or_default()
}

fn texts_of<'a>(objects: &'a [Value], field: &str) -> Vec<&'a str> {
    objects.iter().filter_map(|object| object[field].as_str()).collect()
}

#[test]
fn plugins_custom_config_is_mounted_into_the_picker() {
    let Some(helm) = helm() else { return };
    let labels = "inferencePool.modelServers.matchLabels.app=a";
    let file = r"inferenceExtension.pluginsCustomConfig.custom\.yaml=kind: EndpointPickerConfig";
    let chosen = "inferenceExtension.pluginsConfigFile=custom.yaml";
    let picker =
        |objects: &[Value]| of_kind(objects, "Deployment")["inferencepool-epp"]["spec"]["template"].clone();
    let objects = helm.render("inferencepool", MODELS, &[labels, POOL_SECRET, file, chosen]);
    let template = picker(&objects);
    let container = &template["spec"]["containers"][0];
    let argument = texts(&container["args"]).find_map(|it| it.strip_prefix("--config-file="));
    let (folder, name) = argument.unwrap().rsplit_once('/').unwrap();
    let mount = container["volumeMounts"].as_array().unwrap().iter().find(|it| it["mountPath"] == folder);
    let volumes = template["spec"]["volumes"].as_array().unwrap();
    let volume = volumes.iter().find(|it| it["name"] == mount.unwrap()["name"]).unwrap();
    let map = of_kind(&objects, "ConfigMap")[volume["configMap"]["name"].as_str().unwrap()];
    assert_eq!(map["data"][name], "kind: EndpointPickerConfig");
    let checksum = |template: &Value| template["metadata"]["annotations"]["checksum/plugins"].clone();
    let changed = format!("{file}2");
    let other = picker(&helm.render("inferencepool", MODELS, &[labels, POOL_SECRET, &changed, chosen]));
    assert_ne!(checksum(&template), checksum(&other), "a change restarts the picker");

    let policy = "inferenceExtension.policy=lmetric";
    let plain = helm.render("inferencepool", MODELS, &[labels, "forebay.tls.enabled=false", policy]);
    let container = &picker(&plain)["spec"]["containers"][0];
    assert!(texts(&container["args"]).any(|it| it == "--policy=lmetric"));
    assert!(container["volumeMounts"].is_null());
    for (set, expected) in [
        (
            &[file][..],
            r#"pluginsConfigFile is "default-plugins.yaml"; inferenceExtension.pluginsCustomConfig has custom.yaml"#,
        ),
        (
            &[chosen],
            r#"pluginsConfigFile is "custom.yaml", which is not in inferenceExtension.pluginsCustomConfig"#,
        ),
        (
            &[file, chosen, policy],
            "inferenceExtension.policy and inferenceExtension.pluginsCustomConfig exclude each other",
        ),
        (&["inferenceExtension.policy=best"], "value must be one of '', 'forebay', 'llm-d-default'"),
    ] {
        let set: Vec<&str> = set.iter().copied().chain([labels, POOL_SECRET]).collect();
        let error = helm.attempt("inferencepool", MODELS, &set).unwrap_err();
        assert!(error.contains(expected), "{set:?}: {error}");
    }
}
