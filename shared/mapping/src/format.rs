//! Converts VirusTotal's values to feature values: scalars, numbers, dates and file formats.

use std::borrow::Cow;

use jiff::{
    Timestamp,
    civil::{Date, DateTime, Time},
    fmt::rfc2822,
    tz::{Offset, TimeZone},
};

use json::{Kind, Value};

/// Returns a scalar as text: a string as it is, a number in plain decimal, a boolean as a word, and null as the empty
/// text. `None` for lists, objects and numbers beyond the range of a double.
pub(super) fn scalar(value: Value<'_>) -> Option<Cow<'_, str>> {
    match value.kind() {
        Kind::Text | Kind::EscapedText => value.text(),
        Kind::Number => number(value.raw()),
        Kind::True | Kind::False => Some(Cow::Borrowed(value.raw())),
        Kind::Null => Some(Cow::Borrowed("")),
        Kind::List | Kind::Object => None,
    }
}

/// Returns a JSON number in plain decimal without an exponent. A whole number keeps its digits, however long. Any other
/// number becomes the shortest text that reads as the same double.
pub(super) fn number(raw: &str) -> Option<Cow<'_, str>> {
    let digits = raw.strip_prefix('-').unwrap_or(raw);
    if digits.bytes().all(|b| b.is_ascii_digit()) {
        return Some(Cow::Borrowed(raw));
    }
    let value: f64 = raw.parse().ok()?;
    value.is_finite().then(|| Cow::Owned(shortest(value)))
}

/// Returns the shortest text that reads as `value`. If the value is exactly between two such texts, the even digit
/// wins, as in Go and IEEE 754; `to_string` alone would take the upper one.
fn shortest(value: f64) -> String {
    let text = value.to_string();
    match text.split_once('.') {
        Some((_, fraction)) => format!("{value:.*}", fraction.len()),
        None => text,
    }
}

/// Formats of a date in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DateFormat {
    /// `2024-05-01 10:11:12` in UTC. A fraction of the second is dropped.
    Plain,
    /// `Wed, 01 May 2024 10:11:12 +0200`.
    Rfc2822,
}

/// The result of reading a date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ReadDate {
    /// The date in RFC 3339.
    Date(String),
    /// The text is all zeros, which stands for "no date".
    None,
    /// The text is not a date.
    Bad,
}

/// Reads a date and writes it in RFC 3339, in whole seconds and with its original offset.
pub(super) fn date(text: &str, format: DateFormat) -> ReadDate {
    let written = match format {
        DateFormat::Plain if text == "0000-00-00 00:00:00" => return ReadDate::None,
        DateFormat::Plain => plain_date(text),
        DateFormat::Rfc2822 => rfc2822_date(text),
    };
    written.map_or(ReadDate::Bad, ReadDate::Date)
}

fn plain_date(text: &str) -> Option<String> {
    let (day, time) = text.split_once(' ')?;
    let [year, month, day] = split(day, '-')?;
    let [hour, minute, second] = split(time, ':')?;
    let second = match second.split_once('.') {
        Some((second, fraction)) => digits(fraction, 1..=9).and(Some(second))?,
        None => second,
    };
    let date = Date::new(
        digits(year, 4..=4)?,
        i8::try_from(digits(month, 2..=2)?).ok()?,
        i8::try_from(digits(day, 2..=2)?).ok()?,
    );
    let time = Time::new(
        // One-digit hours occur: `2011-03-14 7:00:31`.
        i8::try_from(digits(hour, 1..=2)?).ok()?,
        i8::try_from(digits(minute, 2..=2)?).ok()?,
        i8::try_from(digits(second, 2..=2)?).ok()?,
        0,
    );
    Some(rfc3339(date.ok()?.to_datetime(time.ok()?), Offset::UTC))
}

fn split<const N: usize>(text: &str, at: char) -> Option<[&str; N]> {
    text.split(at).collect::<Vec<_>>().try_into().ok()
}

/// Reads a number whose count of digits is in `length`. A number that does not fit counts as 0; only a fraction can be
/// so long, and its value is not used.
fn digits(text: &str, length: std::ops::RangeInclusive<usize>) -> Option<i16> {
    let good = length.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    good.then(|| text.parse().unwrap_or(0))
}

fn rfc2822_date(text: &str) -> Option<String> {
    let zoned = rfc2822::parse(text).ok()?;
    Some(rfc3339(zoned.datetime(), zoned.offset()))
}

fn rfc3339(time: DateTime, offset: Offset) -> String {
    let local = time.strftime("%Y-%m-%dT%H:%M:%S");
    if offset == Offset::UTC {
        return format!("{local}Z");
    }
    let minutes = offset.seconds() / 60;
    let sign = if minutes < 0 { '-' } else { '+' };
    format!("{local}{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60)
}

/// Converts seconds since 1970 to a time that Azul can write: from year 1 to the last day but one of year 9999, which
/// is jiff's limit. The first second of year 1 is excluded, because it is Go's "no time".
pub(super) fn azul_time(seconds: i64) -> Option<Timestamp> {
    Timestamp::from_second(seconds).ok().filter(|time| time.as_second() > -62_135_596_800)
}

/// Returns seconds since 1970 as a time in RFC 3339.
pub(super) fn unix_time(seconds: i64) -> Option<String> {
    let time = azul_time(seconds)?;
    Some(rfc3339(TimeZone::UTC.to_datetime(time), Offset::UTC))
}

/// Returns Azul's file format for VirusTotal's name of a file type in any case; `unknown` if Azul has none.
pub(super) fn file_format(vt_type: &str) -> &'static str {
    FILE_FORMATS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(vt_type))
        .map_or("unknown", |(_, format)| format)
}

/// Pairs of VirusTotal's `type_tag` or `magika` in lower case, and Azul's name for it.
pub(super) static FILE_FORMATS: &[(&str, &str)] = &[
    ("7zip", "archive/7-zip"),
    ("ace", "archive/ace"),
    ("android", "android/apk"),
    ("ar", "archive/ar"),
    ("arj", "archive/arj"),
    ("batch", "code/batch"),
    ("bmp", "image/bmp"),
    ("bzip", "archive/bzip2"),
    ("cab", "archive/cabinet"),
    ("cart", "archive/cart"),
    ("compiled html help", "archive/chm"),
    ("cpio", "archive/cpio"),
    ("data", "video/quicktime"),
    ("debian package", "archive/deb"),
    ("dos com", "executable/windows/com"),
    ("dos exe", "executable/windows/dos"),
    ("elf", "executable/linux/so64"),
    ("email", "document/office/email"),
    ("flash", "audiovisual/flash"),
    ("gif", "image/gif"),
    ("gzip", "archive/gzip"),
    ("hbs sectus biopsy", "meta/memory/biopsy"),
    ("html", "code/html/component"),
    ("ico", "image/icon"),
    ("iso", "archive/iso"),
    ("jar", "java/java"),
    ("java bytecode", "java/class"),
    ("jpg", "image/jpg"),
    ("linux rpm package", "archive/rpm"),
    ("lzma", "archive/lzma"),
    ("mach-o", "executable/mach-o"),
    ("ms encrypted document", "document/office/passwordprotected"),
    ("ms excel spreadsheet", "document/office/excel"),
    ("ms office", "document/office/unknown"),
    ("ms powerpoint presentation", "document/office/powerpoint"),
    ("ms visio diagram", "document/office/visio"),
    ("ms word document", "document/office/word"),
    ("network capture", "network/tcpdump"),
    ("office open xml document", "document/office/unknown"),
    ("office unknown", "document/office/unknown"),
    ("ole", "document/office/ole"),
    ("pdf", "document/pdf/passwordprotected"),
    ("perl code", "code/perl"),
    ("php", "code/php"),
    ("png", "image/png"),
    ("python code", "code/python"),
    ("rar", "archive/rar"),
    ("rich text format", "document/office/rtf"),
    ("sff", "sff"),
    ("sgml", "code/sgml"),
    ("shell code", "code/shell"),
    ("sylk", "document/office/sylk"),
    ("sysmon", "metadata/sysmon"),
    ("tar", "archive/tar"),
    ("text", "log/vipermonkey"),
    ("tiff", "image/tiff"),
    ("tnef", "archive/tnef"),
    ("win32 dll", "executable/windows/dll64"),
    ("win32 exe", "executable/windows/pe64"),
    ("windows installer", "installer/windows"),
    ("windows shortcut", "meta/shortcut/windows"),
    ("xml", "document/xml"),
    ("xz", "archive/xz"),
    ("zip", "archive/zip"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_plain_decimal() {
        for (raw, written) in [
            ("0", "0"),
            ("-0", "-0"),
            ("12345678901234567890123", "12345678901234567890123"),
            ("1e3", "1000"),
            ("1.50", "1.5"),
            ("3.0", "3"),
            ("-2.5E-3", "-0.0025"),
            ("1e21", "1000000000000000000000"),
            ("1e-7", "0.0000001"),
            ("0.1000000000000000055511151231257827", "0.1"),
            ("3.03690338134765625", "3.0369033813476562"),
            ("3.0369033813476563", "3.0369033813476562"),
            ("5e-324", &format!("0.{}5", "0".repeat(323))),
            ("1.7976931348623157e308", &format!("17976931348623157{}", "0".repeat(292))),
        ] {
            assert_eq!(number(raw).as_deref(), Some(written), "{raw}");
        }
        assert_eq!(number("1e400"), None);
    }

    #[test]
    fn plain_dates_are_utc_and_checked() {
        for (text, written) in [
            ("2024-05-01 10:11:12", "2024-05-01T10:11:12Z"),
            ("2024-02-29 00:00:00", "2024-02-29T00:00:00Z"),
            ("2024-05-01 7:11:12", "2024-05-01T07:11:12Z"),
            ("2024-05-01 10:11:12.999", "2024-05-01T10:11:12Z"),
            ("0001-01-01 00:00:00", "0001-01-01T00:00:00Z"),
        ] {
            assert_eq!(date(text, DateFormat::Plain), ReadDate::Date(written.into()), "{text}");
        }
        for text in [
            "",
            "2024-05-01",
            "2024-05-01T10:11:12",
            "2023-02-29 00:00:00",
            "2024-13-01 00:00:00",
            "2024-5-1 00:00:00",
            "2024-05-01 24:00:00",
            "2024-05-01 10:11:60",
            "2024-05-01 10:11",
            "2024-05-01 10:11:12.",
            "2024-05-01 10:11:12 ",
            "+024-05-01 10:11:12",
            "0000-00-00 00:00:01",
        ] {
            assert_eq!(date(text, DateFormat::Plain), ReadDate::Bad, "{text}");
        }
        assert_eq!(date("0000-00-00 00:00:00", DateFormat::Plain), ReadDate::None);
    }

    #[test]
    fn mail_dates_keep_their_offset() {
        for (text, written) in [
            ("Wed, 01 May 2024 10:11:12 +0000", "2024-05-01T10:11:12Z"),
            ("Wed, 01 May 2024 10:11:12 +0200", "2024-05-01T10:11:12+02:00"),
            ("Wed, 1 May 2024 10:11:12 -0330", "2024-05-01T10:11:12-03:30"),
        ] {
            assert_eq!(date(text, DateFormat::Rfc2822), ReadDate::Date(written.into()), "{text}");
        }
        for text in ["", "2024-05-01 10:11:12", "Wed, 31 Apr 2024 10:11:12 +0000"] {
            assert_eq!(date(text, DateFormat::Rfc2822), ReadDate::Bad, "{text}");
        }
    }

    #[test]
    fn unix_times_beyond_the_calendar_are_none() {
        assert_eq!(unix_time(0).as_deref(), Some("1970-01-01T00:00:00Z"));
        assert_eq!(unix_time(-1).as_deref(), Some("1969-12-31T23:59:59Z"));
        assert_eq!(unix_time(-62_135_596_799).as_deref(), Some("0001-01-01T00:00:01Z"));
        assert_eq!(unix_time(253_402_207_200).as_deref(), Some("9999-12-30T22:00:00Z"));
        for seconds in [i64::MIN, -62_135_596_800, 253_402_300_800, i64::MAX] {
            assert_eq!(unix_time(seconds), None, "{seconds}");
        }
    }

    #[test]
    fn file_formats_are_found_whatever_their_case() {
        assert_eq!(file_format("PDF"), "document/pdf/passwordprotected");
        assert_eq!(file_format("Win32 EXE"), "executable/windows/pe64");
        assert_eq!(file_format("peexe"), "unknown");
        assert_eq!(file_format(""), "unknown");
    }
}
