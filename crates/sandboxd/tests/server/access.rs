//! Who is let in, and which sandbox is meant.

use forge_sandboxd::{Server, ServerError, StateError};
use pretty_assertions::assert_eq;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::stage::{answer, config, stage};

#[tokio::test]
async fn nothing_is_answered_without_the_key() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let routes = [
        (Method::GET, "/sandboxes"),
        (Method::POST, "/sandboxes"),
        (Method::GET, "/v1/namespaces/default/sandboxes"),
        (Method::POST, "/api/v1/processes/run"),
        (Method::GET, "/api/v1/files?path=/etc/passwd"),
        (Method::POST, "/platform/v1/keys/introspect"),
        (Method::OPTIONS, "/sandboxes"),
        (Method::GET, "/nowhere"),
    ];
    for (method, path) in routes {
        for key in ["", "Bearer wrong", "Bearer ", "Basic test_key", "Bearer test_key2"] {
            let url = format!("{}{path}", stage.server.url());
            let mut request = stage.http.request(method.clone(), url);
            request = request.header("x-tensorlake-sandbox-id", &sandbox.id);
            if !key.is_empty() {
                request = request.header("authorization", key);
            }
            let (status, body) = answer(request.send().await.unwrap()).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path} {key:?}");
            assert_eq!(body["code"], "UNAUTHORIZED");
        }
    }
    stage.end().await;
}

#[tokio::test]
async fn a_sandbox_is_found_by_its_id_and_name_in_header_host_and_path() {
    let stage = stage().await;
    let sandbox = stage.create(json!({"name": "Web-1"})).await;
    for name in [sandbox.id.as_str(), "Web-1"] {
        let by_header =
            stage.request(Method::GET, "/api/v1/health").header("x-tensorlake-sandbox-id", name);
        let by_host =
            stage.request(Method::GET, "/api/v1/health").header("host", format!("{name}.local"));
        for request in [by_header, by_host] {
            let (status, body) = answer(request.send().await.unwrap()).await;
            assert_eq!((status, body), (StatusCode::OK, json!({"healthy": true})), "{name}");
        }
        for prefix in ["", "/v1/namespaces/default"] {
            let (status, body) = stage.get(&format!("{prefix}/sandboxes/{name}")).await;
            assert_eq!((status, &body["id"]), (StatusCode::OK, &json!(sandbox.id)), "{prefix}");
        }
    }
    let (status, _) = stage.get(&format!("/v1/namespaces/other/sandboxes/{}", sandbox.id)).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    stage.end().await;
}

#[tokio::test]
async fn what_names_no_sandbox_is_told_so() {
    let stage = stage().await;
    let (status, body) = stage.get("/api/v1/health").await;
    assert_eq!((status, &body["code"]), (StatusCode::BAD_REQUEST, &json!("MISSING_SANDBOX_ID")));
    let unknown = stage.request(Method::GET, "/api/v1/health").header("host", "nobody.local");
    let (status, body) = answer(unknown.send().await.unwrap()).await;
    assert_eq!((status, &body["code"]), (StatusCode::NOT_FOUND, &json!("SANDBOX_NOT_FOUND")));
    let sandbox = stage.create(json!({})).await;
    let port = sandbox.request(Method::GET, "/health").header("x-tensorlake-sandbox-port", "8080");
    assert_eq!(answer(port.send().await.unwrap()).await.0, StatusCode::NOT_IMPLEMENTED);
    stage.end().await;
}

#[tokio::test]
async fn the_older_and_the_newer_http_are_both_spoken() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let url = format!("{}/api/v1/health", stage.server.url());
    let request = client.get(url).bearer_auth(&stage.key);
    let request = request.header("x-tensorlake-sandbox-id", &sandbox.id);
    let response = request.send().await.unwrap();
    assert_eq!(response.version(), reqwest::Version::HTTP_2);
    assert_eq!(response.status(), StatusCode::OK);
    stage.end().await;
}

#[tokio::test]
async fn two_servers_do_not_share_a_directory() {
    let stage = stage().await;
    let error = Server::start(config(stage.state.path())).await.unwrap_err();
    assert!(matches!(error, ServerError::State(StateError::InUse(_))), "{error:?}");
    stage.end().await;
}
