//! Many who wait, on several replicas. In a program of its own, because it takes the whole machine.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use broker_actors::ports::{Coordination as _, SandboxStore as _};
use broker_actors::testing::ModelStore;
use futures_util::future::join_all;
use reqwest::Client;
use test_support::{ApiClient, Broker, CspSim, DynamoServer, TRACK_TOKEN, dynamo_store, eventually, read_answer};
use tokio::time::sleep;

async fn waiting(app: &ApiClient) -> u64 {
    app.get_admin("/v1/admin/queue").await.body["waiting"].as_u64().unwrap()
}

/// A student whose client asks again, at another replica, until it has a sandbox.
async fn student(http: Client, replicas: Arc<Vec<String>>, number: usize) -> String {
    let track = format!("student-{number}");
    for attempt in 0.. {
        let url = &replicas[(number + attempt) % replicas.len()];
        let request = http.post(format!("{url}/v1/allocate")).bearer_auth(TRACK_TOKEN);
        let sent = request.header("X-Track-ID", &track).header("Prefer", "wait=50").send().await;
        let answer = match sent {
            Ok(response) => read_answer(response).await,
            Err(_) => {
                sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        match answer.status.as_u16() {
            200 | 201 => return answer.sandbox_id().to_owned(),
            503 => sleep(Duration::from_millis(200)).await,
            _ => panic!("{answer:?}"),
        }
    }
    unreachable!("a student asks for ever")
}

#[actix_web::test]
async fn i11_a_thousand_keep_their_ranks_when_a_replica_is_killed() {
    const FIRST: usize = 300;
    const ALL: usize = 1000;
    let (server, csp) = (DynamoServer::start().await, CspSim::start(0).await);
    let store = dynamo_store(server.dynamo_client()).await;
    let csp_settings = csp.settings();
    let mut replicas = Vec::new();
    for _ in 0..3 {
        replicas.push(Broker::on_server(&server, &csp_settings).await);
    }
    let urls = Arc::new(replicas.iter().map(|replica| format!("http://{}", replica.address)).collect::<Vec<_>>());
    let http = test_support::http_client();
    let join = |number| actix_web::rt::spawn(student(http.clone(), Arc::clone(&urls), number));
    let mut students: Vec<_> = (0..FIRST).map(join).collect();
    let all_wait = async |count: usize| {
        for _ in 0..4 {
            let found = tokio::time::timeout(Duration::from_secs(30), async {
                while waiting(&alive(&urls).await).await != count as u64 {
                    sleep(Duration::from_millis(200)).await;
                }
            });
            if found.await.is_ok() {
                return;
            }
        }
        panic!("{count} do not wait");
    };
    all_wait(FIRST).await;
    students.extend((FIRST..ALL).map(join));
    all_wait(ALL).await;
    let killed = fastrand::usize(..replicas.len());
    replicas[killed].process.kill();
    // Those of the dead replica are passed over until they are back, and have their old ranks then.
    sleep(Duration::from_secs(16)).await;
    all_wait(ALL).await;

    for url in urls.iter().enumerate().filter(|(number, _)| *number != killed).map(|(_, url)| url) {
        let expected: BTreeSet<_> = (0..FIRST).map(|number| format!("student-{number}")).collect();
        // A student that asks again is absent for a moment.
        eventually(&format!("the first are first at {url} after {killed} was killed (I11)"), async || {
            let queue = client(url).get_admin("/v1/admin/queue").await.body;
            let first = queue["tickets"].as_array().unwrap().iter().take(FIRST).map(|ticket| &ticket["track_id"]);
            let first: BTreeSet<_> = first.map(|track| track.as_str().unwrap().to_owned()).collect();
            (first == expected).then_some(())
        })
        .await;
    }
    for number in 1..=ALL as u32 {
        assert!(store.create(&ModelStore::sandbox(number)).await.unwrap());
    }
    store.add_supply(ALL as u64).await.unwrap();
    let sandboxes: BTreeSet<_> = join_all(students).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(sandboxes.len(), ALL, "I1: no two have one sandbox, and no ticket is lost; {killed} was killed");
}

/// A client of a replica that answers.
async fn alive(urls: &[String]) -> ApiClient {
    for url in urls.iter().rev() {
        if test_support::http_client().get(format!("{url}/healthz")).send().await.is_ok() {
            return client(url);
        }
    }
    panic!("no replica answers");
}

fn client(url: &str) -> ApiClient {
    let address = url.strip_prefix("http://").unwrap().parse().unwrap();
    ApiClient::new(address, TRACK_TOKEN, test_support::ADMIN_TOKEN)
}
