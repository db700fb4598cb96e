//! Limits against others on the machine or the network: they cannot use a run's ports, forge its log lines, or make it
//! wait for ever.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;

use rustix::process::Pid;
use sluice_proto::wire;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use wire::coordinator_client::CoordinatorClient;
use wire::coordinator_message::Message as ToWorker;
use wire::worker_client::WorkerClient;

use super::program::{Folder, Program, TIMEOUT, Worker, wait_until, without_settings};
use super::query::{PATIENT, by_part, plain_csv, query, tpch};

/// The ports on which a process listens.
fn ports(of: Pid) -> Vec<u16> {
    let of = of.as_raw_nonzero();
    let files = std::fs::read_dir(format!("/proc/{of}/fd")).into_iter().flatten();
    let sockets: Vec<String> = files
        .flatten()
        .filter_map(|file| std::fs::read_link(file.path()).ok())
        .filter_map(|link| {
            let link = link.to_string_lossy().into_owned();
            Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect();
    let table = std::fs::read_to_string(format!("/proc/{of}/net/tcp")).unwrap_or_default();
    let listening = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (_, port) = fields.get(1)?.rsplit_once(':')?;
        let is_ours = sockets
            .iter()
            .any(|socket| fields.get(9) == Some(&socket.as_str()));
        (fields.get(3) == Some(&"0A") && is_ours).then(|| u16::from_str_radix(port, 16).ok())?
    });
    listening.collect()
}

fn hello(query: &str, build_id: String) -> wire::CoordinatorMessage {
    wire::CoordinatorMessage::of(ToWorker::Hello(wire::Hello {
        query: query.into(),
        coordinator_epoch: 1,
        build_id,
        lease_millis: 60_000,
        liveness_timeout_millis: 60_000,
        ..wire::Hello::default()
    }))
}

/// The answers to a caller without a token at this port, of a worker or a coordinator.
async fn refusals(port: u16) -> Vec<Code> {
    let address = format!("http://{}", SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let mut worker = WorkerClient::connect(address.clone()).await.expect("it listens");
    let mut coordinator = CoordinatorClient::connect(address).await.expect("it listens");
    let reference = || wire::QueryRef { query: "q".into() };
    let (outbound, messages) = tokio::sync::mpsc::unbounded_channel();
    outbound
        .send(hello("q", sluice::build_id::build_id()))
        .expect("the receiver is here");
    let fetch = wire::FetchRequest {
        query: "q".into(),
        coordinator_epoch: 1,
        max_bytes: 1,
        ..wire::FetchRequest::default()
    };
    let fetched = match worker.fetch(fetch).await {
        Ok(chunks) => chunks.into_inner().message().await.map(|_| ()),
        Err(status) => Err(status),
    };
    let answers = [
        worker
            .session(UnboundedReceiverStream::new(messages))
            .await
            .map(|_| ()),
        fetched,
        worker.drain(wire::DrainRequest {}).await.map(|_| ()),
        coordinator.get_query_status(reference()).await.map(|_| ()),
        coordinator.read_result(reference()).await.map(|_| ()),
        coordinator.cancel_query(reference()).await.map(|_| ()),
    ];
    answers
        .into_iter()
        .map(|answer| answer.err().map_or(Code::Ok, |status| status.code()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ports_of_a_run_open_to_nobody_else() {
    for extra in [&[][..], &["--processes"]] {
        let folder = Folder::new();
        let sql = "select l_partkey, count(*) as n from lineitem group by l_partkey";
        let yaml = query(
            sql,
            &[&tpch("lineitem", 20.0)],
            &["shuffle: {partitions: 4, adaptive: {mode: Off}}", PATIENT],
        );
        let arguments = [&["--local-workers", "2", "--output", "csv"], extra].concat();
        let mut program = Program::start(folder.run_command(&yaml, &arguments));
        program.wait_for("stage 0");
        let children = std::fs::read_dir("/proc").expect("there is /proc").flatten();
        let ids = children.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
        let ids: Vec<Pid> = ids.filter_map(Pid::from_raw).collect();
        let is_child = |id: &Pid| {
            let status = std::fs::read_to_string(format!("/proc/{}/status", id.as_raw_nonzero()));
            let parent = format!("PPid:\t{}\n", program.pid().as_raw_nonzero());
            status.is_ok_and(|status| status.contains(&parent))
        };
        let own = ids.into_iter().filter(is_child).chain([program.pid()]);
        let ports: Vec<u16> = own.flat_map(ports).collect();
        assert_eq!(ports.len(), 3, "two workers and a coordinator");
        for port in ports {
            for code in refusals(port).await {
                // Workers do not serve a coordinator's calls, nor the other way round. A fetch must name the worker's
                // incarnation before its key is looked at.
                assert!(
                    matches!(
                        code,
                        Code::Unauthenticated | Code::Unimplemented | Code::FailedPrecondition
                    ),
                    "port {port} answers {code:?}"
                );
            }
        }
        program.signal(rustix::process::Signal::INT);
        program.end().expect(130, &["cancelled"]);
    }
}

#[test]
fn a_worker_with_thousands_of_idle_connections_answers_and_runs_a_query() {
    let files = sluice_proto::listener::raise_open_files();
    let count = files.saturating_sub(500).min(10_000);
    // Fewer open files than callers, whatever the machine allows.
    let mut command = Command::new("sh");
    command.args([
        "-c",
        "ulimit -n 400 && exec \"$0\" \"$@\"",
        env!("CARGO_BIN_EXE_sluice"),
    ]);
    let mut worker = Worker::start_as(without_settings(command), "127.0.0.1:0", "512MiB", &[]);
    let idle: Vec<TcpStream> = (0..count)
        .map(|number| TcpStream::connect(&worker.address).unwrap_or_else(|error| panic!("{number}: {error}")))
        .collect();
    assert!(idle.len() > 400, "{files} files are too few to try it");
    let health = async {
        let endpoint = Channel::from_shared(format!("http://{}", worker.address)).expect("an address");
        let mut client = HealthClient::new(endpoint.connect().await.expect("it listens"));
        let request = HealthCheckRequest {
            service: String::new(),
        };
        client
            .check(request)
            .await
            .expect("it answers")
            .into_inner()
            .status()
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let health = async { tokio::time::timeout(TIMEOUT, health).await };
    assert_eq!(runtime.block_on(health), Ok(ServingStatus::Serving));
    let folder = Folder::new();
    let arguments = ["--workers", &worker.address, "--output", "csv"];
    let ended = folder.run(&by_part(0.01, &[]), &arguments).expect(0, &[]);
    assert_eq!(ended.stdout, plain_csv(&folder.at("query.yaml")));
    worker.assert_well();
    drop(idle);
}

#[test]
fn planning_ends_at_the_deadline_of_the_query() {
    let folder = Folder::new();
    // Constant folding takes as many steps as there are pairs of characters.
    let sql = "select levenshtein(repeat('x', 60000), repeat('y', 60000)) as n";
    let yaml = query(sql, &[], &["deadlineSeconds: 1"]);
    folder
        .run(&yaml, &["--local-workers", "1"])
        .expect(3, &["DeadlineExceeded", "planning", "deadline of 1 s"]);
}

#[test]
fn a_query_of_more_stages_than_workers_keep_is_refused_before_it_runs() {
    let folder = Folder::new();
    let branch =
        |number| format!("select count(*) + {number} as k from (select distinct n_regionkey from nation)");
    let branches: Vec<_> = (0..400).map(branch).collect();
    let yaml = query(
        &branches.join(" union all "),
        &[&tpch("nation", 0.01)],
        &["shuffle: {partitions: 2}"],
    );
    folder.run(&yaml, &["--local-workers", "1"]).expect(
        2,
        &["the query has 1200 stages, more than 1024", "several queries"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_peer_says_stays_within_its_line_of_the_log() {
    let worker = Worker::start();
    let mut client = WorkerClient::connect(format!("http://{}", worker.address))
        .await
        .expect("it listens");
    let (outbound, messages) = tokio::sync::mpsc::unbounded_channel();
    let build = "x\n2026-01-01T00:00:00Z ERROR forged\r\x1b[2J".to_owned();
    outbound.send(hello("q", build)).expect("the receiver is here");
    let answers = client.session(UnboundedReceiverStream::new(messages)).await;
    let first = answers.expect("it is told").into_inner().message().await;
    assert!(first.is_ok(), "{first:?}");
    wait_until("a line of it", || worker.said().contains("forged"));
    let said = worker.said();
    let line = said.lines().find(|line| line.contains("forged")).expect("a line");
    assert!(line.contains("refused a session"), "{line}");
    assert!(!said.contains('\x1b') && !said.contains('\r'), "{said:?}");
}
