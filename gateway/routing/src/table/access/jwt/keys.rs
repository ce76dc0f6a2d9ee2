//! Public keys of a JSON Web Key Set (RFC 7517).

use jsonwebtoken::jwk::{
    AlgorithmParameters, CommonParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind};
use serde::Deserialize as _;
use serde_json::Value;

use super::crypto;

/// Maximum keys of a set.
const MAX_KEYS: usize = 256;
/// Sizes of RSA keys that are accepted. Smaller ones can be broken; larger ones take too long.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The keys of a set that verify signatures.
#[derive(Debug)]
pub struct JwtKeys(Vec<JwtKey>);

#[derive(Debug)]
pub(super) struct JwtKey {
    /// `kid`
    id: Option<String>,
    /// The algorithms that the key may be used with.
    algorithms: Vec<Algorithm>,
    pub(super) decoding: DecodingKey,
}

/// No key of a set is for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotFound {
    /// No key has the `kid`: it may be a new one.
    UnknownId,
    /// The key is not for the algorithm of the token, or the token does not say which key it is.
    NotSuitable,
}

impl JwtKeys {
    /// The keys of a document that verify signatures, and why others cannot be used. Keys for other purposes are ignored.
    /// No message contains a key.
    pub fn parse(document: &[u8]) -> Result<(Self, Vec<String>), String> {
        if !crypto::install() {
            return Err("another provider of signatures is installed".into());
        }
        // The error of the parser may contain what it has read.
        let document: Value = serde_json::from_slice(document).map_err(|_| "it is not a JSON document")?;
        let keys = document.get("keys").and_then(Value::as_array);
        let keys = keys.ok_or("it is not a JSON Web Key Set: it has no list `keys`")?;
        if keys.len() > MAX_KEYS {
            return Err(format!("it has {} keys; at most {MAX_KEYS} are supported", keys.len()));
        }
        let (mut usable, mut problems) = (Vec::new(), Vec::new());
        for (at, key) in keys.iter().enumerate() {
            match JwtKey::parse(key) {
                Ok(Some(key)) => usable.push(key),
                Ok(None) => {}
                Err(why) => problems.push(match key.get("kid").and_then(Value::as_str) {
                    Some(id) => format!("keys[{at}] (kid {id:?}) is not accepted: {why}"),
                    None => format!("keys[{at}] is not accepted: {why}"),
                }),
            }
        }
        Ok((Self(usable), problems))
    }

    /// Whether no token can be verified.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The key for a token. A token without a `kid` is verified only if a single key is for its algorithm: otherwise one
    /// token would cost many verifications.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<&JwtKey, NotFound> {
        let mut suitable = self.0.iter().filter(|key| key.algorithms.contains(&algorithm));
        let Some(id) = id else {
            return match (suitable.next(), suitable.next()) {
                (Some(key), None) => Ok(key),
                _ => Err(NotFound::NotSuitable),
            };
        };
        let has_id = |key: &&JwtKey| key.id.as_deref() == Some(id);
        let is_known = self.0.iter().any(|key| has_id(&key));
        let missing = if is_known { NotFound::NotSuitable } else { NotFound::UnknownId };
        suitable.find(has_id).ok_or(missing)
    }
}

impl JwtKey {
    /// `None` if the key is not for signatures.
    fn parse(key: &Value) -> Result<Option<Self>, &'static str> {
        // Members of private keys (RFC 7518 §6).
        if ["d", "k"].iter().any(|member| key.get(member).is_some()) {
            return Err(
                "it is a private key or a shared secret, which must not be published; only public keys are accepted",
            );
        }
        let jwk = Jwk::deserialize(key).map_err(|_| "it is not a JSON Web Key")?;
        if !is_for_signatures(&jwk.common) {
            return Ok(None);
        }
        let suitable: &[Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => AlgorithmFamily::Rsa.algorithms(),
            AlgorithmParameters::EllipticCurve(key) => match key.curve {
                EllipticCurve::P256 => &[Algorithm::ES256],
                EllipticCurve::P384 => &[Algorithm::ES384],
                _ => return Err("its curve is not supported; P-256 and P-384 are"),
            },
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                AlgorithmFamily::Ed.algorithms()
            }
            _ => return Err("its type is not supported; RSA, EC (P-256, P-384) and OKP (Ed25519) are"),
        };
        let named = jwk.common.key_algorithm;
        let is_named = |algorithm: &&Algorithm| named.is_none_or(|it| it == (**algorithm).into());
        let algorithms: Vec<Algorithm> = suitable.iter().filter(is_named).copied().collect();
        if algorithms.is_empty() {
            return Err("its `alg` is not one of signatures with its type of key");
        }
        let decoding = decoding_key(&jwk)?;
        Ok(Some(Self { id: jwk.common.key_id, algorithms, decoding }))
    }
}

fn is_for_signatures(common: &CommonParameters) -> bool {
    let is_used = common.public_key_use.as_ref().is_none_or(|it| *it == PublicKeyUse::Signature);
    let may_verify = |operations: &Vec<KeyOperations>| operations.contains(&KeyOperations::Verify);
    is_used && common.key_operations.as_ref().is_none_or(may_verify)
}

fn decoding_key(jwk: &Jwk) -> Result<DecodingKey, &'static str> {
    let key = DecodingKey::from_jwk(jwk).map_err(|_| "a member is not base64url without padding")?;
    match (key.kind(), &jwk.algorithm) {
        (DecodingKeyKind::RsaModulusExponent { n, e }, _) => {
            let (n, e) = (without_zeros(n), without_zeros(e));
            let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
            if !RSA_BITS.contains(&bits) {
                return Err("its modulus has less than 2048 or more than 8192 bits");
            }
            Ok(DecodingKey::from_rsa_raw_components(n, e))
        }
        (DecodingKeyKind::SecretOrDer(point), AlgorithmParameters::EllipticCurve(parameters)) => {
            let coordinate = if parameters.curve == EllipticCurve::P256 { 32 } else { 48 };
            // After one byte that says that both coordinates follow.
            let is_complete = point.len() == 1 + 2 * coordinate;
            if is_complete { Ok(key) } else { Err("its coordinates do not have the length of its curve") }
        }
        (DecodingKeyKind::SecretOrDer(point), _) if point.len() == 32 => Ok(key),
        _ => Err("`x` does not have 32 bytes"),
    }
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

#[cfg(test)]
mod tests {
    use forebay_test_tokens::{ALGORITHMS, TokenKey, encode};
    use serde_json::json;

    use super::*;

    fn parse(keys: Value) -> (JwtKeys, Vec<String>) {
        JwtKeys::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
    }

    fn changed(key: &TokenKey, member: &str, value: Value) -> Value {
        let mut jwk = key.jwk();
        jwk[member] = value;
        jwk
    }

    #[test]
    fn a_key_is_for_the_algorithms_of_its_type_and_alg() {
        let all = |jwk: Value| {
            let (keys, problems) = parse(json!([jwk]));
            assert_eq!(problems, Vec::<String>::new());
            keys.0.into_iter().next().unwrap().algorithms
        };
        for algorithm in ALGORITHMS {
            let expected: Algorithm = algorithm.parse().unwrap();
            assert_eq!(all(TokenKey::new(algorithm, "a").jwk()), [expected]);
        }
        for (algorithm, expected) in [
            ("RS256", AlgorithmFamily::Rsa.algorithms()),
            ("ES256", &[Algorithm::ES256]),
            ("ES384", &[Algorithm::ES384]),
            ("EdDSA", &[Algorithm::EdDSA]),
        ] {
            let mut jwk = TokenKey::new(algorithm, "a").jwk();
            jwk.as_object_mut().unwrap().remove("alg");
            assert_eq!(all(jwk), expected);
        }
    }

    #[test]
    fn keys_for_other_purposes_are_ignored() {
        let key = TokenKey::new("ES256", "a");
        for jwk in [changed(&key, "use", json!("enc")), changed(&key, "key_ops", json!(["sign"]))] {
            let (keys, problems) = parse(json!([jwk, key.jwk()]));
            assert_eq!((keys.len(), problems), (1, Vec::new()));
        }
    }

    #[test]
    fn what_cannot_be_used_is_reported_and_the_others_are_used() {
        let (good, rsa, ed) =
            (TokenKey::new("ES256", "a"), TokenKey::new("RS256", "a"), TokenKey::new("EdDSA", "a"));
        for (jwk, expected) in [
            (json!(7), "keys[0] is not accepted: it is not a JSON Web Key"),
            (
                changed(&good, "d", json!("SECRET")),
                "keys[0] (kid \"a\") is not accepted: it is a private key",
            ),
            (json!({ "kty": "oct", "k": "SECRET", "alg": "HS256" }), "a shared secret"),
            (changed(&good, "crv", json!("secp256k1")), "its type is not supported"),
            (changed(&good, "crv", json!("P-521")), "its curve is not supported"),
            (changed(&good, "crv", json!("P-384")), "its `alg` is not one of signatures with its type"),
            (changed(&good, "alg", json!("HS256")), "its `alg` is not one of signatures with its type"),
            (changed(&rsa, "alg", json!("RSA-OAEP")), "its `alg` is not one of signatures with its type"),
            (changed(&good, "x", json!("AAAA")), "its coordinates do not have the length"),
            (changed(&good, "x", json!("SECRET*")), "a member is not base64url"),
            (changed(&rsa, "n", json!(encode([255; 128]))), "less than 2048 or more than 8192 bits"),
            (changed(&rsa, "n", json!(encode([255; 1025]))), "less than 2048 or more than 8192 bits"),
            (changed(&ed, "x", json!("AAAA")), "`x` does not have 32 bytes"),
        ] {
            let (keys, problems) = parse(json!([jwk, good.jwk()]));
            assert_eq!((keys.len(), problems.len()), (1, 1), "{jwk}: {problems:?}");
            assert!(problems[0].contains(expected) && !problems[0].contains("SECRET"), "{jwk}: {problems:?}");
        }
    }

    #[test]
    fn a_document_that_is_not_a_key_set_is_an_error() {
        let many = json!({ "keys": vec![json!({}); 257] }).to_string();
        for (document, expected) in [
            ("", "it is not a JSON document"),
            ("[]", "it has no list `keys`"),
            ("{\"keys\": {}}", "it has no list `keys`"),
            (&many, "it has 257 keys; at most 256 are supported"),
        ] {
            assert!(JwtKeys::parse(document.as_bytes()).unwrap_err().contains(expected), "{document}");
        }
    }

    #[test]
    fn a_token_without_a_kid_needs_a_single_key_for_its_algorithm() {
        let keys = ["a", "b"].map(|id| TokenKey::new("ES256", id).jwk());
        let (both, _) = parse(json!(keys));
        let found = |keys: &JwtKeys, id, algorithm| keys.find(id, algorithm).map(|key| key.id.clone());
        assert_eq!(found(&both, Some("b"), Algorithm::ES256), Ok(Some("b".into())));
        assert_eq!(found(&both, Some("c"), Algorithm::ES256), Err(NotFound::UnknownId));
        assert_eq!(found(&both, Some("b"), Algorithm::ES384), Err(NotFound::NotSuitable));
        assert_eq!(found(&both, None, Algorithm::ES256), Err(NotFound::NotSuitable));
        let (one, _) = parse(json!([keys[0], TokenKey::new("EdDSA", "c").jwk()]));
        assert_eq!(found(&one, None, Algorithm::ES256), Ok(Some("a".into())));
        assert_eq!(found(&one, None, Algorithm::ES384), Err(NotFound::NotSuitable));
    }
}
