//! The fields of a declaration, one by one.

use serde::Deserialize;
use serde_json::Value as Json;
use vouchsafe_types::{Selector, SpiffeId, TrustDomain};

use super::RuleError;
use crate::duration::parse_seconds;
use crate::label_selector::{LabelSelector, Written};
use crate::template::Template;

/// A trust domain, as a name or as a SPIFFE ID.
pub(crate) fn trust_domain(field: &'static str, text: &str) -> Result<TrustDomain, RuleError> {
    let parsed = match text.contains("://") {
        true => SpiffeId::parse(text).map(|id| id.trust_domain()),
        false => TrustDomain::parse(text),
    };
    parsed.map_err(|source| RuleError::Id { field, text: text.to_owned(), source })
}

pub(crate) fn spiffe_id(field: &'static str, text: &str) -> Result<SpiffeId, RuleError> {
    SpiffeId::parse(text).map_err(|source| RuleError::Id { field, text: text.to_owned(), source })
}

pub(crate) fn selector(field: &'static str, text: &str) -> Result<Selector, RuleError> {
    Selector::parse(text).map_err(|source| RuleError::Selector { field, text: text.to_owned(), source })
}

/// The values without those that were there before, in order.
pub(crate) fn each_once<T: PartialEq>(values: Vec<T>) -> Vec<T> {
    let mut kept: Vec<T> = Vec::with_capacity(values.len());
    for value in values {
        if !kept.contains(&value) {
            kept.push(value);
        }
    }
    kept
}

pub(super) fn read<T: Default + for<'de> Deserialize<'de>>(spec: &Json) -> Result<T, RuleError> {
    if spec.is_null() {
        return Ok(T::default());
    }
    T::deserialize(spec).map_err(|error| RuleError::Malformed(error.to_string()))
}

pub(super) fn template(field: &'static str, text: &str) -> Result<Template, RuleError> {
    Template::parse(field, text).map_err(|source| RuleError::Template { field, source })
}

pub(super) fn lifetime(field: &'static str, text: &str) -> Result<u32, RuleError> {
    if text.is_empty() {
        return Ok(0);
    }
    parse_seconds(text).map_err(|source| RuleError::Lifetime { field, source })
}

pub(super) fn trust_domains(texts: &[String]) -> Result<Vec<TrustDomain>, RuleError> {
    let parsed: Result<Vec<_>, _> = texts.iter().map(|text| trust_domain("federatesWith", text)).collect();
    parsed.map(each_once)
}

pub(super) fn labels(field: &'static str, written: Option<Written>) -> Result<LabelSelector, RuleError> {
    let selector = LabelSelector::try_from(written.unwrap_or_default());
    selector.map_err(|source| RuleError::Labels { field, source })
}
