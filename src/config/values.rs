//! How the text of a setting becomes its value.
//!
//! Each parser is a [`TypedValueParser`] of clap. It returns the type that the setting has, refuses other texts with a
//! [`Problem`], and shows what it takes as clap's possible values, which `--help` and the generated reference print.

use std::error::Error;
use std::ffi::OsStr;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, Command, ValueEnum};
use url::Url;

/// The hours of a year: the longest duration that a setting takes.
pub(super) const YEAR_HOURS: f64 = 365.0 * 24.0;

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} holds {holds}; it takes {takes}")]
pub struct Problem {
    /// The environment variable.
    pub name: String,
    /// What it holds. A secret is described, never shown.
    pub holds: String,
    /// What it takes.
    pub takes: String,
}

impl Problem {
    pub(super) fn new(name: &str, holds: impl Into<String>, takes: impl Into<String>) -> Self {
        Self { name: name.to_owned(), holds: holds.into(), takes: takes.into() }
    }
}

/// The numbers that a setting takes, both ends included.
///
/// `1-60` are whole numbers, `0.0-60.0` any numbers. clap keeps nothing but a text of what a parser takes, so the
/// reference reads the range back from there.
#[derive(Clone, Debug, PartialEq)]
pub struct NumberRange {
    /// The smallest number. Whole numbers are exact up to 2^53.
    pub least: f64,
    /// The largest number.
    pub most: f64,
    /// True if the setting takes fractions.
    pub is_fractional: bool,
}

impl fmt::Display for NumberRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_fractional {
            // Always with a decimal point.
            write!(formatter, "{:?}-{:?}", rounded_up(self.least), self.most)
        } else {
            write!(formatter, "{}-{}", self.least, self.most)
        }
    }
}

impl FromStr for NumberRange {
    type Err = Box<dyn Error>;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (least, most) = text.split_once('-').ok_or("a range has two ends")?;
        Ok(Self { least: least.parse()?, most: most.parse()?, is_fractional: text.contains('.') })
    }
}

/// Four decimals are enough for people, and no number below the smallest is shown.
fn rounded_up(number: f64) -> f64 {
    (number * 10_000.0).ceil() / 10_000.0
}

/// Takes numbers within a range.
#[derive(Clone, Debug)]
pub(super) struct Ranged<T> {
    range: NumberRange,
    /// What the number is, for people.
    what: &'static str,
    /// The value of a number. `None` refuses it.
    value: fn(f64) -> Option<T>,
}

impl<T> Ranged<T> {
    fn whole(range: RangeInclusive<u64>, what: &'static str, value: fn(f64) -> Option<T>) -> Self {
        let range = NumberRange { least: *range.start() as f64, most: *range.end() as f64, is_fractional: false };
        Self { range, what, value }
    }

    fn fractional(range: RangeInclusive<f64>, what: &'static str, value: fn(f64) -> Option<T>) -> Self {
        let range = NumberRange { least: *range.start(), most: *range.end(), is_fractional: true };
        Self { range, what, value }
    }

    fn read(&self, text: &str) -> Option<T> {
        let number = if self.range.is_fractional { text.parse().ok()? } else { text.parse::<u64>().ok()? as f64 };
        (self.range.least..=self.range.most).contains(&number).then(|| (self.value)(number)).flatten()
    }
}

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Ranged<T> {
    type Value = T;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<T, clap::Error> {
        let refused = || {
            let takes = format!("{} from {} to {}", self.what, rounded_up(self.range.least), self.range.most);
            refuse(command, arg, value, takes)
        };
        value.to_str().and_then(|text| self.read(text)).ok_or_else(refused)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(std::iter::once(PossibleValue::new(self.range.to_string()))))
    }
}

/// A whole number.
pub(super) fn number<T: TryFrom<u64>>(range: RangeInclusive<u64>) -> Ranged<T> {
    Ranged::whole(range, "a whole number", |number| T::try_from(number as u64).ok())
}

/// Whole milliseconds.
pub(super) fn milliseconds(range: RangeInclusive<u64>) -> Ranged<Duration> {
    Ranged::whole(range, "a whole number of milliseconds", |number| Some(Duration::from_millis(number as u64)))
}

/// Whole seconds.
pub(super) fn seconds(range: RangeInclusive<u64>) -> Ranged<Duration> {
    Ranged::whole(range, "a whole number of seconds", |number| Some(Duration::from_secs(number as u64)))
}

/// Seconds, also fractions of one.
pub(super) fn fractional_seconds(range: RangeInclusive<f64>) -> Ranged<Duration> {
    Ranged::fractional(range, "a number of seconds", |number| Duration::try_from_secs_f64(number).ok())
}

/// Minutes, also fractions of one.
pub(super) fn minutes(range: RangeInclusive<f64>) -> Ranged<Duration> {
    Ranged::fractional(range, "a number of minutes", |number| Duration::try_from_secs_f64(number * 60.0).ok())
}

/// Whole days.
pub(super) fn days(range: RangeInclusive<u64>) -> Ranged<Duration> {
    Ranged::whole(range, "a whole number of days", |days| Some(Duration::from_secs(days as u64 * 86_400)))
}

/// Hours, also fractions of one.
pub(super) fn hours(range: RangeInclusive<f64>) -> Ranged<Duration> {
    Ranged::fractional(range, "a number of hours", |number| Duration::try_from_secs_f64(number * 3600.0).ok())
}

/// Takes texts of some form.
#[derive(Clone, Debug)]
pub(crate) struct Text<T> {
    takes: &'static str,
    /// The value of a text. `None` refuses it.
    value: fn(&str) -> Option<T>,
}

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Text<T> {
    type Value = T;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<T, clap::Error> {
        value.to_str().and_then(self.value).ok_or_else(|| refuse(command, arg, value, self.takes))
    }
}

/// A text that `value` understands.
pub(super) fn text<T>(takes: &'static str, value: fn(&str) -> Option<T>) -> Text<T> {
    Text { takes, value }
}

/// The URL of something that speaks HTTP. A user name or a password would end in logs and messages, so it takes none.
pub(crate) fn http_url() -> Text<Url> {
    text("an http or https URL without a user name", |text| {
        let is_bare = |url: &Url| url.has_host() && url.username().is_empty() && url.password().is_none();
        Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && is_bare(url))
    })
}

/// Takes the names of an enum's variants.
#[derive(Clone, Debug)]
pub(super) struct OneOf<T>(fn(&str) -> Option<T>);

impl<T: ValueEnum + Clone + Send + Sync + 'static> TypedValueParser for OneOf<T> {
    type Value = T;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<T, clap::Error> {
        let refused = || {
            let variants = T::value_variants().iter().filter_map(ValueEnum::to_possible_value);
            let names: Vec<_> = variants.map(|variant| variant.get_name().to_owned()).collect();
            refuse(command, arg, value, format!("one of {}", names.join(", ")))
        };
        value.to_str().and_then(self.0).ok_or_else(refused)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(T::value_variants().iter().filter_map(ValueEnum::to_possible_value)))
    }
}

/// The name of a variant.
pub(super) fn one_of<T: ValueEnum>() -> OneOf<T> {
    OneOf(|text| T::from_str(text, true).ok())
}

fn refuse(command: &Command, arg: Option<&Arg>, value: &OsStr, takes: impl Into<String>) -> clap::Error {
    let name = arg.and_then(Arg::get_env).map_or_else(
        || arg.map(Arg::to_string).unwrap_or_default(),
        |variable| variable.to_string_lossy().into_owned(),
    );
    let holds = match value.to_string_lossy() {
        text if text.is_empty() => "an empty text".into(),
        // What stands before it in a URL may be a password.
        text if text.contains('@') => "a text with '@' (hidden)".into(),
        text => text,
    };
    let problem = Problem::new(&name, holds, takes);
    clap::Error::raw(ErrorKind::ValueValidation, format_args!("{problem}\n")).with_cmd(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<P: TypedValueParser>(parser: P, value: &str) -> String {
        let arg = Arg::new("setting").long("setting").env("SETTING");
        let parsed = parser.parse_ref(&Command::new("broker"), Some(&arg), OsStr::new(value));
        parsed.err().expect("the value is refused").to_string()
    }

    #[test]
    fn numbers_are_taken_from_one_end_of_the_range_to_the_other() {
        let takes = |text: &str| seconds(2..=60).read(text);
        assert_eq!([takes("2"), takes("60")], [Some(Duration::from_secs(2)), Some(Duration::from_secs(60))]);
        for text in ["1", "61", "2.5", "-2", "", "two", "18446744073709551616"] {
            assert_eq!(takes(text), None, "{text}");
        }
        assert_eq!(number::<u16>(0..=100_000).read("70000"), None, "beyond the type");
    }

    #[test]
    fn fractions_are_taken_where_they_make_sense() {
        let takes = |text: &str| hours(1.0 / 3600.0..=8760.0).read(text);
        assert_eq!([takes("0.5"), takes("8760")].map(Option::unwrap).map(|it| it.as_secs()), [1800, 365 * 86_400]);
        for text in ["0", "0.0002", "8760.0001", "-1", "NaN", "inf", ""] {
            assert_eq!(takes(text), None, "{text}");
        }
    }

    #[test]
    fn a_refusal_names_the_setting_with_what_it_holds_and_takes() {
        let takes = "it takes a number of hours from 0.0003 to 8760";
        let text = refused(hours(1.0 / 3600.0..=8760.0), "-1");
        assert!(text.contains(&format!("SETTING holds -1; {takes}")), "{text}");
        let text = refused(http_url(), "ftp://csp");
        assert!(text.contains("SETTING holds ftp://csp; it takes an http or https URL"), "{text}");
        for url in ["https://user:pass@csp", "https://pass@csp", "user:pass@csp", "ftp://user:pass@csp"] {
            let text = refused(http_url(), url);
            assert!(text.contains("SETTING holds a text with '@' (hidden)") && !text.contains("pass@"), "{text}");
        }
        let text = refused(one_of::<clap::ColorChoice>(), "");
        assert!(text.contains("SETTING holds an empty text; it takes one of auto, always, never"), "{text}");
    }

    #[test]
    fn a_range_is_read_back_as_it_was_written() {
        for text in ["1-4294967295", "0.0003-8760.0", "0.0-3600.0"] {
            assert_eq!(text.parse::<NumberRange>().unwrap().to_string(), text);
        }
        assert!("embedded".parse::<NumberRange>().is_err());
    }
}
