//! What we ask of the monitor over HTTP: its settings and counters, and its event stream.

use anyhow::{Context, Result, bail};
use std::io::Read;
use std::time::Duration;
use systole::api::Summary;
use ureq::Agent;

/// A monitor's HTTP side.
#[derive(Clone)]
pub struct Monitor {
    base: String,
    /// For short questions.
    asking: Agent,
    /// For the event stream, which may be silent as long as it likes.
    listening: Agent,
}

impl Monitor {
    /// The monitor at a base URL like `http://127.0.0.1:4680`.
    pub fn new(base: &str) -> Monitor {
        // A proxy from the environment has no business between a monitor and its test.
        let agent = |timeout| {
            Agent::config_builder()
                .proxy(None)
                .timeout_connect(Some(Duration::from_secs(5)))
                .timeout_global(timeout)
                .build()
                .new_agent()
        };
        let asking = agent(Some(Duration::from_secs(10)));
        Monitor { base: base.to_owned(), asking, listening: agent(None) }
    }

    /// Its settings and counters now.
    pub fn summary(&self) -> Result<Summary> {
        let url = format!("{}/api/v1/summary", self.base);
        let mut answer =
            self.asking.get(&url).call().with_context(|| format!("no monitor answers at {url}"))?;
        answer
            .body_mut()
            .read_json()
            .with_context(|| format!("what answers at {url} is no monitor"))
    }

    /// Its transitions after a sequence number of an epoch, as they come.
    pub fn events(&self, epoch: u64, after: u64) -> Result<impl Read + use<>> {
        let url = format!("{}/api/v1/events?after={after}&epoch={epoch}", self.base);
        let answer = self.listening.get(&url).call().with_context(|| format!("asking {url}"))?;
        let kind = answer.headers().get("content-type").map(|v| v.as_bytes().to_vec());
        if !kind.as_deref().is_some_and(|kind| kind.starts_with(b"text/event-stream")) {
            bail!("{url} is no event stream");
        }
        // The default limit of 10 MB is for answers, not for streams.
        Ok(answer.into_body().into_with_config().limit(u64::MAX).reader())
    }
}
