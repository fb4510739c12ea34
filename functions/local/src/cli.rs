//! The command line: what can be asked for, and the help that says how.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// A VirusTotal feed becomes events of Azul.
#[derive(Debug, Parser)]
#[command(
    name = "vt",
    version,
    arg_required_else_help = true,
    after_help = "\
Settings come from the environment; `vt settings` shows them.
Exit codes: 0 done (also where records were rejected), 1 the job failed, 2 usage, unreadable input or a refused rule.

Examples:
  vt load
  vt ingest
  vt map sample.json.bz2 --format json
  vt rules check select_rules
  vt settings"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Load(LoadArgs),
    #[command(visible_alias = "tload")]
    Ingest(IngestArgs),
    Map(MapArgs),
    Rules(RulesArgs),
    Settings(SettingsArgs),
    Status(StatusArgs),
    Rejects(RejectsArgs),
}

/// Check selection rules, or try one on records.
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  vt rules check select_rules"
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

/// Print `true` or `false` for each record that is not blank: does the rule match it?
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vt rules match 'attributes.last_analysis_stats.timeout|@gt:5' sample.json.bz2
  bzcat sample.json.bz2 | vt rules match 'attributes.type_tag|@eq:\"pdf\"' -")]
pub(crate) struct MatchArgs {
    /// The rule, as it stands in a rule file.
    #[arg(value_name = "RULE", allow_hyphen_values = true)]
    pub(crate) rule: String,
    /// Records, one a line, plain or compressed; `-` is standard input.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

/// Load the minutes of VirusTotal's file feed that are due, then end (for cron); --watch goes on.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  VIRUSTOTAL_APIKEY=xxxx STATEDIR=~/.vtload RULES_ROOT=select_rules vt load
  vt load --watch
  vt load --from 202611240857 --to 202611240905
  vt load --dry-run")]
pub(crate) struct LoadArgs {
    /// Go on for ever: look for new minutes each minute.
    #[arg(long, conflicts_with_all = ["from", "dry_run"])]
    pub(crate) watch: bool,
    /// Load again from this UTC minute on (YYYYMMDDhhmm or RFC 3339); ignores the age limit.
    #[arg(long, value_name = "MINUTE", requires = "to")]
    pub(crate) from: Option<azul_vt::minute::Minute>,
    /// The last minute of the range.
    #[arg(long, value_name = "MINUTE", requires = "from")]
    pub(crate) to: Option<azul_vt::minute::Minute>,
    /// Say what is due, and do nothing.
    #[arg(long, conflicts_with = "from")]
    pub(crate) dry_run: bool,
}

/// Take feed records that are posted as JSON lines, and make events of them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vt ingest
  bzcat sample.json.bz2 | curl -H 'Content-Type: application/json' -X POST --data-binary @- http://localhost:8854")]
pub(crate) struct IngestArgs {}

/// Formats of `vt map`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum MapFormat {
    /// A line of JSON for each record.
    Json,
    /// The bulk messages that would be posted, each behind its length (u32, big-endian).
    Avro,
}

/// Print the events that records would become; sends nothing.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vt map sample.json.bz2
  bzcat sample.json.bz2 | vt map - --handlers all --now 2026-11-24T08:57:00Z
  vt map sample.json.bz2 --format avro --threads 2 > events.avro
  vt map report.json --report")]
pub(crate) struct MapArgs {
    /// Records, one a line, plain or compressed (bzip2, gzip, zstd); `-` is standard input.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Lines are file reports: `{\"data\":…}` or bare objects.
    #[arg(long)]
    pub(crate) report: bool,
    /// The binary event that was looked up: its source and path go on.
    #[arg(long, value_name = "EVENT.json", requires = "report")]
    pub(crate) input: Option<PathBuf>,
    /// `default`, `all`, or names; else HANDLERS.
    #[arg(long, value_name = "LIST")]
    pub(crate) handlers: Option<String>,
    /// 5 or 6; else AZUL_MODEL_VERSION.
    #[arg(long, value_name = "5|6", value_parser = clap::value_parser!(i64).range(5..=6))]
    pub(crate) model_version: Option<i64>,
    /// What to print.
    #[arg(long, value_enum, default_value = "json")]
    pub(crate) format: MapFormat,
    /// The events' time; else the clock.
    #[arg(long, value_name = "TIME")]
    pub(crate) now: Option<jiff::Timestamp>,
    /// Older records are filtered, -1: none; else DISPATCHER_MAX_AGE_HOURS.
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = clap::value_parser!(i64).range(-1..=1_000_000))]
    pub(crate) max_age_hours: Option<i64>,
    /// Threads; the output is the same for any number.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) threads: usize,
}

/// Compile all rules below a folder and say what is wrong with them (exit code 2) or how many there are.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vt rules check select_rules")]
pub(crate) struct CheckArgs {
    /// Folder with the rules, all `*.yaml` below it.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
}

/// Print every setting, its value (secrets masked) and where it came from.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vt settings
  STATEDIR=/var/lib/vt vt settings --json")]
pub(crate) struct SettingsArgs {
    /// As JSON.
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
    /// As JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Look at what was refused for good: records, events, requests, bundles.
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  vt rejects list
  vt rejects show rejects/feed/202611240857/000000000001.jsonl"
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
    /// Print what a key holds, a JSON object a line: where it came from, the reason, the record.
    #[command(after_help = "\
Examples:
  vt rejects show rejects/feed/202611240857/000000000001.jsonl")]
    Show {
        /// As `vt rejects list` prints it.
        #[arg(value_name = "KEY")]
        key: String,
    },
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
