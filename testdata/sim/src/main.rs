//! `sim`: the stand-ins as a process of their own, and synthetic feed data as files.

use std::{
    fmt::Write as _,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::{Args, Parser, Subcommand};
use jiff::Timestamp;
use serde_json::json;
use sim::{
    Aws, Behaviour, Dispatcher, Hit, Unknown, VirusTotal,
    feed::{self, Style},
    lookup,
};

/// Stand-ins for VirusTotal and the Azul dispatcher, and synthetic feed data.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs VirusTotal and the dispatcher until it is told to end; prints their URLs as one line of JSON
    Serve(Serve),
    /// Writes one minute of the synthetic feed: bzip2, or plain lines where FILE ends in .jsonl
    Feed(Feed),
    /// Runs the emulator of AWS until it is told to end; prints how clients find it, as lines for a shell
    Aws(Emulator),
    /// Prints the sha256 of every record of the given minutes, a line each, sorted
    Expected(Expected),
}

#[derive(Debug, Args)]
struct Synthetic {
    /// Another seed gives other records
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Records a minute
    #[arg(long, default_value_t = 64)]
    records: u64,
    /// Small records, 2 to 10 KB
    #[arg(long)]
    small: bool,
}

impl Synthetic {
    fn style(&self) -> Style {
        if self.small { Style::Small } else { Style::Real }
    }
}

#[derive(Debug, Args)]
struct Serve {
    /// Port of the dispatcher; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    dispatcher_port: u16,
    /// Port of VirusTotal; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    virustotal_port: u16,
    #[command(flatten)]
    synthetic: Synthetic,
    /// The API key that VirusTotal accepts
    #[arg(long, default_value = sim::TEST_KEY)]
    key: String,
    /// Minutes (like 202601020304) that VirusTotal never produced
    #[arg(long, num_args = 1.., value_name = "MINUTE")]
    missing: Vec<String>,
    /// Minutes that VirusTotal answers 429 to once, with a Retry-After of a second
    #[arg(long, num_args = 1.., value_name = "MINUTE")]
    throttled: Vec<String>,
    /// Minutes that VirusTotal answers 503 to twice
    #[arg(long, num_args = 1.., value_name = "MINUTE")]
    broken: Vec<String>,
    /// Every minute has this bundle, instead of a synthetic one of its own
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// VirusTotal knows the files 1 to N of those that somebody else put into Azul (`sim::lookup`)
    #[arg(long, default_value_t = 0, value_name = "N")]
    reports: usize,
    /// VirusTotal has the samples 1 to N (`sim::lookup::sample`)
    #[arg(long, default_value_t = 0, value_name = "N")]
    samples: usize,
    /// The stream of hits has N of them, one a minute up to now, on the samples 1 to N by the rules `rule_0` to `rule_2` in turn
    #[arg(long, default_value_t = 0, value_name = "N")]
    hits: usize,
    /// The dispatcher counts binary events, unread, and keeps none: for measurements
    #[arg(long)]
    sink: bool,
    /// Keeps what arrives at the dispatcher in that file, and starts with what it holds
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Emulator {
    /// Entries of Secrets Manager that it begins with
    #[arg(long, num_args = 1.., value_name = "NAME=VALUE", value_parser = entry)]
    secret: Vec<(String, String)>,
}

fn entry(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[derive(Debug, Args)]
struct Feed {
    /// The minute (like 202601020304)
    #[arg(long)]
    minute: String,
    #[command(flatten)]
    synthetic: Synthetic,
    /// As many records as it takes to make that many bytes of lines, instead of --records (100MB = 100,000,000)
    #[arg(long, value_parser = bytes, value_name = "BYTES")]
    target_bytes: Option<u64>,
    /// Where to write; - is standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Debug, Args)]
struct Expected {
    #[command(flatten)]
    synthetic: Synthetic,
    /// Minutes (like 202601020304)
    #[arg(required = true, value_name = "MINUTE")]
    minutes: Vec<String>,
}

/// `1234`, `100KB`, `100MB`, decimal.
fn bytes(text: &str) -> Result<u64, String> {
    let (digits, factor) = match (text.strip_suffix("MB"), text.strip_suffix("KB")) {
        (Some(digits), _) => (digits, 1_000_000),
        (_, Some(digits)) => (digits, 1_000),
        _ => (text, 1),
    };
    let number: u64 = digits.trim().parse().map_err(|e| format!("{e}"))?;
    number.checked_mul(factor).ok_or_else(|| "too large".to_owned())
}

#[tokio::main]
async fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Serve(args) => serve(args).await,
        Command::Feed(args) => write_feed(&args),
        Command::Aws(args) => emulate(&args).await,
        Command::Expected(args) => expected(&args),
    }
}

fn is_minute(text: &str) -> Result<()> {
    let good = text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit());
    ensure!(good, "{text:?} is no minute: write YYYYMMDDhhmm");
    Ok(())
}

async fn serve(args: Serve) -> Result<()> {
    let dispatcher = Dispatcher::start_on(args.dispatcher_port).await?;
    if let Some(path) = &args.record {
        dispatcher.record_to(path)?;
    }
    if args.sink {
        dispatcher.sink();
    }
    let virustotal = VirusTotal::start_on(args.virustotal_port).await?;
    virustotal.set_key(&args.key);
    for (minutes, behaviour, times) in [
        (&args.missing, Behaviour::Missing, usize::MAX),
        (&args.throttled, Behaviour::TooManyRequests(Some(1)), 1),
        (&args.broken, Behaviour::Transient(None), 2),
    ] {
        for minute in minutes {
            is_minute(minute)?;
            virustotal.behave(minute, &behaviour, times);
        }
    }
    for n in 1..=args.reports {
        virustotal.report(&lookup::sha256(n), lookup::report(n));
    }
    for n in 1..=args.samples {
        virustotal.sample(lookup::sample(n));
    }
    let mut date = Timestamp::now().as_second();
    for n in (1..=args.hits).rev() {
        virustotal.hit(Hit::file(n, date, &format!("rule_{}", (n - 1) % 3)));
        date -= 60;
    }
    let (seed, records, style) =
        (args.synthetic.seed, args.synthetic.records, args.synthetic.style());
    let given = args.bundle.as_ref().map(|path| {
        std::fs::read(path).map(Bytes::from).with_context(|| format!("reading {}", path.display()))
    });
    let given = given.transpose()?;
    virustotal.set_unknown(Unknown::Generate(Arc::new(move |minute| match &given {
        Some(bundle) => bundle.clone(),
        None => Bytes::from(feed::bundle(seed, minute, records, style)),
    })));
    let urls = json!({
        "dispatcher": dispatcher.url(),
        "virustotal": virustotal.url(),
        "content": virustotal.content_url(),
    });
    let ended = ended()?;
    print(format!("{urls}\n").as_bytes())?;
    ended.await;
    let leaks = virustotal.key_leaked();
    ensure!(leaks.is_empty(), "the key was seen where it must not be: {leaks:?}");
    Ok(())
}

async fn emulate(args: &Emulator) -> Result<()> {
    let aws = Aws::start()?.context("there is no emulator of AWS to run")?;
    for (name, value) in &args.secret {
        aws.secret(name, value)?;
    }
    let mut lines = String::new();
    for (name, value) in aws.environment() {
        writeln!(lines, "export {name}={value}")?;
    }
    writeln!(lines, "emulator_home='{}'", aws.home().display())?;
    let ended = ended()?;
    print(lines.as_bytes())?;
    ended.await;
    Ok(())
}

/// Listens to SIGTERM and ctrl-c from now on; what it gives waits for one of them.
fn ended() -> Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate()).context("listening to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening to ctrl-c")?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn write_feed(args: &Feed) -> Result<()> {
    is_minute(&args.minute)?;
    let (seed, style) = (args.synthetic.seed, args.synthetic.style());
    let lines = match args.target_bytes {
        None => feed::lines(seed, &args.minute, args.synthetic.records, style),
        Some(target) => {
            let target = usize::try_from(target).context("too many bytes")?;
            let mut lines = Vec::with_capacity(target);
            for index in 0.. {
                if lines.len() >= target {
                    break;
                }
                lines.extend(feed::record(seed, &args.minute, index, style).into_bytes());
                lines.push(b'\n');
            }
            lines
        }
    };
    if args.output == Path::new("-") {
        return print(&lines);
    }
    let plain = args.output.extension().is_some_and(|e| e == "jsonl" || e == "json");
    let bytes = if plain { lines } else { feed::compress(&lines) };
    std::fs::write(&args.output, bytes)
        .with_context(|| format!("writing {}", args.output.display()))
}

fn expected(args: &Expected) -> Result<()> {
    let mut hashes = Vec::new();
    for minute in &args.minutes {
        is_minute(minute)?;
        let of_minute = |index| feed::sha256(args.synthetic.seed, minute, index);
        hashes.extend((0..args.synthetic.records).map(of_minute));
    }
    hashes.sort();
    hashes.push(String::new());
    print(hashes.join("\n").as_bytes())
}

fn print(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).context("writing to standard output")
}
