//! The resources that the gateway watches.

use std::collections::BTreeSet;

use forebay_resources::cluster::{FOLLOW, Interest, Rule, Selection};
use forebay_resources::{CONFIG_MAP_LABELS, Gateway, Kind, ObjectKey, Snapshot};
use forebay_routing::{
    KeySource, client_authorities, key_source, label_selector, models_secret, server_authorities,
};

/// RBAC rules of the ClusterRole for reads. Routes and pools may be in any namespace. Secrets can be granted by Roles in
/// the namespaces of the Gateways instead.
pub const READ_RULES: &[Rule] = &[
    Rule {
        api_groups: &["gateway.networking.k8s.io"],
        resources: &["gatewayclasses", "gateways", "httproutes", "referencegrants", "backendtlspolicies"],
        verbs: FOLLOW,
    },
    Rule { api_groups: &["inference.networking.k8s.io"], resources: &["inferencepools"], verbs: FOLLOW },
    Rule {
        api_groups: &["llm-d.ai", "inference.networking.x-k8s.io"],
        resources: &["inferencemodelrewrites"],
        verbs: FOLLOW,
    },
    Rule { api_groups: &["agentgateway.dev"], resources: &["agentgatewaypolicies"], verbs: FOLLOW },
    Rule { api_groups: &["forebay.dev"], resources: &["quotas"], verbs: FOLLOW },
    Rule {
        api_groups: &[""],
        resources: &["configmaps", "namespaces", "pods", "secrets", "services"],
        verbs: FOLLOW,
    },
    Rule { api_groups: &["discovery.k8s.io"], resources: &["endpointslices"], verbs: FOLLOW },
];

/// Kinds of which all objects are watched.
const KINDS: [Kind; 12] = [
    Kind::GatewayClass,
    Kind::Gateway,
    Kind::HttpRoute,
    Kind::ReferenceGrant,
    Kind::BackendTlsPolicy,
    Kind::InferencePool,
    Kind::InferenceModelRewrite,
    Kind::AgentgatewayPolicy,
    Kind::Quota,
    Kind::Service,
    Kind::EndpointSlice,
    Kind::Namespace,
];

/// Kinds whose status the gateway writes.
const WITH_STATUS: [Kind; 7] = [
    Kind::GatewayClass,
    Kind::Gateway,
    Kind::HttpRoute,
    Kind::InferencePool,
    Kind::InferenceModelRewrite,
    Kind::AgentgatewayPolicy,
    Kind::Quota,
];

/// Watches routes, pools and the objects that they refer to; ConfigMaps with model maps; and Secrets that listeners of
/// Gateways of `class` and pools name, and that policies name or select for API keys; and ConfigMaps with the authorities of
/// clients, and of servers that policies name.
pub(crate) fn interest(class: &str) -> Interest {
    let class = class.to_owned();
    let select = move |snapshot: &Snapshot| {
        let mut selections: BTreeSet<Selection> = KINDS.into_iter().map(Selection::all).collect();
        selections.insert(
            // Finished pods get no requests. Jobs leave many of them.
            Selection::all(Kind::Pod).fields("status.phase!=Succeeded,status.phase!=Failed"),
        );
        selections.extend(
            CONFIG_MAP_LABELS.map(|label| Selection::all(Kind::ConfigMap).labels(format!("{label}=true"))),
        );
        let served = snapshot.gateways.iter().filter(|(_, gateway)| gateway.spec.gateway_class_name == class);
        let authorities = served.clone().flat_map(|(key, gateway)| client_authorities(key, gateway));
        selections.extend(authorities.map(|key| Selection::named(Kind::ConfigMap, &key).optional()));
        let secrets = served.flat_map(|(key, gateway)| secrets_of(key, gateway));
        // A Secret that the role does not name is missing for its listener or pool alone, not for the gateway.
        let named = |secret: ObjectKey| Selection::named(Kind::Secret, &secret).optional();
        selections.extend(secrets.map(named));
        let of_pools = snapshot.inference_pools.iter().filter_map(|(key, pool)| models_secret(key, pool));
        selections.extend(of_pools.map(named));
        let policies = snapshot.agentgateway_policies.iter();
        let authorities =
            policies.clone().flat_map(|(key, policy)| server_authorities(snapshot, key, policy));
        selections.extend(authorities.map(|key| Selection::named(Kind::ConfigMap, &key).optional()));
        selections.extend(policies.filter_map(|(key, policy)| Some(of_keys(key_source(key, policy)?))));
        selections
    };
    Interest::new(select).with_statuses(WITH_STATUS)
}

/// The objects with the keys of a policy. If the role does not allow to read them, no key of this policy is accepted.
fn of_keys(source: KeySource) -> Selection {
    let labelled = |kind, namespace: String, labels| {
        Selection::in_namespace(kind, namespace).labels(label_selector(&labels))
    };
    let selection = match source {
        KeySource::Secret(key) => Selection::named(Kind::Secret, &key),
        KeySource::Secrets(namespace, labels) => labelled(Kind::Secret, namespace, labels),
        KeySource::ConfigMaps(namespace, labels) => labelled(Kind::ConfigMap, namespace, labels),
    };
    selection.optional()
}

fn secrets_of<'a>(key: &'a ObjectKey, gateway: &'a Gateway) -> impl Iterator<Item = ObjectKey> + 'a {
    let listeners = gateway.spec.listeners.iter();
    let references =
        listeners.flat_map(|it| it.tls.iter().flat_map(|tls| tls.certificate_refs.iter().flatten()));
    references
        .filter(|reference| {
            reference.group.as_deref().unwrap_or_default().is_empty()
                && reference.kind.as_deref().unwrap_or("Secret") == "Secret"
        })
        .map(|reference| {
            ObjectKey::new(reference.namespace.as_ref().unwrap_or(&key.namespace), &reference.name)
        })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use forebay_resources::AgentgatewayPolicy;

    use super::*;

    #[test]
    fn watches_only_the_keys_that_policies_name_or_select() {
        let mut snapshot = Snapshot::default();
        for (name, keys) in [
            ("a", serde_json::json!({ "secretRef": { "name": "here" } })),
            ("b", serde_json::json!({ "secretSelector": { "matchLabels": { "team": "x", "use": "keys" } } })),
            ("c", serde_json::json!({ "configMapSelector": { "matchLabels": { "use": "keys" } } })),
            // Everything of a namespace: such a policy is not enforced, and closes its target.
            ("d", serde_json::json!({ "secretSelector": { "matchLabels": {} } })),
        ] {
            let json = serde_json::json!({
                "metadata": { "name": name, "namespace": "infra" },
                "spec": { "traffic": { "apiKeyAuthentication": keys } },
            });
            let policy: AgentgatewayPolicy = serde_json::from_value(json).unwrap();
            snapshot.agentgateway_policies.insert(ObjectKey::new("infra", name), Arc::new(policy));
        }
        let selections = interest("forebay").selections(&snapshot);
        let all: Vec<String> = selections.iter().map(ToString::to_string).collect();
        let keys: Vec<&String> = all.iter().filter(|it| it.contains(" of namespace ")).collect();
        assert_eq!(
            keys,
            [
                "configmaps of namespace infra with use=keys",
                "secrets of namespace infra with metadata.name=here",
                "secrets of namespace infra with team=x,use=keys",
            ]
        );
    }

    #[test]
    fn watches_only_secrets_of_served_listeners() {
        let gateway = |class: &str| {
            let json = serde_json::json!({
                "metadata": { "name": "g", "namespace": "infra" },
                "spec": {
                    "gatewayClassName": class,
                    "listeners": [
                        { "name": "http", "port": 80, "protocol": "HTTP" },
                        { "name": "https", "port": 443, "protocol": "HTTPS", "tls": { "certificateRefs": [
                            { "name": "here" },
                            { "name": "there", "namespace": "certs", "kind": "Secret", "group": "" },
                            { "name": "no-secret", "kind": "ConfigMap" },
                        ] } },
                    ],
                },
            });
            serde_json::from_value::<Gateway>(json).unwrap()
        };
        let mut snapshot = Snapshot::default();
        snapshot.gateways.insert(ObjectKey::new("infra", "g"), Arc::new(gateway("forebay")));
        snapshot.gateways.insert(ObjectKey::new("infra", "other"), Arc::new(gateway("someone-elses")));
        let selections = interest("forebay").selections(&snapshot);
        let secrets: Vec<String> =
            selections.iter().map(ToString::to_string).filter(|it| it.starts_with("secrets")).collect();
        assert_eq!(
            secrets,
            [
                "secrets of namespace certs with metadata.name=there",
                "secrets of namespace infra with metadata.name=here"
            ]
        );
    }
}
