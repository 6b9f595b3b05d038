//! The one table of endpoints. The routes of the server, the OpenAPI document, the operators' journal, the names in the
//! log and the methods that browsers may use follow from it.

use std::collections::BTreeMap;

use actix_web::dev::ServiceRequest;
use actix_web::middleware::from_fn;
use actix_web::{HttpResponse, web};
use serde::Serialize;
use serde_json::Value;

use super::api::body::{
    ActorList, ActorStatus, AuditPage, Claim, CleanupReport, Completed, DiscardReport, DiscardStaleReport, Dropped,
    ExpiryReport, Held, LabList, OwnSandbox, Preflight, Queue, Released, ReleasedHeld, Renewed, RetryReport, Sandbox,
    SandboxDetails, SandboxPage, Stats, StatsHistory, SyncReport,
};
use super::api::{admin, allocation, client, events, preflight, probes, sandboxes};
use super::endpoint::{Endpoint, Method, Surface, delete, get, post};
use super::error::ErrorCode::{self, *};
use super::middleware::auth::Role::{Admin, Probe, Public, Track};
use super::middleware::{audit, auth, body, rate_limit};
use super::operation::handler;
use super::ui::{console, docs};

/// Answered wherever GET is, with the same headers and no body.
static HEAD: actix_web::http::Method = actix_web::http::Method::HEAD;

fn json(example: impl Serialize) -> Value {
    serde_json::to_value(example).expect("the API's answers are JSON")
}

const STORE: &[ErrorCode] = &[StoreThrottled, StoreUnavailable];
const OWN: &[ErrorCode] = &[SandboxNotFound, NotSandboxOwner];
const WRITE: &[ErrorCode] = &[OutcomeUnknown];
const UPDATE: &[ErrorCode] = &[OutcomeUnknown, Contended];
const RUN: &[ErrorCode] = &[OutcomeUnknown, ActorPaused, JobBusy, RunInterrupted, ShuttingDown];
const CSP: &[ErrorCode] = &[CspCircuitOpen, CspError];

/// Every endpoint.
pub const ENDPOINTS: &[Endpoint] = &[
    get("/", "root", Public, || handler(probes::root))
        .summary("Names the service and links to its pages")
        .example(|| json(probes::Service::this())),
    get("/healthz", "health", Probe, || handler(probes::healthz))
        .identified_as("healthz")
        .summary("Reports that the process is alive")
        .example(|| json(probes::Health::example())),
    get("/readyz", "readiness", Probe, || handler(probes::readyz))
        .identified_as("readyz")
        .summary("Reports whether this replica can serve requests")
        .example(|| json(probes::Readiness::example())),
    get("/metrics", "metrics", Probe, || handler(probes::metrics))
        .summary("Returns the metrics of this replica, for Prometheus"),
    get("/console", "console", Public, || handler(console::page))
        .identified_as("page")
        .summary("Serves the operators' console")
        .description("The page is open to everyone. It asks for an admin token and sends it with each of its calls."),
    get("/console/{asset}", "console", Public, || handler(console::asset))
        .identified_as("console_asset")
        .summary("Serves a file of the operators' console")
        .errors(&[&[NotFound]]),
    get("/v1/docs", "docs", Public, || handler(docs::page)).summary("Serves this documentation, to read and to try"),
    get("/v1/docs/{asset}", "docs", Public, || handler(docs::asset))
        .identified_as("docs_asset")
        .summary("Serves a file of this documentation")
        .errors(&[&[NotFound]]),
    get("/v1/redoc", "redoc", Public, || handler(docs::redoc)).summary("Redirects to this documentation"),
    get("/v1/openapi.json", "openapi", Public, || handler(docs::openapi))
        .summary("Returns this API as an OpenAPI 3.1 document"),
    get("/v1/client.sh", "client", Public, || handler(client::client))
        .summary("Returns the client for the scripts of tracks")
        .description("`curl -fsS $BROKER_URL/v1/client.sh | bash -s setup` gets a sandbox for an Instruqt track."),
    post("/v1/allocate", "allocate", Track, || handler(sandboxes::allocate))
        .audited()
        .summary("Allocates a sandbox")
        .description(
            "The same request again, on any replica, returns the same sandbox with `200`, so it is safe to repeat it \
             until it is answered. Another `Idempotency-Key` of the same track gets another sandbox. If none is free, \
             the request waits as `Prefer` says, and `503 WAITING` then says its place in the queue, which the key keeps \
             for 90 seconds.",
        )
        .errors(&[
            STORE,
            WRITE,
            &[
                NotSandboxOwner,
                NoSandboxesAvailable,
                WithdrawnFromQueue,
                Waiting,
                QueueFull,
                QuotaExceeded,
                BrokerPaused,
                Overloaded,
                PoolNotRead,
                AllocationTimeout,
                ShuttingDown,
            ],
        ])
        .example(|| json(Claim::example())),
    get("/v1/allocation", "held", Track, || handler(allocation::read))
        .summary("Reads what the calling track's key holds, or its place in the queue")
        .errors(&[STORE, &[NotSandboxOwner, NothingHeld]])
        .example(|| json(Held::example())),
    delete("/v1/allocation", "release-held", Track, || handler(allocation::release))
        .audited()
        .summary("Gives back what the calling track's key holds, or leaves the queue")
        .description(
            "Needs no sandbox id, and always answers `200`: `released` is `false` if the key holds nothing. Repeat it \
             after 10 seconds if an allocation may still be in flight.",
        )
        .errors(&[STORE, UPDATE, &[NotSandboxOwner]])
        .example(|| json(ReleasedHeld::example())),
    post("/v1/allocation/release", "release-held", Track, || handler(allocation::release))
        .audited()
        .identified_as("release_held_by_post")
        .summary("The same as `DELETE /v1/allocation`, for tools without DELETE")
        .errors(&[STORE, UPDATE, &[NotSandboxOwner]])
        .example(|| json(ReleasedHeld::example())),
    post("/v1/allocation/activate", "activate", Track, || handler(allocation::activate))
        .audited()
        .summary("Starts the lab's time of a sandbox that was allocated on standby")
        .description("A holding whose lab has started stays as it is.")
        .errors(&[STORE, UPDATE, &[NotSandboxOwner, NothingHeld, WrongState]])
        .example(|| json(Claim::example())),
    get("/v1/preflight", "preflight", Track, || handler(preflight::preflight))
        .summary("Tells whether a class would get its sandboxes, without allocating any")
        .errors(&[STORE])
        .example(|| json(Preflight::example())),
    get("/v1/sandboxes/{id}", "read", Track, || handler(sandboxes::read))
        .summary("Reads a sandbox of the calling track")
        .errors(&[STORE, OWN])
        .example(|| json(OwnSandbox::example())),
    post("/v1/sandboxes/{id}/renew", "renew", Track, || handler(sandboxes::renew))
        .audited()
        .summary("Renews the sandbox for the full lab duration, up to `MAX_HOLDING_HOURS` from its start")
        .errors(&[STORE, OWN, UPDATE, &[WrongState, MaxDurationReached]])
        .example(|| json(Renewed::example())),
    post("/v1/sandboxes/{id}/mark-for-deletion", "mark-for-deletion", Track, || handler(sandboxes::mark_for_deletion))
        .audited()
        .summary("Gives a sandbox back, to be deleted at the cloud provider")
        .description("The same request again returns the same answer until the sandbox is deleted, then `404`.")
        .errors(&[STORE, OWN, UPDATE])
        .example(|| json(Released::example())),
    get("/v1/admin/whoami", "whoami", Admin, || handler(admin::caller::whoami))
        .summary("Names the caller's token and what it may do")
        .example(|| json(admin::caller::Caller::example())),
    get("/v1/admin/stats", "stats", Admin, || handler(admin::pool::stats))
        .summary("Counts the sandboxes by status")
        .description("The counts are exact. Deleted sandboxes are not counted.")
        .errors(&[STORE])
        .example(|| json(Stats::example())),
    get("/v1/admin/stats/history", "stats-history", Admin, || handler(admin::pool::history))
        .summary("Returns the counts of the last hours, for charts")
        .description("One point for each minute, or for several minutes; all replicas together. A week is kept.")
        .errors(&[STORE])
        .example(|| json(StatsHistory::example())),
    get("/v1/admin/sandboxes", "list", Admin, || handler(admin::pool::list))
        .summary("Lists sandboxes, page by page")
        .description(
            "Without `status`, those that need attention come first: `deletion_failed`, then `allocated` by the end of \
             their holding, then the others; `available` ones last.",
        )
        .errors(&[STORE, &[BadCursor, NoIndex]])
        .example(|| json(SandboxPage::example())),
    get("/v1/admin/sandboxes/{id}", "show", Admin, || handler(admin::pool::show))
        .summary("Reads one sandbox, with its last changes")
        .description("Deleted sandboxes too, as long as their record is kept.")
        .errors(&[STORE, &[SandboxNotFound]])
        .example(|| json(SandboxDetails::example())),
    post("/v1/admin/sandboxes/{id}/release", "force-release", Admin, || handler(admin::pool::release))
        .audited()
        .identified_as("release")
        .summary("Releases a sandbox on its owner's behalf")
        .description(
            "The holding ends at once, and the next cleanup deletes the account with all its contents. This cannot be \
             undone; only a freeze or a quarantine delays the deletion.",
        )
        .errors(&[STORE, UPDATE, &[SandboxNotFound, WrongState]])
        .example(|| json(Sandbox::released_example())),
    post("/v1/admin/sandboxes/{id}/retry-deletion", "retry-deletion", Admin, || handler(admin::pool::retry_deletion))
        .audited()
        .summary("Retries the deletion of a sandbox that was given up")
        .errors(&[STORE, UPDATE, &[SandboxNotFound, WrongState]])
        .example(|| json(Sandbox::released_example())),
    post("/v1/admin/retry-deletion", "retry-deletions", Admin, || handler(admin::pool::retry_deletions))
        .audited()
        .summary("Retries all deletions that were given up, or those with this error")
        .errors(&[STORE, WRITE])
        .example(|| json(Completed::example(RetryReport::example()))),
    post("/v1/admin/sandboxes/{id}/quarantine", "quarantine", Admin, || handler(admin::pool::quarantine))
        .audited()
        .summary("Sets a sandbox aside, so that it is neither allocated nor deleted")
        .description("A sandbox that is available, waits for its deletion, or whose deletion was given up.")
        .errors(&[STORE, UPDATE, &[SandboxNotFound, WrongState]])
        .example(|| json(Sandbox::released_example())),
    post("/v1/admin/sandboxes/{id}/unquarantine", "unquarantine", Admin, || handler(admin::pool::unquarantine))
        .audited()
        .summary("Ends the quarantine of a sandbox")
        .description("It waits for its deletion again if a track had it; else it is available.")
        .errors(&[STORE, UPDATE, &[SandboxNotFound, WrongState]])
        .example(|| json(Sandbox::released_example())),
    post("/v1/admin/sandboxes/{id}/freeze", "freeze", Admin, || handler(admin::pool::freeze))
        .audited()
        .summary("Keeps an allocated or released sandbox from being deleted for a while")
        .errors(&[STORE, UPDATE, &[SandboxNotFound, WrongState]])
        .example(|| json(Sandbox::released_example())),
    post("/v1/admin/sandboxes/{id}/extend", "extend", Admin, || handler(admin::pool::extend))
        .audited()
        .summary("Extends a holding: it ends this long from now, or at its present end if that is later")
        .description("`MAX_HOLDING_HOURS` does not apply. A sandbox on standby is refused: its lab has not started.")
        .errors(&[STORE, UPDATE, &[SandboxNotFound, WrongState]])
        .example(|| json(Sandbox::allocated_example())),
    post("/v1/admin/sync", "sync", Admin, || handler(admin::jobs::sync))
        .audited()
        .summary("Syncs with the cloud provider's listing now")
        .errors(&[STORE, RUN, CSP, &[SyncRefused]])
        .example(|| json(Completed::example(SyncReport::example()))),
    post("/v1/admin/cleanup", "cleanup", Admin, || handler(admin::jobs::cleanup))
        .audited()
        .summary("Deletes released sandboxes at the cloud provider now")
        .description("The accounts are deleted with all their contents. This cannot be undone.")
        .errors(&[STORE, RUN, CSP])
        .example(|| json(Completed::example(CleanupReport::example()))),
    post("/v1/admin/auto-expire", "auto-expire", Admin, || handler(admin::jobs::auto_expire))
        .audited()
        .summary("Ends expired holdings now")
        .description("A holding is expired when its end and the grace period after it have passed.")
        .errors(&[STORE, RUN])
        .example(|| json(Completed::example(ExpiryReport::example()))),
    post("/v1/admin/auto-delete-stale", "auto-delete-stale", Admin, || handler(admin::jobs::auto_delete_stale))
        .audited()
        .summary("Removes sandboxes that have been stale for the whole grace period now")
        .errors(&[STORE, RUN])
        .example(|| json(Completed::example(DiscardStaleReport::example()))),
    post("/v1/admin/bulk-delete", "bulk-delete", Admin, || handler(admin::pool::bulk_delete))
        .audited()
        .summary("Removes the records of all sandboxes of one status, without a call to the cloud provider")
        .description(
            "Destroys only what the broker knows of them. The accounts stay alive at the cloud provider, go on costing \
             money, and may be listed again.",
        )
        .errors(&[STORE, WRITE])
        .example(|| json(Completed::example(DiscardReport::example()))),
    get("/v1/admin/labs", "labs", Admin, || handler(admin::labs::labs))
        .summary("Shows for each lab its sandboxes, its students who wait, and the median time of its holdings")
        .errors(&[STORE])
        .example(|| json(LabList::example())),
    get("/v1/admin/queue", "queue", Admin, || handler(admin::queue::queue))
        .summary("Shows who waits for a sandbox")
        .errors(&[STORE])
        .example(|| json(Queue::example())),
    delete("/v1/admin/queue", "drop-ticket", Admin, || handler(admin::queue::drop_ticket))
        .audited()
        .summary("Takes a track out of the queue")
        .description("A request of the track that waits is answered `409 WITHDRAWN`.")
        .errors(&[STORE, WRITE])
        .example(|| json(Dropped { dropped: true })),
    get("/v1/admin/actors", "actors", Admin, || handler(admin::actors::actors))
        .summary("Shows what each actor is doing")
        .errors(&[STORE])
        .example(|| json(ActorList::example())),
    get("/v1/admin/actors/{name}", "actor", Admin, || handler(admin::actors::actor))
        .summary("Shows what one actor is doing")
        .errors(&[STORE])
        .example(|| json(ActorStatus::running_example())),
    post("/v1/admin/actors/{name}/pause", "pause", Admin, || handler(admin::actors::pause))
        .summary("Pauses an actor on every replica until it is resumed")
        .description(
            "The pause outlasts restarts. A run in progress is told to stop. Pausing `pool-manager` stops allocation \
             (`503 BROKER_PAUSED`); reads and releases continue.",
        )
        .errors(&[STORE, WRITE])
        .example(|| json(ActorStatus::paused_example())),
    post("/v1/admin/actors/{name}/resume", "resume", Admin, || handler(admin::actors::resume))
        .summary("Resumes an actor on every replica")
        .errors(&[STORE, WRITE])
        .example(|| json(ActorStatus::running_example())),
    post("/v1/admin/actors/{name}/run", "run", Admin, || handler(admin::actors::run))
        .summary("Runs the job of an actor now and waits until it ends")
        .description("The job of `pool-manager` is a refresh of its cache.")
        .errors(&[STORE, RUN, CSP, &[SyncRefused]])
        .example(|| json(ActorStatus::running_example())),
    get("/v1/admin/audit", "audit", Admin, || handler(admin::audit::audit))
        .summary("Lists the operators' orders, the last first")
        .description(
            "An order is every request of an operator that changes something. It is recorded before it is carried out, \
             and refused with `503` if it cannot be recorded. Orders are kept for `AUDIT_RETENTION_DAYS`.",
        )
        .errors(&[STORE, &[BadCursor]])
        .example(|| json(AuditPage::example())),
    get("/v1/admin/events", "events", Admin, || handler(events::stream::events))
        .summary("Streams what happens, as server-sent events")
        .description(
            "A `snapshot` event comes every second and carries a `Snapshot`. A `journal` event comes when something \
             has happened and carries an array of `Event`. A client that reconnects with `Last-Event-ID` gets the \
             events that it missed, up to the last 200.",
        )
        .errors(&[&[TooManyStreams]])
        .example(|| json(events::example())),
];

/// The endpoint of this method at this path of the table. `HEAD` is served wherever `GET` is.
pub(super) fn find(method: &actix_web::http::Method, path: &str) -> Option<&'static Endpoint> {
    let method = if *method == HEAD { Method::Get.as_str() } else { method.as_str() };
    ENDPOINTS.iter().find(|endpoint| endpoint.path == path && endpoint.method.as_str() == method)
}

fn action_of(request: &ServiceRequest) -> Option<&'static str> {
    request.match_pattern().and_then(|path| Some(find(request.method(), &path)?.action))
}

/// Whether a probe has this path.
pub(super) fn is_probe(path: &str) -> bool {
    let path = path.strip_suffix('/').unwrap_or(path);
    ENDPOINTS.iter().any(|endpoint| endpoint.role == Probe && endpoint.path == path)
}

/// Addresses that people type, and the pages that they mean.
const REDIRECTS: [(&str, &str); 3] =
    [("/docs", "/v1/docs"), ("/docs/", "/v1/docs"), ("/openapi.json", "/v1/openapi.json")];

/// Registers the table's endpoints that this surface has, each with and without a slash at its end, and HEAD with each
/// GET.
pub(super) fn register(services: &mut web::ServiceConfig, surface: Surface) {
    for (from, to) in REDIRECTS {
        services.service(web::redirect(from, to).permanent());
    }
    let mut by_path: BTreeMap<&str, Vec<&Endpoint>> = BTreeMap::new();
    for endpoint in ENDPOINTS.iter().filter(|endpoint| endpoint.is_on(surface)) {
        by_path.entry(endpoint.path).or_default().push(endpoint);
    }
    for (path, endpoints) in by_path {
        let mut allowed: Vec<_> = endpoints.iter().map(|endpoint| endpoint.method.as_str()).collect();
        allowed.extend(allowed.contains(&Method::Get.as_str()).then_some(HEAD.as_str()));
        let allowed = allowed.join(", ");
        let paths = if path.ends_with('/') { vec![path.to_owned()] } else { vec![path.to_owned(), format!("{path}/")] };
        let mut resource = web::resource(paths).default_service(web::to(move || {
            let answer = HttpResponse::MethodNotAllowed().insert_header(("Allow", allowed.clone())).finish();
            std::future::ready(answer)
        }));
        for endpoint in &endpoints {
            resource = resource.route((endpoint.handler)().route.method(endpoint.method.into()));
            if endpoint.method == Method::Get {
                resource = resource.route((endpoint.handler)().route.method(HEAD.clone()));
            }
        }
        let role = endpoints[0].role;
        match role {
            Probe => services.service(resource),
            Public => {
                services.service(resource.wrap(from_fn(move |request, next| rate_limit::limit(role, request, next))))
            }
            // The last one wrapped is the first to see a request. Guessing tokens is limited too, and no body is read
            // before the caller is known.
            Track | Admin => services.service(
                resource
                    .wrap(from_fn(move |request, next| audit::record(role, action_of, request, next)))
                    .wrap(from_fn(body::read))
                    .wrap(from_fn(move |request, next| auth::authorize(role, request, next)))
                    .wrap(from_fn(move |request, next| rate_limit::limit(role, request, next)))
                    .wrap(from_fn(auth::identify)),
            ),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_methods_of_a_path_have_one_role() {
        for endpoint in ENDPOINTS {
            let first = ENDPOINTS.iter().find(|other| other.path == endpoint.path).unwrap();
            assert_eq!(endpoint.role, first.role, "{endpoint:?}");
        }
    }
}
