//! Where the scheduler puts the workers of a pool: near the data, across or within the zones, on nodes of their own.

use k8s_openapi::api::core::v1::{
    Affinity, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinity,
    PodAffinityTerm, PodAntiAffinity, PreferredSchedulingTerm, TopologySpreadConstraint,
    WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use sluice_crds::worker_pool::{AntiAffinity, DataAffinity, LocalityHint, PlacementSpec, ZonePolicy};

use super::labels;

/// Nodes that reach some data: those that match one of the terms.
pub type NodeSelectorTerms = Vec<NodeSelectorTerm>;

/// Most terms of a node affinity: beyond, claims are left to the scheduler, which heeds the affinity of their volumes
/// by itself.
pub const MAX_TERMS: usize = 64;
/// A label that no node has.
const NOWHERE: &str = "sluice.dev/nowhere";
/// Weight of the wish that workers of a packed pool share a zone; more than that of being apart within it.
const PACK_WEIGHT: i32 = 100;
/// Weight of the wish that workers of a pool do not share a node.
const APART_WEIGHT: i32 = 50;

/// The affinity of the workers of `pool`. `claims` holds where each mounted claim can be reached, where that is bounded;
/// `same_node` is whether they must share a node.
pub fn affinity(
    pool: &str,
    placement: &PlacementSpec,
    claims: &[NodeSelectorTerms],
    same_node: bool,
) -> Option<Affinity> {
    let affinity = Affinity {
        node_affinity: node_affinity(placement, claims),
        pod_affinity: pod_affinity(pool, placement.zones, same_node),
        pod_anti_affinity: pod_anti_affinity(pool, placement.anti_affinity),
    };
    (affinity != Affinity::default()).then_some(affinity)
}

/// How the workers of `pool` are spread. Zones are a wish: where nodes have no zone, or one has no room, pods run anyway.
pub fn spread(pool: &str, zones: ZonePolicy) -> Option<Vec<TopologySpreadConstraint>> {
    let selector = match zones {
        ZonePolicy::Spread => labels::selector(labels::workers_of(pool)),
        // Counts no pod. Without any constraint the scheduler applies its default one to the pods of a Service, which
        // spreads them over the zones.
        ZonePolicy::Pack => LabelSelector {
            match_labels: Some(labels::workers_of(pool)),
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: labels::POOL.to_owned(),
                operator: "DoesNotExist".to_owned(),
                values: None,
            }]),
        },
        ZonePolicy::Any => return None,
    };
    Some(vec![TopologySpreadConstraint {
        max_skew: 1,
        topology_key: labels::ZONE.to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(selector),
        ..TopologySpreadConstraint::default()
    }])
}

fn node_affinity(placement: &PlacementSpec, claims: &[NodeSelectorTerms]) -> Option<NodeAffinity> {
    let hints = hints(&placement.locality);
    match placement.data_affinity {
        DataAffinity::Ignore => None,
        DataAffinity::Preferred => preferred(placement.weight, claims, &hints),
        DataAffinity::Required => required(claims, &hints),
    }
}

/// A term each: a node scores by every datum that it reaches.
fn preferred(weight: u32, claims: &[NodeSelectorTerms], hints: &NodeSelectorTerms) -> Option<NodeAffinity> {
    let mut terms: Vec<PreferredSchedulingTerm> = Vec::new();
    for preference in claims.iter().flatten().chain(hints) {
        // Claims of one node ask for the same: its weight counts once for each, which the API server takes.
        terms.push(PreferredSchedulingTerm {
            weight: i32::try_from(weight).unwrap_or(100),
            preference: preference.clone(),
        });
    }
    terms.truncate(MAX_TERMS);
    if !terms.is_empty() {
        terms.extend(counterweight(weight));
    }
    (!terms.is_empty()).then_some(NodeAffinity {
        preferred_during_scheduling_ignored_during_execution: Some(terms),
        required_during_scheduling_ignored_during_execution: None,
    })
}

/// A term that every node matches. The scheduler scales the scores of all nodes so that the best has 100, so equal
/// weights alone would say the same whatever they are; with this one, a node far from the data is `weight` points
/// behind one that is near.
fn counterweight(weight: u32) -> Option<PreferredSchedulingTerm> {
    let rest = 100_i32.saturating_sub(i32::try_from(weight).unwrap_or(100));
    let requirement = NodeSelectorRequirement {
        key: NOWHERE.to_owned(),
        operator: "DoesNotExist".to_owned(),
        values: None,
    };
    (rest > 0).then(|| PreferredSchedulingTerm {
        weight: rest,
        preference: NodeSelectorTerm {
            match_expressions: Some(vec![requirement]),
            match_fields: None,
        },
    })
}

/// A node must reach every claim, and be one of those that the hints name.
fn required(claims: &[NodeSelectorTerms], hints: &NodeSelectorTerms) -> Option<NodeAffinity> {
    let mut groups: Vec<&NodeSelectorTerms> = Vec::new();
    for group in std::iter::once(hints).chain(claims) {
        if !group.is_empty() && !groups.contains(&group) {
            groups.push(group);
        }
    }
    let (first, others) = groups.split_first()?;
    let mut terms = (*first).clone();
    for group in others {
        if terms.len().saturating_mul(group.len()) > MAX_TERMS {
            continue;
        }
        terms = terms
            .iter()
            .flat_map(|term| group.iter().map(move |other| both(term, other)))
            .collect();
    }
    Some(NodeAffinity {
        required_during_scheduling_ignored_during_execution: Some(NodeSelector {
            node_selector_terms: terms,
        }),
        preferred_during_scheduling_ignored_during_execution: None,
    })
}

/// What matches both terms.
fn both(one: &NodeSelectorTerm, other: &NodeSelectorTerm) -> NodeSelectorTerm {
    let joined = |one: &Option<Vec<NodeSelectorRequirement>>,
                  other: &Option<Vec<NodeSelectorRequirement>>| {
        let mut all = one.clone().unwrap_or_default();
        for requirement in other.iter().flatten() {
            if !all.contains(requirement) {
                all.push(requirement.clone());
            }
        }
        (!all.is_empty()).then_some(all)
    };
    NodeSelectorTerm {
        match_expressions: joined(&one.match_expressions, &other.match_expressions),
        match_fields: joined(&one.match_fields, &other.match_fields),
    }
}

/// One term for each hint.
pub fn hints<'a>(locality: impl IntoIterator<Item = &'a LocalityHint>) -> NodeSelectorTerms {
    let is = |key: &str, value: &str| NodeSelectorRequirement {
        key: key.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![value.to_owned()]),
    };
    let zone = |hint: &LocalityHint| {
        hint.zone.as_deref().map(|zone| NodeSelectorTerm {
            match_expressions: Some(vec![is(labels::ZONE, zone)]),
            match_fields: None,
        })
    };
    let node = |hint: &LocalityHint| {
        hint.node.as_deref().map(|node| NodeSelectorTerm {
            match_expressions: None,
            match_fields: Some(vec![is("metadata.name", node)]),
        })
    };
    locality
        .into_iter()
        .filter_map(|hint| zone(hint).or_else(|| node(hint)))
        .collect()
}

fn workers_within(pool: &str, topology_key: &str) -> PodAffinityTerm {
    PodAffinityTerm {
        label_selector: Some(labels::selector(labels::workers_of(pool))),
        topology_key: topology_key.to_owned(),
        ..PodAffinityTerm::default()
    }
}

fn weighted(weight: i32, pod_affinity_term: PodAffinityTerm) -> Option<Vec<WeightedPodAffinityTerm>> {
    Some(vec![WeightedPodAffinityTerm {
        weight,
        pod_affinity_term,
    }])
}

/// On the node of the workers of `pool`. The first of them may go anywhere.
pub fn with_workers(pool: &str) -> Vec<PodAffinityTerm> {
    vec![workers_within(pool, labels::HOSTNAME)]
}

/// Packing is a wish, not a demand: the pods of a zone that went dark must not keep their successors out of the others.
fn pod_affinity(pool: &str, zones: ZonePolicy, same_node: bool) -> Option<PodAffinity> {
    let packed = match zones {
        ZonePolicy::Spread | ZonePolicy::Any => None,
        ZonePolicy::Pack => weighted(PACK_WEIGHT, workers_within(pool, labels::ZONE)),
    };
    let affinity = PodAffinity {
        preferred_during_scheduling_ignored_during_execution: packed,
        required_during_scheduling_ignored_during_execution: same_node.then(|| with_workers(pool)),
    };
    (affinity != PodAffinity::default()).then_some(affinity)
}

fn pod_anti_affinity(pool: &str, anti_affinity: AntiAffinity) -> Option<PodAntiAffinity> {
    let term = workers_within(pool, labels::HOSTNAME);
    match anti_affinity {
        AntiAffinity::None => None,
        AntiAffinity::Preferred => Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: weighted(APART_WEIGHT, term),
            required_during_scheduling_ignored_during_execution: None,
        }),
        AntiAffinity::Required => Some(PodAntiAffinity {
            required_during_scheduling_ignored_during_execution: Some(vec![term]),
            preferred_during_scheduling_ignored_during_execution: None,
        }),
    }
}
