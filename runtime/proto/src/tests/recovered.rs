//! What workers keep for a successor of their coordinator.

use sluice_core::ids::{LayoutVersion, StageId};
use sluice_core::layout::{Layout, Shard, TaskLayout};
use sluice_core::message::StageLayout;
use sluice_core::ranges::{Bound, KeyRange};

use crate::wire;

pub(super) fn key_range() -> KeyRange {
    let upper = Some(Bound {
        key: vec![1, 0, 255],
        map_task: 3,
    });
    KeyRange { lower: None, upper }
}

#[test]
fn layouts_that_workers_keep_come_back_as_they_were() {
    let task = |partitions, range: Option<KeyRange>, shard| TaskLayout {
        partitions,
        range: range.map(Box::new),
        shard,
    };
    let shard = Shard {
        input: 1,
        map_tasks: vec![0, 3],
    };
    let layout = StageLayout {
        stage: StageId(4),
        layout: Layout {
            version: LayoutVersion(1),
            fingerprint: u64::MAX,
            tasks: vec![
                task(0..3, None, None),
                task(3..4, None, Some(shard)),
                task(1..2, Some(key_range()), None),
            ],
        },
        swapped_joins: vec![2],
    };
    let mut wire = wire::StageLayout::from(&layout);
    assert_eq!(StageLayout::try_from(wire.clone()), Ok(layout));
    wire.tasks[0].end = 0;
    wire.tasks[0].start = 1;
    let refused = StageLayout::try_from(wire).expect_err("it ends before it begins");
    assert!(refused.to_string().contains("tasks.end"), "{refused}");
}
