//! TLS to endpoint pickers.

use forebay_gateway::{Config, PickerTls};
use forebay_service::tls::{GATEWAY_NAME, PICKER_NAME, picker_name};
use forebay_test_certificates::Authority;

use crate::support::client::{exchange, post};
use crate::support::harness::{Harness, QWEN, Running};
use crate::support::picker::{Fixed, Picker};
use crate::support::tls::Certificate;
use crate::support::upstream::Upstream;

const CHAT: &str = r#"{"model":"Qwen/Qwen3-0.6B","messages":[]}"#;

async fn harness(upstream: &Upstream, picker: &Picker, configure: impl FnOnce(&mut Config)) -> Running {
    Harness::new()
        .pool("qwen", QWEN, &[upstream.port()], Some((picker.port(), "FailClose")))
        .start_with(configure)
        .await
}

async fn is_reached(running: &Running, upstream: &Upstream) -> bool {
    let answering = async {
        upstream.answer_one("ok").await;
        std::future::pending::<()>().await
    };
    let response = tokio::select! {
        response = exchange(running.address(), post(CHAT)) => response,
        () = answering => unreachable!("it waits for the response"),
    };
    if response.status != 200 {
        assert_eq!(response.code(), "picker_unavailable");
    }
    response.status == 200
}

#[tokio::test]
async fn accepts_self_signed_certificates_without_a_ca() {
    let upstream = Upstream::bind().await;
    let (own, other) = (Certificate::of("epp.example"), Certificate::of("epp.example"));
    let picker = Picker::start_tls(Fixed::at(upstream.address()), &own).await;
    let folder = tempfile::tempdir().unwrap();
    let authority = |certificate: &Certificate, name: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, &certificate.certificate).unwrap();
        path
    };
    let (right, wrong) = (authority(&own, "right"), authority(&other, "wrong"));

    assert!(is_reached(&harness(&upstream, &picker, |_| {}).await, &upstream).await);
    let required = |config: &mut Config| config.picker_tls.epp_tls = PickerTls::Required;
    assert!(is_reached(&harness(&upstream, &picker, required).await, &upstream).await);
    let off = |config: &mut Config| config.picker_tls.epp_tls = PickerTls::Off;
    assert!(!is_reached(&harness(&upstream, &picker, off).await, &upstream).await);
    for (authority, name, expected) in
        [(&right, "epp.example", true), (&wrong, "epp.example", false), (&right, "other.example", false)]
    {
        let checked = |config: &mut Config| {
            config.picker_tls.epp_tls_ca = Some(authority.clone());
            config.picker_tls.epp_tls_name = name.into();
        };
        let running = harness(&upstream, &picker, checked).await;
        assert_eq!(is_reached(&running, &upstream).await, expected, "{authority:?} {name}");
    }
}

#[tokio::test]
async fn falls_back_to_plain_text_unless_tls_is_required() {
    let upstream = Upstream::bind().await;
    let picker = Picker::start(Fixed::at(upstream.address())).await;
    for (mode, expected) in [(PickerTls::Auto, true), (PickerTls::Off, true), (PickerTls::Required, false)] {
        let running = harness(&upstream, &picker, |config| config.picker_tls.epp_tls = mode).await;
        assert_eq!(is_reached(&running, &upstream).await, expected, "{mode:?}");
    }
}

/// One authority signs the certificates of all tenants. The name must be that of the pool's namespace.
#[tokio::test]
async fn rejects_the_picker_of_another_namespace() {
    let authority = Authority::new("forebay-test-ca").unwrap();
    let upstream = Upstream::bind().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.crt");
    std::fs::write(&path, authority.pem()).unwrap();
    for (namespace, name, expected) in [
        ("llm-d", picker_name("llm-d"), true),
        ("llm-d", picker_name("other"), false),
        ("other", picker_name("other"), true),
        ("other", picker_name("llm-d"), false),
        ("llm-d", PICKER_NAME.to_owned(), false),
        ("llm-d", GATEWAY_NAME.to_owned(), false),
    ] {
        let own = Certificate::issued(&authority, &name);
        let picker = Picker::start_tls(Fixed::at(upstream.address()), &own).await;
        let mut manifests =
            Harness::new().pool("qwen", QWEN, &[upstream.port()], Some((picker.port(), "FailClose")));
        manifests.manifests =
            manifests.manifests.replace("namespace: llm-d", &format!("namespace: {namespace}"));
        let running = manifests.start_with(|config| config.picker_tls.epp_tls_ca = Some(path.clone())).await;
        assert_eq!(is_reached(&running, &upstream).await, expected, "{name} for a pool in {namespace}");
    }
}
