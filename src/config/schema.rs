//! The JSON schema.
