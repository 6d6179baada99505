//! Long answers: rules, connections, audit records.

use seine_datapath_api::v1;
use tokio_stream::StreamExt;
use tonic::Code;

use crate::node::part;
use crate::node_with_two_pods;

#[tokio::test]
async fn rules_are_listed_with_what_they_have_decided() {
    let (mut node, session) = node_with_two_pods().await;
    let rules = (0..1500).map(|number| {
        let rule = v1::Rule {
            name: format!("acnp/{number}"),
            policy: "AntreaClusterNetworkPolicy:many".into(),
            direction: v1::rule::Direction::Ingress.into(),
            table: v1::rule::Table::AntreaPolicy.into(),
            rank: number,
            action: v1::rule::Action::Drop.into(),
            applied_to_groups: vec!["pods".into()],
            ..v1::Rule::default()
        };
        v1::Object { kind: Some(v1::object::Kind::Rule(rule)) }
    });
    let pods = v1::Group {
        name: "pods".into(),
        members: vec!["10.10.1.2".into()],
        ..v1::Group::default()
    };
    let rules = rules.chain([v1::Object { kind: Some(v1::object::Kind::Group(pods)) }]);
    let mode = v1::transaction_part::Mode::Delta;
    node.apply(vec![part(session, 2, mode, rules.collect())]).await.unwrap();
    let parts = node.client.list_rules(v1::ListRulesRequest {}).await.unwrap().into_inner();
    let parts: Vec<_> = parts.map(|part| part.unwrap().rules).collect().await;
    assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [1000, 500]);
    let rule = parts.iter().flatten().find(|rule| rule.name == "acnp/7").unwrap();
    assert_eq!((rule.rank, rule.sessions, rule.action()), (7, 0, v1::rule::Action::Drop));
}

#[tokio::test]
async fn the_connection_table_says_how_full_it_is() {
    let (mut node, _) = node_with_two_pods().await;
    let status = node.client.status(v1::StatusRequest {}).await.unwrap().into_inner();
    assert!(status.connections_max >= 1 << 17, "{status:?}");
    assert_eq!((status.connections_evicted, status.audit_lost), (0, 0));
    assert_eq!((status.name_addresses, status.name_addresses_max), (0, 1 << 14));
    let request = v1::ListConnectionsRequest { limit: 10, ..Default::default() };
    let mut parts = node.client.list_connections(request).await.unwrap().into_inner();
    let last = parts.next().await.unwrap().unwrap();
    assert_eq!(last.found, status.connections);
    let request = v1::ListConnectionsRequest { addresses: vec!["a".into()], ..Default::default() };
    let refusal = node.client.list_connections(request).await.unwrap_err();
    assert_eq!(refusal.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn audit_records_go_to_the_owner_of_the_session_alone() {
    let (mut node, session) = node_with_two_pods().await;
    let ask = |session| v1::FollowAuditRequest { session };
    let refusal = node.client.follow_audit(ask(session + 1)).await.unwrap_err();
    assert_eq!(refusal.code(), Code::FailedPrecondition);
    let mut parts = node.client.follow_audit(ask(session)).await.unwrap().into_inner();
    node.hello().await;
    let ended = parts.next().await.unwrap().unwrap_err();
    assert_eq!(ended.code(), Code::FailedPrecondition, "another session is in force");
    assert!(parts.next().await.is_none());
}
