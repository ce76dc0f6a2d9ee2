//! Which tokens are accepted.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use forebay_resources::ObjectKey;
use forebay_test_tokens::{ALGORITHMS, TokenKey, encode, key_set};
use serde_json::{Value, json};

use super::super::authentication::AuthenticationMode;
use super::super::{CredentialLocation, Expression, Identity, ModelNames, Variables};
use super::*;

const ISSUER: &str = "https://idp.example";

/// Servers that have loaded these keys.
#[derive(Default)]
struct Loaded {
    keys: Option<Arc<JwtKeys>>,
    refreshed: RefCell<Vec<String>>,
}

impl RemoteKeys for Loaded {
    fn loaded(&self, _: &JwksId) -> Option<Arc<JwtKeys>> {
        self.keys.clone()
    }

    fn refresh(&self, id: &JwksId) {
        self.refreshed.borrow_mut().push(id.to_string());
    }
}

fn keys(keys: &[&TokenKey]) -> JwtKeys {
    JwtKeys::parse(key_set(keys.iter().copied()).as_bytes()).unwrap().0
}

fn of(providers: Vec<JwtProvider>) -> JwtAuthentication {
    JwtAuthentication { mode: AuthenticationMode::Strict, location: CredentialLocation::default(), providers }
}

fn inline(key: &TokenKey, audiences: &[&str]) -> JwtAuthentication {
    let audiences: Vec<String> = audiences.iter().map(ToString::to_string).collect();
    of(vec![JwtProvider::new(ISSUER.into(), &audiences, JwksSource::Inline(keys(&[key])))])
}

fn remote(key_path: &str) -> JwksSource {
    let id = JwksId { service: ObjectKey::new("infra", "idp"), port: 80, path: key_path.into() };
    JwksSource::Remote(Arc::new(RemoteJwks {
        id,
        endpoints: Vec::new(),
        tls: None,
        refresh: Duration::from_secs(300),
    }))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn claims(more: Value) -> Value {
    let mut claims = json!({ "iss": ISSUER, "sub": "alice", "exp": now() + 600 });
    claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    claims
}

fn outcome(authentication: &JwtAuthentication, token: impl AsRef<[u8]>) -> Result<(), TokenError> {
    authentication.verify(token.as_ref(), &Loaded::default()).map(|_| ())
}

#[test]
fn accepts_every_algorithm_of_its_key() {
    for algorithm in ALGORITHMS {
        let key = TokenKey::new(algorithm, "a");
        let jwt = inline(&key, &[]).verify(key.sign(&claims(json!({}))).as_bytes(), &Loaded::default());
        let jwt = jwt.unwrap_or_else(|error| panic!("{algorithm}: {error:?}"));
        assert_eq!((jwt.issuer.as_str(), jwt.subject.as_deref()), (ISSUER, Some("alice")));
    }
}

#[test]
fn rejects_what_its_key_did_not_sign() {
    let (key, other) = (TokenKey::new("ES256", "a"), TokenKey::new("ES256", "a"));
    let authentication = inline(&key, &[]);
    let good = key.sign(&claims(json!({})));
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else { unreachable!() };
    let changed = encode(claims(json!({ "sub": "root" })).to_string());
    let mut flipped = good.clone().into_bytes();
    let middle = header.len() + payload.len() + 12;
    flipped[middle] = if flipped[middle] == b'A' { b'B' } else { b'A' };
    assert_eq!(outcome(&authentication, &good), Ok(()));
    for token in [
        other.sign(&claims(json!({}))),
        format!("{header}.{changed}.{signature}"),
        format!("{header}.{payload}."),
        format!("{header}.{payload}"),
        format!("{good}.{signature}"),
        format!("{good}="),
        format!("{header}..{signature}"),
        String::from_utf8(flipped).unwrap(),
        String::new(),
        "..".into(),
        "k-sales".into(),
    ] {
        assert_eq!(outcome(&authentication, &token), Err(TokenError::Invalid), "{token}");
    }
    assert_eq!(outcome(&authentication, b"\xff.\xff.\xff"), Err(TokenError::Invalid));
}

/// The algorithm is the one of the key, not the one that a token asks for (RFC 8725 §3.1).
#[test]
fn rejects_confused_algorithms() {
    for (algorithm, others) in [
        ("RS256", &["none", "None", "HS256", "HS512", "PS256", "RS512", "ES256", "EdDSA", "RS999"][..]),
        ("ES256", &["none", "HS256", "ES384", "RS256", "EdDSA"]),
        ("EdDSA", &["none", "HS256", "ES256"]),
    ] {
        let key = TokenKey::new(algorithm, "a");
        let authentication = inline(&key, &[]);
        for other in others {
            let token = key.sign_with_header(&json!({ "alg": other, "kid": "a" }), &claims(json!({})));
            assert_eq!(outcome(&authentication, &token), Err(TokenError::Invalid), "{algorithm} as {other}");
        }
        let unsigned = key.sign_with_header(&json!({ "alg": "none", "kid": "a" }), &claims(json!({})));
        let unsigned = format!("{}.", unsigned.rsplit_once('.').unwrap().0);
        assert_eq!(outcome(&authentication, unsigned), Err(TokenError::Invalid));
        // RSA keys without `alg` verify all RSA algorithms, and still no other.
        let mut jwk = key.jwk();
        jwk.as_object_mut().unwrap().remove("alg");
        let document = json!({ "keys": [jwk] }).to_string();
        let (any, _) = JwtKeys::parse(document.as_bytes()).unwrap();
        let any = of(vec![JwtProvider::new(ISSUER.into(), &[], JwksSource::Inline(any))]);
        assert_eq!(outcome(&any, key.sign(&claims(json!({})))), Ok(()));
        let confused = key.sign_with_header(&json!({ "alg": "HS256", "kid": "a" }), &claims(json!({})));
        assert_eq!(outcome(&any, confused), Err(TokenError::Invalid));
    }
}

/// A key with `alg` verifies this algorithm only, also if the signature of another one is right.
#[test]
fn rejects_what_its_key_signed_with_another_algorithm() {
    // All RSA keys are the same one.
    let (of_set, of_token) = (TokenKey::new("RS256", "a"), TokenKey::new("PS256", "a"));
    assert_eq!(of_set.jwk()["n"], of_token.jwk()["n"]);
    let token = of_token.sign(&claims(json!({})));
    assert_eq!(outcome(&inline(&of_set, &[]), &token), Err(TokenError::Invalid));
    assert_eq!(outcome(&inline(&of_token, &[]), &token), Ok(()));
}

#[test]
fn checks_the_claims() {
    use TokenError::{Expired, Invalid};
    let key = TokenKey::new("EdDSA", "a");
    let authentication = inline(&key, &["models", "more"]);
    let good = json!({ "aud": "models" });
    for (change, expected) in [
        (json!({}), Ok(())),
        (json!({ "aud": ["x", "more"] }), Ok(())),
        (json!({ "aud": "other" }), Err(Invalid)),
        (json!({ "aud": ["x"] }), Err(Invalid)),
        (json!({ "aud": [] }), Err(Invalid)),
        (json!({ "aud": 7 }), Err(Invalid)),
        (json!({ "aud": null }), Err(Invalid)),
        (json!({ "iss": "https://idp.example/" }), Err(Invalid)),
        (json!({ "iss": [ISSUER] }), Err(Invalid)),
        (json!({ "iss": null }), Err(Invalid)),
        (json!({ "exp": now() - 30 }), Ok(())),
        (json!({ "exp": now() - 90 }), Err(Expired)),
        (json!({ "exp": 0 }), Err(Expired)),
        (json!({ "exp": -1 }), Err(Invalid)),
        (json!({ "exp": null }), Err(Invalid)),
        (json!({ "exp": "tomorrow" }), Err(Invalid)),
        (json!({ "exp": 1e300 }), Err(Invalid)),
        (json!({ "exp": u64::MAX }), Ok(())),
        (json!({ "nbf": now() + 30 }), Ok(())),
        (json!({ "nbf": now() + 90 }), Err(Invalid)),
        (json!({ "nbf": "x" }), Err(Invalid)),
        (json!({ "nbf": u64::MAX }), Err(Invalid)),
        (json!({ "sub": 7 }), Ok(())),
    ] {
        let mut claims = claims(good.clone());
        claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        assert_eq!(outcome(&authentication, key.sign(&claims)), expected, "{change}");
    }
    for missing in ["iss", "exp", "aud"] {
        let mut claims = claims(good.clone());
        claims.as_object_mut().unwrap().remove(missing);
        assert_eq!(outcome(&authentication, key.sign(&claims)), Err(Invalid), "without {missing}");
    }
    // Without audiences, tokens for any are accepted.
    let any = inline(&key, &[]);
    for audience in [json!("x"), json!(["x", "y"]), json!(null)] {
        assert_eq!(outcome(&any, key.sign(&claims(json!({ "aud": audience })))), Ok(()), "{audience}");
    }
}

#[test]
fn rejects_unknown_extensions_and_large_tokens() {
    let key = TokenKey::new("EdDSA", "a");
    let authentication = inline(&key, &[]);
    for header in [
        json!({ "alg": "EdDSA", "kid": "a", "crit": ["b64"], "b64": false }),
        json!({ "alg": "EdDSA", "kid": "a", "crit": [] }),
        json!({ "alg": "EdDSA", "kid": "a", "crit": "exp" }),
    ] {
        let token = key.sign_with_header(&header, &claims(json!({})));
        assert_eq!(outcome(&authentication, token), Err(TokenError::Invalid), "{header}");
    }
    let sized = |bytes: usize| key.sign(&claims(json!({ "pad": "x".repeat(bytes) })));
    assert_eq!(outcome(&authentication, sized(11_000)), Ok(()));
    assert_eq!(outcome(&authentication, sized(13_000)), Err(TokenError::Invalid));
}

/// The claims of an issuer count only with its own keys.
#[test]
fn a_provider_does_not_vouch_for_another() {
    let (first, second) = (TokenKey::new("ES256", "a"), TokenKey::new("ES256", "b"));
    let provider = |issuer: &str, key| JwtProvider::new(issuer.into(), &[], JwksSource::Inline(keys(&[key])));
    let authentication = of(vec![provider(ISSUER, &first), provider("https://other", &second)]);
    assert_eq!(outcome(&authentication, first.sign(&claims(json!({})))), Ok(()));
    assert_eq!(outcome(&authentication, second.sign(&claims(json!({ "iss": "https://other" })))), Ok(()));
    assert_eq!(outcome(&authentication, second.sign(&claims(json!({})))), Err(TokenError::Invalid));
}

#[test]
fn an_issuer_may_have_several_providers() {
    let (first, second) = (TokenKey::new("ES256", "a"), TokenKey::new("ES256", "b"));
    let provider = |source| JwtProvider::new(ISSUER.into(), &[], source);
    let authentication = of(vec![provider(remote("/keys")), provider(JwksSource::Inline(keys(&[&first])))]);
    let mut loaded = Loaded::default();
    let verify = |key: &TokenKey, loaded: &Loaded| {
        authentication.verify(key.sign(&claims(json!({}))).as_bytes(), loaded).map(|_| ())
    };
    assert_eq!(verify(&first, &loaded), Ok(()));
    assert_eq!(verify(&second, &loaded), Err(TokenError::KeysUnavailable));
    loaded.keys = Some(Arc::new(keys(&[&second])));
    assert_eq!(verify(&second, &loaded), Ok(()));
}

#[test]
fn an_unknown_key_asks_for_the_set_again() {
    let (key, new) = (TokenKey::new("ES256", "a"), TokenKey::new("ES256", "b"));
    let authentication = of(vec![JwtProvider::new(ISSUER.into(), &[], remote("/keys?x=1"))]);
    let verify = |token: String, loaded: &Loaded| {
        let verified = authentication.verify(token.as_bytes(), loaded).map(|_| ());
        (verified, loaded.refreshed.take())
    };
    let none = Loaded::default();
    assert_eq!(verify(key.sign(&claims(json!({}))), &none), (Err(TokenError::KeysUnavailable), vec![]));
    let loaded = Loaded { keys: Some(Arc::new(keys(&[&key]))), ..Loaded::default() };
    assert_eq!(verify(key.sign(&claims(json!({}))), &loaded), (Ok(()), vec![]));
    let asked = vec!["infra/idp:80/keys?x=1".to_owned()];
    assert_eq!(verify(new.sign(&claims(json!({}))), &loaded), (Err(TokenError::Invalid), asked));
    // Another issuer, or a known key with another algorithm, causes no load.
    let other = new.sign(&claims(json!({ "iss": "https://other" })));
    assert_eq!(verify(other, &loaded), (Err(TokenError::Invalid), vec![]));
    let confused = new.sign_with_header(&json!({ "alg": "ES384", "kid": "a" }), &claims(json!({})));
    assert_eq!(verify(confused, &loaded), (Err(TokenError::Invalid), vec![]));
}

#[test]
fn expressions_read_claims_of_any_type() {
    let key = TokenKey::new("EdDSA", "a");
    let mut deep = json!("end");
    for _ in 0..100 {
        deep = json!({ "d": deep });
    }
    let token = key.sign(&claims(json!({
        "groups": ["a", 7, null, { "x": [] }], "large": u64::MAX, "small": -1, "half": 0.5, "no": null,
        "realm_access": { "roles": ["user"] }, "https://example/claim": true, "": "empty", "deep": deep,
    })));
    let jwt = Arc::new(inline(&key, &[]).verify(token.as_bytes(), &Loaded::default()).unwrap());
    let identity = Identity { key: None, jwt: Some(jwt), certificate: None };
    let variables = Variables::new(None, "10.0.0.1", &identity, ModelNames::default());
    for (source, expected) in [
        ("jwt.sub == 'alice' && jwt.iss == 'https://idp.example'", Some(true)),
        ("'a' in jwt.groups && 'user' in jwt.realm_access.roles", Some(true)),
        ("jwt['https://example/claim'] && jwt[''] == 'empty'", Some(true)),
        ("jwt.large == 18446744073709551615u && jwt.small == -1 && jwt.half < 1.0", Some(true)),
        ("jwt.no == null", Some(true)),
        ("has(jwt.email)", Some(false)),
        ("jwt.groups == 'a'", Some(false)),
        ("jwt.email == 'x'", None),
        ("jwt.groups.startsWith('a')", None),
        ("jwt.sub.x == 'x'", None),
        ("jwt.groups[9] == 'x'", None),
        ("jwt.no.x == 'x'", None),
    ] {
        let evaluated = Expression::compile(source).unwrap().evaluate(&variables).ok();
        assert_eq!(evaluated, expected, "{source}");
    }
}
