//! Responses that bring several streams.

use sluice_core::message::NextStream;

use super::*;

/// The map task and partition, first byte and length of each chunk of a response.
async fn chunks(store: &StoreHandle, request: FetchRequest) -> Vec<((u32, u32), u64, usize)> {
    let response = store.fetch(request);
    let chunks = response.map(|chunk| {
        let (head, bytes) = chunk.unwrap();
        (
            (head.stream.attempt.task, head.stream.partition),
            head.start_offset,
            bytes.len(),
        )
    });
    chunks.collect().await
}

#[tokio::test]
async fn a_response_goes_on_with_the_next_stream_at_the_end_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = start(config(dir.path())).await;
    let bytes = frame(stream(0, 0), 0, 200);
    let length = bytes.len();
    append(&store, stream(0, 0), bytes.clone()).await.unwrap();
    append(&store, stream(0, 2), frame(stream(0, 2), 0, 200))
        .await
        .unwrap();
    append(&store, stream(1, 2), frame(stream(1, 2), 0, 200))
        .await
        .unwrap();
    store.finalize(query("q"), attempt(1)).await.unwrap();
    let next = |stream| NextStream {
        stream,
        min_stream_epoch: StreamEpoch(0),
    };
    let several = |max_bytes: u64| FetchRequest {
        next_streams: [stream(0, 1), stream(0, 2), stream(1, 2)].map(next).into(),
        max_bytes,
        ..request(stream(0, 0), 0)
    };
    // It could still grow.
    let open = chunks(&store, several(u64::MAX)).await;
    assert!(open.iter().all(|(stream, ..)| *stream == (0, 0)), "{open:?}");
    store.finalize(query("q"), attempt(0)).await.unwrap();
    let all = [
        ((0, 0), 0, length),
        ((0, 1), 0, 0),
        ((0, 2), 0, length),
        ((1, 2), 0, length),
    ];
    assert_eq!(chunks(&store, several(u64::MAX)).await, all);
    let room = length as u64;
    assert_eq!(
        chunks(&store, several(room)).await,
        all[..1],
        "there is no more room"
    );
    let part = chunks(&store, several(room + 7)).await;
    assert_eq!(part, [all[0], all[1], ((0, 2), 0, 7)]);
}
