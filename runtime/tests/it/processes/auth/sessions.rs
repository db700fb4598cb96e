//! Sessions and fetches at a worker, call by call.

use std::time::{Duration, SystemTime};

use sluice_core::ids::CoordinatorEpoch;
use sluice_proto::auth::{Claims, PoolId, Token, Verb};
use sluice_proto::wire;
use tonic::Code;
use wire::coordinator_message::Message as ToWorker;
use wire::worker_message::Message as FromWorker;

use super::super::program::{Folder, TIMEOUT};
use super::{HOUR, claims, client, fetch, guarded, id, operator, pool, session, sign, signer, token};

#[tokio::test(flavor = "multi_thread")]
async fn bad_tokens_open_no_session() {
    let folder = Folder::new();
    let worker = guarded(&folder);
    let wrong_key = signer(1).sign(&claims("q", 1)).expect("it signs");
    let expired = Claims {
        expires: SystemTime::now() - HOUR,
        ..claims("q", 1)
    };
    let elsewhere = |namespace: &str, name: &str| Claims {
        pool: PoolId {
            namespace: namespace.into(),
            name: name.into(),
        },
        ..claims("q", 1)
    };
    let noise = Token::new("no.token.atall").expect("text");
    let renewal = Claims::renewal(id("q"), CoordinatorEpoch(1), pool());
    for (token, code, said) in [
        (None, Code::Unauthenticated, "has no token"),
        (Some(wrong_key), Code::Unauthenticated, "not signed by a key"),
        (sign(&expired), Code::Unauthenticated, "expired"),
        (Some(noise), Code::Unauthenticated, "malformed"),
        (token("other", 1), Code::PermissionDenied, "query other"),
        (token("q", 2), Code::PermissionDenied, "epoch 2"),
        (sign(&elsewhere("n", "x")), Code::PermissionDenied, "pool n/x"),
        (sign(&elsewhere("m", "p")), Code::PermissionDenied, "pool m/p"),
        (sign(&renewal), Code::PermissionDenied, "openSession"),
        (
            operator("w", Verb::ReadStatus),
            Code::PermissionDenied,
            "openSession",
        ),
    ] {
        let text = token.as_ref().map(|token| token.as_text().to_owned());
        let Err(status) = session(&worker, token, "q", 1).await else {
            panic!("let in: {said}")
        };
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(said), "{status:?}");
        assert!(text.is_none_or(|text| !status.message().contains(&text)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_the_operator_is_for_one_kind_of_call_to_one_worker() {
    let folder = Folder::new();
    let worker = guarded(&folder);
    for (token, code) in [
        (None, Code::Unauthenticated),
        (token("q", 1), Code::PermissionDenied),
        (operator("another", Verb::ReadStatus), Code::PermissionDenied),
        (operator("another", Verb::Drain), Code::PermissionDenied),
    ] {
        let mut client = client(&worker, token).await;
        let status = client.get_worker_status(wire::WorkerStatusRequest {}).await;
        assert_eq!(status.map(|_| ()).map_err(|status| status.code()), Err(code));
        let drained = client.drain(wire::DrainRequest {}).await;
        assert_eq!(drained.map(|_| ()).map_err(|status| status.code()), Err(code));
    }
    let mut reads = client(&worker, operator("w", Verb::ReadStatus)).await;
    let drained = reads.drain(wire::DrainRequest {}).await;
    assert_eq!(
        drained.expect_err("it may only read").code(),
        Code::PermissionDenied
    );
    let status = reads.get_worker_status(wire::WorkerStatusRequest {}).await;
    assert!(!status.expect("the operator may ask").into_inner().draining);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_a_fetch_is_of_one_querys_session_at_one_worker() {
    let folder = Folder::new();
    let (worker, another) = (guarded(&folder), guarded(&folder));
    let one = session(&worker, token("q", 1), "q", 1).await.expect("it opens");
    let (welcome, key) = (one.welcome(), one.welcome().fetch_key);
    // There is no such output, but the reader is admitted.
    assert_eq!(
        fetch(&worker, &welcome, Some(&key), "q", 1).await,
        Code::FailedPrecondition
    );
    let other = session(&worker, token("other", 1), "other", 1)
        .await
        .expect("it opens");
    let there = session(&another, token("q", 1), "q", 1).await.expect("it opens");
    for key in [
        None,
        Some(&other.welcome().fetch_key),
        Some(&there.welcome().fetch_key),
    ] {
        assert_eq!(
            fetch(&worker, &welcome, key, "q", 1).await,
            Code::PermissionDenied
        );
    }
    // A key of one worker does not open another.
    let replayed = fetch(&another, &there.welcome(), Some(&key), "q", 1).await;
    assert_eq!(replayed, Code::PermissionDenied);

    let two = session(&worker, token("q", 2), "q", 2).await.expect("it opens");
    let late = session(&worker, token("q", 1), "q", 1).await.expect("it is told");
    match late.first {
        FromWorker::Refused(refused) => {
            assert_eq!(refused.reason(), wire::RefusedReason::StaleCoordinator);
        }
        other => panic!("it was let in: {other:?}"),
    }
    let later = two.welcome().fetch_key;
    assert_eq!(
        fetch(&worker, &welcome, Some(&key), "q", 2).await,
        Code::PermissionDenied
    );
    assert_eq!(
        fetch(&worker, &welcome, Some(&later), "q", 2).await,
        Code::FailedPrecondition
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_its_token_unless_that_is_renewed() {
    let folder = Folder::new();
    let worker = guarded(&folder);
    // Expired, except for the allowed clock skew: it ends shortly.
    let ends = || Claims {
        expires: SystemTime::now() - sluice_proto::auth::CLOCK_SKEW + Duration::from_secs(3),
        ..claims("q", 1)
    };
    let mut left = session(&worker, sign(&ends()), "q", 1).await.expect("it opens");
    let status = left.end().await;
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unauthenticated, "the token has expired")
    );

    let mut renewed = session(&worker, sign(&ends()), "q", 1).await.expect("it opens");
    let renewal = |query: &str| {
        let renewal = Claims::renewal(id(query), CoordinatorEpoch(1), pool());
        ToWorker::RenewToken(sign(&renewal).expect("it signs").as_text().to_owned())
    };
    renewed.send(renewal("q"));
    let beyond = tokio::time::timeout(Duration::from_secs(6), renewed.end()).await;
    assert!(beyond.is_err(), "it ended: {beyond:?}");
    // The renewal of another query's token does not extend this one.
    renewed.send(renewal("other"));
    assert_eq!(renewed.end().await.code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_change_while_a_worker_runs() {
    let folder = Folder::new();
    let worker = guarded(&folder);
    let new = || Some(signer(1).sign(&claims("q", 1)).expect("it signs"));
    let refused = session(&worker, new(), "q", 1).await;
    assert_eq!(
        refused.map(|_| ()).map_err(|status| status.code()),
        Err(Code::Unauthenticated)
    );
    folder.write("public.pem", signer(0).public_pem() + &signer(1).public_pem());
    let begun = std::time::Instant::now();
    loop {
        match session(&worker, new(), "q", 1).await {
            Ok(opened) => break drop(opened.welcome()),
            Err(status) => assert_eq!(status.code(), Code::Unauthenticated),
        }
        assert!(begun.elapsed() < TIMEOUT, "the new key is not read");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    session(&worker, token("q", 1), "q", 1)
        .await
        .expect("the old key is trusted still");
}
