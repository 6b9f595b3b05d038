//! A CSP whose accounts are those of the table. It replaces an account that is deleted, as the real tenant does.

use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use actix_web::{App, HttpResponse, HttpServer, web};
use serde_json::{Value, json};

use crate::table::{Dump, text_of};

const TOKEN: &str = "csp-token";

#[derive(Default)]
struct Tenant {
    accounts: Vec<Value>,
    deleted: Vec<String>,
}

pub(crate) struct Csp {
    url: String,
    tenant: Arc<Mutex<Tenant>>,
}

impl Csp {
    /// A CSP with the accounts of all sandboxes that the old service did not lose or fail to delete.
    pub(crate) fn of(dump: &Dump) -> Self {
        let sandboxes =
            dump.values().filter(|item| !["", "stale", "deletion_failed"].contains(&text_of(item, "status")));
        let accounts = sandboxes.map(|item| {
            account(text_of(item, "sandbox_id").parse().unwrap(), text_of(item, "name"), text_of(item, "external_id"))
        });
        let tenant = Arc::new(Mutex::new(Tenant { accounts: accounts.collect(), deleted: Vec::new() }));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let data = web::Data::from(Arc::clone(&tenant));
        let server = HttpServer::new(move || {
            App::new()
                .app_data(data.clone())
                .route("/current_user/accounts", web::get().to(list))
                .route("/sandbox/accounts/{uuid}", web::delete().to(delete))
        });
        actix_web::rt::spawn(server.workers(1).disable_signals().listen(listener).unwrap().run());
        Self { url, tenant }
    }

    pub(crate) fn settings(&self) -> [(&str, &str); 3] {
        [("CSP_MODE", "http"), ("CSP_BASE_URL", &self.url), ("CSP_API_TOKEN", TOKEN)]
    }

    /// The accounts that were deleted, by their paths.
    pub(crate) fn deleted(&self) -> Vec<String> {
        self.tenant.lock().unwrap().deleted.clone()
    }
}

fn account(id: u64, name: &str, path: &str) -> Value {
    json!({ "account_type": "sandbox", "state": "active", "id": path, "name": name, "csp_id": id })
}

async fn list(tenant: web::Data<Mutex<Tenant>>) -> HttpResponse {
    HttpResponse::Ok().json(json!({ "results": tenant.lock().unwrap().accounts }))
}

async fn delete(tenant: web::Data<Mutex<Tenant>>, uuid: web::Path<String>) -> HttpResponse {
    let mut tenant = tenant.lock().unwrap();
    let path = format!("identity/accounts/{uuid}");
    let before = tenant.accounts.len();
    tenant.accounts.retain(|account| account["id"] != path.as_str());
    if tenant.accounts.len() == before {
        return HttpResponse::NotFound().json(json!({ "detail": "not found" }));
    }
    let next = 2_900_001 + tenant.deleted.len() as u64;
    let replacement = account(next, &format!("lab-adventure-{next}"), &format!("identity/accounts/new-{next}"));
    tenant.accounts.push(replacement);
    tenant.deleted.push(path);
    HttpResponse::NoContent().finish()
}
