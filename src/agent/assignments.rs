//! A configuration as variables of an application: one `NAME=VALUE` a line, read so strictly that it can only mean one thing.
//!
//! Whoever writes a configuration may be somebody else than who runs the application. So what one of the many readers of such
//! files would understand differently (an unquoted `$`, a quote in the middle, a comment behind a value) is refused with the
//! line, and so is a name with which the loader, a shell or an interpreter would run somebody else's code, unless an operator
//! has written out that name. A content with one bad line is not used at all. Values are in no message.

use crate::foreign::Foreign;
use std::collections::BTreeMap;

/// A content may be so long, in bytes.
pub const MOST_BYTES: usize = 1024 * 1024;
/// A value may be so long, in bytes: the system takes no variable of 128 KiB.
const MOST_VALUE: usize = 100 * 1024;
/// So many variables may be in one content.
const MOST: usize = 1000;

/// Names by which a content would decide which code runs, or whom the application trusts.
const POWERFUL: &[&str] = &[
    "BASHOPTS",
    "BASH_ENV",
    "CDPATH",
    "CLASSPATH",
    "COMSPEC",
    "ENV",
    "GCONV_PATH",
    "GETCONF_DIR",
    "GLIBC_TUNABLES",
    "HOME",
    "HOSTALIASES",
    "IFS",
    "JAVA_TOOL_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "LOCALDOMAIN",
    "LOCPATH",
    "LOGNAME",
    "MALLOC_TRACE",
    "NIS_PATH",
    "NLSPATH",
    "NODE_OPTIONS",
    "NODE_PATH",
    "NODE_EXTRA_CA_CERTS",
    "NODE_TLS_REJECT_UNAUTHORIZED",
    "NOTIFY_SOCKET",
    "OPENSSL_CONF",
    "OPENSSL_ENGINES",
    "OPENSSL_MODULES",
    "PATH",
    "PERL5DB",
    "PERL5LIB",
    "PERL5OPT",
    "PERLLIB",
    "PHPRC",
    "PHP_INI_SCAN_DIR",
    "PROMPT_COMMAND",
    "PS4",
    "RESOLV_HOST_CONF",
    "RES_OPTIONS",
    "RUBYLIB",
    "RUBYOPT",
    "SHELL",
    "SHELLOPTS",
    "SSLKEYLOGFILE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TMPDIR",
    "TZDIR",
    "USER",
    "_JAVA_OPTIONS",
];
/// Beginnings of further ones.
const POWERFUL_PREFIXES: &[&str] = &[
    "BASH_FUNC_",
    "COMPLUS_",
    "CORECLR_",
    "COR_",
    "DOTNET_",
    "DYLD_",
    "GIT_",
    "LD_",
    "OUTRIGGER_",
    "PYTHON",
    "WATCHDOG_",
    "LISTEN_",
];
/// The same in any case of letters.
const PROXIES: &[&str] = &[
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "ftp_proxy",
];

/// Which names a content may set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed(Vec<String>);

impl Allowed {
    /// Names, and beginnings of names with a `*` behind; none at all is every harmless one.
    ///
    /// # Errors
    /// One sentence.
    pub fn new(patterns: Vec<String>) -> Result<Self, String> {
        for pattern in &patterns {
            let name = pattern.strip_suffix('*').unwrap_or(pattern);
            if !is_name(name) {
                let pattern = Foreign::from(pattern.as_str());
                return Err(format!(
                    "`{pattern}` is no name of a variable: letters, digits and _, and a * at the end for all that begin so"
                ));
            }
        }
        Ok(Self(patterns))
    }

    fn is_written_out(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| pattern == name)
    }

    fn is_meant(&self, name: &str) -> bool {
        let begins_so = |pattern: &String| {
            let begin = pattern.strip_suffix('*');
            begin.is_some_and(|begin| name.starts_with(begin))
        };
        self.0.is_empty() || self.is_written_out(name) || self.0.iter().any(begins_so)
    }
}

/// What a content sets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Assignments {
    /// By name.
    pub values: BTreeMap<String, String>,
    /// Names that are not meant to be set, so that they are not.
    pub left_out: Vec<String>,
}

impl std::fmt::Debug for Assignments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Values are nobody's business.
        f.debug_list().entries(self.values.keys()).finish()
    }
}

/// Why a content is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct Mistake {
    /// From 1 on.
    pub line: usize,
    /// One sentence; no value is in it.
    pub what: String,
}

/// Reads a content.
///
/// # Errors
/// The first [`Mistake`].
pub fn read(content: &[u8], allowed: &Allowed) -> Result<Assignments, Mistake> {
    let mistake = |line, what: String| Mistake { line, what };
    if content.len() > MOST_BYTES {
        return Err(mistake(1, format!("more than {MOST_BYTES} bytes")));
    }
    let text = std::str::from_utf8(content).map_err(|error| {
        let before = content.get(..error.valid_up_to()).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        mistake(line, "is not UTF-8".to_owned())
    })?;
    let mut read = Assignments::default();
    for (index, line) in text.split('\n').enumerate() {
        let refused = |what: String| mistake(index + 1, what);
        let line = line
            .strip_suffix('\r')
            .unwrap_or(line)
            .trim_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = match line.strip_prefix("export") {
            Some(rest) if rest.starts_with([' ', '\t']) => rest.trim_start_matches([' ', '\t']),
            _ => line,
        };
        let Some((name, written)) = line.split_once('=') else {
            return Err(refused("no `=` in it: write NAME=VALUE".to_owned()));
        };
        if !is_name(name) {
            return Err(refused(format!(
                "`{}` is no name of a variable: it has letters, digits and _, begins with no digit, and `=` follows at once",
                Foreign::from(name)
            )));
        }
        let value = value_of(written).map_err(|what| refused(format!("{name}: {what}")))?;
        if !allowed.is_meant(name) {
            read.left_out.push(name.to_owned());
            continue;
        }
        if is_powerful(name) && !allowed.is_written_out(name) {
            return Err(refused(format!(
                "{name} decides which code runs or whom it trusts; `--env-name {name}` lets a configuration set it"
            )));
        }
        if value.len() > MOST_VALUE {
            return Err(refused(format!("{name}: more than {MOST_VALUE} bytes")));
        }
        if read.values.insert(name.to_owned(), value).is_some() {
            return Err(refused(format!("{name} is set for the second time")));
        }
        if read.values.len() > MOST {
            return Err(refused(format!("more than {MOST} variables")));
        }
    }
    Ok(read)
}

fn is_name(name: &str) -> bool {
    let begins = |c: char| c.is_ascii_alphabetic() || c == '_';
    name.len() <= 256
        && name.starts_with(begins)
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn is_powerful(name: &str) -> bool {
    POWERFUL.contains(&name)
        || POWERFUL_PREFIXES
            .iter()
            .any(|begin| name.starts_with(begin))
        || PROXIES.iter().any(|proxy| name.eq_ignore_ascii_case(proxy))
}

/// The value as written; an error has a sentence that does not have it.
fn value_of(written: &str) -> Result<String, String> {
    if written.contains(|c: char| c.is_control() && c != '\t') {
        return Err("a control character; in double quotes \\n, \\r and \\t are known".to_owned());
    }
    if let Some(rest) = written.strip_prefix('\'') {
        return match rest.strip_suffix('\'') {
            Some(value) if !value.contains('\'') => Ok(value.to_owned()),
            _ => Err("a value in single quotes ends with the line, and has none inside".to_owned()),
        };
    }
    if let Some(rest) = written.strip_prefix('"') {
        return quoted(rest);
    }
    if written.starts_with([' ', '\t']) {
        return Err("a blank behind `=`: take it out, or quote the value".to_owned());
    }
    let ambiguous = |c: char| matches!(c, '"' | '\'' | '\\' | '`' | '$' | '#' | ' ' | '\t');
    match written.chars().find(|c| ambiguous(*c)) {
        Some(sign) => Err(format!(
            "{} without quotes means different things to different readers: write the value in single quotes",
            match sign {
                ' ' | '\t' => "a blank".to_owned(),
                sign => format!("`{sign}`"),
            }
        )),
        None => Ok(written.to_owned()),
    }
}

fn quoted(rest: &str) -> Result<String, String> {
    let mut value = String::new();
    let mut signs = rest.chars();
    while let Some(sign) = signs.next() {
        match sign {
            '"' if signs.as_str().is_empty() => return Ok(value),
            '"' => return Err("something behind the closing quote".to_owned()),
            '\\' => value.push(match signs.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                Some(same @ ('\\' | '"' | '$' | '`')) => same,
                _ => {
                    return Err(
                        "after `\\` in double quotes n, r, t, \\, \", $ and ` are known".to_owned(),
                    );
                }
            }),
            '$' | '`' => {
                return Err(format!(
                    "nothing is replaced in a value: write \\{sign}, or the value in single quotes"
                ));
            }
            sign => value.push(sign),
        }
    }
    Err("the closing quote is missing".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all() -> Allowed {
        Allowed::default()
    }

    fn said(content: &str) -> String {
        match read(content.as_bytes(), &all()) {
            Ok(read) => panic!("{read:?}"),
            Err(mistake) => mistake.to_string(),
        }
    }

    #[test]
    fn what_every_reader_understands_is_read() {
        let content = "# of orders\r\nexport A=1\n\nB='a $b \"c\" #d'\nC=\"x\\ny \\$z\"\n  D=\nE=10.0.0.1:80,[::1]:81\n";
        let read = read(content.as_bytes(), &all()).unwrap();
        let values: Vec<(&str, &str)> = read
            .values
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        assert_eq!(
            values,
            [
                ("A", "1"),
                ("B", "a $b \"c\" #d"),
                ("C", "x\ny $z"),
                ("D", ""),
                ("E", "10.0.0.1:80,[::1]:81"),
            ]
        );
    }

    #[test]
    fn what_could_mean_two_things_is_refused_with_its_line_and_without_its_value() {
        for (content, words) in [
            ("A=1\nB=secret one", "line 2: B: a blank without quotes"),
            ("A=$HOME", "line 1: A: `$` without quotes"),
            ("A=b#c", "`#` without quotes"),
            ("A=`id`", "``` without quotes"),
            ("A= b", "a blank behind `=`"),
            ("A='it's'", "single quotes"),
            ("A=\"x\" y", "behind the closing quote"),
            ("A=\"x", "closing quote is missing"),
            ("A=\"$x\"", "nothing is replaced"),
            ("A=\"\\x\"", "after `\\`"),
            ("server.port=1", "`server.port` is no name"),
            ("1A=1", "is no name"),
            ("A : 1", "no `=`"),
            ("A =1", "is no name"),
            ("A=1\nA=2", "line 2: A is set for the second time"),
            ("A=\u{1b}[0m", "a control character"),
            ("A=\0", "a control character"),
        ] {
            let said = said(content);
            assert!(said.contains(words), "{content:?}: {said}");
            assert!(!said.contains("secret"), "{said}");
        }
        assert_eq!(
            read(b"A=1\n\xff", &all()).unwrap_err().to_string(),
            "line 2: is not UTF-8"
        );
    }

    #[test]
    fn names_with_power_over_the_application_must_be_written_out() {
        for name in [
            "LD_PRELOAD",
            "LD_LIBRARY_PATH",
            "PATH",
            "NODE_OPTIONS",
            "JAVA_TOOL_OPTIONS",
            "PYTHONPATH",
            "BASH_ENV",
            "HTTP_PROXY",
            "https_proxy",
            "OUTRIGGER_REGISTRY_SERVERS",
            "GIT_SSH_COMMAND",
            "DOTNET_STARTUP_HOOKS",
            "GLIBC_TUNABLES",
        ] {
            let content = format!("{name}=/tmp/evil");
            assert!(said(&content).contains(&format!("--env-name {name}")));
            let written_out = Allowed::new(vec![name.to_owned()]).unwrap();
            assert!(
                read(content.as_bytes(), &written_out)
                    .unwrap()
                    .values
                    .contains_key(name)
            );
            let begun = Allowed::new(vec![format!("{}*", &name[..2])]).unwrap();
            assert!(
                read(content.as_bytes(), &begun).is_err(),
                "a * writes nothing out"
            );
        }
    }

    #[test]
    fn names_that_are_not_meant_are_left_out() {
        let some = Allowed::new(vec!["ORDERS_*".to_owned(), "TZ".to_owned()]).unwrap();
        let read = read(b"ORDERS_URL=x\nTZ=UTC\nPATH=/evil\nOTHER=1\n", &some).unwrap();
        assert!(read.values.keys().eq(["ORDERS_URL", "TZ"]));
        assert_eq!(read.left_out, ["PATH", "OTHER"]);
        assert!(Allowed::new(vec!["A-B".to_owned()]).is_err());
        assert!(Allowed::new(vec!["*".to_owned()]).is_err());
    }

    proptest! {
        /// Whatever a content is: never a name or a value that a process cannot have, never a name with power.
        #[test]
        fn no_content_sets_what_it_may_not(content in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(read) = read(&content, &all()) {
                for (name, value) in read.values {
                    prop_assert!(is_name(&name) && !is_powerful(&name) && !value.contains('\0'));
                }
            }
        }

        /// What single quotes hold comes out as it went in.
        #[test]
        fn single_quotes_hold_anything_printable(value in "[^'\\p{C}]{0,40}") {
            let read = read(format!("A='{value}'").as_bytes(), &all()).unwrap();
            prop_assert_eq!(&read.values["A"], &value);
        }
    }
}
