//! Parts of a content: text, images, documents.

use serde_json::{Map, Value, json};

use crate::{Error, chat::dialect::Target};

/// Parts of OpenAI's protocols that Anthropic's has no counterpart for.
const FOREIGN: [&str; 7] =
    ["input_audio", "refusal", "input_text", "output_text", "input_image", "input_file", "output_audio"];

/// Translates a block of a client into a part; what has no counterpart stays as it is.
pub(super) fn to_chat(block: Value) -> Value {
    let part = block.as_object().and_then(|fields| match fields.get("type")?.as_str()? {
        "image" => image_to_chat(fields),
        "document" => document_to_chat(fields),
        _ => None,
    });
    let mut part = part.unwrap_or(block);
    // Said by clients that write out what they do not set.
    if let Value::Object(fields) = &mut part
        && fields.get("type").is_some_and(|kind| kind == "text")
    {
        fields.retain(|_, value| !value.is_null());
    }
    part
}

fn only(fields: &Map<String, Value>, known: &[&str]) -> bool {
    fields.iter().all(|(name, value)| known.contains(&name.as_str()) || value.is_null())
}

fn text_of<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    fields.get(name)?.as_str()
}

fn image_to_chat(fields: &Map<String, Value>) -> Option<Value> {
    if !only(fields, &["type", "source", "cache_control"]) {
        return None;
    }
    let source = fields.get("source")?.as_object()?;
    let url = match text_of(source, "type")? {
        "base64" if only(source, &["type", "media_type", "data"]) => data_url(source)?,
        "url" if only(source, &["type", "url"]) => text_of(source, "url")?.to_owned(),
        _ => return None,
    };
    Some(marked(json!({"type": "image_url", "image_url": {"url": url}}), fields))
}

fn document_to_chat(fields: &Map<String, Value>) -> Option<Value> {
    if !only(fields, &["type", "source", "title", "cache_control"]) {
        return None;
    }
    let source = fields.get("source")?.as_object()?;
    if text_of(source, "type")? != "base64" || !only(source, &["type", "media_type", "data"]) {
        return None;
    }
    let mut file = json!({"file_data": data_url(source)?});
    if let Some(title) = text_of(fields, "title") {
        file["filename"] = title.into();
    }
    Some(marked(json!({"type": "file", "file": file}), fields))
}

fn data_url(source: &Map<String, Value>) -> Option<String> {
    Some(format!("data:{};base64,{}", text_of(source, "media_type")?, text_of(source, "data")?))
}

/// Takes a cache marker over.
fn marked(mut part: Value, from: &Map<String, Value>) -> Value {
    if let Some(marker) = from.get("cache_control").filter(|marker| !marker.is_null()) {
        part["cache_control"] = marker.clone();
    }
    part
}

/// Translates a part for a provider. `path` is where it stands.
pub(super) fn to_native(part: &Value, path: &str, target: Target<'_>) -> Result<Value, Error> {
    let Some(fields) = part.as_object() else { return Err(target.refuse(path)) };
    match text_of(fields, "type") {
        Some("image_url") => image_to_native(fields).map_err(|field| target.refuse(format!("{path}.{field}"))),
        Some("file") => file_to_native(fields).ok_or_else(|| target.refuse(format!("{path}.file"))),
        Some(kind) if FOREIGN.contains(&kind) => Err(target.refuse(format!("{path}.type"))),
        _ => Ok(part.clone()),
    }
}

/// Translates an image, or says which field has no counterpart.
fn image_to_native(fields: &Map<String, Value>) -> Result<Value, &'static str> {
    let image = fields.get("image_url").and_then(Value::as_object).ok_or("image_url")?;
    if !image.get("detail").is_none_or(|detail| detail.is_null() || detail == "auto") {
        return Err("image_url.detail");
    }
    let url = text_of(image, "url").ok_or("image_url")?;
    let source = match base64_of(url) {
        Some((media_type, data)) => json!({"type": "base64", "media_type": media_type, "data": data}),
        None if url.starts_with("http://") || url.starts_with("https://") => json!({"type": "url", "url": url}),
        None => return Err("image_url"),
    };
    Ok(marked(json!({"type": "image", "source": source}), fields))
}

fn file_to_native(fields: &Map<String, Value>) -> Option<Value> {
    let file = fields.get("file")?.as_object()?;
    if !only(file, &["file_data", "filename"]) {
        return None;
    }
    let (media_type, data) = base64_of(text_of(file, "file_data")?)?;
    if media_type != "application/pdf" {
        return None;
    }
    let mut block = json!({"type": "document", "source": {"type": "base64", "media_type": media_type, "data": data}});
    if let Some(name) = text_of(file, "filename") {
        block["title"] = name.into();
    }
    Some(marked(block, fields))
}

/// Takes a data URL with base64 apart (RFC 2397).
fn base64_of(url: &str) -> Option<(&str, &str)> {
    url.strip_prefix("data:")?.split_once(";base64,")
}
