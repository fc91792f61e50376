//! XML of a stream: bytes to elements within bounds, elements to bytes.
//!
//! Promises: DTDs, processing instructions, comments and own entities are refused (by `rxml`); size,
//! depth, number of elements and of attributes are bounded while parsing, not after. Refuses to know what
//! any element means.

use rxml::{AttrMap, Event, Namespace, Parse, Parser, WithOptions, error::EndOrError, parser::Options};

/// Content namespace of client streams.
pub(crate) const NS_CLIENT: &str = "jabber:client";
/// Namespace of stream headers, features and errors.
pub(crate) const NS_STREAM: &str = "http://etherx.jabber.org/streams";

/// One stanza after login: an offer with every candidate is a few KiB, the longest blob 128 KiB of base64.
pub(crate) const STANZA_BYTES_MAX: usize = 256 * 1024;
/// Elements in one stanza: a 4-byte `<a/>` costs about 150 bytes as a tree.
pub(crate) const ELEMENTS_MAX: usize = 2_048;
/// Nesting: no extension in use goes deeper than about ten.
pub(crate) const DEPTH_MAX: usize = 32;
/// Attributes of one element.
pub(crate) const ATTRIBUTES_MAX: usize = 64;
/// One name, attribute value or piece of text inside the parser.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Why a stream of bytes cannot be read on.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone, Copy)]
pub enum XmlError {
    /// Not well-formed, or a construct that streams forbid.
    #[error("the peer sent XML that is not well-formed or is forbidden on streams")]
    NotWellFormed,
    /// Larger, deeper or wider than the limits.
    #[error("the peer sent a stanza beyond the limits")]
    TooLarge,
    /// Text between stanzas, or a first element that is no stream header.
    #[error("the peer does not speak XMPP")]
    NotXmpp,
}

/// One attribute.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Attribute {
    ns: Namespace<'static>,
    name: String,
    value: String,
}

/// An element with everything inside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Element {
    ns: Namespace<'static>,
    name: String,
    attributes: Vec<Attribute>,
    nodes: Vec<Node>,
}

/// A child.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Node {
    Element(Element),
    Text(String),
}

impl Element {
    pub(crate) fn new(name: &str, ns: &'static str) -> Self {
        Element {
            ns: Namespace::from_str(ns),
            name: name.to_owned(),
            attributes: Vec::new(),
            nodes: Vec::new(),
        }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.set(name, value);
        self
    }

    pub(crate) fn child(mut self, child: Element) -> Self {
        self.nodes.push(Node::Element(child));
        self
    }

    pub(crate) fn children_from(mut self, children: impl IntoIterator<Item = Element>) -> Self {
        self.nodes.extend(children.into_iter().map(Node::Element));
        self
    }

    pub(crate) fn with_text(mut self, text: impl Into<String>) -> Self {
        self.nodes.push(Node::Text(text.into()));
        self
    }

    pub(crate) fn push(&mut self, child: Element) {
        self.nodes.push(Node::Element(child));
    }

    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.unset(name);
        self.attributes.push(Attribute {
            ns: Namespace::NONE,
            name: name.to_owned(),
            value: value.into(),
        });
    }

    pub(crate) fn unset(&mut self, name: &str) {
        self.attributes.retain(|a| a.name != name || !a.ns.is_none());
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn ns(&self) -> &str {
        &self.ns
    }

    pub(crate) fn is(&self, name: &str, ns: &str) -> bool {
        self.name == name && &*self.ns == ns
    }

    pub(crate) fn attr(&self, name: &str) -> Option<&str> {
        self.attributes
            .iter()
            .find(|a| a.name == name && a.ns.is_none())
            .map(|a| a.value.as_str())
    }

    pub(crate) fn elements(&self) -> impl Iterator<Item = &Element> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }

    pub(crate) fn find(&self, name: &str, ns: &str) -> Option<&Element> {
        self.elements().find(|e| e.is(name, ns))
    }

    pub(crate) fn retain_elements(&mut self, keep: impl Fn(&Element) -> bool) {
        self.nodes.retain(|node| match node {
            Node::Element(element) => keep(element),
            Node::Text(_) => true,
        });
    }

    pub(crate) fn text(&self) -> String {
        let texts = self.nodes.iter().filter_map(|node| match node {
            Node::Text(text) => Some(text.as_str()),
            Node::Element(_) => None,
        });
        texts.collect()
    }

    /// As it stands inside a client stream, whose default namespace is [`NS_CLIENT`].
    pub(crate) fn to_text(&self) -> String {
        let mut out = String::with_capacity(256);
        self.write(NS_CLIENT, &mut out);
        out
    }

    /// Depth is bounded by the reader, so recursion is too.
    fn write(&self, parent_ns: &str, out: &mut String) {
        // Features and errors of the stream: the prefix was declared in the stream header.
        let name = match &*self.ns {
            NS_STREAM => format!("stream:{}", self.name),
            _ => self.name.clone(),
        };
        out.push('<');
        out.push_str(&name);
        let default_ns = if &*self.ns == NS_STREAM { parent_ns } else { &*self.ns };
        if default_ns != parent_ns {
            write_attribute("xmlns", default_ns, out);
        }
        for (index, attribute) in self.attributes.iter().enumerate() {
            attribute.write(index, out);
        }
        if self.nodes.is_empty() {
            out.push_str("/>");
            return;
        }
        out.push('>');
        for node in &self.nodes {
            match node {
                Node::Element(element) => element.write(default_ns, out),
                Node::Text(text) => escape(text, out),
            }
        }
        out.push_str("</");
        out.push_str(&name);
        out.push('>');
    }
}

impl Attribute {
    fn write(&self, index: usize, out: &mut String) {
        if self.ns.is_none() {
            write_attribute(&self.name, &self.value, out);
        } else if self.ns == *Namespace::xml() {
            write_attribute(&format!("xml:{}", self.name), &self.value, out);
        } else {
            write_attribute(&format!("xmlns:n{index}"), &self.ns, out);
            write_attribute(&format!("n{index}:{}", self.name), &self.value, out);
        }
    }
}

fn write_attribute(name: &str, value: &str, out: &mut String) {
    out.push(' ');
    out.push_str(name);
    out.push_str("='");
    escape(value, out);
    out.push('\'');
}

fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&apos;"),
            '"' => out.push_str("&quot;"),
            // Parsers turn them into spaces inside attributes, or lose them.
            '\n' => out.push_str("&#10;"),
            '\r' => out.push_str("&#13;"),
            '\t' => out.push_str("&#9;"),
            other => out.push(other),
        }
    }
}

/// What a stream consists of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    /// The header; children are empty.
    Open(Element),
    /// A whole child of the stream.
    Stanza(Element),
    /// The end tag of the stream.
    Close,
}

/// Reads one stream, from its header on. After a restart a new reader begins.
pub(crate) struct Reader {
    parser: Parser,
    stack: Vec<Element>,
    open: bool,
    bytes: usize,
    bytes_max: usize,
    elements: usize,
}

impl Reader {
    pub(crate) fn new(bytes_max: usize) -> Self {
        let parser = Parser::with_options(Options {
            max_token_length: TOKEN_BYTES_MAX,
            ..Options::default()
        });
        Reader {
            parser,
            stack: Vec::new(),
            open: false,
            bytes: 0,
            bytes_max,
            elements: 0,
        }
    }

    /// The next part of the stream in `input`, which is advanced; `None` when it is used up.
    pub(crate) fn next(&mut self, input: &mut &[u8]) -> Result<Option<Incoming>, XmlError> {
        // The parser would wait for more of what can never become a stream header. White space may still
        // come from before a restart.
        if !self.open && self.bytes == 0 {
            let blank = input.iter().take_while(|b| b.is_ascii_whitespace()).count();
            *input = &input[blank..];
        }
        if !self.open && self.bytes == 0 && input.first().is_some_and(|b| *b != b'<') {
            return Err(XmlError::NotXmpp);
        }
        loop {
            let before = input.len();
            let event = self.parser.parse(input, false);
            self.bytes += before - input.len();
            let event = match event {
                Ok(Some(event)) => event,
                Ok(None) | Err(EndOrError::NeedMoreData) => return self.within(None),
                Err(EndOrError::Error(_)) => return Err(XmlError::NotWellFormed),
            };
            if let Some(incoming) = self.take(event)? {
                let incoming = self.within(Some(incoming))?;
                self.bytes = 0;
                self.elements = 0;
                return Ok(incoming);
            }
            self.within(None)?;
        }
    }

    fn within(&self, incoming: Option<Incoming>) -> Result<Option<Incoming>, XmlError> {
        match self.bytes > self.bytes_max || self.elements > ELEMENTS_MAX {
            true => Err(XmlError::TooLarge),
            false => Ok(incoming),
        }
    }

    fn take(&mut self, event: Event) -> Result<Option<Incoming>, XmlError> {
        match event {
            Event::XmlDeclaration(..) => Ok(None),
            Event::StartElement(_, (ns, name), attributes) => self.start(element(ns, name.as_str(), attributes)?),
            Event::Text(_, text) => self.text(text),
            Event::EndElement(_) => Ok(self.end()),
        }
    }

    fn start(&mut self, element: Element) -> Result<Option<Incoming>, XmlError> {
        if !self.open {
            self.open = element.is("stream", NS_STREAM);
            return if self.open {
                Ok(Some(Incoming::Open(element)))
            } else {
                Err(XmlError::NotXmpp)
            };
        }
        self.elements += 1;
        if self.stack.len() >= DEPTH_MAX {
            return Err(XmlError::TooLarge);
        }
        self.stack.push(element);
        Ok(None)
    }

    fn text(&mut self, text: String) -> Result<Option<Incoming>, XmlError> {
        let Some(element) = self.stack.last_mut() else {
            // White space between stanzas keeps a connection alive (RFC 6120 section 4.6.1).
            let blank = text.bytes().all(|b| b.is_ascii_whitespace());
            self.bytes = 0;
            return if blank { Ok(None) } else { Err(XmlError::NotXmpp) };
        };
        match element.nodes.last_mut() {
            Some(Node::Text(last)) => last.push_str(&text),
            _ => element.nodes.push(Node::Text(text)),
        }
        Ok(None)
    }

    fn end(&mut self) -> Option<Incoming> {
        let Some(element) = self.stack.pop() else {
            return Some(Incoming::Close);
        };
        match self.stack.last_mut() {
            Some(parent) => {
                parent.push(element);
                None
            }
            None => Some(Incoming::Stanza(element)),
        }
    }
}

fn element(ns: Namespace<'static>, name: &str, attributes: AttrMap) -> Result<Element, XmlError> {
    if attributes.len() > ATTRIBUTES_MAX {
        return Err(XmlError::TooLarge);
    }
    let attributes = attributes.into_iter();
    let attributes = attributes.map(|((ns, name), value)| Attribute {
        ns,
        name: name.to_string(),
        value,
    });
    Ok(Element {
        ns,
        name: name.to_owned(),
        attributes: attributes.collect(),
        nodes: Vec::new(),
    })
}

/// Reads a whole client stream and counts its stanzas: the body of a fuzz target.
pub fn read_stream(bytes: &[u8]) -> Result<usize, XmlError> {
    let mut reader = Reader::new(STANZA_BYTES_MAX);
    let mut input = bytes;
    let mut stanzas = 0;
    while let Some(incoming) = reader.next(&mut input)? {
        match incoming {
            Incoming::Open(_) => {}
            Incoming::Stanza(stanza) => {
                let _ = stanza.to_text();
                stanzas += 1;
            }
            Incoming::Close => break,
        }
    }
    Ok(stanzas)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' \
                          xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>";

    fn read(body: &str) -> Result<Vec<Element>, XmlError> {
        let text = format!("{HEADER}{body}");
        let mut reader = Reader::new(STANZA_BYTES_MAX);
        let mut stanzas = Vec::new();
        // Byte by byte: a socket may cut anywhere.
        for byte in text.as_bytes().chunks(1) {
            let mut input = byte;
            while let Some(incoming) = reader.next(&mut input)? {
                if let Incoming::Stanza(stanza) = incoming {
                    stanzas.push(stanza);
                }
            }
        }
        Ok(stanzas)
    }

    #[test]
    fn a_stanza_survives_reading_and_writing() {
        let body = "<iq type='set' xml:lang='de'><q xmlns='urn:x' a='1&apos;2'>a&lt;b<none xmlns=''/></q>\
                    <p:y xmlns:p='urn:y' p:k='&#10;'/></iq>";
        let first = read(body).unwrap();
        let again = read(&first[0].to_text()).unwrap();
        assert_eq!(first, again);
        assert_eq!(first[0].find("q", "urn:x").unwrap().attr("a"), Some("1'2"));
    }

    #[test]
    fn long_text_arrives_whole() {
        let long = "x".repeat(100_000);
        let stanzas = read(&format!("<message><body>{long}</body></message>")).unwrap();
        assert_eq!(stanzas[0].find("body", NS_CLIENT).unwrap().text(), long);
    }

    #[test]
    fn white_space_between_stanzas_is_a_keepalive() {
        assert_eq!(read(" \n<a/> <b/>").unwrap().len(), 2);
        assert_eq!(read("x<a/>").unwrap_err(), XmlError::NotXmpp);
    }

    #[test]
    fn what_streams_forbid_is_refused() {
        for body in [
            "<!DOCTYPE x>",
            "<?pi x?>",
            "<!-- c -->",
            "<a>&own;</a>",
            "<a b='1' b='2'/>",
            "<a></b>",
            "\u{1}",
        ] {
            assert_eq!(read(body).unwrap_err(), XmlError::NotWellFormed, "{body}");
        }
        assert_eq!(read_stream(b"<a/>"), Err(XmlError::NotXmpp));
        assert_eq!(read_stream(b"GET / HTTP/1.1\r\n\r\n"), Err(XmlError::NotXmpp));
    }

    #[test]
    fn bounds_hold() {
        let deep = "<a>".repeat(DEPTH_MAX + 1);
        assert_eq!(read(&deep).unwrap_err(), XmlError::TooLarge);
        let wide: String = (0..=ATTRIBUTES_MAX).map(|n| format!(" a{n}=''")).collect();
        assert_eq!(read(&format!("<a{wide}/>")).unwrap_err(), XmlError::TooLarge);
        let many = "<a/>".repeat(ELEMENTS_MAX);
        assert_eq!(read(&format!("<m>{many}</m>")).unwrap_err(), XmlError::TooLarge);
        let long = "x".repeat(STANZA_BYTES_MAX);
        assert_eq!(read(&format!("<m>{long}")).unwrap_err(), XmlError::TooLarge);
        // White space for ever is not a stanza.
        assert!(read(&" ".repeat(2 * STANZA_BYTES_MAX)).is_ok());
    }
}
