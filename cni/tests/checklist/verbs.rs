//! What each verb asks of the agent and answers to the runtime.

use std::path::Path;
use std::process::Command;

use seine_cni::v1;
use serde_json::{Value, json};

use crate::calls::{NO_SOCKET, call, call_agent, config, netns, with};
use crate::fake_agent::{Asked, Behaviour, FakeAgent, attachment};

const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

fn serve() -> FakeAgent {
    FakeAgent::start(Behaviour::Serve)
}

fn refused(command: &str, config: &Value) -> u64 {
    let done = call(command, config).run().unwrap();
    assert!(!done.success, "{}", done.stdout);
    done.code()
}

#[test]
fn add_needs_no_arguments_and_no_path() {
    let agent = serve();
    assert!(call_agent("ADD", &agent).run().unwrap().success);
    let request = v1::AttachRequest {
        container_id: "c1".into(),
        interface: "eth0".into(),
        netns: netns(),
        network: "seine".into(),
        ..Default::default()
    };
    assert_eq!(agent.asked(), [Asked::Add(request)]);
}

#[test]
fn add_tells_the_agent_which_pod_it_is_for() {
    let agent = serve();
    assert!(call_agent("ADD", &agent).pod("default", "web-0").run().unwrap().success);
    let [Asked::Add(request)] = &agent.asked()[..] else { panic!("{:?}", agent.asked()) };
    assert_eq!((&*request.pod_namespace, &*request.pod_name), ("default", "web-0"));
}

#[test]
fn the_result_speaks_the_version_of_the_input() {
    let agent = serve();
    for version in VERSIONS {
        let result = call("ADD", &config(version, &agent.socket())).run().unwrap().json;
        let old = version < "1.0.0";
        let mut ips = json!([
            {"address": "10.10.1.2/24", "gateway": "10.10.1.1", "interface": 1},
            {"address": "fd00:10:1::2/64", "gateway": "fd00:10:1::1", "interface": 1},
        ]);
        let mut interfaces = json!([
            {"name": "web-0-1a2b", "mac": "02:42:0a:0a:01:02"},
            {"name": "eth0", "mac": "02:42:0a:0a:01:02", "sandbox": netns()},
        ]);
        if old {
            (ips[0]["version"], ips[1]["version"]) = (json!("4"), json!("6"));
        }
        if version == "1.1.0" {
            (interfaces[0]["mtu"], interfaces[1]["mtu"]) = (json!(1450), json!(1450));
        }
        let expected = json!({
            "cniVersion": version,
            "interfaces": interfaces,
            "ips": ips,
            "routes": [
                {"dst": "0.0.0.0/0", "gw": "10.10.1.1"},
                {"dst": "::/0", "gw": "fd00:10:1::1"},
            ],
        });
        assert_eq!(result, expected);
    }
}

#[test]
fn dns_of_the_configuration_is_passed_through() {
    let agent = serve();
    let dns = json!({"nameservers": ["10.96.0.10"], "search": ["svc.cluster.local"]});
    let config = with(config("1.1.0", &agent.socket()), "dns", dns.clone());
    assert_eq!(call("ADD", &config).run().unwrap().json["dns"], dns);
    assert_eq!(call_agent("ADD", &agent).run().unwrap().json.get("dns"), None);
}

#[test]
fn keys_of_other_plugins_are_left_alone() {
    let agent = serve();
    let mut config = config("1.1.0", &agent.socket());
    config["runtimeConfig"] = json!({"portMappings": []});
    config["args"] = json!({"cni": {"labels": []}});
    config["cni.dev/valid-attachments"] = json!([]);
    config["capabilities"] = json!({"bandwidth": true});
    config["ipam"] = json!({});
    config["something"] = json!(1);
    for command in ["ADD", "DEL", "STATUS"] {
        let done = call(command, &config).run().unwrap();
        assert!(done.success, "{command}: {}", done.stdout);
    }
    let config = with(config, "prevResult", json!({"cniVersion": "1.1.0", "something": 1}));
    for command in ["DEL", "CHECK", "STATUS"] {
        let done = call(command, &config).run().unwrap();
        assert!(done.success, "{command}: {}", done.stdout);
    }
}

#[test]
fn del_needs_no_previous_result_and_says_nothing() {
    let agent = serve();
    for version in VERSIONS {
        let config = config(version, &agent.socket());
        for previous in [json!(null), json!({}), json!({"ips": "nonsense"})] {
            let done = call("DEL", &with(config.clone(), "prevResult", previous)).run().unwrap();
            assert!(done.success, "{}", done.stdout);
            assert_eq!(done.stdout, "");
        }
    }
}

#[test]
fn del_of_a_namespace_that_is_gone_reaches_the_agent_without_it() {
    // Nor may the agent take its own namespace for the Pod's.
    for path in ["", "/nonexistent", "/proc/self/ns/net"] {
        let agent = serve();
        let done = call_agent("DEL", &agent).variable("CNI_NETNS", path).run().unwrap();
        assert!(done.success, "{}", done.stdout);
        let [Asked::Del(request)] = &agent.asked()[..] else { panic!("{:?}", agent.asked()) };
        assert_eq!((&*request.container_id, &*request.netns), ("c1", ""));
    }
}

#[test]
fn del_under_a_configuration_that_add_refuses_still_detaches() {
    let agent = serve();
    let delegated = with(config("1.1.0", &agent.socket()), "ipam", json!({"type": "host-local"}));
    assert_eq!(refused("ADD", &delegated), 2);
    assert!(call("DEL", &delegated).run().unwrap().success);
    assert!(matches!(agent.asked()[..], [Asked::Del(_)]));
}

#[test]
fn check_is_refused_before_0_4_0() {
    for version in ["0.3.0", "0.3.1"] {
        assert_eq!(refused("CHECK", &config(version, Path::new(NO_SOCKET))), 1);
    }
}

#[test]
fn check_needs_the_result_of_add() {
    let config = config("1.1.0", Path::new(NO_SOCKET));
    assert_eq!(refused("CHECK", &config), 7);
    for bad in [json!([]), json!({"ips": [{"address": "nonsense"}]}), json!({"routes": 1})] {
        assert_eq!(refused("CHECK", &with(config.clone(), "prevResult", bad)), 6);
    }
}

#[test]
fn check_takes_the_result_of_add_and_says_nothing() {
    for version in ["0.4.0", "1.0.0", "1.1.0"] {
        let agent = serve();
        let config = config(version, &agent.socket());
        let result = call("ADD", &config).run().unwrap().json;
        let done = call("CHECK", &with(config, "prevResult", result)).run().unwrap();
        assert!(done.success, "{}", done.stdout);
        assert_eq!(done.stdout, "");

        let mut expected = attachment(&netns());
        if version != "1.1.0" {
            expected.interfaces.iter_mut().for_each(|interface| interface.mtu = 0);
        }
        let [_, Asked::Check(request)] = &agent.asked()[..] else { panic!("{:?}", agent.asked()) };
        assert_eq!(request.expected, Some(expected));
        assert_eq!(request.attachment.as_ref().unwrap().container_id, "c1");
    }
}

#[test]
fn status_is_refused_before_1_1_0() {
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0"] {
        assert_eq!(refused("STATUS", &config(version, Path::new(NO_SOCKET))), 1);
    }
}

#[test]
fn status_needs_nothing_but_the_verb() {
    let agent = serve();
    let done = call_agent("STATUS", &agent).run().unwrap();
    assert!(done.success, "{}", done.stdout);
    assert_eq!((&*done.stdout, agent.asked()), ("", vec![Asked::Status]));
}

#[test]
fn add_and_del_ask_one_question_each() {
    let agent = serve();
    assert!(call_agent("ADD", &agent).run().unwrap().success);
    assert!(call_agent("DEL", &agent).run().unwrap().success);
    assert!(matches!(agent.asked()[..], [Asked::Add(_), Asked::Del(_)]), "{:?}", agent.asked());
}

#[test]
fn gc_is_refused_before_1_1_0() {
    let config =
        with(config("1.0.0", Path::new(NO_SOCKET)), "cni.dev/valid-attachments", json!([]));
    assert_eq!(refused("GC", &config), 1);
}

#[test]
fn gc_needs_the_path() {
    let agent = serve();
    let done = call_agent("GC", &agent).without("CNI_PATH").run().unwrap();
    assert!(done.code() == 4 && done.message().contains("CNI_PATH"), "{}", done.stdout);
}

#[test]
fn gc_without_its_list_removes_nothing() {
    let agent = serve();
    assert_eq!(refused("GC", &config("1.1.0", &agent.socket())), 7);
    assert_eq!(agent.asked(), []);
}

#[test]
fn gc_is_refused_and_says_so() {
    let agent = serve();
    let done = call_agent("GC", &agent).run().unwrap();
    assert!(!done.success);
    assert_eq!(done.code(), 110);
    assert!(done.message().contains("GC is not served yet"), "{}", done.stdout);
    assert_eq!(agent.asked(), []);
}

#[test]
fn version_echoes_its_input_without_an_agent() {
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0", "9.9.9"] {
        let done = call("VERSION", &json!({"cniVersion": version})).run().unwrap();
        assert!(done.success, "{}", done.stdout);
        assert_eq!(done.json, json!({"cniVersion": version, "supportedVersions": VERSIONS}));
    }
}

#[test]
fn version_does_not_wait_for_input() {
    for stdin in ["", "{}", "\n"] {
        let done = call("VERSION", &json!({})).stdin(stdin.as_bytes()).run().unwrap();
        assert!(done.success, "{}", done.stdout);
        assert_eq!(done.json["cniVersion"], "1.1.0");
    }
    assert_eq!(call("VERSION", &json!({})).stdin(b"{").run().unwrap().code(), 6);
}

#[test]
fn the_plugin_explains_itself_and_its_codes() {
    let run = |argument: &str| {
        let plugin = Command::new(env!("CARGO_BIN_EXE_seine-cni")).arg(argument).output().unwrap();
        assert!(plugin.status.success());
        String::from_utf8(plugin.stdout).unwrap()
    };
    let help = run("--help");
    for code in seine_cni::Code::ALL {
        assert!(help.contains(&format!(" {}  {}", code.number(), code.meaning())), "{help}");
    }
    assert!(run("--version").starts_with("seine-cni "));
}
