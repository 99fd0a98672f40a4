//! ServerHello (RFC 8446, section 4.1.3), as far as it says whether a session is resumed.
//!
//! ```text
//! 02 | length, 3 | version, 2 | random, 32 | session id, 1+ | suite, 2 | compression, 1 | extensions, 2+
//! ```

const SERVER_HELLO: u8 = 2;
/// The extension by which a server says that it resumes (RFC 8446, section 4.2.11).
const PRE_SHARED_KEY: u16 = 41;
/// Key shares of all groups that are offered fit in; what is longer is taken for a handshake that does not resume.
const BYTES_MAX: usize = 4 << 10;

/// The first message of a server, as it comes in.
#[derive(Default)]
pub(super) struct Hello(Vec<u8>);

/// What it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// More of it is to come.
    Unfinished,
    /// The session goes on.
    Resumes,
    /// The handshake is a whole one, or the client is to say its ClientHello again.
    Whole,
}

impl Hello {
    /// Takes in the next bytes that the server has said.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Answer {
        let room = BYTES_MAX - self.0.len();
        self.0.extend_from_slice(&bytes[..bytes.len().min(room)]);
        let [kind, a, b, c, body @ ..] = &self.0[..] else { return Answer::Unfinished };
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        if *kind != SERVER_HELLO || length > BYTES_MAX - 4 {
            return Answer::Whole;
        }
        match body.get(..length) {
            None => Answer::Unfinished,
            Some(body) if extensions(body).is_some_and(resumes) => Answer::Resumes,
            Some(_) => Answer::Whole,
        }
    }
}

/// What stands behind the fixed fields.
fn extensions(body: &[u8]) -> Option<&[u8]> {
    let (&id_bytes, rest) = body.get(2 + 32..)?.split_first()?;
    let rest = rest.get(usize::from(id_bytes) + 2 + 1..)?;
    let (_length, extensions) = rest.split_first_chunk::<2>()?;
    Some(extensions)
}

fn resumes(mut extensions: &[u8]) -> bool {
    while let [a, b, c, d, rest @ ..] = extensions {
        if u16::from_be_bytes([*a, *b]) == PRE_SHARED_KEY {
            return true;
        }
        let Some(others) = rest.get(usize::from(u16::from_be_bytes([*c, *d]))..) else { return false };
        extensions = others;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(extensions: &[(u16, &[u8])]) -> Vec<u8> {
        let mut list = Vec::new();
        for (kind, value) in extensions {
            list.extend(kind.to_be_bytes());
            list.extend((value.len() as u16).to_be_bytes());
            list.extend_from_slice(value);
        }
        let fixed = [&[3, 3][..], &[7; 32], &[2, 9, 9], &[0x13, 1], &[0]].concat();
        let body = [&fixed[..], &(list.len() as u16).to_be_bytes(), &list].concat();
        [&[2, 0][..], &(body.len() as u16).to_be_bytes(), &body].concat()
    }

    #[test]
    fn a_session_is_resumed_where_the_server_names_one() {
        let check = |extensions: &[(u16, &[u8])], expected: Answer| {
            let bytes = hello(extensions);
            assert_eq!(Hello::default().read(&bytes), expected, "{extensions:?}");
            // In pieces, with the next message behind it.
            let mut read = Hello::default();
            for byte in &bytes[..bytes.len() - 1] {
                assert_eq!(read.read(&[*byte]), Answer::Unfinished);
            }
            assert_eq!(read.read(&[bytes[bytes.len() - 1], 8, 0, 0]), expected, "{extensions:?}");
        };
        check(&[(43, &[3, 4]), (51, &[0; 36]), (41, &[0, 0])], Answer::Resumes);
        check(&[(41, &[0, 0]), (43, &[3, 4])], Answer::Resumes);
        check(&[(43, &[3, 4]), (51, &[0; 36])], Answer::Whole);
        check(&[(51, &[41; 36])], Answer::Whole);
        check(&[], Answer::Whole);
    }

    #[test]
    fn what_is_no_server_hello_resumes_nothing() {
        for bytes in [&[8, 0, 0, 1, 0][..], &[2, 0, 0, 0], &[2, 0, 0, 3, 1, 2, 3], &[2, 1, 0, 0]] {
            assert_eq!(Hello::default().read(bytes), Answer::Whole, "{bytes:?}");
        }
        let mut read = Hello::default();
        let long = [&[2, 0, 0x0f, 0xfc][..], &[41; 8192]].concat();
        assert_eq!(read.read(&long), Answer::Whole);
    }
}
