//! The answer of the parser to a request that it refuses.
//!
//! The parser answers by itself: a status without a body, which is the last thing that it sends. It has no hook for another
//! answer, so the socket recognizes this one and sends an error of the API's form instead.

/// The starts of these answers.
const STARTS: [&[u8]; 4] = [b"HTTP/1.1 400 ", b"HTTP/1.1 431 ", b"HTTP/1.0 400 ", b"HTTP/1.0 431 "];

/// A header of every answer of the application.
const OF_THE_APPLICATION: &[u8] = b"\r\nx-request-id: ";

/// Where the parser's own answer starts, if `bytes` end with one.
pub(super) fn refusal_in(bytes: &[u8]) -> Option<usize> {
    // Its head is all of it.
    let head = bytes.strip_suffix(b"\r\n\r\n")?;
    let start = STARTS.iter().filter_map(|start| last_position(head, start)).max()?;
    last_position(&head[start..], OF_THE_APPLICATION).is_none().then_some(start)
}

fn last_position(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).rposition(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bare_answer_at_the_end_is_one_of_the_parser() {
        let bare = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\ndate: now\r\n\r\n";
        let ours = "HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\nx-request-id: 1\r\n\r\n";
        assert_eq!(refusal_in(bare.as_bytes()), Some(0));
        assert_eq!(refusal_in(bare.replace("400", "431").as_bytes()), Some(0));
        assert_eq!(refusal_in(format!("{ours}{{}}{bare}").as_bytes()), Some(ours.len() + 2));
        for other in
            [ours, &format!("{ours}{{}}"), &format!("{bare}{ours}{{}}"), "HTTP/1.1 200 OK\r\n\r\n", "", "\r\n\r\n"]
        {
            assert_eq!(refusal_in(other.as_bytes()), None, "{other}");
        }
    }
}
