//! TLS to servers that policies name: `BackendTLSPolicy` of Gateway API, or `backend.tls` of an AgentgatewayPolicy, for their
//! Service.

use std::collections::BTreeSet;
use std::sync::Arc;

use forebay_resources::{AgentgatewayPolicy, BackendTlsPolicy, ObjectKey, Snapshot};
use gateway_api::backendtlspolicies::{
    BackendTlsPolicyValidation, BackendTlsPolicyValidationSubjectAltNames as SubjectAltName,
    BackendTlsPolicyValidationSubjectAltNamesType as SubjectAltNameType,
};
use rustls::pki_types::ServerName;
use serde::Deserialize;
use serde_json::Value;

use super::service_ref::ServiceRef;
use crate::compile::authority;
use crate::compile::targets::target_level;
use crate::table::{Authorities, ServerTls, SubjectName};

const SERVICE: (&str, &str) = ("", "Service");
const MAX_NAMES: usize = 16;

/// The settings for a port of a Service. `None`: no policy requires TLS. The error names the policy.
pub(super) fn of_service(
    snapshot: &Snapshot,
    service: &ObjectKey,
    port_name: &str,
) -> Result<Option<ServerTls>, String> {
    let standard = standard_policy(snapshot, service, port_name);
    let own = own_policy(snapshot, service, port_name);
    match (standard, own) {
        (None, None) => Ok(None),
        (Some((key, policy)), None) => {
            let settings = of_standard(snapshot, key, &policy.spec.validation);
            settings
                .map(Some)
                .map_err(|why| format!("BackendTLSPolicy {key} for the Service {service}: {why}"))
        }
        (None, Some((key, tls))) => {
            let settings = of_own(snapshot, key, service, tls);
            let error =
                |why| format!("backend.tls of AgentgatewayPolicy {key} for the Service {service}: {why}");
            settings.map(Some).map_err(error)
        }
        (Some((standard, _)), Some((own, _))) => Err(format!(
            "BackendTLSPolicy {standard} and backend.tls of AgentgatewayPolicy {own} are both for the Service {service}; remove one"
        )),
    }
}

/// A policy for the port, or else for the Service; the oldest, then the first by name.
fn standard_policy<'s>(
    snapshot: &'s Snapshot,
    service: &ObjectKey,
    port_name: &str,
) -> Option<(&'s ObjectKey, &'s BackendTlsPolicy)> {
    let policies = snapshot.backend_tls_policies.in_namespace(&service.namespace);
    let ranked = policies.filter_map(|(key, policy)| {
        let targets = policy.spec.target_refs.iter().filter(|target| {
            (target.group.as_str(), target.kind.as_str()) == SERVICE
                && target.name == service.name
                && target.section_name.as_deref().is_none_or(|section| section == port_name)
        });
        let is_for_all = targets.map(|target| target.section_name.is_none()).min()?;
        let created = policy.metadata.creation_timestamp.as_ref();
        Some(((is_for_all, created.is_none(), created, key), (key, &**policy)))
    });
    ranked.min_by(|(one, _), (other, _)| one.cmp(other)).map(|(_, found)| found)
}

/// `backend.tls` of the first policy by name.
fn own_policy<'s>(
    snapshot: &'s Snapshot,
    service: &ObjectKey,
    port_name: &str,
) -> Option<(&'s ObjectKey, &'s Value)> {
    let labels = snapshot.services.get(service)?.metadata.labels.as_ref();
    let mut policies = snapshot.agentgateway_policies.in_namespace(&service.namespace);
    policies.find_map(|(key, policy)| {
        let tls = policy.spec.other.get("backend")?.get("tls").filter(|tls| !tls.is_null())?;
        target_level(policy, SERVICE, &service.name, labels, |section| section == port_name)?;
        Some((key, tls))
    })
}

fn of_standard(
    snapshot: &Snapshot,
    key: &ObjectKey,
    validation: &BackendTlsPolicyValidation,
) -> Result<ServerTls, String> {
    let references = validation.ca_certificate_refs.as_deref().unwrap_or_default();
    let authorities = match validation.well_known_ca_certificates.as_deref() {
        Some("System") if references.is_empty() => Authorities::System,
        Some(_) if !references.is_empty() => {
            return Err("caCertificateRefs and wellKnownCACertificates are both set".into());
        }
        Some(other) => return Err(format!("wellKnownCACertificates {other:?} is not supported; System is")),
        None => {
            let names = references.iter().map(|reference| {
                match (reference.group.as_str(), reference.kind.as_str()) {
                    ("", "ConfigMap") => Ok(reference.name.as_str()),
                    (_, kind) => {
                        Err(format!("caCertificateRefs to kind {kind} are not supported; ConfigMap is"))
                    }
                }
            });
            of_config_maps(snapshot, &key.namespace, names.collect::<Result<_, _>>()?)?
        }
    };
    let server_name = dns_name("hostname", &validation.hostname)?;
    let alternatives = validation.subject_alt_names.as_deref().unwrap_or_default();
    let names = match alternatives {
        [] => vec![SubjectName::Dns(server_name.clone())],
        some => some.iter().map(subject_name).collect::<Result<_, _>>()?,
    };
    Ok(ServerTls { authorities, server_name, names })
}

fn subject_name(name: &SubjectAltName) -> Result<SubjectName, String> {
    match (&name.r#type, &name.hostname, &name.uri) {
        (SubjectAltNameType::Hostname, Some(hostname), None) => {
            Ok(SubjectName::Dns(dns_name("subjectAltNames.hostname", hostname)?))
        }
        (SubjectAltNameType::Uri, None, Some(uri)) => Ok(SubjectName::Uri(uri.clone())),
        _ => Err("subjectAltNames needs the field of its type, and only that".into()),
    }
}

/// Fields of `backend.tls`. What is not here is not supported.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OwnTls {
    #[serde(default)]
    ca_certificate_refs: Vec<LocalReference>,
    sni: Option<String>,
    #[serde(default)]
    verify_subject_alt_names: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LocalReference {
    name: String,
}

fn of_own(
    snapshot: &Snapshot,
    key: &ObjectKey,
    service: &ObjectKey,
    tls: &Value,
) -> Result<ServerTls, String> {
    let own = OwnTls::deserialize(tls).map_err(|error| format!("{error} are supported"))?;
    let authorities = match own.ca_certificate_refs.as_slice() {
        [] => Authorities::System,
        some => of_config_maps(snapshot, &key.namespace, some.iter().map(|it| it.name.as_str()).collect())?,
    };
    let host = format!("{}.{}.svc.cluster.local", service.name, service.namespace);
    let server_name = own.sni.map_or(Ok(host.clone()), |sni| dns_name("sni", &sni))?;
    if own.verify_subject_alt_names.len() > MAX_NAMES {
        return Err(format!("verifySubjectAltNames has more than {MAX_NAMES} names"));
    }
    let name = |name: String| match name.contains("://") {
        true => Ok(SubjectName::Uri(name)),
        false => Ok(SubjectName::Dns(dns_name("verifySubjectAltNames", &name)?)),
    };
    let names = match own.verify_subject_alt_names.is_empty() {
        true => vec![SubjectName::Dns(server_name.clone())],
        false => own.verify_subject_alt_names.into_iter().map(name).collect::<Result<_, String>>()?,
    };
    Ok(ServerTls { authorities, server_name, names })
}

fn of_config_maps(snapshot: &Snapshot, namespace: &str, names: Vec<&str>) -> Result<Authorities, String> {
    if names.is_empty() {
        return Err("neither caCertificateRefs nor wellKnownCACertificates is set".into());
    }
    let bundle = |name: &&str| authority::bundle(snapshot, &ObjectKey::new(namespace, *name));
    let bundles: Vec<&str> = names.iter().map(bundle).collect::<Result<_, _>>()?;
    Ok(Authorities::Pem(Arc::from(bundles.join("\n"))))
}

fn dns_name(field: &str, name: &str) -> Result<String, String> {
    match ServerName::try_from(name) {
        Ok(ServerName::DnsName(_)) => Ok(name.to_owned()),
        _ => Err(format!("{field} {name:?} is not a DNS name")),
    }
}

/// The ConfigMaps with the authorities of the servers that a policy names. The gateway watches them.
pub fn server_authorities(
    snapshot: &Snapshot,
    key: &ObjectKey,
    policy: &AgentgatewayPolicy,
) -> BTreeSet<ObjectKey> {
    let mut services = BTreeSet::new();
    let traffic = policy.spec.traffic.iter().flat_map(|traffic| traffic.other.values());
    traffic.for_each(|field| add_services(field, &key.namespace, &mut services));
    let mut found = BTreeSet::new();
    for service in &services {
        let standard = snapshot.backend_tls_policies.in_namespace(&service.namespace);
        for (of, policy) in standard {
            let is_it = |target: &gateway_api::backendtlspolicies::BackendTlsPolicyTargetRefs| {
                target.name == service.name
            };
            if policy.spec.target_refs.iter().any(is_it) {
                let references = policy.spec.validation.ca_certificate_refs.iter().flatten();
                found.extend(references.map(|it| ObjectKey::new(&of.namespace, &it.name)));
            }
        }
        let own = snapshot.agentgateway_policies.in_namespace(&service.namespace);
        for (of, policy) in own {
            let tls = policy.spec.other.get("backend").and_then(|backend| backend.get("tls"));
            let references = tls.and_then(|tls| tls.get("caCertificateRefs")).and_then(Value::as_array);
            let names = references.into_iter().flatten().filter_map(|it| it.get("name")?.as_str());
            found.extend(names.map(|name| ObjectKey::new(&of.namespace, name)));
        }
    }
    found
}

/// The Services of all fields `backendRef`.
fn add_services(value: &Value, namespace: &str, services: &mut BTreeSet<ObjectKey>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match ServiceRef::parse(member) {
                    Ok(service) if name == "backendRef" => drop(services.insert(service.key(namespace))),
                    _ => add_services(member, namespace, services),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| add_services(item, namespace, services)),
        _ => {}
    }
}
