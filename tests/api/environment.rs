//! The container environment of the Python broker, and of its neighbours, through the real program.

use std::net::TcpListener;
use std::process::Output;

use clap::CommandFactory as _;
use reqwest::Method;
use sandbox_broker::config::Settings;
use test_support::{
    ADMIN_TOKEN, Broker, CspSim, DynamoServer, Process, eventually, http_client, output_of, program, send,
};

type Variables<'a> = Vec<(&'a str, &'a str)>;

/// The environment of a container of the Python broker, on this table and this CSP. It knows no `BROKER_STORE`.
fn python_environment<'a>(server: &'a DynamoServer, csp: &'a CspSim) -> Variables<'a> {
    let mut variables: Variables = vec![
        ("API_BASE_PATH", "/v1"),
        ("DDB_TABLE_NAME", "sandbox-broker-pool"),
        ("DDB_GSI1_NAME", "StatusIndex"),
        ("DDB_GSI2_NAME", "TrackIndex"),
        ("DDB_GSI3_NAME", "IdempotencyIndex"),
        ("DDB_ENDPOINT_URL", &server.url),
        ("LAB_DURATION_HOURS", "48"),
        ("GRACE_PERIOD_MINUTES", "30"),
        ("SYNC_INTERVAL_SEC", "600"),
        ("CLEANUP_INTERVAL_SEC", "300"),
        ("CLEANUP_PER_SANDBOX_DELAY_SEC", "30.0"),
        ("AUTO_EXPIRY_INTERVAL_SEC", "300"),
        ("CSP_TIMEOUT_CONNECT_SEC", "5"),
        ("CSP_TIMEOUT_READ_SEC", "15"),
        ("K_CANDIDATES", "15"),
        ("BACKOFF_BASE_MS", "100"),
        ("BACKOFF_MAX_MS", "5000"),
        ("DELETION_RETRY_MAX_ATTEMPTS", "3"),
        ("CIRCUIT_BREAKER_THRESHOLD", "5"),
        ("CIRCUIT_BREAKER_TIMEOUT_SEC", "60"),
        ("LOG_LEVEL", "INFO"),
        ("LOG_FORMAT", "json"),
        ("CORS_ALLOWED_ORIGINS", "*"),
        ("NIOSXAAS_ENABLED", "false"),
    ];
    variables.extend(csp.settings().into_iter().filter(|(name, _)| *name != "CSP_MODE"));
    variables
}

/// Runs the program to its end and returns what it wrote to standard error. It must end with exit code 2.
async fn refused(variables: &[(&str, &str)], removed: &[&str]) -> String {
    let mut command = program(&[]);
    command.envs(variables.iter().copied());
    for name in removed {
        command.env_remove(name);
    }
    let Output { status, stderr, stdout } = output_of(command).await;
    let text = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(2), "{variables:?}: {text}");
    assert!(stdout.is_empty(), "it logged before it refused: {}", String::from_utf8_lossy(&stdout));
    text
}

#[actix_web::test]
async fn the_environment_of_the_python_broker_starts_a_broker_on_its_table() {
    let (server, csp) = (DynamoServer::start().await, CspSim::start(3).await);
    let broker = Broker::start(&python_environment(&server, &csp)).await;
    assert_eq!(broker.sync("").await.status, 200);
    let allocated = broker.allocate("student-1").await;
    let seconds = ["expires_at", "allocated_at"].map(|name| allocated.body[name].as_u64().unwrap());
    assert_eq!(seconds[0] - seconds[1], 48 * 3600);
    assert!(broker.log().contains("\"store\":\"Dynamodb\""), "{}", broker.log());
    assert!(!broker.log().contains("unknown_setting"), "{}", broker.log());

    let call = broker.request(Method::GET, "/healthz").header("Origin", "https://labs.example.com");
    let headers = send(call).await.headers;
    assert_eq!(headers["access-control-allow-origin"], "*");
    assert!(!headers.contains_key("access-control-allow-credentials"), "{headers:?}");
}

#[actix_web::test]
async fn a_setting_of_the_python_broker_that_cannot_be_honoured_is_refused_by_name() {
    let (server, csp) = (DynamoServer::start().await, CspSim::start(0).await);
    let environment = python_environment(&server, &csp);
    for (name, value, advice) in [
        ("CLEANUP_BATCH_SIZE", "10", "CLEANUP_PER_SANDBOX_DELAY_SEC"),
        ("CLEANUP_BATCH_DELAY_SEC", "2.0", "CLEANUP_PER_SANDBOX_DELAY_SEC"),
        ("API_BASE_PATH", "/api/v2", "/v1"),
        ("LOG_LEVEL", "wanring", "error, warn, info, debug, trace"),
        ("LOG_FORMAT", "xml", "json, pretty"),
        ("CORS_ALLOWED_ORIGINS", "labs.example.com", "https://labs.example.com"),
    ] {
        let text = refused(&[&environment[..], &[(name, value)]].concat(), &[]).await;
        assert!(text.contains(&format!("{name} holds")) && text.contains(advice), "{text}");
    }
    let half = [("NIOSXAAS_ENABLED", "true"), ("NIOSXAAS_PASSWORD", "the-password-of-a-service")];
    let text = refused(&[&environment[..], &half].concat(), &[]).await;
    assert!(text.contains("NIOSXAAS_EMAIL holds nothing") && !text.contains("the-password-of-a-service"), "{text}");

    let with_all = [("CLEANUP_BATCH_SIZE", "10"), ("API_BASE_PATH", "/"), ("MAX_HOLDING_HOURS", "1")];
    let text = refused(&[&environment[..], &with_all].concat(), &[]).await;
    assert!(with_all.iter().all(|(name, _)| text.contains(name)), "all problems at once: {text}");
}

#[actix_web::test]
async fn dynamodb_has_no_default_for_the_length_of_a_lab() {
    let (server, csp) = (DynamoServer::start().await, CspSim::start(0).await);
    let mut environment = python_environment(&server, &csp);
    environment.retain(|(name, _)| *name != "LAB_DURATION_HOURS");
    let text = refused(&environment, &["LAB_DURATION_HOURS"]).await;
    assert!(text.contains("LAB_DURATION_HOURS holds nothing") && text.contains("48"), "{text}");
}

#[actix_web::test]
async fn levels_and_forms_of_the_python_brokers_log_are_honoured() {
    for (level, logs_warnings) in [("WARNING", true), ("CRITICAL", false)] {
        let (mut process, output, address) = quiet_broker(&[("LOG_LEVEL", level), ("BROKER_COLOUR", "red")]).await;
        assert_eq!(http_client().get(format!("http://{address}/healthz")).send().await.unwrap().status(), 200);
        process.terminate().await;
        let log = std::fs::read_to_string(output.path()).unwrap();
        assert_eq!(log.contains("BROKER_COLOUR is no setting"), logs_warnings, "{log}");
        assert!(!log.contains("\"level\":\"INFO\""), "{log}");
    }
    let (mut process, output, _) = quiet_broker(&[("LOG_FORMAT", "text")]).await;
    process.terminate().await;
    let log = std::fs::read_to_string(output.path()).unwrap();
    assert!(log.contains("listening") && !log.contains("{\"timestamp\""), "text for people: {log}");
}

/// A broker whose log does not say where it listens. It gets a port that was free a moment before.
async fn quiet_broker(settings: &[(&str, &str)]) -> (Process, tempfile::NamedTempFile, String) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let address = format!("127.0.0.1:{port}");
    let mut command = program(&[]);
    command.envs([("BROKER_STORE", "memory"), ("BROKER_PORT", &port)]).envs(settings.iter().copied());
    let output = tempfile::NamedTempFile::new().unwrap();
    let process = Process::spawn(&mut command, output.path());
    eventually("the broker answers", async || http_client().get(format!("http://{address}/healthz")).send().await.ok())
        .await;
    (process, output, address)
}

#[actix_web::test]
async fn what_only_production_has_makes_dynamodb_the_store_also_of_the_table_commands() {
    for (name, value) in [
        ("DDB_TABLE_NAME", "pool"),
        ("DDB_ENDPOINT_URL", "http://127.0.0.1:1"),
        ("CSP_BASE_URL", "http://127.0.0.1:1"),
        ("CSP_API_TOKEN", "token"),
        ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials/1"),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1"),
        ("ECS_CONTAINER_METADATA_URI", "http://127.0.0.1:1"),
        ("ECS_CONTAINER_METADATA_URI_V4", "http://127.0.0.1:1"),
    ] {
        let text = refused(&[(name, value)], &["LAB_DURATION_HOURS"]).await;
        assert!(text.contains("LAB_DURATION_HOURS holds nothing"), "{name}: {text}");
    }
    let mut command = program(&["--ddb-endpoint-url=http://127.0.0.1:1"]);
    command.env_remove("LAB_DURATION_HOURS");
    assert_eq!(output_of(command).await.status.code(), Some(2), "the flag is as good as the variable");

    let server = DynamoServer::start().await;
    let mut check = program(&["table", "check"]);
    check.env("DDB_ENDPOINT_URL", &server.url);
    let checked = output_of(check).await;
    assert!(checked.status.success(), "it checks the table on the server: {checked:?}");
}

#[actix_web::test]
async fn an_embedded_store_never_hides_a_real_csp() {
    for store in ["embedded", "memory"] {
        for setting in [("CSP_BASE_URL", "https://csp.example.com"), ("CSP_API_TOKEN", "token")] {
            let text = refused(&[("BROKER_STORE", store), setting], &[]).await;
            assert!(text.contains("CSP_MODE holds nothing") && text.contains("BROKER_STORE=dynamodb"), "{text}");
        }
    }
}

#[actix_web::test]
async fn an_empty_setting_is_one_that_is_not_set() {
    let command = Settings::command();
    let variables = command.get_arguments().filter_map(|arg| arg.get_env()?.to_str());
    let others = ["AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN", "HTTP_PROXY", "CLEANUP_BATCH_SIZE"];
    let given = ["BROKER_STORE", "BROKER_HOST", "BROKER_PORT"];
    let mut settings: Variables =
        variables.chain(others).filter(|name| !given.contains(name)).map(|name| (name, "")).collect();
    settings.push(("BROKER_STORE", "memory"));
    let (process, output, address) =
        Process::listening(program(&[]).envs(settings), test_support::listening_address).await;
    let ready = format!("http://{address}/readyz");
    eventually("it is ready", async || http_client().get(&ready).send().await.ok().filter(|it| it.status() == 200))
        .await;
    let log = std::fs::read_to_string(output.path()).unwrap();
    assert!(log.contains("\"level\":\"INFO\"") && log.contains("DEVELOPMENT TOKENS"), "{log}");
    drop(process);

    // On DynamoDB, where an empty region would be one.
    let (server, csp) = (DynamoServer::start().await, CspSim::start(1).await);
    let mut settings = python_environment(&server, &csp);
    settings.extend([("AWS_REGION", ""), ("AWS_DEFAULT_REGION", "eu-central-1"), ("BROKER_STORE", "")]);
    let broker = Broker::start(&settings).await;
    assert_eq!(broker.stats().await.status, 200);
}

#[actix_web::test]
async fn tokens_that_end_in_a_newline_are_trimmed() {
    let csp = CspSim::start(1).await;
    let [track, admin, csp_token] = [test_support::TRACK_TOKEN, ADMIN_TOKEN, CspSim::TOKEN].map(|it| format!("{it}\n"));
    let tokens = [("BROKER_API_TOKEN", track.as_str()), ("BROKER_ADMIN_TOKEN", &admin), ("CSP_API_TOKEN", &csp_token)];
    let broker = Broker::on_csp(&csp, &tokens).await;
    assert_eq!(broker.sync("").await.status, 200);
    assert_eq!(broker.allocate("student-1").await.status, 201);
    let mut ctl = program(&["ctl", "stats"]);
    ctl.envs([("BROKER_ADMIN_TOKEN", admin.as_str()), ("BROKER_URL", &format!("http://{}", broker.address))]);
    assert!(output_of(ctl).await.status.success());
}

#[actix_web::test]
async fn a_variable_that_looks_like_a_setting_is_warned_about_with_the_nearest_one() {
    let settings = [
        ("BROKER_STORE", "memory"),
        ("CSP_TIMEOUT_READ_SECONDS", "3"),
        ("DDB_GSI4_NAME", "OtherIndex"),
        ("METRICS_PORT", "9090"),
        ("UNRELATED", "1"),
    ];
    let log = Broker::start(&settings).await.log();
    for text in [
        "CSP_TIMEOUT_READ_SECONDS is no setting of this broker; did you mean CSP_TIMEOUT_READ_SEC?",
        "DDB_GSI4_NAME is no setting of this broker; did you mean DDB_GSI1_NAME?",
        "METRICS_PORT has no effect: metrics are served at /metrics of BROKER_PORT",
    ] {
        assert!(log.contains(text), "{text} is not in {log}");
    }
    assert!(!log.contains("UNRELATED"), "{log}");
}

#[actix_web::test]
async fn the_health_check_asks_the_address_that_is_bound() {
    let broker = Broker::start(&[("BROKER_STORE", "memory"), ("BROKER_HOST", "127.0.0.2")]).await;
    let port = broker.address.port().to_string();
    for (host, is_healthy) in [("127.0.0.2", true), ("0.0.0.0", false)] {
        let mut check = program(&["healthcheck"]);
        check.envs([("BROKER_HOST", host), ("BROKER_PORT", &port)]);
        assert_eq!(output_of(check).await.status.success(), is_healthy, "{host}");
    }
}

/// The store accepts connections and never answers, so the start takes until it is stopped.
#[actix_web::test]
async fn a_signal_ends_the_start_also_of_the_first_process_of_a_container() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let output = tempfile::NamedTempFile::new().unwrap();
    let mut command = program(&[]);
    command.envs([("DDB_ENDPOINT_URL", url.as_str()), ("CSP_MODE", "sim")]);
    let mut process = Process::spawn(&mut command, output.path());
    // The system delivers to process 1 only the signals that it catches.
    let catches_signal = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).ok()?;
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
        let caught = u64::from_str_radix(caught.trim(), 16).ok()?;
        (caught & (1 << 14) != 0).then_some(())
    };
    eventually("SIGTERM is caught", async || catches_signal()).await;
    let _connected = tokio::task::spawn_blocking(move || listener.accept().unwrap()).await.unwrap();
    assert!(process.terminate().await.success());
}
