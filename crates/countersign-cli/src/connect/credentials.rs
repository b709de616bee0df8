//! The token: the shared secret of calls that change something.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use countersign_protocol::Token;
use tonic::Request;

use crate::terminal::output::UsageError;

/// `--token` and `--token-file`.
#[derive(Args)]
pub(crate) struct Credentials {
    /// The shared secret of calls that change something. Other users of this machine can see a flag:
    /// the environment or a file is better
    #[arg(long, env = "COUNTERSIGN_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    /// A file with the shared secret, instead of --token
    #[arg(long, env = "COUNTERSIGN_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl Credentials {
    /// The message as a call, with the token if one is given.
    ///
    /// # Errors
    /// When both flags are given, the file cannot be read, or its text is no token.
    pub(crate) fn call<T>(&self, message: T) -> anyhow::Result<Request<T>> {
        let mut request = Request::new(message);
        if let Some(token) = self.token()? {
            token.show(request.metadata_mut());
        }
        Ok(request)
    }

    fn token(&self) -> anyhow::Result<Option<Token>> {
        // An empty variable is how compose files leave one out.
        let given = self.token.as_deref().filter(|token| !token.is_empty());
        let file = self.token_file.as_ref().filter(|file| !file.as_os_str().is_empty());
        let text = match (given, file) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => {
                return Err(UsageError("give --token or --token-file (COUNTERSIGN_TOKEN, COUNTERSIGN_TOKEN_FILE), not both".to_owned()).into());
            }
            (Some(token), None) => token.to_owned(),
            (None, Some(file)) => std::fs::read_to_string(file)
                .with_context(|| format!("the token's file {} cannot be read", file.display()))?,
        };
        let token = text.trim_end_matches(['\r', '\n']).parse();
        Ok(Some(token.map_err(|why| UsageError(format!("the token cannot be used: {why}")))?))
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}
