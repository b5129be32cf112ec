//! Whether a content parses as the format its target names: `validate: { format: … }`.
//!
//! A mistake is said with line and column and in words of ours: contents may hold secrets, so none of them is ever quoted.
//! XML is checked by a small checker of our own (well-formedness of UTF-8 without a document type declaration): entities that
//! expand, external references and deep nesting have no place in a check that runs before every write.

use crate::descriptor::spec::Format;
use crate::report::Place;
use std::{collections::BTreeSet, fmt};

/// Elements within elements; more is rejected.
const XML_DEPTH: usize = 256;

/// Why a content is not valid. Display: `not valid yaml: line 2, column 11: …`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The format as it is written in a descriptor.
    pub format: &'static str,
    /// Where, if it can be said.
    pub place: Option<Place>,
    /// What, without any of the content.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not valid {}: ", self.format)?;
        if let Some(place) = self.place {
            write!(f, "line {}, column {}: ", place.line, place.column)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Mistake {}

/// Whether `bytes` parse as `format`.
///
/// # Errors
/// The first [`Mistake`].
pub fn check(format: Format, bytes: &[u8]) -> Result<(), Mistake> {
    let outcome = match format {
        Format::Json => text(bytes).and_then(json),
        Format::Yaml => {
            crate::yaml::check(bytes).map_err(|mistake| (mistake.place, mistake.message))
        }
        Format::Toml => text(bytes).and_then(toml),
        Format::Properties => properties(bytes),
        Format::Xml => text(bytes).and_then(xml),
    };
    outcome.map_err(|(place, message)| Mistake {
        format: word(format),
        place,
        message,
    })
}

/// A format as it is written in a descriptor.
#[must_use]
pub fn word(format: Format) -> &'static str {
    match format {
        Format::Json => "json",
        Format::Yaml => "yaml",
        Format::Toml => "toml",
        Format::Properties => "properties",
        Format::Xml => "xml",
    }
}

type Wrong = (Option<Place>, String);

/// The place of a byte in a text.
fn place(text: &str, at: usize) -> Place {
    let before = text.get(..at).unwrap_or(text);
    let line = before.rsplit('\n').next().unwrap_or_default();
    Place {
        line: before.matches('\n').count() + 1,
        column: line.chars().count() + 1,
    }
}

fn text(bytes: &[u8]) -> Result<&str, Wrong> {
    std::str::from_utf8(bytes).map_err(|error| {
        let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let place = std::str::from_utf8(valid)
            .ok()
            .map(|text| place(text, text.len()));
        (place, "not UTF-8".to_owned())
    })
}

fn json(text: &str) -> Result<(), Wrong> {
    serde_json::from_str::<serde::de::IgnoredAny>(text)
        .map(|_| ())
        .map_err(|error| {
            let said = error.to_string();
            let message = said.split(" at line ").next().unwrap_or_default();
            let line = text.split('\n').nth(error.line().saturating_sub(1));
            // The column is a number of bytes, and 0 where the line has not begun.
            let before = line.and_then(|line| line.get(..error.column().saturating_sub(1)));
            let place = Place {
                line: error.line().max(1),
                column: before.map_or(error.column().max(1), |before| before.chars().count() + 1),
            };
            (Some(place), message.to_owned())
        })
}

fn toml(text: &str) -> Result<(), Wrong> {
    toml::de::DeTable::parse(text).map(|_| ()).map_err(|error| {
        let place = error.span().map(|span| place(text, span.start));
        (place, error.message().to_owned())
    })
}

/// As `java.util.Properties` reads: any byte is a character, and the one thing that can be wrong is a `\u` escape.
fn properties(bytes: &[u8]) -> Result<(), Wrong> {
    let mut continues = false;
    for (number, line) in bytes
        .split(|byte| *byte == b'\n' || *byte == b'\r')
        .enumerate()
    {
        let begin = line
            .iter()
            .position(|byte| !matches!(byte, b' ' | b'\t' | 0x0c));
        let Some(begin) = begin else {
            continues = false;
            continue;
        };
        if !continues && matches!(line.get(begin), Some(b'#' | b'!')) {
            continue;
        }
        continues = false;
        let mut rest = line.iter().enumerate().skip(begin);
        while let Some((column, byte)) = rest.next() {
            if *byte != b'\\' {
                continue;
            }
            match rest.next() {
                None => continues = true,
                Some((_, b'u')) => {
                    let digits = line.get(column + 2..column + 6).unwrap_or_default();
                    if digits.len() < 4 || !digits.iter().all(u8::is_ascii_hexdigit) {
                        // Each line end of two bytes counted twice.
                        let doubled = line_ends_of_two(bytes, number);
                        let place = Place {
                            line: number + 1 - doubled,
                            column: column + 1,
                        };
                        let message = "expected four hexadecimal digits after \\u";
                        return Err((Some(place), message.to_owned()));
                    }
                }
                Some(_) => {}
            }
        }
    }
    Ok(())
}

/// How many of the first `ends` line ends belong to a `\r\n` as its second byte.
fn line_ends_of_two(bytes: &[u8], ends: usize) -> usize {
    let mut before = 0_u8;
    bytes
        .iter()
        .filter_map(|byte| {
            let second = *byte == b'\n' && before == b'\r';
            before = *byte;
            matches!(byte, b'\n' | b'\r').then_some(second)
        })
        .take(ends)
        .filter(|second| *second)
        .count()
}

fn xml(text: &str) -> Result<(), Wrong> {
    let mut reader = Reader {
        text: text.strip_prefix('\u{feff}').unwrap_or(text),
        at: 0,
    };
    reader
        .document()
        .map_err(|message| (Some(place(reader.text, reader.at)), message.to_owned()))
}

/// Reads a text from its beginning; where it stopped is where the mistake is.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn eat(&mut self, word: &str) -> bool {
        let found = self.rest().starts_with(word);
        if found {
            self.at += word.len();
        }
        found
    }

    /// Everything before `end`, which is eaten too.
    fn until(&mut self, end: &str, unclosed: &'static str) -> Result<&'a str, &'static str> {
        let rest = self.rest();
        let length = rest.find(end).ok_or(unclosed)?;
        let inside = rest.get(..length).unwrap_or_default();
        if let Some(at) = inside.find(|c| !is_char(c)) {
            self.at += at;
            return Err("a control character");
        }
        self.at += length + end.len();
        Ok(inside)
    }

    /// Whether there was white space.
    fn space(&mut self) -> bool {
        let rest = self.rest();
        let trimmed = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        self.at += rest.len() - trimmed.len();
        rest.len() != trimmed.len()
    }

    fn name(&mut self) -> Result<&'a str, &'static str> {
        let rest = self.rest();
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let name = rest.get(..end).unwrap_or_default();
        let begins_well = name
            .chars()
            .next()
            .is_some_and(|c| !matches!(c, '-' | '.' | '0'..='9' | '\u{b7}'));
        if !begins_well {
            return Err("expected a name");
        }
        self.at += end;
        Ok(name)
    }

    fn document(&mut self) -> Result<(), &'static str> {
        if self.rest().starts_with("<?xml") && !self.rest().get(5..).is_some_and(begins_with_name) {
            let inside = self.until("?>", "the XML declaration is not closed")?;
            if !inside.contains("version") {
                return Err("the XML declaration has no version");
            }
        }
        self.around()?;
        if self.peek() != Some('<') {
            return Err("expected an element");
        }
        let mut open = Vec::new();
        self.start_tag(&mut open)?;
        while !open.is_empty() {
            self.inside(&mut open)?;
        }
        self.around()?;
        match self.peek() {
            None => Ok(()),
            Some(_) => Err("more than one root element"),
        }
    }

    /// What may stand before and after the root element.
    fn around(&mut self) -> Result<(), &'static str> {
        loop {
            self.space();
            if self.eat("<!--") {
                self.comment()?;
            } else if self.rest().starts_with("<?") {
                self.instruction()?;
            } else if self.rest().starts_with("<!DOCTYPE") {
                return Err("document type declarations are not accepted");
            } else {
                return Ok(());
            }
        }
    }

    fn inside(&mut self, open: &mut Vec<&'a str>) -> Result<(), &'static str> {
        match self.peek() {
            None => Err("the text ends within an element"),
            Some('&') => self.reference(),
            Some('<') if self.eat("<!--") => self.comment(),
            Some('<') if self.eat("<![CDATA[") => self
                .until("]]>", "a CDATA section is not closed")
                .map(|_| ()),
            Some('<') if self.rest().starts_with("<?") => self.instruction(),
            Some('<') if self.rest().starts_with("</") => self.end_tag(open),
            Some('<') => self.start_tag(open),
            Some(']') if self.rest().starts_with("]]>") => Err("]]> outside of a CDATA section"),
            Some(c) if !is_char(c) => Err("a control character"),
            Some(c) => {
                self.at += c.len_utf8();
                Ok(())
            }
        }
    }

    fn comment(&mut self) -> Result<(), &'static str> {
        self.until("--", "a comment is not closed")?;
        if self.eat(">") {
            Ok(())
        } else {
            Err("-- within a comment")
        }
    }

    fn instruction(&mut self) -> Result<(), &'static str> {
        let begin = self.at;
        self.eat("<?");
        if self.name()?.eq_ignore_ascii_case("xml") {
            self.at = begin;
            return Err("an XML declaration that is not at the beginning");
        }
        if !self.rest().starts_with("?>") && !self.space() {
            return Err("expected white space or ?>");
        }
        self.until("?>", "a processing instruction is not closed")
            .map(|_| ())
    }

    fn start_tag(&mut self, open: &mut Vec<&'a str>) -> Result<(), &'static str> {
        if open.len() >= XML_DEPTH {
            return Err("elements are nested too deeply");
        }
        self.eat("<");
        let name = self.name()?;
        let mut attributes = BTreeSet::new();
        loop {
            let spaced = self.space();
            if self.eat("/>") {
                return Ok(());
            }
            if self.eat(">") {
                open.push(name);
                return Ok(());
            }
            if !spaced {
                return Err("expected white space, > or />");
            }
            let begin = self.at;
            let attribute = self.name()?;
            if !attributes.insert(attribute) {
                self.at = begin;
                return Err("the same attribute twice");
            }
            self.space();
            if !self.eat("=") {
                return Err("expected = after an attribute's name");
            }
            self.space();
            self.value()?;
        }
    }

    fn value(&mut self) -> Result<(), &'static str> {
        let quote = match self.peek() {
            Some(quote @ ('"' | '\'')) => quote,
            _ => return Err("expected an attribute's value in quotes"),
        };
        self.at += 1;
        loop {
            match self.peek() {
                None => return Err("an attribute's value is not closed"),
                Some('<') => return Err("< within an attribute's value"),
                Some('&') => self.reference()?,
                Some(c) if !is_char(c) => return Err("a control character"),
                Some(c) => {
                    self.at += c.len_utf8();
                    if c == quote {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn end_tag(&mut self, open: &mut Vec<&'a str>) -> Result<(), &'static str> {
        let begin = self.at;
        self.eat("</");
        let name = self.name()?;
        if open.pop() != Some(name) {
            self.at = begin;
            return Err("an end tag that does not match its start tag");
        }
        self.space();
        if self.eat(">") {
            Ok(())
        } else {
            Err("expected > after an end tag's name")
        }
    }

    /// `&name;` of the five that need no declaration, or a number.
    fn reference(&mut self) -> Result<(), &'static str> {
        const UNKNOWN: &str = "expected &amp; &lt; &gt; &apos; &quot; or a character's number";
        let rest = self.rest();
        let inside = rest
            .get(1..)
            .and_then(|rest| rest.split_once(';'))
            .map(|(inside, _)| inside)
            .ok_or(UNKNOWN)?;
        let number = match inside.strip_prefix('#') {
            None => {
                if !matches!(inside, "amp" | "lt" | "gt" | "apos" | "quot") {
                    return Err(UNKNOWN);
                }
                None
            }
            Some(number) => Some(match number.strip_prefix('x') {
                Some(hex) => (hex, 16),
                None => (number, 10),
            }),
        };
        if let Some((digits, radix)) = number {
            let valid = digits.chars().all(|c| c.is_digit(radix))
                && u32::from_str_radix(digits, radix)
                    .ok()
                    .and_then(char::from_u32)
                    .is_some_and(is_char);
            if !valid {
                return Err("a number that is no character's");
            }
        }
        self.at += inside.len() + 2;
        Ok(())
    }
}

fn begins_with_name(text: &str) -> bool {
    text.chars().next().is_some_and(is_name)
}

/// `Char` of XML 1.0.
fn is_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// `NameChar` of XML 1.0, all beyond Latin-1 taken as letters.
fn is_name(c: char) -> bool {
    matches!(c, ':' | '_' | '-' | '.' | '0'..='9' | 'A'..='Z' | 'a'..='z' | '\u{b7}' | '\u{c0}'..='\u{d6}' | '\u{d8}'..='\u{f6}')
        || (c >= '\u{f8}' && is_char(c) && !c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn said(format: Format, text: &str) -> String {
        match check(format, text.as_bytes()) {
            Ok(()) => "valid".to_owned(),
            Err(mistake) => mistake.to_string(),
        }
    }

    #[test]
    fn what_is_right_is_valid() {
        let deep = format!("{}{}", "<a>".repeat(XML_DEPTH), "</a>".repeat(XML_DEPTH));
        for (format, text) in [
            (Format::Json, "{\"a\": [1, null, \"é\"]}\n"),
            (Format::Yaml, "greeting: hello\n"),
            (Format::Yaml, "a: 1\n---\nb: [2]\n"),
            (Format::Toml, "[a]\nb = 1979-05-27T07:32:00Z\n"),
            (
                Format::Properties,
                "# \\u is fine here\na=\\u00e9\\\\u\nb:c\\\n  d\n",
            ),
            (Format::Properties, ""),
            (
                Format::Xml,
                "\u{feff}<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!-- x -->\n<?pi?><a b='1' c=\"&lt;\"><b/>t&#x41;&amp;<![CDATA[<&]]></a >\n",
            ),
            (Format::Xml, &deep),
        ] {
            assert_eq!(said(format, text), "valid", "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place_and_without_the_content() {
        for (format, text, expected) in [
            (
                Format::Json,
                "{\"a\": 1,\n \"é\": secret}",
                "not valid json: line 2, column 7: expected value",
            ),
            (
                Format::Json,
                "",
                "not valid json: line 1, column 1: EOF while parsing a value",
            ),
            (
                Format::Toml,
                "a = 1\nb = [secret\n",
                "not valid toml: line 2, column 12: unclosed array",
            ),
            (
                Format::Properties,
                "a=1\r\nb=\\u12",
                "not valid properties: line 2, column 3: expected four hexadecimal digits after \\u",
            ),
            (
                Format::Xml,
                "<a>\n <b></c>\n</a>",
                "not valid xml: line 2, column 5: an end tag that does not match its start tag",
            ),
            (
                Format::Xml,
                "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>",
                "not valid xml: line 1, column 1: document type declarations are not accepted",
            ),
            (
                Format::Xml,
                "<a>&b;</a>",
                "not valid xml: line 1, column 4: expected &amp; &lt; &gt; &apos; &quot; or a character's number",
            ),
            (
                Format::Xml,
                "<a>&#0;</a>",
                "not valid xml: line 1, column 4: a number that is no character's",
            ),
            (
                Format::Xml,
                "<a b='1' b='2'/>",
                "not valid xml: line 1, column 10: the same attribute twice",
            ),
            (
                Format::Xml,
                "<a b=1/>",
                "not valid xml: line 1, column 6: expected an attribute's value in quotes",
            ),
            (
                Format::Xml,
                "<a b='<'/>",
                "not valid xml: line 1, column 7: < within an attribute's value",
            ),
            (
                Format::Xml,
                "<a/><b/>",
                "not valid xml: line 1, column 5: more than one root element",
            ),
            (
                Format::Xml,
                "<a>",
                "not valid xml: line 1, column 4: the text ends within an element",
            ),
            (
                Format::Xml,
                "<a><!-- a -- b --></a>",
                "not valid xml: line 1, column 13: -- within a comment",
            ),
            (
                Format::Xml,
                "<a>]]></a>",
                "not valid xml: line 1, column 4: ]]> outside of a CDATA section",
            ),
            (
                Format::Xml,
                " <?xml version='1.0'?><a/>",
                "not valid xml: line 1, column 2: an XML declaration that is not at the beginning",
            ),
            (
                Format::Xml,
                "",
                "not valid xml: line 1, column 1: expected an element",
            ),
            (
                Format::Xml,
                "<a>\u{1}</a>",
                "not valid xml: line 1, column 4: a control character",
            ),
        ] {
            let said = said(format, text);
            assert!(said.starts_with(expected), "{text:?}: {said:?}");
            assert!(!said.contains("secret"), "{said}");
        }
        let yaml = said(Format::Yaml, "greeting: [never closed\n");
        assert!(yaml.starts_with("not valid yaml: line "), "{yaml}");
        let bytes = check(Format::Json, b"{\"a\":\n\"\xff\"}").unwrap_err();
        assert_eq!(
            bytes.to_string(),
            "not valid json: line 2, column 2: not UTF-8"
        );
    }

    #[test]
    fn deep_nesting_is_an_answer_and_not_a_crash() {
        for (format, text) in [
            (Format::Json, "[".repeat(100_000)),
            (Format::Yaml, "[".repeat(100_000)),
            (Format::Toml, format!("a = {}", "[".repeat(100_000))),
            (Format::Xml, "<a>".repeat(100_000)),
        ] {
            assert!(check(format, text.as_bytes()).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_text_stops_the_checker(text in "[<>/!?&;#x a'\"=\\-\\[\\]CDATA\u{e9}\n]{0,60}") {
            _ = check(Format::Xml, text.as_bytes());
            _ = check(Format::Properties, text.as_bytes());
            _ = check(Format::Json, text.as_bytes());
            _ = check(Format::Toml, text.as_bytes());
        }
    }
}
