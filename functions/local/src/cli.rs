//! The command line: commands, options and their help.

use std::path::PathBuf;

use azul_vt::{azul::event::ModelVersion, minute::Minute, settings::RulesRoot};
use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::Timestamp;

/// Turn VirusTotal's file feed into events of Azul.
#[derive(Debug, Parser)]
#[command(
    name = "vt",
    version,
    arg_required_else_help = true,
    after_help = "\
Settings come from the environment; `vt settings` shows them.
Exit codes:
  0  done, also where records were rejected
  1  the job failed
  2  usage, a setting that is wrong or missing, unreadable input or a refused rule

Examples:
  VIRUSTOTAL_APIKEY=xxxx PLUGIN_EVENTS_URL=http://dispatcher:8111 vt load
  vt ingest
  vt map sample.json.bz2
  vt rules check select_rules
  vt doctor"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Load(LoadArgs),
    Replay(ReplayArgs),
    Retry(RetryArgs),
    #[command(visible_alias = "tload")]
    Ingest(IngestArgs),
    Query(QueryArgs),
    Download(DownloadArgs),
    Hunt(HuntArgs),
    Serve(ServeArgs),
    Quota(QuotaArgs),
    Map(MapArgs),
    Select(SelectArgs),
    Rules(RulesArgs),
    Settings(SettingsArgs),
    Status(StatusArgs),
    Doctor(DoctorArgs),
    Rejects(RejectsArgs),
    #[cfg(feature = "aws")]
    Aws(AwsArgs),
}

/// Load the minutes of VirusTotal's file feed that are due, then end (for cron); --watch goes on.
///
/// Posted bodies that `vt ingest` left are delivered first. The first run starts `FEED_BACKLOG_HOURS` back, or where
/// the Go plugin's `v3_files` in STATEDIR stopped. If another run is at work, the command names it and ends with exit
/// code 0. Without `VIRUSTOTAL_APIKEY` there is no feed: exit code 2, unless posted bodies were delivered.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  VIRUSTOTAL_APIKEY=xxxx STATEDIR=~/.vtload RULES_ROOT=select_rules vt load
  vt load --watch
  vt load --watch --workers 4
  vt load --from 202611240857 --to 202611240905
  vt load --dry-run
  vt load --from 202611240857 --to 202611240905 --dry-run")]
pub(crate) struct LoadArgs {
    /// Go on until stopped: look for new minutes each minute.
    #[arg(long, conflicts_with_all = ["from", "dry_run"])]
    pub(crate) watch: bool,
    /// Minutes loaded at once while the feed is more than `FAN_OUT_MINUTES` behind [default: 1]
    ///
    /// Any number of processes with the same state share the work. One of them also goes on loading the minutes behind.
    #[arg(long, value_name = "N", conflicts_with_all = ["from", "dry_run"], value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) workers: Option<u16>,
    /// Load again from this UTC minute on, as `vt replay` does (`YYYYMMDDhhmm` or RFC 3339); ignores the age limit.
    #[arg(long, value_name = "MINUTE", requires = "to")]
    pub(crate) from: Option<Minute>,
    /// The last minute of the range.
    #[arg(long, value_name = "MINUTE", requires = "from")]
    pub(crate) to: Option<Minute>,
    /// Fetch each minute of the range from VirusTotal, even if its bundle is staged.
    #[arg(long, requires = "from")]
    pub(crate) fetch: bool,
    /// Print what is due as JSON, and do nothing; for a range, print a line of JSON for each minute.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Run all functions on this machine, each on its schedule, until stopped.
///
/// `load` and `hunt` look for new minutes and notifications each minute, `query` and `download` poll the dispatcher,
/// `ingest` listens on `INGEST_LISTEN`. `SERVE_LISTEN` serves GET /health, /status (JSON), /metrics, and POST /query
/// and /download for webhooks. A function that fails is started again after a minute; the others go on. SIGTERM ends
/// all of them at a point from which they can be continued.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  VIRUSTOTAL_APIKEY=xxxx LOOKUP_SOURCES=incidents PLUGIN_EVENTS_URL=http://dispatcher:8111 vt serve
  vt serve --functions load,ingest
  curl http://127.0.0.1:8853/status")]
pub(crate) struct ServeArgs {
    /// Functions to run [default: all; `query` only where `LOOKUP_SOURCES` is set]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_enum)]
    pub(crate) functions: Vec<Function>,
}

/// A function that `vt serve` runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Function {
    Load,
    Ingest,
    Query,
    Download,
    Hunt,
}

/// Load a range of minutes again, from staged bundles where they are kept; ignores the age limit.
///
/// A minute is fetched from VirusTotal only if it is no longer staged, or if none of its records was taken. The cursor
/// stays, and `vt load` may run meanwhile. `vt load --from M --to M` is the same.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vt replay --from 202611240857 --to 202611240905
  vt replay --from 2026-11-24T08:57Z --to 2026-11-24T09:05Z")]
pub(crate) struct ReplayArgs {
    /// The first UTC minute, `YYYYMMDDhhmm` or RFC 3339.
    #[arg(long, value_name = "MINUTE")]
    pub(crate) from: Minute,
    /// The last minute of the range.
    #[arg(long, value_name = "MINUTE")]
    pub(crate) to: Minute,
    /// Fetch each minute from VirusTotal, even if its bundle is staged.
    #[arg(long)]
    pub(crate) fetch: bool,
}

/// Take feed records that are posted as JSON lines, and make events of them.
///
/// Listens on `INGEST_LISTEN`; without `INGEST_SECRETS` and `INGEST_TOKENS` on loopback only. No VirusTotal key is
/// needed. Posted records are kept under STATEDIR until they are delivered. GET /health and GET /metrics report on the
/// server.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vt ingest
  curl -H 'Content-Type: application/json' --data-binary @records.jsonl http://localhost:8854")]
pub(crate) struct IngestArgs {}

/// Look up binaries in VirusTotal that Azul got elsewhere, until stopped.
///
/// Polls the dispatcher for the binaries of `LOOKUP_SOURCES`; --listen takes them by webhook too. Waiting binaries are
/// kept until they are answered, within `VT_REQUESTS_PER_MINUTE`, `…_DAY` and `…_MONTH`. A link to this program that is
/// called `azul-vtquery` runs this command. VirusTotal learns the hash of each binary that is looked up.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  VIRUSTOTAL_APIKEY=xxxx LOOKUP_SOURCES=incidents PLUGIN_EVENTS_URL=http://dispatcher:8111 vt query
  VT_REQUESTS_PER_MINUTE=public VT_REQUESTS_PER_DAY=public LOOKUP_SOURCES='*' vt query
  LOOKUP_SOURCES=incidents vt query --listen")]
pub(crate) struct QueryArgs {
    /// Take webhooks too, at `WEBHOOK_LISTEN`; without `WEBHOOK_SECRETS` on loopback only.
    #[arg(long)]
    pub(crate) listen: bool,
}

/// Fetch the samples from VirusTotal that were asked for, until stopped.
///
/// Requests come from the dispatcher, by polling and, with --listen, by webhook. They wait under STATEDIR until they
/// are done. The requests of a category say how many downloads it has in a UTC day. The direct link of a request is
/// tried first, which costs no quota; then the file's hash, within `VT_REQUESTS_PER_…` (never with `DIRECT_ONLY=1`). A
/// link to this program that is called `azul-vtdownload` runs this command.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  VIRUSTOTAL_APIKEY=xxxx PLUGIN_DATA_URL=http://dispatcher:8111 PLUGIN_EVENTS_URL=http://dispatcher:8111 vt download
  DIRECT_ONLY=1 WORKERS=8 vt download --listen")]
pub(crate) struct DownloadArgs {
    /// Take webhooks too, at `WEBHOOK_LISTEN`; without `WEBHOOK_SECRETS` on loopback only.
    #[arg(long)]
    pub(crate) listen: bool,
}

/// Bring the matches of Livehunt rules since the last run, then end (for cron); --watch goes on.
///
/// Each hit becomes an event of `HUNT_SOURCE` and, unless `HUNT_DOWNLOAD=0`, a download request. The first run starts
/// `HUNT_BACKLOG_HOURS` back, or where the Go plugin's `livehunt` in STATEDIR stopped. If another run is at work, the
/// command names it and ends with exit code 0. A link to this program that is called `azul-vthuntfeed` runs this
/// command.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  VIRUSTOTAL_APIKEY=xxxx PLUGIN_EVENTS_URL=http://dispatcher:8111 vt hunt
  HUNT_RULES='apt_*,!*_test' vt hunt --watch
  vt hunt --retrohunt user-1234567890")]
pub(crate) struct HuntArgs {
    /// Go on until stopped: look for new notifications each minute.
    #[arg(long)]
    pub(crate) watch: bool,
    /// Bring the matches of this Retrohunt job, as events of `RETROHUNT_SOURCE`.
    #[arg(long, value_name = "JOB", conflicts_with = "watch")]
    pub(crate) retrohunt: Option<String>,
}

/// Print the used and the remaining requests to VirusTotal and downloads.
///
/// VirusTotal is asked for the quotas of the key's user, which costs no quota.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vt quota
  vt quota --json")]
pub(crate) struct QuotaArgs {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Load one minute again, from its staged bundle where that is kept; ignores the age limit.
///
/// VirusTotal is asked only if no bundle is staged, or if none of its records was taken.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vt retry --minute 202611240857
  vt retry --minute 2026-11-24T08:57Z")]
pub(crate) struct RetryArgs {
    /// The UTC minute, `YYYYMMDDhhmm` or RFC 3339.
    #[arg(long, value_name = "MINUTE")]
    pub(crate) minute: Minute,
    /// Fetch the minute from VirusTotal, even if its bundle is staged.
    #[arg(long)]
    pub(crate) fetch: bool,
}

/// Map records to events and print what would be posted; nothing is posted and no state is touched.
///
/// JSON gives a line for each line of the input that is not blank:
/// {"line":n,"events":[…],"filtered":null|"reason","rejected":null|"reason"}.
/// Avro gives the messages that would be posted, each preceded by its length (u32, big-endian).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vt map sample.json.bz2
  bzcat sample.json.bz2 | vt map --max-age-hours -1 -
  vt map --handlers all --now 2026-11-24T08:57:00Z records.jsonl
  vt map --format avro --model-version 5 records.jsonl > messages.bin
  vt map --report --input sourced.json report.json")]
pub(crate) struct MapArgs {
    /// Records, a JSON object a line; plain, bzip2, gzip or zstd. `-` is standard input.
    #[arg(value_name = "FILE|-")]
    pub(crate) file: PathBuf,

    /// The lines are file reports (`{"data":…}` or bare objects), not feed records.
    #[arg(long)]
    pub(crate) report: bool,

    /// The binary event (JSON) that the reports were looked up for: gives source and path.
    #[arg(long, value_name = "EVENT.json", requires = "report")]
    pub(crate) input: Option<PathBuf>,

    /// Handlers to map with: `default`, `all` or names, comma-separated [default: setting `HANDLERS`]
    #[arg(long, value_name = "NAMES")]
    pub(crate) handlers: Option<String>,

    /// Version of the event models, 5 or 6 [default: setting `AZUL_MODEL_VERSION`]
    #[arg(long, value_name = "5|6", value_parser = model_version)]
    pub(crate) model_version: Option<ModelVersion>,

    /// Format of the output.
    #[arg(long, value_enum, default_value_t = Format::Json)]
    pub(crate) format: Format,

    /// The time to map at, RFC 3339 [default: the clock]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) now: Option<Timestamp>,

    /// Filter records analysed earlier than this; -1: no limit [default: setting `DISPATCHER_MAX_AGE_HOURS`]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..=10_000_000))]
    pub(crate) max_age_hours: Option<i64>,

    /// Threads to map on; the output is the same for any number [default: one a processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
}

/// Output formats of `vt map`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A line of JSON for each line of the input.
    Json,
    /// Avro bulk messages, each preceded by its length.
    Avro,
}

/// Print the download requests that rules make of records; nothing is posted or remembered.
///
/// The lines have the shape of `vt map`; age does not matter here, so that rules can be tried on old records.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vt select --rules select_rules sample.json.bz2
  bzcat sample.json.bz2 | vt select --rules select_rules -")]
pub(crate) struct SelectArgs {
    /// Feed records, a JSON object a line; plain, bzip2, gzip or zstd. `-` is standard input.
    #[arg(value_name = "FILE|-")]
    pub(crate) file: PathBuf,

    /// Folder with the rules, or `s3://bucket/prefix/`, all `*.yaml` below it [default: setting `RULES_ROOT`]
    #[arg(long, value_name = "DIR")]
    pub(crate) rules: Option<RulesRoot>,

    /// Version of the event models, 5 or 6 [default: setting `AZUL_MODEL_VERSION`]
    #[arg(long, value_name = "5|6", value_parser = model_version)]
    pub(crate) model_version: Option<ModelVersion>,

    /// The time to select at, RFC 3339 [default: the clock]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) now: Option<Timestamp>,

    /// Threads to select on; the output is the same for any number [default: one a processor]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
}

/// Check selection rules, or try one on records.
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  vt rules check select_rules
  vt rules match 'attributes.last_analysis_stats.malicious|@gt:5' sample.json.bz2"
)]
pub(crate) struct RulesArgs {
    #[command(subcommand)]
    pub(crate) command: RulesCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RulesCommand {
    Check(CheckArgs),
    Match(MatchArgs),
}

/// Compile all rules below a folder: say what is wrong with bad ones (exit code 2), or list the good ones.
///
/// A rule that can hardly be meant as it is written gets a warning; that is no failure.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vt rules check select_rules")]
pub(crate) struct CheckArgs {
    /// Folder with the rules, or `s3://bucket/prefix/`, all `*.yaml` below it.
    #[arg(value_name = "DIR")]
    pub(crate) dir: RulesRoot,
}

/// Print `true` or `false` for each line that is not blank: does the rule match it?
///
/// An empty rule and a bad regular expression are refused (exit code 2). A modifier that does not exist gets a warning;
/// as in GJSON, it is a key that no record has.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vt rules match 'attributes.last_analysis_stats.malicious|@gt:5' sample.json.bz2
  echo '{\"type\":\"file\"}' | vt rules match 'type|@eq:\"file\"' -
  vt rules match -- '-name|@ne:x' records.jsonl")]
pub(crate) struct MatchArgs {
    /// A GJSON path with the modifiers of the rules; `;` joins filters with AND.
    #[arg(value_name = "RULE", allow_hyphen_values = true)]
    pub(crate) rule: String,

    /// JSON values, one a line; plain, bzip2, gzip or zstd. `-` is standard input.
    #[arg(value_name = "FILE|-")]
    pub(crate) file: PathBuf,
}

/// Print every setting, its value (secrets masked) and where it came from.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vt settings
  STATEDIR=/var/lib/vt vt settings --json")]
pub(crate) struct SettingsArgs {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Print how far the feed was loaded: cursor, lag, gaps, counts, quotas and who is at work.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vt status
  vt status --json")]
pub(crate) struct StatusArgs {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Check settings, services and state: a sentence for each check, and exit code 1 if one fails.
///
/// The checks are: settings, VirusTotal's key and its privileges, a minute of the feed, the dispatcher, rules, clocks,
/// state. VirusTotal is asked twice, which costs no quota, and nothing is posted.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vt doctor
  VIRUSTOTAL_APIKEY=xxxx PLUGIN_EVENTS_URL=http://dispatcher:8111 vt doctor")]
pub(crate) struct DoctorArgs {}

/// Show records, events, requests and bundles that were refused for good, or try them again.
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  vt rejects list
  vt rejects show rejects/feed/202611240857/000000000001.jsonl
  vt rejects retry rejects/feed/202611240857/000000000001.jsonl"
)]
pub(crate) struct RejectsArgs {
    #[command(subcommand)]
    pub(crate) command: RejectsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RejectsCommand {
    /// Print key, size in bytes and time of all that is kept.
    #[command(after_help = "\
Examples:
  vt rejects list")]
    List,
    /// Print the rejects of a key, a JSON object a line: origin, reason, record.
    #[command(after_help = "\
Examples:
  vt rejects show rejects/feed/202611240857/000000000001.jsonl")]
    Show {
        /// Key as `vt rejects list` prints it.
        #[arg(value_name = "KEY")]
        key: String,
    },
    /// Deliver the rejects of keys again, whatever their age; those that are delivered or refused again leave their
    /// key.
    #[command(after_help = "\
Examples:
  vt rejects retry rejects/feed/202611240857/000000000001.jsonl
  vt rejects list | cut -d' ' -f1 | xargs vt rejects retry")]
    Retry {
        /// Keys as `vt rejects list` prints them.
        #[arg(value_name = "KEY", required = true)]
        keys: Vec<String>,
    },
}

fn model_version(text: &str) -> Result<ModelVersion, &'static str> {
    match text {
        "5" => Ok(ModelVersion::V5),
        "6" => Ok(ModelVersion::V6),
        _ => Err("write 5 (Azul 8 and 9) or 6 (Azul 10 and later)"),
    }
}

fn time(text: &str) -> Result<Timestamp, &'static str> {
    text.parse().map_err(|_| "write RFC 3339 with a zone, such as 2026-11-24T08:57:00Z")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}

#[cfg(feature = "aws")]
/// Prepare an account of AWS, or an emulator, for the state.
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  AWS_REGION=ap-southeast-2 vt aws init --bucket our-azul-vt-bundles"
)]
pub(crate) struct AwsArgs {
    #[command(subcommand)]
    pub(crate) command: AwsCommand,
}

#[cfg(feature = "aws")]
#[derive(Debug, Subcommand)]
pub(crate) enum AwsCommand {
    Init(AwsInitArgs),
}

#[cfg(feature = "aws")]
/// Create the table, the bucket and the queues, and print the settings that name them.
///
/// Resources that exist already are kept. Region, endpoint and credentials come from AWS's own variables and files.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  AWS_REGION=ap-southeast-2 vt aws init --bucket our-azul-vt-bundles
  eval \"$(AWS_ENDPOINT_URL=http://127.0.0.1:4566 vt aws init)\"")]
pub(crate) struct AwsInitArgs {
    /// Name of the table; the names of the queues begin with it
    #[arg(long, default_value = "azul-vt")]
    pub(crate) name: String,
    /// Name of the bucket, which must be unique in all of AWS [default: the table's, and -bundles]
    #[arg(long)]
    pub(crate) bucket: Option<String>,
}
