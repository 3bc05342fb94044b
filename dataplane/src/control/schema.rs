//! The control protocol as a JSON schema (draft 2020-12), made from the types that are sent.

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::cookie_keys::CookieKeysReply;
use super::proto::{
    Accepted, Captured, Closed, Histograms, Latency, Listening, Refusal, Reloaded, Request, Ss, Stats, Top,
    VERSION, Why,
};

/// An empty object.
#[derive(JsonSchema)]
#[allow(dead_code)]
struct Empty {}

/// The schema as text: `request` is a line from a client, `reply` one from the server, `replies` what `ok` holds by request.
pub fn schema() -> String {
    let mut types = SchemaSettings::draft2020_12().into_generator();
    let request = types.subschema_for::<Request>();
    let refusal = types.subschema_for::<Refusal>();
    let replies = replies(&mut types);
    let any: Vec<_> = replies.values().cloned().collect();
    let version = json!({"const": VERSION});
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hearken's control protocol, one JSON object a line",
        "properties": {
            "request": {"allOf": [{"type": "object", "properties": {"v": version}, "required": ["v"]}, request]},
            "reply": {"oneOf": [
                {"type": "object", "properties": {"v": version, "ok": {"anyOf": any}}, "required": ["v", "ok"]},
                {"type": "object", "properties": {"v": version, "error": refusal}, "required": ["v", "error"]},
            ]},
            "replies": {"type": "object", "properties": replies},
        },
        "$defs": types.take_definitions(true),
    });
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}

/// What stands under `ok` in the reply to each request.
fn replies(types: &mut SchemaGenerator) -> Map<String, Value> {
    let mut replies = Map::new();
    let mut add = |request: &str, reply: schemars::Schema| {
        replies.insert(request.to_owned(), reply.to_value());
    };
    add("listen", types.subschema_for::<Listening>());
    add("close", types.subschema_for::<Closed>());
    add("ss", types.subschema_for::<Ss>());
    add("accept", types.subschema_for::<Accepted>());
    add("close_connection", types.subschema_for::<Empty>());
    add("reload", types.subschema_for::<Reloaded>());
    add("why", types.subschema_for::<Why>());
    add("top", types.subschema_for::<Top>());
    add("capture", types.subschema_for::<Empty>());
    add("captured", types.subschema_for::<Captured>());
    add("stats", types.subschema_for::<Stats>());
    add("latency", types.subschema_for::<Latency>());
    add("cookie_keys", types.subschema_for::<CookieKeysReply>());
    add("histograms", types.subschema_for::<Histograms>());
    replies
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Named so that one command renews all that is made from the command line and the protocol: `--lib generate`.
    #[test]
    fn generated_schema_is_what_the_source_says() {
        let page =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/src/control-protocol.schema.json");
        let made = schema();
        if std::env::var_os("HEARKEN_BLESS").is_some() {
            std::fs::write(&page, &made).expect("the schema");
        }
        let written = std::fs::read_to_string(&page).unwrap_or_default();
        let next = "HEARKEN_BLESS=1 cargo test -p dataplane --lib generate";
        assert!(written == made, "{}: write it with {next}", page.display());
    }

    /// Every request has a reply here: a new one is not forgotten.
    #[test]
    fn every_request_has_a_reply() {
        let schema: Value = serde_json::from_str(&schema()).expect("JSON");
        let requests = schema["$defs"]["Request"]["oneOf"].as_array().expect("variants");
        assert!(requests.len() > 10);
        for request in requests {
            let name = request["properties"]["request"]["const"].as_str().expect("a name");
            assert!(schema["properties"]["replies"]["properties"].get(name).is_some(), "no reply for {name}");
        }
    }
}
