//! The length that an HTTP/1.0 request omits.
//!
//! The parser refuses an HTTP/1.0 POST without `Content-Length`, as the first specification of HTTP demands. nginx, as it
//! is by default, sends a POST without a body in this form, so here it is one with a body of no bytes.

/// What is added to such a head.
const LENGTH: &[u8] = b"content-length: 0\r\n";

/// Passes on the bytes of one head, with its length added where it is missing.
#[derive(Debug, Default)]
pub(super) struct MissingLength {
    progress: Progress,
    /// A line that has not ended yet. It is passed on with its end.
    line: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Progress {
    #[default]
    RequestLine,
    /// The headers of a POST in HTTP/1.0.
    Headers,
    /// The rest is passed on as it comes.
    Done,
}

impl MissingLength {
    /// Starts with the next head.
    pub(super) fn start(&mut self) {
        *self = Self::default();
    }

    /// Appends to `passed` what can be passed on after these bytes.
    pub(super) fn pass(&mut self, bytes: &[u8], passed: &mut Vec<u8>) {
        self.line.extend_from_slice(bytes);
        while self.progress != Progress::Done
            && let Some(end) = self.line.iter().position(|byte| *byte == b'\n')
        {
            let line: Vec<u8> = self.line.drain(..=end).collect();
            self.progress = self.after(line.trim_ascii_end(), passed);
            passed.extend_from_slice(&line);
        }
        let may_be_post = self.progress == Progress::Headers || b"POST ".starts_with(first(&self.line, 5));
        if !may_be_post {
            self.progress = Progress::Done;
        }
        if self.progress == Progress::Done {
            passed.append(&mut self.line);
        }
    }

    fn after(&self, line: &[u8], passed: &mut Vec<u8>) -> Progress {
        match self.progress {
            Progress::RequestLine if line.starts_with(b"POST ") && line.ends_with(b" HTTP/1.0") => Progress::Headers,
            Progress::Headers if line.is_empty() => {
                passed.extend_from_slice(LENGTH);
                Progress::Done
            }
            Progress::Headers if !first(line, 15).eq_ignore_ascii_case(b"content-length:") => Progress::Headers,
            _ => Progress::Done,
        }
    }
}

fn first(bytes: &[u8], count: usize) -> &[u8] {
    &bytes[..bytes.len().min(count)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is passed on of a head that comes in pieces of `size` bytes.
    fn passed(head: &str, size: usize) -> String {
        let (mut missing_length, mut passed) = (MissingLength::default(), Vec::new());
        head.as_bytes().chunks(size).for_each(|piece| missing_length.pass(piece, &mut passed));
        String::from_utf8(passed).unwrap()
    }

    #[test]
    fn a_post_in_http_1_0_without_a_length_gets_one_however_its_bytes_come() {
        let line = "POST /v1/allocate HTTP/1.0\r\n";
        let headers = "Host: broker\r\nX-Track-ID: one\r\n";
        for size in 1..=100 {
            let changed = passed(&format!("{line}{headers}\r\nrest"), size);
            assert_eq!(changed, format!("{line}{headers}content-length: 0\r\n\r\nrest"), "{size}");
            assert_eq!(passed(&format!("{line}\r\n"), size), format!("{line}content-length: 0\r\n\r\n"));
        }
    }

    #[test]
    fn every_other_head_is_passed_on_as_it_is() {
        for head in [
            "GET / HTTP/1.0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: b\r\n\r\nPOST / HTTP/1.0\r\n\r\n",
            "POST / HTTP/1.0\r\nA: b\r\ncONTENT-lENGTH: 3\r\n\r\nabc",
            "POST / HTTP/1.0\r\nContent-Length:0\r\n\r\n\r\n",
            "POSTAL / HTTP/1.0\r\n\r\n",
            "\u{16}\u{3}\u{1}",
        ] {
            for size in 1..=head.len() {
                assert_eq!(passed(head, size), head, "{size}");
            }
        }
    }
}
