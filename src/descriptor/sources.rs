//! The entries of `configs`: the configurations a file is made of, their template, and who decrypts them.

use super::parse::Context;
use super::parse::checked;
use super::parse::group;
use super::parse::group_or;
use super::parse::namespace;
use super::reader::Fields;
use super::reader::Value;
use super::spec::{
    Command, Config, ENCRYPTED, MadeOf, OnAbsent, Part, Template, Validate, Written,
};
use crate::foreign::Foreign;
use crate::template::RESERVED;
use std::{collections::BTreeMap, path::PathBuf};

/// Configurations that one file is made of.
const MAX_SOURCES: usize = 32;
/// Letters of a source's name.
const LONGEST_NAME: usize = 64;

impl Context<'_> {
    /// A configuration; where something was noted, with defaults in place of it.
    pub(super) fn config(&self, fields: &mut Fields<'_>) -> (Config, [Written; 2]) {
        let path = fields.need("path");
        let written = path.as_ref().map(Value::written).unwrap_or_default();
        let template = fields.get("template");
        let template_written = template.as_ref().map(Value::written).unwrap_or_default();
        let around = (group(fields), self.namespace(fields));
        let made_of = if fields.has("sources") {
            fields.elsewhere(
                "data_id",
                "`data_id` and `sources` exclude one another",
                "keep one of them",
            );
            fields.idle(&["decrypt"], "sources");
            if template.is_none() {
                fields.wrong_key(
                    "sources",
                    "several configurations are one file by a template",
                    "write template: NAME.j2 beside it, a file beside this descriptor",
                );
            }
            let sources = fields.get("sources");
            MadeOf::Several {
                template: Template {
                    file: template
                        .and_then(|value| template_file(&value))
                        .unwrap_or_default(),
                    text: "".into(),
                },
                parts: sources
                    .and_then(|value| self.sources(&value, &around))
                    .unwrap_or_default(),
            }
        } else {
            if template.is_some() {
                fields.wrong_key(
                    "template",
                    "a template has names for what it is given",
                    "write sources: { db: db.yaml } in place of `data_id`",
                );
            }
            let data_id = fields.need("data_id");
            MadeOf::One(self.part(data_id, fields, around))
        };
        let on_absent = fields.get("on_absent").and_then(|value| {
            value.choice(&[
                ("keep", OnAbsent::Keep),
                ("remove", OnAbsent::Remove),
                ("fail", OnAbsent::Fail),
            ])
        });
        let on_absent = on_absent.unwrap_or(OnAbsent::Keep);
        let target = self.target(fields, path, on_absent, 0o640, made_of.is_secret());
        if matches!(made_of, MadeOf::Several { .. }) && target.validate == Some(Validate::Auto) {
            fields.wrong_key(
                "validate",
                "the type of what a template makes is not known",
                "write it: validate: { format: yaml }",
            );
        }
        (Config { made_of, target }, [written, template_written])
    }

    fn sources(
        &self,
        value: &Value<'_>,
        around: &(String, String),
    ) -> Option<BTreeMap<String, Part>> {
        let example = "sources: { db: db.yaml, flags: { data_id: flags.json, group: G } }";
        let all = value.fields(example)?;
        let count = all.all().count();
        if count == 0 || count > MAX_SOURCES {
            return value.wrong(
                format!("{count} sources"),
                &format!("write 1 to {MAX_SOURCES}: {example}"),
            );
        }
        let mut parts = BTreeMap::new();
        for (name, value) in all.all() {
            let letters =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            let right = name.starts_with(|c: char| c.is_ascii_lowercase())
                && name.len() <= LONGEST_NAME
                && name.bytes().all(letters)
                && !RESERVED.contains(&name);
            if !right {
                value.wrong::<()>(
                    format!("`{}` is not a name for a source", Foreign::new(name)),
                    "write a small letter, then small letters, digits and _; not a word of templates (raw, loop, dict, …)",
                );
                continue;
            }
            let part = if value.is_scalar() {
                self.checked_part(value.clone(), None, around.clone())
            } else if let Some(mut fields) = value.fields("{ data_id: db.yaml }") {
                let around = (
                    group_or(&mut fields, &around.0),
                    match fields.get("namespace") {
                        Some(value) => namespace(&value).unwrap_or_default(),
                        None => around.1.clone(),
                    },
                );
                let data_id = fields.need("data_id");
                let part = self.part(data_id, &mut fields, around);
                fields.finish();
                part
            } else {
                continue;
            };
            parts.insert(name.to_owned(), part);
        }
        Some(parts)
    }

    /// A configuration by its data id, with the `decrypt` beside it.
    fn part(
        &self,
        data_id: Option<Value<'_>>,
        fields: &mut Fields<'_>,
        around: (String, String),
    ) -> Part {
        let decrypt = fields.get("decrypt");
        match data_id {
            Some(data_id) => self.checked_part(data_id, decrypt, around),
            None => Part {
                group: around.0,
                namespace: around.1,
                decrypt: decrypt.and_then(|value| self.decrypt(&value)),
                ..Part::default()
            },
        }
    }

    fn checked_part(
        &self,
        data_id: Value<'_>,
        decrypt: Option<Value<'_>>,
        (group, namespace): (String, String),
    ) -> Part {
        let name = checked(&data_id, "data id", 256, ".:_-");
        if name
            .as_ref()
            .is_some_and(|name| name.starts_with(ENCRYPTED))
            && decrypt.is_none()
        {
            data_id.wrong::<()>(
                "is encrypted, as its name says, and nothing decrypts it",
                "write decrypt: { exec: [/usr/local/bin/unseal] } beside it, or decrypt: none where the file shall have what is encrypted",
            );
        }
        Part {
            data_id: name.unwrap_or_default(),
            group,
            namespace,
            decrypt: decrypt.and_then(|value| self.decrypt(&value)),
        }
    }

    fn decrypt(&self, value: &Value<'_>) -> Option<Command> {
        let example = "decrypt: { exec: [/usr/local/bin/unseal] }, or none";
        if value.is_scalar() {
            let text = value.text()?;
            return match text.as_str() {
                "none" => None,
                _ => value.wrong(
                    format!("`{}` decrypts nothing", Foreign::new(text)),
                    &format!("write {example}"),
                ),
            };
        }
        let mut fields = value.fields(example)?;
        let words = fields.need("exec");
        let command = words.and_then(|words| self.own_command(&words, &mut fields));
        fields.finish();
        command
    }
}

/// The file of a template: beside the descriptor, and none itself.
pub(super) fn template_file(value: &Value<'_>) -> Option<PathBuf> {
    let name = value.text()?;
    let plain = name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    if !plain || name.starts_with('.') || name.ends_with(".yaml") || name.ends_with(".yml") {
        return value.wrong(
            format!("`{}` is not the name of a template", Foreign::new(name)),
            "write the name of a file beside this descriptor: payments.j2",
        );
    }
    let beside = value.source().parent().map(PathBuf::from);
    Some(beside.unwrap_or_default().join(name))
}

#[cfg(test)]
mod tests {
    use super::super::Flags;
    use super::super::Surroundings;
    use super::super::parse;
    use super::super::settings_file::resolve;
    use super::*;
    use crate::report;
    use std::{path::Path, time::Duration};

    fn read(text: &str) -> Result<Vec<Config>, String> {
        let around = Surroundings::default();
        let settings = resolve(Path::new("x.yaml"), None, &Flags::default(), &around).unwrap();
        parse(Path::new("conf.d/web.yaml"), text, &settings, &around)
            .map(|descriptor| descriptor.configs)
            .map_err(|problems| report::render_all(&problems, 1, 1, false))
    }

    fn one(text: &str) -> Config {
        read(&format!("configs:\n  - {{ path: /run/x, {text} }}\n"))
            .unwrap()
            .remove(0)
    }

    #[test]
    fn sources_have_the_group_and_the_namespace_around_them_unless_they_name_their_own() {
        let found = one(
            "template: x.j2, group: G, namespace: dev, sources: { db: db.yaml, flags: { data_id: flags.json, group: H, namespace: prod } }",
        );
        let MadeOf::Several { template, parts } = &found.made_of else {
            panic!("{found:?}");
        };
        assert_eq!(template.file, Path::new("conf.d/x.j2"));
        let part = |data_id: &str, group: &str, namespace: &str| Part {
            data_id: data_id.to_owned(),
            group: group.to_owned(),
            namespace: namespace.to_owned(),
            decrypt: None,
        };
        let expected = [
            ("db".to_owned(), part("db.yaml", "G", "dev")),
            ("flags".to_owned(), part("flags.json", "H", "prod")),
        ];
        assert_eq!(*parts, BTreeMap::from(expected));
        assert_eq!(found.target.mode, 0o640);
    }

    #[test]
    fn what_is_decrypted_is_its_owners_alone() {
        let found = one("data_id: cipher-aes-a, decrypt: { exec: [unseal, now], timeout: 5s }");
        let MadeOf::One(part) = &found.made_of else {
            panic!("{found:?}");
        };
        let command = part.decrypt.as_ref().unwrap();
        assert_eq!(command.argv, ["unseal", "now"]);
        assert_eq!(command.timeout, Duration::from_secs(5));
        assert_eq!(found.target.mode, 0o600);
        let wide = one("data_id: cipher-aes-a, decrypt: { exec: [unseal] }, mode: \"0640\"");
        assert_eq!(wide.target.mode, 0o640);
        let open = "configs:\n  - { path: /run/x, data_id: cipher-a, decrypt: { exec: [unseal] }, mode: \"0644\" }\n";
        let no = read(open).unwrap_err();
        assert!(no.contains("a secret is nobody else's"), "{no}");
        let several =
            "template: x.j2, sources: { a: a, b: { data_id: b, decrypt: { exec: [x] } } }";
        assert_eq!(one(several).target.mode, 0o600);
        let sealed = one("data_id: cipher-aes-a, decrypt: none");
        assert!(!sealed.made_of.is_secret() && sealed.target.mode == 0o640);
    }

    #[test]
    fn every_mistake_of_sources_is_shown_at_once() {
        let text = "configs:
  - { path: /run/a, data_id: cipher-aes-a }
  - { path: /run/b, data_id: a, decrypt: no }
  - { path: /run/c, data_id: a, template: x.j2 }
  - { path: /run/d, sources: { db: db.yaml }, data_id: a, decrypt: { exec: [x] } }
  - { path: /run/e, template: x.yaml, sources: {} }
  - { path: /run/f, template: x.j2, sources: { raw: a, Db: b, c: cipher-c, d: { group: G }, e: { data_id: e, decrypt: { exec: [], x: 1 } } } }
  - { path: /run/g, template: x.j2, sources: { a: a }, validate: { format: auto } }
";
        insta::assert_snapshot!(read(text).unwrap_err(), @r#"
        conf.d/web.yaml:2:30: configs[0].data_id: is encrypted, as its name says, and nothing decrypts it
           2 |   - { path: /run/a, data_id: cipher-aes-a }
             |                              ^^^^^^^^^^^^
          help: write decrypt: { exec: [/usr/local/bin/unseal] } beside it, or decrypt: none where the
                file shall have what is encrypted
        conf.d/web.yaml:3:42: configs[1].decrypt: `no` decrypts nothing
           3 |   - { path: /run/b, data_id: a, decrypt: no }
             |                                          ^^
          help: write decrypt: { exec: [/usr/local/bin/unseal] }, or none
        conf.d/web.yaml:4:33: configs[2].template: a template has names for what it is given
           4 |   - { path: /run/c, data_id: a, template: x.j2 }
             |                                 ^^^^^^^^
          help: write sources: { db: db.yaml } in place of `data_id`
        conf.d/web.yaml:5:21: configs[3].sources: several configurations are one file by a template
           5 |   - { path: /run/d, sources: { db: db.yaml }, data_id: a, decrypt: { exec: [x] } }
             |                     ^^^^^^^
          help: write template: NAME.j2 beside it, a file beside this descriptor
        conf.d/web.yaml:5:47: configs[3].data_id: `data_id` and `sources` exclude one another
           5 |   - { path: /run/d, sources: { db: db.yaml }, data_id: a, decrypt: { exec: [x] } }
             |                                               ^^^^^^^
          help: keep one of them
        conf.d/web.yaml:5:59: configs[3].decrypt: means nothing beside `sources`
           5 |   - { path: /run/d, sources: { db: db.yaml }, data_id: a, decrypt: { exec: [x] } }
             |                                                           ^^^^^^^
          help: leave it out
        conf.d/web.yaml:6:31: configs[4].template: `x.yaml` is not the name of a template
           6 |   - { path: /run/e, template: x.yaml, sources: {} }
             |                               ^^^^^^
          help: write the name of a file beside this descriptor: payments.j2
        conf.d/web.yaml:6:48: configs[4].sources: 0 sources
           6 |   - { path: /run/e, template: x.yaml, sources: {} }
             |                                                ^
          help: write 1 to 32: sources: { db: db.yaml, flags: { data_id: flags.json, group: G } }
        conf.d/web.yaml:7:53: configs[5].sources.raw: `raw` is not a name for a source
           7 | …ath: /run/f, template: x.j2, sources: { raw: a, Db: b, c: cipher-c, d: { group: G }, e: {…
             |                                               ^
          help: write a small letter, then small letters, digits and _; not a word of templates (raw,
                loop, dict, …)
        conf.d/web.yaml:7:60: configs[5].sources.Db: `Db` is not a name for a source
           7 | …un/f, template: x.j2, sources: { raw: a, Db: b, c: cipher-c, d: { group: G }, e: { data_i…
             |                                               ^
          help: write a small letter, then small letters, digits and _; not a word of templates (raw,
                loop, dict, …)
        conf.d/web.yaml:7:66: configs[5].sources.c: is encrypted, as its name says, and nothing decrypts it
           7 | …template: x.j2, sources: { raw: a, Db: b, c: cipher-c, d: { group: G }, e: { data_id: e, …
             |                                               ^^^^^^^^
          help: write decrypt: { exec: [/usr/local/bin/unseal] } beside it, or decrypt: none where the
                file shall have what is encrypted
        conf.d/web.yaml:7:79: configs[5].sources.d: `data_id` is missing
           7 | …2, sources: { raw: a, Db: b, c: cipher-c, d: { group: G }, e: { data_id: e, decrypt: { ex…
             |                                               ^
        conf.d/web.yaml:7:127: configs[5].sources.e.decrypt.exec: an empty command
           7 | …roup: G }, e: { data_id: e, decrypt: { exec: [], x: 1 } } } }
             |                                               ^
          help: write the program and its arguments
        conf.d/web.yaml:7:131: configs[5].sources.e.decrypt.x: unknown key
           7 | …: G }, e: { data_id: e, decrypt: { exec: [], x: 1 } } } }
             |                                               ^
          help: keys here are confine, exec, run_as, timeout
        conf.d/web.yaml:8:56: configs[6].validate: the type of what a template makes is not known
           8 |   - { path: /run/g, template: x.j2, sources: { a: a }, validate: { format: auto } }
             |                                                        ^^^^^^^^
          help: write it: validate: { format: yaml }
        15 errors in 1 of 1 file
        "#);
    }
}
