//! Signatures of the Standard Webhooks specification: HMAC-SHA256 over `id.timestamp.body`.
//!
//! The signature is computed while the body arrives, so that the body need not be in memory. [`Unauthorized`] does not
//! say what is wrong, so that a caller without a secret learns nothing.

use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

use crate::secrets::{self, Secret, SecretError};

pub mod arriving;
pub mod receive;

/// Request extension that marks a caller as authenticated already: by AWS, or because only this machine can reach the
/// server. If no secrets are set, only such callers may post.
#[derive(Clone, Copy, Debug)]
pub struct PreAuthenticated;

/// Largest difference between a request's timestamp and the local clock.
const TOLERANCE: SignedDuration = SignedDuration::from_mins(5);
/// Most bytes of a webhook's id. A request with a longer id is refused.
const LONGEST_ID: usize = 256;
/// Most signatures of one header that are checked. Further signatures are ignored.
const MAX_SIGNATURES: usize = 16;

/// The request has no valid signature. The signature is missing or wrong, or its timestamp is too old or in the future.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request carries no valid signature")]
pub struct Unauthorized;

/// A configured secret is not a valid `whsec_` key.
#[derive(Debug, thiserror::Error)]
#[error("secret number {number} is not valid: write whsec_ and then Base64")]
pub struct BadSecret {
    /// Position of the secret in the list, counted from 1. The secret itself is never shown.
    pub number: usize,
}

/// The secrets that senders sign with cannot be used at the moment.
#[derive(Debug, thiserror::Error)]
pub enum NoSecrets {
    /// The secrets cannot be read.
    #[error(transparent)]
    Unreadable(#[from] SecretError),
    /// One of the secrets is not valid.
    #[error(transparent)]
    Bad(#[from] BadSecret),
}

/// The current secrets that senders sign with, separated by commas.
#[derive(Clone, Debug)]
pub struct Secrets(Secret);

impl Secrets {
    /// Takes the secrets. Secrets in a variable are checked here, and secrets in an entry when they are read.
    ///
    /// # Errors
    /// [`BadSecret`] names the first secret that is not valid.
    pub fn new(secret: Secret) -> Result<Self, BadSecret> {
        if let Some(fixed) = secret.fixed() {
            Verifier::new(&secrets::split(fixed))?;
        }
        Ok(Self(secret))
    }

    /// Returns a verifier with the current secrets. If the list of secrets is empty, the verifier refuses all
    /// signatures.
    ///
    /// # Errors
    /// See [`NoSecrets`].
    pub async fn verifier(&self) -> Result<Verifier, NoSecrets> {
        Ok(Verifier::new(&self.0.list().await?)?)
    }
}

/// Checks signatures against one or more secrets. There are several secrets while they are rotated.
#[derive(Clone)]
pub struct Verifier {
    keys: Vec<Hmac<Sha256>>,
}

impl Verifier {
    /// Takes secrets of the form `whsec_<base64>`.
    ///
    /// # Errors
    /// [`BadSecret`] names the first secret that is not of that form.
    pub fn new(secrets: &[SecretString]) -> Result<Self, BadSecret> {
        let key = |(index, secret): (usize, &SecretString)| {
            let bad = || BadSecret { number: index.saturating_add(1) };
            let text = secret.expose_secret().strip_prefix("whsec_").ok_or_else(bad)?;
            let bytes = BASE64_STANDARD.decode(text).map_err(|_| bad())?;
            if bytes.is_empty() {
                return Err(bad());
            }
            Hmac::new_from_slice(&bytes).map_err(|_| bad())
        };
        Ok(Self { keys: secrets.iter().enumerate().map(key).collect::<Result<_, _>>()? })
    }

    /// Reads `webhook-id`, `webhook-timestamp` and `webhook-signature`, and checks the time.
    ///
    /// # Errors
    /// [`Unauthorized`] if a header is missing or malformed, or if the timestamp is more than five minutes away from
    /// `now`.
    pub fn begin(&self, headers: &HeaderMap, now: Timestamp) -> Result<Pending, Unauthorized> {
        // A header that occurs twice is refused, because one value could be signed and the other one read.
        let header = |name: &str| {
            let mut all = headers.get_all(name).iter();
            all.next().filter(|_| all.next().is_none())?.to_str().ok()
        };
        let id = header("webhook-id")
            .filter(|id| !id.is_empty() && id.len() <= LONGEST_ID)
            .ok_or(Unauthorized)?;
        let written = header("webhook-timestamp").ok_or(Unauthorized)?;
        let seconds: i64 = written.parse().map_err(|_| Unauthorized)?;
        let time = Timestamp::from_second(seconds).map_err(|_| Unauthorized)?;
        if now.duration_since(time).abs() > TOLERANCE {
            return Err(Unauthorized);
        }
        let signatures: Vec<Vec<u8>> = header("webhook-signature")
            .ok_or(Unauthorized)?
            .split(' ')
            .take(MAX_SIGNATURES)
            .filter_map(|signature| BASE64_STANDARD.decode(signature.strip_prefix("v1,")?).ok())
            .collect();
        if signatures.is_empty() {
            return Err(Unauthorized);
        }
        let mut keys = self.keys.clone();
        for key in &mut keys {
            key.update(format!("{id}.{written}.").as_bytes());
        }
        Ok(Pending { id: id.to_owned(), keys, signatures })
    }
}

/// Returns the header `webhook-signature` that a sender writes for a body.
///
/// # Errors
/// [`BadSecret`] if the secret is not of the form `whsec_<base64>`.
pub fn sign(secret: &str, id: &str, time: Timestamp, body: &[u8]) -> Result<String, BadSecret> {
    let verifier = Verifier::new(&[SecretString::from(secret)])?;
    let mut key = verifier.keys.into_iter().next().ok_or(BadSecret { number: 1 })?;
    key.update(format!("{id}.{}.", time.as_second()).as_bytes());
    key.update(body);
    Ok(format!("v1,{}", BASE64_STANDARD.encode(key.finalize().into_bytes())))
}

/// A signature that is checked when the body is complete.
pub struct Pending {
    id: String,
    keys: Vec<Hmac<Sha256>>,
    signatures: Vec<Vec<u8>>,
}

impl Pending {
    /// Adds the next bytes of the body as they were received, before any `Content-Encoding` is undone.
    pub fn update(&mut self, bytes: &[u8]) {
        for key in &mut self.keys {
            key.update(bytes);
        }
    }

    /// Returns the request's id if one of the signatures matches one of the secrets. It is called after the whole body
    /// was added, and compares in constant time.
    ///
    /// # Errors
    /// [`Unauthorized`] if no signature matches.
    pub fn finish(self) -> Result<String, Unauthorized> {
        let fits =
            |key: &Hmac<Sha256>, signature: &[u8]| key.clone().verify_slice(signature).is_ok();
        let any = self.keys.iter().any(|key| self.signatures.iter().any(|s| fits(key, s)));
        if any { Ok(self.id) } else { Err(Unauthorized) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_510_620;

    fn headers(id: &str, time: i64, signature: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("webhook-id", id.parse().unwrap());
        headers.insert("webhook-timestamp", time.to_string().parse().unwrap());
        headers.insert("webhook-signature", signature.parse().unwrap());
        headers
    }

    fn sign(secret: &[u8], id: &str, time: i64, body: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
        mac.update(format!("{id}.{time}.").as_bytes());
        mac.update(body);
        format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
    }

    fn verifier() -> Verifier {
        let secret = |s: &[u8]| SecretString::from(format!("whsec_{}", BASE64_STANDARD.encode(s)));
        Verifier::new(&[secret(b"old secret"), secret(b"new secret")]).unwrap()
    }

    fn check(headers: &HeaderMap, body: &[u8]) -> Result<String, Unauthorized> {
        let mut pending = verifier().begin(headers, Timestamp::from_second(NOW).unwrap())?;
        for part in body.chunks(3) {
            pending.update(part);
        }
        pending.finish()
    }

    #[test]
    fn a_signature_of_either_secret_is_taken() {
        for secret in [&b"old secret"[..], b"new secret"] {
            let signature = sign(secret, "msg_1", NOW, b"body");
            assert_eq!(check(&headers("msg_1", NOW, &signature), b"body").unwrap(), "msg_1");
            let several = format!("v1a,xxxx v1,AAAA {signature}");
            assert!(check(&headers("msg_1", NOW, &several), b"body").is_ok());
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let good = sign(b"new secret", "msg_1", NOW, b"body");
        assert!(check(&headers("msg_1", NOW, &good), b"bodY").is_err());
        assert!(check(&headers("msg_2", NOW, &good), b"body").is_err());
        assert!(check(&headers("msg_1", NOW + 1, &good), b"body").is_err());
        assert!(check(&headers("msg_1", NOW, "v1,"), b"body").is_err());
        assert!(check(&headers("msg_1", NOW, good.trim_start_matches("v1,")), b"body").is_err());
        assert!(check(&HeaderMap::new(), b"body").is_err());
        let other = sign(b"other secret", "msg_1", NOW, b"body");
        assert!(check(&headers("msg_1", NOW, &other), b"body").is_err());
        for late in [NOW - 301, NOW + 301] {
            let signature = sign(b"new secret", "msg_1", late, b"body");
            assert!(check(&headers("msg_1", late, &signature), b"body").is_err());
        }
    }

    #[test]
    fn a_bad_secret_is_named_by_its_number() {
        for bad in ["secret", "whsec_", "whsec_!!"] {
            let good = SecretString::from("whsec_AAAA");
            let error = Verifier::new(&[good, bad.into()]).err().unwrap();
            assert_eq!(error.number, 2);
            assert!(!error.to_string().contains("!!"));
        }
    }
}
