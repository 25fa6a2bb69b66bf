//! The adapters between camelCase and snake_case, without Node.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

#[path = "../src/case.rs"]
mod case;

use std::{collections::BTreeMap, time::Duration};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, DeserializeOwned},
};
use serde_json::{Value, json};

fn read<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    let text = value.to_string();
    // Through erased_serde, as operations read.
    let mut json = serde_json::Deserializer::from_str(&text);
    let reader = case::reading(&mut json);
    erased_serde::deserialize(&mut <dyn erased_serde::Deserializer<'_>>::erase(reader)).map_err(|e| e.to_string())
}

fn write(value: &(impl Serialize + Send)) -> Value {
    let erased: &dyn erased_serde::Serialize = value;
    serde_json::to_value(case::writing(erased)).unwrap()
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(text) if text == "5s" => Ok(Duration::from_secs(5)),
        value => value.as_f64().map(Duration::from_secs_f64).ok_or_else(|| de::Error::custom("not a duration")),
    }
}

fn optional_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    #[derive(Deserialize)]
    struct Wrapped(#[serde(deserialize_with = "seconds")] Duration);
    Ok(Option::<Wrapped>::deserialize(deserializer)?.map(|wrapped| wrapped.0))
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Server {
    base_url: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    extra_data: Value,
    #[serde(default)]
    fallback_to: Vec<Server>,
    #[serde(default)]
    kind_of: Option<Kind>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    HigherIsBetter,
    OneOf { first_name: String },
    Wrapped(Inner),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Inner {
    last_name: String,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Waits {
    #[serde(deserialize_with = "seconds")]
    timeout: Duration,
    #[serde(default, deserialize_with = "optional_seconds")]
    max_wait: Option<Duration>,
    #[serde(default)]
    latency_ms: Option<f64>,
    #[serde(default)]
    by_context: BTreeMap<String, f64>,
    #[serde(default)]
    whole: u64,
}

#[test]
fn fields_of_structs_are_renamed_at_every_depth() {
    let server: Server = read(json!({
        "baseUrl": "a",
        "fallbackTo": [{"baseUrl": "b", "kindOf": {"one_of": {"firstName": "Ada"}}}],
        "kindOf": {"wrapped": {"lastName": "Lovelace"}},
    }))
    .unwrap();
    assert_eq!(server.fallback_to[0].base_url, "b");
    assert_eq!(server.fallback_to[0].kind_of, Some(Kind::OneOf { first_name: "Ada".into() }));
    assert_eq!(server.kind_of, Some(Kind::Wrapped(Inner { last_name: "Lovelace".into() })));
}

#[test]
fn names_as_core_writes_them_are_taken_too() {
    assert_eq!(read::<Server>(json!({"base_url": "a"})).unwrap().base_url, "a");
}

#[test]
fn keys_and_values_of_the_user_stay_as_they_are() {
    let data = json!({"someKey": {"another_key": 1, "timeoutMs": 5}, "snake_key": "higher_is_better"});
    let server: Server =
        read(json!({"baseUrl": "a", "headers": {"xMs": "1", "x_api_key": "2"}, "extraData": data})).unwrap();
    assert_eq!(server.headers.keys().collect::<Vec<_>>(), ["xMs", "x_api_key"]);
    assert_eq!(server.extra_data, data);
    let written = write(&server);
    assert_eq!(written["extraData"], data);
    assert_eq!(written["headers"], json!({"xMs": "1", "x_api_key": "2"}));
}

#[test]
fn a_round_trip_gives_the_same_value() {
    let server = Server {
        base_url: "a".into(),
        headers: BTreeMap::from([("a_b".into(), "c_d".into())]),
        extra_data: json!({"a_b": [1, 2.5, null, true, "x"]}),
        fallback_to: vec![Server {
            base_url: "b".into(),
            headers: BTreeMap::new(),
            extra_data: Value::Null,
            fallback_to: vec![],
            kind_of: Some(Kind::OneOf { first_name: "Ada".into() }),
        }],
        kind_of: Some(Kind::HigherIsBetter),
    };
    let written = write(&server);
    assert_eq!(written["kindOf"], "higher_is_better");
    assert_eq!(written["fallbackTo"][0]["kindOf"]["one_of"]["firstName"], "Ada");
    assert_eq!(read::<Server>(written).unwrap(), server);
}

#[test]
fn milliseconds_become_seconds_where_the_struct_has_no_such_name() {
    let waits: Waits =
        read(json!({"timeoutMs": 1500, "maxWaitMs": 0.5, "latencyMs": 20, "byContextMs": {"a": 250}, "wholeMs": 3000}))
            .unwrap();
    assert_eq!(waits.timeout, Duration::from_millis(1500));
    assert_eq!(waits.max_wait, Some(Duration::from_micros(500)));
    assert_eq!(waits.latency_ms, Some(20.0));
    assert_eq!((waits.by_context["a"], waits.whole), (0.25, 3));
    assert_eq!(read::<Waits>(json!({"timeout": 2.0, "maxWaitMs": null})).unwrap().timeout, Duration::from_secs(2));
}

#[test]
fn a_name_in_milliseconds_takes_no_text() {
    let error = read::<Waits>(json!({"timeoutMs": "5s"})).unwrap_err();
    assert!(error.contains("expected a number of milliseconds"), "{error}");
    assert_eq!(read::<Waits>(json!({"timeout": "5s"})).unwrap().timeout, Duration::from_secs(5));
}

#[test]
fn an_unknown_field_is_refused_as_it_was_written() {
    let error = read::<Server>(json!({"baseUrll": "a"})).unwrap_err();
    assert!(error.starts_with("unknown field `baseUrll`"), "{error}");
    assert!(read::<Waits>(json!({"timeoutMs": 1, "timeout": 1.0})).unwrap_err().starts_with("duplicate field"));
}

#[test]
fn json_text_passes_as_it_stands() {
    #[derive(Serialize)]
    struct Holder {
        raw_text: Box<serde_json::value::RawValue>,
    }
    let raw = serde_json::value::RawValue::from_string(r#"{"a_b":1}"#.into()).unwrap();
    assert_eq!(write(&Holder { raw_text: raw }), json!({"rawText": {"a_b": 1}}));
}

#[test]
fn fields_of_a_flattened_struct_are_renamed_and_its_data_is_not() {
    #[derive(Serialize)]
    struct Response {
        #[serde(flatten)]
        answer: std::sync::Arc<Answer>,
        latency_ms: f64,
    }
    #[derive(Serialize)]
    struct Answer {
        finish_reason: Option<&'static str>,
        raw_message: serde_json::Map<String, Value>,
        last_inner: Inner,
    }
    let Value::Object(raw_message) = json!({"tool_calls": [{"a_b": 1}]}) else { unreachable!() };
    let answer = Answer { finish_reason: None, raw_message, last_inner: Inner { last_name: "x".into() } };
    assert_eq!(
        write(&Response { answer: answer.into(), latency_ms: 1.5 }),
        json!({
            "finishReason": null,
            "rawMessage": {"tool_calls": [{"a_b": 1}]},
            "lastInner": {"lastName": "x"},
            "latencyMs": 1.5,
        })
    );
}

#[test]
fn names_are_turned_as_people_expect() {
    for (snake, camel) in
        [("data_dir", "dataDir"), ("id", "id"), ("_meta", "_meta"), ("p95_ms", "p95Ms"), ("a__b", "aB")]
    {
        assert_eq!(case::camel(snake), camel);
    }
}
