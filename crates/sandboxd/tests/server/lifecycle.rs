//! Sandboxes from their creation to their end.

use std::time::{Duration, Instant};

use pretty_assertions::assert_eq;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::stage::{eventually, stage};

#[tokio::test]
async fn what_was_asked_for_is_reported_and_unknown_fields_are_ignored() {
    let stage = stage().await;
    let sandbox = stage
        .create(json!({
            "name": "one", "image": "python:3.14", "entrypoint": ["sleep", "1"],
            "resources": {"cpus": 0.5, "memory_mb": 256, "disk_mb": 512}, "timeout_secs": 77,
            "auto_resume": false, "max_pending_secs": 3, "of_the_future": {"a": [1]},
        }))
        .await;
    let (status, mut body) = stage.get("/sandboxes/one").await;
    assert_eq!(status, StatusCode::OK);
    assert!(body["created_at"].take().as_u64().unwrap() > 1_700_000_000_000);
    let expected = json!({
        "id": sandbox.id, "namespace": "default", "name": "one",
        "status": "running", "image": "python:3.14", "entrypoint": ["sleep", "1"],
        "resources": {"cpus": 0.5, "memory_mb": 256, "disk_mb": 512}, "timeout_secs": 77,
        "network": {"allow_internet_access": false, "allow_out": [], "deny_out": []},
        "auto_resume": false, "allow_unauthenticated_access": false, "created_at": null,
        "sandbox_url": stage.server.url(),
    });
    assert_eq!(body, expected);
    stage.end().await;
}

#[tokio::test]
async fn an_empty_create_has_the_defaults() {
    let stage = stage().await;
    let created = stage.request(Method::POST, "/v1/namespaces/default/sandboxes").send().await;
    let body: Value = created.unwrap().json().await.unwrap();
    assert_eq!(body["status"], "running");
    assert_eq!(body["resources"], json!({"cpus": 1.0, "memory_mb": 1024, "disk_mb": 10240}));
    assert_eq!(body["timeout_secs"], 600);
    assert_eq!(body["network"]["allow_internet_access"], true);
    stage.end().await;
}

#[tokio::test]
async fn one_that_is_not_waited_for_is_pending_and_then_runs() {
    let stage = stage().await;
    let body = json!({"wait": false, "network": {"allow_internet_access": false}});
    let (status, body) = stage.ask(Method::POST, "/sandboxes", body).await;
    assert_eq!((status, &body["status"]), (StatusCode::ACCEPTED, &json!("pending")), "{body}");
    let path = format!("/sandboxes/{}", body["sandbox_id"].as_str().unwrap());
    eventually(async || (stage.get(&path).await.1["status"] == "running").then_some(())).await;
    stage.end().await;
}

#[tokio::test]
async fn one_that_is_ended_while_it_is_pending_never_runs() {
    let stage = stage().await;
    let (_, body) = stage.ask(Method::POST, "/sandboxes", json!({"wait": false})).await;
    let path = format!("/sandboxes/{}", body["sandbox_id"].as_str().unwrap());
    let (status, _) = stage.ask(Method::DELETE, &path, json!({})).await;
    assert_eq!(status, StatusCode::OK);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (_, body) = stage.get(&path).await;
    let said = (body["status"].as_str(), body["termination_reason"].as_str());
    assert!(matches!(said, (Some("terminated"), Some("cancelled" | "user_requested"))), "{body}");
    assert_eq!(std::fs::read_dir(stage.state.path().join("sessions")).unwrap().count(), 0);
    stage.end().await;
}

#[tokio::test]
async fn a_sandbox_that_cannot_be_made_is_said_to_have_failed_and_leaves_nothing() {
    let stage = crate::stage::stage_with(|mut config| {
        let helper = forge_sandboxd::HelperProgram::Path("/nowhere/helper".into());
        config.sandbox = config.sandbox.helper(helper);
        config
    })
    .await;
    let (status, body) = stage.ask(Method::POST, "/sandboxes", json!({"name": "x"})).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!((&body["status"], &body["reason"]), (&json!("failed"), &json!("StartupFailure")));
    assert!(body["error_details"].as_str().unwrap().contains("helper"), "{body}");
    // The name is free again.
    let (status, _) = stage.ask(Method::POST, "/sandboxes", json!({"name": "x"})).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let (_, list) = stage.get("/sandboxes").await;
    assert_eq!(list, json!({"sandboxes": []}));
    stage.end().await;
}

#[tokio::test]
async fn a_name_is_held_by_one_and_is_free_when_that_has_ended() {
    let stage = stage().await;
    let first = stage.create(json!({"name": "web"})).await;
    for taken in ["web", "WEB", first.id.as_str()] {
        let (status, body) = stage.ask(Method::POST, "/sandboxes", json!({"name": taken})).await;
        assert_eq!((status, &body["code"]), (StatusCode::CONFLICT, &json!("NAME_TAKEN")));
    }
    first.delete().await;
    let second = stage.create(json!({"name": "web"})).await;
    let (_, body) = stage.get("/sandboxes/web").await;
    assert_eq!(body["id"], json!(second.id));
    stage.end().await;
}

#[tokio::test]
async fn a_name_can_be_changed_and_given_later() {
    let stage = stage().await;
    let (one, other) = (stage.create(json!({})).await, stage.create(json!({"name": "b"})).await);
    let path = format!("/sandboxes/{}", one.id);
    let (status, body) = stage.ask(Method::PATCH, &path, json!({"name": "a"})).await;
    assert_eq!((status, &body["name"]), (StatusCode::OK, &json!("a")));
    let (status, _) = stage.ask(Method::PATCH, &path, json!({"name": "a"})).await;
    assert_eq!(status, StatusCode::OK);
    let (status, _) = stage.ask(Method::PATCH, &path, json!({"name": "b"})).await;
    assert_eq!(status, StatusCode::CONFLICT);
    let (status, body) =
        stage.ask(Method::PATCH, "/sandboxes/a", json!({"auto_resume": false})).await;
    assert_eq!((status, &body["auto_resume"]), (StatusCode::OK, &json!(false)));
    for bad in ["", "a b", "-a", "a/b", &"x".repeat(129)] {
        let (status, _) = stage.ask(Method::PATCH, &path, json!({"name": bad})).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{bad:?}");
    }
    for field in ["exposed_ports", "network", "resources", "allow_unauthenticated_access"] {
        let (status, _) = stage.ask(Method::PATCH, &path, json!({field: null, "name": "z"})).await;
        assert_eq!(status, StatusCode::NOT_IMPLEMENTED, "{field}");
    }
    assert_eq!(stage.get("/sandboxes/z").await.0, StatusCode::NOT_FOUND);
    other.delete().await;
    stage.end().await;
}

#[tokio::test]
async fn the_list_holds_what_lives_in_its_namespace() {
    let stage = stage().await;
    let (one, two) = (stage.create(json!({})).await, stage.create(json!({"name": "two"})).await);
    let elsewhere = "/v1/namespaces/other/sandboxes";
    let (status, _) = stage.ask(Method::POST, elsewhere, json!({})).await;
    assert_eq!(status, StatusCode::CREATED);
    let ids = async |path: &str| {
        let (_, body) = stage.get(path).await;
        let list = body["sandboxes"].as_array().unwrap().clone();
        list.iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids("/sandboxes").await, [one.id.clone(), two.id.clone()]);
    assert_eq!(ids("/v1/namespaces/default/sandboxes").await, [one.id.clone(), two.id.clone()]);
    assert_eq!(ids(elsewhere).await.len(), 1);
    one.delete().await;
    assert_eq!(ids("/sandboxes").await, [two.id]);
    stage.end().await;
}

#[tokio::test]
async fn ending_one_twice_is_as_good_as_once() {
    let stage = stage().await;
    let sandbox = stage.create(json!({})).await;
    let pid = sandbox.start(json!({"command": "sleep", "args": ["1000"]})).await;
    assert!(pid > 1);
    let began = Instant::now();
    sandbox.delete().await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    sandbox.delete().await;
    let (_, body) = stage.get(&format!("/sandboxes/{}", sandbox.id)).await;
    assert_eq!(body["termination_reason"], "user_requested");
    let (status, body) = sandbox.get("/health").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(body["code"], "SANDBOX_NOT_RUNNING");
    let (status, _) = stage.ask(Method::DELETE, "/sandboxes/nobody", json!({})).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    stage.end().await;
}

#[tokio::test]
async fn one_without_a_name_ends_with_its_time() {
    let stage = stage().await;
    let sandbox = stage.create(json!({"timeout_secs": 1})).await;
    let path = format!("/sandboxes/{}", sandbox.id);
    let ended = eventually(async || {
        let (_, body) = stage.get(&path).await;
        (body["status"] == "terminated").then_some(body)
    });
    assert_eq!(ended.await["termination_reason"], "timeout");
    stage.end().await;
}

#[tokio::test]
async fn limits_of_resources_hold_as_far_as_they_can() {
    let stage = stage().await;
    let resources = json!({"cpus": 1, "memory_mb": 64, "disk_mb": 64});
    let sandbox = stage.create(json!({"resources": resources})).await;
    let ran = sandbox.run("head -c 200000000 /dev/zero > /tmp/big").await;
    assert_ne!(ran.end["exit_code"], 0, "{ran:?}");
    let ran = sandbox.run("head -c 300000000 /dev/zero | tail -c 250000000 | wc -c").await;
    assert_ne!(ran.stdout, ["250000000"], "{ran:?}");
    assert_eq!(sandbox.shell("echo on").await, "on");
    stage.end().await;
}

#[tokio::test]
async fn without_internet_there_is_a_loopback_and_nothing_else() {
    let stage = stage().await;
    let (closed, open) = (
        stage.create(json!({})).await,
        stage.create(json!({"network": {"allow_internet_access": true}})).await,
    );
    let devices = "cat /proc/net/dev | grep -c :";
    assert_eq!(closed.shell(devices).await, "1");
    let host = std::fs::read_to_string("/proc/net/dev").unwrap();
    let expected = host.lines().filter(|line| line.contains(':')).count();
    assert_eq!(open.shell(devices).await, expected.to_string());
    stage.end().await;
}

#[tokio::test]
async fn what_is_not_supported_says_so() {
    let stage = stage().await;
    let sandbox = stage.create(json!({"name": "x"})).await;
    let id = &sandbox.id;
    let routes = [
        (Method::POST, format!("/sandboxes/{id}/copy?times=2")),
        (Method::POST, format!("/sandboxes/{id}/snapshot")),
        (Method::POST, format!("/v1/namespaces/default/sandboxes/{id}/snapshot")),
        (Method::POST, format!("/sandboxes/{id}/file_systems")),
        (Method::GET, "/snapshots".to_owned()),
        (Method::GET, "/sandbox-pools".to_owned()),
        (Method::GET, "/archived-sandboxes".to_owned()),
    ];
    for (method, path) in routes {
        let (status, body) = stage.ask(method, &path, json!({})).await;
        let said = (status, body["code"].as_str());
        assert_eq!(said, (StatusCode::NOT_IMPLEMENTED, Some("NOT_IMPLEMENTED")), "{path}");
    }
    for (method, path) in [
        (Method::POST, "/processes/1/restart"),
        (Method::GET, "/tunnels/tcp?port=80"),
        (Method::POST, "/blob/sign"),
    ] {
        let (status, _) = sandbox.ask(method, path, json!({})).await;
        assert_eq!(status, StatusCode::NOT_IMPLEMENTED, "{path}");
    }
    for body in [
        json!({"snapshot_id": "s"}),
        json!({"file_systems": [{}]}),
        json!({"exposed_ports": [80]}),
        json!({"resources": {"gpus": [{"count": 1, "model": "T4"}]}}),
        json!({"network": {"deny_out": ["10.0.0.0/8"]}}),
    ] {
        let (status, _) = stage.ask(Method::POST, "/sandboxes", body.clone()).await;
        assert_eq!(status, StatusCode::NOT_IMPLEMENTED, "{body}");
    }
    for (field, value) in
        [("name", json!("web")), ("restart", json!({})), ("health_check", json!({}))]
    {
        let body = json!({"command": "true", field: value});
        let (status, _) = sandbox.ask(Method::POST, "/processes", body).await;
        assert_eq!(status, StatusCode::NOT_IMPLEMENTED, "{field}");
    }
    stage.end().await;
}

#[tokio::test]
async fn the_vendors_command_is_told_who_it_is() {
    let stage = stage().await;
    let (status, body) = stage.ask(Method::POST, "/platform/v1/keys/introspect", json!({})).await;
    assert_eq!(status, StatusCode::OK);
    assert!(["id", "organizationId", "projectId"].iter().all(|field| body[*field].is_string()));
    stage.end().await;
}
