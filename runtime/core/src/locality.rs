//! How near a worker is to what a task reads. Nearness is a wish: it chooses among slots, and leaves none idle.

use std::collections::BTreeSet;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// Where a worker runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its node; `None` if unknown.
    pub node: Option<String>,
    /// The zone of the node; `None` if unknown.
    pub zone: Option<String>,
}

impl Place {
    /// Whether anything is known of it.
    pub fn is_known(&self) -> bool {
        self.node.is_some() || self.zone.is_some()
    }
}

/// Where the rows of a table are, as the query says. Empty: anywhere.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataPlaces {
    /// Nodes that hold them.
    pub nodes: BTreeSet<String>,
    /// Zones that hold them.
    pub zones: BTreeSet<String>,
}

impl DataPlaces {
    /// Whether every worker is as good as any other.
    pub fn is_anywhere(&self) -> bool {
        self.nodes.is_empty() && self.zones.is_empty()
    }

    /// How near a worker in `place` is to the data.
    pub fn nearness(&self, place: &Place) -> Nearness {
        let among = |names: &BTreeSet<String>, name: &Option<String>| {
            name.as_ref().is_some_and(|name| names.contains(name))
        };
        if among(&self.nodes, &place.node) {
            Nearness::Node
        } else if among(&self.zones, &place.zone) {
            Nearness::Zone
        } else {
            Nearness::Elsewhere
        }
    }
}

/// The nearest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Nearness {
    /// On a node that holds the data.
    Node,
    /// In a zone that holds the data.
    Zone,
    /// Neither, or not known.
    Elsewhere,
}

/// Where attempts of stages with known data ran. All other attempts do not count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalityCounts {
    /// On a node that holds the data.
    pub node: u32,
    /// In a zone that holds the data.
    pub zone: u32,
    /// Elsewhere, as no worker near the data took attempts.
    pub no_worker_near: u32,
    /// Elsewhere, as the workers near the data had no free slot, or the task had just failed there.
    pub near_workers_busy: u32,
}

impl LocalityCounts {
    /// Attempts for which nearness was asked for.
    pub fn asked(&self) -> u32 {
        self.near() + self.no_worker_near + self.near_workers_busy
    }

    /// Of those, the ones that got it.
    pub fn near(&self) -> u32 {
        self.node + self.zone
    }
}

impl AddAssign for LocalityCounts {
    fn add_assign(&mut self, other: Self) {
        self.node += other.node;
        self.zone += other.zone;
        self.no_worker_near += other.no_worker_near;
        self.near_workers_busy += other.near_workers_busy;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_nearer_than_its_zone() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let place = |node: &str, zone: &str| Place {
            node: Some(node.to_owned()).filter(|node| !node.is_empty()),
            zone: Some(zone.to_owned()).filter(|zone| !zone.is_empty()),
        };
        let table = [
            (&["n1"][..], &["a"][..], place("n1", "b"), Nearness::Node),
            (&["n1"], &["a"], place("n2", "a"), Nearness::Zone),
            (&["n1"], &["a"], place("n2", "b"), Nearness::Elsewhere),
            (&["n1"], &[], place("", "a"), Nearness::Elsewhere),
            (&[], &["a"], place("", "a"), Nearness::Zone),
            (&[], &[], place("n1", "a"), Nearness::Elsewhere),
            (&["n1"], &["a"], Place::default(), Nearness::Elsewhere),
        ];
        for (nodes, zones, place, expected) in table {
            let data = DataPlaces {
                nodes: names(nodes),
                zones: names(zones),
            };
            assert_eq!(data.nearness(&place), expected, "{data:?} from {place:?}");
        }
    }
}
