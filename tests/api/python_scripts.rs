//! Scripts that were written for the Python broker, by a stand-in for them, through every answer that they know.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::pin::pin;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sandbox_broker::config::DEVELOPMENT_TOKEN;
use tempfile::TempDir;
use test_support::{Broker, CspSim, TRACK_TOKEN, TestApp, output_of};

use crate::clients::csp_with_and_without_crm;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/python-client.py");

/// What stands between the scripts and the broker and answers first.
enum Before {
    /// This status, without a body of the broker.
    Status(u16),
    /// Nothing, until the client gives up.
    Silence,
    /// The connection is closed after the request has been passed on: the answer is lost.
    LostAnswer,
}

/// A front that treats the first requests so and passes the others on.
fn front(broker: SocketAddr, before: Vec<Before>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let before = Arc::new(Mutex::new(VecDeque::from(before)));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut client) = stream else { continue };
            let next = before.lock().unwrap().pop_front();
            std::thread::spawn(move || {
                let mut request = [0; 4096];
                let length = client.read(&mut request).unwrap_or(0);
                let answer = match next {
                    Some(Before::Status(status)) => {
                        format!("HTTP/1.1 {status} Status\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{{}}")
                            .into_bytes()
                    }
                    Some(Before::Silence) => {
                        // It ends when the client closes the connection.
                        let _ = client.read(&mut request);
                        return;
                    }
                    Some(Before::LostAnswer) => {
                        pass_on(broker, &request[..length]);
                        let _ = client.shutdown(Shutdown::Both);
                        return;
                    }
                    None => pass_on(broker, &request[..length]),
                };
                let _ = client.write_all(&answer);
            });
        }
    });
    url
}

fn pass_on(broker: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(broker).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

/// A student's host.
struct Host {
    directory: TempDir,
    student: String,
}

impl Host {
    fn new(student: &str) -> Self {
        Self { directory: TempDir::new().unwrap(), student: student.to_owned() }
    }

    /// Runs the script. Returns whether it succeeded, and what it printed.
    async fn run(&self, action: &str, url: &str, settings: &[(&str, &str)]) -> (bool, String) {
        let mut command = Command::new("python3");
        command.args([SCRIPT, action]).current_dir(self.directory.path()).env_clear().envs([
            ("PATH", std::env::var("PATH").unwrap().as_str()),
            ("BROKER_URL", url),
            ("BROKER_API_TOKEN", TRACK_TOKEN),
            ("STUDENT", &self.student),
            ("LAB", "first steps"),
            ("SCALE", "0.02"),
        ]);
        command.envs(settings.iter().copied());
        let output = output_of(command).await;
        assert!(output.stderr.is_empty(), "it crashed: {}", String::from_utf8_lossy(&output.stderr));
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.path().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Asserts that the six files are about one sandbox, and returns its id.
    fn assert_written(&self) -> String {
        let [id, external_id] = ["sandbox_id.txt", "external_id.txt"].map(|name| self.file(name));
        assert_eq!(format!("identity/accounts/{}", self.file("subtenant_id.txt")), external_id);
        assert!(self.file("sandbox_name.txt").starts_with("lab-"));
        self.file("sfdc_account_id.txt");
        assert!(self.file("sandbox_env.sh").contains(&id));
        id
    }
}

async fn broker(sandboxes: u32, settings: &[(&str, &str)]) -> (Broker, CspSim) {
    let csp = CspSim::start(sandboxes).await;
    let broker = Broker::on_csp(&csp, &[&[("COMPAT_ERROR_DETAIL", "true")], settings].concat()).await;
    assert_eq!(broker.sync("").await.status, 200);
    (broker, csp)
}

#[actix_web::test]
async fn a_script_gets_its_sandbox_writes_its_files_and_gives_it_back() {
    let (broker, _csp) = broker(2, &[]).await;
    let host = Host::new("student-1");
    let url = format!("http://{}/v1", broker.address);
    for prefix in ["", "lab-"] {
        let (is_done, text) = host.run("allocate", &url, &[("PREFIX", prefix)]).await;
        assert!(is_done, "{text}");
        assert_eq!(text, format!("allocated {}\n", host.assert_written()), "the second time it is a replay");
    }
    assert_eq!(host.run("release", &url, &[]).await, (true, "200 pending_deletion\n".to_owned()));
    assert_eq!(host.run("release", &url, &[]).await, (true, "200 pending_deletion\n".to_owned()));
}

#[actix_web::test]
async fn a_script_takes_an_account_without_a_crm_account() {
    let (csp, _) = csp_with_and_without_crm();
    let app = TestApp::on_csp(&csp, &[], &[]).await;
    let url = format!("http://{}/v1", app.address);
    let mut accounts = Vec::new();
    for student in ["one", "two", "three"] {
        let host = Host::new(student);
        let (is_done, text) = host.run("allocate", &url, &[("BROKER_API_TOKEN", DEVELOPMENT_TOKEN)]).await;
        assert!(is_done, "{text}");
        host.assert_written();
        accounts.push(host.file("sfdc_account_id.txt"));
    }
    accounts.sort();
    assert_eq!(accounts, ["", "", "crm-1"]);
}

#[actix_web::test]
async fn a_script_survives_what_it_repeats() {
    use Before::{LostAnswer, Silence, Status};
    let (broker, _csp) = broker(2, &[]).await;
    let cases = [
        ("30", vec![Status(500), Status(502), Status(503), Status(504)]),
        ("6", vec![Status(403), Silence, LostAnswer]),
    ];
    for (number, (read_timeout, before)) in cases.into_iter().enumerate() {
        let host = Host::new(&format!("student-{number}"));
        let (is_done, text) =
            host.run("allocate", &front(broker.address, before), &[("READ_TIMEOUT", read_timeout)]).await;
        assert!(is_done, "{text}");
        let id = host.assert_written();
        assert_eq!(broker.allocate(&host.student).await.sandbox_id(), id, "it knows what it holds");
    }
    assert_eq!(broker.stats().await.body["allocated"], 2, "no try took a second sandbox");
}

#[actix_web::test]
async fn a_script_learns_the_code_of_what_is_final() {
    let (broker, _csp) = broker(1, &[]).await;
    let url = format!("http://{}/v1", broker.address);
    let (is_done, text) = Host::new("student-1").run("allocate", &url, &[("PREFIX", "other-")]).await;
    assert_eq!((is_done, text.as_str()), (false, "try 1: 409 NO_SANDBOXES_AVAILABLE\n"));
    let (is_done, text) = Host::new("student-1").run("allocate", &url, &[("BROKER_API_TOKEN", "guess")]).await;
    assert_eq!((is_done, text.as_str()), (false, "try 1: 401 UNAUTHORIZED\n"));
    for status in [202, 429] {
        let url = front(broker.address, vec![Before::Status(status)]);
        let (is_done, text) = Host::new("student-1").run("allocate", &url, &[]).await;
        assert_eq!((is_done, text), (false, format!("try 1: {status} ?\n")));
    }
    assert_eq!(broker.stats().await.body["allocated"], 0);
}

/// The limit answers 429, with the code where the scripts look for it.
#[actix_web::test]
async fn a_script_that_exceeds_the_limit_learns_why() {
    let (broker, _csp) = broker(1, &[("RATE_LIMIT_RPS", "1"), ("RATE_LIMIT_BURST", "1")]).await;
    let url = format!("http://{}/v1", broker.address);
    let host = Host::new("student-1");
    let mut texts = Vec::new();
    for _ in 0..20 {
        // Other requests of the student take what the bucket gets, except for a lucky script.
        let mut script = pin!(host.run("allocate", &url, &[("SCALE", "0")]));
        let (_, text) = loop {
            tokio::select! {
                done = &mut script => break done,
                _ = broker.allocate(&host.student) => {}
            }
        };
        texts.push(text);
        if texts.last().is_some_and(|text| text.contains("429")) {
            break;
        }
    }
    assert_eq!(texts.last().map(String::as_str), Some("try 1: 429 RATE_LIMITED\n"), "{texts:?}");
}
