//! How a command ends when it does not end well: one message, one exit code.

/// Exit code and message of a command that failed. Carried by `anyhow` errors too: `systole serve`
/// exits with the code of the `Failure` it finds in the chain, else with 1.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// Failed while running: exit code 1.
    pub fn failed(message: impl Into<String>) -> Failure {
        Failure { code: 1, message: message.into() }
    }

    /// Wrong usage, configuration or surroundings (a port taken, no privilege): exit code 2. The
    /// message says what to do about it.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure { code: 2, message: message.into() }
    }

    /// No such peer, or no monitor: exit code 3.
    pub fn not_found(message: impl Into<String>) -> Failure {
        Failure { code: 3, message: message.into() }
    }

    /// A given exit code.
    pub fn with_code(code: u8, message: impl Into<String>) -> Failure {
        Failure { code, message: message.into() }
    }

    /// The reader of our output has gone: nobody is left to tell, and it is no failure.
    pub fn nobody_reads() -> Failure {
        Failure { code: 0, message: String::new() }
    }

    /// What to exit with.
    pub fn code(&self) -> u8 {
        self.code
    }

    /// Says it on stderr, unless there is nothing to say.
    pub fn say(&self) {
        self.say_as("systole");
    }

    /// The same, for a binary of another name.
    pub fn say_as(&self, binary: &str) {
        if !self.message.is_empty() {
            super::terminal::say(&format!("{binary}: {}", self.message));
        }
    }
}

impl From<crate::config::ConfigError> for Failure {
    fn from(error: crate::config::ConfigError) -> Failure {
        Failure::usage(error.to_string())
    }
}

impl From<crate::config::keys_file::KeysError> for Failure {
    fn from(error: crate::config::keys_file::KeysError) -> Failure {
        Failure::usage(error.to_string())
    }
}
