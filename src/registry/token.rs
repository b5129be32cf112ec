//! Tokens: JSON web tokens signed with HMAC-SHA256, as the original's are with a key of 32 to 47 bytes.
//!
//! What a token says of its algorithm is no choice: its head must be, letter by letter, the one that is written here.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::{fmt, io, sync::Arc, time::Duration};
use zeroize::Zeroizing;

/// `{"alg":"HS256"}`.
const HEAD: &str = "eyJhbGciOiJIUzI1NiJ9";
/// Bytes of a token at most.
const LONGEST: usize = 4096;
/// Bytes of a key at least.
const KEY: usize = 32;

/// What tokens are signed with. Clones are the same one.
#[derive(Clone)]
pub struct Key(Arc<Zeroizing<Vec<u8>>>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[key]")
    }
}

/// Why a token opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// It is none.
    Malformed,
    /// Somebody else made it.
    Signature,
    /// Its time is over.
    Expired,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Claims {
    sub: String,
    exp: u64,
}

impl Key {
    /// A key as the original has it in its settings: the base64 of at least 32 bytes.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(STANDARD.decode(text).ok()?);
        (bytes.len() >= KEY).then(|| Self(Arc::new(bytes)))
    }

    /// A key that nobody knows.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub(crate) fn random() -> io::Result<Self> {
        let mut bytes = Zeroizing::new(vec![0; KEY]);
        // Up to 256 bytes come whole.
        rustix::rand::getrandom(bytes.as_mut_slice(), rustix::rand::GetRandomFlags::empty())?;
        Ok(Self(Arc::new(bytes)))
    }

    fn mac(&self, signed: &str) -> Option<Hmac<Sha256>> {
        // A key may have any length.
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).ok()?;
        mac.update(signed.as_bytes());
        Some(mac)
    }

    /// A token for `user` that ends at `until`, counted from 1970. `None` never comes.
    pub(crate) fn sign(&self, user: &str, until: Duration) -> Option<String> {
        let claims = Claims {
            sub: user.to_owned(),
            exp: until.as_secs(),
        };
        let claims = serde_json::to_vec(&claims).ok()?;
        let signed = format!("{HEAD}.{}", URL_SAFE_NO_PAD.encode(claims));
        let signature = self.mac(&signed)?.finalize().into_bytes();
        Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// Whose token it is, at `now`, counted from 1970.
    ///
    /// # Errors
    /// [`Bad`].
    pub(crate) fn read_token(&self, token: &str, now: Duration) -> Result<String, Bad> {
        if token.len() > LONGEST {
            return Err(Bad::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Bad::Malformed)?;
        let claims = signed
            .strip_prefix(HEAD)
            .and_then(|rest| rest.strip_prefix('.'))
            .ok_or(Bad::Malformed)?;
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| Bad::Malformed);
        let (claims, signature) = (decode(claims)?, decode(signature)?);
        let mac = self.mac(signed).ok_or(Bad::Malformed)?;
        mac.verify_slice(&signature).map_err(|_| Bad::Signature)?;
        let claims: Claims = serde_json::from_slice(&claims).map_err(|_| Bad::Malformed)?;
        if claims.exp <= now.as_secs() {
            return Err(Bad::Expired);
        }
        Ok(claims.sub)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Duration = Duration::from_secs(1_800_000_000);

    fn key(fill: u8) -> Key {
        Key::read(&STANDARD.encode([fill; 32])).unwrap()
    }

    #[test]
    fn a_token_is_its_users_until_it_ends_and_only_where_it_was_made() {
        let token = key(1).sign("orders", NOW + Duration::from_secs(2)).unwrap();
        assert_eq!(key(1).read_token(&token, NOW), Ok("orders".to_owned()));
        let late = NOW + Duration::from_secs(2);
        assert_eq!(key(1).read_token(&token, late), Err(Bad::Expired));
        assert_eq!(key(2).read_token(&token, NOW), Err(Bad::Signature));
        assert_ne!(Key::random().unwrap().0, Key::random().unwrap().0);
    }

    #[test]
    fn what_a_library_for_such_tokens_made_is_read() {
        // HS256 over {"sub":"nacos","exp":1800000018} with the key 01234567890123456789012345678901.
        let key = Key::read("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=").unwrap();
        let token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJuYWNvcyIsImV4cCI6MTgwMDAwMDAxOH0.69GHhUbuiqFW22EnK2JxNBRcyGIgjeFNy8Jm5oQo8Rs";
        assert_eq!(key.read_token(token, NOW), Ok("nacos".to_owned()));
        let same = key.sign("nacos", NOW + Duration::from_secs(18));
        assert_eq!(same.as_deref(), Some(token));
    }

    #[test]
    fn no_token_chooses_how_it_is_looked_at() {
        let claims = URL_SAFE_NO_PAD.encode(br#"{"sub":"nacos","exp":9999999999}"#);
        let signed_as = |head: &str| {
            let signed = format!("{}.{claims}", URL_SAFE_NO_PAD.encode(head));
            let signature = key(1).mac(&signed).unwrap().finalize().into_bytes();
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
        };
        // The way it is signed is right, so only its head is what is refused.
        assert!(
            key(1)
                .read_token(&signed_as(r#"{"alg":"HS256"}"#), NOW)
                .is_ok()
        );
        for head in [
            r#"{"alg":"none"}"#,
            r#"{"alg":"HS384"}"#,
            r#"{"alg":"HS256","typ":"JWT"}"#,
            r#"{"typ":"JWT"}"#,
            "",
        ] {
            let bad = key(1).read_token(&signed_as(head), NOW);
            assert_eq!(bad, Err(Bad::Malformed), "{head}");
        }
        let none = format!("{}.{claims}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#));
        assert_eq!(key(1).read_token(&none, NOW), Err(Bad::Malformed));
        let unsigned = format!("{HEAD}.{claims}.");
        assert_eq!(key(1).read_token(&unsigned, NOW), Err(Bad::Signature));
        for bad in [
            "",
            ".",
            "..",
            "garbage",
            "AUTH_DISABLED",
            &"x".repeat(1 << 20),
        ] {
            assert_eq!(key(1).read_token(bad, NOW), Err(Bad::Malformed));
        }
        let long = key(1).sign(&"x".repeat(4096), NOW * 2).unwrap();
        assert_eq!(key(1).read_token(&long, NOW), Err(Bad::Malformed));
    }

    #[test]
    fn a_key_is_the_base64_of_32_bytes_or_more() {
        assert!(Key::read(&STANDARD.encode([1; 31])).is_none());
        assert!(Key::read("not base64 at all, but long enough to be 32 bytes").is_none());
        assert!(Key::read(&STANDARD.encode([1; 64])).is_some());
    }

    proptest! {
        #[test]
        fn a_token_with_another_letter_opens_nothing(at in 0_usize..90, letter in "[A-Za-z0-9_.-]") {
            let token = key(1).sign("orders", NOW * 2).unwrap();
            let mut other = token.clone();
            let at = at % token.len();
            other.replace_range(at..=at, &letter);
            prop_assume!(other != token);
            prop_assert!(key(1).read_token(&other, NOW).is_err());
        }
    }
}
