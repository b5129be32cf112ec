//! What a configuration says: its type, and the values that a template sees of it.
//!
//! The type is what the registry says, unless it says `text`, which it also says where nobody chose one: then the end of the data id
//! decides. Numbers and truth values of YAML are such only where they are written as they are printed (`20`, `true`); `1.10`, `007`
//! or `0x10` stay the text that their author wrote. No mistake quotes any of the content.

use super::formats;
use super::formats::Mistake;
use crate::descriptor::spec::Format;
use crate::yaml;
use crate::yaml::Node;
use serde_json::{Map, Number, Value};

/// Bytes of a content that is taken apart; a longer one can only be put in whole.
pub const LONGEST: usize = 1024 * 1024;

/// The format that a content is in by its type, or by its name; `None` is text of no format we know.
#[must_use]
pub fn format_of(kind: Option<&str>, data_id: &str) -> Option<Format> {
    let named = |name: &str| match name.to_ascii_lowercase().as_str() {
        "json" => Some(Format::Json),
        "yaml" | "yml" => Some(Format::Yaml),
        "toml" => Some(Format::Toml),
        "properties" => Some(Format::Properties),
        "xml" => Some(Format::Xml),
        _ => None,
    };
    match kind {
        Some(kind) if !kind.eq_ignore_ascii_case("text") => named(kind),
        _ => named(data_id.rsplit_once('.')?.1),
    }
}

/// The values of a content; one that is in no format with values is one text.
///
/// # Errors
/// The first [`Mistake`].
pub fn read(format: Option<Format>, bytes: &[u8]) -> Result<Value, Mistake> {
    let word = format.map_or("text", formats::word);
    let wrong = |message: String| Mistake {
        format: word,
        place: None,
        message,
    };
    let whole = || {
        std::str::from_utf8(bytes)
            .map_err(|error| wrong(format!("not UTF-8 after {} bytes", error.valid_up_to())))
    };
    let Some(format) = format.filter(|format| *format != Format::Xml) else {
        return whole().map(Value::from);
    };
    if bytes.len() > LONGEST {
        let length = bytes.len();
        let why = format!("{length} bytes are more than {LONGEST}, which a template is given");
        return Err(wrong(why));
    }
    // It knows the place of what is wrong.
    formats::check(format, bytes)?;
    let text = whole()?;
    match format {
        Format::Json => serde_json::from_str(text).map_err(|_| wrong("it cannot be read".into())),
        Format::Yaml => yaml::parse(text).map(value).map_err(|mistake| Mistake {
            format: word,
            place: mistake.place,
            message: mistake.message,
        }),
        Format::Toml => toml::from_str::<toml::Table>(text)
            .map(|table| of_toml(toml::Value::Table(table)))
            .map_err(|_| wrong("it cannot be read".into())),
        Format::Properties => Ok(properties(text)),
        Format::Xml => Ok(text.into()),
    }
}

fn value(node: Node) -> Value {
    let is_null = node.is_null();
    match node.value {
        yaml::Value::Scalar { .. } if is_null => Value::Null,
        yaml::Value::Scalar { text, plain: true } => scalar(text),
        yaml::Value::Scalar { text, plain: false } => text.into(),
        yaml::Value::Sequence(all) => all.into_iter().map(value).collect(),
        yaml::Value::Mapping(entries) => entries
            .into_iter()
            .map(|entry| (entry.key, value(entry.value)))
            .collect::<Map<_, _>>()
            .into(),
    }
}

/// A number or truth value where it is printed as it is written.
fn scalar(text: String) -> Value {
    match text.as_str() {
        "true" | "True" | "TRUE" => return true.into(),
        "false" | "False" | "FALSE" => return false.into(),
        _ => {}
    }
    let number = (text.parse::<i64>().map(Number::from))
        .or_else(|_| text.parse::<u64>().map(Number::from))
        .ok()
        .or_else(|| Number::from_f64(text.parse().ok()?));
    match number {
        Some(number) if number.to_string() == text => number.into(),
        _ => text.into(),
    }
}

fn of_toml(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        // What JSON has no number for (`inf`) is its word.
        toml::Value::Float(number) => {
            Number::from_f64(number).map_or_else(|| number.to_string().into(), Value::from)
        }
        toml::Value::Boolean(is) => is.into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(all) => all.into_iter().map(of_toml).collect(),
        toml::Value::Table(all) => all
            .into_iter()
            .map(|(key, value)| (key, of_toml(value)))
            .collect::<Map<_, _>>()
            .into(),
    }
}

/// As `java.util.Properties` reads: flat, every value a text, of two with one name the later one.
fn properties(text: &str) -> Value {
    let mut found = Map::new();
    let mut lines = text.split(['\n', '\r']);
    while let Some(line) = lines.next() {
        let line = line.trim_start_matches(BLANKS);
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        let mut whole = line.to_owned();
        while is_continued(&whole) {
            whole.pop();
            let Some(next) = lines.next() else { break };
            // The second half of `\r\n` is no line.
            let next = match next {
                "" if text.contains("\r\n") => lines.next().unwrap_or_default(),
                next => next,
            };
            whole += next.trim_start_matches(BLANKS);
        }
        let (key, value) = halves(&whole);
        found.insert(unescaped(key), unescaped(value).into());
    }
    found.into()
}

const BLANKS: [char; 3] = [' ', '\t', '\u{c}'];

fn is_continued(line: &str) -> bool {
    let bare = line.trim_end_matches('\\');
    (line.len() - bare.len()) % 2 == 1
}

/// The name ends with the first `=`, `:` or blank that no backslash stands before.
fn halves(line: &str) -> (&str, &str) {
    let mut is_escaped = false;
    let end = line.find(|c: char| {
        let ends = !is_escaped && (matches!(c, '=' | ':') || BLANKS.contains(&c));
        is_escaped = c == '\\' && !is_escaped;
        ends
    });
    let (key, rest) = line.split_at(end.unwrap_or(line.len()));
    let rest = rest.trim_start_matches(BLANKS);
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (key, rest.trim_start_matches(BLANKS))
}

fn unescaped(text: &str) -> String {
    let mut units = Vec::with_capacity(text.len());
    let mut letters = text.chars();
    let mut buffer = [0; 2];
    while let Some(letter) = letters.next() {
        let letter = match letter {
            '\\' => match letters.next() {
                Some('u') => {
                    let digits: String = letters.by_ref().take(4).collect();
                    // The format was checked. Two such can be one character.
                    units.push(u16::from_str_radix(&digits, 16).unwrap_or(0xfffd));
                    continue;
                }
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some('f') => '\u{c}',
                Some(other) => other,
                None => continue,
            },
            letter => letter,
        };
        units.extend_from_slice(letter.encode_utf16(&mut buffer));
    }
    String::from_utf16_lossy(&units)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn of(format: Format, text: &str) -> Value {
        read(Some(format), text.as_bytes()).unwrap()
    }

    #[test]
    fn the_registrys_type_counts_and_the_name_where_it_says_text() {
        for (kind, data_id, format) in [
            (Some("yaml"), "a.json", Some(Format::Yaml)),
            (Some("text"), "a.json", Some(Format::Json)),
            (Some("TEXT"), "a.YML", Some(Format::Yaml)),
            (None, "a.b.properties", Some(Format::Properties)),
            (None, "a.toml", Some(Format::Toml)),
            (Some("xml"), "a", Some(Format::Xml)),
            (Some("html"), "a.yaml", None),
            (Some("text"), "a", None),
            (None, "a.conf", None),
        ] {
            assert_eq!(format_of(kind, data_id), format, "{kind:?} {data_id}");
        }
    }

    #[test]
    fn yaml_says_numbers_where_they_are_printed_as_they_are_written() {
        let text = "a: 20\nb: 1.10\nc: 1.5\nd: 007\ne: \"20\"\nf: yes\ng: True\nh: ~\ni: [x, -3]\nj: 0x10\nk: { l: 'm n' }\n";
        let expected = json!({
            "a": 20, "b": "1.10", "c": 1.5, "d": "007", "e": "20", "f": "yes", "g": true, "h": null,
            "i": ["x", -3], "j": "0x10", "k": { "l": "m n" },
        });
        assert_eq!(of(Format::Yaml, text), expected);
    }

    #[test]
    fn every_format_is_the_same_values() {
        let same = json!({ "a": { "b": 1, "c": "x y", "d": [true, 2.5] } });
        assert_eq!(of(Format::Json, &same.to_string()), same);
        let toml = "[a]\nb = 1\nc = \"x y\"\nd = [true, 2.5]\n";
        assert_eq!(of(Format::Toml, toml), same);
        let yaml = "a: { b: 1, c: x y, d: [true, 2.5] }\n";
        assert_eq!(of(Format::Yaml, yaml), same);
        assert_eq!(read(None, b"a: 1").unwrap(), json!("a: 1"));
        assert_eq!(of(Format::Xml, "<a/>"), json!("<a/>"));
    }

    #[test]
    fn properties_are_read_as_java_reads_them() {
        let text = "# no\n! no\n\n a = b c \nspring.url: jdbc:x=y\nbare\nkey\\ with\\:both=v\n\
                    long = one, \\\n    two\\\r\n  three\r\nu = \\u4f60\\ud83d\\ude00\\t\\\\\na=last\n";
        let expected = json!({
            "a": "last", "spring.url": "jdbc:x=y", "bare": "", "key with:both": "v",
            "long": "one, twothree", "u": "你😀\t\\",
        });
        assert_eq!(of(Format::Properties, text), expected);
    }

    #[test]
    fn a_mistake_has_its_place_and_none_of_the_content() {
        for (format, text, place) in [
            (Format::Yaml, "a: 1\nb: [hunter2", 2),
            (Format::Json, "{\n\"a\": hunter2}", 2),
            (Format::Toml, "a = 1\nb = hunter2", 2),
            (Format::Properties, "a=1\nb=\\uhunter2", 2),
            (Format::Yaml, "a: 1\n--- \nb: hunter2\n", 2),
        ] {
            let mistake = read(Some(format), text.as_bytes()).unwrap_err();
            assert_eq!(mistake.place.map(|at| at.line), Some(place), "{mistake}");
            assert!(!mistake.to_string().contains("hunter2"), "{mistake}");
        }
        let long = vec![b' '; LONGEST + 1];
        let said = read(Some(Format::Yaml), &long).unwrap_err().to_string();
        assert!(
            said.contains("1048577 bytes are more than 1048576"),
            "{said}"
        );
        assert!(read(None, &long).is_ok());
        assert!(read(None, b"\xff").is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics_and_yaml_that_is_json_is_the_same(text: String, number: i64) {
            for format in [Format::Json, Format::Yaml, Format::Toml, Format::Properties] {
                _ = read(Some(format), text.as_bytes());
            }
            let json = json!({ "a": [number, text] }).to_string();
            if let Ok(yaml) = read(Some(Format::Yaml), json.as_bytes()) {
                prop_assert_eq!(yaml, of(Format::Json, &json));
            }
        }
    }
}
