//! Authenticates callers by a Standard Webhooks signature or a bearer token; either suffices. If neither is configured,
//! the server must mark requests as authenticated ([`PreAuthenticated`]).

use azul_vt::{
    secrets::Secret,
    settings::Settings,
    webhook::{BadSecret, Pending, PreAuthenticated, Secrets},
};
use http::{Extensions, HeaderMap, header};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::reply::Problem;

/// The secrets and tokens that callers can authenticate with.
pub(crate) struct Auth {
    secrets: Option<Secrets>,
    tokens: Option<Secret>,
}

/// A caller that may post, as far as its headers say.
pub(crate) enum Caller {
    /// The caller is authenticated.
    Trusted,
    /// The caller is authenticated if the signature matches the body.
    Signed(Box<Pending>),
}

impl Auth {
    /// Reads the secrets and tokens of the settings.
    pub(crate) fn new(settings: &Settings) -> Result<Self, BadSecret> {
        let secrets = settings.secret("INGEST_SECRETS", settings.ingest_secrets.as_ref());
        let tokens = settings.secret("INGEST_TOKENS", settings.ingest_tokens.as_ref());
        Ok(Self { secrets: secrets.map(Secrets::new).transpose()?, tokens })
    }

    /// Checks the caller as far as possible before the body is read. If secrets or tokens are configured but empty, all
    /// callers are refused.
    pub(crate) async fn check(
        &self,
        headers: &HeaderMap,
        extensions: &Extensions,
        now: Timestamp,
    ) -> Result<Caller, Problem> {
        if self.secrets.is_none() && self.tokens.is_none() {
            let let_in = extensions.get::<PreAuthenticated>();
            return let_in.map(|PreAuthenticated| Caller::Trusted).ok_or(Problem::Unauthorized);
        }
        if let (Some(tokens), Some(token)) = (&self.tokens, bearer_token(headers))
            && is_one_of(token, &tokens.list().await.map_err(|e| Problem::Secrets(e.into()))?)
        {
            return Ok(Caller::Trusted);
        }
        let secrets = self.secrets.as_ref().ok_or(Problem::Unauthorized)?;
        let verifier = secrets.verifier().await.map_err(Problem::Secrets)?;
        let pending = verifier.begin(headers, now).map_err(|_| Problem::Unauthorized)?;
        Ok(Caller::Signed(Box::new(pending)))
    }
}

fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let authorization = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Whether a token is one of `tokens`, in constant time. Hashes are compared, because they have the same length, so
/// that the time does not reveal the lengths of the tokens. All tokens are compared, even after a match.
fn is_one_of(token: &str, tokens: &[SecretString]) -> bool {
    let hash = |text: &str| -> [u8; 32] { Sha256::digest(text.as_bytes()).into() };
    let given = hash(token);
    let any = tokens
        .iter()
        .fold(Choice::from(0), |any, known| any | hash(known.expose_secret()).ct_eq(&given));
    bool::from(any)
}
