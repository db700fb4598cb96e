//! Whatever befalls the operator, a life ends as it does undisturbed: with the same objects, one pod for each
//! coordinator, and nothing left behind once all is deleted.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use sluice_operator::objects::labels;

use crate::faults::{Call, Fault, Faults, Watches};
use crate::harness::{Place, run};
use crate::life::{Left, live};
use crate::pods::object;

/// Lives that are led at the same time, each in a namespace of its own.
const LANES: usize = 4;

/// The life without faults; `None` without a cluster.
fn undisturbed(name: &str) -> Option<Left> {
    let left = Mutex::new(None);
    run(name, async |place| {
        let faults = Faults::none();
        let (lived, deaths) = live(place, &mut |_| faults.clone(), true, async || {}).await;
        assert_eq!(deaths, 0);
        assert_eq!(faults.forbidden(), [""; 0]);
        let pods: Vec<_> = lived
            .coordinators
            .iter()
            .map(|(name, pods)| (name.as_str(), *pods))
            .collect();
        assert_eq!(pods, [("lost-c1", 1), ("lost-c2", 1), ("plain-c1", 1)]);
        assert!(lived.objects.len() > 12, "{:?}", lived.objects.keys());
        *left.lock().unwrap_or_else(PoisonError::into_inner) = Some(lived);
    });
    left.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Leads lives, several at a time; `life` answers whether there is another after the one of this number.
fn in_lanes(name: &str, life: impl AsyncFn(&Place, usize) -> bool + Sync) {
    let (next, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                run(name, async |place| {
                    while !over.load(Ordering::Relaxed) {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if !life(place, number).await {
                            over.store(true, Ordering::Relaxed);
                        }
                    }
                });
            });
        }
    });
}

#[test]
fn a_crash_before_or_after_any_write_of_the_operator_changes_nothing_in_the_end() {
    let name = "a_crash_before_or_after_any_write_of_the_operator_changes_nothing_in_the_end";
    let Some(wanted) = undisturbed(name) else { return };
    let (crashes, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    in_lanes(name, async |place, number| {
        let fault = [Fault::CrashBefore, Fault::CrashAfter][number % 2];
        let mut fates = |operator| match operator {
            0 => Faults::crash_at(number / 2, fault),
            _ => Faults::none(),
        };
        let begin = std::time::Instant::now();
        let (left, deaths) = live(place, &mut fates, false, async || {}).await;
        println!("LIVED {number} {deaths} {:?}", begin.elapsed());
        crashes.fetch_add(usize::try_from(deaths).unwrap(), Ordering::Relaxed);
        let differences = left.differs_from(&wanted);
        if !differences.is_empty() {
            let position = format!("{fault:?} of write {}: {differences:#?}", number / 2);
            wrong
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(position);
        }
        // Beyond the last write nobody dies.
        deaths > 0
    });
    let wrong = wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let crashes = crashes.into_inner();
    assert!(crashes > 80, "only {crashes} crashes");
    println!("{crashes} crashes");
}
