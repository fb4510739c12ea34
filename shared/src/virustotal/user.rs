//! Who a key belongs to.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{client::VirusTotal, error::VirusTotalError};

/// Bytes read of a user object.
const MAX_USER_BYTES: usize = 1024 * 1024;

/// Who the key belongs to, as VirusTotal's "User object" tells it; the key itself, which is in it, is not
/// kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentUser {
    /// The user's name at VirusTotal.
    pub id: String,
    /// Privileges by name.
    pub privileges: BTreeMap<String, Privilege>,
}

/// One privilege of a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Privilege {
    /// Whether the user has it.
    #[serde(default)]
    pub granted: bool,
    /// Its end, seconds since 1970, where it has one.
    #[serde(default)]
    pub expiration_date: Option<i64>,
}

impl VirusTotal {
    /// Who the key belongs to and what it may do: `GET /api/v3/users/me`.
    ///
    /// VirusTotal documents `/users/{id}`, where the id may be the key, but a key has no place in a URL.
    /// `me` is not documented, though many programs use it: [`VirusTotalError::Missing`] or
    /// [`VirusTotalError::BadRequest`] say nothing about the key, and [`VirusTotal::probe_minute`] then
    /// tells what matters.
    ///
    /// # Errors
    /// Any [`VirusTotalError`].
    pub async fn current_user(&self) -> Result<CurrentUser, VirusTotalError> {
        #[derive(Deserialize)]
        struct Body {
            data: User,
        }
        #[derive(Deserialize)]
        struct User {
            #[serde(default)]
            id: String,
            #[serde(default)]
            attributes: Attributes,
        }
        #[derive(Default, Deserialize)]
        struct Attributes {
            #[serde(default)]
            privileges: BTreeMap<String, Privilege>,
        }
        let mut reply = self.get("the key's user", "/api/v3/users/me", true).await?;
        let body = self.small_body(&mut reply.response, MAX_USER_BYTES).await;
        // The parser's error is left out: it may quote the body, and the key is in it.
        let body = body.and_then(|body| serde_json::from_slice::<Body>(&body).ok());
        let Some(Body { data }) = body else {
            let status = Some(reply.response.status().as_u16());
            let message = "the answer is not a user object";
            let answer = reply.asked.answer(status, "UnreadableAnswer", message.into());
            return Err(VirusTotalError::Unexpected(answer));
        };
        Ok(CurrentUser { id: data.id, privileges: data.attributes.privileges })
    }
}
