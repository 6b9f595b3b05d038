//! Requests that are almost valid: headers, cursors, queries, bodies and paths. Invalid ones get the specified status and an
//! error of the one form, valid ones take effect, and nothing else is allocated.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use reqwest::Method;
use reqwest::header::HeaderValue;
use serde_json::{Value, json};
use test_support::{Answer, Broker, TRACK_TOKEN, assert_error, send};
use tokio::runtime::Runtime;
use url::form_urlencoded::byte_serialize;

use crate::properties;

/// Checks the property on random cases against one broker, which must still serve at the end.
fn check<S: Strategy>(cases: &S, property: impl AsyncFn(&Broker, S::Value)) {
    let config = properties();
    let runtime = Runtime::new().unwrap();
    let broker = runtime.block_on(async {
        // Each case may allocate one.
        let sandboxes = (config.cases + 100).to_string();
        let broker = Broker::start(&[("BROKER_STORE", "memory"), ("CSP_SIM_SANDBOXES", &sandboxes)]).await;
        assert_eq!(broker.sync("").await.status, 200);
        broker
    });
    let checked = TestRunner::new(config).run(cases, |case| {
        runtime.block_on(property(&broker, case));
        Ok(())
    });
    checked.unwrap_or_else(|failure| panic!("{failure}"));
    runtime.block_on(async {
        assert_eq!(broker.allocate("afterwards").await.status, 201, "the broker still allocates");
        assert_eq!(broker.get("/readyz").await.status, 200);
    });
    assert!(!broker.log().contains("panicked"), "{}", broker.log());
}

/// A text that is usually a valid header value.
fn header_value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => "[!-~]{1,20}".prop_map(String::into_bytes),
        1 => vec(0x21..=0x7e_u8, 250..=262),
        1 => vec(prop_oneof![0x20..=0x7e_u8, Just(b'\t'), 0x80..=0xff_u8], 0..=12),
        1 => Just(Vec::new()),
        1 => "lab-[0-9]{0,5}".prop_map(String::into_bytes),
    ]
}

/// The five headers of an allocation, usually each at most once.
fn allocation() -> impl Strategy<Value = Vec<(&'static str, Vec<Vec<u8>>)>> {
    let names =
        ["X-Instruqt-Sandbox-ID", "X-Track-ID", "X-Instruqt-Track-ID", "Idempotency-Key", "X-Sandbox-Name-Prefix"];
    let values = || prop_oneof![3 => vec(header_value(), 0..=1), 1 => vec(header_value(), 2..=3)];
    names.map(|name| values().prop_map(move |values| (name, values))).combine()
}

/// Combines an array of strategies into one.
trait Combine<T> {
    fn combine(self) -> BoxedStrategy<Vec<T>>;
}

impl<T: std::fmt::Debug + 'static, S: Strategy<Value = T> + 'static, const N: usize> Combine<T> for [S; N] {
    fn combine(self) -> BoxedStrategy<Vec<T>> {
        self.into_iter().collect::<Vec<_>>().boxed()
    }
}

/// The specified reading of a header: none, a value, or an error. HTTP drops white space at both ends, and an empty value
/// counts as none.
fn specified(name: &str, values: &[Vec<u8>]) -> Result<Option<String>, ()> {
    let values: Vec<_> = values.iter().map(|value| value.trim_ascii()).filter(|value| !value.is_empty()).collect();
    let [value] = values[..] else { return if values.is_empty() { Ok(None) } else { Err(()) } };
    let text = std::str::from_utf8(value).map_err(drop)?;
    let is_valid = match name {
        "X-Instruqt-Track-ID" | "X-Sandbox-Name-Prefix" => !text.contains(char::is_control),
        _ => text.bytes().all(|byte| matches!(byte, b' '..=b'~')),
    };
    if is_valid && text.len() <= 256 { Ok(Some(text.to_owned())) } else { Err(()) }
}

#[test]
fn headers_are_accepted_or_refused_as_specified() {
    check(&allocation(), async |broker, headers| {
        let allocated = async || broker.stats().await.body["allocated"].as_u64().unwrap();
        let before = allocated().await;
        let request =
            headers.iter().flat_map(|(name, values)| values.iter().map(move |value| (*name, value))).fold(
                broker.request(Method::POST, "/v1/allocate").bearer_auth(TRACK_TOKEN),
                |request, (name, value)| request.header(name, HeaderValue::from_bytes(value).unwrap()),
            );
        let answer = send(request).await;
        let specified: Vec<_> = headers.iter().map(|(name, values)| specified(name, values)).collect();
        let [Ok(sandbox), Ok(track), Ok(track_name), Ok(_), Ok(prefix)] = &specified[..] else {
            assert_error(&answer, 400, "BAD_HEADER");
            let message = answer.body["error"]["message"].as_str().unwrap();
            for ((name, _), specified) in headers.iter().zip(&specified) {
                assert_eq!(message.contains(name), specified.is_err(), "{answer:?}");
            }
            assert_eq!(allocated().await, before);
            return;
        };
        let Some(track) = sandbox.as_ref().or(track.as_ref()) else {
            assert_error(&answer, 400, "MISSING_HEADER");
            assert_eq!(allocated().await, before);
            return;
        };
        let prefix = prefix.as_deref().unwrap_or_default();
        if answer.status == 409 {
            assert_error(&answer, 409, "NO_SANDBOXES_AVAILABLE");
            assert!(!"lab-".starts_with(prefix), "{prefix:?} matches available sandboxes");
            assert_eq!(allocated().await, before);
            return;
        }
        assert!(matches!(answer.status.as_u16(), 200 | 201), "{answer:?}");
        assert_eq!(allocated().await, before + u64::from(answer.status == 201));
        assert!(answer.status == 200 || answer.body["name"].as_str().unwrap().starts_with(prefix), "{answer:?}");
        let read = broker.read(answer.sandbox_id(), track).await;
        assert_eq!(read.body["allocated_to_track"].as_str(), Some(track.as_str()), "{read:?}");
        assert!(answer.status == 200 || read.body["track_name"].as_str() == track_name.as_deref(), "{read:?}");
    });
}

/// Strings that resemble cursors.
fn cursor() -> impl Strategy<Value = String> {
    let encoded = |text: String| URL_SAFE_NO_PAD.encode(text);
    let tail = prop_oneof![
        any::<String>(),
        "[A-Za-z0-9_-]{0,40}",
        vec(any::<u8>(), 0..40).prop_map(|bytes| URL_SAFE_NO_PAD.encode(bytes)),
        any::<(u64, String)>().prop_map(move |(at, id)| encoded(format!("{at}#{id}"))),
        (any::<i128>(), "[0-9]{1,9}").prop_map(move |(at, id)| encoded(format!("{at}#{id}"))),
        (0..3_u64, 0..5000_usize).prop_map(move |(at, length)| encoded(format!("{at}#{}", "7".repeat(length)))),
    ];
    let listing = prop::sample::select(vec!["", "available.", "available.", "deleted.", "stale.", "nonsense."]);
    (listing, tail).prop_map(|(listing, tail)| format!("{listing}{tail}"))
}

async fn page(broker: &Broker, query: &str) -> Answer {
    broker.get_admin(&format!("/v1/admin/sandboxes?{query}")).await
}

fn ids(page: &Answer) -> Vec<String> {
    let sandboxes = page.body["sandboxes"].as_array().unwrap_or_else(|| panic!("no page: {page:?}"));
    sandboxes.iter().map(|sandbox| sandbox["sandbox_id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn cursors_work_or_are_refused() {
    let statuses = prop::sample::select(vec!["", "&status=available", "&status=deleted"]);
    check(&(cursor(), statuses, option::of("[a-z]{1,3}")), async |broker, (cursor, status, search)| {
        let search = search.map(|text| format!("&search={text}")).unwrap_or_default();
        let encoded: String = byte_serialize(cursor.as_bytes()).collect();
        let answer = page(broker, &format!("limit=2&cursor={encoded}{status}{search}")).await;
        if answer.status != 200 {
            assert_error(&answer, 400, "BAD_CURSOR");
        }
    });
}

/// DynamoDB accepts keys of at most 2048 bytes and fails a request with a longer one.
#[tokio::test]
async fn a_cursor_that_is_longer_than_any_key_is_refused() {
    let broker = Broker::start(&[("BROKER_STORE", "memory")]).await;
    let cursor = URL_SAFE_NO_PAD.encode(format!("0#{}", "7".repeat(3000)));
    assert_error(&page(&broker, &format!("status=available&cursor=available.0.{cursor}")).await, 400, "BAD_CURSOR");
    let cursor = URL_SAFE_NO_PAD.encode("0#7");
    assert_eq!(page(&broker, &format!("status=available&cursor=available.0.{cursor}")).await.status, 200);
}

#[test]
fn pages_of_a_listing_hold_each_sandbox_once() {
    check(&(1..=40_usize), async |broker, limit| {
        let mut seen = BTreeSet::new();
        let mut cursor = String::new();
        // Four pages are enough here; the contract of the store covers whole listings.
        for _ in 0..4 {
            let answer = page(broker, &format!("status=available&limit={limit}{cursor}")).await;
            let listed = ids(&answer);
            assert_eq!(listed.len(), limit);
            assert!(listed.into_iter().all(|id| seen.insert(id)), "listed twice");
            let next = answer.body["cursor"].as_str().unwrap();
            let other = page(broker, &format!("status=stale&cursor={next}")).await;
            assert_error(&other, 400, "BAD_CURSOR");
            cursor = format!("&cursor={next}");
        }
    });
}

#[test]
fn queries_are_understood_or_refused() {
    let name =
        prop_oneof!["status|limit|cursor|search|grace_period_hours|force|dry_run", "[ -~]{0,8}", any::<String>()];
    let value =
        prop_oneof!["available|stale|deleted|0|1|100|101|true|NaN|inf|-0|1e400|0x1", "[ -~]{0,8}", any::<String>()];
    let pairs = vec((name, value, any::<bool>()), 0..4);
    let calls = prop::sample::select(vec![
        (Method::GET, "/v1/admin/stats"),
        (Method::GET, "/v1/admin/sandboxes"),
        (Method::POST, "/v1/admin/bulk-delete"),
        (Method::POST, "/v1/admin/auto-delete-stale"),
        (Method::POST, "/v1/admin/cleanup"),
    ]);
    check(&(calls, pairs), async |broker, ((method, path), pairs)| {
        let query: Vec<String> = pairs
            .iter()
            .map(|(name, value, is_encoded)| {
                let [name, value] = [name, value].map(|text| -> String {
                    let bare = || text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
                    if *is_encoded || !bare() { byte_serialize(text.as_bytes()).collect() } else { text.clone() }
                });
                format!("{name}={value}")
            })
            .collect();
        let answer = send(broker.admin(method, &format!("{path}?{}", query.join("&")))).await;
        match answer.status.as_u16() {
            200 => {}
            // The job is running already, started by its timer.
            409 => assert_error(&answer, 409, "JOB_BUSY"),
            _ if answer.code() == "BAD_CURSOR" => assert_error(&answer, 400, "BAD_CURSOR"),
            _ => assert_error(&answer, 400, "BAD_QUERY"),
        }
    });
}

/// Bodies that resemble that of a pause.
fn pause_body() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[a-z ]{0,3}".prop_map(Value::from),
        "é{495,505}".prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            vec(("reason|because|", inner), 0..3).prop_map(|pairs| pairs.into_iter().collect()),
        ]
    });
    prop_oneof![
        3 => value.clone().prop_map(|reason| json!({ "reason": reason }).to_string().into_bytes()),
        1 => value.prop_map(|value| value.to_string().into_bytes()),
        1 => vec(any::<u8>(), 0..50),
        1 => (1..200_usize).prop_map(|depth| format!("{{\"reason\":{}", "[".repeat(depth * 100)).into_bytes()),
        1 => any::<String>().prop_map(|reason| format!(r#"{{"reason":{0},"reason":{0}}}"#, json!(reason)).into_bytes()),
    ]
}

#[test]
fn a_pause_accepts_only_a_reason() {
    check(&pause_body(), async |broker, body| {
        let request = broker.admin(Method::POST, "/v1/admin/actors/stale-collector/pause").body(body.clone());
        let answer = send(request).await;
        let parsed = serde_json::from_slice::<Value>(&body).ok();
        let reason = parsed.as_ref().and_then(Value::as_object).and_then(|object| {
            let is_given_once = String::from_utf8_lossy(&body).matches(r#""reason":"#).count() == 1;
            (object.len() == 1 && is_given_once).then_some(object.get("reason")?.as_str()?.trim())
        });
        match reason.filter(|reason| (1..=500).contains(&reason.chars().count())) {
            None => assert_error(&answer, 400, "BAD_BODY"),
            Some(reason) => {
                assert_eq!(answer.status, 200, "{answer:?}");
                assert_eq!(answer.body["control"]["reason"], reason, "{answer:?}");
            }
        }
    });
}

#[test]
fn paths_name_a_sandbox_or_nothing() {
    let id = prop_oneof![any::<String>(), "[!-~]{1,8}", "[0-9]{250,260}"];
    let calls = prop::sample::select(vec![
        (Method::GET, ""),
        (Method::POST, "/renew"),
        (Method::POST, "/mark-for-deletion"),
        (Method::DELETE, ""),
    ]);
    check(&(id, calls), async |broker, (id, (method, call))| {
        let id: String = byte_serialize(id.as_bytes()).collect();
        let path = format!("/v1/sandboxes/{}{call}", id.replace('+', "%20"));
        let answer = send(broker.track(method, &path, "stranger")).await;
        match answer.status.as_u16() {
            400 => assert_error(&answer, 400, "BAD_SANDBOX_ID"),
            403 => assert_error(&answer, 403, "NOT_SANDBOX_OWNER"),
            405 => assert_error(&answer, 405, "METHOD_NOT_ALLOWED"),
            _ if answer.code() == "SANDBOX_NOT_FOUND" => assert_error(&answer, 404, "SANDBOX_NOT_FOUND"),
            // The id contains characters that make it another path.
            _ => assert_error(&answer, 404, "NOT_FOUND"),
        }
    });
}
