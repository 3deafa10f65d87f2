//! The monitor's HTTP API as the commands call it: blocking, JSON, errors already in words.

use super::Failure;
use crate::api;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// Most that one answer may have; a page of 1,000 peers has about 400 KiB.
const MAX_BODY_BYTES: u64 = 256 << 20;

/// Which monitor to ask.
#[derive(clap::Args, Clone, Debug)]
pub struct MonitorArgs {
    /// Where the monitor's HTTP API is: a URL, or an address.
    #[arg(long, value_name = "URL", env = "SYSTOLE_HTTP", default_value = "127.0.0.1:4680")]
    pub http: String,
}

/// A monitor's HTTP API.
#[derive(Clone, Debug)]
pub struct Client {
    base: String,
    agent: ureq::Agent,
}

impl Client {
    /// A client for a URL (`http://host:4680`) or an address (`host:4680`). Nothing is sent yet.
    ///
    /// # Errors
    /// It is neither (exit code 2).
    pub fn new(http: &str) -> Result<Client, Failure> {
        Client::patient_for(http, Duration::from_secs(30))
    }

    /// As [`Client::new`], one that waits for an answer no longer than this.
    ///
    /// # Errors
    /// As there.
    pub fn patient_for(http: &str, patience: Duration) -> Result<Client, Failure> {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(patience.min(Duration::from_secs(5))))
            .timeout_recv_response(Some(patience))
            // A monitor is on the operator's own network; a web proxy would only be in the way.
            .proxy(None)
            .user_agent(concat!("systole/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Ok(Client { base: base_url(http)?, agent })
    }

    /// The monitor's URL, without a slash at its end.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The HTTP client that it uses.
    pub(super) fn agent(&self) -> &ureq::Agent {
        &self.agent
    }

    /// `GET` of a path with its query.
    ///
    /// # Errors
    /// No monitor answers or it does not know (3), it refuses the question (2), or fails (1).
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let answer = self.agent.get(format!("{}{path}", self.base)).call();
        self.read(answer)
    }

    /// `POST` of nothing to a path; what comes back is ignored.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn post(&self, path: &str) -> Result<(), Failure> {
        let answer = self.agent.post(format!("{}{path}", self.base)).send_empty();
        self.check(answer).map(|_| ())
    }

    /// `POST` of JSON to a path.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn post_json<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl serde::Serialize,
    ) -> Result<T, Failure> {
        let answer = self.agent.post(format!("{}{path}", self.base)).send_json(body);
        self.read(answer)
    }

    /// `DELETE` of a path.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let answer = self.agent.delete(format!("{}{path}", self.base)).call();
        self.read(answer)
    }

    /// Everything known of one peer.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn peer(&self, name: &str) -> Result<api::PeerDetail, Failure> {
        self.get(&path_of(name)?)
    }

    /// Has a peer removed.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn forget(&self, name: &str) -> Result<api::Removal, Failure> {
        self.delete(&path_of(name)?)
    }

    fn read<T: DeserializeOwned>(
        &self,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<T, Failure> {
        let mut answer = self.check(answer)?;
        answer.body_mut().with_config().limit(MAX_BODY_BYTES).read_json().map_err(|error| {
            Failure::failed(format!(
                "{} answers, but not as a monitor of this version does: {error}",
                self.base
            ))
        })
    }

    /// Takes an answer that says it is good; turns the others into words.
    pub(super) fn check(
        &self,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<ureq::http::Response<ureq::Body>, Failure> {
        let mut answer = answer.map_err(|error| self.no_monitor(error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let body = answer.body_mut().read_json::<api::ErrorBody>();
        Err(match body {
            Ok(api::ErrorBody { error }) => match status.as_u16() {
                404 => Failure::not_found(error.message),
                400..500 => Failure::usage(error.message),
                _ => Failure::failed(error.message),
            },
            Err(_) => Failure::not_found(format!(
                "what answers at {} is no Systole monitor (HTTP {}); say where it is with \
                 --http or SYSTOLE_HTTP",
                self.base,
                status.as_u16()
            )),
        })
    }

    fn no_monitor(&self, error: ureq::Error) -> Failure {
        let cause = match error {
            // Without the crate's own prefix.
            ureq::Error::Io(error) => error.to_string(),
            other => other.to_string(),
        };
        Failure::not_found(format!(
            "no monitor answers at {} ({cause}); is `systole serve` running there? Say where it is \
             with --http or SYSTOLE_HTTP",
            self.base
        ))
    }
}

/// Where a peer is.
fn path_of(peer: &str) -> Result<String, Failure> {
    match peer {
        "" => Err(Failure::usage("a peer's name is empty; give one")),
        _ => Ok(format!("/api/v1/peers/{}", percent_encode(peer))),
    }
}

/// The URL that an operator means.
fn base_url(text: &str) -> Result<String, Failure> {
    let text = text.trim();
    let wrong = |why: &str| {
        let right = "give a URL like http://10.0.0.1:4680 or an address like 10.0.0.1:4680";
        Failure::usage(format!("--http: `{text}` {why}; {right}"))
    };
    let place = match text.split_once("://") {
        None => text,
        Some(("http", place)) => place,
        Some(("https", _)) => return Err(wrong("asks for TLS, which this build does not speak")),
        Some(_) => return Err(wrong("is no HTTP URL")),
    };
    let url = format!("http://{}", place.trim_end_matches('/'));
    let uri: ureq::http::Uri = url.parse().map_err(|_| wrong("is not an address"))?;
    if uri.host().is_none_or(str::is_empty) || uri.query().is_some() {
        return Err(wrong("is not an address"));
    }
    Ok(url)
}

/// A name as one segment of a path, or as a value of a query: everything but RFC 3986's unreserved
/// characters is escaped.
pub fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(byte as char);
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// A query string of the parameters that have a value, `?` included; empty when none has.
pub fn query<'a>(parameters: impl IntoIterator<Item = (&'a str, Option<&'a str>)>) -> String {
    let mut text = String::new();
    for (name, value) in parameters {
        if let Some(value) = value {
            text.push(if text.is_empty() { '?' } else { '&' });
            text.push_str(&format!("{name}={}", percent_encode(value)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_becomes_a_url() {
        for (text, url) in [
            ("127.0.0.1:4680", "http://127.0.0.1:4680"),
            ("[::1]:4680", "http://[::1]:4680"),
            ("http://monitor/systole/", "http://monitor/systole"),
        ] {
            assert_eq!(base_url(text).unwrap(), url);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_is() {
        for text in ["https://x", "ftp://x", "", "a b", "http://", "x?y=1"] {
            let failure = base_url(text).unwrap_err();
            assert_eq!(failure.code(), 2, "{text}");
            assert!(failure.to_string().contains("give a URL like"), "{failure}");
        }
    }

    #[test]
    fn names_survive_the_way_through_a_url() {
        assert_eq!(percent_encode("web-1"), "web-1");
        assert_eq!(percent_encode("a/b ?ü"), "a%2Fb%20%3F%C3%BC");
        assert_eq!(query([("a", None), ("b", Some("x y")), ("c", Some("1"))]), "?b=x%20y&c=1");
        assert_eq!(query([("a", None)]), "");
    }

    #[test]
    fn nobody_there_is_exit_code_3() {
        // Bound and dropped: the port is free, and nobody listens on it.
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let client = Client::new(&address.to_string()).unwrap();
        let failure = client.get::<api::Summary>("/api/v1/summary").unwrap_err();
        assert_eq!(failure.code(), 3);
        assert!(failure.to_string().starts_with("no monitor answers at http://127.0.0.1:"));
    }
}
