//! What the files of others have inside of texts: commands, times, modes, templates.

use serde_json::{Value as Json, json};

/// A command that `sh -c` would run, as words; `Err` has the whole of it where only a shell can take it apart.
pub(super) fn command(text: &str) -> Result<Vec<String>, Vec<String>> {
    split(text).ok_or_else(|| {
        vec![
            "/bin/sh".to_owned(),
            "-c".to_owned(),
            text.trim().to_owned(),
        ]
    })
}

fn split(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut signs = text.chars();
    while let Some(sign) = signs.next() {
        match sign {
            ' ' | '\t' | '\n' => words.extend(word.take()),
            '\'' | '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match signs.next()? {
                        end if end == sign => break,
                        '$' | '`' | '\\' if sign == '"' => return None,
                        inside => word.push(inside),
                    }
                }
            }
            '|' | '&' | ';' | '<' | '>' | '$' | '`' | '\\' | '*' | '?' | '[' | '(' | ')' | '#'
            | '~' | '!' => {
                return None;
            }
            sign => word.get_or_insert_default().push(sign),
        }
    }
    words.extend(word);
    // `NAME=value command` and words of the shell itself are no programs.
    let is_program = |first: &String| {
        !first.contains('=')
            && !matches!(
                first.as_str(),
                "if" | "for" | "while" | "cd" | "exit" | "." | "source" | "test" | "set"
            )
    };
    words.first().is_some_and(is_program).then_some(words)
}

/// Words that go with a secret.
const SECRET: &[&str] = &[
    "password",
    "passwd",
    "secret",
    "token",
    "credential",
    "apikey",
    "api_key",
    "api-key",
    "private",
    "authorization",
];

/// Whether a name, or what a command says, sounds like a secret.
pub(super) fn sounds_secret(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    SECRET.iter().any(|word| text.contains(word))
        || text.split("://").skip(1).any(|rest| {
            let authority = rest.split(['/', ' ']).next().unwrap_or_default();
            authority.contains('@')
        })
}

/// A time as Go writes it (`1m30s`), as we do.
pub(super) fn time(text: &str) -> Option<String> {
    let mut rest = text.trim();
    let mut total = 0_u64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, behind) = rest.split_at(digits);
        let unit = behind
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(behind.len());
        let (unit, next) = behind.split_at(unit);
        let factor = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(factor)?)?;
        rest = next;
    }
    Some(match total {
        0 => return None,
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    })
}

/// Permissions in octal; `None` where others could write, or it is none.
pub(super) fn mode(text: &str) -> Option<String> {
    let digits = text.trim().trim_start_matches("0o");
    let mode = u32::from_str_radix(digits, 8).ok()?;
    (mode <= 0o777 && mode & 0o002 == 0).then(|| format!("{mode:04o}"))
}

/// `user:group`.
pub(super) fn owner(user: Option<&str>, group: Option<&str>) -> Option<Json> {
    match (user, group) {
        (None, None) => None,
        (user, None) => Some(json!(user)),
        (user, Some(group)) => Some(json!(format!("{}:{group}", user.unwrap_or_default()))),
    }
}

/// What is between these delimiters.
fn actions<'a>(text: &'a str, left: &str, right: &str) -> Vec<&'a str> {
    let inside = text.split(left).skip(1);
    inside
        .filter_map(|part| part.split_once(right))
        .map(|(action, _)| action.trim().trim_matches('-').trim())
        .collect()
}

/// The key of a template that is nothing but one key: then the configuration is the file.
pub(super) fn only_key<'a>(text: &'a str, left: &str, right: &str) -> Option<&'a str> {
    let whole = text.trim();
    let inside = whole.strip_prefix(left)?.strip_suffix(right)?;
    if inside.contains(left) {
        return None;
    }
    let action = inside.trim().trim_matches('-').trim();
    let (call, key) = action.split_once([' ', '\t'])?;
    let key = key.trim().strip_prefix('"')?.strip_suffix('"')?;
    (matches!(call, "key" | "getv") && !key.contains(['"', '|'])).then_some(key)
}

/// The services that a template asks for.
pub(super) fn services(text: &str, left: &str, right: &str) -> Vec<String> {
    let mut found = Vec::new();
    for action in actions(text, left, right) {
        let mut words = action
            .split([' ', '\t', '(', ')'])
            .skip_while(|word| *word != "service");
        words.next();
        if let Some(name) = words.next() {
            // `tag.name@datacentre|filter`
            let name = name
                .trim_matches('"')
                .split(['@', '|'])
                .next()
                .unwrap_or_default();
            let name = name.rsplit('.').next().unwrap_or_default().to_owned();
            if !name.is_empty() && !found.contains(&name) {
                found.push(name);
            }
        }
    }
    found
}

/// A key of a key-value store as a data id, which has no `/`.
pub(super) fn data_id(key: &str) -> String {
    let parts: Vec<&str> = key.split('/').filter(|part| !part.is_empty()).collect();
    let fits = |c: char| c.is_ascii_alphanumeric() || "._:-".contains(c);
    parts.join(".").replace(|c: char| !fits(c), "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_words_where_no_shell_is_needed() {
        let words = |text| command(text).unwrap().join("|");
        assert_eq!(words("nginx -t -c {staged}"), "nginx|-t|-c|{staged}");
        assert_eq!(words("/bin/x 'a b' \"c\"d ''"), "/bin/x|a b|cd|");
        for text in [
            "a && b",
            "a > /dev/null",
            "A=1 b",
            "a $X",
            "a \"$X\"",
            "cd /x",
            "a 'b",
            "",
        ] {
            assert_eq!(command(text).unwrap_err()[..2], ["/bin/sh", "-c"], "{text}");
        }
    }

    #[test]
    fn times_and_modes_are_ours_or_none() {
        assert_eq!(time("1m30s").as_deref(), Some("90s"));
        assert_eq!(time("500ms").as_deref(), Some("500ms"));
        assert_eq!(time("2h").as_deref(), Some("2h"));
        for wrong in ["", "5", "0s", "1.5s", "x", "3d"] {
            assert_eq!(time(wrong), None, "{wrong}");
        }
        assert_eq!(mode("644").as_deref(), Some("0644"));
        assert_eq!(mode("0640").as_deref(), Some("0640"));
        assert_eq!((mode("0666"), mode("4755"), mode("x")), (None, None, None));
    }

    #[test]
    fn only_a_template_of_one_key_is_a_configuration() {
        let key = |text| only_key(text, "{{", "}}");
        assert_eq!(key("{{ key \"app/x.conf\" }}\n"), Some("app/x.conf"));
        assert_eq!(key("{{- getv \"/a\" -}}"), Some("/a"));
        for more in [
            "x {{ key \"a\" }}",
            "{{ key \"a\" }}{{ key \"b\" }}",
            "{{ keyOrDefault \"a\" \"b\" }}",
            "{{ key \"a\" | toUpper }}",
            "{{ getv \"/a\" \"default\" }}",
            "",
        ] {
            assert_eq!(key(more), None, "{more}");
        }
        assert_eq!(data_id("/app/x conf"), "app.x-conf");
        assert_eq!(
            services(
                "{{ range service \"v1.web@dc1\" }}{{ end }}{{range service \"db|any\"}}",
                "{{",
                "}}"
            ),
            ["web", "db"]
        );
    }
}
