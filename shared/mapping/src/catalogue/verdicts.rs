//! The catalogue: verdicts of engines, sandboxes and detection rules.

use super::row::{FeatureKind, Handler, Special, integer, text, texts};

const AV_VERDICT: &str = "Verdict of antivirus engines; label: number of engines that gave it.";
const RULE_MATCH_CROWD_SOURCED: &str =
    "Severity of crowdsourced network detection rules; label: number of matches.";
const SIGMA_SEVERITY: &str =
    "Severity of Sigma rules that the file's behaviour matched; label: number of matches.";

pub(super) static SANDBOX_VERDICTS: Handler = Handler::on(
    "SandboxVerdicts",
    "sandbox_verdicts",
    &[
        text(
            &["category"],
            "category",
            "Verdict of a sandbox on the file, such as malicious or harmless; label: the sandbox.",
        )
        .in_each(),
        integer(
            &["confidence"],
            "confidence",
            "A sandbox's confidence in its verdict, 0 to 100; label: the sandbox.",
        )
        .in_each(),
        texts(
            &["malware_classification"],
            "malware_classification",
            "Kind of malware that a sandbox saw, such as RANSOM; label: the sandbox.",
        )
        .in_each(),
        texts(
            &["malware_names"],
            "malware_names",
            "Malware family that a sandbox named; label: the sandbox.",
        )
        .in_each(),
        text(
            &["sandbox_name"],
            "sandbox_name",
            "Name of a sandbox that gave a verdict; label: the sandbox's key at VirusTotal.",
        )
        .in_each(),
    ],
);

pub(super) static AV_RESULTS: Handler = Handler::on(
    "AvResults",
    "last_analysis_results",
    &[text(
        &["result"],
        "av_signature",
        "Signature that an antivirus engine matched; label: the engine.",
    )
    .in_each()],
);

pub(super) static AV_RESULTS_STATS: Handler = Handler::on(
    "AvResultsStats",
    "last_analysis_stats",
    &[
        integer(&["confirmed-timeout"], "av_verdict", AV_VERDICT)
            .special(Special::CountAsLabel)
            .emits(FeatureKind::Text),
        integer(&["failure"], "av_verdict", AV_VERDICT)
            .special(Special::CountAsLabel)
            .emits(FeatureKind::Text),
        integer(&["harmless"], "av_verdict", AV_VERDICT)
            .special(Special::CountAsLabel)
            .emits(FeatureKind::Text),
        integer(&["malicious"], "av_verdict", AV_VERDICT)
            .special(Special::CountAsLabel)
            .emits(FeatureKind::Text),
        integer(&["suspicious"], "av_verdict", AV_VERDICT)
            .special(Special::CountAsLabel)
            .emits(FeatureKind::Text),
        integer(&["timeout"], "av_verdict", AV_VERDICT)
            .special(Special::CountAsLabel)
            .emits(FeatureKind::Text),
        integer(&["type-unsupported"], "av_verdict", AV_VERDICT)
            .special(Special::CountAsLabel)
            .emits(FeatureKind::Text),
        integer(&["undetected"], "av_verdict", AV_VERDICT)
            .special(Special::CountAsLabel)
            .emits(FeatureKind::Text),
    ],
);

pub(super) static CROWDSOURCED_IDS_STATS: Handler = Handler::on(
    "CrowdsourcedIdsStats",
    "crowdsourced_ids_stats",
    &[
        integer(&["high"], "rule_match_crowd_sourced", RULE_MATCH_CROWD_SOURCED)
            .special(Special::CountAsLabel)
            .emits(FeatureKind::Text),
        integer(&["info"], "rule_match_crowd_sourced", RULE_MATCH_CROWD_SOURCED)
            .special(Special::CountAsLabel)
            .emits(FeatureKind::Text),
        integer(&["low"], "rule_match_crowd_sourced", RULE_MATCH_CROWD_SOURCED)
            .special(Special::CountAsLabel)
            .emits(FeatureKind::Text),
        integer(&["medium"], "rule_match_crowd_sourced", RULE_MATCH_CROWD_SOURCED)
            .special(Special::CountAsLabel)
            .emits(FeatureKind::Text),
    ],
);

pub(super) static SIGMA_ANALYSIS_STATS: Handler = Handler::on(
    "SigmaAnalysisStats",
    "sigma_analysis_stats",
    &[
        integer(&["critical"], "sigma_severity", SIGMA_SEVERITY)
            .special(Special::CountAsLabel)
            .emits(FeatureKind::Text),
        integer(&["high"], "sigma_severity", SIGMA_SEVERITY)
            .special(Special::CountAsLabel)
            .emits(FeatureKind::Text),
        integer(&["low"], "sigma_severity", SIGMA_SEVERITY)
            .special(Special::CountAsLabel)
            .emits(FeatureKind::Text),
        integer(&["medium"], "sigma_severity", SIGMA_SEVERITY)
            .special(Special::CountAsLabel)
            .emits(FeatureKind::Text),
    ],
);

pub(super) static SIGMA_ANALYSIS_RESULTS: Handler = Handler::off(
    "SigmaAnalysisResults",
    "sigma_analysis_results",
    &[
        text(
            &["rule_title"],
            "rule_title",
            "Title of a Sigma rule that the behaviour matched; label: the rule's identifier.",
        )
        .in_list(&[], "rule_id"),
        text(
            &["rule_source"],
            "rule_source",
            "Set of rules that a matched Sigma rule comes from; label: the rule's identifier.",
        )
        .in_list(&[], "rule_id"),
        text(
            &["rule_level"],
            "rule_level",
            "Severity of a matched Sigma rule; label: the rule's identifier.",
        )
        .in_list(&[], "rule_id"),
        text(
            &["rule_description"],
            "rule_description",
            "What a matched Sigma rule detects; label: the rule's identifier.",
        )
        .in_list(&[], "rule_id"),
        text(
            &["rule_author"],
            "rule_author",
            "Author of a matched Sigma rule; label: the rule's identifier.",
        )
        .in_list(&[], "rule_id"),
        text(
            &["rule_id"],
            "rule_id",
            "Identifier of a matched Sigma rule; label: the same identifier.",
        )
        .in_list(&[], "rule_id"),
    ],
);

pub(super) static SNORT: Handler = Handler::off(
    "Snort",
    "snort",
    &[
        text(
            &["alert"],
            "alert",
            "Alert of a network detection rule on a capture file; label: the rule's identifier.",
        )
        .in_each(),
        text(
            &["classification"],
            "classification",
            "Class of traffic that a network detection rule names; label: the rule's identifier.",
        )
        .in_each(),
        texts(
            &["destinations"],
            "destinations",
            "Connection that matched a network detection rule; label: the rule's identifier.",
        )
        .in_each(),
    ],
);

pub(super) static SURICATA: Handler = Handler::off(
    "Suricata",
    "suricata",
    &[
        text(
            &["alert"],
            "alert",
            "Alert of a network detection rule on a capture file; label: the rule's identifier.",
        )
        .in_each(),
        text(
            &["classification"],
            "classification",
            "Class of traffic that a network detection rule names; label: the rule's identifier.",
        )
        .in_each(),
        texts(
            &["destinations"],
            "destinations",
            "Connection that matched a network detection rule; label: the rule's identifier.",
        )
        .in_each(),
    ],
);
