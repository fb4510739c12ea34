//! Attributes that any file may have.

use super::{
    json::{Json, list, obj},
    rng::Rng,
};

const PREFIXES: [&str; 24] = [
    "Alder", "Birch", "Cypress", "Dogwood", "Elm", "Fir", "Ginkgo", "Hazel", "Ironwood", "Juniper",
    "Kauri", "Larch", "Maple", "Nutmeg", "Oak", "Pine", "Quince", "Rowan", "Spruce", "Teak",
    "Umbra", "Viburnum", "Walnut", "Yew",
];
const SUFFIXES: [&str; 3] = ["-AV", "Guard", "Scan"];

/// `last_analysis_results` and `last_analysis_stats`, of up to 72 engines.
pub(super) fn verdicts(rng: &mut Rng, engines: i64, day: &str, attributes: &mut Json) {
    let malicious = rng.pick(&["0", "0", "2", "20", "45"]);
    let malicious: i64 = malicious.parse().unwrap_or_default();
    let family = rng.camel();
    let mut results = Json::Map(Vec::new());
    let mut counts = [0_i64; 8];
    let names = PREFIXES.iter().flat_map(|p| SUFFIXES.iter().map(move |s| format!("{p}{s}")));
    for (name, i) in names.zip(0..engines) {
        let category = if i < malicious {
            "malicious"
        } else {
            let others = ["undetected", "undetected", "undetected", "undetected", "undetected"];
            match rng.range(0, 40) {
                0 => "timeout",
                1..=3 => "type-unsupported",
                4 => "failure",
                5 => "suspicious",
                6 => "confirmed-timeout",
                7 => "harmless",
                _ => rng.pick(&others),
            }
        };
        if let Some(count) =
            STATS.iter().position(|s| *s == category).and_then(|at| counts.get_mut(at))
        {
            *count += 1;
        }
        let result = match category {
            "malicious" | "suspicious" => Json::from(format!(
                "{}.{family}.{}",
                rng.pick(&["Trojan", "Backdoor", "Adware", "Gen:Variant"]),
                rng.hex(4)
            )),
            _ => Json::Null,
        };
        let verdict = obj! {
            "category" => category, "engine_name" => name.as_str(), "engine_update" => day,
            "engine_version" => rng.version(), "method" => "blacklist", "result" => result,
        };
        results.put(name, verdict);
    }
    attributes.put("last_analysis_results", results);
    let mut stats = Json::Map(Vec::new());
    for (name, count) in STATS.iter().zip(counts) {
        stats.put(*name, count);
    }
    attributes.put("last_analysis_stats", stats);
}

const STATS: [&str; 8] = [
    "confirmed-timeout",
    "failure",
    "harmless",
    "malicious",
    "suspicious",
    "timeout",
    "type-unsupported",
    "undetected",
];

pub(super) fn sandbox_verdicts(rng: &mut Rng) -> Json {
    let mut verdicts = Json::Map(Vec::new());
    for name in ["Aquarium", "Dune Box", "Terrarium"] {
        if rng.chance(70) {
            let verdict = obj! {
                "category" => rng.pick(&["malicious", "harmless", "undetected"]),
                "confidence" => rng.range(1, 100), "sandbox_name" => name,
                "malware_classification" => list(rng.len(1, 2), |_| rng.pick(&["MALWARE", "TROJAN", "CLEAN"])),
                "malware_names" => list(rng.len(1, 2), |_| rng.camel()),
            };
            verdicts.put(name, verdict);
        }
    }
    verdicts
}

/// Everything that sandboxes and network rules found, into the attributes.
pub(super) fn behaviour(rng: &mut Rng, attributes: &mut Json) {
    attributes.put("sandbox_verdicts", sandbox_verdicts(rng));
    let stats = obj! {
        "high" => rng.range(0, 9), "medium" => rng.range(0, 9), "low" => rng.range(0, 9),
        "info" => rng.range(0, 9),
    };
    attributes.put("crowdsourced_ids_stats", stats);
    let ids = list(rng.len(1, 4), |_| {
        obj! {
            "rule_category" => "misc-activity", "alert_severity" => rng.pick(&["low", "high"]),
            "rule_msg" => rng.sentence(6), "rule_id" => format!("1:{}", rng.range(1000, 99_999)),
            "alert_context" => list(rng.len(1, 3), |_| obj! {
                "dest_ip" => rng.address(), "dest_port" => rng.range(1, 65_535),
            }),
        }
    });
    attributes.put("crowdsourced_ids_results", ids);
    let stats = obj! {
        "critical" => rng.range(0, 2), "high" => rng.range(0, 5), "medium" => rng.range(0, 9),
        "low" => rng.range(0, 9),
    };
    attributes.put("sigma_analysis_stats", stats);
    let sigma = list(rng.len(1, 4), |_| {
        obj! {
            "rule_level" => rng.pick(&["low", "medium", "high", "critical"]),
            "rule_id" => rng.hex(64), "rule_source" => "Synthetic Rule Set",
            "rule_title" => rng.sentence(5), "rule_description" => rng.sentence(12),
            "rule_author" => rng.camel(),
            "match_context" => list(rng.len(1, 3), |_| obj! { "values" => obj! {
                "Image" => format!("C:\\Windows\\{}.exe", rng.word()),
                "CommandLine" => format!("{}.exe /{} {}", rng.word(), rng.word(), rng.hex(32)),
                "ProcessId" => rng.range(100, 9999).to_string(), "User" => "HOST\\user",
            } }),
        }
    });
    attributes.put("sigma_analysis_results", sigma);
    for rules in ["snort", "suricata"] {
        let mut alerts = Json::Map(Vec::new());
        for _ in 0..rng.len(1, 4) {
            let alert = obj! {
                "alert" => rng.sentence(6),
                "classification" => rng.pick(&["Potentially Bad Traffic", "Misc activity"]),
                "destinations" => list(rng.len(1, 3), |_| format!("{}:{}", rng.address(), rng.range(1, 65_535))),
            };
            alerts.put(rng.range(1000, 9_999_999).to_string(), alert);
        }
        attributes.put(rules, alerts);
    }
}

pub(super) fn known_distributors(rng: &mut Rng) -> Json {
    obj! {
        "distributors" => list(rng.len(1, 2), |_| format!("{} Example Ltd", rng.camel())),
        "products" => list(rng.len(1, 3), |_| rng.camel()),
        "filenames" => list(rng.len(1, 3), |_| format!("{}.dll", rng.word())),
        "data_sources" => ["Example Catalogue"],
        "links" => list(1, |_| format!("https://{}/release", rng.host())),
    }
}

pub(super) fn exiftool(rng: &mut Rng, file_type: &str, extension: &str, mime: &str) -> Json {
    let mut exif = obj! {
        "MIMEType" => mime, "FileType" => file_type, "FileTypeExtension" => extension,
    };
    if mime.contains("dosexec") || mime.contains("octet-stream") {
        exif.put("CodeSize", rng.range(512, 900_000).to_string());
        exif.put("EntryPoint", format!("0x{:x}", rng.range(4096, 900_000)));
        exif.put("FileOS", "Windows NT 32-bit");
        exif.put("FileVersionNumber", rng.version());
        exif.put("ImageFileCharacteristics", "Executable, 32-bit");
        exif.put("OSVersion", "5.1");
        exif.put("PEType", "PE32");
        exif.put("LinkerVersion", "14.0");
        exif.put("TimeStamp", format!("{} {}+00:00", rng.date(':'), rng.time()));
        exif.put("InitializedDataSize", rng.range(512, 900_000).to_string());
    }
    if mime.ends_with("pdf") {
        exif.put("DocumentID", format!("uuid:{}", rng.guid()));
        exif.put("Format", "application/pdf");
        exif.put("HasXFA", rng.pick(&["Yes", "No"]));
        exif.put("ModifyDate", format!("{} {}+01:00", rng.date(':'), rng.time()));
        exif.put("PDFVersion", format!("1.{}", rng.range(3, 7)));
        exif.put("PageCount", rng.range(1, 90).to_string());
        exif.put("Producer", format!("{} Writer", rng.camel()));
    }
    exif
}

pub(super) fn yara(rng: &mut Rng, when: i64) -> Json {
    list(rng.len(1, 3), |_| {
        obj! {
            "author" => rng.camel(), "description" => rng.sentence(8), "match_date" => when,
            "rule_name" => format!("{}_{}", rng.camel(), rng.range(1, 99)), "ruleset_id" => rng.hex(10),
            "ruleset_name" => rng.camel(), "source" => format!("https://{}/rules", rng.host()),
        }
    })
}

/// `context_attributes.submitter`, in all the ways it comes; `None` where VirusTotal itself asked.
pub(super) fn submitter(rng: &mut Rng, index: u64) -> Option<Json> {
    let mut submitter = obj! { "id" => rng.hex(8) };
    let country = rng.pick(&["AU", "DE", "US", "JP", "BR", "FR"]);
    let interface = rng.pick(&["api", "web", "email"]);
    match index % 8 {
        0 => return None,
        1 => {
            submitter.put("city", "?");
            submitter.put("country", "XX");
            submitter.put("region", "?");
            submitter.put("interface", interface);
        }
        2 => {
            submitter.put("city", "?");
            submitter.put("country", country);
            submitter.put("interface", interface);
        }
        3 => {
            submitter.put("city", "");
            submitter.put("country", country);
            submitter.put("region", "");
            submitter.put("interface", "");
        }
        _ => {
            submitter
                .put("city", rng.pick(&["synthville", "s\u{e3}o exemplo", "m\u{fc}sterstadt"]));
            submitter.put("country", country);
            submitter.put("region", rng.pick(&["north", "south"]));
            submitter.put("interface", interface);
        }
    }
    Some(submitter)
}

/// `relationships`, with `bulk` more URLs.
pub(super) fn relationships(rng: &mut Rng, sha256: &str, bulk: i64) -> Json {
    let links = |name: &str| {
        obj! {
            "self" => format!("https://www.virustotal.com/api/v3/files/{sha256}/relationships/{name}?limit=20"),
            "related" => format!("https://www.virustotal.com/api/v3/files/{sha256}/{name}"),
        }
    };
    let objects = |rng: &mut Rng, count: i64, kind: &str, bulk: i64| {
        list(rng.len(0, count) + bulk, |_| match kind {
            "domain" => obj! { "id" => rng.host(), "type" => kind },
            "ip_address" => obj! { "id" => rng.address(), "type" => kind },
            _ => obj! {
                "id" => rng.hex(64), "type" => kind,
                "context_attributes" => obj! { "url" => format!("http://{}/{}", rng.host(), rng.hex(16)) },
            },
        })
    };
    let mut out = Json::Map(Vec::new());
    for (name, kind, bulk) in [
        ("contacted_domains", "domain", 0),
        ("contacted_ips", "ip_address", 0),
        ("contacted_urls", "url", 0),
        ("embedded_domains", "domain", 0),
        ("embedded_urls", "url", bulk),
    ] {
        out.put(name, obj! { "data" => objects(rng, 4, kind, bulk), "links" => links(name) });
    }
    out
}
