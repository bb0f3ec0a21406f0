//! Signatures as [Standard Webhooks](https://www.standardwebhooks.com) have them, so that receivers find a library.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// A key that is ready for use.
pub(super) struct Key(Hmac<Sha256>);

impl Key {
    /// A secret's bytes; base64 where `whsec_` stands in front. `None` where it is not.
    pub(super) fn read(secret: &str) -> Option<Self> {
        let bytes = match secret.strip_prefix("whsec_") {
            Some(encoded) => BASE64_STANDARD.decode(encoded).ok()?,
            None => secret.as_bytes().to_vec(),
        };
        Hmac::new_from_slice(&bytes).ok().map(Self)
    }

    /// The header's value: the version, and the code of id, time and body.
    pub(super) fn sign(&self, id: &str, seconds: u64, body: &[u8]) -> String {
        let mut mac = self.0.clone();
        mac.update(format!("{id}.{seconds}.").as_bytes());
        mac.update(body);
        format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_signs_as_the_standard_says() {
        // The example of the Standard Webhooks specification.
        let key = Key::read("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = key.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_is_text_unless_it_says_otherwise() {
        let sign = |secret| Key::read(secret).map(|key| key.sign("m", 1, b""));
        assert_eq!(sign("whsec_aHVudGVyMg=="), sign("hunter2"));
        assert_ne!(sign("hunter2"), sign("hunter3"));
        assert_eq!(sign("whsec_***"), None);
    }
}
