//! The shared secret that calls which change something carry.

use std::fmt;
use std::str::FromStr;

use subtle::ConstantTimeEq;
use thiserror::Error;
use tonic::Status;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};

/// A shared secret: a caller that shows it may change something. It is sent as
/// `authorization: Bearer <token>`, and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// Why a text is not a [`Token`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InvalidToken {
    /// There is nothing in it.
    #[error("it is empty")]
    Empty,
    /// It is longer than [`MAX_TOKEN`].
    #[error("it is longer than {MAX_TOKEN} characters")]
    Long,
    /// It cannot be sent in a header.
    #[error(
        "it has a character that is not visible ASCII: use letters, digits and punctuation, without spaces"
    )]
    Character,
}

/// The longest token, in characters.
pub const MAX_TOKEN: usize = 1_000;

/// The metadata's key.
const AUTHORIZATION: &str = "authorization";
/// What stands before the token.
const BEARER: &str = "Bearer";

impl Token {
    /// Puts the token into a call's metadata.
    pub fn show(&self, metadata: &mut MetadataMap) {
        // A token is visible ASCII, so that this cannot fail.
        if let Ok(mut value) = MetadataValue::<Ascii>::try_from(format!("{BEARER} {}", self.0)) {
            value.set_sensitive(true);
            metadata.insert(AUTHORIZATION, value);
        }
    }

    /// Looks for the token in a call's metadata.
    ///
    /// How long it takes says nothing about how much of a wrong token is right.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` if there is none or it cannot be read, `PERMISSION_DENIED` if it is another.
    pub fn require(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let Some(value) = metadata.get(AUTHORIZATION) else {
            return Err(Status::unauthenticated(
                "no token: send the metadata `authorization: Bearer <token>` with the value of COUNTERSIGN_TOKEN",
            ));
        };
        let given = value.to_str().ok().and_then(|text| text.split_once(' '));
        let Some((_, given)) = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(BEARER))
        else {
            return Err(Status::unauthenticated(
                "the metadata `authorization` is not `Bearer <token>`",
            ));
        };
        if bool::from(self.0.as_bytes().ct_eq(given.trim().as_bytes())) {
            Ok(())
        } else {
            Err(Status::permission_denied(
                "the token is wrong: it has to be the one in this service's COUNTERSIGN_TOKEN",
            ))
        }
    }
}

impl FromStr for Token {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        match text {
            "" => Err(InvalidToken::Empty),
            _ if text.len() > MAX_TOKEN => Err(InvalidToken::Long),
            _ if !text.bytes().all(|byte| byte.is_ascii_graphic()) => Err(InvalidToken::Character),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(set)")
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn only_the_same_token_is_let_in() {
        let token: Token = "s3cret".parse().unwrap();
        let mut shown = MetadataMap::new();
        token.show(&mut shown);
        assert_eq!(token.require(&shown).map_err(|status| status.code()), Ok(()));
        for (given, expected) in [
            (None, Err(Code::Unauthenticated)),
            (Some("s3cret"), Err(Code::Unauthenticated)),
            (Some("Basic s3cret"), Err(Code::Unauthenticated)),
            (Some("Bearer "), Err(Code::PermissionDenied)),
            (Some("Bearer s3cre"), Err(Code::PermissionDenied)),
            (Some("Bearer s3cretx"), Err(Code::PermissionDenied)),
            (Some("Bearer S3CRET"), Err(Code::PermissionDenied)),
            (Some("bearer s3cret"), Ok(())),
        ] {
            let mut metadata = MetadataMap::new();
            if let Some(given) = given {
                metadata.insert(AUTHORIZATION, given.parse().unwrap());
            }
            let code = token.require(&metadata).map_err(|status| status.code());
            assert_eq!(code, expected, "{given:?}");
        }
    }

    #[test]
    fn what_cannot_be_sent_is_no_token() {
        assert_eq!("".parse::<Token>(), Err(InvalidToken::Empty));
        assert_eq!("x".repeat(1_001).parse::<Token>(), Err(InvalidToken::Long));
        for text in ["two words", "line\nfeed", "Schlüssel"] {
            assert_eq!(text.parse::<Token>(), Err(InvalidToken::Character), "{text:?}");
        }
    }

    #[test]
    fn it_is_never_printed() {
        let token: Token = "s3cret".parse().unwrap();
        let mut shown = MetadataMap::new();
        token.show(&mut shown);
        assert!(!format!("{token:?} {shown:?}").contains("s3cret"));
    }
}
