//! The figures of the labs.

use actix_web::web;
use broker_actors::broker::Broker;

use crate::http::api::body::LabList;
use crate::http::api::input::{NoParameters, Query};
use crate::http::error::ApiError;

pub(crate) async fn labs(broker: web::Data<Broker>, _: Query<NoParameters>) -> Result<web::Json<LabList>, ApiError> {
    let stored = broker.labs().await?;
    Ok(web::Json(LabList::new(stored, &*broker.queue().view().await?)))
}
