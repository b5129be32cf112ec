//! Who may ask the registry for what: the users of `outrigger dev --auth`, as a person writes them.
//!
//! One user a line: name and password, then what the user may do. A password is written as it is, or as bcrypt. Lines that begin
//! with `@` are about all of them; empty lines and lines that begin with `#` say nothing.
//!
//! ```text
//! nacos:$2y$10$…    admin
//! orders:secret     public:rw dev:r
//! reader:secret     *:r
//! @token-ttl 1h
//! ```
//!
//! What is wrong is told with its line and without what stands there: that may be a password. A password is looked at by a
//! [`Check`], which takes as long for a user who does not exist as for one who does.

use crate::foreign::Foreign;
use crate::registry::token::Key;
use crate::report::Place;
use crate::report::Problem;
use crate::secret::Secret;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::{collections::BTreeMap, fmt, path::Path, sync::Arc, time::Duration};

/// How long a token lives unless the file says otherwise, as on the original.
const TOKEN_TTL: Duration = Duration::from_secs(18_000);
/// How long it may live at most.
const LONGEST: u64 = 30 * 24 * 3600;
/// Characters of a name at most.
pub(crate) const NAME: usize = 64;
/// Bytes of a password at most; bcrypt looks at 72 of them.
pub(crate) const PASSWORD: usize = 1024;
/// The highest cost of a bcrypt that is looked at: each step doubles the time, and this one takes a second.
const COST: u32 = 14;
/// Users at most.
const USERS: usize = 1_000;
/// How other hashes begin, which would else be taken for passwords.
const OTHER_HASHES: &[&str] = &["$apr1$", "$1$", "$5$", "$6$", "$y$", "$argon2", "{SHA}"];

/// The users of a registry. Clones are the same ones.
#[derive(Clone)]
pub struct Users(Arc<Inside>);

struct Inside {
    users: BTreeMap<String, User>,
    token_ttl: Duration,
    key: Option<Key>,
    identity: Option<(String, Secret)>,
    /// The bcrypt of the highest cost, for looking at passwords of whom there is none.
    decoy: Option<Arc<Secret>>,
}

/// One of them.
struct User {
    password: Password,
    rights: Rights,
}

enum Password {
    Plain(Secret),
    Bcrypt(Arc<Secret>),
}

/// What a user may do.
enum Rights {
    /// Everything.
    Administrator,
    /// What is said of each namespace.
    Namespaces(Vec<Right>),
}

/// What a user may do in a namespace.
struct Right {
    /// `None` is every one.
    namespace: Option<String>,
    read: bool,
    write: bool,
}

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Read,
    Write,
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Users({})", self.0.users.len())
    }
}

/// The same ones, not equal ones: passwords are not compared.
impl PartialEq for Users {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Users {}

impl Users {
    /// Reads users from the text of `source` (a file, or a variable).
    ///
    /// # Errors
    /// Everything that is wrong, each with its line.
    pub fn parse(source: &Path, text: &str) -> Result<Self, Vec<Problem>> {
        let mut reader = Reader {
            source,
            inside: Inside {
                users: BTreeMap::new(),
                token_ttl: TOKEN_TTL,
                key: None,
                identity: None,
                decoy: None,
            },
            lines: BTreeMap::new(),
            cost: 0,
            problems: Vec::new(),
        };
        for (number, line) in text.lines().enumerate() {
            let words = words(line);
            let Some(first) = words.first() else {
                continue;
            };
            let at = |column| Place {
                line: number + 1,
                column,
            };
            if first.1.starts_with('#') {
            } else if let Some(name) = first.1.strip_prefix('@') {
                reader.setting(at, name, &words);
            } else {
                reader.user(at, &words);
            }
        }
        if reader.inside.users.is_empty() && reader.problems.is_empty() {
            let problem = "names no user".to_owned();
            reader.problems.push(Problem::of_whole(
                source,
                problem,
                Some("write one: nacos:PASSWORD admin"),
            ));
        }
        if reader.problems.is_empty() {
            Ok(Self(Arc::new(reader.inside)))
        } else {
            Err(reader.problems)
        }
    }

    /// How long a token lives.
    pub(crate) fn token_ttl(&self) -> Duration {
        self.0.token_ttl
    }

    /// What tokens are signed with, if the file says it.
    pub(crate) fn key(&self) -> Option<&Key> {
        self.0.key.as_ref()
    }

    /// The name of the header that opens every call, if there is one.
    pub(crate) fn identity(&self) -> Option<&str> {
        self.0.identity.as_ref().map(|(name, _)| name.as_str())
    }

    /// Whether that header has the right value.
    pub(crate) fn is_identity(&self, value: &str) -> bool {
        let right = self.0.identity.as_ref().map(|(_, value)| value);
        right.is_some_and(|right| same(right.expose(), value))
    }

    /// Whether a user of that name may do everything.
    pub(crate) fn is_administrator(&self, user: &str) -> bool {
        matches!(
            self.0.users.get(user).map(|user| &user.rights),
            Some(Rights::Administrator)
        )
    }

    /// Whether a user of that name may do `action` in a namespace; the empty one is `public`.
    pub(crate) fn may(&self, user: &str, namespace: &str, action: Action) -> bool {
        let Some(user) = self.0.users.get(user) else {
            return false;
        };
        let Rights::Namespaces(rights) = &user.rights else {
            return true;
        };
        let namespace = called(namespace);
        rights.iter().any(|right| {
            let here = (right.namespace.as_deref()).is_none_or(|there| there == namespace);
            here && match action {
                Action::Read => right.read,
                Action::Write => right.write,
            }
        })
    }
}

/// How a namespace is called where rights are concerned: all names of the public one are one.
fn called(namespace: &str) -> &str {
    let name = namespace.trim();
    if name.is_empty() || name.eq_ignore_ascii_case("public") || name.eq_ignore_ascii_case("null") {
        "public"
    } else {
        name
    }
}

/// The words of a line and the columns they begin at.
fn words(line: &str) -> Vec<(usize, &str)> {
    let mut words = Vec::new();
    let mut rest = line;
    let mut column = 1;
    loop {
        let blank = rest.len() - rest.trim_start().len();
        let (before, from) = rest.split_at(blank);
        column += before.chars().count();
        let end = from.find(char::is_whitespace).unwrap_or(from.len());
        let (word, after) = from.split_at(end);
        if word.is_empty() {
            return words;
        }
        words.push((column, word));
        column += word.chars().count();
        rest = after;
    }
}

struct Reader<'a> {
    source: &'a Path,
    inside: Inside,
    /// Where users and settings were written first.
    lines: BTreeMap<String, usize>,
    /// That of the decoy.
    cost: u32,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn problem(&mut self, place: Place, key: &str, message: impl Into<String>, help: &str) {
        self.problems.push(Problem {
            source: self.source.to_owned(),
            place: Some(place),
            key: key.to_owned(),
            message: message.into(),
            help: Some(help.to_owned()),
            // The line may hold a password.
            excerpt: None,
        });
    }

    /// Whether `what` is written the first time.
    fn is_first(&mut self, place: Place, what: &str) -> bool {
        match self.lines.get(what) {
            None => {
                self.lines.insert(what.to_owned(), place.line);
                true
            }
            Some(line) => {
                let message = format!("stands in line {line} already");
                self.problem(place, what, message, "take one of the two out");
                false
            }
        }
    }

    fn user(&mut self, at: impl Fn(usize) -> Place, words: &[(usize, &str)]) {
        const FORM: &str = "write USER:PASSWORD, then `admin`, or NAMESPACE:r, NAMESPACE:w or NAMESPACE:rw for each namespace (* is every one)";
        let Some(((column, first), rights)) = words.split_first() else {
            return;
        };
        let place = at(*column);
        let Some((name, password)) = first.split_once(':') else {
            return self.problem(place, "", "is no user: there is no `:`", FORM);
        };
        if name.is_empty() || name.chars().count() > NAME {
            let message = format!("a user's name has 1 to {NAME} characters");
            return self.problem(place, "", message, FORM);
        }
        let shown = Foreign::new(name).to_string();
        if !self.is_first(place, &shown) {
            return;
        }
        if self.inside.users.len() >= USERS {
            return self.problem(
                place,
                &shown,
                format!("there are {USERS} users at most"),
                "have several applications share one",
            );
        }
        let Some(password) = self.password(place, &shown, password) else {
            return;
        };
        if rights.is_empty() {
            return self.problem(place, &shown, "may do nothing", FORM);
        }
        let mut namespaces = Vec::new();
        for (column, word) in rights {
            if *word == "admin" {
                if rights.len() > 1 {
                    return self.problem(
                        at(*column),
                        &shown,
                        "`admin` is everything",
                        "leave the other words out",
                    );
                }
                let rights = Rights::Administrator;
                self.inside
                    .users
                    .insert(name.to_owned(), User { password, rights });
                return;
            }
            let right = word.rsplit_once(':').and_then(|(namespace, letters)| {
                let (read, write) = match letters {
                    "r" => (true, false),
                    "w" => (false, true),
                    "rw" | "wr" => (true, true),
                    _ => return None,
                };
                let namespace = match namespace {
                    "" => return None,
                    "*" => None,
                    name => Some(called(name).to_owned()),
                };
                Some(Right {
                    namespace,
                    read,
                    write,
                })
            });
            let Some(right) = right else {
                // Not shown: it is the rest of a password that has a blank in it.
                return self.problem(at(*column), &shown, "this word says nothing that a user may do", "`admin`, NAMESPACE:r, NAMESPACE:w or NAMESPACE:rw; a password with blanks must be written as bcrypt");
            };
            namespaces.push(right);
        }
        let rights = Rights::Namespaces(namespaces);
        self.inside
            .users
            .insert(name.to_owned(), User { password, rights });
    }

    fn password(&mut self, place: Place, user: &str, written: &str) -> Option<Password> {
        const HTPASSWD: &str = "make one: htpasswd -nbB USER PASSWORD";
        if written.is_empty() || written.len() > PASSWORD {
            let message = format!("a password has 1 to {PASSWORD} bytes");
            self.problem(place, user, message, "write it behind the `:`");
            return None;
        }
        if OTHER_HASHES
            .iter()
            .any(|begins| written.starts_with(begins))
        {
            self.problem(
                place,
                user,
                "this kind of hash is not known, only bcrypt is",
                HTPASSWD,
            );
            return None;
        }
        if !written.starts_with("$2") {
            return Some(Password::Plain(Secret::new(written.to_owned())));
        }
        let cost = match written.parse::<bcrypt::HashParts>() {
            Ok(parts) => parts.get_cost(),
            Err(_) => {
                self.problem(
                    place,
                    user,
                    "this is no whole bcrypt: $2y$, two digits, $ and 53 characters",
                    HTPASSWD,
                );
                return None;
            }
        };
        if !(4..=COST).contains(&cost) {
            let message = format!("a bcrypt of cost {cost} is not looked at, only 4 to {COST}");
            self.problem(
                place,
                user,
                message,
                "make one of cost 10: htpasswd -nbBC 10 USER PASSWORD",
            );
            return None;
        }
        let hash = Arc::new(Secret::new(written.to_owned()));
        if cost > self.cost {
            self.cost = cost;
            self.inside.decoy = Some(Arc::clone(&hash));
        }
        Some(Password::Bcrypt(hash))
    }

    fn setting(&mut self, at: impl Fn(usize) -> Place, name: &str, words: &[(usize, &str)]) {
        let place = at(words.first().map_or(1, |(column, _)| *column));
        let values: Vec<&str> = words.iter().skip(1).map(|(_, word)| *word).collect();
        let shown = format!("@{}", Foreign::new(name));
        if matches!(name, "token-ttl" | "token-key" | "identity") && !self.is_first(place, &shown) {
            return;
        }
        match (name, values.as_slice()) {
            ("token-ttl", [time]) => match ttl(time) {
                Some(ttl) => self.inside.token_ttl = ttl,
                None => self.problem(
                    place,
                    &shown,
                    "is no time from 1s to 30 days",
                    "write 30s, 10m or 5h",
                ),
            },
            ("token-key", [key]) => match Key::read(key) {
                Some(key) => self.inside.key = Some(key),
                None => self.problem(
                    place,
                    &shown,
                    "is not the base64 of 32 bytes or more",
                    "make one: head -c 32 /dev/urandom | base64",
                ),
            },
            ("identity", [header, value]) => match header.parse::<hyper::header::HeaderName>() {
                Ok(_) => {
                    self.inside.identity =
                        Some(((*header).to_owned(), Secret::new((*value).to_owned())))
                }
                Err(_) => self.problem(
                    place,
                    &shown,
                    "the first word is no name of a header",
                    "write @identity NAME VALUE",
                ),
            },
            ("token-ttl", _) => {
                self.problem(place, &shown, "takes one word", "write @token-ttl 5h")
            }
            ("token-key", _) => self.problem(
                place,
                &shown,
                "takes one word",
                "write the base64 of 32 bytes or more",
            ),
            ("identity", _) => self.problem(
                place,
                &shown,
                "takes two words",
                "write @identity NAME VALUE",
            ),
            _ => self.problem(
                place,
                "",
                "is no setting",
                "there are @token-ttl, @token-key and @identity",
            ),
        }
    }
}

/// `30s`, `10m`, `5h`.
fn ttl(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    let seconds = number.parse::<u64>().ok()?.checked_mul(factor)?;
    (1..=LONGEST)
        .contains(&seconds)
        .then(|| Duration::from_secs(seconds))
}

/// Whether two texts are the same, in a time that does not tell how much of them is.
fn same(right: &str, said: &str) -> bool {
    let mac = |text: &str| {
        let mut mac = Hmac::<Sha256>::new_from_slice(b"compare").ok()?;
        mac.update(text.as_bytes());
        Some(mac)
    };
    match (mac(right), mac(said)) {
        (Some(right), Some(said)) => right.verify(&said.finalize().into_bytes()).is_ok(),
        _ => false,
    }
}

/// A password that somebody said, to be looked at. Clones are the same one.
#[derive(Clone)]
pub struct Check(Arc<Said>);

struct Said {
    users: Users,
    user: String,
    password: Secret,
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Check")
    }
}

impl PartialEq for Check {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Check {}

impl Check {
    /// Of what was said.
    pub(crate) fn new(users: Users, user: String, password: Secret) -> Self {
        Self(Arc::new(Said {
            users,
            user,
            password,
        }))
    }

    /// Whether it is the user's. Computes for up to a second; as long when there is no such user.
    #[must_use]
    pub fn is_right(&self) -> bool {
        let Said {
            users,
            user,
            password,
        } = &*self.0;
        let password = password.expose();
        let is = |hash: &Secret| bcrypt::verify(password, hash.expose()).unwrap_or(false);
        match users.0.users.get(user).map(|user| &user.password) {
            Some(Password::Bcrypt(hash)) => is(hash),
            other => {
                if let Some(decoy) = &users.0.decoy {
                    // Only for the time it takes.
                    std::hint::black_box(is(decoy));
                }
                matches!(other, Some(Password::Plain(right)) if same(right.expose(), password))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report;

    /// `secret` with a cost of 4.
    const SECRET: &str = "$2y$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW";

    fn users(text: &str) -> Users {
        Users::parse(Path::new("users"), text).unwrap()
    }

    fn problems(text: &str) -> String {
        let problems = Users::parse(Path::new("users"), text).unwrap_err();
        report::render_all(&problems, 1, 1, false)
    }

    fn is_right(users: &Users, user: &str, password: &str) -> bool {
        let password = Secret::new(password.to_owned());
        Check::new(users.clone(), user.to_owned(), password).is_right()
    }

    #[test]
    fn a_password_is_plain_or_bcrypt_and_nobody_else_has_it() {
        let users = users(&format!(
            "\n# who\nann:secret admin\n bob:{SECRET}  dev:r\ncoll:a:b *:rw\n"
        ));
        for (user, password, right) in [
            ("ann", "secret", true),
            ("ann", "secreT", false),
            ("ann", "", false),
            ("bob", "secret", true),
            ("bob", SECRET, false),
            ("coll", "a:b", true),
            ("coll", "a", false),
            ("nobody", "secret", false),
            ("", "", false),
        ] {
            assert_eq!(is_right(&users, user, password), right, "{user} {password}");
        }
    }

    #[test]
    fn a_user_may_do_what_is_said_of_the_namespace_and_an_administrator_everything() {
        use Action::{Read, Write};
        let users = users("root:x admin\na:x public:rw dev:r\nb:x *:r\nc:x dev:w test:r");
        for (user, namespace, action, may) in [
            ("root", "any", Write, true),
            ("a", "", Write, true),
            ("a", "Public", Read, true),
            ("a", "dev", Read, true),
            ("a", "dev", Write, false),
            ("a", "test", Read, false),
            ("b", "any", Read, true),
            ("b", "", Write, false),
            ("c", "dev", Write, true),
            ("c", "dev", Read, false),
            ("nobody", "", Read, false),
        ] {
            assert_eq!(
                users.may(user, namespace, action),
                may,
                "{user} {namespace} {action:?}"
            );
        }
        let administrators = ["root", "a", "b", "nobody"].map(|user| users.is_administrator(user));
        assert_eq!(administrators, [true, false, false, false]);
    }

    #[test]
    fn every_mistake_is_told_with_its_line_and_without_what_may_be_a_password() {
        let text = "\
canary-1
:canary-2 admin
ann:canary-3
bob:canary-4 canary-5:canary-6
ann:canary-7 admin
cid:$2y$10$canary-8 admin
dot:$apr1$canary-9 admin
eve:$2y$15$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW admin
fay: admin
gus:canary-10 admin dev:r
hal:canary-11 :r
@token-ttl 5
@token-key canary-12
@identity canary-13
@token-ttl 5h
@canary-14
";
        let told = problems(text);
        assert!(!told.contains("canary"), "{told}");
        insta::assert_snapshot!(told, @r"
        users:1:1: is no user: there is no `:`
          help: write USER:PASSWORD, then `admin`, or NAMESPACE:r, NAMESPACE:w or NAMESPACE:rw for each
                namespace (* is every one)
        users:2:1: a user's name has 1 to 64 characters
          help: write USER:PASSWORD, then `admin`, or NAMESPACE:r, NAMESPACE:w or NAMESPACE:rw for each
                namespace (* is every one)
        users:3:1: ann: may do nothing
          help: write USER:PASSWORD, then `admin`, or NAMESPACE:r, NAMESPACE:w or NAMESPACE:rw for each
                namespace (* is every one)
        users:4:14: bob: this word says nothing that a user may do
          help: `admin`, NAMESPACE:r, NAMESPACE:w or NAMESPACE:rw; a password with blanks must be written
                as bcrypt
        users:5:1: ann: stands in line 3 already
          help: take one of the two out
        users:6:1: cid: this is no whole bcrypt: $2y$, two digits, $ and 53 characters
          help: make one: htpasswd -nbB USER PASSWORD
        users:7:1: dot: this kind of hash is not known, only bcrypt is
          help: make one: htpasswd -nbB USER PASSWORD
        users:8:1: eve: a bcrypt of cost 15 is not looked at, only 4 to 14
          help: make one of cost 10: htpasswd -nbBC 10 USER PASSWORD
        users:9:1: fay: a password has 1 to 1024 bytes
          help: write it behind the `:`
        users:10:15: gus: `admin` is everything
          help: leave the other words out
        users:11:15: hal: this word says nothing that a user may do
          help: `admin`, NAMESPACE:r, NAMESPACE:w or NAMESPACE:rw; a password with blanks must be written
                as bcrypt
        users:12:1: @token-ttl: is no time from 1s to 30 days
          help: write 30s, 10m or 5h
        users:13:1: @token-key: is not the base64 of 32 bytes or more
          help: make one: head -c 32 /dev/urandom | base64
        users:14:1: @identity: takes two words
          help: write @identity NAME VALUE
        users:15:1: @token-ttl: stands in line 12 already
          help: take one of the two out
        users:16:1: is no setting
          help: there are @token-ttl, @token-key and @identity
        16 errors in 1 of 1 file
        ");
        insta::assert_snapshot!(problems("# nobody\n"), @r"
        users: names no user
          help: write one: nacos:PASSWORD admin
        1 error in 1 of 1 file
        ");
    }

    #[test]
    fn what_stands_behind_an_at_sign_is_about_all_users() {
        let key = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
        let it = users(&format!(
            "@token-ttl 90m\n@token-key {key}\n@identity Inner-Key canary\na:canary admin"
        ));
        assert_eq!(it.token_ttl(), Duration::from_secs(5400));
        assert!(it.key().is_some());
        assert_eq!(it.identity(), Some("Inner-Key"));
        assert!(it.is_identity("canary") && !it.is_identity("canar"));
        assert!(!format!("{it:?}").contains("canary"));
        let plain = users("a:x admin");
        assert_eq!(plain.token_ttl(), TOKEN_TTL);
        assert!(plain.key().is_none() && plain.identity().is_none() && !plain.is_identity(""));
    }
}
