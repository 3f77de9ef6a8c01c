//! What happens to containers, as it happens.

use engine::{EventQuery, EventStream};
use futures_util::Stream;
use futures_util::stream::unfold;
use grpc::Outcome;

use super::sandboxes::sandbox_status;
use super::{Server, nanos, refused, request};
use crate::wire::*;

fn kind(action: &str) -> Option<ContainerEventType> {
    Some(match action {
        "create" => ContainerEventType::Created,
        "start" => ContainerEventType::Started,
        "die" => ContainerEventType::Stopped,
        "destroy" => ContainerEventType::Deleted,
        _ => return None,
    })
}

impl Server {
    /// Ends with an error when the reader falls too far behind.
    pub(super) fn events(self) -> impl Stream<Item = Outcome<ContainerEventResponse>> + Send {
        let first: Option<Option<EventStream>> = Some(None);
        unfold((self, first), |(server, state)| async move {
            let mut events = match state? {
                Some(events) => events,
                None => {
                    let mut query = EventQuery::default();
                    query.filters.insert("type", "container");
                    query.filters.insert("label", format!("{}=container", pods::labels::TYPE));
                    query.filters.insert("label", pods::labels::SANDBOX);
                    match server.engine().events(query).await {
                        Ok(events) => events,
                        Err(error) => return Some((Err(refused(error)), (server, None))),
                    }
                }
            };
            loop {
                let event = match events.next().await? {
                    Ok(event) => event,
                    Err(error) => return Some((Err(refused(error)), (server, None))),
                };
                let (Some(kind), Some(named)) = (kind(&event.action), request::named(&event.attributes)) else {
                    continue;
                };
                let told = server.tell(event.actor, kind, nanos(event.at), &named.sandbox).await;
                return Some((Ok(told), (server, Some(Some(events)))));
            }
        })
    }

    async fn tell(&self, id: String, kind: ContainerEventType, at: i64, sandbox: &str) -> ContainerEventResponse {
        let mut statuses = Vec::new();
        for container in self.containers_of(Some(sandbox)).await.unwrap_or_default() {
            if let Ok((status, _)) = self.status_of(&container.id.to_string()).await {
                statuses.push(status);
            }
        }
        ContainerEventResponse {
            container_id: id,
            container_event_type: kind as i32,
            created_at: at,
            pod_sandbox_status: self.0.records.find(sandbox).ok().map(|(id, record)| sandbox_status(&id, &record)),
            containers_statuses: statuses,
        }
    }
}
