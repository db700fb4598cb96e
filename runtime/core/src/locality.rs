//! Data locality of tasks: how near a worker is to the rows that a task reads. Locality is a preference. It chooses among
//! granted slots and never leaves one idle.

mod files;
mod preferred;

use std::collections::BTreeSet;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

pub use files::{FilesHash, MAX_TASKS_WITH_FILES, workers_by_files};
pub use preferred::{Holders, LocalityPolicy, preferred_workers};

/// Node and zone of a worker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLocation {
    /// Its node; `None` if unknown.
    pub node: Option<String>,
    /// The zone of the node; `None` if unknown.
    pub zone: Option<String>,
}

impl NodeLocation {
    /// Whether the node or the zone is known.
    pub fn is_known(&self) -> bool {
        self.node.is_some() || self.zone.is_some()
    }

    /// How near another worker is.
    pub fn level_for(&self, other: &Self) -> LocalityLevel {
        let is_same = |one: &Option<String>, other: &Option<String>| one.is_some() && one == other;
        if is_same(&self.node, &other.node) {
            LocalityLevel::Node
        } else if is_same(&self.zone, &other.zone) {
            LocalityLevel::Zone
        } else {
            LocalityLevel::Elsewhere
        }
    }

    /// Its node and its zone, as far as they are known, as the place of data.
    pub fn data(&self) -> DataLocality {
        DataLocality {
            nodes: self.node.iter().cloned().collect(),
            zones: self.zone.iter().cloned().collect(),
        }
    }
}

/// Nodes and zones that hold the rows of a table, as the query declares them. Empty: any worker will do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataLocality {
    /// Nodes that hold them.
    pub nodes: BTreeSet<String>,
    /// Zones that hold them.
    pub zones: BTreeSet<String>,
}

impl DataLocality {
    /// Whether every worker is as good as any other.
    pub fn is_anywhere(&self) -> bool {
        self.nodes.is_empty() && self.zones.is_empty()
    }

    /// The locality level of a worker at `location`.
    pub fn level_for(&self, location: &NodeLocation) -> LocalityLevel {
        let among = |names: &BTreeSet<String>, name: &Option<String>| {
            name.as_ref().is_some_and(|name| names.contains(name))
        };
        if among(&self.nodes, &location.node) {
            LocalityLevel::Node
        } else if among(&self.zones, &location.zone) {
            LocalityLevel::Zone
        } else {
            LocalityLevel::Elsewhere
        }
    }
}

/// How near a worker is to the data; the nearest level comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LocalityLevel {
    /// At the very worker that holds it.
    Worker,
    /// On a node that holds the data.
    Node,
    /// In a zone that holds the data.
    Zone,
    /// Neither, or not known.
    Elsewhere,
}

/// How many attempts ran at each locality level. Only attempts count whose stage has a declared data locality, or whose task
/// prefers the worker that holds most of its input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalityCounts {
    /// At the worker that holds most of their input.
    #[serde(default)]
    pub worker: u32,
    /// On a node that holds the data.
    pub node: u32,
    /// In a zone that holds the data.
    pub zone: u32,
    /// Elsewhere, as no worker near the data took attempts.
    pub no_worker_near: u32,
    /// Elsewhere, as the workers near the data had no free slot, or the task had just failed there.
    pub near_workers_busy: u32,
    /// Attempts of scans at the worker that reads their files in every query. They run anywhere as well.
    #[serde(default)]
    pub same_files: u32,
}

impl LocalityCounts {
    /// All attempts that should run near their data.
    pub fn asked(&self) -> u32 {
        self.near() + self.no_worker_near + self.near_workers_busy
    }

    /// Of those, attempts at the worker, on a node or in a zone that holds the data.
    pub fn near(&self) -> u32 {
        self.worker + self.node + self.zone
    }
}

impl AddAssign for LocalityCounts {
    fn add_assign(&mut self, other: Self) {
        self.worker += other.worker;
        self.node += other.node;
        self.zone += other.zone;
        self.no_worker_near += other.no_worker_near;
        self.near_workers_busy += other.near_workers_busy;
        self.same_files += other.same_files;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_nearer_than_its_zone() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let location = |node: &str, zone: &str| NodeLocation {
            node: Some(node.to_owned()).filter(|node| !node.is_empty()),
            zone: Some(zone.to_owned()).filter(|zone| !zone.is_empty()),
        };
        let table = [
            (&["n1"][..], &["a"][..], location("n1", "b"), LocalityLevel::Node),
            (&["n1"], &["a"], location("n2", "a"), LocalityLevel::Zone),
            (&["n1"], &["a"], location("n2", "b"), LocalityLevel::Elsewhere),
            (&["n1"], &[], location("", "a"), LocalityLevel::Elsewhere),
            (&[], &["a"], location("", "a"), LocalityLevel::Zone),
            (&[], &[], location("n1", "a"), LocalityLevel::Elsewhere),
            (&["n1"], &["a"], NodeLocation::default(), LocalityLevel::Elsewhere),
        ];
        for (nodes, zones, location, expected) in table {
            let data = DataLocality {
                nodes: names(nodes),
                zones: names(zones),
            };
            assert_eq!(data.level_for(&location), expected, "{data:?} from {location:?}");
        }
    }
}
