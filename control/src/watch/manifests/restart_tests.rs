//! An agent that starts finds in force what was in force when the last one ended.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::tests::{POD, POLICY_IN_TIER, TIER, folder, refused, started};
use super::*;
use crate::model::{Policy, TierOf};

/// The one policy that is in force.
#[track_caller]
fn policy(cluster: &Cluster) -> &Policy {
    assert_eq!(cluster.policies.len(), 1);
    cluster.policies.values().next().unwrap()
}

#[test]
fn a_policy_that_is_wrong_when_the_agent_starts_stays_as_it_was() {
    let (directory, mut folder) = folder();
    let file = directory.path().join("policy.yaml");
    fs::write(directory.path().join("tier.yaml"), TIER).unwrap();
    fs::write(&file, POLICY_IN_TIER.replace("priority: 5", "priority: 6")).unwrap();
    folder.scan().unwrap();
    fs::write(&file, POLICY_IN_TIER).unwrap();
    let good = folder.scan().unwrap().0;
    for wrong in [
        POLICY_IN_TIER.replace("tier: gold", "teir: gold"),
        POLICY_IN_TIER.replace("tier: gold", "tier: silver"),
        format!("{POLICY_IN_TIER}---\n: {{"),
    ] {
        fs::write(&file, format!("{wrong}---\n{POD}")).unwrap();
        // Another start, with nothing mended, changes nothing either.
        for _ in 0..2 {
            let (cluster, errors) = started(&directory).scan().unwrap();
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert_eq!(policy(&cluster), policy(&good), "{wrong}");
            let is_read = !wrong.contains(": {\n");
            assert!(cluster.pods.len() == 1 || !is_read, "all others are in force");
        }
    }
    fs::write(&file, POLICY_IN_TIER.replace("priority: 5", "priority: 7")).unwrap();
    let (cluster, errors) = started(&directory).scan().unwrap();
    assert!(errors.is_empty() && policy(&cluster) != policy(&good));
}

#[test]
fn what_was_deleted_while_no_agent_ran_is_gone() {
    let (directory, mut folder) = folder();
    let (policy, pod) = (directory.path().join("a.yaml"), directory.path().join("b.yaml"));
    fs::write(&policy, format!("{TIER}---\n{POLICY_IN_TIER}")).unwrap();
    fs::write(&pod, POD).unwrap();
    folder.scan().unwrap();
    fs::write(&policy, TIER).unwrap();
    fs::remove_file(&pod).unwrap();
    let (cluster, errors) = started(&directory).scan().unwrap();
    assert_eq!(errors, []);
    assert_eq!((cluster.tiers.len(), cluster.policies.len(), cluster.pods.len()), (1, 0, 0));
    fs::remove_file(&policy).unwrap();
    assert_eq!(*started(&directory).scan().unwrap().0, Cluster::default());
    assert_eq!(fs::read_dir(directory.path().join("last-good")).unwrap().count(), 0);
}

#[test]
fn a_tier_that_is_gone_stays_for_its_policies_over_a_restart() {
    let (directory, mut folder) = folder();
    let tier = directory.path().join("tier.yaml");
    fs::write(&tier, TIER).unwrap();
    fs::write(directory.path().join("policy.yaml"), POLICY_IN_TIER).unwrap();
    folder.scan().unwrap();
    fs::remove_file(&tier).unwrap();
    for _ in 0..3 {
        let (cluster, errors) = started(&directory).scan().unwrap();
        assert_eq!(refused(&errors).len(), 1, "{errors:?}");
        assert_eq!(policy(&cluster).tier, TierOf::Named("gold".into()));
    }
}

#[test]
fn what_was_wrong_from_the_first_is_not_in_force_after_a_restart_either() {
    let (directory, mut folder) = folder();
    let wrong = POLICY_IN_TIER.replace("tier: gold", "teir: gold");
    fs::write(directory.path().join("a.yaml"), format!("{wrong}---\n{POD}")).unwrap();
    folder.scan().unwrap();
    let (cluster, errors) = started(&directory).scan().unwrap();
    assert_eq!((cluster.policies.len(), cluster.pods.len(), errors.len()), (0, 1, 1));
}

#[test]
fn nobody_starts_from_a_guess() {
    let (directory, mut folder) = folder();
    let file = directory.path().join("policy.yaml");
    fs::write(&file, format!("{TIER}---\n{POLICY_IN_TIER}")).unwrap();
    let good = folder.scan().unwrap().0;
    let record = directory.path().join("last-good/policy.yaml");
    let whole = fs::read_to_string(&record).unwrap();
    assert_eq!(whole.lines().count(), 2);
    fs::write(&record, &whole[..whole.len() - 7]).unwrap();
    fs::write(&file, POLICY_IN_TIER.replace("tier: gold", "teir: gold")).unwrap();
    let error = started(&directory).scan().unwrap_err().to_string();
    assert!(error.contains("spec.teir") && error.contains("last-good/policy.yaml"), "{error}");
    fs::write(&file, format!("{TIER}---\n{POLICY_IN_TIER}")).unwrap();
    let (cluster, errors) = started(&directory).scan().unwrap();
    assert_eq!((cluster, errors), (good, vec![]), "nothing needs to be remembered");
    assert_eq!(fs::read_to_string(&record).unwrap(), whole);
}
