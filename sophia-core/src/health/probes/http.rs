//! A URL, and what it says about itself.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use futures::StreamExt;
use reqwest::{
    Url,
    header::{ACCEPT, HeaderMap, HeaderName, HeaderValue},
};
use serde::{
    Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Map, Value};

use crate::{
    Error, ErrorKind, Result, Secret,
    health::{Probe, ProbeOutcome, Status},
    http_client::{AddressPolicy, Connections, HttpClient, HttpOptions, Proxy},
    resilience::Deadline,
};

/// Most of an answer's body that is read: a health document is small, and says how it is at its beginning.
const MAX_BODY_BYTES: usize = 64 * 1024;
const OPERATION: &str = "health.register";

/// Gets a URL.
///
/// The status code decides, and then the body where it is `application/health+json` or any JSON object with a `status`: a
/// service that answers 200 with `{"status": "degraded"}` is degraded. One that answers 200 with a word that is no known status
/// is unknown, which raises nothing and is not in the score. Redirects are not followed, since they lead to
/// addresses that nobody chose; link-local and metadata addresses are refused.
pub struct HttpProbe {
    url: Url,
    headers: HeaderMap,
    expect: Vec<u16>,
    client: Arc<HttpClient>,
}

/// Returns the client that probes share.
pub(in crate::health) fn client() -> Arc<HttpClient> {
    Arc::new(HttpClient::new(HttpOptions {
        addresses: AddressPolicy::AllowPrivate,
        // A proxy would answer for the service.
        proxy: Proxy::None,
        // A probe that reuses a connection does not see that no new one is accepted.
        connections: Connections::Fresh,
    }))
}

impl HttpProbe {
    /// Creates a probe of an `http://` or `https://` URL.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] where it is not such a URL.
    pub fn new(url: impl AsRef<str>) -> Result<HttpProbe> {
        let url = AddressPolicy::AllowPrivate
            .url(url.as_ref())
            .map_err(|wrong| Error::invalid(OPERATION, "probe.url", wrong))?;
        Ok(HttpProbe { url, headers: HeaderMap::new(), expect: Vec::new(), client: client() })
    }

    /// Sets the status codes that count as healthy, whatever the body says.
    #[must_use]
    pub fn expect(mut self, codes: impl IntoIterator<Item = u16>) -> HttpProbe {
        self.expect = codes.into_iter().collect();
        self
    }

    /// Adds a header.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] where it cannot be one.
    pub fn header(mut self, name: &str, value: Secret) -> Result<HttpProbe> {
        let wrong = || Error::invalid(OPERATION, "probe.headers", "holds what cannot be a header");
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        let mut value = HeaderValue::from_str(value.expose()).map_err(|_| wrong())?;
        value.set_sensitive(true);
        self.headers.insert(name, value);
        Ok(self)
    }

    /// Uses a client that others use as well.
    pub(crate) fn sharing(mut self, client: &Arc<HttpClient>) -> HttpProbe {
        self.client = Arc::clone(client);
        self
    }
}

impl fmt::Debug for HttpProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither credentials nor the query, which may hold one.
        f.debug_struct("HttpProbe")
            .field("host", &self.url.host_str())
            .field("path", &self.url.path())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Probe for HttpProbe {
    fn kind(&self) -> &'static str {
        "http"
    }

    async fn probe(&self, deadline: Deadline) -> Result<ProbeOutcome> {
        deadline
            .run("health.check", async {
                let client = self.client.get("health.check", &self.url)?;
                let request = client.get(self.url.clone()).headers(self.headers.clone());
                let response = request
                    .header(ACCEPT, "application/health+json, application/json, */*")
                    .send()
                    .await
                    .map_err(unreachable)?;
                let code = response.status().as_u16();
                if !self.expect.is_empty() {
                    let status = if self.expect.contains(&code) { Status::Healthy } else { Status::Unhealthy };
                    return Ok(ProbeOutcome::new(status).detail(format!("HTTP {code}")));
                }
                let status = Status::from_http(code).unwrap_or(Status::Unhealthy);
                let by_code = ProbeOutcome::new(status).detail(format!("HTTP {code}"));
                let mut body = Vec::new();
                let mut chunks = response.bytes_stream();
                while let Some(chunk) = chunks.next().await {
                    body.extend_from_slice(&chunk.map_err(unreachable)?);
                    if body.len() > MAX_BODY_BYTES {
                        body.truncate(MAX_BODY_BYTES);
                        break;
                    }
                }
                Ok(match said(&body) {
                    // The worse of the two: neither a proxy's 502 nor a service's "fail" is talked away by the other. Unknown
                    // is worse than well, and better than what is known to be wrong.
                    Some(said) if said.status == Status::Unknown && status != Status::Healthy => by_code,
                    Some(said) if said.status >= status => said,
                    _ => by_code,
                })
            })
            .await
    }
}

/// Reads what a body says about the service; `None` where it says nothing.
fn said(body: &[u8]) -> Option<ProbeOutcome> {
    const MARK: &[u8] = b"\xef\xbb\xbf";
    let is_whole = body.len() < MAX_BODY_BYTES;
    let body = body.strip_prefix(MARK).unwrap_or(body);
    let mut document = if is_whole { serde_json::from_slice(body).ok()? } else { beginning(body) };
    let fields = document.as_object_mut()?;
    ["status", "state", "health"].iter().find_map(|name| fields.get(*name)).filter(|said| !said.is_null())?;
    let outcome = ProbeOutcome::read(&document).or_else(|_| {
        // Its word counts, whatever it says beside it.
        if let Some(fields) = document.as_object_mut() {
            fields.remove("score");
        }
        ProbeOutcome::read(&document)
    });
    Some(
        outcome
            .unwrap_or_else(|why| ProbeOutcome::new(Status::Unknown).detail(format!("what it says of itself: {why}"))),
    )
}

/// Reads the fields of an object that are whole, where its end may be missing.
fn beginning(body: &[u8]) -> Value {
    struct Fields<'a>(&'a mut Map<String, Value>);

    impl<'de> Visitor<'de> for Fields<'_> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
            while let Some((name, value)) = map.next_entry()? {
                self.0.insert(name, value);
            }
            Ok(())
        }
    }

    let mut fields = Map::new();
    // It fails at the end of what there is.
    let _ = serde_json::Deserializer::from_slice(body).deserialize_map(Fields(&mut fields));
    Value::Object(fields)
}

fn unreachable(error: reqwest::Error) -> Error {
    // The URL may hold a credential.
    let error = error.without_url();
    let kind = if error.is_timeout() { ErrorKind::Timeout } else { ErrorKind::Unavailable };
    Error::new(kind, "health.check", "no answer").with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_probe_cannot_or_must_not_ask_is_refused() {
        for url in ["", "redis", "ftp://host/x", "http://", "http://169.254.169.254/latest", "http://[fe80::1]/"] {
            let error = HttpProbe::new(url).unwrap_err();
            assert_eq!((error.code(), error.get("field")), ("INVALID_INPUT", Some("probe.url")), "{url}");
        }
    }

    #[test]
    fn debug_shows_no_credentials() {
        let probe = HttpProbe::new("http://user:hunter2@host/health?key=hunter2").unwrap();
        let probe = probe.header("authorization", Secret::new("hunter2")).unwrap();
        assert!(!format!("{probe:?}").contains("hunter2"));
    }
}
