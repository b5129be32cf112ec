//! YAML as a tree in which every node knows its place, and the question whether a text is YAML at all.
//!
//! What an operator wrote is not deserialised into types directly, because then the first mistake ends the reading and a
//! scalar forgets how it was written. The tree keeps a scalar's text as it stands (`1.10` is not a number yet) and whether it
//! was quoted, so that whoever reads it can tell `8080` from `"8080"` and show every mistake at once.
//!
//! Everything is bounded before it is built: bytes, nodes, depth, and the text that aliases copy. Tags and several documents
//! are refused; anchors and aliases are copied out within the same limits.

use crate::foreign::Foreign;
use crate::report::Place;
use serde_yaml::granit_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span};
use std::collections::{BTreeMap, HashMap};

/// How deep collections may nest.
pub const MAX_DEPTH: usize = 32;
/// How many nodes a text may have, keys and copies of aliases counted.
pub const MAX_NODES: usize = 50_000;
/// How many aliases a text may use.
pub const MAX_ALIASES: usize = 100;
/// How many bytes a text may have; also how many bytes of scalars its tree may have once aliases are copied out.
pub const MAX_BYTES: usize = 1 << 20;
/// How deep collections of a configuration's content may nest ([`check`] keeps no tree, but its parser keeps a stack).
const MAX_CONTENT_DEPTH: usize = 1_000;
/// How many nodes the aliases of a content may stand for: a few lines can stand for more than any memory holds, and the
/// application that reads them would copy them out.
const MAX_CONTENT_COPIES: usize = 250_000;

/// Why a text is not YAML, or not YAML as it is read here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", .place.map(|at| format!("line {}, column {}: ", at.line, at.column)).unwrap_or_default())]
pub struct Mistake {
    /// Where; `None` when the whole text is meant.
    pub place: Option<Place>,
    /// What is wrong: a lowercase fragment that prints harmlessly.
    pub message: String,
}

impl Mistake {
    fn at(place: Place, message: impl Into<String>) -> Self {
        Self {
            place: Some(place),
            message: message.into(),
        }
    }
}

impl From<ScanError> for Mistake {
    fn from(error: ScanError) -> Self {
        Self::at(
            place(error.marker()),
            Foreign::new(error.info()).to_string(),
        )
    }
}

/// One node of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Where it begins. For the copy of an alias: where the anchored node begins.
    pub place: Place,
    /// How many characters of its first line to underline; 0 for a value that is not there (`key:`).
    pub width: usize,
    /// The last line it stands on.
    pub last_line: usize,
    /// What it is.
    pub value: Value,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text, a number, a truth value or nothing: the reader decides.
    Scalar {
        /// The text, escapes resolved, otherwise as written.
        text: String,
        /// Written without quotes.
        plain: bool,
    },
    /// `[a, b]` or lines with `-`.
    Sequence(Vec<Node>),
    /// `{ a: 1 }` or lines with `a: 1`, in the order of the text; no key twice.
    Mapping(Vec<Entry>),
}

/// One key of a mapping with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key begins.
    pub place: Place,
    /// How many characters of the key to underline.
    pub width: usize,
    /// The value.
    pub value: Node,
}

impl Node {
    /// A scalar that stands in no file (a variable's value), as if written without quotes.
    #[must_use]
    pub fn unplaced(text: impl Into<String>) -> Self {
        Self {
            place: Place { line: 1, column: 1 },
            width: 0,
            last_line: 1,
            value: Value::Scalar {
                text: text.into(),
                plain: true,
            },
        }
    }

    /// Whether nothing is written: an empty value, `~` or `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true }
            if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }
}

/// Reads one document. An empty text is a null node.
///
/// # Errors
///
/// The first mistake: not YAML, a key twice, a key that is no text, a tag, a second document, a limit.
pub fn parse(text: &str) -> Result<Node, Mistake> {
    if text.len() > MAX_BYTES {
        return Err(Mistake {
            place: None,
            message: format!("{} bytes are more than {MAX_BYTES}", text.len()),
        });
    }
    let mut builder = Builder::default();
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event?;
        if matches!(event, Event::DocumentStart(..)) {
            documents += 1;
            if documents > 1 {
                return Err(Mistake::at(
                    place(&span.start),
                    "a second document begins here, only one is read",
                ));
            }
        }
        builder.take(event, span)?;
    }
    Ok(builder.root.unwrap_or_else(|| Node::unplaced("")))
}

/// Whether a configuration's content is well-formed YAML, one document or several; what it says is not looked at. Nothing is
/// copied out, aliases are only counted.
///
/// # Errors
///
/// The first mistake.
pub fn check(bytes: &[u8]) -> Result<(), Mistake> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let good = String::from_utf8_lossy(good);
        let last = good.rsplit('\n').next().unwrap_or_default();
        Mistake::at(
            Place {
                line: good.matches('\n').count() + 1,
                column: last.chars().count() + 1,
            },
            "not UTF-8",
        )
    })?;
    // The anchor of each open collection with the nodes in it so far, and what each anchor stands for.
    let mut open: Vec<(usize, usize)> = Vec::new();
    let mut stands_for: HashMap<usize, usize> = HashMap::new();
    let mut copies = 0_usize;
    for event in Parser::new_from_str(text) {
        let (event, span) = event?;
        let at = place(&span.start);
        let (anchor, nodes) = match event {
            Event::SequenceStart(_, anchor, _) | Event::MappingStart(_, anchor, _) => {
                if open.len() >= MAX_CONTENT_DEPTH {
                    return Err(Mistake::at(
                        at,
                        format!("nested deeper than {MAX_CONTENT_DEPTH} levels"),
                    ));
                }
                open.push((anchor, 1));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => open.pop().unwrap_or_default(),
            Event::Scalar(_, _, anchor, _) => (anchor, 1),
            Event::Alias(anchor) => {
                let Some(nodes) = stands_for.get(&anchor) else {
                    return Err(Mistake::at(at, "an alias inside of what it stands for"));
                };
                copies = copies.saturating_add(*nodes);
                if copies > MAX_CONTENT_COPIES {
                    return Err(Mistake::at(
                        at,
                        format!("aliases stand for more than {MAX_CONTENT_COPIES} values"),
                    ));
                }
                (0, *nodes)
            }
            _ => continue,
        };
        if anchor > 0 {
            stands_for.insert(anchor, nodes);
        }
        if let Some((_, above)) = open.last_mut() {
            *above = above.saturating_add(nodes);
        }
    }
    Ok(())
}

fn place(marker: &Marker) -> Place {
    Place {
        line: marker.line().max(1),
        column: marker.col() + 1,
    }
}

/// A collection that is being filled.
struct Open {
    place: Place,
    width: usize,
    anchor: usize,
    /// Levels below it, so far.
    height: usize,
    nodes: usize,
    bytes: usize,
    inside: Inside,
}

enum Inside {
    Sequence(Vec<Node>),
    Mapping {
        entries: Vec<Entry>,
        /// Where each key was first.
        seen: BTreeMap<String, Place>,
        /// A key whose value comes next.
        key: Option<(String, Place, usize)>,
    },
}

/// A finished node with what a copy of it costs.
#[derive(Clone)]
struct Finished {
    node: Node,
    height: usize,
    nodes: usize,
    bytes: usize,
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Finished>,
    root: Option<Node>,
    nodes: usize,
    bytes: usize,
    aliases: usize,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Mistake> {
        let at = place(&span.start);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                refuse_tag(tag.is_some(), &span)?;
                self.pay(1, text.len(), at)?;
                let bytes = text.len();
                let width = first_line_width(&span);
                // The parser says `~` for a value that is not there.
                let text = if width == 0 && text == "~" {
                    "".into()
                } else {
                    text
                };
                let node = Node {
                    place: at,
                    width,
                    last_line: span.end.line().max(at.line),
                    value: Value::Scalar {
                        text: text.into_owned(),
                        plain: style == ScalarStyle::Plain,
                    },
                };
                self.finish(
                    Finished {
                        node,
                        height: 0,
                        nodes: 1,
                        bytes,
                    },
                    anchor,
                )
            }
            Event::SequenceStart(_, anchor, tag) => {
                refuse_tag(tag.is_some(), &span)?;
                self.begin(at, &span, anchor, Inside::Sequence(Vec::new()))
            }
            Event::MappingStart(_, anchor, tag) => {
                refuse_tag(tag.is_some(), &span)?;
                let inside = Inside::Mapping {
                    entries: Vec::new(),
                    seen: BTreeMap::new(),
                    key: None,
                };
                self.begin(at, &span, anchor, inside)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(&span),
            Event::Alias(anchor) => {
                self.aliases += 1;
                if self.aliases > MAX_ALIASES {
                    return Err(Mistake::at(at, format!("more than {MAX_ALIASES} aliases")));
                }
                let Some(copy) = self.anchors.get(&anchor) else {
                    return Err(Mistake::at(at, "an alias inside of what it stands for"));
                };
                let (nodes, bytes, height) = (copy.nodes, copy.bytes, copy.height);
                self.pay(nodes, bytes, at)?;
                if self.open.len() + height > MAX_DEPTH {
                    return Err(too_deep(at));
                }
                match self.anchors.get(&anchor).cloned() {
                    Some(copy) => self.finish(copy, 0),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn pay(&mut self, nodes: usize, bytes: usize, at: Place) -> Result<(), Mistake> {
        self.nodes = self.nodes.saturating_add(nodes);
        self.bytes = self.bytes.saturating_add(bytes);
        if self.nodes > MAX_NODES {
            return Err(Mistake::at(at, format!("more than {MAX_NODES} values")));
        }
        if self.bytes > MAX_BYTES {
            return Err(Mistake::at(
                at,
                format!("more than {MAX_BYTES} bytes of text once aliases are copied out"),
            ));
        }
        Ok(())
    }

    fn begin(
        &mut self,
        at: Place,
        span: &Span,
        anchor: usize,
        inside: Inside,
    ) -> Result<(), Mistake> {
        self.pay(1, 0, at)?;
        if self.open.len() >= MAX_DEPTH {
            return Err(too_deep(at));
        }
        if let Some(Open {
            inside: Inside::Mapping { key: None, .. },
            ..
        }) = self.open.last()
        {
            return Err(Mistake::at(at, "a key must be text, found a collection"));
        }
        self.open.push(Open {
            place: at,
            width: first_line_width(span),
            anchor,
            height: 1,
            nodes: 1,
            bytes: 0,
            inside,
        });
        Ok(())
    }

    fn end(&mut self, span: &Span) -> Result<(), Mistake> {
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        let value = match open.inside {
            Inside::Sequence(items) => Value::Sequence(items),
            Inside::Mapping { entries, .. } => Value::Mapping(entries),
        };
        let node = Node {
            place: open.place,
            width: open.width,
            last_line: span.end.line().max(open.place.line),
            value,
        };
        self.finish(
            Finished {
                node,
                height: open.height,
                nodes: open.nodes,
                bytes: open.bytes,
            },
            open.anchor,
        )
    }

    /// Hands a finished node to the collection it stands in.
    fn finish(&mut self, finished: Finished, anchor: usize) -> Result<(), Mistake> {
        if anchor != 0 {
            self.anchors.insert(anchor, finished.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(finished.node);
            return Ok(());
        };
        open.height = open.height.max(finished.height + 1);
        open.nodes = open.nodes.saturating_add(finished.nodes);
        open.bytes = open.bytes.saturating_add(finished.bytes);
        let node = finished.node;
        match &mut open.inside {
            Inside::Sequence(items) => items.push(node),
            Inside::Mapping { entries, seen, key } => match key.take() {
                Some((key, place, width)) => entries.push(Entry {
                    key,
                    place,
                    width,
                    value: node,
                }),
                None => {
                    let Value::Scalar { text, .. } = node.value else {
                        return Err(Mistake::at(node.place, "a key must be text"));
                    };
                    if let Some(first) = seen.get(&text) {
                        return Err(Mistake::at(
                            node.place,
                            format!(
                                "key `{}` is written twice, first in line {}",
                                Foreign::new(text),
                                first.line
                            ),
                        ));
                    }
                    seen.insert(text.clone(), node.place);
                    *key = Some((text, node.place, node.width));
                }
            },
        }
        Ok(())
    }
}

fn refuse_tag(tagged: bool, span: &Span) -> Result<(), Mistake> {
    if tagged {
        let at = span.tag_start().unwrap_or(span.start);
        return Err(Mistake::at(place(&at), "tags (`!…`) are not read"));
    }
    Ok(())
}

fn too_deep(at: Place) -> Mistake {
    Mistake::at(at, format!("nested deeper than {MAX_DEPTH} levels"))
}

/// Characters on the first line of a span; a span over several lines is underlined at its first character.
fn first_line_width(span: &Span) -> usize {
    if span.start.line() == span.end.line() {
        span.end.col().saturating_sub(span.start.col())
    } else {
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(line: usize, column: usize) -> Place {
        Place { line, column }
    }

    fn mistake(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    fn entries(node: &Node) -> &[Entry] {
        match &node.value {
            Value::Mapping(entries) => entries,
            other => panic!("{other:?} is no mapping"),
        }
    }

    #[test]
    fn every_node_knows_its_place_in_characters() {
        let node = parse("名: { é: [1, 'zwei'] }\nb:\n  - x\n").unwrap();
        let top = entries(&node);
        assert_eq!((top[0].place, top[0].width), (at(1, 1), 1));
        let inner = entries(&top[0].value);
        assert_eq!((inner[0].key.as_str(), inner[0].place), ("é", at(1, 6)));
        let Value::Sequence(items) = &inner[0].value.value else {
            panic!("a sequence")
        };
        assert_eq!((items[1].place, items[1].width), (at(1, 13), 6));
        assert_eq!(top[1].place, at(2, 1));
    }

    #[test]
    fn a_scalar_keeps_its_text_and_tells_whether_it_was_quoted() {
        let node = parse("a: 1.10\nb: \"8080\"\nc: 0640\nd:\ne: ~\nf: \"\"\n").unwrap();
        let shown: Vec<_> = entries(&node)
            .iter()
            .map(|entry| match &entry.value.value {
                Value::Scalar { text, plain } => (text.as_str(), *plain, entry.value.is_null()),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("1.10", true, false),
                ("8080", false, false),
                ("0640", true, false),
                ("", true, true),
                ("~", true, true),
                ("", false, false)
            ]
        );
    }

    #[test]
    fn what_is_not_read_is_refused_with_its_place() {
        insta::assert_snapshot!(
            [
                "a: 1\nb: 2\na: 3\n",
                "a: 1\n---\nb: 2\n",
                "a: !!int 3\n",
                "? [a]\n: b\n",
                "a: &x [*x]\n",
                "a: *nowhere\n",
                "a: [1, 2\nb: 3\n",
                "a:\n\t- b\n",
                "a: b: c\n",
                "\"a\\u001b[2J\": 1\n\"a\\u001b[2J\": 1\n",
            ]
            .map(mistake)
            .join("\n"),
            @r"
        line 3, column 1: key `a` is written twice, first in line 1
        line 2, column 1: a second document begins here, only one is read
        line 1, column 4: tags (`!…`) are not read
        line 1, column 3: a key must be text, found a collection
        line 1, column 8: an alias inside of what it stands for
        line 1, column 4: while parsing node, found unknown anchor
        line 2, column 2: illegal placement of ':' indicator
        line 2, column 2: tabs disallowed within this context (block indentation)
        line 1, column 5: mapping values are not allowed in this context
        line 2, column 1: key `a\u{1b}[2J` is written twice, first in line 1
        "
        );
    }

    #[test]
    fn an_alias_is_a_copy_that_keeps_the_place_of_its_anchor() {
        let node = parse("a: &x { k: v }\nb: *x\n").unwrap();
        let top = entries(&node);
        assert_eq!(top[0].value, top[1].value);
    }

    #[test]
    fn a_bomb_of_aliases_is_refused_before_it_is_copied() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for n in 1..12 {
            let before = format!("*a{}", n - 1);
            bomb += &format!("a{n}: &a{n} [{}]\n", [before.as_str(); 10].join(","));
        }
        assert!(mistake(&bomb).contains("more than 50000 values"));

        let long = "x".repeat(11_000);
        let many = format!("a: &a {long}\nb: [{}]\n", ["*a"; 100].join(","));
        assert!(mistake(&many).contains("bytes of text"));
    }

    #[test]
    fn each_limit_holds_what_is_at_it_and_not_one_more() {
        let aliases = |count| format!("a: &a x\nb: [{}]\n", vec!["*a"; count].join(","));
        assert!(parse(&aliases(MAX_ALIASES)).is_ok());
        assert!(mistake(&aliases(MAX_ALIASES + 1)).contains("more than 100 aliases"));
        // The list itself is one.
        let nodes = |count| format!("[{}]", vec!["1"; count - 1].join(","));
        assert!(parse(&nodes(MAX_NODES)).is_ok());
        assert!(mistake(&nodes(MAX_NODES + 1)).contains("more than 50000 values"));
        let bytes = |count: usize| format!("a: {}", "x".repeat(count - 3));
        assert!(parse(&bytes(MAX_BYTES)).is_ok());
        assert!(mistake(&bytes(MAX_BYTES + 1)).contains("1048577 bytes"));
    }

    #[test]
    fn depth_is_limited_by_flow_block_and_alias_alike() {
        assert!(parse(&("[".repeat(32) + &"]".repeat(32))).is_ok());
        assert!(mistake(&("[".repeat(33) + &"]".repeat(33))).contains("deeper than 32"));
        assert!(mistake(&"- ".repeat(40)).contains("deeper than 32"));
        let half = format!("a: &a {}{}\n", "[".repeat(20), "]".repeat(20));
        let more = format!("b: {}*a{}\n", "[".repeat(20), "]".repeat(20));
        assert!(mistake(&(half + &more)).contains("deeper than 32"));
    }

    #[test]
    fn an_alias_bomb_in_a_content_is_rejected_without_being_copied_and_a_large_content_is_not() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for n in 1..30 {
            let before = format!("*a{}", n - 1);
            bomb += &format!("a{n}: &a{n} [{}]\n", [before.as_str(); 10].join(","));
        }
        let said = check(bomb.as_bytes()).unwrap_err().to_string();
        assert!(
            said.starts_with("line 6, ") && said.contains("more than 250000 values"),
            "{said}"
        );
        let endless = check(b"a: &a [*a]\n").unwrap_err().to_string();
        assert!(
            endless.contains("inside of what it stands for"),
            "{endless}"
        );
        // Merge keys and defaults are what aliases are for.
        let usual = "defaults: &d { a: 1, b: 2 }\n".to_owned()
            + &(0..5000)
                .map(|n| format!("s{n}: {{ <<: *d, c: {n} }}\n"))
                .collect::<String>();
        assert_eq!(check(usual.as_bytes()), Ok(()));
        assert_eq!(check("- 1\n".repeat(300_000).as_bytes()), Ok(()));
    }

    #[test]
    fn content_may_be_several_documents_but_must_be_yaml() {
        assert_eq!(check(b"a: 1\n---\nb: 2\n"), Ok(()));
        assert_eq!(check(b""), Ok(()));
        assert_eq!(
            check(b"a: 1\nb: \xff\n").unwrap_err().to_string(),
            "line 2, column 4: not UTF-8"
        );
        assert_eq!(check(b"a: 1\nb: [1\n").unwrap_err().place.unwrap().line, 2);
        assert!(check("[".repeat(1_000_000).as_bytes()).is_err());
        assert!(check("- ".repeat(500_000).as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[ \\-:\\[\\]{}&*a-c!|>'\"\n\t#,?%\\\\é~0]{0,80}") {
            if let Ok(node) = parse(&text) {
                prop_assert!(node.place.line >= 1 && node.place.column >= 1);
                prop_assert_eq!(check(text.as_bytes()), Ok(()), "what is read is well-formed");
            }
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            if let Err(mistake) = check(&bytes) {
                prop_assert!(mistake.to_string().chars().all(|c| !c.is_control()));
            }
        }
    }
}
