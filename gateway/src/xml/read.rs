//! A request document as a small tree, read within bounds.
//!
//! Namespaces and attributes are dropped: clients send documents with and without them. Text is unescaped and not
//! trimmed, because a key may begin with a space. A document type declaration is refused, so nothing ever expands.

use quick_xml::Reader;
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::{BytesRef, BytesStart, Event};

use crate::error::{Code, S3Error, S3Result};

/// The largest document that is read, in bytes: 10,000 parts with every checksum, or 1,000 keys escaped at the worst.
pub const MAX_DOCUMENT: usize = 8 << 20;
const MAX_DEPTH: usize = 16;
const MAX_ELEMENTS: usize = 120_000;

/// One element: its local name, its own text, its children in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Element {
    /// The name without a namespace prefix.
    pub name: String,
    /// All text directly inside, unescaped.
    pub text: String,
    /// The elements directly inside.
    pub children: Vec<Element>,
}

impl Element {
    /// Gives the first child of a name.
    pub fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    /// Gives the text of the first child of a name, not trimmed.
    pub fn child_text(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.as_str())
    }

    /// Gives the text of the first child of a name without surrounding white space, for numbers and enums.
    pub fn child_word(&self, name: &str) -> Option<&str> {
        self.child_text(name).map(str::trim)
    }

    /// Gives all children of a name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |child| child.name == name)
    }
}

/// The error of every document that is not what it should be.
pub fn malformed(reason: &str) -> S3Error {
    S3Error::new(Code::MalformedXML).message(format!(
        "{} ({reason})",
        Code::MalformedXML.default_message()
    ))
}

/// Reads a document whose root must have one of `roots` as its name.
///
/// # Errors
/// `MalformedXML`; `MaxMessageLengthExceeded` above [`MAX_DOCUMENT`].
pub fn read(document: &[u8], roots: &[&str]) -> S3Result<Element> {
    let root = read_any(document)?;
    if !roots.contains(&root.name.as_str()) {
        return Err(malformed(&format!("the root element is {:?}", root.name)));
    }
    Ok(root)
}

fn read_any(document: &[u8]) -> S3Result<Element> {
    if document.len() > MAX_DOCUMENT {
        return Err(S3Error::new(Code::MaxMessageLengthExceeded)
            .with("MaxMessageLengthBytes", MAX_DOCUMENT.to_string()));
    }
    let text = std::str::from_utf8(document).map_err(|_| malformed("not UTF-8"))?;
    let mut reader = Reader::from_str(text);
    reader.config_mut().check_end_names = true;
    let mut tree = Tree::default();
    loop {
        match reader
            .read_event()
            .map_err(|error| malformed(&error.to_string()))?
        {
            Event::Start(start) => tree.open(&start)?,
            Event::Empty(start) => {
                tree.open(&start)?;
                tree.close();
            }
            Event::End(_) => tree.close(),
            Event::Text(text) => tree.text(&text.decode().map_err(|_| malformed("not UTF-8"))?)?,
            Event::CData(text) => tree.text(&text.decode().map_err(|_| malformed("not UTF-8"))?)?,
            Event::GeneralRef(reference) => tree.text(&resolve(&reference)?)?,
            Event::DocType(_) => return Err(malformed("a document type declaration")),
            Event::Decl(_) | Event::Comment(_) | Event::PI(_) => {}
            Event::Eof => return tree.finish(),
        }
    }
}

fn resolve(reference: &BytesRef<'_>) -> S3Result<String> {
    if let Some(character) = reference
        .resolve_char_ref()
        .map_err(|_| malformed("a character reference"))?
    {
        return Ok(character.to_string());
    }
    let name = reference.decode().map_err(|_| malformed("not UTF-8"))?;
    resolve_xml_entity(&name)
        .map(str::to_owned)
        .ok_or_else(|| malformed("an unknown entity"))
}

/// The elements that are open, the root first.
#[derive(Default)]
struct Tree {
    open: Vec<Element>,
    root: Option<Element>,
    elements: usize,
}

impl Tree {
    fn open(&mut self, start: &BytesStart<'_>) -> S3Result<()> {
        self.elements += 1;
        if self.open.len() == MAX_DEPTH || self.elements > MAX_ELEMENTS {
            return Err(malformed("too deep or too many elements"));
        }
        if self.open.is_empty() && self.root.is_some() {
            return Err(malformed("a second root element"));
        }
        let name = String::from_utf8_lossy(start.local_name().as_ref()).into_owned();
        self.open.push(Element {
            name,
            ..Element::default()
        });
        Ok(())
    }

    /// The reader has checked that the names match, so something is open.
    fn close(&mut self) {
        let Some(closed) = self.open.pop() else {
            return;
        };
        match self.open.last_mut() {
            Some(parent) => parent.children.push(closed),
            None => self.root = Some(closed),
        }
    }

    fn text(&mut self, text: &str) -> S3Result<()> {
        match self.open.last_mut() {
            Some(element) => element.text.push_str(text),
            None if text.trim_start_matches('\u{feff}').trim().is_empty() => {}
            None => return Err(malformed("text outside the root element")),
        }
        Ok(())
    }

    fn finish(self) -> S3Result<Element> {
        if !self.open.is_empty() {
            return Err(malformed("an element is not closed"));
        }
        self.root.ok_or_else(|| malformed("no element"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(document: &str) -> Code {
        read_any(document.as_bytes()).expect_err(document).code()
    }

    #[test]
    fn text_is_unescaped_and_not_trimmed() {
        let root = read(
            b"\xef\xbb\xbf<?xml version=\"1.0\"?>\n<!-- c --><x:A xmlns:x=\"u\"><K> a&#xD;&#10;&amp;<![CDATA[<b>]]>&lt; </K><K/></x:A>\n",
            &["A"],
        )
        .expect("well-formed");
        assert_eq!(root.child_text("K"), Some(" a\r\n&<b>< "));
        assert_eq!(root.all("K").count(), 2);
        assert_eq!(root.all("K").nth(1).expect("the second").text, "");
    }

    #[test]
    fn what_is_not_well_formed_or_could_expand_is_refused() {
        for document in [
            "",
            "   ",
            "text",
            "<a>",
            "<a></b>",
            "<a/><b/>",
            "<a/>text",
            "<a>&unknown;</a>",
            "<a>&#xFFFFFFFF;</a>",
            "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>",
            "</a>",
            "<a",
        ] {
            assert_eq!(refused(document), Code::MalformedXML, "{document}");
        }
        assert_eq!(
            read(b"<B/>", &["A"]).expect_err("another root").code(),
            Code::MalformedXML
        );
        assert_eq!(
            read(b"<A>\xff</A>", &["A"]).expect_err("not UTF-8").code(),
            Code::MalformedXML
        );
    }

    #[test]
    fn depth_and_size_are_bounded() {
        let nest = |depth: usize| "<a>".repeat(depth) + &"</a>".repeat(depth);
        assert!(read_any(nest(16).as_bytes()).is_ok());
        assert_eq!(refused(&nest(17)), Code::MalformedXML);
        let large = format!("<a>{}</a>", " ".repeat(MAX_DOCUMENT));
        assert_eq!(refused(&large), Code::MaxMessageLengthExceeded);
        let wide = format!("<a>{}</a>", "<b/>".repeat(MAX_ELEMENTS));
        assert_eq!(refused(&wide), Code::MalformedXML);
    }
}
