//! The parameters of a request: query first, form body after it, and the checks that 2.5.1 makes before any controller.
//!
//! The first value of a name wins, so the query wins over the form, as `getParameter` does. Blank values count as absent for
//! the optional ones and are trimmed otherwise (`WebUtils`).

use crate::foreign::Foreign;
use crate::nacos::model::DEFAULT_CLUSTER;
use crate::nacos::model::DEFAULT_GROUP;
use crate::nacos::model::Namespace;
use crate::nacos::model::ServiceKey;
use crate::nacos::wire::Loose;
use crate::registry::model::Metadata;
use crate::registry::refusal::Refusal;
use percent_encoding::percent_decode_str;
use std::collections::BTreeMap;

/// The parameters of one request.
#[derive(Clone, Default)]
pub(crate) struct Params(BTreeMap<String, String>);

impl Params {
    /// Adds the pairs of a query or a form; what is there already stays.
    pub(crate) fn add(&mut self, encoded: &str) {
        for pair in encoded.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            self.0.entry(decode(name)).or_insert_with(|| decode(value));
        }
    }

    /// Leaves some out.
    pub(crate) fn forget(&mut self, names: &[&str]) {
        self.0.retain(|name, _| !names.contains(&name.as_str()));
    }

    /// How many bytes they have.
    pub(crate) fn bytes(&self) -> usize {
        let all = self.0.iter();
        all.map(|(name, value)| name.len() + value.len()).sum()
    }

    /// The names of all.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// As it came, blanks included.
    pub(crate) fn raw(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Trimmed; `None` when absent or blank.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.raw(name)
            .map(str::trim)
            .filter(|value| !value.is_empty())
    }

    /// As it came; `None` when absent or blank.
    pub(crate) fn untrimmed(&self, name: &str) -> Option<&str> {
        self.raw(name).filter(|value| !value.trim().is_empty())
    }

    /// A parameter that naming cannot do without.
    pub(crate) fn required(&self, name: &'static str) -> Result<&str, Refusal> {
        self.get(name).ok_or(Refusal::Required(name))
    }

    /// A parameter that configuration cannot do without; blank is present.
    pub(crate) fn parameter(&self, name: &'static str) -> Result<&str, Refusal> {
        self.raw(name).ok_or(Refusal::RequiredParameter(name))
    }

    /// A flag with any of Nacos' spellings of true; anything else is false.
    pub(crate) fn flag(&self, names: &[&str], default: bool) -> bool {
        let said = names.iter().find_map(|name| self.get(name));
        said.map_or(default, |value| {
            ["true", "on", "yes", "t", "y", "1"]
                .iter()
                .any(|yes| value.eq_ignore_ascii_case(yes))
        })
    }

    /// A flag that only one word sets.
    pub(crate) fn is_true(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// A whole number; absent is `default`.
    pub(crate) fn number(&self, name: &'static str) -> Result<Option<i64>, Refusal> {
        self.get(name)
            .map(|text| {
                text.parse::<i32>()
                    .map(i64::from)
                    .map_err(|_| Refusal::NotANumber(text.to_owned()))
            })
            .transpose()
    }

    /// A number from 1 on; absent is `default`.
    pub(crate) fn positive(&self, name: &'static str, default: usize) -> Result<usize, Refusal> {
        match self.number(name)? {
            None => Ok(default),
            Some(number) => match usize::try_from(number) {
                Ok(positive) if positive > 0 => Ok(positive),
                _ => Err(Refusal::NotPositive(name, number)),
            },
        }
    }

    /// A fraction.
    pub(crate) fn fraction(&self, name: &'static str) -> Result<Option<f64>, Refusal> {
        self.get(name)
            .map(|text| {
                text.parse()
                    .map_err(|_| Refusal::NotANumber(text.to_owned()))
            })
            .transpose()
    }

    /// A weight, 0 to 10000.
    pub(crate) fn weight(&self) -> Result<Option<f64>, Refusal> {
        match self.fraction("weight")? {
            Some(weight) if !(0.0..=10_000.0).contains(&weight) => Err(Refusal::Weight),
            weight => Ok(weight),
        }
    }

    /// `metadata`; empty when absent.
    pub(crate) fn metadata(&self) -> Result<Metadata, Refusal> {
        parse_metadata(self.get("metadata").unwrap_or_default())
    }

    /// `clusterName`, else `cluster`, else `DEFAULT`.
    pub(crate) fn cluster(&self) -> &str {
        self.get("clusterName")
            .or_else(|| self.get("cluster"))
            .unwrap_or(DEFAULT_CLUSTER)
    }

    /// `namespaceId`.
    pub(crate) fn namespace(&self) -> Namespace {
        Namespace::new(self.get("namespaceId").unwrap_or_default())
    }

    /// Which service is meant: `serviceName` with its group, else with `groupName`.
    ///
    /// Call [`Params::check`] before: it refuses what is half a name.
    pub(crate) fn service(&self) -> Result<ServiceKey, Refusal> {
        let raw = self
            .raw("serviceName")
            .filter(|name| !name.is_empty())
            .ok_or(Refusal::Required("serviceName"))?;
        let name = raw.trim();
        if name.is_empty() {
            return Err(Refusal::NameFormat);
        }
        let group = self.get("groupName").unwrap_or(DEFAULT_GROUP);
        let (group, name) = name.split_once("@@").unwrap_or((group, name));
        Ok(ServiceKey {
            namespace: self.namespace(),
            group: group.into(),
            name: name.into(),
        })
    }

    /// What `ParamCheckerFilter` and then `ServiceNameFilter` do before any naming controller: a blank around a name is refused
    /// and not trimmed, except around the service's.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        let metadata = self.metadata()?;
        check_tenant(self.untrimmed("namespaceId"))?;
        let name = self
            .get("serviceName")
            .or_else(|| self.get("serviceNameParam"));
        let (group, name) = match name.and_then(|name| name.split_once("@@")) {
            Some((group, name)) => (Some(group), Some(name)),
            None => (
                self.untrimmed("groupName")
                    .or_else(|| self.untrimmed("groupNameParam")),
                name,
            ),
        };
        check_service(name)?;
        check_plain("group", 128, group)?;
        for clusters in ["clusters", "clusterName", "cluster"].map(|name| self.untrimmed(name)) {
            for cluster in clusters.unwrap_or_default().split(',') {
                check_cluster(cluster)?;
            }
        }
        check_ip(self.untrimmed("ip"))?;
        if let Some(port) = self
            .untrimmed("port")
            .or_else(|| self.untrimmed("checkPort"))
        {
            check_port(port)?;
        }
        check_metadata(&metadata)?;
        self.check_name()
    }

    /// What `ParamCheckerFilter` does before any controller of configuration, which names tenant and group in its own way.
    pub(crate) fn check_config(&self, tenant: &str, group: &str) -> Result<(), Refusal> {
        check_tenant(self.untrimmed(tenant))?;
        check_plain("dataId", 256, self.untrimmed("dataId"))?;
        check_plain("group", 128, self.untrimmed(group))
    }

    /// `ServiceNameFilter` alone, which on 1.4 is all that is done before a controller.
    pub(crate) fn check_name(&self) -> Result<(), Refusal> {
        match self
            .get("serviceName")
            .and_then(|name| name.split_once("@@"))
        {
            Some((_, "")) => Err(Refusal::GroupWithoutName),
            Some(("", _)) => Err(Refusal::NameWithoutGroup),
            _ => Ok(()),
        }
    }

    /// A port as text. What is a number but no port is refused whichever generation is asked, though 1.4.8 takes it.
    pub(crate) fn port(&self, text: &str) -> Result<u16, Refusal> {
        let number: i64 = text
            .parse()
            .map_err(|_| Refusal::NotANumber(text.to_owned()))?;
        u16::try_from(number).map_err(|_| Refusal::PortRange)
    }
}

/// One name or value of a form, decoded once.
pub(crate) fn decode(text: &str) -> String {
    if !text.contains('+') {
        return percent_decode_str(text).decode_utf8_lossy().into_owned();
    }
    let text = text.replace('+', " ");
    percent_decode_str(&text).decode_utf8_lossy().into_owned()
}

/// Metadata as `UtilsAndCommons.parseMetadata` reads them: a flat JSON object, else `k=v,k=v`.
pub(crate) fn parse_metadata(text: &str) -> Result<Metadata, Refusal> {
    if text.is_empty() {
        return Ok(Metadata::new());
    }
    if let Ok(flat) = serde_json::from_str::<BTreeMap<String, Loose>>(text) {
        return Ok(flat
            .into_iter()
            .map(|(key, value)| (Foreign::new(key), value.0.map(Foreign::new)))
            .collect());
    }
    // Java's `split` leaves out what is empty at the end, and so finds nothing at all in commas.
    let pairs = text.trim_end_matches(',');
    if pairs.is_empty() {
        return Ok(Metadata::new());
    }
    pairs
        .split(',')
        .map(|pair| {
            let (key, value) = pair.trim_end_matches('=').split_once('=')?;
            (!value.contains('=')).then(|| (key.into(), Some(value.into())))
        })
        .collect::<Option<Metadata>>()
        .ok_or_else(|| Refusal::Metadata(text.to_owned()))
}

/// The parameter check of metadata: keys and values together at most 1024.
pub(crate) fn check_metadata(metadata: &Metadata) -> Result<(), Refusal> {
    let length = |text: &Foreign| text.raw().encode_utf16().count();
    let all: usize = metadata
        .iter()
        .map(|(key, value)| length(key) + value.as_ref().map_or(0, length))
        .sum();
    if all > 1024 {
        return Err(Refusal::TooLong("Metadata", 1024));
    }
    Ok(())
}

fn check(
    name: &'static str,
    most: usize,
    value: Option<&str>,
    legal: impl Fn(&str) -> bool,
) -> Result<(), Refusal> {
    match value.filter(|value| !value.trim().is_empty()) {
        Some(value) if value.encode_utf16().count() > most => Err(Refusal::TooLong(name, most)),
        Some(value) if !legal(value) => Err(Refusal::Characters(name)),
        _ => Ok(()),
    }
}

/// Groups, data ids.
pub(crate) fn check_plain(
    name: &'static str,
    most: usize,
    value: Option<&str>,
) -> Result<(), Refusal> {
    check(name, most, value, |value| {
        value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_:.".contains(&b))
    })
}

/// Namespace and tenant.
pub(crate) fn check_tenant(value: Option<&str>) -> Result<(), Refusal> {
    check("namespaceId/tenant", 64, value, |value| {
        value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    })
}

/// What 1.4 checks of a service when it is made: letters, digits and `@.:_-`, over the group as well.
pub(crate) fn check_grouped(service: &ServiceKey) -> Result<(), Refusal> {
    let grouped = service.grouped();
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"@.:_-".contains(&b);
    if grouped.bytes().all(legal) {
        Ok(())
    } else {
        Err(Refusal::ServiceName(grouped))
    }
}

/// Services, without their group.
pub(crate) fn check_service(value: Option<&str>) -> Result<(), Refusal> {
    check("serviceName", 512, value, |value| {
        !value.starts_with(['@', '\n', '\r'])
            && !value.chars().skip(1).any(cjk_or_space)
            && !value.contains("@@")
    })
}

/// One cluster.
pub(crate) fn check_cluster(value: &str) -> Result<(), Refusal> {
    check("cluster", 64, Some(value), |value| {
        value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    })
}

/// Addresses: any text without blanks and CJK.
pub(crate) fn check_ip(value: Option<&str>) -> Result<(), Refusal> {
    check("ip", 128, value, |value| !value.chars().any(cjk_or_space))
}

/// Ports, as text.
fn check_port(value: &str) -> Result<u16, Refusal> {
    value.parse().map_err(|_| Refusal::PortRange)
}

fn cjk_or_space(c: char) -> bool {
    matches!(
        c,
        ' ' | '\t' | '\n' | '\u{b}' | '\u{c}' | '\r' | '\u{4e00}'..='\u{9fa5}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(query: &str, form: &str) -> Params {
        let mut params = Params::default();
        params.add(query);
        params.add(form);
        params
    }

    #[test]
    fn the_query_wins_over_the_form() {
        let params = params("a=1&b=%2B+x", "a=2&c=%E6%9C%8D");
        assert_eq!(params.get("a"), Some("1"));
        assert_eq!(params.get("b"), Some("+ x"));
        assert_eq!(params.get("c"), Some("服"));
    }

    #[test]
    fn a_grouped_name_wins_over_the_group() {
        let service = params("serviceName=G2%40%40orders&groupName=IGNORED", "")
            .service()
            .unwrap();
        assert_eq!(service.grouped(), "G2@@orders");
    }

    #[test]
    fn metadata_are_json_or_pairs() {
        let flat = parse_metadata(r#"{"a":1,"b":true,"c":null}"#).unwrap();
        assert_eq!(flat[&"a".into()], Some("1".into()));
        assert_eq!(flat[&"b".into()], Some("true".into()));
        assert_eq!(flat[&"c".into()], None);
        assert_eq!(parse_metadata("a=b,c=d").unwrap().len(), 2);
        for bad in ["justtext", "{\"a\":", "a=b=c", r#"{"a":{"b":1}}"#] {
            assert_eq!(parse_metadata(bad), Err(Refusal::Metadata(bad.into())));
        }
    }

    #[test]
    fn every_spelling_of_true_is_true_and_nonsense_is_false() {
        for yes in ["true", "TRUE", "on", "Yes", "1"] {
            assert!(params(&format!("e={yes}"), "").flag(&["e"], false));
        }
        assert!(!params("e=maybe", "").flag(&["e"], true));
        assert!(params("e=", "").flag(&["e"], true));
    }
}
