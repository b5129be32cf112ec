//! YAML as configuration files have it: whether a text is well-formed, with the place of the first mistake.

use crate::report::Place;

/// Why a text is not YAML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where, if it can be said.
    pub place: Option<Place>,
    /// What, without any of the text.
    pub message: String,
}

/// Whether `bytes` are one YAML document or several.
///
/// # Errors
/// The first [`Mistake`].
pub fn check(bytes: &[u8]) -> Result<(), Mistake> {
    let mistake = |place, message: &str| Mistake {
        place,
        message: message.to_owned(),
    };
    let text = std::str::from_utf8(bytes).map_err(|_| mistake(None, "is not UTF-8"))?;
    match serde_yaml::from_multiple::<serde::de::IgnoredAny>(text) {
        Ok(_) => Ok(()),
        Err(error) => {
            let place = error.location().map(|at| Place {
                line: usize::try_from(at.line()).unwrap_or(usize::MAX),
                column: usize::try_from(at.column()).unwrap_or(usize::MAX),
            });
            Err(mistake(place, "is not well-formed here"))
        }
    }
}
