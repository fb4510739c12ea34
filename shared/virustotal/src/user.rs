//! The user that a key belongs to, and its quotas.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    client::{Follow, VirusTotal},
    error::VirusTotalError,
};

/// Most bytes that are read of a user object.
const MAX_USER_BYTES: usize = 1024 * 1024;

/// The user that the key belongs to, from VirusTotal's "User object". That object holds the key, which is not kept.
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
    /// Time at which the privilege ends, in seconds since 1970, if it does.
    #[serde(default)]
    pub expiration_date: Option<i64>,
}

/// A quota of the key's user or group, from "Get a user's overall quotas".
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ApiQuota {
    /// VirusTotal's name of the quota, such as `api_requests_daily`.
    pub name: String,
    /// Holder of the quota: `user` or `group`.
    pub of: String,
    /// Amount that the quota allows.
    pub allowed: u64,
    /// Amount that is used.
    pub used: u64,
}

impl VirusTotal {
    /// Reads the quotas of the key's user and group, in order of name: `GET /api/v3/users/me/overall_quotas`, which
    /// costs no quota. [`current_user`](Self::current_user) explains `me`.
    ///
    /// # Errors
    /// Any [`VirusTotalError`].
    pub async fn allowances(&self) -> Result<Vec<ApiQuota>, VirusTotalError> {
        #[derive(Deserialize)]
        struct Body {
            data: BTreeMap<String, BTreeMap<String, Option<Quota>>>,
        }
        #[derive(Deserialize)]
        struct Quota {
            allowed: u64,
            used: u64,
        }
        let path = "/api/v3/users/me/overall_quotas";
        let Body { data } = self.of_the_key("the key's quotas", path, "a list of quotas").await?;
        let quotas = data.into_iter().flat_map(|(name, by)| {
            by.into_iter().filter_map(move |(of, quota)| {
                let Quota { allowed, used } = quota?;
                Some(ApiQuota { name: name.clone(), of, allowed, used })
            })
        });
        Ok(quotas.collect())
    }

    /// Reads the user that the key belongs to, and its privileges: `GET /api/v3/users/me`.
    ///
    /// VirusTotal documents `/users/{id}`, where the id may be the key, but a key must not be in a URL. `me` is not
    /// documented, though many programs use it. So [`VirusTotalError::Missing`] and [`VirusTotalError::BadRequest`] say
    /// nothing about the key, and [`VirusTotal::probe_minute`] has to show whether it works.
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
        let path = "/api/v3/users/me";
        let Body { data } = self.of_the_key("the key's user", path, "a user object").await?;
        Ok(CurrentUser { id: data.id, privileges: data.attributes.privileges })
    }

    /// Requests data about the key. The answer may hold the key, so no part of it is put into an error.
    async fn of_the_key<T: DeserializeOwned>(
        &self,
        subject: &str,
        path: &str,
        expected: &str,
    ) -> Result<T, VirusTotalError> {
        let mut reply = self.get(subject, path, Follow::Public).await?;
        let body = self.small_body(&mut reply.response, MAX_USER_BYTES).await;
        // The parser's error is left out: it may quote the body, and the key is in it.
        body.and_then(|body| serde_json::from_slice(&body).ok()).ok_or_else(|| {
            let status = Some(reply.response.status().as_u16());
            let message = format!("the answer is not {expected}");
            VirusTotalError::Unexpected(reply.asked.answer(status, "UnreadableAnswer", message))
        })
    }
}
