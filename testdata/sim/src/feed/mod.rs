//! Synthetic records of VirusTotal's file feed: made up by us, hashes and all, but of the shape, the
//! sizes and the variety of real ones. The same seed, minute and index give the same bytes on every
//! platform.
//!
//! Every 32 consecutive records hold every kind of file, and with them every group of attributes
//! that the mapping knows.

mod common;
mod documents;
mod json;
mod packages;
mod programs;
pub(crate) mod rng;

use std::io::Write;

use bzip2::{Compression, write::BzEncoder};
use jiff::civil::DateTime;
use sha2::{Digest, Sha256};

use self::{
    json::{Json, list, obj},
    rng::Rng,
};

/// Size class of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Sizes as in the real feed: 2 KB to 1 MB, 25 to 30 KB in the mean.
    Real,
    /// 2 to 10 KB, with the same variety: for fast tests.
    Small,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Exe,
    Dll,
    DotNet,
    Apk,
    Elf,
    Pdf,
    Word,
    Rtf,
    Zip,
    Jar,
    Class,
    Lnk,
    Swf,
    Script,
    Iso,
    Deb,
    Html,
    Text,
}

/// The kinds of 32 consecutive records, in their order. A common kind comes several times.
const KINDS: [Kind; 32] = [
    Kind::Exe,
    Kind::Pdf,
    Kind::Apk,
    Kind::Dll,
    Kind::Word,
    Kind::Elf,
    Kind::DotNet,
    Kind::Exe,
    Kind::Zip,
    Kind::Html,
    Kind::Exe,
    Kind::Rtf,
    Kind::Jar,
    Kind::Dll,
    Kind::Lnk,
    Kind::Swf,
    Kind::Exe,
    Kind::Class,
    Kind::Script,
    Kind::Pdf,
    Kind::Iso,
    Kind::Exe,
    Kind::Deb,
    Kind::Text,
    Kind::DotNet,
    Kind::Exe,
    Kind::Apk,
    Kind::Word,
    Kind::Elf,
    Kind::Dll,
    Kind::Exe,
    Kind::Html,
];

/// The facts that all files of a kind share.
struct Facts {
    type_tag: &'static str,
    description: &'static str,
    extension: &'static str,
    magic: &'static str,
    magika: &'static str,
    mime: &'static str,
}

fn facts(kind: Kind) -> Facts {
    let (type_tag, description, extension, magic, magika, mime) = match kind {
        Kind::Exe => (
            "peexe",
            "Win32 EXE",
            "exe",
            "PE32 executable (GUI) Intel 80386, for MS Windows",
            "PEBIN",
            "application/octet-stream",
        ),
        Kind::Dll => (
            "pedll",
            "Win32 DLL",
            "dll",
            "PE32+ executable (DLL) (GUI) x86-64, for MS Windows",
            "PEBIN",
            "application/octet-stream",
        ),
        Kind::DotNet => (
            "assembly",
            "Win32 EXE",
            "exe",
            "PE32 executable (GUI) Intel 80386 Mono/.Net assembly, for MS Windows",
            "PEBIN",
            "application/octet-stream",
        ),
        Kind::Apk => ("android", "Android", "apk", "Zip archive data", "APK", "application/zip"),
        Kind::Elf => (
            "elf",
            "ELF",
            "so",
            "ELF 64-bit LSB executable, x86-64, statically linked",
            "ELF",
            "application/x-executable",
        ),
        Kind::Pdf => ("pdf", "PDF", "pdf", "PDF document, version 1.5", "PDF", "application/pdf"),
        Kind::Word => (
            "doc",
            "MS Word Document",
            "doc",
            "Composite Document File V2 Document, Little Endian",
            "DOC",
            "application/msword",
        ),
        Kind::Rtf => ("rtf", "Rich Text Format", "rtf", "Rich Text Format data", "RTF", "text/rtf"),
        Kind::Zip => ("zip", "ZIP", "zip", "Zip archive data", "ZIP", "application/zip"),
        Kind::Jar => ("jar", "JAR", "jar", "Java archive data (JAR)", "JAR", "application/zip"),
        Kind::Class => (
            "class",
            "Java Bytecode",
            "class",
            "compiled Java class data, version 52.0",
            "JAVABYTECODE",
            "application/java-vm",
        ),
        Kind::Lnk => {
            ("lnk", "Windows shortcut", "lnk", "MS Windows shortcut", "LNK", "application/x-lnk")
        }
        Kind::Swf => (
            "flash",
            "Flash",
            "swf",
            "Macromedia Flash data (compressed), version 11",
            "SWF",
            "application/x-shockwave-flash",
        ),
        Kind::Script => {
            ("powershell", "Powershell", "ps1", "ASCII text", "POWERSHELL", "text/plain")
        }
        Kind::Iso => (
            "isoimage",
            "ISO image",
            "iso",
            "ISO 9660 CD-ROM filesystem data",
            "ISO",
            "application/x-iso9660-image",
        ),
        Kind::Deb => (
            "deb",
            "Debian Package",
            "deb",
            "Debian binary package (format 2.0)",
            "DEB",
            "application/x-deb",
        ),
        Kind::Html => ("html", "HTML", "html", "HTML document, ASCII text", "HTML", "text/html"),
        Kind::Text => ("text", "Text", "txt", "ASCII text", "TXT", "text/plain"),
    };
    Facts { type_tag, description, extension, magic, magika, mime }
}

/// The sha256 of a record: the hash of its own coordinates, so unique.
pub fn sha256(seed: u64, minute: &str, index: u64) -> String {
    hex::encode(Sha256::digest(format!("synthetic sample {seed} {minute} {index}")))
}

/// One feed record as a line of JSON, without the newline. `minute` is `YYYYMMDDhhmm`; its seconds
/// follow the index.
pub fn record(seed: u64, minute: &str, index: u64, style: Style) -> String {
    let small = style == Style::Small;
    let mut rng = Rng::new(seed, minute, index, small);
    let sha256 = sha256(seed, minute, index);
    let analysed = unix_seconds(minute) + (index % 60).cast_signed();
    let turn = usize::try_from(index % 32).unwrap_or_default();
    let kind = KINDS.get(turn).copied().unwrap_or(Kind::Text);
    // Bytes to be filled up beyond the ordinary, to get the feed's long tail.
    let extra = if small { 0 } else { tail(&mut rng) };

    let mut out = obj! { "type" => "file", "id" => sha256.as_str() };
    let link = format!("https://www.virustotal.com/api/v3/files/{sha256}");
    out.put("links", obj! { "self" => link });
    // One in nine is little known: a handful of engines and nothing else.
    let bare = index % 9 == 8 && extra == 0;
    let engines = match (small, bare) {
        (true, _) => 3,
        (false, true) => rng.range(2, 8),
        (false, false) => rng.range(58, 72),
    };
    let mut attributes = base(&mut rng, &facts(kind), &sha256, analysed, index);
    let day = rng.range(20_260_101, 20_260_128).to_string();
    common::verdicts(&mut rng, engines, &day, &mut attributes);
    if !bare {
        findings(&mut rng, analysed, index, &mut attributes);
    }
    specific(&mut rng, kind, extra, &mut attributes);
    out.put("attributes", attributes);
    let token = format!("{}{}", rng.hex(40), index);
    let mut context = obj! {
        "download_url" => format!("https://www.virustotal.com/api/v3/feeds/files/{token}/download"),
    };
    if let Some(submitter) = common::submitter(&mut rng, index) {
        context.put("submitter", submitter);
    }
    out.put("context_attributes", context);
    if !small && !bare {
        // Kinds with lists of their own took half of the filling; a URL takes about 190 bytes.
        let urls = if bulky(kind) { extra / 380 } else { extra / 190 };
        out.put("relationships", common::relationships(&mut rng, &sha256, urls));
    }
    out.to_string()
}

/// The lines of a minute, each with its newline.
pub fn lines(seed: u64, minute: &str, records: u64, style: Style) -> Vec<u8> {
    let mut out = Vec::new();
    for index in 0..records {
        out.extend(record(seed, minute, index, style).into_bytes());
        out.push(b'\n');
    }
    out
}

/// A minute as VirusTotal hands it out: bzip2 of its lines.
pub fn bundle(seed: u64, minute: &str, records: u64, style: Style) -> Vec<u8> {
    compress(&lines(seed, minute, records, style))
}

/// bzip2 at its best, as the feed comes.
pub fn compress(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = BzEncoder::new(Vec::new(), Compression::best());
    // Writing to memory does not fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

/// Unix seconds of a minute `YYYYMMDDhhmm`, 0 where it is none.
fn unix_seconds(minute: &str) -> i64 {
    DateTime::strptime("%Y%m%d%H%M", minute)
        .and_then(|t| jiff::tz::TimeZone::UTC.to_timestamp(t))
        .map_or(0, jiff::Timestamp::as_second)
}

/// Most records get nothing, a few a lot: up to 1 MB in all.
fn tail(rng: &mut Rng) -> i64 {
    match rng.range(1, 1000) {
        1..=3 => rng.range(200_000, 980_000),
        4..=30 => rng.range(50_000, 180_000),
        31..=200 => rng.range(8_000, 45_000),
        _ => 0,
    }
}

/// Whether the kind has long lists that the mapping reads.
fn bulky(kind: Kind) -> bool {
    matches!(kind, Kind::Exe | Kind::Dll | Kind::Apk | Kind::Elf | Kind::Jar)
}

/// The attributes that every file has.
fn base(rng: &mut Rng, facts: &Facts, sha256: &str, analysed: i64, index: u64) -> Json {
    let name = format!("{}.{}", rng.camel(), facts.extension);
    let size = rng.range(300, 30_000_000);
    let mut out = Json::Map(Vec::new());
    // A few real records lack it; there the id counts.
    if index % 50 != 49 {
        out.put("sha256", sha256);
    }
    out.put("sha1", rng.hex(40));
    out.put("md5", rng.hex(32));
    out.put("vhash", rng.hex(32));
    out.put("ssdeep", format!("{}:{}:{}", 3 << (index % 10), rng.hex(48), rng.hex(24)));
    out.put("tlsh", format!("T1{}", rng.hex(70).to_uppercase()));
    out.put("size", size);
    out.put("type_tag", facts.type_tag);
    out.put("type_tags", ["synthetic", facts.type_tag]);
    out.put("type_description", facts.description);
    out.put("type_extension", facts.extension);
    out.put("magic", facts.magic);
    if index % 5 != 4 {
        out.put("magika", facts.magika);
    }
    out.put("meaningful_name", name.as_str());
    out.put("names", list(rng.len(1, 4), |i| if i == 0 { name.clone() } else { rng.hex(40) }));
    out.put(
        "tags",
        list(rng.len(0, 5), |_| rng.pick(&["overlay", "signed", "long-sleeps", "upx", "macros"])),
    );
    out.put("first_submission_date", analysed - rng.range(0, 90_000_000));
    out.put("last_submission_date", analysed - rng.range(0, 600));
    out.put("last_analysis_date", analysed);
    out.put("last_modification_date", analysed + rng.range(1, 90));
    out.put("times_submitted", rng.range(1, 40));
    out.put("unique_sources", rng.range(1, 30));
    out.put("reputation", rng.range(-20, 5));
    out.put("total_votes", obj! { "harmless" => rng.range(0, 3), "malicious" => rng.range(0, 9) });
    out.put("available_tools", Json::List(Vec::new()));
    let exif = common::exiftool(rng, facts.description, facts.extension, facts.mime);
    out.put("exiftool", exif);
    out
}

/// Adds the findings of sandboxes, rules and catalogues on some files.
fn findings(rng: &mut Rng, analysed: i64, index: u64, out: &mut Json) {
    if rng.chance(40) || matches!(index % 32, 0 | 16) {
        common::behaviour(rng, out);
    }
    if rng.chance(30) {
        out.put("crowdsourced_yara_results", common::yara(rng, analysed));
    }
    if rng.chance(10) || index % 32 == 3 {
        out.put("known_distributors", common::known_distributors(rng));
    }
}

/// The attributes that only this kind of file has.
fn specific(rng: &mut Rng, kind: Kind, extra: i64, out: &mut Json) {
    // About the bytes that one item of each list takes.
    let (names, urls) = (extra / 2 / 17, extra / 2 / 60);
    match kind {
        Kind::Exe | Kind::Dll | Kind::DotNet => {
            let bulk = if kind == Kind::DotNet { 0 } else { names };
            out.put("pe_info", programs::pe_info(rng, kind == Kind::Dll, bulk));
            out.put("authentihash", rng.hex(64));
            out.put("signature_info", programs::signature_info(rng));
            out.put("detectiteasy", programs::detectiteasy(rng, "PE32"));
            if kind == Kind::DotNet {
                out.put("dot_net_assembly", programs::dot_net_assembly(rng));
                out.put("dot_net_guids", programs::dot_net_guids(rng));
            }
        }
        Kind::Apk => {
            out.put("androguard", packages::androguard(rng, urls));
            out.put("bundle_info", packages::bundle_info(rng, "APK"));
        }
        Kind::Elf => {
            out.put("elf_info", programs::elf_info(rng, extra / 2 / 42));
            out.put("detectiteasy", programs::detectiteasy(rng, "ELF64"));
        }
        Kind::Pdf => out.put("pdf_info", documents::pdf_info(rng)),
        Kind::Word => {
            out.put("office_info", documents::office_info(rng));
            out.put("vba_info", documents::vba_info(rng));
        }
        Kind::Rtf => out.put("rtf_info", documents::rtf_info(rng)),
        Kind::Zip => {
            out.put("bundle_info", packages::bundle_info(rng, "ZIP"));
            out.put("password_info", packages::password_info(rng));
        }
        Kind::Jar => {
            out.put("jar_info", packages::jar_info(rng, urls));
            out.put("bundle_info", packages::bundle_info(rng, "JAR"));
        }
        Kind::Class => out.put("class_info", packages::class_info(rng)),
        Kind::Lnk => out.put("lnk_info", programs::lnk_info(rng)),
        Kind::Swf => out.put("swf_info", documents::swf_info(rng)),
        Kind::Script => out.put("powershell_info", programs::powershell_info(rng)),
        Kind::Iso => out.put("isoimage_info", packages::isoimage_info(rng)),
        Kind::Deb => out.put("deb_info", packages::deb_info(rng)),
        Kind::Html => {
            let scripts = list(rng.len(1, 8), |_| format!("https://{}/app.js", rng.host()));
            out.put("html_info", obj! { "title" => rng.sentence(3), "scripts" => scripts });
        }
        Kind::Text => {}
    }
}
