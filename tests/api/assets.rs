//! The files of the pages: small on the wire, and kept by browsers as long as they are the same.

use std::collections::BTreeSet;
use std::io::Read as _;

use flate2::read::GzDecoder;
use reqwest::{Method, Response};
use test_support::TestApp;

async fn get(app: &TestApp, path: &str, headers: &[(&str, &str)]) -> Response {
    let request = app.request(Method::GET, path);
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).send().await.unwrap()
}

fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers().get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
}

/// The paths with versions that a text names.
fn versioned(text: &str) -> Vec<String> {
    let quoted = text.split('"').filter(|part| part.contains("?v="));
    quoted.map(str::to_owned).collect()
}

#[actix_web::test]
async fn a_page_names_its_files_by_version_and_browsers_keep_them() {
    let app = TestApp::start_empty(&[]).await;
    for (page, files) in [("/console", 2), ("/v1/docs", 3)] {
        let html = get(&app, page, &[]).await.text().await.unwrap();
        let mut paths = versioned(&html);
        assert_eq!(paths.len(), files, "{html}");
        let mut seen = BTreeSet::new();
        while let Some(path) = paths.pop() {
            if !seen.insert(path.clone()) {
                continue;
            }
            let answer = get(&app, &path, &[]).await;
            assert_eq!(answer.status(), 200, "{path}");
            assert_eq!(header(&answer, "cache-control"), "public, max-age=31536000, immutable", "{path}");
            if page == "/console" {
                // The modules that a script imports have versions too.
                paths.extend(versioned(&answer.text().await.unwrap()));
            }
        }
        assert!(page != "/console" || seen.len() > 5, "{seen:?}");
    }
    // Another build's version is served too, but not kept.
    for path in ["/console/console.js", "/console/console.js?v=0000000000000000"] {
        assert_eq!(header(&get(&app, path, &[]).await, "cache-control"), "no-cache", "{path}");
    }
}

#[actix_web::test]
async fn files_are_compressed_once_and_not_sent_again() {
    let app = TestApp::start_empty(&[]).await;
    for path in ["/v1/docs/swagger-ui-bundle.js", "/console/console.css", "/v1/openapi.json"] {
        let plain = get(&app, path, &[]).await;
        assert_eq!(header(&plain, "content-encoding"), "");
        assert!(header(&plain, "vary").starts_with("accept-encoding"), "{:?}", plain.headers());
        let tag = header(&plain, "etag").to_owned();
        let plain = plain.bytes().await.unwrap();

        let answer = get(&app, path, &[("Accept-Encoding", "br, gzip;q=0.8")]).await;
        assert_eq!(header(&answer, "content-encoding"), "gzip", "{path}");
        let gzip_tag = header(&answer, "etag").to_owned();
        assert_ne!(gzip_tag, tag, "two forms of one file");
        let compressed = answer.bytes().await.unwrap();
        let mut unpacked = Vec::new();
        GzDecoder::new(&compressed[..]).read_to_end(&mut unpacked).unwrap();
        assert!(unpacked == plain && compressed.len() * 2 < plain.len(), "{path}: {} bytes", compressed.len());

        let again = get(&app, path, &[("Accept-Encoding", "gzip"), ("If-None-Match", &gzip_tag)]).await;
        assert_eq!(again.status(), 304, "{path}");
        assert_eq!(header(&again, "etag"), gzip_tag);
        assert!(again.bytes().await.unwrap().is_empty());
        let refused = get(&app, path, &[("Accept-Encoding", "gzip;q=0, identity")]).await;
        assert_eq!(header(&refused, "content-encoding"), "");
    }
}
