//! Files that browsers get from inside the program: pages, scripts, styles. Their policies name no other host.

use actix_web::HttpResponse;

/// A file.
pub(super) struct Asset {
    pub(super) name: &'static str,
    pub(super) content_type: &'static str,
    pub(super) bytes: &'static [u8],
}

/// Scripts and styles from here alone, calls to here alone, no frames, no forms.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The same, for a page that styles its elements in place.
const POLICY_INLINE_STYLES: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A page under the strict policy.
pub(super) fn page(html: &'static str) -> HttpResponse {
    html_under(POLICY, html)
}

/// A page that styles its elements in place.
pub(super) fn page_with_inline_styles(html: &'static str) -> HttpResponse {
    html_under(POLICY_INLINE_STYLES, html)
}

fn html_under(policy: &'static str, html: &'static str) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header(("content-security-policy", policy))
        .body(html)
}

/// The file of this name.
pub(super) fn serve(assets: &[Asset], name: &str) -> HttpResponse {
    // A browser asks each time whether it still has the right one; the files change with the program.
    match assets.iter().find(|asset| asset.name == name) {
        Some(asset) => HttpResponse::Ok().content_type(asset.content_type).body(asset.bytes),
        None => HttpResponse::NotFound().finish(),
    }
}
