//! Templates that an operator writes for lists of instances and for configurations: minijinja, with nothing in it that somebody
//! who writes to the registry could use.
//!
//! A template is a local file's text; it can include no other one, and what comes from a registry is never read as one. Names
//! that are not there are errors, and so is an endless loop (by fuel) or a huge output. Text from a registry (metadata, the values
//! of a configuration and the names they have in it) is a value of its own kind, which prints only while it is made of letters
//! that mean nothing in any format; anything else stops the rendering, until the template says how it is to be quoted:
//! `{{ one.metadata.zone | quote("json") }}`. A whole configuration goes in as it came where the template says so: `{{ raw("db") }}`.

use minijinja::value::{Enumerator, Object, ObjectRepr, ValueKind};
use minijinja::{Environment, Error as Inner, ErrorKind, UndefinedBehavior, Value};
use std::{
    collections::BTreeMap,
    fmt,
    io::{self, Write},
    sync::Arc,
};

/// Bytes of a template.
pub const LONGEST: usize = 256 * 1024;
/// Bytes of what comes out.
const MOST_OUTPUT: usize = 16 * 1024 * 1024;
/// Instructions of one rendering.
const FUEL: u64 = 1_000_000;
/// Stands in an output for text that was not quoted, whatever way it came there.
const UNQUOTED: char = '\0';
/// Puts a whole source in as it came.
const RAW: &str = "raw";
/// Names that mean something in every template, hence are no names of sources.
pub const RESERVED: [&str; 12] = [
    RAW,
    "range",
    "dict",
    "debug",
    "namespace",
    "loop",
    "self",
    "super",
    "caller",
    "true",
    "false",
    "none",
];
/// Of a metadata key.
const LONGEST_KEY: usize = 128;

/// Why a template cannot be rendered; a line where one is known, never a value.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl From<Inner> for Error {
    fn from(error: Inner) -> Self {
        let what = match error.kind() {
            ErrorKind::OutOfFuel => format!("it takes more than {FUEL} steps"),
            ErrorKind::WriteFailure => format!("more than {MOST_OUTPUT} bytes come out"),
            kind => match error.detail() {
                Some(detail) => detail.to_owned(),
                None => kind.to_string(),
            },
        };
        Self(match error.line() {
            Some(line) => format!("line {line}: {what}"),
            None => what,
        })
    }
}

/// What a template is given.
#[derive(Clone, Debug)]
pub struct List {
    /// Service, without the group.
    pub service: String,
    /// Group.
    pub group: String,
    /// Namespace id.
    pub namespace: String,
    /// Sorted.
    pub instances: Vec<Instance>,
}

/// One configuration of several.
#[derive(Clone, Debug)]
pub struct Source {
    /// As it came.
    pub text: Arc<str>,
    /// What it says.
    pub value: serde_json::Value,
}

/// One instance, as a template sees it.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Address.
    pub ip: String,
    /// Port.
    pub port: u16,
    /// `ip:port`, an address of IPv6 in brackets.
    pub address: String,
    /// Weight.
    pub weight: f64,
    /// Cluster.
    pub cluster: String,
    /// What its registrant wrote.
    pub metadata: BTreeMap<String, String>,
}

/// Text from the registry that means something somewhere.
struct Foreign(String);

impl fmt::Debug for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{UNQUOTED}")
    }
}

impl Object for Foreign {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An error here would be a panic in whoever formats; so the output says it, and is looked at as a whole.
        write!(f, "{UNQUOTED}")
    }
}

/// What a configuration says under names that its author chose: they are text from the registry as well.
struct Mapping(BTreeMap<String, Value>);

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{UNQUOTED}")
    }
}

impl Object for Mapping {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let foreign = key.downcast_object_ref::<Foreign>();
        let key = foreign.map_or_else(|| key.as_str(), |foreign| Some(&foreign.0))?;
        self.0.get(key).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.keys().cloned().map(foreign).collect())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{UNQUOTED}")
    }
}

/// What a configuration says. Its depth is bounded by whoever read it.
fn said(value: serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(is) => Value::from(is),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::from(number),
            (None, Some(number)) => Value::from(number),
            _ => Value::from(number.as_f64().unwrap_or_default()),
        },
        serde_json::Value::String(text) => foreign(text),
        serde_json::Value::Array(all) => {
            Value::from_object(all.into_iter().map(said).collect::<Vec<_>>())
        }
        serde_json::Value::Object(all) => Value::from_object(Mapping(
            all.into_iter()
                .map(|(name, value)| (name, said(value)))
                .collect(),
        )),
    }
}

/// A text that means nothing in any format is a string; any other is to be quoted.
fn foreign(text: String) -> Value {
    let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"._:@/+=,-".contains(&byte);
    if text.bytes().all(harmless) {
        Value::from(text)
    } else {
        Value::from_object(Foreign(text))
    }
}

fn refused(what: &'static str) -> Inner {
    Inner::new(ErrorKind::InvalidOperation, what)
}

/// Truth values as every format of configuration writes them; nothing is not printed as if it were something.
fn plain(value: &Value) -> Result<Option<&'static str>, Inner> {
    match value.kind() {
        ValueKind::Bool if value.is_true() => Ok(Some("true")),
        ValueKind::Bool => Ok(Some("false")),
        ValueKind::None => Err(refused(
            "a value is null; write `| default(\"…\", true)` behind it",
        )),
        _ => Ok(None),
    }
}

/// The text of a value, for a filter that makes it harmless.
fn text_of(value: &Value) -> Result<String, Inner> {
    if value.is_undefined() {
        return Err(Inner::from(ErrorKind::UndefinedError));
    }
    let text = match (value.downcast_object_ref::<Foreign>(), plain(value)?) {
        (Some(foreign), _) => foreign.0.clone(),
        (None, Some(word)) => word.to_owned(),
        (None, None) => value.to_string(),
    };
    if text.contains(UNQUOTED) {
        return Err(refused(NOT_QUOTED));
    }
    Ok(text)
}

const NOT_QUOTED: &str = "a value from the registry is not quoted; write `| quote(\"json\")` (nginx haproxy shell yaml) or `| ident` behind it";

/// `value | quote("json")`: one word of that format, its quotes included.
fn quote(value: &Value, format: &str) -> Result<String, Inner> {
    let text = text_of(value)?;
    let controls = || match text.chars().any(crate::foreign::is_harmful) {
        true => Err(refused(
            "a value holds control characters, which cannot be quoted there",
        )),
        false => Ok(()),
    };
    match format {
        "json" | "yaml" => {
            let quoted = serde_json::to_string(&text);
            let quoted = quoted.map_err(|_| refused("a value cannot be quoted"))?;
            Ok(crate::foreign::harmless_json(&quoted).into_owned())
        }
        "shell" | "haproxy" => {
            controls()?;
            Ok(format!("'{}'", text.replace('\'', "'\\''")))
        }
        "nginx" => {
            controls()?;
            if text.contains('$') {
                return Err(refused("a value holds $, which nginx cannot quote"));
            }
            let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
            Ok(format!("\"{escaped}\""))
        }
        _ => Err(refused("quote knows json, yaml, nginx, haproxy and shell")),
    }
}

/// `value | ident`: letters, digits and `_` in its place.
fn ident(value: &Value) -> Result<String, Inner> {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    Ok(text_of(value)?.chars().map(plain).collect())
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    // What comes out is no HTML, whatever it is.
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.add_filter("quote", quote);
    environment.add_filter("ident", ident);
    environment.set_formatter(|out, state, value| {
        if value.downcast_object_ref::<Foreign>().is_some() {
            return Err(refused(NOT_QUOTED));
        }
        match plain(value)? {
            Some(word) => Ok(out.write_str(word)?),
            None => minijinja::escape_formatter(out, state, value),
        }
    });
    environment
}

/// Whether a text is a template.
///
/// # Errors
/// [`Error`], with its line.
pub fn check(text: &str) -> Result<(), Error> {
    if text.contains(UNQUOTED) {
        return Err(Error("it holds a NUL character".to_owned()));
    }
    environment().template_from_str(text)?;
    Ok(())
}

/// Takes [`MOST_OUTPUT`] bytes and no more.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MOST_OUTPUT {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What comes out of a template, for this list. Takes time: call it where blocking is allowed.
///
/// # Errors
/// [`Error`], also when text of a registrant is not quoted.
pub fn render(text: &str, list: List) -> Result<String, Error> {
    let environment = environment();
    let instances: Vec<Value> = list.instances.into_iter().map(instance).collect();
    let context = BTreeMap::from([
        ("service", Value::from(list.service)),
        ("group", Value::from(list.group)),
        ("namespace", Value::from(list.namespace)),
        ("instances", Value::from_object(instances)),
    ]);
    filled(text, &environment, Value::from_object(context))
}

/// What comes out of a template, for these configurations, each by its name. Takes time: call it where blocking is allowed.
///
/// # Errors
/// [`Error`], also when text of a configuration is not quoted.
pub fn compose(text: &str, sources: BTreeMap<String, Source>) -> Result<String, Error> {
    let (mut texts, mut context) = (BTreeMap::new(), BTreeMap::new());
    for (name, source) in sources {
        texts.insert(name.clone(), source.text);
        context.insert(name, said(source.value));
    }
    let mut environment = environment();
    environment.add_function(RAW, move |name: &str| {
        let text = texts.get(name).map(ToString::to_string);
        text.ok_or_else(|| refused("raw wants the name of a source in quotes: raw(\"db\")"))
    });
    filled(text, &environment, Value::from_object(context))
}

fn filled(text: &str, environment: &Environment<'_>, context: Value) -> Result<String, Error> {
    let template = environment.template_from_str(text)?;
    let mut out = Bounded(Vec::new());
    template.render_captured_to(context, &mut out)?;
    let mut out = String::from_utf8(out.0).map_err(|_| refused("no text comes out"))?;
    if out.contains(UNQUOTED) {
        return Err(Error(NOT_QUOTED.to_owned()));
    }
    if text.ends_with('\n') && !out.ends_with('\n') {
        out.push('\n');
    }
    Ok(out)
}

fn instance(one: Instance) -> Value {
    // A key is printed where somebody walks through them all.
    let plain = |key: &str| {
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"_./-".contains(&byte);
        (1..=LONGEST_KEY).contains(&key.len()) && key.bytes().all(letter)
    };
    let metadata: BTreeMap<String, Value> = one
        .metadata
        .into_iter()
        .filter(|(key, _)| plain(key))
        .map(|(key, value)| (key, foreign(value)))
        .collect();
    #[expect(clippy::cast_possible_truncation, reason = "a weight is at most 10000")]
    let weight = match one.weight {
        // `2` rather than `2.0`.
        weight if weight.fract() == 0.0 => Value::from(weight as i64),
        weight => Value::from(weight),
    };
    Value::from_object(BTreeMap::from([
        ("ip", Value::from(one.ip)),
        ("port", Value::from(one.port)),
        ("address", Value::from(one.address)),
        ("weight", weight),
        ("cluster", Value::from(one.cluster)),
        ("metadata", Value::from_object(metadata)),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(zone: &str) -> List {
        let one = |last: u8, weight, zone: &str| Instance {
            ip: format!("10.0.0.{last}"),
            port: 80,
            address: format!("10.0.0.{last}:80"),
            weight,
            cluster: "DEFAULT".to_owned(),
            metadata: BTreeMap::from([
                ("zone".to_owned(), zone.to_owned()),
                ("a\nkey".to_owned(), "x".to_owned()),
            ]),
        };
        List {
            service: "payments".to_owned(),
            group: "DEFAULT_GROUP".to_owned(),
            namespace: "public".to_owned(),
            instances: vec![one(1, 1.0, "east"), one(2, 2.5, zone)],
        }
    }

    fn said(template: &str, zone: &str) -> Result<String, String> {
        render(template, list(zone)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_template_sees_the_list() {
        let text = "# {{ service }}, {{ instances | length }}\n{% for one in instances -%}\n{{ one.address }} {{ one.weight }} {{ one.metadata.zone }}\n{% endfor %}";
        let out = said(text, "west").unwrap();
        assert_eq!(
            out,
            "# payments, 2\n10.0.0.1:80 1 east\n10.0.0.2:80 2.5 west\n"
        );
        assert_eq!(said("<{{ service }}>\n", "a").unwrap(), "<payments>\n");
    }

    #[test]
    fn an_unquoted_hostile_value_stops_the_render() {
        let zone = "x; } server 6.6.6.6:1;";
        for template in [
            "{% for one in instances %}{{ one.metadata.zone }}{% endfor %}",
            "{{ instances[1].metadata.zone ~ '' }}",
            "{{ instances[1].metadata.zone | string }}",
            "{{ instances[1].metadata.zone | upper }}",
            "{{ [instances[1].metadata.zone] | join }}",
            "{{ instances[1].metadata }}",
            "{{ instances }}",
            "{% set x = instances[1].metadata.zone ~ 'a' %}{{ x | quote('json') }}",
            "{{ '%s' | format(instances[1].metadata.zone) }}",
        ] {
            let out = said(template, zone);
            assert!(
                out.as_ref().is_err_and(|why| !why.contains("6.6.6.6")),
                "{template}: {out:?}"
            );
        }
        assert!(
            said("{{ instances[1].metadata.zone }}", zone)
                .unwrap_err()
                .contains("is not quoted")
        );
        // Where it is printed as it is, the place is known.
        let why = said("\n{{ instances[1].metadata.zone }}", zone).unwrap_err();
        assert!(why.starts_with("line 2: "), "{why}");
        // A key that is none is not there to be printed.
        let keys = "{% for key in instances[0].metadata %}{{ key }};{% endfor %}";
        assert_eq!(said(keys, "a").unwrap(), "zone;");
    }

    #[test]
    fn what_is_quoted_is_one_word() {
        let quoted = |format: &str, zone: &str| {
            said(
                &format!("{{{{ instances[1].metadata.zone | quote('{format}') }}}}"),
                zone,
            )
        };
        assert_eq!(
            quoted("json", "a\"b\u{2028}\n").unwrap(),
            "\"a\\\"b\\u2028\\n\""
        );
        assert_eq!(quoted("shell", "it's $(x)").unwrap(), "'it'\\''s $(x)'");
        assert_eq!(quoted("nginx", "a\"b\\").unwrap(), "\"a\\\"b\\\\\"");
        assert!(quoted("nginx", "$host").is_err());
        assert!(quoted("shell", "a\nb").is_err());
        assert!(quoted("html", "a").unwrap_err().contains("quote knows"));
        assert_eq!(
            said("{{ instances[1].metadata.zone | ident }}", "a-b c").unwrap(),
            "a_b_c"
        );
    }

    #[test]
    fn what_is_not_there_what_does_not_end_and_what_is_too_much_are_errors() {
        assert!(said("{{ nope }}", "a").is_err());
        assert!(said("{{ instances[0].metadata.nope }}", "a").is_err());
        assert_eq!(
            said("{{ instances[0].metadata.nope | default('x') }}", "a").unwrap(),
            "x"
        );
        let endless =
            "{% for a in range(9999) %}{% for b in range(9999) %}{{ b }}{% endfor %}{% endfor %}";
        assert!(said(endless, "a").unwrap_err().contains("steps"));
        let much = format!(
            "{{% for a in range(9999) %}}{}{{% endfor %}}",
            "x".repeat(4000)
        );
        assert!(said(&much, "a").unwrap_err().contains("bytes come out"));
        for other in [
            "{% include '/etc/passwd' %}",
            "{% import 'x' as y %}",
            "{% extends 'x' %}",
        ] {
            assert!(check(other).is_err(), "{other}");
        }
        assert!(
            check("{% for x in y %}\n")
                .unwrap_err()
                .to_string()
                .starts_with("line ")
        );
        assert!(check("a\0b").is_err());
    }

    fn composed(template: &str, value: serde_json::Value) -> Result<String, String> {
        let text = value.to_string().into();
        let db = Source { text, value };
        compose(template, BTreeMap::from([("db".to_owned(), db)]))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_template_sees_what_configurations_say() {
        let db = serde_json::json!({
            "url": "db:5432", "pool": { "size": 20, "ratio": 0.5, "lazy": true }, "none": null,
            "hosts": ["b", "a"], "pass word": "it's", "big": u64::MAX,
        });
        for (template, out) in [
            (
                "{{ db.url }}:{{ db.pool.size }} {{ db.pool.ratio }} {{ db.pool.lazy }} {{ db.big }}\n",
                "db:5432:20 0.5 true 18446744073709551615\n",
            ),
            ("{% for host in db.hosts %}{{ host }};{% endfor %}", "b;a;"),
            ("{{ db['pass word'] | quote('shell') }}", "'it'\\''s'"),
            (
                "{% for key, value in db.pool | items %}{{ key }}={{ value }};{% endfor %}",
                "lazy=true;ratio=0.5;size=20;",
            ),
            (
                "{% for key in db %}{{ key | ident }}={{ db[key] is none }};{% endfor %}",
                "big=false;hosts=false;none=true;pass_word=false;pool=false;url=false;",
            ),
            ("{{ db.nope | default('x') }}", "x"),
            ("{{ db['none'] | default('x', true) }}", "x"),
            ("{{ db.pool.lazy | quote('json') }}", "\"true\""),
            ("{{ raw('db') | length > 10 }}", "true"),
        ] {
            assert_eq!(
                composed(template, db.clone()).as_deref(),
                Ok(out),
                "{template}"
            );
        }
        assert_eq!(
            composed("{{ raw('db') }}", "a\nb".into()).unwrap(),
            "\"a\\nb\""
        );
        for wrong in [
            "{{ db.nope }}",
            "{{ raw('x') }}",
            "{{ raw(db) }}",
            "{{ other }}",
            "{{ db['none'] }}",
        ] {
            assert!(composed(wrong, db.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_unquoted_hostile_configuration_stops_the_render_wherever_its_text_stands() {
        let hostile = "x; } evil";
        let db = serde_json::json!({ "a": hostile, hostile: { "b": [hostile] }, "ok": "fine" });
        for template in [
            "{{ db.a }}",
            "{{ db }}",
            "{{ db | string }}",
            "{{ [db] }}",
            "{{ db.a ~ '' }}",
            "{{ db.a | upper }}",
            "{{ db.a[0:3] }}",
            "{{ db | list }}",
            "{{ db | items | list }}",
            "{{ db | dictsort }}",
            "{% for key in db %}{{ key }}{% endfor %}",
            "{% for key, value in db | items %}{{ key }}{% endfor %}",
            "{% for one in db['x; } evil'].b %}{{ one }}{% endfor %}",
            "{{ db['x; } evil'].b | join(',') }}",
            "{{ db['x; } evil'].b | first }}",
            "{{ '%s' | format(db.a) }}",
            "{{ db.a | replace('x', 'y') }}",
            "{{ dict(a=db.a) }}",
            "{{ db.ok ~ db.a }}",
        ] {
            let out = composed(template, db.clone());
            assert!(
                out.as_ref().is_err_and(|why| !why.contains("evil")),
                "{template}: {out:?}"
            );
        }
        assert_eq!(composed("{{ db.ok }}", db).as_deref(), Ok("fine"));
    }

    proptest! {
        #[test]
        fn whatever_a_configuration_says_it_is_quoted_or_nothing_comes_out(key: String, value: String) {
            prop_assume!(!key.contains('\0') && !value.contains('\0'));
            let db = serde_json::json!({ key.clone(): value.clone() });
            let template = "{% for key, value in db | items %}{{ [key, value][0] | quote('json') }}:{{ value | quote('json') }}{% endfor %}";
            let out = composed(template, db.clone()).unwrap();
            let read: BTreeMap<String, String> = serde_json::from_str(&format!("{{{out}}}")).unwrap();
            prop_assert_eq!(read, BTreeMap::from([(key, value)]));
            if let Ok(plain) = composed("{% for key, value in db | items %}{{ key }}{{ value }}{% endfor %}", db) {
                let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"._:@/+=,-".contains(&byte);
                prop_assert!(plain.bytes().all(harmless));
            }
        }

        #[test]
        fn json_quoted_is_the_value_whatever_it_is(zone: String) {
            prop_assume!(!zone.contains('\0'));
            let out = said("{{ instances[1].metadata.zone | quote('json') }}", &zone).unwrap();
            prop_assert!(!out.contains('\n'));
            prop_assert_eq!(serde_json::from_str::<String>(&out).unwrap(), zone);
        }

        #[test]
        fn shell_quoted_is_one_word_or_nothing(zone: String) {
            if let Ok(out) = said("{{ instances[1].metadata.zone | quote('shell') }}", &zone) {
                let inner = out.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')).unwrap();
                prop_assert_eq!(inner.split("'\\''").collect::<Vec<_>>().join("'"), zone);
            }
        }
    }
}
