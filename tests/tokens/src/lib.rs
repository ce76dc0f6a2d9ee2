//! Keys that sign JSON Web Tokens.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::rsa::{KeyPair as RsaKeyPair, PublicKeyComponents};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256,
    RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding,
};
use rsa::pkcs8::EncodePrivateKey as _;
use serde_json::{Value, json};

/// Algorithms of [`TokenKey::new`].
pub const ALGORITHMS: [&str; 9] =
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

/// `ring` generates no RSA keys, and generating one takes long: all RSA keys of a process are the same.
static RSA_PKCS8: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).expect("a key of 2048 bits");
    key.to_pkcs8_der().expect("a key that can be encoded").as_bytes().to_vec()
});

enum Signer {
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// A key that signs tokens with one algorithm.
pub struct TokenKey {
    algorithm: &'static str,
    id: String,
    signer: Signer,
    jwk: Value,
}

impl TokenKey {
    /// A key with the `kid` `id`, new unless it is for RSA.
    ///
    /// # Panics
    /// When `algorithm` is not one of [`ALGORITHMS`].
    #[must_use]
    pub fn new(algorithm: &'static str, id: &str) -> Self {
        let (signer, mut jwk) = match algorithm {
            "RS256" => rsa(&RSA_PKCS1_SHA256),
            "RS384" => rsa(&RSA_PKCS1_SHA384),
            "RS512" => rsa(&RSA_PKCS1_SHA512),
            "PS256" => rsa(&RSA_PSS_SHA256),
            "PS384" => rsa(&RSA_PSS_SHA384),
            "PS512" => rsa(&RSA_PSS_SHA512),
            "ES256" => ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256"),
            "ES384" => ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING, "P-384"),
            "EdDSA" => ed25519(),
            other => panic!("{other} is not an algorithm of these keys"),
        };
        (jwk["kid"], jwk["alg"], jwk["use"]) = (id.into(), algorithm.into(), "sig".into());
        Self { algorithm, id: id.to_owned(), signer, jwk }
    }

    /// The public key as a JSON Web Key.
    #[must_use]
    pub fn jwk(&self) -> Value {
        self.jwk.clone()
    }

    /// A token with these claims.
    #[must_use]
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_with_header(&json!({ "alg": self.algorithm, "kid": self.id, "typ": "JWT" }), claims)
    }

    /// A token with a header that may contradict the key.
    ///
    /// # Panics
    /// When the key cannot sign.
    #[must_use]
    pub fn sign_with_header(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let random = SystemRandom::new();
        let signature = match &self.signer {
            Signer::Rsa(key, encoding) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(*encoding, &random, message.as_bytes(), &mut signature).expect("a signature");
                signature
            }
            Signer::Ecdsa(key) => {
                key.sign(&random, message.as_bytes()).expect("a signature").as_ref().to_vec()
            }
            Signer::Ed25519(key) => key.sign(message.as_bytes()).as_ref().to_vec(),
        };
        format!("{message}.{}", encode(signature))
    }
}

/// A JSON Web Key Set of these keys.
#[must_use]
pub fn key_set<'k>(keys: impl IntoIterator<Item = &'k TokenKey>) -> String {
    json!({ "keys": keys.into_iter().map(TokenKey::jwk).collect::<Vec<_>>() }).to_string()
}

/// Base64 of URLs, without padding.
#[must_use]
pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn rsa(encoding: &'static dyn RsaEncoding) -> (Signer, Value) {
    let key = RsaKeyPair::from_pkcs8(&RSA_PKCS8).expect("a key of ours");
    let public = PublicKeyComponents::<Vec<u8>>::from(key.public());
    (Signer::Rsa(key, encoding), json!({ "kty": "RSA", "n": encode(public.n), "e": encode(public.e) }))
}

fn ecdsa(algorithm: &'static EcdsaSigningAlgorithm, curve: &str) -> (Signer, Value) {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key");
    let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).expect("a key of ours");
    // An uncompressed point: 4, x, y (SEC 1 §2.3.3).
    let (x, y) = key.public_key().as_ref()[1..].split_at(key.public_key().as_ref().len() / 2);
    let jwk = json!({ "kty": "EC", "crv": curve, "x": encode(x), "y": encode(y) });
    (Signer::Ecdsa(key), jwk)
}

fn ed25519() -> (Signer, Value) {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
    let key = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("a key of ours");
    let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(key.public_key()) });
    (Signer::Ed25519(key), jwk)
}
