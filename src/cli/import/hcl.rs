//! HCL as Consul and consul-template write it: assignments and blocks of texts, numbers, truth values, lists and objects.
//!
//! Expressions (calls, references, conditions) are no part of those files and are an error with their line. `${…}` inside a text
//! stays as it is: it is their business, not ours. Blocks that come several times are entries with the same key.

use crate::foreign::Foreign;
use crate::report::Place;
use crate::yaml::{Entry, MAX_DEPTH, Mistake, Node, Value};

/// Reads a file.
///
/// # Errors
/// The first [`Mistake`].
pub(super) fn parse(text: &str) -> Result<Node, Mistake> {
    let mut reader = Reader {
        rest: text,
        place: Place { line: 1, column: 1 },
        depth: 0,
    };
    let place = reader.place;
    let entries = reader.entries(None)?;
    Ok(node(place, Value::Mapping(entries)))
}

fn node(place: Place, value: Value) -> Node {
    Node {
        place,
        width: 0,
        last_line: place.line,
        value,
    }
}

struct Reader<'a> {
    rest: &'a str,
    place: Place,
    depth: usize,
}

type Read<T> = Result<T, Mistake>;

impl<'a> Reader<'a> {
    fn wrong<T>(&self, message: impl Into<String>) -> Read<T> {
        Err(Mistake {
            place: Some(self.place),
            message: message.into(),
        })
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn take(&mut self) -> Option<char> {
        let mut signs = self.rest.chars();
        let sign = signs.next()?;
        self.rest = signs.as_str();
        if sign == '\n' {
            self.place = Place {
                line: self.place.line + 1,
                column: 1,
            };
        } else {
            self.place.column += 1;
        }
        Some(sign)
    }

    fn take_while(&mut self, is_part: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        let (part, _) = self.rest.split_at(end);
        for _ in part.chars() {
            self.take();
        }
        part
    }

    /// Blanks and comments; line ends too, where they mean nothing.
    fn skip(&mut self, lines: bool) -> Read<()> {
        loop {
            self.take_while(|c| matches!(c, ' ' | '\t' | '\r') || (lines && c == '\n'));
            if self.rest.starts_with('#') || self.rest.starts_with("//") {
                self.take_while(|c| c != '\n');
            } else if self.rest.starts_with("/*") {
                while !self.rest.starts_with("*/") {
                    if self.take().is_none() {
                        return self.wrong("a comment without its end");
                    }
                }
                self.take();
                self.take();
            } else {
                return Ok(());
            }
        }
    }

    fn deeper(&mut self) -> Read<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.wrong(format!("nested deeper than {MAX_DEPTH}"));
        }
        Ok(())
    }

    /// Assignments and blocks up to `end`.
    fn entries(&mut self, end: Option<char>) -> Read<Vec<Entry>> {
        self.deeper()?;
        let mut entries = Vec::new();
        loop {
            self.skip(true)?;
            while self.peek() == Some(',') {
                self.take();
                self.skip(true)?;
            }
            if self.peek() == end {
                self.take();
                break;
            }
            if self.peek().is_none() {
                return self.wrong("a `}` is missing");
            }
            let place = self.place;
            let mut key = self.key()?;
            self.skip(false)?;
            // Labels of a block belong to its name.
            while matches!(self.peek(), Some('"')) {
                key = format!("{key} {}", self.quoted()?);
                self.skip(false)?;
            }
            let value = match self.peek() {
                Some('=' | ':') => {
                    self.take();
                    self.skip(true)?;
                    self.value()?
                }
                Some('{') => {
                    let place = self.place;
                    self.take();
                    node(place, Value::Mapping(self.entries(Some('}'))?))
                }
                _ => return self.wrong("`=` or `{` was to come"),
            };
            entries.push(Entry {
                width: key.chars().count(),
                key,
                place,
                value,
            });
        }
        self.depth -= 1;
        Ok(entries)
    }

    fn key(&mut self) -> Read<String> {
        if self.peek() == Some('"') {
            return self.quoted();
        }
        let word = self.take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'));
        if word.is_empty() {
            let sign = self.peek().map(String::from).unwrap_or_default();
            return self.wrong(format!(
                "`{}` is no beginning of a name",
                Foreign::new(sign)
            ));
        }
        Ok(word.to_owned())
    }

    fn value(&mut self) -> Read<Node> {
        let place = self.place;
        let value = match self.peek() {
            Some('"') => Value::Scalar {
                text: self.quoted()?,
                plain: false,
            },
            Some('<') if self.rest.starts_with("<<") => Value::Scalar {
                text: self.heredoc()?,
                plain: false,
            },
            Some('[') => {
                self.take();
                Value::Sequence(self.items()?)
            }
            Some('{') => {
                self.take();
                Value::Mapping(self.entries(Some('}'))?)
            }
            _ => {
                let word =
                    self.take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '+'));
                let is_number = word.starts_with(|c: char| c.is_ascii_digit() || c == '-');
                if !is_number && !matches!(word, "true" | "false" | "null") {
                    return self.wrong(
                        "a text in quotes, a number, true, false, a list or an object was to come",
                    );
                }
                Value::Scalar {
                    text: word.to_owned(),
                    plain: true,
                }
            }
        };
        self.skip(false)?;
        match self.peek() {
            None | Some('\n' | ',' | '}' | ']') => Ok(node(place, value)),
            // The next name on the same line is allowed where the value could not go on.
            Some(next) if next.is_alphabetic() || next == '_' => Ok(node(place, value)),
            Some(_) => self.wrong("something behind the value: expressions are not read"),
        }
    }

    fn items(&mut self) -> Read<Vec<Node>> {
        self.deeper()?;
        let mut items = Vec::new();
        loop {
            self.skip(true)?;
            if self.peek() == Some(']') {
                self.take();
                break;
            }
            items.push(self.value()?);
            self.skip(true)?;
            match self.peek() {
                Some(',') => _ = self.take(),
                Some(']') => {}
                _ => return self.wrong("`,` or `]` was to come"),
            }
        }
        self.depth -= 1;
        Ok(items)
    }

    fn quoted(&mut self) -> Read<String> {
        let begin = self.place;
        self.take();
        let mut text = String::new();
        // Inside of `${…}` a quote ends nothing.
        let mut inside = 0_usize;
        loop {
            match self.take() {
                Some('"') if inside == 0 => return Ok(text),
                Some('\\') if inside == 0 => text.push(match self.take() {
                    Some('n') => '\n',
                    Some('r') => '\r',
                    Some('t') => '\t',
                    Some(same @ ('"' | '\\')) => same,
                    Some('u') => self.by_number()?,
                    _ => return self.wrong("an escape that is not known"),
                }),
                Some('\n') if inside == 0 => {
                    self.place = begin;
                    return self.wrong("a text without its closing quote");
                }
                Some(sign) => {
                    if sign == '{' && (inside > 0 || text.ends_with('$')) {
                        inside += 1;
                    } else if inside > 0 && sign == '}' {
                        inside -= 1;
                    }
                    text.push(sign);
                }
                None => {
                    self.place = begin;
                    return self.wrong("a text without its closing quote");
                }
            }
        }
    }

    fn by_number(&mut self) -> Read<char> {
        let mut number = String::new();
        for _ in 0..4 {
            number.extend(self.take());
        }
        let sign = u32::from_str_radix(&number, 16)
            .ok()
            .and_then(char::from_u32);
        match sign {
            Some(sign) => Ok(sign),
            None => self.wrong("\\u wants four hexadecimal digits of a character"),
        }
    }

    fn heredoc(&mut self) -> Read<String> {
        let begin = self.place;
        self.take();
        self.take();
        let indented = self.peek() == Some('-');
        if indented {
            self.take();
        }
        let word = self.take_while(|c| c.is_alphanumeric() || c == '_');
        self.take_while(|c| c == '\r');
        if word.is_empty() || self.take() != Some('\n') {
            return self.wrong("`<<WORD` and the end of the line was to come");
        }
        let mut lines = Vec::new();
        loop {
            let line = self.take_while(|c| c != '\n');
            if line.trim() == word {
                break;
            }
            if self.take().is_none() {
                self.place = begin;
                return self.wrong(format!("no line has the end `{word}` of this text"));
            }
            lines.push(line);
        }
        let blanks = |line: &&str| line.len() - line.trim_start().len();
        let margin = if indented {
            let full = lines.iter().filter(|line| !line.trim().is_empty());
            full.map(blanks).min().unwrap_or(0)
        } else {
            0
        };
        let mut text = String::new();
        for line in lines {
            text.push_str(line.get(margin..).unwrap_or_default());
            text.push('\n');
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(node: &Node) -> String {
        match &node.value {
            Value::Scalar { text, .. } => format!("{text:?}"),
            Value::Sequence(items) => {
                let items: Vec<String> = items.iter().map(shown).collect();
                format!("[{}]", items.join(" "))
            }
            Value::Mapping(entries) => {
                let all: Vec<String> = entries
                    .iter()
                    .map(|e| format!("{}@{}={}", e.key, e.place.line, shown(&e.value)))
                    .collect();
                format!("{{{}}}", all.join(" "))
            }
        }
    }

    #[test]
    fn what_consul_writes_is_read_with_its_lines() {
        let text = "# c\nservice {\n  name = \"web\" // x\n  port = 80\n  tags = [\"a\",\n \"b\", ]\n  meta { v = \"1\", \"k\" = true }\n}\nservice { name = \"two\" }\n/* y */ t = <<-EOF\n    a\n      b\n    EOF\nx = \"${f(\"q\")} \\\"\" y = 2\n";
        assert_eq!(
            shown(&parse(text).unwrap()),
            r#"{service@2={name@3="web" port@4="80" tags@5=["a" "b"] meta@7={v@7="1" k@7="true"}} service@9={name@9="two"} t@10="a\n  b\n" x@14="${f(\"q\")} \"" y@14="2"}"#
        );
    }

    #[test]
    fn what_is_not_read_is_an_error_with_its_place() {
        for (text, words) in [
            ("a = b", "line 1, column 6: a text in quotes"),
            (
                "\n  a = \"x",
                "line 2, column 7: a text without its closing quote",
            ),
            ("a {", "a `}` is missing"),
            ("a = 1 + 2", "expressions are not read"),
            ("a = \"b\" == \"c\"", "expressions are not read"),
            ("a = <<X\nb\n", "no line has the end `X`"),
            ("}", "no beginning of a name"),
            ("a", "`=` or `{`"),
        ] {
            let said = parse(text).unwrap_err().to_string();
            assert!(said.contains(words), "{text}: {said}");
        }
        let deep = "a = ".to_owned() + &"[".repeat(100);
        assert!(parse(&deep).unwrap_err().to_string().contains("deeper"));
    }

    proptest! {
        #[test]
        fn it_ends_whatever_it_is_given(text in "[a-z{}\\[\\]=\"\\\\<\n ,$#/*-]{0,200}") {
            _ = parse(&text);
        }
    }
}
