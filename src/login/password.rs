//! Passwords, and the SCRAM verifiers that Postgres gets instead of them.

use std::num::NonZeroU32;

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret as _, SecretString};

use crate::clock;

/// 192 bits, 32 characters of `[A-Za-z0-9_-]`: safe in URLs, DSNs and shells.
const PASSWORD_BYTES: usize = 24;

/// Iterations of a verifier unless its role says otherwise: what Postgres itself uses, and the
/// least that every client accepts (RFC 7677, section 4).
pub const SCRAM_ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).unwrap();

/// What Postgres itself uses (`SCRAM_DEFAULT_SALT_LEN`).
const SALT_BYTES: usize = 16;

/// A fresh password.
#[must_use]
pub fn generate() -> SecretString {
    SecretString::from(URL_SAFE_NO_PAD.encode(clock::random_bytes::<PASSWORD_BYTES>()))
}

/// The verifier of RFC 5803 as Postgres stores it:
/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`. The password is ASCII, so `SASLprep`
/// leaves it as it is. Takes about 1 ms of a core per 4096 iterations.
#[must_use]
pub fn scram_verifier(password: &SecretString, iterations: NonZeroU32) -> String {
    verifier(password, iterations, &clock::random_bytes::<SALT_BYTES>())
}

fn verifier(password: &SecretString, iterations: NonZeroU32, salt: &[u8]) -> String {
    let mut salted = [0; digest::SHA256_OUTPUT_LEN];
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        iterations,
        salt,
        password.expose_secret().as_bytes(),
        &mut salted,
    );
    let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
    let client_key = hmac::sign(&key, b"Client Key");
    let stored_key = digest::digest(&digest::SHA256, client_key.as_ref());
    let server_key = hmac::sign(&key, b"Server Key");
    format!(
        "SCRAM-SHA-256${iterations}:{}${}:{}",
        STANDARD.encode(salt),
        STANDARD.encode(stored_key),
        STANDARD.encode(server_key)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exchange of RFC 7677, section 3: user `user`, password `pencil`. The
    /// server's signature there confirms the verifier's last part.
    #[test]
    fn verifier_agrees_with_rfc_7677() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let text = verifier(
            &SecretString::from("pencil"),
            NonZeroU32::new(4096).unwrap(),
            &salt,
        );
        let server_key = STANDARD.decode(text.rsplit_once(':').unwrap().1).unwrap();
        let auth_message = "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let signature = hmac::sign(
            &hmac::Key::new(hmac::HMAC_SHA256, &server_key),
            auth_message.as_bytes(),
        );
        assert_eq!(
            STANDARD.encode(signature),
            "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
        );
        assert!(text.starts_with("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$"));
    }

    #[test]
    fn passwords_are_long_distinct_and_url_safe() {
        let (one, other) = (generate(), generate());
        assert_ne!(one.expose_secret(), other.expose_secret());
        assert_eq!(one.expose_secret().len(), 32);
        assert!(
            one.expose_secret()
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
        );
        assert!(!format!("{one:?}").contains(one.expose_secret()));
    }
}
