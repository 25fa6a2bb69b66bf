//! Where an operation's arguments hold scopes, so that each of them is kept within what the caller may name.
//!
//! The places are read from the schema of the arguments, so that an operation cannot be added with a scope that nobody
//! checks.

use serde_json::{Map, Value};

use super::caller::Caller;
use crate::{Error, ErrorKind, Result, Scope, wire};

/// Deepest nesting that is followed: no argument is nested deeper, and a recursive schema ends.
const MAX_DEPTH: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    Items,
}

/// The places of scopes in the arguments of one operation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ScopePlaces(Vec<Vec<Step>>);

impl ScopePlaces {
    /// Reads the places from a JSON Schema whose definitions stand in `$defs`.
    pub fn of(schema: &Value) -> ScopePlaces {
        let mut places = Vec::new();
        walk(schema, schema, &mut Vec::new(), 0, &mut places);
        // What stands at the top comes first: what is nested takes its defaults from there.
        places.sort_by_key(Vec::len);
        places.dedup();
        ScopePlaces(places)
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Fills and checks every scope in `arguments`; where the arguments name none, `asked` is what the caller asks for.
    pub fn fill(
        &self,
        operation: &'static str,
        arguments: &mut Map<String, Value>,
        caller: &Caller,
        asked: &Scope,
    ) -> Result<()> {
        let mut root = Value::Object(std::mem::take(arguments));
        let scopes = root["scopes"].as_array().map(Vec::len);
        let several = scopes.is_some_and(|count| count > 0);
        // A list of no scopes must not be read as one of all scopes.
        if scopes == Some(0)
            && let Value::Object(fields) = &mut root
        {
            fields.shift_remove("scopes");
        }
        let mut default = asked.clone();
        for place in &self.0 {
            let at_top = matches!(place.as_slice(), [Step::Field(name)] if name == "scope");
            let is_whole = visit(&mut root, place, &mut |value| {
                if value.is_null() && at_top && several {
                    return Ok(());
                }
                let named = if value.is_null() { None } else { Some(read_scope(operation, value.take())?) };
                let scope = caller.narrow(operation, named.as_ref().unwrap_or(&default))?;
                if at_top {
                    default.clone_from(&scope);
                }
                // No scope and the empty scope differ for some operations: what was left out stays out.
                if named.is_some() || scope != Scope::default() {
                    *value = serde_json::to_value(scope).unwrap_or_default();
                }
                Ok(())
            })?;
            if !is_whole {
                let field = match place.first() {
                    Some(Step::Field(name)) => name.as_str(),
                    _ => "arguments",
                };
                return Err(Error::invalid(
                    operation,
                    field,
                    "must name each value: a list does not stand for an object",
                ));
            }
        }
        if let Value::Object(filled) = root {
            *arguments = filled;
        }
        Ok(())
    }
}

fn read_scope(operation: &'static str, value: Value) -> Result<Scope> {
    wire::read(ErrorKind::InvalidInput, operation, value).map_err(|error| {
        let part = error.get("field").filter(|field| *field != "arguments");
        let field = part.map_or_else(|| "scope".to_owned(), |part| format!("scope.{part}"));
        Error::invalid(operation, &field, "must be tenant, user, session or agent, each a text")
    })
}

fn walk(root: &Value, node: &Value, path: &mut Vec<Step>, depth: usize, places: &mut Vec<Vec<Step>>) {
    if depth > MAX_DEPTH {
        return;
    }
    if let Some(reference) = node["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap_or_default();
        if name == "Scope" {
            places.push(path.clone());
        } else {
            walk(root, &root["$defs"][name], path, depth + 1, places);
        }
    }
    for keyword in ["anyOf", "oneOf", "allOf"] {
        for choice in node[keyword].as_array().into_iter().flatten() {
            walk(root, choice, path, depth + 1, places);
        }
    }
    for (name, property) in node["properties"].as_object().into_iter().flatten() {
        path.push(Step::Field(name.clone()));
        walk(root, property, path, depth + 1, places);
        path.pop();
    }
    if node["items"].is_object() {
        path.push(Step::Items);
        walk(root, &node["items"], path, depth + 1, places);
        path.pop();
    }
}

/// Checks what stands at a place. Returns whether there is no list where an object with a scope is meant: read by position, it
/// would hold a scope that nobody has checked.
fn visit(value: &mut Value, place: &[Step], check: &mut impl FnMut(&mut Value) -> Result<()>) -> Result<bool> {
    match (place, value) {
        ([], value) => check(value).map(|()| true),
        ([Step::Field(_), ..], Value::Array(_)) => Ok(false),
        ([Step::Field(name)], Value::Object(fields)) => {
            let absent = !fields.contains_key(name);
            let value = fields.entry(name.as_str()).or_insert(Value::Null);
            check(value)?;
            if absent && value.is_null() {
                fields.shift_remove(name);
            }
            Ok(true)
        }
        ([Step::Field(name), rest @ ..], Value::Object(fields)) => match fields.get_mut(name) {
            Some(value) => visit(value, rest, check),
            None => Ok(true),
        },
        ([Step::Items, rest @ ..], Value::Array(items)) => {
            items.iter_mut().try_fold(true, |is_whole, item| Ok(is_whole & visit(item, rest, check)?))
        }
        // Of another type than the schema says: the operation refuses it.
        _ => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use schemars::{JsonSchema, schema_for};
    use serde_json::json;

    use super::*;

    #[derive(JsonSchema)]
    #[allow(dead_code)]
    struct Arguments {
        scope: Option<Scope>,
        scopes: Option<Vec<Scope>>,
        items: Vec<Item>,
        metadata: Option<Map<String, Value>>,
    }

    #[derive(JsonSchema)]
    #[allow(dead_code)]
    struct Item {
        content: String,
        scope: Option<Scope>,
    }

    fn fill(caller: &Caller, arguments: Value) -> Result<Value> {
        let places = ScopePlaces::of(&schema_for!(Arguments).to_value());
        assert_eq!(places.0.len(), 3, "{places:?}");
        let Value::Object(mut fields) = arguments else { panic!() };
        places.fill("test", &mut fields, caller, &Scope::new())?;
        Ok(Value::Object(fields))
    }

    fn acme() -> Caller {
        Caller { scope: Scope::new().tenant("acme"), admin: false, ..Caller::local() }
    }

    #[test]
    fn every_scope_is_filled_with_what_the_key_fixes() {
        let filled = fill(
            &acme(),
            json!({"scope": {"user": "ada"}, "items": [{"content": "x"}, {"content": "y", "scope": {"user": "bob"}}]}),
        );
        assert_eq!(
            filled.unwrap(),
            json!({"scope": {"tenant": "acme", "user": "ada"}, "items": [
                {"content": "x", "scope": {"tenant": "acme", "user": "ada"}},
                {"content": "y", "scope": {"tenant": "acme", "user": "bob"}},
            ]})
        );
        let several = fill(&acme(), json!({"scopes": [{"user": "ada"}, {}]})).unwrap();
        assert_eq!(several, json!({"scopes": [{"tenant": "acme", "user": "ada"}, {"tenant": "acme"}]}));
        assert_eq!(fill(&acme(), json!({"scopes": []})).unwrap(), json!({"scope": {"tenant": "acme"}}));
        assert_eq!(fill(&Caller::local(), json!({})).unwrap(), json!({}));
    }

    #[test]
    fn no_place_lets_another_tenant_in() {
        for arguments in [
            json!({"scope": {"tenant": "globex"}}),
            json!({"scopes": [{"tenant": "acme"}, {"tenant": "globex"}]}),
            json!({"items": [{"content": "x", "scope": {"tenant": "globex"}}]}),
        ] {
            assert_eq!(fill(&acme(), arguments.clone()).unwrap_err().code(), "UNAUTHORIZED", "{arguments}");
        }
        for arguments in [
            json!({"scope": "globex"}),
            json!({"scope": {"tennant": "acme"}}),
            json!({"scopes": ["x"]}),
            json!({"items": [{"content": "x"}, ["x", {"tenant": "globex"}]]}),
        ] {
            assert_eq!(fill(&acme(), arguments.clone()).unwrap_err().code(), "INVALID_INPUT", "{arguments}");
        }
    }
}
