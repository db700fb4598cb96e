//! Whole queries, and what a coordinator answers.

use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use prost::Message as _;
use sluice_core::ids::CoordinatorEpoch;
use sluice_proto::auth::{Audience, Bearer, Claims, Folders, Token, Verb};
use sluice_proto::wire;
use tonic::{Code, Status};
use wire::coordinator_client::CoordinatorClient;
use wire::coordinator_message::Message as ToWorker;

use super::super::program::{Folder, Program, Worker, list};
use super::super::query::{by_part, plain_csv, query};
use super::super::successor::command;
use super::{HOUR, Session, channel, claims, guarded, guarded_with, id, pool, session, sign, token};

/// A coordinator of query `q-1` over the file of the folder, guarded as workers are.
fn run(folder: &Folder, workers: &[Worker], epoch: u64, token: Option<Token>) -> Program {
    let mut command = command(folder, &list(workers), "q-1", epoch);
    command.env_remove("SLUICE_TERMINATION_LOG");
    command.env("SLUICE_VERIFY_KEY_FILE", folder.at("public.pem"));
    command.args(["--pool", "p", "--namespace", "n"]);
    if let Some(token) = token {
        let file = folder.write("token", format!("{}\n", token.as_text()));
        command.env("SLUICE_TOKEN_FILE", file);
    }
    Program::start(command)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn a_query_with_its_token_runs_and_shuffles_and_without_it_does_not() {
    let folder = Folder::new();
    let workers = [guarded(&folder), guarded(&folder)];
    let sink = "sink: {location: out, format: csv}";
    // Long enough to be refused by a worker on a busy machine; a query that is not refused has all its time.
    folder.write(
        "query.yaml",
        by_part(0.05, &[sink, "retry: {noWorkersGrace: 5s}"]),
    );
    let writes = |query: &str| {
        let folders = Folders {
            write: vec![text(&folder.at("out"))],
            ..Folders::default()
        };
        sign(&Claims {
            folders,
            ..claims(query, 1)
        })
    };
    run(&folder, &workers, 1, None).end().expect(4, &["has no token"]);
    run(&folder, &workers, 1, writes("q-2"))
        .end()
        .expect(4, &["the token is for query q-2"]);
    folder.write("query.yaml", by_part(0.05, &[sink]));
    run(&folder, &workers, 1, writes("q-1")).end().expect(0, &[]);
    let written: usize = folder
        .files_below("out")
        .iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "csv"))
        .map(|file| std::fs::read_to_string(file).expect("text").lines().count() - 1)
        .sum();
    let expected = plain_csv(&folder.at("query.yaml")).lines().count() - 1;
    assert_eq!(written, expected);
    // An invalid key file ends the start with a message.
    let mut command = command(&folder, "127.0.0.1:1", "q-3", 1);
    command.args(["--verify-key-file", "/no/such.pem"]);
    Program::start(command)
        .end()
        .expect(1, &["--verify-key-file", "/no/such.pem"]);
}

#[test]
fn a_query_reads_and_writes_what_its_token_and_the_workers_folders_allow() {
    let folder = Folder::new();
    folder.write("data/t.csv", "a\n1\n");
    folder.write("passwd/t.csv", "a\nroot\n");
    std::os::unix::fs::symlink(folder.at("passwd/t.csv"), folder.at("data/link.csv"))
        .expect("it can be linked");
    let data = text(&folder.at("data"));
    let sinks = text(&folder.at("out"));
    std::fs::create_dir_all(&sinks).expect("it can be made");
    let bounded = [guarded_with(
        &folder,
        &["--data-dirs", &data, "--sink-dirs", &sinks],
    )];
    let by_token = [guarded(&folder)];
    let attempt = |workers: &[Worker], table: &str, sink: &str, read: &str, write: &str| {
        let table = format!("{{name: t, location: {table}, format: csv}}");
        let sink = format!("sink: {{location: {sink}, format: csv}}");
        folder.write("query.yaml", query("select a from t", &[&table], &[&sink]));
        let folders = Folders {
            read: vec![text(&folder.at(read))],
            write: vec![text(&folder.at(write))],
        };
        let token = sign(&Claims {
            folders,
            ..claims("q-1", 1)
        });
        run(&folder, workers, 1, token).end()
    };
    let outside = "outside the declared tables";
    attempt(&by_token, "passwd/t.csv", "out/a", "data", "out/a").expect(2, &[outside]);
    attempt(&by_token, "data/link.csv", "out/b", "data", "out/b").expect(2, &[outside]);
    attempt(&by_token, "data/t.csv", "out/c", "data", "out/d").expect(2, &["out/c is outside the folders"]);
    // The token would allow it, the worker does not.
    attempt(&bounded, "passwd/t.csv", "out/e", ".", "out/e").expect(2, &[outside]);
    attempt(&bounded, "data/t.csv", "f", "data", "f").expect(2, &["is outside the folders"]);
    attempt(&bounded, "data/t.csv", "out/g", "data", "out/g").expect(0, &[]);
}

/// One tenant repeatedly tells a worker that another worker is at an address of the tenant's own, while the query of
/// another tenant runs: no fetch reaches that address.
#[test]
fn what_one_session_says_of_a_worker_is_not_believed_by_another() {
    let folder = Folder::new();
    let workers = [guarded(&folder), guarded(&folder)];
    let trap = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = trap.local_addr().expect("it is bound").to_string();
    let caught = Arc::new(AtomicU32::new(0));
    let visits = Arc::clone(&caught);
    std::thread::spawn(move || {
        for visit in trap.incoming() {
            visits.fetch_add(1, Ordering::Relaxed);
            let _ = visit.and_then(|mut visit| visit.read(&mut [0; 64]));
        }
    });
    let lying = Arc::new(AtomicBool::new(true));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (sessions, lies) = runtime.block_on(async {
        let mut sessions = Vec::new();
        for worker in &workers {
            let opened = session(worker, token("liar", 1), "liar", 1).await;
            sessions.push(opened.expect("it opens"));
        }
        let welcomes = sessions.iter().map(Session::welcome);
        let workers = welcomes.map(|welcome| wire::WorkerEndpoint {
            worker: Some(welcome.worker.into()),
            address: address.clone(),
            ..wire::WorkerEndpoint::default()
        });
        let lies = wire::MapOutputs {
            workers: workers.collect(),
            updates: Vec::new(),
        };
        (sessions, lies.encode_to_vec())
    });
    let goes_on = Arc::clone(&lying);
    let liar = runtime.spawn(async move {
        while goes_on.load(Ordering::Relaxed) {
            for session in &sessions {
                session.send(ToWorker::UpdateInputs(wire::UpdateInputs {
                    outputs: lies.clone().into(),
                    ranges: Vec::new(),
                }));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        sessions.len()
    });
    folder.write(
        "query.yaml",
        by_part(0.05, &["sink: {location: out, format: csv}"]),
    );
    let folders = Folders {
        write: vec![text(&folder.at("out"))],
        ..Folders::default()
    };
    let token = sign(&Claims {
        folders,
        ..claims("q-1", 1)
    });
    run(&folder, &workers, 1, token).end().expect(0, &[]);
    lying.store(false, Ordering::Relaxed);
    assert_eq!(runtime.block_on(liar).expect("it did not panic"), 2);
    assert_eq!(
        caught.load(Ordering::Relaxed),
        0,
        "a fetch went where a liar said"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_answers_the_operator_call_by_call_and_gives_it_no_rows() {
    let folder = Folder::new();
    let workers = [guarded(&folder)];
    folder.write("query.yaml", query("select 1 as a", &[], &[]));
    let mut command = command(&folder, &list(&workers), "q-1", 1);
    command.env("SLUICE_VERIFY_KEY_FILE", folder.at("public.pem"));
    command.args(["--pool", "p", "--namespace", "n", "--results", "client"]);
    let mut program = Program::start(command);
    program.wait_for("serves on ");
    let said = program.said();
    let (_, address) = said.split_once("serves on ").expect("it was waited for");
    let address = address.lines().next().expect("an address").trim().to_owned();
    let channel = channel(&address).await;
    let call = |query: &str, verb| {
        let token = sign(&Claims::operator(
            Audience::Coordinator(id(query)),
            verb,
            pool(),
            HOUR,
        ));
        CoordinatorClient::with_interceptor(channel.clone(), Bearer(token))
    };
    let reference = || wire::QueryRef { query: "q-1".into() };
    let code = |status: Status| status.code();
    let denied = Some(Code::PermissionDenied);
    let mut reads = call("q-1", Verb::ReadStatus);
    assert!(reads.get_query_status(reference()).await.is_ok());
    assert_eq!(reads.read_result(reference()).await.err().map(code), denied);
    assert_eq!(reads.cancel_query(reference()).await.err().map(code), denied);
    let mut elsewhere = call("q-2", Verb::ReadStatus);
    assert_eq!(
        elsewhere.get_query_status(reference()).await.err().map(code),
        denied
    );
    // The renewal reaches the workers: they end the session because the renewal is not of this query.
    let renewal = sign(&Claims::renewal(id("q-1"), CoordinatorEpoch(1), pool())).expect("it signs");
    let renewal = || wire::TokenRenewal {
        query: "q-1".into(),
        renewal: renewal.as_text().to_owned(),
    };
    assert_eq!(reads.renew_token(renewal()).await.err().map(code), denied);
    assert!(call("q-1", Verb::Renew).renew_token(renewal()).await.is_ok());
    assert!(call("q-1", Verb::Cancel).cancel_query(reference()).await.is_ok());
}

/// A coordinator whose token expired before it started, like that of a pod that waited long for a node, gets in with a
/// renewal.
#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_with_a_token_that_is_over_gets_in_once_it_is_renewed() {
    let folder = Folder::new();
    let workers = [guarded(&folder)];
    folder.write(
        "query.yaml",
        query("select 1 as a", &[], &["sink: {location: out, format: csv}"]),
    );
    let over = Claims {
        expires: SystemTime::now() - HOUR,
        folders: Folders {
            write: vec![text(&folder.at("out"))],
            ..Folders::default()
        },
        ..claims("q-1", 1)
    };
    let mut program = run(&folder, &workers, 1, sign(&over));
    program.wait_for("the token has expired");
    program.wait_for("serves on ");
    let said = program.said();
    let (_, address) = said.split_once("serves on ").expect("it was waited for");
    let address = address.lines().next().expect("an address").trim().to_owned();
    let token = sign(&Claims::operator(
        Audience::Coordinator(id("q-1")),
        Verb::Renew,
        pool(),
        HOUR,
    ));
    let mut client = CoordinatorClient::with_interceptor(channel(&address).await, Bearer(token));
    let renewal = sign(&Claims::renewal(id("q-1"), CoordinatorEpoch(1), pool())).expect("it signs");
    let renewal = wire::TokenRenewal {
        query: "q-1".into(),
        renewal: renewal.as_text().to_owned(),
    };
    client.renew_token(renewal).await.expect("the operator may");
    program.end().expect(0, &[]);
}
