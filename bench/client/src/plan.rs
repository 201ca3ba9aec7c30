//! The requests of a run, as `bench/run` wrote them down.
//!
//! One request after another: a little-endian header of six fields, then the head's bytes as they go to the
//! server. `send_*` name a slice of the `--send` file, which is the request's body; `want_*` name a slice of the
//! `--want` file, which the answer's body must equal.

/// One request and what must come back.
pub struct Request {
    /// Request line and headers, with the empty line.
    pub head: Vec<u8>,
    /// The body: offset and length in the `--send` file.
    pub send: (usize, usize),
    /// The answer's Content-Length; `None`: any.
    pub length: Option<u64>,
    /// Offset in the `--want` file; `None`: the body is received and not looked at.
    pub want: Option<usize>,
    /// The answer has no body whatever its Content-Length says (HEAD).
    pub bodiless: bool,
}

/// Bytes of a request's header: head length, flags, then four 64-bit fields.
const HEADER: usize = 4 + 4 + 4 * 8;

/// Reads a plan.
///
/// # Errors
/// A plan that ends within a request, or that names bytes which its files lack.
pub fn parse(mut bytes: &[u8], send: usize, want: usize) -> Result<Vec<Request>, String> {
    let mut requests = Vec::new();
    while !bytes.is_empty() {
        let (header, rest) = bytes.split_at_checked(HEADER).ok_or("a plan is cut off")?;
        let word =
            |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let field =
            |at: usize| i64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        let (head, rest) = rest
            .split_at_checked(word(0) as usize)
            .ok_or("a plan is cut off")?;
        let request = Request {
            head: head.to_vec(),
            send: (field(8) as usize, field(16) as usize),
            length: u64::try_from(field(24)).ok(),
            want: usize::try_from(field(32)).ok(),
            bodiless: word(4) & 1 != 0,
        };
        let wanted = request
            .want
            .map_or(0, |at| at + request.length.unwrap_or(0) as usize);
        if request.send.0 + request.send.1 > send || wanted > want {
            return Err("a plan names bytes that are not there".into());
        }
        requests.push(request);
        bytes = rest;
    }
    if requests.is_empty() {
        return Err("an empty plan".into());
    }
    Ok(requests)
}
