//! The hosts that content may come from.
//!
//! VirusTotal redirects to hosts that it does not document. So redirects to any https host with a public name are
//! followed, without the key. Targets inside our own network are refused: numeric addresses, local names and, if names
//! are resolved here ([`PublicNames`]), names of non-public addresses.
//!
//! There are two exceptions, for stand-ins and for VirusTotal behind a gateway of one's own:
//! - the host of the configured VIRUSTOTAL, by any port, and by plain http where VIRUSTOTAL is plain http;
//! - where VIRUSTOTAL is itself a loopback address, any loopback address, by http or https.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use net::http_client::HttpOptions;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// Reason why a URL is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    /// The URL is not https.
    #[error("the target is not https")]
    NotHttps,
    /// The host is an address.
    #[error("the target's host is an address, not a name")]
    Address,
    /// The host is a name that is only valid locally.
    #[error("the target's host is a local name")]
    LocalName,
    /// The URL has a user name or a password.
    #[error("the target has a user name or a password in it")]
    Credentials,
    /// The host is not one of [`ContentHosts`].
    #[error("the target's host is not among CONTENT_HOSTS")]
    NotListed,
}

/// The hosts that content of samples may come from (`CONTENT_HOSTS`), beside VirusTotal's own origin: hosts, which must
/// use https, and origins, which must match as they are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContentHosts {
    /// Host names; `.name` stands for all names below `name`.
    hosts: Vec<String>,
    origins: Vec<Url>,
}

impl ContentHosts {
    /// Default of `CONTENT_HOSTS`: VirusTotal's own hosts, and those of the storage that the signed links in its
    /// documents lead to (its reference, "Get a file's download URL").
    pub const DEFAULT: &str =
        "virustotal.com,*.virustotal.com,storage.googleapis.com,*.storage.googleapis.com";

    /// Reads a comma-separated list of names, `*.name`, and http and https URLs without a path. Returns `None` if an
    /// entry is anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut hosts = Self::default();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            if entry.contains("://") {
                let url = Url::parse(entry).ok().filter(|url| {
                    matches!(url.scheme(), "http" | "https")
                        && url.path() == "/"
                        && url.query().is_none()
                        && url.username().is_empty()
                });
                hosts.origins.push(url?);
                continue;
            }
            let (below, name) = match entry.strip_prefix("*.") {
                Some(name) => (".", name),
                None => ("", entry),
            };
            let Ok(Host::Domain(name)) = Host::parse(name) else { return None };
            if !is_public_name(&name) || name.contains('*') {
                return None;
            }
            hosts.hosts.push(format!("{below}{name}"));
        }
        Some(hosts)
    }

    /// Checks a URL from which content is to be fetched; `origin` is the configured VIRUSTOTAL.
    ///
    /// # Errors
    /// The rule that `target` breaks.
    pub fn check(&self, target: &Url, origin: &Url) -> Result<(), Untrusted> {
        if !target.username().is_empty() || target.password().is_some() {
            return Err(Untrusted::Credentials);
        }
        let is_listed = |listed: &Url| is_same_origin(target, listed);
        if is_same_origin(target, origin) || self.origins.iter().any(is_listed) {
            return Ok(());
        }
        if target.scheme() != "https" {
            return Err(Untrusted::NotHttps);
        }
        match target.host() {
            Some(Host::Domain(name)) if !is_public_name(name) => Err(Untrusted::LocalName),
            Some(Host::Domain(name)) if self.has(name) => Ok(()),
            Some(Host::Domain(_)) => Err(Untrusted::NotListed),
            Some(Host::Ipv4(_) | Host::Ipv6(_)) | None => Err(Untrusted::Address),
        }
    }

    fn has(&self, name: &str) -> bool {
        let name = name.trim_end_matches('.');
        self.hosts.iter().any(|host| match host.strip_prefix('.') {
            Some(parent) => name.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.')),
            None => host == name,
        })
    }
}

/// Checks the URL of a redirect; `origin` is the configured VIRUSTOTAL.
///
/// # Errors
/// The rule that `target` breaks.
pub fn check(target: &Url, origin: &Url) -> Result<(), Untrusted> {
    if !target.username().is_empty() || target.password().is_some() {
        return Err(Untrusted::Credentials);
    }
    let own = target.host().is_some() && target.host() == origin.host();
    let local = is_loopback(target) && is_loopback(origin);
    let plain = target.scheme() == "http" && (local || own && origin.scheme() == "http");
    if target.scheme() != "https" && !plain {
        return Err(Untrusted::NotHttps);
    }
    if own || local {
        return Ok(());
    }
    match target.host() {
        Some(Host::Domain(name)) if is_public_name(name) => Ok(()),
        Some(Host::Domain(_)) => Err(Untrusted::LocalName),
        Some(Host::Ipv4(_) | Host::Ipv6(_)) | None => Err(Untrusted::Address),
    }
}

/// Whether a secret for `origin` may be sent to `target`: same scheme, host and port.
pub fn is_same_origin(target: &Url, origin: &Url) -> bool {
    target.origin() == origin.origin()
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).to_canonical().is_loopback(),
        Some(Host::Domain(name)) => name.trim_end_matches('.') == "localhost",
        None => false,
    }
}

/// Returns whether a host name is public: it has a dot and does not end in a name that is reserved for local use (RFC
/// 6761, RFC 6762, RFC 8375, and ICANN's `internal`).
fn is_public_name(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    let local = [".localhost", ".local", ".internal", ".home.arpa", ".lan", ".intranet"];
    name.contains('.') && !local.iter().any(|end| name.ends_with(end))
}

/// Whether an address is reachable from everywhere.
fn is_public_address(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let benchmark = a == 198 && (18..20).contains(&b);
    !(a == 0
        || a >= 240
        || shared
        || benchmark
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation())
}

/// Returns whether an IPv6 address is public: global unicast (`2000::/3`) without the addresses for documentation. An
/// address of NAT64 or 6to4 is public if the IPv4 address in it is.
fn is_public_v6(address: Ipv6Addr) -> bool {
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            is_public_v4(Ipv4Addr::new(a, b, c, d))
        }
        [0x2001, 0xdb8, ..] => false,
        [first, ..] => (0x2000..0x4000).contains(&first),
    }
}

/// A resolver that returns only public addresses, so that a public name cannot lead into our own network. The hosts
/// that the settings name (VIRUSTOTAL, the proxies, origins in `CONTENT_HOSTS`) are resolved without that restriction.
#[derive(Debug)]
pub struct PublicNames {
    configured: Arc<BTreeSet<String>>,
}

impl PublicNames {
    /// Makes a resolver for a client that only connects to VirusTotal at `origin`, through the proxies of `http`, and to
    /// the targets of its redirects, of which `content` names the hosts of content.
    pub fn new(origin: &Url, http: &HttpOptions, content: &ContentHosts) -> Self {
        let urls = [Some(origin), http.https_proxy.as_ref(), http.http_proxy.as_ref()];
        let urls = urls.into_iter().flatten().chain(&content.origins);
        let mut configured: BTreeSet<String> =
            urls.filter_map(Url::host_str).map(str::to_owned).collect();
        if is_loopback(origin) {
            configured.insert("localhost".into());
        }
        Self { configured: Arc::new(configured) }
    }
}

/// A name has no public address.
#[derive(Debug, thiserror::Error)]
#[error("the host's name leads to no public address")]
struct NoPublicAddress;

impl Resolve for PublicNames {
    fn resolve(&self, name: Name) -> Resolving {
        let configured = Arc::clone(&self.configured);
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            if configured.contains(name.as_str()) {
                return Ok(Box::new(found.collect::<Vec<_>>().into_iter()) as Addrs);
            }
            let public: Vec<SocketAddr> =
                found.filter(|address| is_public_address(address.ip())).collect();
            if public.is_empty() {
                return Err(NoPublicAddress.into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REAL: &str = "https://www.virustotal.com/";
    const LOOPBACK: &str = "http://127.0.0.1:8000/";

    fn checked(target: &str, origin: &str) -> Result<(), Untrusted> {
        check(&target.parse().unwrap(), &origin.parse().unwrap())
    }

    #[test]
    fn public_https_names_and_virustotals_own_host_are_followed() {
        assert_eq!(checked("https://storage.googleapis.com/bucket/x?Signature=y", REAL), Ok(()));
        assert_eq!(checked("https://www.virustotal.com:8443/x", REAL), Ok(()));
        assert_eq!(checked("http://vt.internal:9000/x", "http://vt.internal:8000/"), Ok(()));
        assert_eq!(checked("http://10.0.0.1:9000/x", "http://10.0.0.1:8000/"), Ok(()));
        for target in
            ["http://127.0.0.1:9/x", "https://127.0.0.2/x", "http://[::1]/x", "http://localhost/"]
        {
            assert_eq!(checked(target, LOOPBACK), Ok(()), "{target}");
        }
    }

    #[test]
    fn nothing_else_is_followed() {
        use Untrusted::{Address, Credentials, LocalName, NotHttps};
        for (target, origin, why) in [
            ("http://www.virustotal.com/x", REAL, NotHttps),
            ("http://storage.googleapis.com/x", REAL, NotHttps),
            ("http://storage.googleapis.com/x", LOOPBACK, NotHttps),
            ("ftp://127.0.0.1/x", LOOPBACK, NotHttps),
            ("file:///etc/passwd", REAL, NotHttps),
            ("https://127.0.0.1/x", REAL, Address),
            ("https://0x7f000001/x", REAL, Address),
            ("https://169.254.169.254/latest", REAL, Address),
            ("https://10.0.0.1/x", LOOPBACK, Address),
            ("https://[::ffff:127.0.0.1]/x", REAL, Address),
            ("https://8.8.8.8/x", REAL, Address),
            ("https://localhost/x", REAL, LocalName),
            ("https://LOCALHOST./x", REAL, LocalName),
            ("https://metadata.google.internal/x", REAL, LocalName),
            ("https://dispatcher/x", REAL, LocalName),
            ("https://www.virustotal.com@evil.example/x", REAL, Credentials),
        ] {
            assert_eq!(checked(target, origin), Err(why), "{target}");
        }
    }

    #[test]
    fn addresses_of_networks_of_ones_own_are_not_public() {
        for address in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "198.18.0.1",
            "224.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "2001:db8::1",
        ] {
            assert!(!is_public_address(address.parse().unwrap()), "{address}");
        }
        for address in ["34.54.88.138", "2600:1901::1", "64:ff9b::2236:588a"] {
            assert!(is_public_address(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn content_comes_from_listed_hosts_by_https_and_from_listed_origins() {
        let origin: Url = "https://www.virustotal.com".parse().unwrap();
        let hosts = ContentHosts::parse(&format!(
            "{}, http://127.0.0.1:8080 ,files.example.com",
            ContentHosts::DEFAULT
        ));
        let hosts = hosts.unwrap();
        for (target, expected) in [
            ("https://www.virustotal.com/x", Ok(())),
            ("https://virustotal.com/x", Ok(())),
            ("https://storage.googleapis.com/bucket/x?Signature=y", Ok(())),
            ("https://bucket.storage.googleapis.com./x", Ok(())),
            ("https://files.example.com:8443/x", Ok(())),
            ("http://127.0.0.1:8080/x", Ok(())),
            ("http://127.0.0.1:8081/x", Err(Untrusted::NotHttps)),
            ("https://127.0.0.1:8080/x", Err(Untrusted::Address)),
            ("http://www.virustotal.com/x", Err(Untrusted::NotHttps)),
            ("https://a.files.example.com/x", Err(Untrusted::NotListed)),
            ("https://evilvirustotal.com/x", Err(Untrusted::NotListed)),
            ("https://virustotal.com.evil.example/x", Err(Untrusted::NotListed)),
            ("https://localhost/x", Err(Untrusted::LocalName)),
            ("https://[fd00::1]/x", Err(Untrusted::Address)),
            ("https://user@www.virustotal.com/x", Err(Untrusted::Credentials)),
        ] {
            assert_eq!(hosts.check(&target.parse().unwrap(), &origin), expected, "{target}");
        }
    }

    #[test]
    fn an_entry_that_names_no_public_host_is_refused() {
        for text in [
            "*",
            "*.*.com",
            "localhost",
            "10.0.0.1",
            "ftp://a.example",
            "http://a.example/b",
            "a b.com",
        ] {
            assert_eq!(ContentHosts::parse(text), None, "{text}");
        }
        assert_eq!(ContentHosts::parse(""), Some(ContentHosts::default()));
    }
}
