//! One request on its way to an operation.

use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use serde_json::{Map, Value};

use super::{
    caller::{Access, Caller, scope_of_headers},
    exposed::{self, Exposed},
    guard::percent_decode,
    reply::{Failure, json_response},
    surface::{Response, Surface},
};
use crate::{Error, ErrorKind, Result, Scope, chat::dialect::integers};

/// A request that was let in.
#[derive(Debug)]
pub(super) struct Call {
    pub surface: Surface,
    pub caller: Caller,
    /// Parts of the path that the route names, decoded.
    pub path: Vec<(&'static str, String)>,
    pub query: Vec<(String, String)>,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub request_id: String,
}

impl Call {
    /// Returns the part of the path that the route calls `name`.
    pub fn path_part(&self, name: &str) -> &str {
        self.path.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }

    /// Reads the body as a JSON object; an empty body is an empty object. What is asked may be kept, or given to a tool: a number
    /// that would be read as another one is refused.
    pub fn json(&self) -> Result<Map<String, Value>, Failure> {
        if self.body.trim_ascii().is_empty() {
            return Ok(Map::new());
        }
        match serde_json::from_slice(&self.body) {
            Ok(Value::Object(fields)) => {
                integers::refuse(&self.body)?;
                Ok(fields)
            }
            Ok(_) => Err(Error::invalid("http", "body", "must be a JSON object").into()),
            Err(_) if self.is_encoded() => {
                let message = "`content-encoding` must be left out: a body is read as it is";
                let mut failure = Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, ErrorKind::Unsupported, message);
                failure.error = failure.error.with("field", "content-encoding");
                Err(failure)
            }
            Err(error) => {
                let (line, column) = (error.line(), error.column());
                Err(Error::invalid("http", "body", format!("is not JSON: {error}"))
                    .with("line", line)
                    .with("column", column)
                    .into())
            }
        }
    }

    /// Returns whether the body is said to be compressed. One that is not all the same, since a proxy has unpacked it, is read.
    fn is_encoded(&self) -> bool {
        self.headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding.as_bytes() != b"identity")
    }

    /// Returns the scope that the caller acts in, where only headers may ask for one.
    pub fn header_scope(&self, operation: &'static str) -> Result<Scope, Failure> {
        let asked = scope_of_headers(&self.headers)?;
        self.caller.narrow(operation, &asked).map_err(refuse)
    }

    /// Returns the arguments of an operation: query, then body, then path; every scope within what the caller may name.
    pub fn arguments(&self, exposed: &Exposed) -> Result<Map<String, Value>, Failure> {
        let mut arguments = Map::new();
        for (name, text) in &self.query {
            let value = exposed.argument(name, text.clone());
            // `?user=ada` beside a scope that is an object.
            if exposed.arguments["properties"][name].is_null()
                && ["tenant", "user", "session", "agent"].contains(&name.as_str())
            {
                match arguments.entry("scope").or_insert_with(|| Map::new().into()) {
                    Value::Object(scope) => scope.insert(name.clone(), value),
                    _ => return Err(Error::invalid("http", "scope", "must be a JSON object").into()),
                };
            } else {
                arguments.insert(name.clone(), value);
            }
        }
        arguments.extend(self.json()?);
        arguments.extend(self.path.iter().map(|(name, value)| ((*name).to_owned(), value.as_str().into())));
        let name = exposed.operation.name;
        // Who did it, for the record, and for actions that wait for two: a key has one name, whoever says another.
        let has_key = self.caller != Caller::local();
        if !exposed.arguments["properties"]["by"].is_null() && (has_key || arguments.get("by").is_none()) {
            arguments.insert("by".to_owned(), self.caller.name.as_str().into());
        }
        let asked = scope_of_headers(&self.headers)?;
        if name == "memory.forget"
            && asked == Scope::new()
            && !["scope", "subject"].iter().any(|field| arguments.contains_key(*field))
        {
            return Err(Error::invalid(name, "scope", "is required: name what is to be forgotten").into());
        }
        exposed.scopes.fill(name, &mut arguments, &self.caller, &asked).map_err(refuse)?;
        Ok(arguments)
    }

    /// Runs the operation of this name and answers with its result.
    pub async fn operation(self, name: &'static str) -> Result<Response, Failure> {
        let exposed = exposed::find(name)
            .ok_or_else(|| Error::new(ErrorKind::Unsupported, "http", format!("`{name}` is not offered over HTTP")))?;
        self.run(exposed).await
    }

    /// Runs the operation that the path names.
    pub async fn named_operation(self) -> Result<Response, Failure> {
        let name = format!("{}.{}", self.path_part("capability"), self.path_part("operation").replace('/', "."));
        let Some(exposed) = exposed::find(&name) else {
            let names: Vec<_> = exposed::all().map(|exposed| exposed.operation.name).collect();
            let hint =
                crate::wire::nearest(&name, &names).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
            let message = format!("`{name}` is not an operation that is offered over HTTP{hint}");
            return Err(Failure::new(StatusCode::NOT_FOUND, ErrorKind::NotFound, message));
        };
        let call = Call { path: Vec::new(), ..self };
        call.run(exposed).await
    }

    async fn run(self, exposed: &'static Exposed) -> Result<Response, Failure> {
        if exposed.access == Access::Admin && !self.caller.admin {
            return Err(Failure::forbidden(ADMIN_NEEDED, ("operation", exposed.operation.name.to_owned())));
        }
        let arguments = self.arguments(exposed)?;
        if !self.caller.admin
            && OTHER_PEOPLE.iter().any(|(operation, field)| {
                *operation == exposed.operation.name && arguments.get(*field).is_some_and(|value| !value.is_null())
            })
        {
            return Err(Failure::forbidden(ADMIN_NEEDED, ("operation", exposed.operation.name.to_owned())));
        }
        let result = exposed.operation.begin(self.surface.sophia(), Value::Object(arguments))?.await?;
        let response = json_response(StatusCode::OK, &result);
        // A path names one thing: that it is not there is an answer to a call, but no page.
        if !self.path.is_empty() && response.body().known_len() == Some("null".len()) && is_null(&result) {
            let message = format!("there is no `{}` in this scope", self.path_part("id"));
            return Err(Error::new(ErrorKind::NotFound, exposed.operation.name, message).into());
        }
        Ok(response)
    }
}

/// Arguments that reach beyond the scope: a person may be forgotten in every scope that is theirs.
const OTHER_PEOPLE: &[(&str, &str)] = &[("memory.forget", "subject")];

fn is_null(result: &crate::operations::Reply) -> bool {
    serde_json::to_value(result).is_ok_and(|value| value.is_null())
}

/// What somebody without `admin` is told.
pub(super) const ADMIN_NEEDED: &str = "this concerns everyone: it needs a key with `admin = true`";

/// A caller that is known and asks for more than it may have is forbidden, not unknown.
pub(super) fn refuse(error: Error) -> Failure {
    let mut failure = Failure::from(error);
    if failure.error.kind() == ErrorKind::Unauthorized {
        failure.status = StatusCode::FORBIDDEN;
    }
    failure
}

/// Reads a query string.
pub(super) fn read_query(query: &str) -> Result<Vec<(String, String)>> {
    let decode = |text: &str| {
        let bytes = percent_decode(&text.replace('+', " "))?;
        String::from_utf8(bytes).ok()
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Option::zip(decode(name), decode(value))
                .ok_or_else(|| Error::invalid("http", "query", "is not percent-encoded UTF-8"))
        })
        .collect()
}
