//! Answers paths that are not in their canonical form with 404. A filter by path in front of the broker, such as a load
//! balancer's rule for `/v1/admin*`, compares texts; no other spelling of a path may reach what it guards.

use actix_web::Error;
use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::middleware::Next;
use serde_json::json;

use crate::http::error::{ApiError, ErrorCode};

/// The middleware, before routing.
pub(crate) async fn require<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let path = request.uri().path();
    let canonical = canonical(path);
    if canonical == path {
        return Ok(next.call(request).await?.map_into_left_body());
    }
    let message = format!("there is no such route; the canonical path is {canonical}");
    let refusal = ApiError::new(ErrorCode::NotFound, message).details(json!({ "path": canonical }));
    Ok(request.error_response(refusal).map_into_right_body())
}

/// The path without percent-encoded unreserved characters, dot segments and empty segments (RFC 3986, 6.2.2).
fn canonical(path: &str) -> String {
    let decoded = decode_unreserved(path);
    let mut segments: Vec<&str> = Vec::new();
    for segment in decoded.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    // What ends in a directory keeps its slash: it is another path, though not one that has a route.
    let is_directory = ["/", "/.", "/.."].iter().any(|end| decoded.ends_with(end));
    let end = if is_directory && !segments.is_empty() { "/" } else { "" };
    format!("/{}{end}", segments.join("/"))
}

fn decode_unreserved(path: &str) -> String {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        decoded.push_str(before);
        let digits = after.get(..2).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte.filter(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(byte)) {
            Some(byte) => {
                decoded.push(char::from(byte));
                rest = &after[2..];
            }
            None => {
                decoded.push('%');
                rest = after;
            }
        }
    }
    decoded.push_str(rest);
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_spelling_of_a_path_is_canonical() {
        for path in ["/", "/v1/docs", "/v1/docs/", "/v1/sandboxes/a%2Fb%20c", "/v1/sandboxes/%", "/v1/sandboxes/%zz"] {
            assert_eq!(canonical(path), path);
        }
        for (path, expected) in [
            ("/v1/%61dmin/stats", "/v1/admin/stats"),
            ("//v1/admin/stats", "/v1/admin/stats"),
            ("/v1//admin/stats", "/v1/admin/stats"),
            ("/v1/./admin/stats", "/v1/admin/stats"),
            ("/x/../v1/admin/stats", "/v1/admin/stats"),
            ("/x/%2e%2E/v1/admin/stats", "/v1/admin/stats"),
            ("/../../metrics", "/metrics"),
            ("/metrics/.", "/metrics/"),
            ("", "/"),
        ] {
            assert_eq!(canonical(path), expected, "{path}");
            assert_eq!(canonical(&canonical(path)), expected, "{path}");
        }
    }
}
