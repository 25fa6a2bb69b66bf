//! What a client calls that which it said.
//!
//! An error names a field of the common form. A client of another dialect said it under another name, and elsewhere.

use std::fmt;

use super::{CONTENT_BLOCKS, INPUT_ITEMS, OUTPUT_ITEMS};
use crate::Error;

/// Field of a request that names the response which it goes on from.
pub(crate) const PREVIOUS: &str = "previous_response_id";
/// What the common form keeps beside a content, or in place of one.
const BESIDE: [&str; 7] =
    [CONTENT_BLOCKS, OUTPUT_ITEMS, INPUT_ITEMS, "tool_calls", "tool_call_id", "refusal", "reasoning_content"];

/// Names of the common form in a client's own words.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    fields: &'static [(&'static str, &'static str)],
    messages: Vec<Origin>,
}

impl Names {
    /// Takes what fields are called: the common name and the client's, the longer ones first.
    pub fn new(fields: &'static [(&'static str, &'static str)]) -> Names {
        Names { fields, messages: Vec::new() }
    }

    /// Takes where the next message comes from.
    pub fn push(&mut self, origin: Origin) {
        self.messages.push(origin);
    }

    /// Returns an error as the client understands it.
    pub fn tell(&self, error: Error) -> Error {
        match error.get("field").map(|field| self.name(field)) {
            Some(name) => error.renamed(&name),
            None => error,
        }
    }

    fn name(&self, field: &str) -> String {
        let field = field.strip_prefix("provider_fields.").unwrap_or(field);
        if let Some((origin, path)) = self.origin(field) {
            return origin.name(path);
        }
        let known = self.fields.iter().find_map(|(common, own)| {
            let rest = field.strip_prefix(common)?;
            (rest.is_empty() || rest.starts_with(['.', '['])).then(|| format!("{own}{rest}"))
        });
        known.unwrap_or_else(|| field.to_owned())
    }

    fn origin<'a>(&self, field: &'a str) -> Option<(&Origin, &'a str)> {
        let (index, path) = field.strip_prefix("messages[")?.split_once(']')?;
        Some((self.messages.get(index.parse::<usize>().ok()?)?, path))
    }
}

/// Where a message comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    whole: Place,
    content: Place,
    /// Place in the client's content of the first part of the message's.
    first: usize,
    /// What is not in the content.
    beside: Place,
}

impl Origin {
    pub fn new(whole: Place, content: Place) -> Origin {
        Origin { whole, content, first: 0, beside: whole }
    }

    pub fn first(self, first: usize) -> Origin {
        Origin { first, ..self }
    }

    pub fn beside(self, beside: Place) -> Origin {
        Origin { beside, ..self }
    }

    fn name(&self, path: &str) -> String {
        if self.whole.field == PREVIOUS {
            return PREVIOUS.to_owned();
        }
        let name = path.trim_start_matches('.').split(['.', '[']).next().unwrap_or_default();
        match path.strip_prefix(".content") {
            Some("") => self.content.to_string(),
            Some(parts) if parts.starts_with('[') => {
                let part =
                    parts[1..].split_once(']').and_then(|(index, rest)| Some((index.parse::<usize>().ok()?, rest)));
                let (index, rest) = part.unwrap_or((0, ""));
                format!("{}[{}]{rest}", self.content, self.first + index)
            }
            _ if BESIDE.contains(&name) => self.beside.to_string(),
            _ => format!("{}{path}", self.whole),
        }
    }
}

/// A place in a client's request: `field`, `field[item]`, `field[item].content[block]`, and what is `within` that.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    field: &'static str,
    item: Option<usize>,
    block: Option<usize>,
    within: &'static str,
}

impl Place {
    pub fn of(field: &'static str) -> Place {
        Place { field, item: None, block: None, within: "" }
    }

    pub fn item(field: &'static str, item: usize) -> Place {
        Place { item: Some(item), ..Place::of(field) }
    }

    pub fn block(self, block: usize) -> Place {
        Place { block: Some(block), ..self }
    }

    pub fn within(self, within: &'static str) -> Place {
        Place { within, ..self }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.field)?;
        self.item.map_or(Ok(()), |item| write!(f, "[{item}]"))?;
        self.block.map_or(Ok(()), |block| write!(f, ".content[{block}]"))?;
        match self.within {
            "" => Ok(()),
            within => write!(f, ".{within}"),
        }
    }
}
