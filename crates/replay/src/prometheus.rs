//! A real Prometheus with the shipped rules.
