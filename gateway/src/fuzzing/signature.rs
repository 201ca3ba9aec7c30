//! Signatures: what the reference signs verifies, and means to us what its signer meant; with one byte
//! changed it verifies only where it says the same.

use http::{Method, Uri};
use twintree_store::Timestamp;

use super::aws::{self, ACCESS_KEY, HABITS, Habit, Request, SCOPE, SECONDS, SECRET, TIMESTAMP};
use super::draw::Draw;
use crate::auth::{Credentials, Secret, Verified, verify};
use crate::route::Query;

const SIGNATURE: &str = "X-Amz-Signature";
/// What paths and queries are made of: nearly every input is then one that a client can send.
const LETTERS: &[u8; 32] = b"abcz09-._~/%%%+25 2Ff&&==!*'();:";

/// A request, how it was signed, and what stands for its body.
struct Signed {
    request: Request,
    habit: Habit,
    names: Vec<&'static str>,
    payload: &'static str,
    /// In the query, not in the header.
    presigned: bool,
    canonical: Vec<u8>,
    signature: String,
}

/// A request that is signed, and then changed.
pub fn signature(data: &[u8]) {
    let mut draw = Draw::new(data);
    let Some(mut signed) = signed(&mut draw) else {
        return;
    };
    let verified = verified(&signed.request).expect("what the reference signed verifies");
    assert_eq!(verified.principal.access_key_id, ACCESS_KEY);
    assert_eq!(verified.scheme.is_presigned(), signed.presigned);
    check_meaning(&signed, &verified);
    for _ in 0..4 {
        let original = signed.request.clone();
        if change(&mut signed, &mut draw)
            && let Some(verified) = self::verified(&signed.request)
        {
            check_equal(&signed);
            check_meaning(&signed, &verified);
        }
        signed.request = original;
    }
}

fn signed(draw: &mut Draw<'_>) -> Option<Signed> {
    let presigned = draw.flag();
    let habit = draw.pick(&HABITS);
    let payload = match presigned {
        true => "UNSIGNED-PAYLOAD",
        false => draw.pick(&["UNSIGNED-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"]),
    };
    let mut names = vec!["host"];
    let mut request = Request {
        method: draw.pick(&[Method::GET, Method::PUT, Method::DELETE, Method::POST]),
        path: format!("/{}", letters(draw, 40)),
        query: letters(draw, 40),
        headers: vec![("host".to_owned(), b"h:9000".to_vec())],
    };
    for name in ["range", "x-amz-meta-a", "x-amz-meta-b"] {
        for _ in 0..draw.below(3) {
            request
                .headers
                .push((name.to_owned(), draw.bytes(12).to_vec()));
            names.push(name);
        }
    }
    if presigned {
        names.dedup();
        push_parameters(&mut request.query, &names);
    } else {
        names.extend(["x-amz-content-sha256", "x-amz-date"]);
        request
            .headers
            .push(("x-amz-content-sha256".into(), payload.into()));
        request
            .headers
            .push(("x-amz-date".into(), TIMESTAMP.into()));
    }
    names.sort_unstable();
    names.dedup();
    let canonical = request.canonical(habit, &names, payload, None);
    let signature = aws::sign_request(&canonical);
    if presigned {
        request.query.push_str(&format!("&{SIGNATURE}={signature}"));
    } else {
        let list = names.join(";");
        let value = format!(
            "AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{SCOPE}, SignedHeaders={list}, Signature={signature}"
        );
        request.headers.push(("authorization".into(), value.into()));
    }
    (is_sent(&request) && !is_about_signing(&request, presigned)).then_some(Signed {
        request,
        habit,
        names,
        payload,
        presigned,
        canonical,
        signature,
    })
}

fn letters(draw: &mut Draw<'_>, most: usize) -> String {
    let bytes = draw.bytes(most).iter();
    bytes
        .map(|byte| char::from(LETTERS[usize::from(byte & 31)]))
        .filter(|c| *c != ' ')
        .collect()
}

fn push_parameters(query: &mut String, names: &[&str]) {
    let credential = aws::uri_encode(format!("{ACCESS_KEY}/{SCOPE}").as_bytes(), "");
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    let list = aws::uri_encode(sorted.join(";").as_bytes(), "");
    query.push_str(&format!(
        "&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={credential}&X-Amz-Date={TIMESTAMP}&X-Amz-Expires=600\
         &X-Amz-SignedHeaders={list}"
    ));
}

/// Can HTTP carry it?
fn is_sent(request: &Request) -> bool {
    let target = format!("{}?{}", request.path, request.query);
    let sent = target
        .parse::<Uri>()
        .is_ok_and(|uri| uri.path() == request.path && uri.query().unwrap_or("") == request.query);
    sent && request.header_map().is_some()
}

/// Has the query a parameter that says how the request is signed, beside our own?
fn is_about_signing(request: &Request, presigned: bool) -> bool {
    let pairs = aws::parameters(&request.query, HABITS[0]);
    let count = pairs.iter().filter(|(name, _)| {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        name.starts_with("x-amz") || name == "awsaccesskeyid" || name == "signature"
    });
    count.count() != if presigned { 6 } else { 0 }
}

fn verified(request: &Request) -> Option<Verified> {
    let headers = request.header_map()?;
    let credentials = Credentials::new([(ACCESS_KEY.to_owned(), Secret::new(SECRET))]);
    let now = Timestamp::from_parts(SECONDS + 30, 0);
    verify(&request.head(&headers), &credentials, now).ok()
}

/// Changes one byte somewhere; `false` where HTTP could not carry it then.
fn change(signed: &mut Signed, draw: &mut Draw<'_>) -> bool {
    let request = &mut signed.request;
    let flip = |bytes: &mut Vec<u8>, draw: &mut Draw<'_>| {
        if !bytes.is_empty() {
            let at = draw.below(bytes.len());
            bytes[at] = match draw.byte() {
                with @ 0..32 => LETTERS[usize::from(with)],
                with => with,
            };
        }
    };
    let text = |text: &mut String, draw: &mut Draw<'_>| {
        let mut bytes = std::mem::take(text).into_bytes();
        flip(&mut bytes, draw);
        *text = String::from_utf8_lossy(&bytes).into_owned();
    };
    match draw.below(5) {
        0 => text(&mut request.path, draw),
        1 => text(&mut request.query, draw),
        2 => {
            let at = draw.below(request.headers.len());
            flip(&mut request.headers[at].1, draw);
        }
        3 => request
            .headers
            .push(("x-amz-meta-a".into(), draw.bytes(6).to_vec())),
        _ => request.method = draw.pick(&[Method::GET, Method::HEAD, Method::PUT]),
    }
    is_sent(request)
}

/// A changed request that verifies is, in some reading, the one that was signed.
fn check_equal(signed: &Signed) {
    let without = signed.presigned.then_some(SIGNATURE);
    let canonical = |habit| {
        signed
            .request
            .canonical(habit, &signed.names, signed.payload, without)
    };
    assert!(
        HABITS
            .into_iter()
            .any(|habit| canonical(habit) == signed.canonical),
        "another request verified: {:?}",
        signed.request
    );
    let said = if signed.presigned {
        let pairs = aws::parameters(&signed.request.query, HABITS[1]);
        let found = pairs
            .into_iter()
            .find(|(name, _)| name == SIGNATURE.as_bytes());
        found.map(|(_, value)| String::from_utf8_lossy(&value).into_owned())
    } else {
        let header = signed
            .request
            .headers
            .iter()
            .find(|(name, _)| name == "authorization");
        let value = header.map(|(_, value)| String::from_utf8_lossy(value).into_owned());
        value.and_then(|value| Some(value.split_once("Signature=")?.1.trim().to_owned()))
    };
    let said = said.expect("a signature is there");
    assert!(
        said.trim_end_matches(',')
            .trim()
            .eq_ignore_ascii_case(&signed.signature)
    );
}

/// The parameters that the operation reads are those that were signed.
fn check_meaning(signed: &Signed, verified: &Verified) {
    let Ok(query) = Query::parse_as(&signed.request.query, verified.plus) else {
        return; // refused, whoever signed it
    };
    let pairs: Vec<_> = query
        .pairs()
        .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
        .collect();
    let read = aws::canonical_query(&pairs, signed.presigned.then_some(SIGNATURE));
    let canonical = String::from_utf8_lossy(&signed.canonical);
    let meant = canonical
        .split('\n')
        .nth(2)
        .expect("the third line is the query");
    assert_eq!(read, meant, "{:?} {:?}", signed.habit, signed.request);
}
