//! What the runtime is told when a call cannot succeed.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::runtime::{Completed, Invocation};
use seine_cni::{CniError, Code};
use serde_json::{Value, json};

use crate::calls::{NO_SOCKET, call, call_agent, config, netns, with};
use crate::fake_agent::{Behaviour, FakeAgent, attachment};

/// Runs a call that must fail as CNI says, whatever the reason.
fn failure(call: &Invocation) -> Completed {
    let done = call.run().unwrap();
    assert!(!done.success, "{call:?} succeeded with {}", done.stdout);
    assert!(done.json["cniVersion"].is_string(), "{}", done.stdout);
    assert!(done.json["code"].is_u64(), "{}", done.stdout);
    assert!(!done.message().is_empty(), "{}", done.stdout);
    done
}

fn plain() -> Value {
    config("1.1.0", Path::new(NO_SOCKET))
}

#[test]
fn a_failure_is_one_json_object_on_stdout_and_a_status() {
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let done = failure(&call("ADD", &config(version, Path::new(NO_SOCKET))));
        assert_eq!(done.json["cniVersion"], version);
        assert!(done.json["details"].is_string());
        assert_eq!(done.stderr, "");
    }
    let agent = FakeAgent::start(Behaviour::Serve);
    assert!(call_agent("ADD", &agent).run().unwrap().success);
}

#[test]
fn an_unknown_verb_is_named() {
    let done = failure(&call("FOO", &plain()));
    assert_eq!(done.code(), 4);
    assert!(done.message().contains("CNI_COMMAND") && done.message().contains("FOO"));
}

#[test]
fn missing_variables_are_all_named() {
    let required: [(&str, &[&str]); 4] = [
        ("ADD", &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"]),
        ("DEL", &["CNI_CONTAINERID", "CNI_IFNAME"]),
        ("CHECK", &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"]),
        ("GC", &["CNI_PATH"]),
    ];
    for (command, names) in required {
        let mut none = call(command, &plain());
        for name in names {
            let done = failure(&call(command, &plain()).without(name));
            assert!(done.code() == 4 && done.message().contains(name), "{}", done.stdout);
            let empty = failure(&call(command, &plain()).variable(name, ""));
            assert!(empty.code() == 4 && empty.message().contains(name), "{}", empty.stdout);
            none = none.without(name);
        }
        let done = failure(&none);
        assert!(names.iter().all(|name| done.message().contains(name)), "{}", done.stdout);
    }
    let done = failure(&call("ADD", &config("1.0.0", Path::new(NO_SOCKET))).without("CNI_COMMAND"));
    assert!(done.code() == 4 && done.message().contains("CNI_COMMAND"), "{}", done.stdout);
    assert_eq!(done.json["cniVersion"], "1.0.0");
    assert!(done.stderr.contains("--help"), "{}", done.stderr);
}

#[test]
fn a_container_id_that_could_be_a_path_is_refused() {
    for id in ["-x", "a/b", ".", "..", "a b", "ä", &"a".repeat(256)] {
        let done = failure(&call("ADD", &plain()).variable("CNI_CONTAINERID", id));
        assert!(done.code() == 4 && done.message().contains("CNI_CONTAINERID"), "{}", done.stdout);
    }
}

#[test]
fn an_interface_name_that_the_kernel_would_refuse_is_refused() {
    for name in [".", "..", "a/b", "a:b", "a b", "a\nb", "sixteen-letters!"] {
        let done = failure(&call("ADD", &plain()).variable("CNI_IFNAME", name));
        assert!(done.code() == 4 && done.message().contains("CNI_IFNAME"), "{}", done.stdout);
    }
}

#[test]
fn stdin_that_is_no_json_object_is_refused() {
    for stdin in ["{", "[]", "\"1.1.0\"", "nonsense", "{} {}"] {
        let done = failure(&call("ADD", &plain()).stdin(stdin.as_bytes()));
        assert_eq!(done.code(), 6, "{stdin}: {}", done.stdout);
    }
    let endless = vec![b' '; 5 << 20];
    assert_eq!(failure(&call("ADD", &plain()).stdin(&endless)).code(), 5);
}

#[test]
fn a_network_name_that_could_be_a_path_is_refused() {
    for name in [json!(null), json!(""), json!("-n"), json!("a/b"), json!(7)] {
        let done = failure(&call("ADD", &with(plain(), "name", name)));
        assert!(done.code() == 7 && done.message().contains("name"), "{}", done.stdout);
    }
}

#[test]
fn a_version_of_cni_that_is_not_served_is_refused() {
    for version in [json!("9.9.9"), json!("0.2.0"), json!("1.1"), json!(null), json!(1)] {
        for command in ["ADD", "DEL", "CHECK", "STATUS", "GC"] {
            let done = failure(&call(command, &with(plain(), "cniVersion", version.clone())));
            assert_eq!(done.code(), 1, "{}", done.stdout);
            assert!(done.message().contains("incompatible CNI versions"), "{}", done.stdout);
        }
    }
}

#[test]
fn what_is_not_served_yet_is_refused_by_key_and_value() {
    let chained = with(plain(), "prevResult", json!({"ips": [{"address": "10.9.9.9/24"}]}));
    let done = failure(&call("ADD", &chained));
    assert_eq!(done.code(), 2);
    assert!(done.message().contains("prevResult") && done.message().contains("10.9.9.9/24"));
    let delegated = with(plain(), "ipam", json!({"type": "host-local"}));
    for command in ["ADD", "CHECK", "STATUS"] {
        let done = failure(&call(command, &delegated));
        assert_eq!(done.code(), 2, "{}", done.stdout);
        assert!(done.message().contains("ipam") && done.message().contains("host-local"));
    }
}

#[test]
fn a_value_that_cannot_be_is_refused() {
    for (key, value) in [("timeoutSeconds", json!(0)), ("agentSocket", json!("agent.sock"))] {
        let done = failure(&call("ADD", &with(plain(), key, value)));
        assert!(done.code() == 7 && done.message().contains(key), "{}", done.stdout);
    }
}

#[test]
fn codes_are_those_of_the_specification_or_ours() {
    let allowed = |code: u64| matches!(code, 1..=8 | 11 | 50 | 51) || code >= 100;
    let reserved = CniError { code: 42, message: "x".into(), details: String::new() };
    let behaviours = [
        Behaviour::Fail(CniError::new(Code::InterfaceTaken, "eth0 is there", "remove it")),
        Behaviour::Fail(reserved),
        Behaviour::Refuse(tonic::Code::Internal),
        Behaviour::Refuse(tonic::Code::Unimplemented),
        Behaviour::Refuse(tonic::Code::Unavailable),
        Behaviour::Refuse(tonic::Code::Unknown),
    ];
    for behaviour in behaviours {
        let agent = FakeAgent::start(behaviour.clone());
        for command in ["ADD", "DEL", "CHECK", "STATUS", "GC"] {
            let done = failure(&call_agent(command, &agent));
            assert!(allowed(done.code()), "{behaviour:?}: {}", done.stdout);
        }
    }
}

#[test]
fn the_agents_error_reaches_the_runtime_unchanged() {
    let error = CniError::new(Code::InterfaceTaken, "eth0 is there", "remove it");
    let agent = FakeAgent::start(Behaviour::Fail(error));
    for command in ["ADD", "DEL", "CHECK", "STATUS"] {
        let done = failure(&call_agent(command, &agent));
        assert_eq!(
            done.json,
            json!({
                "cniVersion": "1.1.0", "code": 101, "msg": "eth0 is there", "details": "remove it"
            })
        );
    }
    for code in [Code::NotAvailable, Code::NotAvailableLimited] {
        let agent = FakeAgent::start(Behaviour::Fail(CniError::new(code, "down", "wait")));
        assert_eq!(failure(&call_agent("STATUS", &agent)).code(), u64::from(code.number()));
    }
}

#[test]
fn without_its_agent_the_plugin_asks_to_be_tried_again() {
    let agent = FakeAgent::start(Behaviour::Serve);
    let calls = ["ADD", "DEL", "CHECK", "STATUS"].map(|command| call_agent(command, &agent));
    assert!(calls.iter().all(|call| call.run().unwrap().success));
    let socket = agent.socket();
    drop(agent);
    let codes = calls.each_ref().map(|call| {
        let done = failure(call);
        assert!(done.message().contains(socket.to_str().unwrap()), "{}", done.stdout);
        done.code()
    });
    assert_eq!(codes, [11, 11, 11, 50]);
}

#[test]
fn an_agent_that_leaves_in_the_middle_or_hangs_is_transient() {
    let agent = FakeAgent::start(Behaviour::Refuse(tonic::Code::Unavailable));
    assert_eq!(failure(&call_agent("ADD", &agent)).code(), 11);
    assert_eq!(failure(&call_agent("STATUS", &agent)).code(), 50);

    let agent = FakeAgent::start(Behaviour::Hang);
    let started = Instant::now();
    let impatient = with(config("1.1.0", &agent.socket()), "timeoutSeconds", json!(1));
    let done = failure(&call("ADD", &impatient));
    assert_eq!(done.code(), 11, "{}", done.stdout);
    assert!(done.message().contains("within 1 s"), "{}", done.stdout);
    assert!(started.elapsed() >= Duration::from_secs(1));
}

#[test]
fn something_else_on_the_socket_is_an_error_and_no_hang() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let closes = std::thread::spawn(move || drop(listener.accept().unwrap()));
    assert_eq!(failure(&call("ADD", &config("1.1.0", &path))).code(), 11);
    closes.join().unwrap();
}

#[test]
fn a_namespace_that_is_missing_or_none_is_refused() {
    for path in ["/nonexistent", "/proc/self/status", "/"] {
        let done = failure(&call("ADD", &plain()).variable("CNI_NETNS", path));
        assert_eq!(done.code(), 8, "{}", done.stdout);
        assert!(done.message().contains(path), "{}", done.stdout);
    }
    let done = failure(&call("ADD", &plain()).variable("CNI_NETNS", "run/netns/x"));
    assert!(done.code() == 4 && done.message().contains("CNI_NETNS"), "{}", done.stdout);
}

#[test]
fn the_plugins_own_namespace_is_refused() {
    let agent = FakeAgent::start(Behaviour::Serve);
    for command in ["ADD", "CHECK"] {
        let own = call_agent(command, &agent).variable("CNI_NETNS", "/proc/self/ns/net");
        assert_eq!(failure(&own).code(), 8);
    }
    assert_eq!(agent.asked(), [], "nothing may change, so nobody may be asked");
}

#[test]
fn an_attachment_that_no_result_can_hold_is_taken_back() {
    use crate::fake_agent::Asked;
    let mut made = attachment(&netns());
    made.ips[0].address = "10.10.1.2".into();
    let agent = FakeAgent::start(Behaviour::Attach(made));
    let done = failure(&call_agent("ADD", &agent));
    assert_eq!(done.code(), u64::from(Code::Protocol.number()), "{}", done.stdout);
    assert!(matches!(agent.asked()[..], [Asked::Add(_), Asked::Del(_)]), "{:?}", agent.asked());

    let silent = FakeAgent::start(Behaviour::SayNothing);
    let done = failure(&call_agent("ADD", &silent));
    assert_eq!(done.code(), u64::from(Code::Protocol.number()), "{}", done.stdout);
}
