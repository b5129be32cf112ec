//! What a publish says besides its content, in the words of each interface, and how much of it there may be.

use crate::registry::config::Configs;
use crate::registry::config::Publish;
use crate::registry::like::Cas;
use crate::registry::like::Like;
use crate::registry::model;
use crate::registry::model::Author;
use crate::registry::model::ConfigKey;
use crate::registry::model::Gray;
use crate::registry::model::Time;
use crate::registry::model::Words;
use crate::registry::refusal::Refusal;

/// Characters of a part at most: the first ones as in the original, which bounds the last ones by a column of its database, or not at all.
const LIMITS: &[(&str, usize)] = &[
    ("desc", 128),
    ("use", 32),
    ("effect", 32),
    ("schema", 32_768),
    ("appName", 1024),
    ("src_user", 1024),
    ("srcUser", 1024),
    ("encryptedDataKey", 1024),
];
/// Tags of a configuration at most, and characters of one.
const TAGS: (usize, usize) = (5, 64);
/// Characters of the tag of a variant at most.
const TAG: usize = 16;

/// How an interface calls what they call differently.
#[derive(Debug)]
pub(crate) struct Names {
    user: &'static str,
    tags: &'static str,
}

/// v1 and gRPC.
pub(crate) const SNAKE: Names = Names {
    user: "src_user",
    tags: "config_tags",
};

/// v2 and v3.
pub(crate) const CAMEL: Names = Names {
    user: "srcUser",
    tags: "configTags",
};

/// Reads what is said of a content; `said` gives each part as it came.
pub(crate) fn read<'a>(
    like: Like,
    names: &Names,
    content: &str,
    ip: String,
    said: impl Fn(&str) -> Option<&'a str>,
) -> Result<Publish, Refusal> {
    let manners = like.manners();
    let tags = said(names.tags).map(read_tags).transpose()?;
    for (name, most) in LIMITS {
        if said(name).is_some_and(|part| part.encode_utf16().count() > *most) {
            return Err(Refusal::Part(format!("too long {name}, over {most}")));
        }
    }
    let part = |name| said(name).map(str::to_owned);
    let filled = |name| said(name).filter(|part| !part.trim().is_empty());
    let user = filled(names.user).filter(|_| manners.publisher_said);
    let key = filled("encryptedDataKey").filter(|_| manners.encrypted_data_key);
    Ok(Publish {
        content: content.to_owned(),
        kind: model::kind(said("type")),
        app_name: said("appName").map(|name| name.trim().to_owned()),
        tags,
        words: Words {
            desc: part("desc"),
            usage: part("use"),
            effect: part("effect"),
            schema: part("schema"),
        },
        encrypted_data_key: key.unwrap_or_default().to_owned(),
        cas_md5: None,
        by: Author {
            user: user.map(str::to_owned),
            ip,
        },
    })
}

fn read_tags(said: &str) -> Result<Vec<String>, Refusal> {
    let (most, longest) = TAGS;
    // Java's `split` leaves out what is empty at the end.
    let all = said.trim_end_matches(',').split(',');
    if all.clone().count() > most {
        return Err(Refusal::Part(format!("too much config_tags, over {most}")));
    }
    let mut tags: Vec<String> = Vec::new();
    for tag in all {
        if tag.encode_utf16().count() > longest {
            return Err(Refusal::Part(format!("too long tag, over {longest}")));
        }
        if !tag.trim().is_empty() && !tags.iter().any(|there| there == tag) {
            tags.push(tag.to_owned());
        }
    }
    Ok(tags)
}

/// The tag of a variant, if one is said.
pub(crate) fn tag(said: Option<&str>) -> Result<Option<&str>, Refusal> {
    let Some(tag) = said.filter(|tag| !tag.trim().is_empty()) else {
        return Ok(None);
    };
    let legal = |c: char| c.is_alphanumeric() || "_-.:".contains(c);
    if !tag.trim().chars().all(legal) {
        return Err(Refusal::Tag(format!("invalid tag : {tag}")));
    }
    if tag.encode_utf16().count() > TAG {
        return Err(Refusal::Tag(format!("too long tag, over {TAG}")));
    }
    Ok(Some(tag))
}

/// What is published: the formal content, or that of a variant. A beta wins over a tag.
#[derive(Debug)]
pub(crate) enum Aim {
    /// For all.
    Formal,
    /// For some; the addresses of a beta.
    Variant(Gray, String),
}

impl Aim {
    /// By a tag that was checked, and the addresses of a beta.
    pub(crate) fn read(tag: Option<&str>, beta_ips: Option<&str>) -> Self {
        match (beta_ips.filter(|ips| !ips.trim().is_empty()), tag) {
            (Some(ips), _) => Self::Variant(Gray::Beta, ips.to_owned()),
            (None, Some(tag)) => Self::Variant(Gray::Tag(tag.to_owned()), String::new()),
            (None, None) => Self::Formal,
        }
    }
}

/// Publishes; `cas_md5` is what the caller believes to be there.
pub(crate) fn put(
    configs: &mut Configs,
    like: Like,
    time: Time,
    key: &ConfigKey,
    aim: &Aim,
    cas_md5: Option<&str>,
    mut publish: Publish,
) -> Result<(), Refusal> {
    let manners = like.manners();
    publish.cas_md5 = cas_md5
        .filter(|md5| !md5.trim().is_empty() && manners.cas == Cas::Refused)
        .map(str::to_owned);
    match aim {
        Aim::Formal => configs.publish(time, key, publish),
        Aim::Variant(gray, ips) => {
            let most = manners.variants;
            configs.publish_variant(time, key, (gray, ips), most, publish)
        }
    }
    .map(drop)
}

/// The variants that a tag names where one is deleted: by its own name, or by the one that the original has for the variant.
pub(crate) fn grays(tag: &str) -> [Option<Gray>; 2] {
    [Some(Gray::Tag(tag.to_owned())), Gray::named(tag)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_part(name: &'static str, value: &str) -> Result<Publish, Refusal> {
        read(Like::V2_5, &SNAKE, "x", String::new(), |asked| {
            (asked == name).then_some(value)
        })
    }

    #[test]
    fn every_part_has_a_limit_and_the_answer_names_it() {
        for (name, most, longest) in [
            ("desc", "128", 128),
            ("use", "32", 32),
            ("effect", "32", 32),
            ("schema", "32768", 32_768),
            ("appName", "1024", 1024),
            ("src_user", "1024", 1024),
            ("encryptedDataKey", "1024", 1024),
        ] {
            assert!(read_part(name, &"ü".repeat(longest)).is_ok(), "{name}");
            let over = read_part(name, &"ü".repeat(longest + 1)).unwrap_err();
            let words = format!("too long {name}, over {most}");
            assert_eq!(over, Refusal::Part(words));
        }
        let words = "too much config_tags, over 5".to_owned();
        let over = read_part("config_tags", "a,b,c,d,e,f").unwrap_err();
        assert_eq!(over, Refusal::Part(words));
        let words = "too long tag, over 64".to_owned();
        let over = read_part("config_tags", &"t".repeat(65)).unwrap_err();
        assert_eq!(over, Refusal::Part(words));
        assert!(tag(Some("sixteen-letters.")).is_ok());
        let words = "too long tag, over 16".to_owned();
        let over = tag(Some("seventeen-letters")).unwrap_err();
        assert_eq!(over, Refusal::Tag(words));
    }

    #[test]
    fn tags_are_said_in_order_and_once() {
        let tags = |said| read_part("config_tags", said).unwrap().tags.unwrap();
        assert_eq!(tags("b,a,b,,c,"), ["b", "a", "c"]);
        assert_eq!(tags(" "), [""; 0]);
        assert_eq!(read_part("desc", "").unwrap().tags, None, "not said");
    }
}
