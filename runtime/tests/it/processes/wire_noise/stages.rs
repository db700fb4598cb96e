//! Stages and attempts beyond what any graph has: their query fails, and only it.

use bytes::Bytes;
use sluice::query::{WorkerCapacity, load, prepare};
use sluice::stage_template::StageTemplate;
use sluice_core::ids::QueryId;
use sluice_crds::shuffle_query::Compression;
use sluice_proto::wire;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use wire::coordinator_message::Message as ToWorker;
use wire::worker_message::Message as FromWorker;

use super::{assert_serves, client, hello, message, talk};
use crate::processes::program::{Folder, TIMEOUT, Worker};
use crate::processes::query::by_part;

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_reads_more_tasks_than_a_graph_has_is_refused() {
    let mut worker = Worker::start();
    let writer = wire::Writer {
        stage: 0,
        tasks: u32::MAX,
        only: None,
    };
    let input = wire::AssignedInput {
        writers: vec![writer; 4],
        assigned_reduce_partitions: vec![0],
        range: None,
    };
    let assign = wire::AssignAttempt {
        attempt: Some(wire::AttemptRef::default()),
        inputs: vec![input],
        ..wire::AssignAttempt::default()
    };
    let messages = vec![
        message(Some(ToWorker::Hello(hello("vast")))),
        message(Some(ToWorker::AssignAttempt(assign))),
    ];
    let message = refused_plan(&worker, messages).await;
    assert!(
        message.contains("streams") && message.contains("1048576"),
        "{message}"
    );
    assert_serves(&mut worker).await;
}

/// The worker's message for the attempt that these messages assign, which it refuses as an unsupported plan.
async fn refused_plan(worker: &Worker, messages: Vec<wire::CoordinatorMessage>) -> String {
    let ended = |answer: &FromWorker| matches!(answer, FromWorker::AttemptFailed(_));
    let (heard, status) = talk(&worker.address, messages, ended).await;
    let Some(FromWorker::AttemptFailed(failed)) = heard.last() else {
        panic!("{heard:?} {status:?}")
    };
    match &failed.failure {
        Some(wire::attempt_failed::Failure::BadInput(bad)) => {
            assert_eq!(bad.kind(), wire::BadInputKind::UnsupportedPlan, "{bad:?}");
            bad.message.clone()
        }
        other => panic!("{other:?}"),
    }
}

/// The first stage of a valid query, with more partitions or plan bytes than any planner makes.
async fn stage_of(partitions: Option<u32>, plan_bytes: usize) -> Bytes {
    let folder = Folder::new();
    let loaded = load(&folder.write("query.yaml", by_part(0.01, &[]))).expect("the query is valid");
    let id = QueryId::new("vast").expect("a legal id");
    let capacity = WorkerCapacity {
        slots: 1,
        slot_memory_bytes: None,
    };
    let prepared = prepare(&loaded, &id, capacity).await.expect("it can be planned");
    let planned = prepared.planned.stages.first().expect("a stage");
    let mut template = StageTemplate {
        fragment: planned.fragment.clone(),
        output: planned.output.clone(),
        compression: Compression::None,
        sink: None,
        filters: Vec::new(),
    };
    template.output.partitions = partitions.unwrap_or(template.output.partitions);
    template
        .fragment
        .plan
        .resize(plan_bytes.max(template.fragment.plan.len()), 0);
    template.encode().expect("it encodes")
}

fn define(stage: u32, template: &Bytes) -> wire::CoordinatorMessage {
    let template = template.clone();
    message(Some(ToWorker::DefineStage(wire::DefineStage { stage, template })))
}

fn assign(stage: u32, output_partitions: u32) -> wire::CoordinatorMessage {
    let attempt = wire::AttemptRef {
        stage,
        ..wire::AttemptRef::default()
    };
    message(Some(ToWorker::AssignAttempt(wire::AssignAttempt {
        attempt: Some(attempt),
        stream_epoch: 1,
        output_partitions,
        ..wire::AssignAttempt::default()
    })))
}

fn begin(query: &str) -> Vec<wire::CoordinatorMessage> {
    vec![
        message(Some(ToWorker::Hello(hello(query)))),
        message(Some(ToWorker::RequestSlots(wire::RequestSlots {
            slots: 1,
            speculative_slots: 0,
        }))),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_of_more_partitions_than_an_exchange_has_fail_their_query_only() {
    let mut worker = Worker::start();
    let vast = stage_of(Some(u32::MAX), 0).await;
    let good = stage_of(None, 0).await;
    for (fragment, output_partitions) in [(&vast, 1), (&vast, u32::MAX), (&good, u32::MAX)] {
        let mut messages = begin("vast");
        messages.extend([define(0, fragment), assign(0, output_partitions)]);
        let message = refused_plan(&worker, messages).await;
        assert!(
            message.contains("4294967295 partitions, more than 65536"),
            "{message}"
        );
    }
    assert_serves(&mut worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stages_that_are_too_many_or_too_large_fail_their_query_only() {
    let mut worker = Worker::start();
    let before = worker.peak_bytes();
    let large = stage_of(None, 50 << 20).await;
    let mut messages = begin("vast");
    messages.extend((0..65).map(|stage| define(stage, &large)));
    messages.push(assign(64, 1));
    let message = refused_plan(&worker, messages).await;
    assert!(message.contains("more than 67108864"), "{message}");
    let peak = worker.peak_bytes() - before;
    assert!(peak < 600 << 20, "it took {peak} bytes for plans that it refused");

    let small = stage_of(None, 0).await;
    let mut messages = begin("long");
    messages.extend((0..5_000).map(|stage| define(stage, &small)));
    messages.push(assign(4_999, 1));
    let message = refused_plan(&worker, messages).await;
    assert!(message.contains("stages, more than 1024"), "{message}");
    assert_serves(&mut worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plans_of_all_sessions_together_are_bounded_too() {
    let mut worker = Worker::start();
    let large = stage_of(None, 50 << 20).await;
    let mut client = client(&worker.address).await;
    // It takes no slot from the second, and says nothing more, however long that takes.
    let patient = wire::Hello {
        liveness_timeout_millis: 600_000,
        ..hello("first")
    };
    let first = vec![message(Some(ToWorker::Hello(patient))), define(0, &large)];
    let first = tokio_stream::iter(first).chain(tokio_stream::pending());
    let mut held = client.session(first).await.expect("it is taken").into_inner();
    // Messages are handled in order: the answer to the second to last shows that the plan is there.
    let begun = timeout(TIMEOUT, held.message())
        .await
        .expect("the worker answers");
    assert!(begun.is_ok_and(|answer| answer.is_some()));
    let ended = |answer: &FromWorker| matches!(answer, FromWorker::AttemptFailed(_));
    let said = async || {
        let mut second = begin("second");
        second.extend([define(0, &large), assign(0, 1)]);
        let (heard, _) = talk(&worker.address, second, ended).await;
        format!("{:?}", heard.last())
    };
    let begun = std::time::Instant::now();
    let mut last = said().await;
    while !last.contains("maxConcurrentQueries") {
        assert!(begun.elapsed() < TIMEOUT, "{last}");
        last = said().await;
    }
    assert!(last.contains("ResourcesExhausted"), "{last}");
    drop(held);
    assert_serves(&mut worker).await;
}
