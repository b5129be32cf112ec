//! Lists of instances as they were written, until the service changes: a list is rendered once per change, not once per request.
//!
//! A list is known by all that its text depends on besides the service. What the services' store reports as changed is forgotten here
//! before the next request is looked at. A list of 1.4 says the time of its request, whose place in the text is remembered.

use crate::nacos::model::ServiceKey;
use hyper::body::Bytes;
use std::collections::BTreeMap;

/// Bytes of all lists at most; when there is no room for one more, all make room.
const BYTES: usize = 16 * 1024 * 1024;
/// Lists of one service at most.
const LISTS: usize = 16;
/// What an entry costs besides its text.
const ENTRY: usize = 256;
/// In place of a time: no clock shows it, and no text in quotes is it.
pub(crate) const TIME: i64 = i64::MIN;

/// All that a list depends on besides its service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Query {
    pub(crate) clusters: String,
    pub(crate) healthy_only: bool,
    pub(crate) cache: i64,
    pub(crate) env: String,
    pub(crate) java: bool,
}

/// A text, in two parts where the time of the request comes between them.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    before: Bytes,
    after: Option<Bytes>,
}

impl Text {
    /// Splits a text where [`TIME`] is the value of `lastRefTime`, if it is anywhere.
    pub(crate) fn new(text: Bytes) -> Self {
        let mark = format!("\"lastRefTime\":{TIME}");
        let at = text
            .windows(mark.len())
            .position(|there| there == mark.as_bytes());
        match at.map(|at| (at + "\"lastRefTime\":".len(), at + mark.len())) {
            Some((end, begin)) => Self {
                before: text.slice(..end),
                after: Some(text.slice(begin..)),
            },
            None => Self {
                before: text,
                after: None,
            },
        }
    }

    /// As it is sent at that time.
    pub(crate) fn at(&self, millis: i64) -> Bytes {
        match &self.after {
            None => self.before.clone(),
            Some(after) => [&*self.before, millis.to_string().as_bytes(), after]
                .concat()
                .into(),
        }
    }

    fn len(&self) -> usize {
        self.before.len() + self.after.as_ref().map_or(0, Bytes::len)
    }
}

/// What has been rendered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rendered {
    lists: BTreeMap<ServiceKey, Vec<(Query, Text)>>,
    bytes: usize,
}

fn cost(key: &ServiceKey, query: &Query, text: &Text) -> usize {
    ENTRY + key.grouped().len() + query.clusters.len() + query.env.len() + text.len()
}

impl Rendered {
    /// The text of a list, if it is still right.
    pub(crate) fn get(&self, key: &ServiceKey, query: &Query) -> Option<&Text> {
        let lists = self.lists.get(key)?.iter();
        let mut right = lists.filter(|(there, _)| there == query);
        right.next().map(|(_, text)| text)
    }

    /// Keeps the text of a list until its service changes.
    pub(crate) fn keep(&mut self, key: &ServiceKey, query: Query, text: Text) {
        let cost = cost(key, &query, &text);
        if cost > BYTES {
            return;
        }
        if self.bytes + cost > BYTES {
            self.forget_all();
        }
        if self
            .lists
            .get(key)
            .is_some_and(|lists| lists.len() >= LISTS)
        {
            self.forget(key);
        }
        self.bytes += cost;
        self.lists
            .entry(key.clone())
            .or_default()
            .push((query, text));
    }

    /// A service has changed.
    pub(crate) fn forget(&mut self, key: &ServiceKey) {
        for (query, text) in self.lists.remove(key).unwrap_or_default() {
            self.bytes -= cost(key, &query, &text);
        }
    }

    /// All may have.
    pub(crate) fn forget_all(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nacos::model::Namespace;

    fn key(n: usize) -> ServiceKey {
        ServiceKey {
            namespace: Namespace::public(),
            group: "g".into(),
            name: n.to_string().into(),
        }
    }

    fn query(clusters: &str) -> Query {
        Query {
            clusters: clusters.to_owned(),
            healthy_only: false,
            cache: 0,
            env: String::new(),
            java: false,
        }
    }

    #[test]
    fn the_time_of_the_request_takes_the_place_of_the_mark_alone() {
        let text =
            format!(r#"{{"metadata":{{"lastRefTime":"{TIME}"}},"lastRefTime":{TIME},"x":1}}"#);
        let text = Text::new(text.into());
        let seen = String::from_utf8(text.at(7).to_vec()).unwrap();
        assert_eq!(
            seen,
            format!(r#"{{"metadata":{{"lastRefTime":"{TIME}"}},"lastRefTime":7,"x":1}}"#)
        );
        let plain = Text::new("x".into());
        assert_eq!(plain.at(7), "x");
    }

    #[test]
    fn what_is_kept_is_bounded_and_its_size_is_known() {
        let mut rendered = Rendered::default();
        let text = Text::new(vec![b'x'; 1024 * 1024].into());
        for n in 0..100 {
            rendered.keep(&key(n), query(""), text.clone());
            assert!(rendered.bytes <= BYTES);
            assert!(rendered.get(&key(n), &query("")).is_some());
        }
        for n in 0..100 {
            rendered.keep(&key(7), query(&n.to_string()), Text::new("x".into()));
        }
        assert!(rendered.lists[&key(7)].len() <= LISTS);
        for n in 0..100 {
            rendered.forget(&key(n));
        }
        assert_eq!((rendered.bytes, rendered.lists.len()), (0, 0));
    }
}
