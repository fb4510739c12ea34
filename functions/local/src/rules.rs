//! `vt rules`: checks rules, or tries one on records.

use anyhow::{Context as _, anyhow};
use azul_vt::{
    bundle::Line,
    pipeline::assemble,
    selection::{Filter, RuleErrors, RuleSet},
    settings::RulesRoot,
};
use serde::de::IgnoredAny;

use crate::{
    cli::{CheckArgs, MatchArgs, RulesCommand},
    failure::{Failure, one_line, say},
    lines,
    output::Output,
    settings, state,
};

/// Runs `vt rules check` or `vt rules match`.
pub(crate) fn run(command: RulesCommand) -> Result<(), Failure> {
    match command {
        RulesCommand::Check(args) => check(&args),
        RulesCommand::Match(args) => matches(&args),
    }
}

/// Loads the rules below `root`. Bad rules are reported; they are an error unless `lenient` is set. Good rules that can
/// hardly be meant as they are written get a warning.
pub(crate) fn load(root: &RulesRoot, lenient: bool) -> Result<RuleSet, Failure> {
    let loaded = match root {
        RulesRoot::Dir(dir) => RuleSet::load(dir, lenient).map_err(refused)?,
        RulesRoot::Bucket { .. } => {
            let settings = settings::read()?;
            state::block_on(async {
                let source =
                    assemble::rule_source(&settings, root).await.map_err(Failure::usage)?;
                let seen = source.list().await.map_err(|error| refused(RuleErrors(vec![error])))?;
                source.load(seen.as_ref(), lenient).await.map_err(refused)
            })?
        }
    };
    for error in &loaded.errors {
        say(&format!("vt: passed over: {}", one_line(error)));
    }
    if loaded.missing {
        return Err(Failure::Usage(anyhow!("{root}: there is no such folder of rules")));
    }
    for warning in loaded.rules.warnings() {
        say(&format!("vt: warning: {warning}"));
    }
    Ok(loaded.rules)
}

/// Prints a line for each bad rule and returns the exit code, which is all that is left to report.
fn refused(RuleErrors(errors): RuleErrors) -> Failure {
    for error in errors {
        say(&format!("vt: {}", one_line(&error)));
    }
    Failure::Said(2)
}

fn check(args: &CheckArgs) -> Result<(), Failure> {
    let rules = load(&args.dir, false)?;
    let mut output = Output::open();
    let rows: Vec<[String; 3]> = rules
        .rules()
        .iter()
        .map(|rule| {
            let quota = match rule.daily_quota {
                0 => "never downloads".into(),
                n => format!("at most {n} a day"),
            };
            let pcap = if rule.collect_pcap { "with network captures" } else { "" };
            [rule.category.clone(), quota, pcap.into()]
        })
        .collect();
    output.table(&rows)?;
    output.line(&match rules.len() {
        1 => "1 rule is good".to_owned(),
        n => format!("{n} rules are good"),
    })?;
    output.finish()
}

fn matches(args: &MatchArgs) -> Result<(), Failure> {
    let filter = Filter::compile(&args.rule)
        .with_context(|| format!("the rule `{}` is refused", args.rule))
        .map_err(Failure::Usage)?;
    for warning in filter.warnings() {
        say(&format!("vt: warning: {warning}"));
    }
    let source = lines::Source::open(&args.file, None, &settings::read()?)?;
    source.print(|line, bytes| {
        let yes = match line {
            Line::TooLong { .. } => false,
            Line::Record { .. } => {
                let text = String::from_utf8_lossy(bytes);
                // A line that is not JSON is never loaded, so no rule selects it.
                serde_json::from_str::<IgnoredAny>(&text).is_ok() && filter.matches(&text)
            }
        };
        Ok(if yes { b"true\n".to_vec() } else { b"false\n".to_vec() })
    })
}
