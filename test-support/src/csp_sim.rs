use crate::http_client;
use serde_json::Value;

use crate::process::{Process, program};

/// A simulated CSP as a process.
pub struct CspSim {
    pub process: Process,
    pub url: String,
    http: reqwest::Client,
}

impl CspSim {
    pub const TOKEN: &str = "csp-token";

    /// Starts the simulator with this number of sandboxes.
    pub async fn start(sandboxes: u32) -> Self {
        Self::start_with(sandboxes, &[]).await
    }

    /// Starts the simulator with more flags.
    pub async fn start_with(sandboxes: u32, flags: &[&str]) -> Self {
        let sandboxes = sandboxes.to_string();
        let arguments = ["csp-sim", "--port=0", "--sandboxes", &sandboxes];
        let url_in =
            |output: &str| output.lines().find_map(|line| line.strip_prefix("simulated CSP on ").map(str::to_owned));
        let (process, _, url) =
            Process::listening(program(&arguments).args(flags).env("CSP_API_TOKEN", Self::TOKEN), url_in).await;
        Self { process, url, http: http_client() }
    }

    /// The settings of a broker that uses this CSP.
    pub fn settings(&self) -> [(&str, &str); 3] {
        [("CSP_MODE", "http"), ("CSP_BASE_URL", &self.url), ("CSP_API_TOKEN", Self::TOKEN)]
    }

    /// The calls that the simulator has counted.
    pub async fn stats(&self) -> Value {
        self.http.get(format!("{}/sim/stats", self.url)).send().await.unwrap().json().await.unwrap()
    }

    /// Replaces the simulator's faults; `{}` removes all.
    pub async fn set_faults(&self, faults: Value) {
        let request = self.http.put(format!("{}/sim/faults", self.url)).json(&faults);
        let answer = request.header("Authorization", format!("Token {}", Self::TOKEN)).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
}
