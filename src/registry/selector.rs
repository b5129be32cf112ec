//! The selector of a service: none, or by labels that both sides must share.
//!
//! Labels come from a database of hosts that the original is delivered without, and without which it selects everybody; so it is here.
//! A selector is read, checked, kept and shown.

use crate::registry::forms::Params;
use crate::registry::like::Like;
use crate::registry::refusal::Refusal;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Characters of an expression at most.
const EXPRESSION: usize = 4_096;

/// What a service was told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Selector {
    /// Everybody.
    #[default]
    None,
    /// `CONSUMER.label.x = PROVIDER.label.x & …`
    Label {
        /// As it was said.
        expression: String,
        /// The labels in it.
        labels: Vec<String>,
    },
}

impl Selector {
    /// `selector`; nothing said is none.
    pub(crate) fn read(params: &Params) -> Result<Self, Refusal> {
        let Some(text) = params.get("selector") else {
            return Ok(Self::None);
        };
        let selector: Value = serde_json::from_str(text).map_err(|_| Refusal::Selector)?;
        let word = |name| selector.get(name).and_then(Value::as_str);
        match word("type") {
            Some("none") => Ok(Self::None),
            Some("label") => {
                let expression = word("expression").unwrap_or_default();
                if expression.len() > EXPRESSION {
                    return Err(Refusal::Full("characters of a selector", EXPRESSION));
                }
                Ok(Self::Label {
                    expression: expression.to_owned(),
                    labels: labels(expression).ok_or(Refusal::SelectorExpression)?,
                })
            }
            _ => Err(Refusal::Selector),
        }
    }

    /// As it is shown.
    pub(crate) fn shown(&self, like: Like) -> Value {
        let (mut shown, context) = match self {
            Self::None => (json!({"type": "none"}), "NONE"),
            Self::Label { expression, labels } => (
                json!({"type": "label", "expression": expression, "labels": labels}),
                "CMDB",
            ),
        };
        if let Some(shown) = shown.as_object_mut()
            && like != Like::V1_4
        {
            shown.insert("contextType".to_owned(), context.into());
        }
        shown
    }
}

/// The labels of an expression; blanks do not count.
fn labels(expression: &str) -> Option<Vec<String>> {
    let expression: String = expression.split_whitespace().collect();
    if expression.is_empty() {
        return Some(Vec::new());
    }
    let mut labels: Vec<String> = Vec::new();
    for term in expression.split('&') {
        let (consumer, provider) = term.split_once('=')?;
        let label = consumer.strip_prefix("CONSUMER.label.")?;
        if label.is_empty() || provider.strip_prefix("PROVIDER.label.")? != label {
            return None;
        }
        if !labels.iter().any(|there| there == label) {
            labels.push(label.to_owned());
        }
    }
    Some(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_names_the_same_label_of_both_sides() {
        let both = "CONSUMER.label.a = PROVIDER.label.a & CONSUMER.label.b = PROVIDER.label.b";
        assert_eq!(labels(both), Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(labels(" "), Some(Vec::new()));
        for bad in [
            "nonsense",
            "CONSUMER.label.a=PROVIDER.label.b",
            "CONSUMER.label.=PROVIDER.label.",
        ] {
            assert_eq!(labels(bad), None, "{bad}");
        }
    }
}
