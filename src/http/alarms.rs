//! What alarms, and what keeps from it: incidents, silences, expectations, quality of service.

use super::Monitor;
use super::error::ApiError;
use super::peers::aside;
use super::query::{Pairs, bad_value, number, switch, unknown_key};
use crate::api;
use crate::control::ControlState;
use crate::control::silences::SilenceError;
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, Path, Request, State};
use axum::http::StatusCode;

/// Groups that a report on quality tells apart unless it is asked for more.
const DEFAULT_GROUPS: usize = 100;
const MAX_GROUPS: u64 = 1_000;

/// `GET /api/v1/incidents`.
pub(super) async fn incidents(
    State(monitor): State<Monitor>,
    Pairs(pairs): Pairs,
) -> Result<Json<api::Incidents>, ApiError> {
    let mut closed = false;
    for (key, value) in pairs {
        match key.as_str() {
            "closed" => closed = switch(&key, &value)?,
            _ => return Err(unknown_key(&key, "closed")),
        }
    }
    aside(&monitor, move |state| Ok(Json(state.incidents(closed)))).await
}

/// `GET /api/v1/silences`.
pub(super) async fn silences(State(monitor): State<Monitor>) -> Json<api::Silences> {
    Json(monitor.state.silences())
}

/// `POST /api/v1/silences`.
pub(super) async fn silence(
    State(monitor): State<Monitor>,
    request: Request,
) -> Result<(StatusCode, Json<api::Silence>), ApiError> {
    let body = tokio::time::timeout(monitor.patience, Json::from_request(request, &()));
    let late = |_| ApiError::bad_request("the body of the request did not come in time");
    let Json(new): Json<api::NewSilence> = body.await.map_err(late)?.map_err(|error| {
        ApiError::bad_request(format!(
            "{}; send JSON like {{\"selector\": \"web-*\", \"for_ns\": 7200000000000, \
             \"reason\": \"new kernel\"}}",
            error.body_text()
        ))
    })?;
    let add = move |state: &ControlState| state.silence(new).map_err(refusal);
    Ok((StatusCode::CREATED, Json(aside(&monitor, add).await?)))
}

/// `DELETE /api/v1/silences/{id}`.
pub(super) async fn end_silence(
    State(monitor): State<Monitor>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<api::Silence>, ApiError> {
    let Path(id) = id.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let unknown = || ApiError::not_found(format!("no silence with the number `{id}` holds"));
    let number = id.parse().map_err(|_| unknown())?;
    let end = move |state: &ControlState| state.end_silence(number).map_err(refusal);
    aside(&monitor, end).await?.map(Json).ok_or_else(unknown)
}

fn refusal(error: SilenceError) -> ApiError {
    match error {
        SilenceError::Ending => ApiError::unavailable(error.to_string()),
        _ => ApiError::bad_request(error.to_string()),
    }
}

/// `GET /api/v1/expected`.
pub(super) async fn expected(
    State(monitor): State<Monitor>,
    Pairs(pairs): Pairs,
) -> Result<Json<api::Expectations>, ApiError> {
    let mut all = false;
    for (key, value) in pairs {
        match key.as_str() {
            "all" => all = switch(&key, &value)?,
            _ => return Err(unknown_key(&key, "all")),
        }
    }
    Ok(Json(monitor.state.expected(all)))
}

/// `GET /api/v1/qos`.
pub(super) async fn qos(
    State(monitor): State<Monitor>,
    Pairs(pairs): Pairs,
) -> Result<Json<api::QosReport>, ApiError> {
    let (mut group, mut limit) = (None, DEFAULT_GROUPS);
    for (key, value) in pairs {
        match key.as_str() {
            "group" => group = Some(value),
            "limit" => match number(&key, &value)? {
                wanted @ 0..=MAX_GROUPS => limit = wanted as usize,
                _ => return Err(bad_value(&key, &value, "must be 0 to 1000")),
            },
            _ => return Err(unknown_key(&key, "group, limit")),
        }
    }
    aside(&monitor, move |state| Ok(Json(state.qos(group.as_deref(), limit)))).await
}
