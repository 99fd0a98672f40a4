//! Paths that one side of the gateway could read differently from the other.

/// Whether a path has a segment `.` or `..`, plain or percent-encoded. A backend that resolves them (RFC
/// 3986, section 5.2.4) would serve another path than the one that routes were matched against.
pub(super) fn has_dot_segment(path: &str) -> bool {
    path.split('/').any(|segment| {
        let mut rest = segment;
        let mut dots = 0;
        while !rest.is_empty() {
            let Some(after) = rest.strip_prefix('.').or_else(|| strip_encoded_dot(rest)) else {
                return false;
            };
            rest = after;
            dots += 1;
        }
        matches!(dots, 1 | 2)
    })
}

fn strip_encoded_dot(text: &str) -> Option<&str> {
    text.strip_prefix("%2e").or_else(|| text.strip_prefix("%2E"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_segments_are_found_however_they_are_written() {
        for path in ["/a/../b", "/..", "/./a", "/a/%2e%2E/b", "/a/.%2e", "/a/%2e/"] {
            assert!(has_dot_segment(path), "{path}");
        }
        for path in
            ["/", "/a.b/c", "/a/.../b", "/.well-known/x", "/a..b", "/%2e%2e%2e", "//a", "/towline.v1.S/M"]
        {
            assert!(!has_dot_segment(path), "{path}");
        }
    }
}
