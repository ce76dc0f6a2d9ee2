//! Rendered charts: permissions of each program, and values that the tests in the cluster do not cover.

use std::collections::{BTreeMap, BTreeSet};

use forebay_agent::node::{OWNER_RULES, RULES};
use forebay_cluster_tests::charts::helm;
use forebay_epp::{AGENT_RULES, POOL_RULES};
use forebay_gateway::{READ_RULES, STATUS_RULES, WRITE_RULES};
use forebay_resources::cluster::Rule;
use serde_json::Value;

const SYSTEM: &str = "forebay-system";
const MODELS: &str = "llm-d";

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
    let gateway = rights([
        ("", of_rules(READ_RULES.iter().chain(STATUS_RULES), None)),
        (SYSTEM, of_rules(WRITE_RULES, None)),
    ]);
    let agent = rights([("", of_rules(RULES, None)), (SYSTEM, of_rules(OWNER_RULES, Some("forebay-agent")))]);
    let expected = BTreeMap::from([
        ("forebay-agent".to_owned(), agent.clone()),
        ("forebay-gateway".to_owned(), gateway.clone()),
    ]);
    assert_eq!(granted(&helm.render("forebay", SYSTEM, &[])), expected);
    assert_eq!(
        granted(&helm.render("forebay", SYSTEM, &["gateway.enabled=false"])),
        BTreeMap::from([("forebay-agent".to_owned(), agent)])
    );
    let picker = rights([(MODELS, of_rules(POOL_RULES, None)), (SYSTEM, of_rules(AGENT_RULES, None))]);
    let pool = ["inferencePool.modelServers.matchLabels.app=a"];
    assert_eq!(
        granted(&helm.render("inferencepool", MODELS, &pool)),
        BTreeMap::from([("inferencepool-epp".to_owned(), picker)])
    );

    // Access to Secrets depends on gateway.tlsSecrets.
    let of_secrets = |right: &String| right.ends_with(" secrets");
    let without = |rights: &BTreeSet<String>| -> BTreeSet<String> {
        rights.iter().filter(|right| !of_secrets(right)).cloned().collect()
    };
    let secrets = || gateway[""].iter().filter(|right| of_secrets(right)).cloned();
    let own_only = rights([
        ("", without(&gateway[""])),
        (SYSTEM, gateway[SYSTEM].iter().cloned().chain(secrets()).collect()),
    ]);
    let none = rights([("", without(&gateway[""])), (SYSTEM, gateway[SYSTEM].clone())]);
    for (switch, expected) in [("namespace", own_only), ("none", none)] {
        let objects =
            helm.render("forebay", SYSTEM, &["agent.enabled=false", &format!("gateway.tlsSecrets={switch}")]);
        assert_eq!(granted(&objects)["forebay-gateway"], expected, "gateway.tlsSecrets={switch}");
    }
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
    let objects = helm.render("forebay", SYSTEM, &["openshift.enabled=true", "openshift.route.enabled=true"]);
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
    let plain = helm.render("forebay", SYSTEM, &[]);
    for kind in ["SecurityContextConstraints", "Route"] {
        assert!(of_kind(&plain, kind).is_empty(), "{kind} only with openshift.enabled");
    }
}

#[test]
fn values_set_type_and_ports_of_gateway_services() {
    let Some(helm) = helm() else { return };
    let arguments = |set: &[&str]| {
        let objects = helm.render("forebay", SYSTEM, set);
        let args = &of_kind(&objects, "Deployment")["forebay-gateway"]["spec"]["template"]["spec"]["containers"]
            [0]["args"];
        texts(args).map(str::to_owned).collect::<Vec<_>>()
    };
    let set = [
        "gateway.serviceType=LoadBalancer",
        "gateway.containerPorts.first=20000",
        "gateway.containerPorts.last=20999",
    ];
    let expected = ["--service-type=LoadBalancer", "--container-ports=20000-20999"];
    let given = arguments(&set);
    for argument in expected {
        assert!(given.iter().any(|it| it == argument), "{given:?}");
    }
    assert!(helm.attempt("forebay", SYSTEM, &["gateway.serviceType=Other"]).is_err());
}
