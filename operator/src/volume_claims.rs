//! The claims that a pool mounts: whether all its pods can mount them, and on which nodes.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume, PersistentVolumeClaim,
};
use sluice_crds::WorkerPoolSpec;

use crate::objects::affinity::NodeSelectorTerms;
use crate::objects::labels;

#[derive(Clone, Debug)]
pub struct MountedClaim {
    pub name: String,
    /// The field of the spec that names it, such as `dataVolumes[0]`.
    pub field: String,
    /// Whether pods write to it.
    pub writable: bool,
    pub claim: Option<Arc<PersistentVolumeClaim>>,
    pub volume: Option<Arc<PersistentVolume>>,
}

/// The claims that `spec` names; `claim` and `volume` find objects by name.
pub fn mounted(
    spec: &WorkerPoolSpec,
    claim: impl Fn(&str) -> Option<Arc<PersistentVolumeClaim>>,
    volume: impl Fn(&str) -> Option<Arc<PersistentVolume>>,
) -> Vec<MountedClaim> {
    let data = spec.data_volumes.iter().enumerate();
    let data = data.map(|(index, named)| (format!("dataVolumes[{index}]"), named, false));
    let sinks = spec.sink_volumes.iter().enumerate();
    let sinks = sinks.map(|(index, named)| (format!("sinkVolumes[{index}]"), named, true));
    data.chain(sinks)
        .map(|(field, named, writable)| {
            let claim = claim(&named.claim_name);
            let bound_to = claim
                .as_ref()
                .and_then(|claim| claim.spec.as_ref()?.volume_name.clone());
            MountedClaim {
                name: named.claim_name.clone(),
                field,
                writable,
                claim,
                volume: bound_to.and_then(|name| volume(&name)),
            }
        })
        .collect()
}

/// Why not all pods of a pool of `replicas` workers can mount `claims`, and what to do about it.
pub fn unmountable(claims: &[MountedClaim], replicas: u32) -> Option<String> {
    claims.iter().find_map(|claim| {
        let problem = claim.problem(replicas)?;
        Some(format!("spec.{}: claim `{}` {problem}", claim.field, claim.name))
    })
}

/// Whether only pods of one node can mount the claim at a time. `writable` is whether pods write to it.
pub fn is_of_one_node(claim: &PersistentVolumeClaim, writable: bool) -> bool {
    has_mode(claim, "ReadWriteOnce") && !has_shared_mode(claim, writable)
}

/// Whether all pods that mount `claims` must run on the same node.
pub fn of_one_node(claims: &[MountedClaim]) -> bool {
    claims.iter().any(|mounted| {
        let claim = mounted.claim.as_deref();
        claim.is_some_and(|claim| is_of_one_node(claim, mounted.writable))
    })
}

fn has_mode(claim: &PersistentVolumeClaim, mode: &str) -> bool {
    let modes = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref());
    modes.unwrap_or_default().iter().any(|has| has == mode)
}

/// Whether pods of any node can mount the claim at the same time.
fn has_shared_mode(claim: &PersistentVolumeClaim, writable: bool) -> bool {
    has_mode(claim, "ReadWriteMany") || (has_mode(claim, "ReadOnlyMany") && !writable)
}

/// The node selector terms of each claim that only some nodes can reach.
pub fn node_selector_terms(claims: &[MountedClaim]) -> Vec<NodeSelectorTerms> {
    claims
        .iter()
        .filter_map(MountedClaim::node_selector_terms)
        .collect()
}

impl MountedClaim {
    fn problem(&self, replicas: u32) -> Option<&'static str> {
        let Some(claim) = &self.claim else {
            return Some("does not exist: create it");
        };
        if claim.metadata.deletion_timestamp.is_some() {
            return Some("is being deleted: name another");
        }
        let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
        if phase == Some("Lost") {
            return Some("has lost its volume: name another");
        }
        if has_shared_mode(claim, self.writable) {
            return None;
        }
        if has_mode(claim, "ReadWriteOnce") {
            // Coordinators and replacement workers run on its node.
            let alone = replicas <= 1 || self.on_one_node();
            return (!alone).then_some(
                "is ReadWriteOnce and its volume is not bound to one node: use ReadWriteMany (to read, ReadOnlyMany \
                 will do), or one replica",
            );
        }
        if has_mode(claim, "ReadWriteOncePod") {
            return Some(
                "is ReadWriteOncePod, but coordinators mount it beside the workers: use ReadWriteMany",
            );
        }
        Some("can only be read: use ReadWriteMany")
    }

    fn node_selector_terms(&self) -> Option<NodeSelectorTerms> {
        let affinity = self.volume.as_ref()?.spec.as_ref()?.node_affinity.as_ref()?;
        let terms = &affinity.required.as_ref()?.node_selector_terms;
        (!terms.is_empty()).then(|| terms.clone())
    }

    /// Whether only one node can reach the volume. All pods run there then.
    fn on_one_node(&self) -> bool {
        let Some(reach) = self.node_selector_terms() else {
            return false;
        };
        let mut nodes = reach.iter().map(one_node);
        let first = nodes.next().flatten();
        first.is_some() && nodes.all(|node| node == first)
    }
}

/// Labels whose value is unique to a node: that of the kubelet, and those of drivers of local disks.
const NODE_LABELS: [&str; 3] = [
    labels::HOSTNAME,
    "topology.hostpath.csi/node",
    "topology.topolvm.io/node",
];

/// The one node that a term allows.
fn one_node(term: &NodeSelectorTerm) -> Option<&str> {
    let expressions = term.match_expressions.iter().flatten();
    let named = expressions.filter(|wanted| NODE_LABELS.contains(&wanted.key.as_str()));
    let fields = term.match_fields.iter().flatten();
    let named = named.chain(fields.filter(|wanted| wanted.key == "metadata.name"));
    named.into_iter().find_map(single_value)
}

fn single_value(wanted: &NodeSelectorRequirement) -> Option<&str> {
    match wanted.values.as_deref() {
        Some([value]) if wanted.operator == "In" => Some(value),
        _ => None,
    }
}
