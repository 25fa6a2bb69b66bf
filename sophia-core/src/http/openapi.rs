//! The description of the surface, made from the table of routes and the schemas of the operations.

use axum::http::Method;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

use super::{
    ai_memory::{AiMemoryHealth, PerformanceTrends},
    caller::Access,
    exposed::{self, Exposed},
    reply::Dialect,
    routes::{self, Action, Route, operation_path},
};

/// Returns the OpenAPI 3.1 document.
pub(super) fn document() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    settings.meta_schema = None;
    let mut generator = settings.into_generator();
    let mut paths = Map::new();
    let mut add = |path: &str, method: &Method, item: Value| {
        let methods = paths.entry(path).or_insert_with(|| Map::new().into());
        methods[method.as_str().to_lowercase()] = item;
    };
    for route in routes::all() {
        match route.action {
            Action::Operation(name) => {
                let Some(exposed) = exposed::find(name) else { continue };
                let result = (exposed.operation.result)(&mut generator).to_value();
                let arguments = (exposed.operation.arguments)(&mut generator).to_value();
                add(route.path, &route.method, operation(route, exposed, arguments, result));
            }
            Action::Named => {
                for exposed in exposed::all() {
                    let result = (exposed.operation.result)(&mut generator).to_value();
                    let arguments = (exposed.operation.arguments)(&mut generator).to_value();
                    let path = operation_path(exposed.operation.name);
                    add(&path, &Method::POST, named(exposed, arguments, result));
                }
            }
            Action::Custom(_) | Action::Live(_) => {
                let path = route.path.replace("{*", "{");
                let mut item = custom(route);
                if let Some(exposed) = exposed::find("chat.complete").filter(|_| route.path == "/api/v1/chat") {
                    let result = (exposed.operation.result)(&mut generator).to_value();
                    let arguments = (exposed.operation.arguments)(&mut generator).to_value();
                    item["requestBody"] = body(with_stream(&generator, arguments), true);
                    item["responses"] = responses(result);
                    item["responses"]["200"]["content"]["text/event-stream"] = json!({"schema": {"type": "string"}});
                }
                match route.path {
                    "/api/v1/ai-memory/health" => {
                        item["responses"] = responses(generator.subschema_for::<AiMemoryHealth>().to_value());
                    }
                    "/api/v1/ai-memory/performance-trends" => {
                        item["responses"] = responses(generator.subschema_for::<PerformanceTrends>().to_value());
                    }
                    _ => {}
                }
                add(&path, &route.method, item);
            }
        }
    }
    let mut schemas = generator.take_definitions(true);
    schemas.insert("Error".to_owned(), error_schema());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Sophia",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Memory, cached chat, an MCP registry and health over HTTP.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}, {"apiKey": []}, {}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
            "responses": {
                "Error": {
                    "description": "What went wrong, and what to do.",
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
                },
            },
        },
    })
}

/// A route that is answered by an operation: arguments in path and query, or in the body.
fn operation(route: &Route, exposed: &Exposed, arguments: Value, result: Value) -> Value {
    let mut item = base(route, route.summary, result);
    let mut parameters = path_parameters(route);
    if route.method == Method::POST || route.method == Method::PATCH {
        item["requestBody"] = body(arguments, false);
    } else {
        let taken: Vec<_> =
            parameters.iter().filter_map(|parameter| parameter["name"].as_str().map(str::to_owned)).collect();
        for (name, schema) in exposed.arguments["properties"].as_object().into_iter().flatten() {
            // Nested objects do not fit into a query; a scope has its own parameters.
            if taken.contains(name) || !is_plain(schema) {
                continue;
            }
            let mut schema = schema.clone();
            let description = schema.as_object_mut().and_then(|schema| schema.shift_remove("description"));
            let mut parameter = json!({"name": name, "in": "query", "schema": schema});
            if let Some(description) = description {
                parameter["description"] = description;
            }
            parameters.push(parameter);
        }
        if !exposed.arguments["properties"]["scope"].is_null() {
            for part in ["tenant", "user", "session", "agent"] {
                parameters.push(json!({"name": part, "in": "query", "schema": {"type": "string"}}));
            }
        }
    }
    if !parameters.is_empty() {
        item["parameters"] = parameters.into();
    }
    item
}

fn named(exposed: &Exposed, arguments: Value, result: Value) -> Value {
    let name = exposed.operation.name;
    let mut item = json!({
        "operationId": name,
        "summary": exposed.operation.summary,
        "tags": [name.split('.').next()],
        "requestBody": body(arguments, true),
        "responses": responses(result),
    });
    if exposed.access == Access::Admin {
        item["description"] = "Needs a key with `admin`.".into();
    }
    item
}

fn custom(route: &Route) -> Value {
    let content = match route.action {
        Action::Live(_) => {
            let mut item = base(route, route.summary, json!({}));
            let text = "A WebSocket of JSON texts `{type, data, timestamp}`.";
            item["responses"] =
                json!({"101": {"description": text}, "default": {"$ref": "#/components/responses/Error"}});
            return item;
        }
        _ if route.path == "/metrics" => "application/openmetrics-text",
        _ => "application/json",
    };
    let mut item = base(route, route.summary, json!({}));
    if content != "application/json" {
        item["responses"]["200"]["content"] = json!({content: {"schema": {"type": "string"}}});
    }
    if route.method == Method::POST {
        item["requestBody"] = body(json!({"type": "object"}), true);
    }
    let parameters = path_parameters(route);
    if !parameters.is_empty() {
        item["parameters"] = parameters.into();
    }
    item
}

fn base(route: &Route, summary: &str, result: Value) -> Value {
    let words = route.path.trim_start_matches('/').replace(['/', '-', '.'], "_").replace(['{', '}', '*'], "");
    let tag = match route.dialect {
        Dialect::OpenAi => "openai",
        Dialect::Anthropic => "anthropic",
        Dialect::Sophia if route.access == Access::Open => "probes",
        Dialect::Sophia => "sophia",
    };
    let mut item = json!({
        "operationId": format!("{}_{words}", route.method.as_str().to_lowercase()),
        "summary": summary,
        "tags": [tag],
        "responses": responses(result),
    });
    match route.access {
        Access::Open => item["security"] = json!([]),
        Access::Admin => item["description"] = "Needs a key with `admin`.".into(),
        Access::Caller => {}
    }
    item
}

fn responses(result: Value) -> Value {
    json!({
        "200": {"description": "Done.", "content": {"application/json": {"schema": result}}},
        "default": {"$ref": "#/components/responses/Error"},
    })
}

/// Adds `stream` to the arguments of a question.
fn with_stream(generator: &SchemaGenerator, arguments: Value) -> Value {
    let name = arguments["$ref"].as_str().and_then(|reference| reference.rsplit('/').next());
    let mut schema = name.and_then(|name| generator.definitions().get(name)).cloned().unwrap_or(arguments);
    let text = "Whether to send the answer in parts: server-sent events, ended by `[DONE]`.";
    schema["properties"]["stream"] = json!({"type": "boolean", "default": false, "description": text});
    schema
}

fn body(schema: Value, required: bool) -> Value {
    json!({"required": required, "content": {"application/json": {"schema": schema}}})
}

fn path_parameters(route: &Route) -> Vec<Value> {
    let names = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let names = names.map(|name| name.trim_start_matches('*'));
    names.map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}})).collect()
}

/// Returns whether a value of this schema fits into a query string.
fn is_plain(schema: &Value) -> bool {
    let plain = |kind: &Value| kind.as_str().is_some_and(|kind| kind != "object");
    let kinds = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().all(plain),
        kind => plain(kind),
    };
    kinds && !schema.to_string().contains("$ref")
}

fn error_schema() -> Value {
    json!({
        "type": "object",
        "required": ["error"],
        "properties": {"error": {
            "type": "object",
            "required": ["code", "message", "retryable", "retry_after", "context"],
            "properties": {
                "code": {"type": "string", "enum": crate::ErrorKind::ALL.map(crate::ErrorKind::code)},
                "message": {"type": "string", "description": "What went wrong, and the fix."},
                "retryable": {"type": "boolean", "description": "Whether the same call may succeed later, unchanged."},
                "retry_after": {"type": ["number", "null"], "description": "When to come back, in seconds, if known."},
                "context": {"type": "object", "additionalProperties": {"type": "string"}},
            },
        }},
    })
}
