//! Ctrl-C and sudden ends of `sluice run`: what must be gone afterwards.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use sluice_crds::ErrorReason;
use sluice_crds::shuffle_query::status::{QueryPhase, ShuffleQueryStatus};

use super::program::{Folder, Program, Worker, list, run, wait_until};
use super::query::{by_part, query, tpch};

/// The processes that this one has started and that still run.
fn children(parent: Pid) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").expect("there is /proc");
    let ids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
    ids.filter(|id| stat(*id).is_some_and(|(_, of)| of == parent.as_raw_nonzero().get()))
        .collect()
}

/// State and parent of a process, if there is one of that id.
fn stat(id: i32) -> Option<(String, i32)> {
    let text = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The program's name stands in parentheses and may hold anything.
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

/// Whether the process has ended; a zombie has.
fn is_gone(id: i32) -> bool {
    stat(id).is_none_or(|(state, _)| state == "Z")
}

/// A query that runs for minutes, spills soon and writes to a sink.
fn long(folder: &Folder) -> String {
    let sink = format!(
        "sink: {{location: {}, format: parquet}}",
        folder.at("out/rows").display()
    );
    std::fs::create_dir_all(folder.at("out")).expect("a folder can be made");
    let sql = "select l_partkey, l_comment, row_number() over (partition by l_partkey order by l_comment) as place \
               from lineitem";
    query(
        sql,
        &[&tpch("lineitem", 20.0)],
        &["shuffle: {partitions: 4, adaptive: {mode: Off}}", &sink],
    )
}

/// Nothing is left of a stopped query with the sink of [`long`].
fn assert_clean(folder: &Folder) {
    assert_eq!(folder.files_below("spill"), Vec::<PathBuf>::new());
    let left: Vec<_> = std::fs::read_dir(folder.at("out"))
        .expect("it is there")
        .flatten()
        .collect();
    assert!(left.is_empty(), "left beside the sink: {left:?}");
}

fn long_command(folder: &Folder, arguments: &[&str]) -> Command {
    let arguments = [&["--local-workers", "2", "--memory", "24MiB"], arguments].concat();
    folder.run_command(&long(folder), &arguments)
}

#[test]
fn ctrl_c_cancels_and_leaves_nothing() {
    let folder = Folder::new();
    let program = Program::start(long_command(&folder, &[]));
    wait_until("bytes on disk", || folder.has_bytes("spill"));
    program.signal(Signal::INT);
    let ended = program.end().expect(130, &["cancelled"]);
    assert_eq!(ended.stdout, "");
    assert_clean(&folder);
    assert_eq!(
        std::fs::read_dir(folder.at("spill"))
            .expect("it is there")
            .count(),
        0,
        "folders of the run"
    );
}

#[test]
fn ctrl_c_at_the_very_start_leaves_nothing_either() {
    for arguments in [&[][..], &["--processes"]] {
        let folder = Folder::new();
        let program = Program::start(long_command(&folder, arguments));
        wait_until("a spill folder", || folder.at("spill").exists());
        program.signal(Signal::INT);
        program.end().expect(130, &["cancelled"]);
        assert_clean(&folder);
        let left = std::fs::read_dir(folder.at("spill")).expect("it is there");
        assert_eq!(left.count(), 0, "folders of the run");
    }
}

#[test]
fn a_termination_signal_is_as_good_as_ctrl_c() {
    let folder = Folder::new();
    let mut program = Program::start(long_command(&folder, &[]));
    program.wait_for("stage 0");
    program.signal(Signal::TERM);
    program.end().expect(130, &["cancelled"]);
    assert_clean(&folder);
}

#[test]
fn the_end_of_its_terminal_is_as_good_as_ctrl_c() {
    let folder = Folder::new();
    let program = Program::start(long_command(&folder, &[]));
    wait_until("bytes on disk", || folder.has_bytes("spill"));
    program.signal(Signal::HUP);
    program.end().expect(130, &["cancelled"]);
    assert_clean(&folder);
}

#[test]
fn a_run_that_is_to_outlive_its_terminal_does() {
    let folder = Folder::new();
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]);
    let run = long_command(&folder, &[]);
    command.arg(run.get_program()).args(run.get_args());
    let program = Program::start(command);
    wait_until("bytes on disk", || folder.has_bytes("spill"));
    let status = format!("/proc/{}/status", program.pid().as_raw_nonzero());
    let status = std::fs::read_to_string(status).expect("it runs");
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = u64::from_str_radix(ignored.expect("a mask").trim(), 16).expect("a number");
    assert_eq!(ignored & 1, 1, "SIGHUP is still ignored");
    program.signal(Signal::INT);
    program.end().expect(130, &["cancelled"]);
}

#[test]
fn the_next_run_removes_what_a_killed_one_left_and_nothing_of_one_that_runs() {
    let folder = Folder::new();
    let living = Program::start(long_command(&folder, &[]));
    wait_until("bytes on disk", || folder.has_bytes("spill"));
    let held = folder.files_below("spill");
    let killed = Program::start(long_command(&folder, &[]));
    let left = || {
        let mut files = folder.files_below("spill");
        files.retain(|file| !held.iter().any(|held| held.parent() == file.parent()));
        files
    };
    let has_bytes = |file: &PathBuf| file.metadata().is_ok_and(|metadata| metadata.len() > 4096);
    let runs = || {
        let entries = std::fs::read_dir(folder.at("spill"))
            .expect("it is there")
            .flatten();
        entries
            .filter(|entry| entry.path().is_dir())
            .map(|entry| entry.path())
    };
    wait_until("bytes of the second run", || {
        runs().count() == 2 && left().iter().any(has_bytes)
    });
    for run in runs() {
        let mode = std::fs::metadata(run).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
    killed.signal(Signal::KILL);
    assert_eq!(killed.end().code, None);
    assert_eq!(runs().count(), 2, "what was killed is left");
    folder
        .run(&by_part(0.01, &[]), &["--local-workers", "1"])
        .expect(0, &[]);
    assert_eq!(runs().count(), 1, "what runs has its folder");
    living.signal(Signal::INT);
    living.end().expect(130, &["cancelled"]);
    assert_eq!(folder.files_below("spill"), Vec::<PathBuf>::new());
}

#[test]
fn ctrl_c_ends_the_processes_of_a_run_too() {
    let folder = Folder::new();
    let program = Program::start(long_command(&folder, &["--processes"]));
    wait_until("bytes on disk", || folder.has_bytes("spill"));
    let started = children(program.pid());
    assert_eq!(started.len(), 3, "two workers and a coordinator");
    program.signal(Signal::INT);
    program.end().expect(130, &["cancelled"]);
    for id in started {
        assert!(is_gone(id), "process {id} is left");
    }
    assert_clean(&folder);
}

#[test]
fn the_processes_of_a_killed_run_end_by_themselves() {
    let folder = Folder::new();
    let program = Program::start(long_command(&folder, &["--processes"]));
    wait_until("bytes on disk", || folder.has_bytes("spill"));
    let started = children(program.pid());
    assert_eq!(started.len(), 3, "two workers and a coordinator");
    program.signal(Signal::KILL);
    assert_eq!(program.end().code, None);
    wait_until("the ends of its processes", || {
        started.iter().all(|id| is_gone(*id))
    });
    let rows: Vec<_> = folder.files_below("spill");
    let rows = rows
        .iter()
        .filter(|file| file.extension().is_some_and(|kind| kind == "segment"));
    assert_eq!(rows.count(), 0, "its workers have cleaned up");
    // Its own folder remains for the next run to remove.
    folder
        .run(&by_part(0.01, &[]), &["--local-workers", "1"])
        .expect(0, &[]);
    assert_clean(&folder);
}

/// Whether a process runs this command of the program.
fn runs(id: i32, command: &str) -> bool {
    let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line)
        .split('\0')
        .any(|word| word == command)
}

fn send(id: i32, signal: Signal) {
    kill_process(Pid::from_raw(id).expect("a process id"), signal).expect("it runs");
}

#[test]
fn a_run_whose_coordinator_process_dies_or_stands_still_says_so_and_leaves_nothing() {
    for signal in [Signal::KILL, Signal::STOP] {
        let folder = Folder::new();
        let status = folder.at("status.json");
        let arguments = ["--processes", "--status", &status.to_string_lossy()];
        let mut program = Program::start(long_command(&folder, &arguments));
        program.wait_for("stage 0");
        let started = children(program.pid());
        let coordinator = started.iter().find(|id| runs(**id, "coordinator"));
        send(*coordinator.expect("a coordinator was started"), signal);
        let ended = program
            .end()
            .expect(3, &["CoordinatorLost", "the coordinator went away"]);
        assert_eq!(ended.stdout, "");
        for id in started {
            assert!(is_gone(id), "process {id} is left");
        }
        assert_clean(&folder);
        let status = std::fs::read_to_string(status).expect("it was written");
        let status: ShuffleQueryStatus = serde_json::from_str(&status).expect("it is a status");
        assert_eq!(status.phase, QueryPhase::Failed);
        assert_eq!(status.tasks.running, 0);
        let error = status.error.expect("a failed query has an error");
        assert_eq!(error.reason, ErrorReason::CoordinatorLost);
    }
}

#[test]
fn ctrl_c_ends_a_run_whose_rows_nobody_takes() {
    for extra in [&[][..], &["--processes"]] {
        let folder = Folder::new();
        let sql = "select l_orderkey, l_comment from lineitem";
        let yaml = query(sql, &[&tpch("lineitem", 0.5)], &["shuffle: {partitions: 8}"]);
        let arguments = [&["--local-workers", "1", "--output", "csv"], extra].concat();
        let program = Program::start_unread(folder.run_command(&yaml, &arguments));
        wait_until("a full pipe", || program.unread() >= 32 * 1024);
        let started = children(program.pid());
        program.signal(Signal::INT);
        program.end().expect(130, &["cancelled"]);
        for id in started {
            assert!(is_gone(id), "process {id} is left");
        }
        assert_eq!(folder.files_below("spill"), Vec::<PathBuf>::new());
    }
}

#[test]
fn ctrl_c_ends_a_run_whose_processes_do_not_come_up() {
    let folder = Folder::new();
    let arguments = ["--processes", "--local-workers", "1"];
    let program = Program::start(folder.run_command(&by_part(0.01, &[]), &arguments));
    let mut started = Vec::new();
    wait_until("a worker process", || {
        started = children(program.pid());
        !started.is_empty()
    });
    started.iter().for_each(|id| send(*id, Signal::STOP));
    program.signal(Signal::INT);
    program.end().expect(130, &["cancelled"]);
    for id in started {
        assert!(is_gone(id), "process {id} is left");
    }
}

#[test]
fn a_second_ctrl_c_ends_the_run_at_once_and_leaves_nothing_either() {
    let folder = Folder::new();
    let mut program = Program::start(long_command(&folder, &["--processes"]));
    wait_until("bytes on disk", || folder.has_bytes("spill"));
    let started = children(program.pid());
    // The first one waits for the processes.
    let workers = started.iter().filter(|id| runs(**id, "worker"));
    workers.for_each(|id| send(*id, Signal::STOP));
    program.signal(Signal::INT);
    program.wait_for("press Ctrl-C again");
    // Signals that arrive together with the first count as one.
    wait_until("its end", || {
        let ended = program.has_ended();
        if !ended {
            program.signal(Signal::INT);
        }
        ended
    });
    program.end().expect(130, &["stopped at once"]);
    wait_until("the ends of its processes", || {
        started.iter().all(|id| is_gone(*id))
    });
    assert_clean(&folder);
}

#[test]
fn a_second_ctrl_c_leaves_nothing_of_a_run_in_one_process() {
    let folder = Folder::new();
    let mut workers = [Worker::start()];
    let arguments = ["--workers", &workers[0].address];
    let mut program = Program::start(long_command(&folder, &arguments));
    program.wait_for("stage 0");
    // The coordinator waits until it has ended the session.
    workers[0].freeze();
    program.signal(Signal::INT);
    program.wait_for("press Ctrl-C again");
    wait_until("its end", || {
        let ended = program.has_ended();
        if !ended {
            program.signal(Signal::INT);
        }
        ended
    });
    program.end().expect(130, &["stopped at once"]);
    assert_eq!(folder.files_below("spill"), Vec::<PathBuf>::new());
    workers[0].thaw();
    workers.iter_mut().for_each(Worker::assert_well);
}

#[test]
fn a_run_with_a_worker_process_killed_ends_well() {
    let folder = Folder::new();
    let arguments = ["--processes", "--local-workers", "3", "--output", "csv"];
    let mut program = Program::start(folder.run_command(&by_part(0.2, &[]), &arguments));
    program.wait_for("stage 0");
    let started = children(program.pid());
    let victim = started.iter().find(|id| runs(**id, "worker"));
    send(*victim.expect("workers were started"), Signal::KILL);
    let ended = program.end().expect(0, &[]);
    assert_eq!(ended.stdout, super::query::plain_csv(&folder.at("query.yaml")));
}

#[test]
fn ctrl_c_leaves_workers_of_others_as_they_were() {
    let folder = Folder::new();
    let mut workers = Worker::three();
    let addresses = list(&workers);
    let mut program = Program::start(long_command(&folder, &["--workers", &addresses]));
    program.wait_for("stage 0");
    program.signal(Signal::INT);
    program.end().expect(130, &["cancelled"]);
    assert_clean(&folder);
    workers.iter_mut().for_each(Worker::assert_well);
    wait_until("the query's data are dropped", || {
        !workers.iter().any(Worker::has_spilled)
    });
    let ended = folder
        .run(&by_part(0.01, &[]), &["--workers", &addresses, "--output", "csv"])
        .expect(0, &[]);
    assert_eq!(ended.stdout, super::query::plain_csv(&folder.at("query.yaml")));
}

#[test]
fn a_closed_pipe_cancels_the_query_without_a_word() {
    let folder = Folder::new();
    let sql = "select l_comment from lineitem";
    let yaml = query(sql, &[&tpch("lineitem", 20.0)], &["shuffle: {partitions: 64}"]);
    let yaml = folder.write("query.yaml", yaml);
    let mut command = Command::new("sh");
    let script = "{ \"$0\" run \"$1\" --quiet --local-workers 1 --output csv --spill-dir \"$2\" --status \"$3\"; \
                  echo \"code $?\" >&2; } | head -n 1";
    command
        .args(["-c", script, env!("CARGO_BIN_EXE_sluice")])
        .arg(yaml)
        .arg(folder.at("spill"))
        .arg(folder.at("status.json"));
    let ended = run(command);
    assert_eq!(
        (ended.code, ended.stdout.as_str(), ended.stderr.as_str()),
        (Some(0), "l_comment\n", "code 141\n"),
    );
    assert_eq!(folder.files_below("spill"), Vec::<PathBuf>::new());
    let status = std::fs::read_to_string(folder.at("status.json")).expect("it was written");
    let status: ShuffleQueryStatus = serde_json::from_str(&status).expect("it is a status");
    assert_eq!(status.phase, QueryPhase::Cancelled);
}
