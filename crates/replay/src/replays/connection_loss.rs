//! Not yet.
use super::Scene;
use crate::error::Error;
use crate::measure::Measured;

pub(super) async fn run(_scene: &Scene<'_>) -> Result<Vec<Measured>, Error> {
    Err(Error::broken("not built yet"))
}
