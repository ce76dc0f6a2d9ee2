//! `X-Forwarded-*`: set by the gateway, taken from clients of trusted listeners only.

use crate::support::client::{exchange, post_with};
use crate::support::harness::{Harness, QWEN};
use crate::support::upstream::Upstream;

const CHAT: &str = r#"{"model":"Qwen/Qwen3-0.6B","messages":[]}"#;

#[tokio::test]
async fn forwarding_headers_come_from_the_gateway_or_a_trusted_proxy() {
    let upstream = Upstream::bind().await;
    let running =
        Harness::new().pool("qwen", QWEN, &[upstream.port()], None).with_trusted_listener().start().await;
    let claims = "x-forwarded-for: 203.0.113.7\r\nx-forwarded-proto: https\r\nx-forwarded-host: a.example\r\n\
                  x_forwarded_for: 203.0.113.8\r\nx-real-ip: 203.0.113.9\r\nforwarded: for=203.0.113.9\r\n";
    for (address, expected) in [
        (running.address(), ["127.0.0.1", "http", "models.example"]),
        (running.trusted_address(), ["203.0.113.7, 127.0.0.1", "https", "a.example"]),
    ] {
        let (_, forwarded) =
            tokio::join!(exchange(address, post_with(claims, CHAT)), upstream.answer_one("ok"));
        let names = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"];
        assert_eq!(names.map(|name| forwarded.header(name)), expected.map(Some), "{address}");
        assert_eq!(forwarded.header("forwarded"), None);
    }
    let (_, forwarded) =
        tokio::join!(exchange(running.address(), post_with(claims, CHAT)), upstream.answer_one("ok"));
    assert_eq!(["x_forwarded_for", "x-real-ip"].map(|name| forwarded.header(name)), [None; 2]);
}
