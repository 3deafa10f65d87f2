//! Query strings: every key known, every value checked, and an error that names what is wrong.

use super::error::ApiError;
use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;

/// The pairs of a query string, decoded, in their order.
pub(super) struct Pairs(pub(super) Vec<(String, String)>);

impl<S: Sync> FromRequestParts<S> for Pairs {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Pairs, ApiError> {
        match Query::<Vec<(String, String)>>::try_from_uri(&parts.uri) {
            Ok(Query(pairs)) => Ok(Pairs(pairs)),
            Err(error) => Err(ApiError::bad_request(format!("cannot read the query: {error}"))),
        }
    }
}

/// The error for a key that this address does not take.
pub(super) fn unknown_key(key: &str, known: &str) -> ApiError {
    ApiError::bad_request(format!("unknown query key `{key}`: known are {known}"))
}

/// The error for a value that a key does not take.
pub(super) fn bad_value(key: &str, value: &str, wanted: &str) -> ApiError {
    ApiError::bad_request(format!("`{key}={value}`: {wanted}"))
}

/// A whole number of at most 64 bits.
pub(super) fn number(key: &str, value: &str) -> Result<u64, ApiError> {
    value.parse().map_err(|_| bad_value(key, value, "not a whole number"))
}

/// A switch: `1` or `true`, `0` or `false`.
pub(super) fn switch(key: &str, value: &str) -> Result<bool, ApiError> {
    match value {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(bad_value(key, value, "use 1 or 0")),
    }
}
