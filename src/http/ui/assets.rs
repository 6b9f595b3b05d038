//! Files of the program for browsers: pages, scripts, styles. Their content policies allow no other host.

use std::io::Write as _;

use actix_web::body::BoxBody;
use actix_web::http::header::{ACCEPT_ENCODING, IF_NONE_MATCH};
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, Responder};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use utoipa::IntoParams;
use utoipa::openapi::schema::Type;

use crate::http::operation::{OperationParts, Output};

/// A file of the program before it is prepared for serving.
pub(super) struct Source {
    pub(super) name: &'static str,
    pub(super) content_type: &'static str,
    pub(super) bytes: Vec<u8>,
}

impl Source {
    pub(super) fn style(name: &'static str, bytes: &[u8]) -> Self {
        Self { name, content_type: "text/css; charset=utf-8", bytes: bytes.to_vec() }
    }

    pub(super) fn script(name: &'static str, bytes: &[u8]) -> Self {
        Self { name, content_type: "text/javascript; charset=utf-8", bytes: bytes.to_vec() }
    }
}

/// The files of one page, prepared once and shared by all answers.
pub(crate) struct Bundle {
    /// Changes with the content of any file. The page asks for its files with it, so that browsers may keep them forever.
    version: String,
    html: String,
    assets: Vec<(&'static str, Content)>,
}

impl Bundle {
    /// The page and its files, which the browser finds under this path.
    pub(super) fn new(directory: &str, html: &str, files: Vec<Source>) -> Self {
        let hash = files.iter().fold(Sha256::new(), |hash, file| hash.chain_update(&file.bytes));
        let version = short(&hash.finalize());
        let versioned = |text: &str| {
            files.iter().fold(text.to_owned(), |text, file| {
                let path = format!("{directory}/{}\"", file.name);
                text.replace(&format!("\"{path}"), &format!("\"{directory}/{}?v={version}\"", file.name))
            })
        };
        let assets = files.iter().map(|file| {
            let text = std::str::from_utf8(&file.bytes).map(versioned);
            let bytes = text.map_or_else(|_| file.bytes.clone(), String::into_bytes);
            (file.name, Content::new(file.content_type, bytes))
        });
        Self { assets: assets.collect(), html: versioned(html), version }
    }

    /// The file with this name, for a request with this version.
    pub(super) fn asset(&self, name: &str, version: Option<&str>) -> Option<Asset> {
        let (_, content) = self.assets.iter().find(|(known, _)| *known == name)?;
        // A page of another build, during an update, must not keep this build's file under its own version.
        Some(Asset { content: content.clone(), is_immutable: version == Some(&*self.version) })
    }

    /// The page.
    pub(super) fn html(&self) -> String {
        self.html.clone()
    }
}

/// What is served under one name, as it is and compressed.
#[derive(Clone)]
pub(crate) struct Content {
    content_type: &'static str,
    plain: Bytes,
    gzip: Bytes,
    hash: String,
}

impl Content {
    pub(super) fn new(content_type: &'static str, bytes: Vec<u8>) -> Self {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        let written = encoder.write_all(&bytes).and_then(|()| encoder.finish());
        let gzip = written.expect("writing to memory does not fail").into();
        Self { content_type, hash: short(&Sha256::digest(&bytes)), plain: bytes.into(), gzip }
    }

    /// The answer, compressed if the client takes that; 304 if the client has it.
    pub(super) fn answer(&self, request: &HttpRequest, is_immutable: bool) -> HttpResponse {
        let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let takes_gzip = header(ACCEPT_ENCODING).split(',').any(|coding| accepts_gzip(coding.trim()));
        let tag = if takes_gzip { format!("\"{}-gzip\"", self.hash) } else { format!("\"{}\"", self.hash) };
        let is_known = header(IF_NONE_MATCH).split(',').any(|known| known.trim().trim_start_matches("W/") == tag);
        let mut answer = if is_known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
        let lifetime = if is_immutable { "public, max-age=31536000, immutable" } else { "no-cache" };
        answer.insert_header(("etag", tag)).insert_header(("cache-control", lifetime));
        answer.insert_header(("vary", "accept-encoding"));
        if is_known { answer.finish() } else { self.body(&mut answer, takes_gzip) }
    }

    fn body(&self, answer: &mut HttpResponseBuilder, takes_gzip: bool) -> HttpResponse {
        answer.content_type(self.content_type);
        if !takes_gzip {
            return answer.body(self.plain.clone());
        }
        answer.insert_header(("content-encoding", "gzip")).body(self.gzip.clone())
    }
}

/// Whether an element of `Accept-Encoding` names gzip and does not refuse it by a quality of 0.
fn accepts_gzip(coding: &str) -> bool {
    let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
    let quality = parameters.trim().strip_prefix("q=").and_then(|quality| quality.parse::<f32>().ok());
    matches!(name.trim(), "gzip" | "x-gzip" | "*") && quality != Some(0.0)
}

fn short(hash: &[u8]) -> String {
    hash[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The query of a request for a file.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct AssetVersion {
    /// The version that the page names; with it the file may be kept forever
    pub(super) v: Option<String>,
}

/// A script or a style sheet.
pub(crate) struct Asset {
    content: Content,
    is_immutable: bool,
}

impl Responder for Asset {
    type Body = BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        self.content.answer(request, self.is_immutable)
    }
}

impl Output for Asset {
    fn document(parts: &mut OperationParts) {
        parts.answers_content(&["text/css", "text/javascript"], Type::String, "The file");
    }
}

/// Scripts, styles and calls of this host only; no frames, no forms.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The same for a page that sets styles on its elements.
const POLICY_INLINE_STYLES: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A page.
pub(crate) struct Page {
    html: String,
    policy: &'static str,
}

impl Page {
    pub(crate) fn new(html: String) -> Self {
        Self { html, policy: POLICY }
    }

    /// A page that sets styles on its elements.
    pub(super) fn with_inline_styles(html: String) -> Self {
        Self { html, policy: POLICY_INLINE_STYLES }
    }
}

impl Responder for Page {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        HttpResponse::Ok()
            .content_type("text/html; charset=utf-8")
            .insert_header(("content-security-policy", self.policy))
            .body(self.html)
    }
}

impl Output for Page {
    fn document(parts: &mut OperationParts) {
        parts.answers_content(&["text/html"], Type::String, "The page");
    }
}
