//! The port's request as `genai`'s.

use forge_domain::{Message, ModelRequest, ToolCall, ToolResult, ToolSchema};
use genai::ModelIden;
use genai::chat::{
    CacheControl, ChatMessage, ChatRequest, ContentPart, CustomPart, MessageContent,
    MessageOptions, Tool, ToolCall as GenaiCall, ToolName, ToolResponse,
};
use serde_json::{Map, Value, json};

use crate::Provider;

/// The request as `genai` takes it.
pub(crate) fn chat_request(request: &ModelRequest, provider: Provider) -> ChatRequest {
    let mut messages: Vec<ChatMessage> =
        request.messages.iter().flat_map(|message| chat_messages(message, provider)).collect();
    if provider == Provider::Anthropic
        && let Some(last) = messages.last_mut()
    {
        // Anthropic keeps what it has read up to here, so that the next request of the conversation
        // costs a tenth of it. The others do so unasked.
        last.options = Some(MessageOptions::from(CacheControl::Ephemeral));
    }
    let mut chat = ChatRequest::new(messages);
    if !request.system.is_empty() {
        chat.system = Some(request.system.clone());
    }
    if !request.tools.is_empty() {
        chat.tools = Some(request.tools.iter().map(tool).collect());
    }
    chat
}

fn tool(schema: &ToolSchema) -> Tool {
    // Always as a tool of ours: genai would take some names for tools of the server.
    Tool::new(ToolName::Custom(schema.name.clone()))
        .with_description(schema.description.clone())
        .with_schema(schema.parameters.clone())
}

fn chat_messages(message: &Message, provider: Provider) -> Vec<ChatMessage> {
    match message {
        Message::User(text) => vec![ChatMessage::user(text.clone())],
        Message::Assistant { text, tool_calls } => {
            let mut parts = Vec::new();
            // Anthropic refuses texts of white space alone.
            if !text.trim().is_empty() {
                parts.push(ContentPart::Text(text.clone()));
            }
            parts.extend(tool_calls.iter().map(|call| ContentPart::ToolCall(genai_call(call))));
            if parts.is_empty() {
                // It said nothing; servers refuse empty messages.
                return Vec::new();
            }
            vec![ChatMessage::assistant(MessageContent::from_parts(parts))]
        }
        Message::ToolResults(results) => {
            let parts = results.iter().map(|result| tool_result(result, provider));
            match provider {
                // genai sends only the last result of a message to Ollama.
                Provider::Ollama => parts
                    .map(|part| ChatMessage::tool(MessageContent::from_parts(vec![part])))
                    .collect(),
                Provider::Anthropic | Provider::OpenAi | Provider::OpenRouter => {
                    let parts: Vec<_> = parts.collect();
                    if parts.is_empty() {
                        return Vec::new();
                    }
                    vec![ChatMessage::tool(MessageContent::from_parts(parts))]
                }
            }
        }
    }
}

fn genai_call(call: &ToolCall) -> GenaiCall {
    GenaiCall {
        call_id: call.id.as_str().to_owned(),
        fn_name: call.name.clone(),
        fn_arguments: sent_arguments(&call.arguments),
        thought_signatures: None,
    }
}

/// The arguments as they go back to the server. Servers refuse a conversation with arguments that are
/// no object, though their own model wrote them: such text is sent within one.
fn sent_arguments(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(Value::Object(fields)) => Value::Object(fields),
        Ok(Value::Null) => Value::Object(Map::new()),
        _ if text.trim().is_empty() => Value::Object(Map::new()),
        _ => json!({ "invalid_arguments": text }),
    }
}

fn tool_result(result: &ToolResult, provider: Provider) -> ContentPart {
    match provider {
        // genai has no place for the mark of a failed call; Anthropic's format has one.
        Provider::Anthropic if result.is_error => ContentPart::Custom(CustomPart {
            model_iden: None::<ModelIden>,
            data: json!({
                "type": "tool_result", "tool_use_id": result.call_id.as_str(),
                "content": result.content, "is_error": true,
            }),
        }),
        Provider::Anthropic | Provider::OpenAi | Provider::OpenRouter | Provider::Ollama => {
            ContentPart::ToolResponse(
                ToolResponse::new(result.call_id.as_str(), result.content.clone())
                    .with_fn_name(result.name.clone()),
            )
        }
    }
}
