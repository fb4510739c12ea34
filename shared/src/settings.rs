//! Reads all settings from the environment. Only AWS's own SDK reads further variables (`AWS_*`: region, endpoint,
//! credentials and profiles), as every tool on AWS does.
//!
//! An empty variable counts as unset. An error names the variable, its value (never a secret), and the values that it
//! may have.

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, sync::Arc};

use jiff::SignedDuration;
use secrecy::SecretString;
use url::Url;

#[cfg(feature = "aws")]
use crate::store::aws;
use crate::{
    azul::event::ModelVersion,
    http_client::HttpOptions,
    peer_text,
    peers::Peers,
    secrets::{Secret, SecretEntries, SecretSource},
    store::{AwsState, Queues, StateOptions},
    virustotal::VirusTotalOptions,
};

mod download;
mod hunt;
mod lookup;
mod rules_root;

pub use download::DownloadSettings;
pub use hunt::{Globs, HuntSettings};
pub use lookup::LookupSettings;
pub use rules_root::{NotARulesRoot, RulesRoot};

/// Number of bytes of 1 MB in all settings of this project.
pub const MB: u64 = 1_048_576;

/// Time for which VirusTotal keeps feed minutes, in hours: seven days (VirusTotal's reference, "File feed").
pub const FEED_RETENTION_HOURS: i64 = 168;

/// A setting that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}={shown}: {expected}")]
pub struct SettingError {
    /// The variable.
    pub name: &'static str,
    /// The value of the variable; `***` for secrets.
    pub shown: String,
    /// The values that the variable may have, in words.
    pub expected: String,
}

/// One setting as `vt settings` shows it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SettingReport {
    /// The variable.
    pub name: &'static str,
    /// The value of the setting; `***` for secrets, and `none` if it is empty.
    pub value: String,
    /// `environment`, `default`, or the other variable that it was taken from.
    pub source: &'static str,
}

/// All settings, checked.
#[derive(Clone)]
pub struct Settings {
    /// VIRUSTOTAL: VirusTotal's origin, without a path.
    pub virustotal: Url,
    /// `VIRUSTOTAL_APIKEY`, or the entry that `VIRUSTOTAL_APIKEY_SECRET` names.
    pub virustotal_apikey: Option<SecretSource>,
    /// `PLUGIN_DATA_URL`: the dispatcher's base for streams.
    pub data_url: Url,
    /// `PLUGIN_EVENTS_URL`: the dispatcher's base for events.
    pub events_url: Url,
    /// `PLUGIN_DEPLOYMENT_KEY`.
    pub deployment_key: String,
    /// `DISPATCHER_MAX_AGE_HOURS`: age above which records are filtered; `None`: no limit.
    pub max_age: Option<SignedDuration>,
    /// STATEDIR.
    pub state_dir: PathBuf,
    /// `STATE_TABLE` and `BUNDLE_BUCKET`; `None`: the state is in STATEDIR.
    pub aws: Option<AwsState>,
    /// `INBOX_QUEUE_URL`: queue in which the items of the inbox wait; `None`: they wait in STATEDIR.
    pub inbox_queue: Option<Url>,
    /// `DOWNLOAD_QUEUE_URL`: queue of `download`, if it is not that of `INBOX_QUEUE_URL`.
    pub download_queue: Option<Url>,
    /// `MINUTES_QUEUE_URL`: queue in which minutes wait for workers; `None`: a run loads all minutes itself.
    pub minutes_queue: Option<Url>,
    /// `PACKAGE_LIMIT`: most bundles that a run loads; `None`: no limit.
    pub package_limit: Option<u64>,
    /// `RULES_ROOT`: place of the rules. It can be a bucket only if the state is on AWS.
    pub rules_root: RulesRoot,
    /// `MAX_DOWNLOAD_SIZE_MB`, in bytes: size above which a file is not requested; `None`: no limit.
    pub max_download_bytes: Option<u64>,
    /// `FEED_LAG_MINUTES`.
    pub feed_lag_minutes: i64,
    /// `FAN_OUT_MINUTES`: lag of the cursor, in minutes, above which minutes go to workers if there are any.
    pub fan_out_minutes: i64,
    /// `FEED_BACKLOG_HOURS`: hours of the feed that the first run loads.
    pub feed_backlog_hours: i64,
    /// HANDLERS, as written; the mapping checks the names.
    pub handlers: String,
    /// `AZUL_MODEL_VERSION`.
    pub model_version: ModelVersion,
    /// `MAX_EVENT_BYTES`.
    pub max_event_bytes: usize,
    /// `MAX_LINE_BYTES`.
    pub max_line_bytes: usize,
    /// `MAX_BUNDLE_BYTES`: most bytes of a decompressed bundle.
    pub max_bundle_bytes: u64,
    /// `REJECTS_MAX_MB`, in bytes: most bytes of rejects that are kept of one bundle; further rejects are only counted.
    pub max_reject_bytes: u64,
    /// `RULES_LENIENT`: start with the good rules although others are bad.
    pub rules_lenient: bool,
    /// `DIRECT_LINK_HOURS`: time for which a feed record's download link works, counted from `last_analysis_date`.
    pub direct_link: SignedDuration,
    /// `REQUEST_MEMORY_HOURS`: time for which a download that was requested is not requested again.
    pub request_memory: SignedDuration,
    /// `INGEST_LISTEN`.
    pub ingest_listen: SocketAddr,
    /// `INGEST_SECRETS` or `INGEST_SECRETS_SECRET`: Standard Webhooks secrets, `whsec_<base64>`.
    pub ingest_secrets: Option<SecretSource>,
    /// `INGEST_TOKENS` or `INGEST_TOKENS_SECRET`: bearer tokens.
    pub ingest_tokens: Option<SecretSource>,
    /// `SERVE_LISTEN`: the operators' address, at which a process serves its health and metrics.
    pub serve_listen: SocketAddr,
    /// `MAX_CONNECTIONS`: most connections that are open at once at an address that takes posts.
    pub max_connections: usize,
    /// `LOAD_SOURCE`: the Azul source of mapped events.
    pub load_source: String,
    /// CONTACT: contact in the plugin's registration at Azul.
    pub contact: String,
    /// LOG: level or filter of the log.
    pub log: String,
    /// `PLUGIN_HEADERS`: headers of every answer of `vt ingest`.
    pub plugin_headers: BTreeMap<String, String>,
    /// `PLUGIN_PROMETHEUS_PUSH_GATEWAY`: gateway to which the commands that run a function push their metrics.
    pub push_gateway: Option<Url>,
    /// `HTTPS_PROXY` (also `https_proxy`, `ALL_PROXY`), `HTTP_PROXY` (also `http_proxy`), `NO_PROXY` (also `no_proxy`)
    /// and `CA_BUNDLE`, for all clients.
    pub http: HttpOptions,
    /// Settings of look-ups and webhooks.
    pub lookup: LookupSettings,
    /// Settings of `download`.
    pub download: DownloadSettings,
    /// Settings of `hunt`.
    pub hunt: HuntSettings,
    /// The value and the source of each setting, in the order in which they are read.
    pub shown: Vec<SettingReport>,
    /// The state of VirusTotal, the dispatcher and AWS. All clients that are made from clones of these settings share
    /// it.
    pub peers: Peers,
}

impl fmt::Debug for Settings {
    /// Shows all settings without secrets, and proxies without their passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.shown).finish()
    }
}

impl Settings {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// The first setting that cannot be used.
    pub fn from_env() -> Result<Self, SettingError> {
        Self::read(&|name| std::env::var_os(name).map(|v| v.to_string_lossy().into_owned()))
    }

    /// Reads settings from `lookup`, which gives a variable's value.
    ///
    /// # Errors
    /// The first setting that cannot be used.
    #[expect(
        clippy::too_many_lines,
        reason = "one flat list, a setting a line or two: the table in docs/settings.md"
    )]
    pub fn read(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, SettingError> {
        let mut r = Reader { lookup, shown: Vec::new() };
        let virustotal = r.parse(
            &["VIRUSTOTAL", "VIRUSTOTAL_APISERVER"],
            "https://www.virustotal.com",
            "an http or https URL without a path, such as https://www.virustotal.com",
            origin,
        )?;
        let virustotal_apikey = r.secret_source("VIRUSTOTAL_APIKEY", "VIRUSTOTAL_APIKEY_SECRET")?;
        let base = "an http or https URL, such as http://dispatcher:8111";
        let data_url = r.parse(&["PLUGIN_DATA_URL"], "http://localhost:8111", base, base_url)?;
        let events_url =
            r.parse(&["PLUGIN_EVENTS_URL"], "http://localhost:8111", base, base_url)?;
        let deployment_key = r.text(&["PLUGIN_DEPLOYMENT_KEY"], "plugin-virustotal");
        let max_age = r.parse(
            &["DISPATCHER_MAX_AGE_HOURS"],
            "72",
            "a number of hours, or -1 for no limit",
            |t| match limit(t)? {
                None => Some(None),
                Some(n) => hours(n).map(Some),
            },
        )?;
        let state_dir = r.text(&["STATEDIR"], ".loadstate").into();
        let OnAws { state: aws, inbox_queue, download_queue, minutes_queue } = r.aws()?;
        let package_limit =
            r.parse(&["PACKAGE_LIMIT"], "-1", "a number of bundles, or -1 for no limit", limit)?;
        let rules_root = r.parse(
            &["RULES_ROOT"],
            "./select_rules",
            "a directory, or s3://bucket/prefix/",
            |t| t.parse::<RulesRoot>().ok(),
        )?;
        if let (RulesRoot::Bucket { .. }, None) = (&rules_root, &aws) {
            return Err(SettingError {
                name: "RULES_ROOT",
                shown: rules_root.to_string(),
                expected: "rules are in a bucket only where the state is on AWS: set STATE_TABLE and BUNDLE_BUCKET too, or name a directory".into(),
            });
        }
        let max_download_bytes = r.parse(
            &["MAX_DOWNLOAD_SIZE_MB"],
            "20",
            "a number of MB, such as 20 or 20MB; 0 for no limit",
            |t| megabytes(t).map(|n| (n > 0).then_some(n)),
        )?;
        let feed_lag_minutes = r.parse(
            &["FEED_LAG_MINUTES"],
            "60",
            "a number of minutes, at least 60 on the real feed",
            |t| within(t, 0, 10_080),
        )?;
        let fan_out_minutes =
            r.parse(&["FAN_OUT_MINUTES"], "15", "a number of minutes from 1 to 10080", |t| {
                within(t, 1, 10_080)
            })?;
        let feed_backlog_hours = r.parse(
            &["FEED_BACKLOG_HOURS"],
            "72",
            "a number of hours up to 168: VirusTotal keeps no more",
            |t| within(t, 0, FEED_RETENTION_HOURS),
        )?;
        let handlers = r.text(&["HANDLERS"], "default");
        let model_version = r.parse(
            &["AZUL_MODEL_VERSION"],
            "6",
            "5 (Azul 8 and 9) or 6 (Azul 10 and later)",
            |t| match t {
                "5" => Some(ModelVersion::V5),
                "6" => Some(ModelVersion::V6),
                _ => None,
            },
        )?;
        let max_event_bytes = r.parse(
            &["MAX_EVENT_BYTES"],
            "3137536",
            "a number of bytes from 4096 to 3145728: the dispatcher takes no more",
            |t| within(t, 4096, 3_145_728),
        )?;
        let max_line_bytes = r.parse(
            &["MAX_LINE_BYTES"],
            "33554432",
            "a number of bytes from 1024 to 1073741824",
            |t| within(t, 1024, 1_073_741_824),
        )?;
        let max_bundle_bytes = r.parse(
            &["MAX_BUNDLE_BYTES"],
            "2147483648",
            "a number of bytes, at least 1024",
            |t| within(t, 1024, i64::MAX),
        )?;
        let max_reject_bytes =
            r.parse(&["REJECTS_MAX_MB"], "64", "a number of megabytes from 1 to 4096", |t| {
                within::<u64>(t, 1, 4096).map(|megabytes| megabytes * MB)
            })?;
        let rules_lenient = r.switch("RULES_LENIENT")?;
        let direct_link = r.parse(&["DIRECT_LINK_HOURS"], "168", "a number of hours", |t| {
            within::<i64>(t, 0, 87_600).and_then(hours)
        })?;
        let request_memory =
            r.parse(&["REQUEST_MEMORY_HOURS"], "168", "a number of hours", |t| {
                within::<i64>(t, 0, 87_600).and_then(hours)
            })?;
        let ingest_secrets = r.secret_source("INGEST_SECRETS", "INGEST_SECRETS_SECRET")?;
        let ingest_tokens = r.secret_source("INGEST_TOKENS", "INGEST_TOKENS_SECRET")?;
        let open = ingest_secrets.is_some() || ingest_tokens.is_some();
        let ingest_listen: SocketAddr = r.parse(
            &["INGEST_LISTEN"],
            if open { "0.0.0.0:8854" } else { "127.0.0.1:8854" },
            "an address and a port, such as 127.0.0.1:8854",
            |t| t.parse().ok(),
        )?;
        if !open && !ingest_listen.ip().is_loopback() {
            return Err(SettingError {
                name: "INGEST_LISTEN",
                shown: ingest_listen.to_string(),
                expected: "without INGEST_SECRETS or INGEST_TOKENS only a loopback address, such as 127.0.0.1:8854".into(),
            });
        }
        let serve_listen = r.parse(
            &["SERVE_LISTEN"],
            "127.0.0.1:8853",
            "an address and a port, such as 127.0.0.1:8853",
            |t| t.parse().ok(),
        )?;
        let max_connections =
            r.parse(&["MAX_CONNECTIONS"], "256", "a number from 8 to 65536", |t| {
                within(t, 8, 65_536)
            })?;
        let load_source = r.text(&["LOAD_SOURCE"], "virustotal");
        let contact = r.text(&["CONTACT"], "azul-vt");
        let log = r.text(&["LOG"], "info");
        let plugin_headers = r.parse(
            &["PLUGIN_HEADERS"],
            "",
            "a JSON object of header names and texts, such as {\"X-Frame-Options\":\"DENY\"}",
            headers,
        )?;
        let push_gateway = r.secret_url(
            &["PLUGIN_PROMETHEUS_PUSH_GATEWAY"],
            "an http or https URL, such as http://pushgateway:9091",
            web_url,
        )?;
        let proxy = "a proxy's URL, such as http://proxy:3128";
        let https_proxy = r.secret_url(
            &["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"],
            proxy,
            proxy_url,
        )?;
        let plain_proxy = r.secret_url(&["HTTP_PROXY", "http_proxy"], proxy, proxy_url)?;
        let no_proxy = r.text(&["NO_PROXY", "no_proxy"], "");
        let ca_bundle =
            Some(r.text(&["CA_BUNDLE"], "")).filter(|t| !t.is_empty()).map(PathBuf::from);
        let lookup = LookupSettings::read(&mut r)?;
        let download = DownloadSettings::read(&mut r)?;
        let hunt = HuntSettings::read(&mut r)?;
        let optional = [&push_gateway, &https_proxy, &plain_proxy, &inbox_queue, &download_queue];
        let urls = [&virustotal, &data_url, &events_url].into_iter();
        urls.chain(optional.into_iter().flatten()).for_each(peer_text::hide_userinfo);
        Ok(Self {
            virustotal,
            virustotal_apikey,
            data_url,
            events_url,
            deployment_key,
            max_age,
            state_dir,
            aws,
            inbox_queue,
            download_queue,
            minutes_queue,
            package_limit,
            rules_root,
            max_download_bytes,
            feed_lag_minutes,
            fan_out_minutes,
            feed_backlog_hours,
            handlers,
            model_version,
            max_event_bytes,
            max_line_bytes,
            max_bundle_bytes,
            max_reject_bytes,
            rules_lenient,
            direct_link,
            request_memory,
            ingest_listen,
            serve_listen,
            max_connections,
            ingest_secrets,
            ingest_tokens,
            load_source,
            contact,
            log,
            plugin_headers,
            push_gateway,
            http: HttpOptions { https_proxy, http_proxy: plain_proxy, no_proxy, ca_bundle },
            lookup,
            download,
            hunt,
            shown: r.shown,
            peers: Peers::default(),
        })
    }

    /// Returns the secret of the setting `name` at the place `source`; `None` if it is not set. Sends no request yet.
    pub fn secret(&self, name: &'static str, source: Option<&SecretSource>) -> Option<Secret> {
        source.map(|source| Secret::new(name, source, &self.secret_entries()))
    }

    #[cfg(feature = "aws")]
    fn secret_entries(&self) -> Arc<dyn SecretEntries> {
        Arc::new(aws::SecretsManager::new(self.http.clone(), self.peers.clone()))
    }

    #[cfg(not(feature = "aws"))]
    #[expect(clippy::unused_self, reason = "the one with AWS needs it")]
    fn secret_entries(&self) -> Arc<dyn SecretEntries> {
        Arc::new(NoEntries)
    }

    /// Returns the place of the state, and how AWS is reached.
    pub fn state_options(&self) -> StateOptions {
        StateOptions {
            dir: self.state_dir.clone(),
            aws: self.aws.clone(),
            queues: Queues {
                inbox: self.inbox_queue.clone(),
                downloads: self.download_queue.clone(),
                minutes: self.minutes_queue.clone(),
            },
            http: self.http.clone(),
            peers: self.peers.clone(),
        }
    }

    /// Returns the options of VirusTotal's client. A bundle may have as many bytes as received as `MAX_BUNDLE_BYTES`
    /// allows after decompression.
    pub fn virustotal_options(&self) -> VirusTotalOptions {
        let key = self.secret("VIRUSTOTAL_APIKEY", self.virustotal_apikey.as_ref());
        VirusTotalOptions::new(self.virustotal.clone(), key, self.max_bundle_bytes)
    }

    /// Returns the place of the state as text for operators.
    pub fn state_place(&self) -> String {
        match &self.aws {
            Some(aws) => format!("table {}, bucket {}", aws.table, aws.bucket),
            None => self.state_dir.display().to_string(),
        }
    }

    /// Whether `vt ingest` asks its callers for a signature or a token.
    pub fn ingest_is_authenticated(&self) -> bool {
        self.ingest_secrets.is_some() || self.ingest_tokens.is_some()
    }
}

/// The entries of Secrets Manager in a program without AWS: none can be read.
#[cfg(not(feature = "aws"))]
struct NoEntries;

#[cfg(not(feature = "aws"))]
#[async_trait::async_trait]
impl SecretEntries for NoEntries {
    async fn read(
        &self,
        _: &str,
    ) -> Result<Option<SecretString>, Box<dyn std::error::Error + Send + Sync>> {
        Err(crate::store::without_aws("reading a secret").into())
    }
}

/// Settings of the state and the queues on AWS.
struct OnAws {
    state: Option<AwsState>,
    inbox_queue: Option<Url>,
    download_queue: Option<Url>,
    minutes_queue: Option<Url>,
}

struct Reader<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    shown: Vec<SettingReport>,
}

impl Reader<'_> {
    /// Returns the first of `names` that is set, and its value.
    fn find(&self, names: &[&'static str]) -> Option<(&'static str, String)> {
        names.iter().find_map(|name| {
            let value = (self.lookup)(name)?;
            let value = value.trim();
            (!value.is_empty()).then(|| (*name, value.to_owned()))
        })
    }

    fn show(&mut self, names: &[&'static str], found: Option<&'static str>, value: String) {
        let Some(&name) = names.first() else { return };
        let source = match found {
            None => "default",
            Some(used) if used == name => "environment",
            Some(used) => used,
        };
        let value = if value.is_empty() { "none".into() } else { without_password(value) };
        self.shown.push(SettingReport { name, value, source });
    }

    fn parse<T>(
        &mut self,
        names: &[&'static str],
        default: &str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, SettingError> {
        let found = self.find(names);
        let name = found.as_ref().map(|(name, _)| *name);
        let text = found.map_or_else(|| default.to_owned(), |(_, text)| text);
        let value = parse(&text).ok_or_else(|| SettingError {
            name: name.or(names.first().copied()).unwrap_or_default(),
            shown: without_password(text.clone()).chars().take(200).collect(),
            expected: format!("write {expected}"),
        })?;
        self.show(names, name, text);
        Ok(value)
    }

    /// Reads a switch, which is `0` or `1`; `0` if it is not set.
    fn switch(&mut self, name: &'static str) -> Result<bool, SettingError> {
        self.switch_or(name, "0")
    }

    fn switch_or(&mut self, name: &'static str, default: &str) -> Result<bool, SettingError> {
        self.parse(&[name], default, "0 or 1", |t| match t {
            "0" => Some(false),
            "1" => Some(true),
            _ => None,
        })
    }

    fn text(&mut self, names: &[&'static str], default: &str) -> String {
        let found = self.find(names);
        let name = found.as_ref().map(|(name, _)| *name);
        let text = found.map_or_else(|| default.to_owned(), |(_, text)| text);
        self.show(names, name, text.clone());
        text
    }

    /// Reads a secret from the variable `name`, or the name of its entry in Secrets Manager from the variable `entry`.
    fn secret_source(
        &mut self,
        name: &'static str,
        entry: &'static str,
    ) -> Result<Option<SecretSource>, SettingError> {
        let value = self.find(&[name]).map(|(_, text)| SecretString::from(text));
        let shown = if value.is_some() { "***" } else { "" };
        self.show(&[name], value.is_some().then_some(name), shown.into());
        let entry_name = self.text(&[entry], "");
        match (value, entry_name.is_empty()) {
            (Some(_), false) => Err(SettingError {
                name: entry,
                shown: entry_name,
                expected: format!("unset it or {name}: the secret is in one place"),
            }),
            (Some(value), true) => {
                peer_text::hide(&value);
                Ok(Some(SecretSource::Value(value)))
            }
            (None, false) if cfg!(not(feature = "aws")) => Err(SettingError {
                name: entry,
                shown: entry_name,
                expected: format!("this program is built without AWS: set {name} instead"),
            }),
            (None, false) => Ok(Some(SecretSource::Entry(entry_name))),
            (None, true) => Ok(None),
        }
    }

    /// Reads the settings of the state on AWS. Either the whole state is on AWS or none of it.
    fn aws(&mut self) -> Result<OnAws, SettingError> {
        const TABLE: &str = "STATE_TABLE";
        const BUCKET: &str = "BUNDLE_BUCKET";
        let name = |least: usize, most: usize| {
            move |text: &str| {
                let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
                let fits = (least..=most).contains(&text.len()) && text.bytes().all(plain);
                (fits || text.is_empty()).then(|| (!text.is_empty()).then(|| text.to_owned()))
            }
        };
        let table = self.parse(&[TABLE], "", "the name of a DynamoDB table", name(3, 255))?;
        let bucket = self.parse(&[BUCKET], "", "the name of an S3 bucket", name(3, 63))?;
        let queue = "the URL of an SQS queue";
        let inbox_queue = self.parse(&["INBOX_QUEUE_URL"], "", queue, optional_url)?;
        let download_queue = self.parse(&["DOWNLOAD_QUEUE_URL"], "", queue, optional_url)?;
        let minutes_queue = self.parse(&["MINUTES_QUEUE_URL"], "", queue, optional_url)?;
        let alone = |name, shown: &str, other: &str| SettingError {
            name,
            shown: shown.to_owned(),
            expected: format!("the state is on AWS as a whole: set {other} too, or unset {name}"),
        };
        if cfg!(not(feature = "aws"))
            && let Some(table) = &table
        {
            return Err(SettingError {
                name: TABLE,
                shown: table.clone(),
                expected:
                    "this program is built without AWS: unset it, and the state is in STATEDIR"
                        .into(),
            });
        }
        let state = match (table, bucket) {
            (Some(table), Some(bucket)) => Some(AwsState { table, bucket }),
            (Some(table), None) => return Err(alone(TABLE, &table, BUCKET)),
            (None, Some(bucket)) => return Err(alone(BUCKET, &bucket, TABLE)),
            (None, None) => None,
        };
        for (name, url) in [
            ("INBOX_QUEUE_URL", &inbox_queue),
            ("DOWNLOAD_QUEUE_URL", &download_queue),
            ("MINUTES_QUEUE_URL", &minutes_queue),
        ] {
            if let (None, Some(url)) = (&state, url) {
                return Err(alone(name, url.as_str(), "STATE_TABLE and BUNDLE_BUCKET"));
            }
        }
        Ok(OnAws { state, inbox_queue, download_queue, minutes_queue })
    }

    /// Reads a URL that may hold a password. The password is never shown.
    fn secret_url(
        &mut self,
        names: &[&'static str],
        expected: &str,
        read: fn(&str) -> Option<Url>,
    ) -> Result<Option<Url>, SettingError> {
        let Some((name, text)) = self.find(names) else {
            self.show(names, None, String::new());
            return Ok(None);
        };
        // A text that is not a URL is not shown at all, because a password may be anywhere in it.
        let url = read(&text).ok_or_else(|| SettingError {
            name,
            shown: "***".into(),
            expected: format!("write {expected}"),
        })?;
        self.show(names, Some(name), url.to_string());
        Ok(Some(url))
    }
}

/// Reads a proxy's URL. A URL without a scheme counts as `http://`, as with curl.
fn proxy_url(text: &str) -> Option<Url> {
    if text.contains("://") { web_url(text) } else { web_url(&format!("http://{text}")) }
}

/// Returns a value as it may be shown: the password of a URL is replaced by `***`.
fn without_password(text: String) -> String {
    let Ok(mut url) = Url::parse(&text) else { return text };
    if url.password().is_none() {
        return text;
    }
    match url.set_password(Some("***")) {
        Ok(()) => url.to_string(),
        Err(()) => "***".into(),
    }
}

fn web_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(url)
}

fn base_url(text: &str) -> Option<Url> {
    web_url(text).filter(|u| u.query().is_none() && u.fragment().is_none())
}

fn origin(text: &str) -> Option<Url> {
    base_url(text).filter(|u| u.path() == "/" && u.username().is_empty() && u.password().is_none())
}

#[expect(clippy::option_option, reason = "outer: does it parse; inner: is there one")]
fn optional_url(text: &str) -> Option<Option<Url>> {
    if text.is_empty() { Some(None) } else { web_url(text).map(Some) }
}

fn within<T: TryFrom<i64>>(text: &str, least: i64, most: i64) -> Option<T> {
    let n: i64 = text.parse().ok()?;
    if n < least || n > most { None } else { T::try_from(n).ok() }
}

/// Reads a limit. -1 means no limit (`Some(None)`); a text that is not a number gives `None`.
#[expect(clippy::option_option, reason = "outer: does it parse; inner: is there a limit")]
fn limit(text: &str) -> Option<Option<u64>> {
    match text.parse::<i64>().ok()? {
        -1 => Some(None),
        n => u64::try_from(n).ok().map(Some),
    }
}

fn hours(n: impl TryInto<i64>) -> Option<SignedDuration> {
    let n: i64 = n.try_into().ok()?;
    (n <= 10_000_000).then(|| SignedDuration::from_hours(n))
}

/// Splits a text at its commas. Empty parts are left out.
fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned).collect()
}

fn megabytes(text: &str) -> Option<u64> {
    let digits = text.strip_suffix("MB").or_else(|| text.strip_suffix("mb")).unwrap_or(text).trim();
    digits.parse::<u64>().ok()?.checked_mul(MB)
}

fn headers(text: &str) -> Option<BTreeMap<String, String>> {
    if text.is_empty() {
        return Some(BTreeMap::new());
    }
    let headers: BTreeMap<String, String> = serde_json::from_str(text).ok()?;
    let valid = headers.iter().all(|(name, value)| {
        http::HeaderName::try_from(name.as_str()).is_ok()
            && http::HeaderValue::try_from(value.as_str()).is_ok()
    });
    valid.then_some(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Settings, SettingError> {
        Settings::read(&|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn defaults_are_those_of_the_documents() {
        let s = read(&[]).unwrap();
        assert_eq!(s.virustotal.as_str(), "https://www.virustotal.com/");
        assert!(s.virustotal_apikey.is_none());
        assert_eq!(s.max_age, Some(SignedDuration::from_hours(72)));
        assert_eq!(s.package_limit, None);
        assert_eq!(s.max_download_bytes, Some(20 * MB));
        assert_eq!(s.max_line_bytes as u64, 32 * MB);
        assert_eq!(s.max_bundle_bytes, 2048 * MB);
        assert_eq!(s.max_reject_bytes, 64 * MB);
        assert_eq!(s.ingest_listen.to_string(), "127.0.0.1:8854");
    }

    #[test]
    fn an_empty_variable_counts_as_unset() {
        let s = read(&[("VIRUSTOTAL_APIKEY", ""), ("STATEDIR", " ")]).unwrap();
        assert!(s.virustotal_apikey.is_none());
        assert_eq!(s.state_dir, PathBuf::from(".loadstate"));
    }

    #[test]
    fn the_other_name_of_a_setting_works_and_is_shown() {
        let s = read(&[("VIRUSTOTAL_APISERVER", "http://127.0.0.1:1")]).unwrap();
        assert_eq!(s.virustotal.port(), Some(1));
        assert_eq!(s.shown[0].source, "VIRUSTOTAL_APISERVER");
    }

    #[test]
    fn an_error_names_the_variable_and_what_it_takes() {
        for (name, value) in [
            ("VIRUSTOTAL", "https://www.virustotal.com/api/v3"),
            ("VIRUSTOTAL", "ftp://x"),
            ("PLUGIN_EVENTS_URL", "dispatcher:8111"),
            ("DISPATCHER_MAX_AGE_HOURS", "three"),
            ("PACKAGE_LIMIT", "-2"),
            ("FEED_BACKLOG_HOURS", "169"),
            ("AZUL_MODEL_VERSION", "4"),
            ("RULES_ROOT", "s3://"),
            ("RULES_LENIENT", "yes"),
            ("INGEST_LISTEN", "0.0.0.0:8854"),
            ("MAX_CONNECTIONS", "7"),
            ("PLUGIN_HEADERS", "[]"),
            ("MAX_DOWNLOAD_SIZE_MB", "20GB"),
        ] {
            let error = read(&[(name, value)]).unwrap_err();
            assert_eq!(error.name, name);
            assert!(error.to_string().contains(value), "{error}");
        }
    }

    #[test]
    fn the_state_is_on_aws_as_a_whole_or_not_at_all() {
        assert_eq!(read(&[]).unwrap().aws, None);
        let (table, bucket) = (("STATE_TABLE", "azul-vt"), ("BUNDLE_BUCKET", "azul-vt-bundles"));
        let queue = "https://sqs.us-east-1.amazonaws.com/123456789012/minutes";
        let s = read(&[table, bucket, ("MINUTES_QUEUE_URL", queue)]).unwrap();
        let both = AwsState { table: "azul-vt".into(), bucket: "azul-vt-bundles".into() };
        assert_eq!((s.aws, s.inbox_queue), (Some(both), None));
        assert_eq!(s.minutes_queue.unwrap().as_str(), queue);
        for (alone, other) in [
            (table, "BUNDLE_BUCKET"),
            (bucket, "STATE_TABLE"),
            (("INBOX_QUEUE_URL", queue), "STATE_TABLE"),
            (("MINUTES_QUEUE_URL", queue), "BUNDLE_BUCKET"),
        ] {
            let error = read(&[alone]).unwrap_err();
            assert_eq!(error.name, alone.0);
            assert!(error.expected.contains(other), "{error}");
        }
        assert_eq!(read(&[("STATE_TABLE", "a/b"), bucket]).unwrap_err().name, "STATE_TABLE");
    }

    #[test]
    fn rules_are_in_a_bucket_only_where_the_state_is_on_aws() {
        let rules = ("RULES_ROOT", "s3://azul-vt-rules/vt/");
        let error = read(&[rules]).unwrap_err();
        assert_eq!(error.name, "RULES_ROOT");
        assert!(error.to_string().contains("STATE_TABLE"), "{error}");
        let places = [("STATE_TABLE", "azul-vt"), ("BUNDLE_BUCKET", "azul-vt-bundles"), rules];
        let s = read(&places).unwrap();
        assert_eq!(s.rules_root.to_string(), "s3://azul-vt-rules/vt/");
    }

    #[test]
    fn secrets_and_proxy_passwords_are_never_shown() {
        let s = read(&[
            ("VIRUSTOTAL_APIKEY", "canary1"),
            ("INGEST_TOKENS", "canary2,canary3"),
            ("HTTPS_PROXY", "http://me:canary4@proxy:3128"),
        ])
        .unwrap();
        assert!(!format!("{:?}", s.shown).contains("canary"));
        assert!(!format!("{s:?}").contains("canary"));
        assert!(matches!(s.ingest_tokens, Some(SecretSource::Value(_))));
        assert_eq!(s.ingest_listen.to_string(), "0.0.0.0:8854");
        let error = read(&[("HTTPS_PROXY", "ftp://canary5")]).unwrap_err();
        assert!(!error.to_string().contains("canary"));
    }

    #[test]
    fn a_secret_is_in_its_variable_or_in_an_entry_that_another_names() {
        let s = read(&[("VIRUSTOTAL_APIKEY_SECRET", "azul-vt/key")]).unwrap();
        assert!(matches!(&s.virustotal_apikey, Some(SecretSource::Entry(e)) if e == "azul-vt/key"));
        let s = read(&[("INGEST_TOKENS_SECRET", "azul-vt/tokens")]).unwrap();
        assert!(s.ingest_is_authenticated());
        assert_eq!(s.ingest_listen.to_string(), "0.0.0.0:8854");
        let both = [("INGEST_SECRETS", "canary"), ("INGEST_SECRETS_SECRET", "azul-vt/secrets")];
        let error = read(&both).unwrap_err();
        assert_eq!(error.name, "INGEST_SECRETS_SECRET");
        assert!(!error.to_string().contains("canary"), "{error}");
    }

    #[test]
    fn sizes_take_both_spellings() {
        for text in ["20", "20MB", "20 MB"] {
            assert_eq!(
                read(&[("MAX_DOWNLOAD_SIZE_MB", text)]).unwrap().max_download_bytes,
                Some(20 * MB)
            );
        }
        assert_eq!(read(&[("MAX_DOWNLOAD_SIZE_MB", "0")]).unwrap().max_download_bytes, None);
    }
}
