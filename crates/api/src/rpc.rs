//! JSON-RPC 2.0 framing: one object a line, typed errors, and the macro that turns a list of methods into types and a contract.
//!
//! Promises: any line is either a request, an answer, a notification or an error sentence; nothing here panics on input.
//! Refuses to know: sockets.

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Bytes in one line at most, line feed included; a longer line ends the connection.
pub const LINE_BYTES_MAX: usize = 1 << 20;

/// What went wrong, for programs: stable within a major version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The line is not JSON.
    Parse,
    /// The JSON is not a JSON-RPC 2.0 request.
    InvalidRequest,
    /// No such method.
    MethodNotFound,
    /// A parameter is missing, superfluous or of the wrong form; `field` names it.
    InvalidParams,
    /// A fault of ours.
    Internal,
    /// This build or platform does not do that.
    NotSupported,
    /// The thing named does not exist here.
    NotFound,
    /// The name, address or port is taken.
    Taken,
    /// The caller or the process lacks a right.
    Permission,
    /// The invite is broken, truncated, expired, used up or not for us.
    Invite,
    /// It cannot be done in the present state; the sentence says what to do first.
    State,
    /// Something elsewhere did not answer in time.
    Timeout,
    /// The server or peer cannot be reached.
    Unreachable,
    /// The other side refused us: wrong password, impostor, not a member.
    Refused,
    /// A bound was hit.
    Limit,
}

impl ErrorKind {
    /// The number in the `code` member: JSON-RPC's own where it has one, else from -32000 down.
    pub fn code(self) -> i32 {
        match self {
            Self::Parse => -32700,
            Self::InvalidRequest => -32600,
            Self::MethodNotFound => -32601,
            Self::InvalidParams => -32602,
            Self::Internal => -32603,
            Self::NotSupported => -32000,
            Self::NotFound => -32001,
            Self::Taken => -32002,
            Self::Permission => -32003,
            Self::Invite => -32004,
            Self::State => -32005,
            Self::Timeout => -32006,
            Self::Unreachable => -32007,
            Self::Refused => -32008,
            Self::Limit => -32009,
        }
    }
}

/// An error as people and programs get it: a kind, one sentence with the remedy, the field at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// For programs.
    pub kind: ErrorKind,
    /// For people: what, whose fault, what to do.
    pub message: String,
    /// The parameter at fault, if one is.
    pub field: Option<String>,
}

impl ApiError {
    /// An error of this kind with its sentence.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            field: None,
        }
    }

    /// Names the parameter at fault.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// The `error` member of an answer.
    pub fn to_value(&self) -> Value {
        json!({ "code": self.kind.code(), "message": self.message, "data": { "kind": self.kind, "field": self.field } })
    }

    /// Reads an `error` member back; an unknown kind becomes `Internal` with the sentence kept.
    pub fn from_value(value: &Value) -> Self {
        let data = value.get("data");
        let kind = data
            .and_then(|d| d.get("kind"))
            .and_then(|k| ErrorKind::deserialize(k).ok());
        let text = |v: Option<&Value>| v.and_then(Value::as_str).map(str::to_owned);
        Self {
            kind: kind.unwrap_or(ErrorKind::Internal),
            message: text(value.get("message")).unwrap_or_else(|| "the other side gave no reason".into()),
            field: text(data.and_then(|d| d.get("field"))),
        }
    }
}

/// One line, understood.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// Wants an answer under `id` (none: a notification that wants none).
    Request {
        /// A number or a string; absent for notifications.
        id: Option<Value>,
        /// `noun.verb`.
        method: String,
        /// An object; `{}` when absent.
        params: Value,
    },
    /// Answers a request of ours.
    Answer {
        /// The id of the request.
        id: Value,
        /// What came of it.
        result: Result<Value, ApiError>,
    },
}

impl Message {
    /// Reads one line (with or without its line feed).
    pub fn parse(line: &[u8]) -> Result<Self, ApiError> {
        let value: Value = serde_json::from_slice(line)
            .map_err(|e| ApiError::new(ErrorKind::Parse, format!("not a line of JSON: {e}")))?;
        let Value::Object(mut object) = value else {
            return Err(ApiError::new(
                ErrorKind::InvalidRequest,
                "expected one JSON object a line (no batches)",
            ));
        };
        if object.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
            return Err(ApiError::new(ErrorKind::InvalidRequest, "expected \"jsonrpc\": \"2.0\"").field("jsonrpc"));
        }
        let id = object.remove("id");
        match object.remove("method") {
            Some(Value::String(method)) => Self::request(id, method, object.remove("params")),
            Some(_) => Err(ApiError::new(ErrorKind::InvalidRequest, "\"method\" must be a string").field("method")),
            None => Self::answer(id, object),
        }
    }

    fn request(id: Option<Value>, method: String, params: Option<Value>) -> Result<Self, ApiError> {
        if !matches!(id, None | Some(Value::String(_) | Value::Number(_))) {
            return Err(ApiError::new(ErrorKind::InvalidRequest, "\"id\" must be a number or a string").field("id"));
        }
        let params = params.unwrap_or_else(|| Value::Object(Map::new()));
        if !params.is_object() {
            return Err(ApiError::new(ErrorKind::InvalidRequest, "\"params\" must be an object").field("params"));
        }
        Ok(Self::Request { id, method, params })
    }

    fn answer(id: Option<Value>, mut object: Map<String, Value>) -> Result<Self, ApiError> {
        let result = match (object.remove("result"), object.remove("error")) {
            (Some(value), None) => Ok(value),
            (None, Some(error)) => Err(ApiError::from_value(&error)),
            _ => {
                let text = "expected \"method\", or one of \"result\" and \"error\"";
                return Err(ApiError::new(ErrorKind::InvalidRequest, text));
            }
        };
        Ok(Self::Answer {
            id: id.unwrap_or(Value::Null),
            result,
        })
    }

    /// The line that says this, line feed included.
    pub fn to_line(&self) -> Vec<u8> {
        let value = match self {
            Self::Request {
                id: Some(id),
                method,
                params,
            } => {
                json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
            }
            Self::Request {
                id: None,
                method,
                params,
            } => {
                json!({ "jsonrpc": "2.0", "method": method, "params": params })
            }
            Self::Answer { id, result: Ok(result) } => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
            Self::Answer { id, result: Err(error) } => {
                json!({ "jsonrpc": "2.0", "id": id, "error": error.to_value() })
            }
        };
        let mut line = value.to_string().into_bytes();
        line.push(b'\n');
        line
    }
}

/// Reads params into their type; the error names the field that serde stumbled over.
pub fn params<T: DeserializeOwned>(method: &str, value: Value) -> Result<T, ApiError> {
    serde_json::from_value(value).map_err(|e| {
        let text = e.to_string();
        let field = text.split('`').nth(1).map(str::to_owned);
        let mut error = ApiError::new(ErrorKind::InvalidParams, format!("{method}: {text}"));
        error.field = field;
        error
    })
}

/// One method as the contract file shows it.
#[derive(Debug)]
pub struct MethodDoc {
    /// `noun.verb`.
    pub name: &'static str,
    /// One sentence.
    pub summary: &'static str,
    /// JSON schema of the params object.
    pub params: Value,
    /// JSON schema of the result.
    pub result: Value,
}

/// The JSON schema of a type.
pub fn schema<T: JsonSchema>() -> Value {
    let mut value = schemars::schema_for!(T).to_value();
    if let Some(object) = value.as_object_mut() {
        object.remove("$schema");
    }
    value
}

/// Declares a set of methods: the enum of calls, its parser and writer, and its part of the contract.
#[macro_export]
macro_rules! calls {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $method:literal => $variant:ident($params:ty) -> $result:ty : $summary:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub enum $name { $(#[doc = $summary] $variant($params),)* }

        impl $name {
            /// Every method, in the order of the contract.
            pub const METHODS: &'static [&'static str] = &[$($method),*];

            /// Reads a request; an unknown method is refused by name.
            pub fn parse(method: &str, params: serde_json::Value) -> Result<Self, $crate::rpc::ApiError> {
                match method {
                    $($method => $crate::rpc::params(method, params).map(Self::$variant),)*
                    _ => Err($crate::rpc::ApiError::new(
                        $crate::rpc::ErrorKind::MethodNotFound,
                        format!("no method \"{}\" here", method.chars().take(64).collect::<String>()),
                    ).field("method")),
                }
            }

            /// The method's name.
            pub fn method(&self) -> &'static str {
                match self { $(Self::$variant(_) => $method,)* }
            }

            /// The params object.
            pub fn params(&self) -> serde_json::Value {
                match self {
                    $(Self::$variant(params) => serde_json::to_value(params).expect("api types have a JSON form"),)*
                }
            }

            /// The contract of every method.
            pub fn contract() -> Vec<$crate::rpc::MethodDoc> {
                vec![$($crate::rpc::MethodDoc {
                    name: $method,
                    summary: $summary,
                    params: $crate::rpc::schema::<$params>(),
                    result: $crate::rpc::schema::<$result>(),
                }),*]
            }
        }
    };
}

/// No parameters, or nothing to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Empty {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_read_back() {
        for message in [
            Message::Request {
                id: Some(json!(7)),
                method: "state.get".into(),
                params: json!({}),
            },
            Message::Request {
                id: None,
                method: "event".into(),
                params: json!({ "kind": "link_up" }),
            },
            Message::Answer {
                id: json!(7),
                result: Ok(json!({ "node": "x" })),
            },
            Message::Answer {
                id: json!("a"),
                result: Err(ApiError::new(ErrorKind::Taken, "the name bob is taken").field("name")),
            },
        ] {
            assert_eq!(Message::parse(&message.to_line()), Ok(message));
        }
    }

    #[test]
    fn nonsense_is_named() {
        for (line, kind) in [
            ("", ErrorKind::Parse),
            ("\u{0}\u{1}", ErrorKind::Parse),
            ("[]", ErrorKind::InvalidRequest),
            ("{}", ErrorKind::InvalidRequest),
            (r#"{"jsonrpc":"2.0"}"#, ErrorKind::InvalidRequest),
            (r#"{"jsonrpc":"2.0","method":1}"#, ErrorKind::InvalidRequest),
            (
                r#"{"jsonrpc":"2.0","method":"a.b","params":[1]}"#,
                ErrorKind::InvalidRequest,
            ),
            (r#"{"jsonrpc":"2.0","method":"a.b","id":{}}"#, ErrorKind::InvalidRequest),
        ] {
            assert_eq!(Message::parse(line.as_bytes()).map_err(|e| e.kind), Err(kind), "{line}");
        }
    }
}
