//! A password, token or key: no `Display`, no `Debug` of the value, no `Clone`, no `Serialize`; wiped when dropped.

use std::fmt;
use zeroize::Zeroizing;

/// A text that is never printed. [`Secret::expose`] is called once per place that must send it.
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text over.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text, for the one place that sends it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}
