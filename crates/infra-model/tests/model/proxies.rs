//! The proxy of the environment: used for servers elsewhere, never for one on this machine.

use std::process::Command;

use forge_infra_model::{GenaiModel, Provider};
use forge_scripted_model::{Answer, Script, ScriptedModel};
use pretty_assertions::assert_eq;

use crate::asked::{answered, config, request};

/// Says to the child where the server on this machine is.
const ON_THIS_MACHINE: &str = "FORGE_TEST_ON_THIS_MACHINE";

/// Servers that have no name in any network; only a proxy can know them.
const ELSEWHERE: &str = "http://model.invalid";

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "variables can be set for another process alone")]
async fn the_proxy_of_the_environment_is_asked_for_servers_elsewhere_and_never_for_the_loopback() {
    let script = || Script::new([Answer::text("ok")]);
    let proxy = ScriptedModel::start(script()).await.unwrap();
    let here = ScriptedModel::start(script()).await.unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "proxies::in_the_environment_of_a_proxy", "--ignored"]);
    child.env_clear().env("HTTP_PROXY", proxy.base_url()).env("http_proxy", proxy.base_url());
    child.env(ON_THIS_MACHINE, here.base_url());
    let output = tokio::task::spawn_blocking(move || child.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");

    let asked = |server: &ScriptedModel| -> Vec<String> {
        let requests = server.requests();
        requests.iter().map(|asked| asked.header("host").unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(asked(&proxy), ["model.invalid"; 4]);
    let port = here.base_url().rsplit(':').next().unwrap().to_owned();
    let (number, name) = (format!("127.0.0.1:{port}"), format!("localhost:{port}"));
    assert_eq!(asked(&here), [number.as_str(), name.as_str()].repeat(4));
}

#[tokio::test]
#[ignore = "needs the variables of a proxy; run by the test above in a process of its own"]
#[expect(clippy::disallowed_methods, reason = "the test above says where its server is")]
async fn in_the_environment_of_a_proxy() {
    let here = std::env::var(ON_THIS_MACHINE).unwrap();
    for provider in Provider::ALL {
        for base in [ELSEWHERE, &here, &here.replace("127.0.0.1", "localhost")] {
            let model = GenaiModel::new(config(provider, base)).unwrap();
            answered(&model, request("go")).await;
        }
    }
}
