//! Arguments of tools: their schemas for the model, and what it is told when they do not fit.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::plain;

/// The longest part of a wrong argument that is quoted back, in bytes.
const MAX_QUOTE_BYTES: usize = 300;

/// The schema of a tool's arguments: inlined, without what only schema tools need, and optional
/// fields by their plain type, since several servers do not take `null` in a type.
pub(crate) fn schema<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    if let Value::Object(fields) = &mut schema {
        fields.remove("title");
        fields.remove("description");
        fields.entry("properties").or_insert_with(|| Value::Object(Map::new()));
    }
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.values_mut().for_each(simplify);
    }
    schema
}

fn simplify(property: &mut Value) {
    let Value::Object(fields) = property else { return };
    fields.remove("format");
    fields.remove("default");
    if let Some(Value::String(text)) = fields.get_mut("description") {
        *text = text.replace('\n', " ");
    }
    if let Some(Value::Array(types)) = fields.get("type") {
        let mut types = types.iter().filter(|name| **name != "null");
        if let (Some(only), None) = (types.next().cloned(), types.next()) {
            fields.insert("type".to_owned(), only);
        }
    }
}

/// Reads arguments as the model wrote them. Fields that the tool does not have are refused: a model
/// that asks for `recursive` and is not told that it got nothing of the kind goes on in error.
///
/// # Errors
/// A text for the model that names the field, what was expected, and the whole shape.
pub(crate) fn parse<T: DeserializeOwned + JsonSchema>(
    tool: &str,
    arguments: &str,
) -> Result<T, String> {
    // Some servers send nothing at all for a call without arguments.
    let text = if arguments.trim().is_empty() { "{}" } else { arguments };
    let problem = match serde_json::from_str::<Value>(text) {
        Err(error) => {
            format!("they are not valid JSON ({error}). What arrived: {}", quote(arguments))
        }
        Ok(value @ Value::Object(_)) => match serde_path_to_error::deserialize(value) {
            Ok(parsed) => return Ok(parsed),
            Err(error) => match error.path().to_string().as_str() {
                "." => error.inner().to_string(),
                field => format!("field `{field}`: {}", error.inner()),
            },
        },
        Ok(other) => format!("they are not an object but {}", quote(&other.to_string())),
    };
    Err(format!(
        "The arguments of `{tool}` do not fit, and nothing was done: {problem}\n\
         `{tool}` takes an object of these fields:\n{}",
        shape(&schema::<T>())
    ))
}

fn quote(text: &str) -> String {
    plain::whole_on_one_line(&plain::cut_middle(text.to_owned(), MAX_QUOTE_BYTES))
}

/// The fields of a schema, one a line: `- path (string, required): …`.
pub(crate) fn shape(schema: &Value) -> String {
    let required: Vec<&str> = schema["required"]
        .as_array()
        .map(|names| names.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let Some(properties) = schema["properties"].as_object() else { return String::new() };
    let line = |(name, property): (&String, &Value)| {
        let kind = match (property["type"].as_str(), property["items"]["type"].as_str()) {
            (Some("array"), Some(items)) => format!("array of {items}s"),
            (Some(kind), _) => kind.to_owned(),
            (None, _) => "any".to_owned(),
        };
        let needed = if required.contains(&name.as_str()) { "required" } else { "optional" };
        let about = property["description"].as_str().unwrap_or_default();
        format!("- {name} ({kind}, {needed}): {}", about)
    };
    properties.iter().map(line).collect::<Vec<_>>().join("\n")
}
