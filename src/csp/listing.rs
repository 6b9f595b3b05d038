//! The CSP's listing: its pages, and what its records say. A record that cannot be read is still an account that exists.

use std::collections::{HashMap, HashSet};
use std::fmt;

use broker_actors::error::cause;
use broker_actors::ports::{CspError, CspListing, UnreadableRecord};
use broker_actors::sandbox::{CspAccount, SandboxId, Timestamp};
use reqwest::header::{HeaderMap, LINK};
use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use url::Url;

/// The most pages of one listing (I8).
const MAX_PAGES: usize = 1000;

/// The longest record that is read, and the longest part of a page beside its records.
const MAX_RECORD_BYTES: usize = 64 * 1024;

/// The longest name or id of an account. Longer ones would make items that are slow to read or that no store takes.
const MAX_TEXT_CHARS: usize = 256;

/// Number of ids of unreadable records in the log line.
const SAMPLE: usize = 5;

/// The names under which answers say how many records there are over all pages.
const TOTALS: [&str; 4] = ["total", "total_count", "total_size", "count"];

/// The parameter that continues after this many records.
const OFFSET: &str = "_offset";

/// The parameter that asks for this many records.
const LIMIT: &str = "_limit";

/// The parameter that continues where an answer's `page.page_token` says.
const PAGE_TOKEN: &str = "_page_token";

/// A listing while its pages are read.
#[derive(Debug)]
pub(super) struct Pages {
    first: Url,
    listing: CspListing,
    /// The ids and accounts of the records so far.
    seen: HashSet<String>,
    /// The records so far, of whatever kind.
    records: usize,
    pages: usize,
    /// The number of records on the first page.
    page_size: usize,
    /// The largest number of records that an answer has announced.
    announced: u64,
    /// The ids of records that cannot be read.
    sample: Vec<String>,
}

impl Pages {
    pub(super) fn new(first: Url) -> Self {
        Self {
            first,
            listing: CspListing::default(),
            seen: HashSet::new(),
            records: 0,
            pages: 0,
            page_size: 0,
            announced: 0,
            sample: Vec::new(),
        }
    }

    /// Adds the records of a page and returns the next page, if there may be one.
    ///
    /// # Errors
    ///
    /// [`CspError::BadAnswer`] if the body is not a listing.
    pub(super) fn add(&mut self, current: &Url, headers: &HeaderMap, body: &[u8]) -> Result<Option<Url>, CspError> {
        let (records, body) = parts(body)?;
        self.pages += 1;
        let (mut count, before) = (0, self.seen.len());
        let mut add = |record: &str| {
            count += 1;
            self.add_record(record);
        };
        let records = EachRecord(&mut add).deserialize(&mut serde_json::Deserializer::from_str(records.get()));
        records.map_err(|error| CspError::BadAnswer(cause(error)))?;
        self.records += count;
        if self.pages == 1 {
            self.page_size = count;
        }
        let totals = TOTALS.iter().flat_map(|name| [body.get(*name), body["page"].get(*name)]);
        self.announced = totals.flatten().filter_map(Value::as_u64).fold(self.announced, u64::max);
        // A server that knows no pages answers every one of them with the same records.
        let has_new = self.seen.len() > before;
        let next = if has_new { self.next(current, headers, &body)? } else { None };
        if next.is_none() {
            self.listing.is_complete = self.announced <= self.records as u64;
        }
        if next.is_some() && self.pages == MAX_PAGES {
            return Err(CspError::BadAnswer(cause(format!("the listing has more than {MAX_PAGES} pages"))));
        }
        Ok(next)
    }

    /// What was read. If the last page was not reached, it is incomplete.
    pub(super) fn finish(self) -> CspListing {
        let unreadable = self.listing.unreadable.len();
        if unreadable > 0 {
            tracing::warn!(
                event = "csp_records_unreadable",
                unreadable,
                sample = ?self.sample,
                "the CSP's listing has records that cannot be used"
            );
        }
        if !self.listing.is_complete {
            tracing::warn!(event = "csp_listing_incomplete", records = self.records, "the CSP's listing lacks pages");
        }
        self.listing
    }

    /// Whether a page was read.
    pub(super) fn has_any(&self) -> bool {
        self.pages > 0
    }

    /// The next page: where the answer says, or else after the records so far.
    fn next(&self, current: &Url, headers: &HeaderMap, body: &Value) -> Result<Option<Url>, CspError> {
        if let Some(next) = link(headers) {
            return self.follow(current, next).map(Some);
        }
        for next in [&body["next"], &body["links"]["next"], &body["_links"]["next"]["href"]] {
            if let Value::String(next) = next {
                return self.follow(current, next).map(Some);
            }
        }
        if let Some(token) = body["page"]["page_token"].as_str().filter(|token| !token.is_empty() && *token != "null") {
            return Ok(Some(self.with_query(&[(PAGE_TOKEN, token.to_owned())])));
        }
        let says_last = body.get("next").is_some_and(Value::is_null) || body["page"].get("page_token").is_some();
        if says_last || (self.announced > 0 && self.announced == self.records as u64) {
            return Ok(None);
        }
        Ok(Some(self.with_query(&[(OFFSET, self.records.to_string()), (LIMIT, self.page_size.to_string())])))
    }

    fn follow(&self, current: &Url, next: &str) -> Result<Url, CspError> {
        let refused = |problem: &str| CspError::BadAnswer(cause(format!("the listing's next page {problem}")));
        let next = current.join(next).map_err(|_| refused("is no URL"))?;
        // The token goes to no other server.
        if next.origin() != self.first.origin() {
            return Err(refused("is on another server"));
        }
        if next == *current {
            return Err(refused("is the same page"));
        }
        Ok(next)
    }

    fn with_query(&self, pairs: &[(&str, String)]) -> Url {
        let mut url = self.first.clone();
        url.query_pairs_mut().extend_pairs(pairs);
        url
    }

    fn add_record(&mut self, text: &str) {
        // Read one by one: as a whole, a page takes a hundred times its length in memory.
        let record =
            if text.len() <= MAX_RECORD_BYTES { serde_json::from_str(text).unwrap_or_default() } else { Value::Null };
        if is_of_another_kind(&record) {
            // It counts as read, or a page of these would look like the last one.
            self.seen.insert(text.to_owned());
            return;
        }
        match read_record(&record) {
            Ok(account) => {
                if self.seen.insert(format!("{} {}", account.sandbox_id, account.external_id)) {
                    self.listing.accounts.push(account);
                }
            }
            Err(unreadable) => {
                if self.seen.insert(text.to_owned()) {
                    if self.sample.len() < SAMPLE {
                        self.sample.push(record["id"].to_string().chars().take(MAX_TEXT_CHARS).collect());
                    }
                    self.listing.unreadable.push(unreadable);
                }
            }
        }
    }
}

/// The records of a page, and what the page says beside them.
fn parts(body: &[u8]) -> Result<(&RawValue, Value), CspError> {
    let bad = |error| CspError::BadAnswer(cause(error));
    let mut fields: HashMap<String, &RawValue> = serde_json::from_slice(body).map_err(bad)?;
    let Some(records) = fields.remove("results").filter(|records| records.get().starts_with('[')) else {
        return Err(CspError::BadAnswer(cause("the answer has no array `results`")));
    };
    fields.retain(|_, field| field.get().len() <= MAX_RECORD_BYTES);
    let rest = fields.into_iter().filter_map(|(name, field)| Some((name, serde_json::from_str(field.get()).ok()?)));
    Ok((records, Value::Object(rest.collect())))
}

/// Passes each record of an array on. A list of them all would take more memory than the array itself.
struct EachRecord<'a>(&'a mut dyn FnMut(&str));

impl<'de> DeserializeSeed<'de> for EachRecord<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for EachRecord<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array of accounts")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        while let Some(record) = array.next_element::<&RawValue>()? {
            (self.0)(record.get());
        }
        Ok(())
    }
}

/// The `next` of a `Link` header.
fn link(headers: &HeaderMap) -> Option<&str> {
    let links = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    links.filter_map(|link| link.split_once(';')).find_map(|(target, parameters)| {
        let is_next = parameters.split(';').any(|parameter| matches!(parameter.trim(), "rel=\"next\"" | "rel=next"));
        is_next.then(|| target.trim().trim_start_matches('<').trim_end_matches('>'))
    })
}

/// Whether the record is of an account that is no active sandbox. A record that does not say what it is may be one.
fn is_of_another_kind(record: &Value) -> bool {
    let differs = |name: &str, wanted: &str| {
        record.get(name).and_then(Value::as_str).is_some_and(|value| !value.eq_ignore_ascii_case(wanted))
    };
    differs("account_type", "sandbox") || differs("state", "active")
}

/// The account, if the record says what it is, has a whole number, and an id that fits into the path of a deletion. Other
/// fields that are missing or of another type are unknown.
fn read_record(record: &Value) -> Result<CspAccount, UnreadableRecord> {
    let sandbox_id = read_id(&record["csp_id"]);
    let external_id = record["id"].as_str().filter(|id| is_account_path(id)).map(str::to_owned);
    let says_kind = record["account_type"].is_string() && record["state"].is_string();
    let (Some(sandbox_id), Some(external_id), true) = (sandbox_id.clone(), external_id.clone(), says_kind) else {
        return Err(UnreadableRecord { sandbox_id, external_id });
    };
    let text = |name: &str| record[name].as_str().filter(|text| is_text(text)).map(str::to_owned);
    Ok(CspAccount {
        sandbox_id,
        external_id,
        name: text("name"),
        sfdc_account_id: text("sfdc_account_id"),
        created_at: record["created_at"].as_str().and_then(read_time),
    })
}

/// A whole number, as a number or in digits.
fn read_id(id: &Value) -> Option<SandboxId> {
    /// Up to here every whole number is a float.
    const LARGEST_EXACT: f64 = 9_007_199_254_740_992.0;
    let number = match id {
        Value::Number(number) => number.as_u64().or_else(|| {
            let whole =
                number.as_f64().filter(|number| number.fract() == 0.0 && (0.0..=LARGEST_EXACT).contains(number));
            whole.map(|number| number as u64)
        }),
        Value::String(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok(),
        _ => None,
    };
    number.map(|number| SandboxId::new(number.to_string()))
}

/// Whether this is 1 to 256 characters, none of which controls a terminal.
fn is_text(text: &str) -> bool {
    (1..=MAX_TEXT_CHARS).contains(&text.chars().count()) && !text.contains(char::is_control)
}

fn is_account_path(id: &str) -> bool {
    id.strip_prefix("identity/accounts/")
        .filter(|_| is_text(id))
        .is_some_and(|uuid| !uuid.is_empty() && uuid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'))
}

fn read_time(text: &str) -> Option<Timestamp> {
    // RFC 3339 allows a space, and some servers omit the offset of UTC.
    let parsed = text.parse::<jiff::Timestamp>().or_else(|_| format!("{text}Z").parse()).ok()?;
    u64::try_from(parsed.as_second()).ok().map(Timestamp)
}
