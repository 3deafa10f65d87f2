//! `/api/v1/peers`: the fleet page by page, one peer in full, and its removal.

use super::Monitor;
use super::error::ApiError;
use super::query::{Pairs, bad_value, number, switch, unknown_key};
use crate::api::{PeerDetail, PeerPage, Removal};
use crate::control::peers::{Cursor, Filter, Found};
use crate::control::{ControlState, LISTED};
use crate::engine::transition::PeerState;
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: u64 = 1_000;
const KEYS: &str =
    "state, group, prefix, label, incident, flapping, silenced, failing, limit, cursor";

/// What a listing was asked for.
#[derive(Debug, PartialEq)]
struct ListQuery {
    filter: Filter,
    cursor: Cursor,
    limit: usize,
}

impl ListQuery {
    fn parse(pairs: Vec<(String, String)>) -> Result<ListQuery, ApiError> {
        let mut query = ListQuery {
            filter: Filter::default(),
            cursor: Cursor::default(),
            limit: DEFAULT_LIMIT,
        };
        for (key, value) in pairs {
            match key.as_str() {
                "state" => query.filter.state = Some(listed_state(&value)?),
                "group" => query.filter.group = Some(value),
                "prefix" => query.filter.prefix = Some(value),
                "label" => query.filter.labels.push(match value.split_once('=') {
                    Some((key, value)) => (key.into(), Some(value.into())),
                    None => (value, None),
                }),
                "incident" => {
                    let id = u32::try_from(number(&key, &value)?).ok();
                    let wrong = || bad_value(&key, &value, "no incident has such a number");
                    query.filter.incident = Some(id.ok_or_else(wrong)?);
                }
                "flapping" => query.filter.flapping = Some(switch(&key, &value)?),
                "silenced" => query.filter.silenced = Some(switch(&key, &value)?),
                "failing" => query.filter.failing = Some(switch(&key, &value)?),
                "limit" => match number(&key, &value)? {
                    limit @ 1..=MAX_LIMIT => query.limit = limit as usize,
                    _ => return Err(bad_value(&key, &value, "must be 1 to 1000")),
                },
                "cursor" => {
                    query.cursor = value.parse().map_err(|()| {
                        bad_value(&key, &value, "pass the `next` of an earlier page as it is")
                    })?;
                }
                _ => return Err(unknown_key(&key, KEYS)),
            }
        }
        Ok(query)
    }
}

/// A state that a listed peer can be in.
fn listed_state(word: &str) -> Result<PeerState, ApiError> {
    let found = LISTED.into_iter().find(|state| state.as_str() == word);
    let words = "must be up, suspect, down, unreachable or left";
    found.ok_or_else(|| bad_value("state", word, words))
}

/// `GET /api/v1/peers`.
pub(super) async fn list(
    State(monitor): State<Monitor>,
    Pairs(pairs): Pairs,
) -> Result<Json<PeerPage>, ApiError> {
    let ListQuery { filter, cursor, limit } = ListQuery::parse(pairs)?;
    aside(&monitor, move |state| Ok(Json(state.page(&filter, cursor, limit)))).await
}

/// `GET /api/v1/peers/{name}`.
pub(super) async fn detail(
    State(monitor): State<Monitor>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<PeerDetail>, ApiError> {
    let name = readable(name)?;
    aside(&monitor, move |state| Ok(Json(state.detail(&find(state, &name)?)))).await
}

/// `DELETE /api/v1/peers/{name}`.
pub(super) async fn remove(
    State(monitor): State<Monitor>,
    name: Result<Path<String>, PathRejection>,
) -> Result<(StatusCode, Json<Removal>), ApiError> {
    let name = readable(name)?;
    aside(&monitor, move |state| {
        let found = find(state, &name)?;
        // Before it is asked for: the reactor may be quicker than we are.
        let known = state.registry.with(found.slot.peer, |p| p.map(|p| p.name.to_owned()));
        let (children, unreachable) = state.children(found.slot.peer);
        if !state.remove(&found) {
            return Err(ApiError::unavailable("the peer's reactor is busy: try again in a moment"));
        }
        let id = found.slot.peer.to_string();
        let name = known.unwrap_or_else(|| id.clone());
        Ok((StatusCode::ACCEPTED, Json(Removal { name, id, children, unreachable })))
    })
    .await
}

fn readable(name: Result<Path<String>, PathRejection>) -> Result<String, ApiError> {
    name.map(|Path(name)| name)
        .map_err(|error| ApiError::bad_request(format!("cannot read the name: {error}")))
}

fn find<'a>(state: &'a ControlState, name: &str) -> Result<Found<'a>, ApiError> {
    if state.reactors().is_empty() {
        return Err(ApiError::unavailable("the monitor is still starting"));
    }
    let unknown = || ApiError::not_found(format!("no peer has the name or the id `{name}`"));
    state.find(name).ok_or_else(unknown)
}

/// Runs what may take milliseconds beside the threads that serve connections.
pub(super) async fn aside<T: Send + 'static>(
    monitor: &Monitor,
    work: impl FnOnce(&ControlState) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let state = monitor.state.clone();
    let done = tokio::task::spawn_blocking(move || work(&state)).await;
    done.unwrap_or_else(|_| Err(ApiError::internal("the answer could not be made; see the log")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &[(&str, &str)]) -> Result<ListQuery, ApiError> {
        ListQuery::parse(query.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect())
    }

    #[test]
    fn every_key_of_a_listing_is_understood() {
        let query = parse(&[
            ("state", "down"),
            ("group", "web"),
            ("prefix", "web-"),
            ("label", "rack=r7"),
            ("label", "canary"),
            ("label", "note=a=b"),
            ("incident", "7"),
            ("flapping", "1"),
            ("silenced", "0"),
            ("failing", "1"),
            ("limit", "1000"),
            ("cursor", "1-65536"),
        ])
        .unwrap();
        let label = |key: &str, value: Option<&str>| (key.into(), value.map(Into::into));
        let filter = Filter {
            state: Some(PeerState::Down),
            group: Some("web".into()),
            prefix: Some("web-".into()),
            labels: vec![
                label("rack", Some("r7")),
                label("canary", None),
                label("note", Some("a=b")),
            ],
            incident: Some(7),
            flapping: Some(true),
            silenced: Some(false),
            failing: Some(true),
        };
        assert_eq!(query, ListQuery { filter, cursor: "1-65536".parse().unwrap(), limit: 1_000 });
    }

    #[test]
    fn what_a_listing_does_not_take_is_refused() {
        for bad in [
            ("state", "unknown"),
            ("state", "Down"),
            ("limit", "0"),
            ("limit", "1001"),
            ("limit", "ten"),
            ("cursor", "7"),
            ("cursor", "-"),
            ("cursor", "1-4294967296"),
            ("page", "2"),
            ("flapping", "yes"),
            ("incident", "x"),
            ("incident", "4294967296"),
        ] {
            assert!(parse(&[bad]).is_err(), "{bad:?}");
        }
    }
}
