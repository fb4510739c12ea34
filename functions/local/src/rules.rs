//! `vt rules`: are the rules good, and what does a rule match?

use std::path::Path;

use anyhow::{Error, anyhow};
use azul_vt::{
    bundle::{Line, Lines},
    selection::{Filter, RuleErrors, RuleSet},
};

use crate::{
    cli::{CheckArgs, MatchArgs, RulesCommand},
    failure::{Failure, chain, say},
    input::Input,
    output::Output,
};

/// Runs `vt rules check` or `vt rules match`.
pub(crate) fn run(command: RulesCommand) -> Result<(), Failure> {
    match command {
        RulesCommand::Check(args) => check(&args),
        RulesCommand::Match(args) => try_rule(&args),
    }
}

/// Loads the rules below `dir`, all of which must be good; says what is wrong with the others.
pub(crate) fn load(dir: &Path) -> Result<RuleSet, Failure> {
    let loaded = RuleSet::load(dir, false).map_err(refused)?;
    if loaded.missing_directory {
        return Err(Failure::Usage(anyhow!("{}: there is no such folder of rules", dir.display())));
    }
    Ok(loaded.rules)
}

/// A line for each bad rule; what is left to report is the exit code.
fn refused(RuleErrors(errors): RuleErrors) -> Failure {
    for error in errors {
        say(&format!("vt: {}", chain(&Error::new(error))));
    }
    Failure::Said(2)
}

fn check(args: &CheckArgs) -> Result<(), Failure> {
    let rules = load(&args.dir)?;
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

/// `true` or `false` for each line that is not blank.
fn try_rule(args: &MatchArgs) -> Result<(), Failure> {
    let filter = Filter::compile(&args.rule)
        .map_err(|e| Failure::Usage(Error::new(e).context("the rule is refused")))?;
    let caps = crate::map::caps(&crate::settings::read()?);
    let input = Input::open(&args.file)?;
    let _bar = input.progress();
    let (mut lines, mut buffer) = (Lines::new(input.reader, caps), Vec::new());
    let mut output = Output::open();
    while let Some(line) = crate::map::next(&mut lines, &mut buffer, &input.name)? {
        let matches = matches!(line, Line::Record { .. })
            && filter.matches(&String::from_utf8_lossy(&buffer));
        output.line(if matches { "true" } else { "false" })?;
    }
    output.finish()
}
