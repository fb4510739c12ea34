//! Who may post: a Standard Webhooks signature, or a bearer token; either suffices.

use azul_vt::webhook::{BadSecret, Pending, Unauthorized, Verifier};
use http::{HeaderMap, header};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// What the server asks of its callers.
pub(crate) struct Auth {
    verifier: Option<Verifier>,
    /// Hashes of tokens: of one length, so that comparing them tells nothing of the tokens' lengths.
    tokens: Vec<[u8; 32]>,
}

/// A caller that may post, as far as its headers say.
pub(crate) enum Caller {
    /// Nothing more to check.
    Trusted,
    /// The signature must fit the body.
    Signed(Box<Pending>),
}

impl Auth {
    pub(crate) fn new(
        secrets: &[SecretString],
        tokens: &[SecretString],
    ) -> Result<Self, BadSecret> {
        let verifier = if secrets.is_empty() { None } else { Some(Verifier::new(secrets)?) };
        let tokens =
            tokens.iter().map(|t| Sha256::digest(t.expose_secret().as_bytes()).into()).collect();
        Ok(Self { verifier, tokens })
    }

    /// Checks what can be checked before the body is read.
    pub(crate) fn check(
        &self,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Result<Caller, Unauthorized> {
        if self.verifier.is_none() && self.tokens.is_empty() {
            return Ok(Caller::Trusted); // settings.rs lets such a server listen on loopback only
        }
        if self.bears_token(headers) {
            return Ok(Caller::Trusted);
        }
        let verifier = self.verifier.as_ref().ok_or(Unauthorized)?;
        Ok(Caller::Signed(Box::new(verifier.begin(headers, now)?)))
    }

    fn bears_token(&self, headers: &HeaderMap) -> bool {
        let authorization = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        let Some((scheme, token)) = authorization.and_then(|text| text.split_once(' ')) else {
            return false;
        };
        let hash: [u8; 32] = Sha256::digest(token.trim().as_bytes()).into();
        // All are compared, whichever fits.
        let any = self.tokens.iter().fold(Choice::from(0), |any, known| any | known.ct_eq(&hash));
        scheme.eq_ignore_ascii_case("bearer") && bool::from(any)
    }
}
