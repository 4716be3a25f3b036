//! What a small controller wants written.

use serde_json::Value;

/// A status that one controller owns, for one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Owned {
    /// The object's name.
    pub name: String,
    /// The owned fields.
    pub status: Value,
}
