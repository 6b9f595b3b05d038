//! Listings of the CSP that are almost valid: each is an error, or exactly its valid records are kept.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use broker_actors::ports::{CspClient as _, CspError};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use sandbox_broker::csp::HttpCsp;
use secrecy::SecretString;
use serde_json::{Map, Value};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use url::Url;

use crate::properties;

/// Answers every request with the current body.
async fn serve(listener: TcpListener, body: Arc<Mutex<Vec<u8>>>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let body = body.lock().unwrap().clone();
        let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
    }
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(Value::Array(Vec::new())),
        Just(Value::Object(Map::new())),
    ]
}

/// A field with a valid value, with another value, or missing.
fn field(valid: impl Strategy<Value = Value> + 'static) -> impl Strategy<Value = Option<Value>> {
    prop_oneof![12 => valid.prop_map(Some), 1 => leaf().prop_map(Some), 1 => Just(None)]
}

fn text(pattern: &'static str) -> impl Strategy<Value = Value> {
    pattern.prop_map(Value::from)
}

fn record() -> impl Strategy<Value = Value> {
    let fields = (
        field(text("sandbox|sandbox|sandbox|production")),
        field(text("active|active|active|suspended")),
        field(text("identity/accounts/[0-9a-f-]{1,12}|identity/accounts/(|[./?#%é]{1,4})")),
        field(text("lab-[0-9]{5}|.{0,3}|[a\u{1b}\n]{1,3}|é{255,258}")),
        field((0..8_u64).prop_map(Value::from)),
        field(text("2025-0[1-9]-27T16:53:47Z|-?[0-9]{1,6}-01-01T00:00:00Z|[ -~]{0,20}")),
        field(prop_oneof![Just(Value::Null), text("crm-[0-9]{0,3}")]),
    );
    fields.prop_map(|(kind, state, id, name, csp_id, created_at, account)| {
        let names = ["account_type", "state", "id", "name", "csp_id", "created_at", "sfdc_account_id"];
        let values = [kind, state, id, name, csp_id, created_at, account];
        let fields = names.into_iter().zip(values).filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Value::Object(fields.collect())
    })
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let results = vec(prop_oneof![8 => record(), 1 => leaf()], 0..12);
    prop_oneof![
        8 => results.prop_map(|results| serde_json::json!({ "results": results, "next": null }).to_string().into_bytes()),
        1 => leaf().prop_map(|value| value.to_string().into_bytes()),
        1 => leaf().prop_map(|value| serde_json::json!({ "results": value }).to_string().into_bytes()),
        1 => vec(any::<u8>(), 0..100),
        1 => (record(), 0..200_usize).prop_map(|(record, length)| {
            let mut cut = serde_json::json!({ "results": [record] }).to_string().into_bytes();
            cut.truncate(length);
            cut
        }),
    ]
}

/// The names of the records that must be kept, by sandbox and account.
fn valid_records(body: &Value) -> Option<BTreeMap<(String, String), Option<String>>> {
    let mut valid = BTreeMap::new();
    for record in body["results"].as_array()? {
        let text = |name: &str| record[name].as_str();
        let (Some("sandbox"), Some("active")) = (text("account_type"), text("state")) else { continue };
        let number = match &record["csp_id"] {
            Value::String(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok(),
            number if number.is_f64() => {
                let whole = number
                    .as_f64()
                    .filter(|number| number.fract() == 0.0 && (0.0..=(1u64 << 53) as f64).contains(number));
                whole.map(|number| number as u64)
            }
            number => number.as_u64(),
        };
        let (Some(id), Some(csp_id)) = (text("id"), number) else { continue };
        let Some(uuid) = id.strip_prefix("identity/accounts/") else { continue };
        let is_segment = !uuid.is_empty() && uuid.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        let is_text = |text: &str| (1..=256).contains(&text.chars().count()) && !text.contains(char::is_control);
        if is_segment && is_text(id) {
            let name = text("name").filter(|name| is_text(name)).map(str::to_owned);
            valid.entry((csp_id.to_string(), id.to_owned())).or_insert(name);
        }
    }
    Some(valid)
}

#[test]
fn a_listing_is_an_error_or_gives_its_valid_records() {
    let runtime = Runtime::new().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let served = Arc::new(Mutex::new(Vec::new()));
    runtime.spawn(serve(listener, Arc::clone(&served)));
    let minute = Duration::from_secs(60);
    let csp = HttpCsp::new(url, &SecretString::from("token"), minute, minute).unwrap();

    let checked = TestRunner::new(properties()).run(&body(), |body| {
        served.lock().unwrap().clone_from(&body);
        let listed = runtime.block_on(csp.list());
        let parsed: Option<Value> = serde_json::from_slice(&body).ok();
        match parsed.as_ref().and_then(valid_records) {
            None => prop_assert!(matches!(listed, Err(CspError::BadAnswer(_))), "{listed:?}"),
            Some(valid) => {
                let listing = listed.map_err(|error| TestCaseError::fail(error.to_string()))?;
                let kept: BTreeMap<_, _> = listing
                    .accounts
                    .iter()
                    .map(|kept| ((kept.sandbox_id.to_string(), kept.external_id.clone()), kept.name.clone()))
                    .collect();
                prop_assert_eq!(kept.len(), listing.accounts.len(), "an account was kept twice");
                prop_assert_eq!(kept, valid);
            }
        }
        Ok(())
    });
    checked.unwrap_or_else(|failure| panic!("{failure}"));
}
