//! Processes of the program under test: started with a clean environment, waited for with a hang guard, gone when
//! the test is.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// The longest that a test waits for anything. It guards against hangs and measures nothing.
pub(super) const TIMEOUT: Duration = Duration::from_secs(180);

/// Waits until a condition holds.
pub(super) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < TIMEOUT, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The program, without the environment of the caller.
pub(super) fn sluice() -> Command {
    without_settings(Command::new(env!("CARGO_BIN_EXE_sluice")))
}

/// The command, without the environment of the caller.
pub(super) fn without_settings(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SLUICE_") {
            command.env_remove(name);
        }
    }
    command
}

/// How a process ended and what it said.
#[derive(Debug)]
pub(super) struct Ended {
    /// Its exit code; none if a signal ended it.
    pub(super) code: Option<i32>,
    /// What it wrote to standard output.
    pub(super) stdout: String,
    /// What it wrote to standard error.
    pub(super) stderr: String,
}

impl Ended {
    /// Asserts the exit code, that standard error has every part of `said`, and that nothing panicked.
    pub(super) fn expect(self, code: i32, said: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "the exit code of {self:?}");
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        for part in said {
            assert!(self.stderr.contains(part), "no `{part}` in: {}", self.stderr);
        }
        self
    }
}

/// Text that a process has written so far.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<u8>>>);

impl Heard {
    fn follow(mut from: impl Read + Send + 'static) -> (Self, std::thread::JoinHandle<()>) {
        let heard = Self::default();
        let into = heard.clone();
        let thread = std::thread::spawn(move || {
            let mut bytes = [0; 8192];
            while let Ok(count @ 1..) = from.read(&mut bytes) {
                into.0
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend_from_slice(&bytes[..count]);
            }
        });
        (heard, thread)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

/// A running process. It is killed when dropped.
pub(super) struct Program {
    child: Child,
    /// Standard output, if nobody reads it.
    unread: Option<ChildStdout>,
    stdout: Heard,
    stderr: Heard,
    readers: Vec<std::thread::JoinHandle<()>>,
}

impl Program {
    /// Starts the command with nothing on standard input.
    pub(super) fn start(command: Command) -> Self {
        Self::start_with_input(command, "")
    }

    /// Starts the command and reads nothing of its standard output, like a pager that shows its first page.
    pub(super) fn start_unread(command: Command) -> Self {
        Self::start_reading(command, "", false)
    }

    /// Starts the command with this text on standard input.
    pub(super) fn start_with_input(command: Command, input: &str) -> Self {
        Self::start_reading(command, input, true)
    }

    fn start_reading(mut command: Command, input: &str, reads: bool) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let mut stdin = child.stdin.take().expect("a pipe was asked for");
        // A program that refuses its command line does not read its input.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let mut unread = Some(child.stdout.take().expect("a pipe was asked for"));
        let out = unread.take_if(|_| reads).map(Heard::follow);
        let (stdout, out) = out.unzip();
        let (stderr, err) = Heard::follow(child.stderr.take().expect("a pipe was asked for"));
        Self {
            child,
            unread,
            stdout: stdout.unwrap_or_default(),
            stderr,
            readers: out.into_iter().chain([err]).collect(),
        }
    }

    /// Bytes of its standard output that nobody has read.
    pub(super) fn unread(&self) -> u64 {
        let pipe = self.unread.as_ref().expect("nobody reads it");
        rustix::io::ioctl_fionread(pipe).expect("it is a pipe")
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("the child is ours").is_some()
    }

    /// Its process id.
    pub(super) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends it a signal.
    pub(super) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the process is there");
    }

    /// What it has said on standard error so far.
    pub(super) fn said(&self) -> String {
        self.stderr.text()
    }

    /// Waits until it has said this on standard error; it must not end before.
    pub(super) fn wait_for(&mut self, said: &str) {
        wait_until(said, || {
            let so = self.said().contains(said);
            let ended = self.child.try_wait().expect("the child is ours");
            assert!(
                so || ended.is_none(),
                "it ended ({ended:?}) before it said `{said}`: {}",
                self.said()
            );
            so
        });
    }

    /// Waits for its end.
    pub(super) fn end(mut self) -> Ended {
        let status = wait(&mut self.child, || self.stderr.text());
        let readers = std::mem::take(&mut self.readers);
        wait_until("the ends of its output", || {
            readers.iter().all(std::thread::JoinHandle::is_finished)
        });
        Ended {
            code: status.code(),
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait(child: &mut Child, said: impl Fn() -> String) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("the child is ours") {
            return status;
        }
        if begun.elapsed() > TIMEOUT {
            let _ = child.kill();
            panic!("it did not end; it said: {}", said());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a command to its end.
pub(super) fn run(command: Command) -> Ended {
    Program::start(command).end()
}

/// A folder for one test, and queries in it.
pub(super) struct Folder(TempDir);

impl Folder {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder can be made"))
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a file and answers its path.
    pub(super) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.at(name);
        let parent = path.parent().expect("it lies in the folder");
        std::fs::create_dir_all(parent).expect("a folder can be made");
        std::fs::write(&path, content).expect("a file can be written");
        path
    }

    /// The command that runs this query with these arguments: its own spill folder, one worker of one slot unless the
    /// arguments say otherwise.
    pub(super) fn run_command(&self, yaml: &str, arguments: &[&str]) -> Command {
        let mut command = sluice();
        command
            .arg("run")
            .arg(self.write("query.yaml", yaml))
            .args(arguments);
        command.arg("--spill-dir").arg(self.at("spill"));
        command
    }

    /// Runs this query to its end with these arguments.
    pub(super) fn run(&self, yaml: &str, arguments: &[&str]) -> Ended {
        run(self.run_command(yaml, arguments))
    }

    /// The files anywhere below a folder of this one; none if it does not exist.
    pub(super) fn files_below(&self, name: &str) -> Vec<PathBuf> {
        files_below(&self.at(name))
    }

    /// Whether a file of rows below a folder of this one has bytes. Lock files and the key of a run do not count.
    pub(super) fn has_bytes(&self, name: &str) -> bool {
        let is_key = |file: &Path| file.ends_with("key.pem") || file.ends_with("token");
        let mut files = self.files_below(name).into_iter().filter(|file| !is_key(file));
        files.any(|file| has_bytes(&file))
    }

    /// The names in the folder itself.
    pub(super) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path()).expect("the folder is there");
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            entry
                .expect("the folder can be read")
                .file_name()
                .to_string_lossy()
                .into_owned()
        };
        let mut names: Vec<_> = entries.map(name).collect();
        names.sort();
        names
    }
}

/// The files anywhere below a folder; none if it does not exist.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut folders = vec![folder.to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                Ok(_) => files.push(entry.path()),
                // Removed since it was listed.
                Err(_) => {}
            }
        }
    }
    files
}

fn has_bytes(file: &Path) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.len() > 0)
}

/// A worker process, started as by hand. It is killed when dropped, and ends by itself if the tests do.
pub(super) struct Worker {
    /// Where it listens.
    pub(super) address: String,
    child: Child,
    log: Heard,
    spill: TempDir,
}

impl Worker {
    /// Starts a worker of one slot on a free port.
    pub(super) fn start() -> Self {
        Self::start_on("127.0.0.1:0", "512MiB")
    }

    /// Starts a worker of one slot on this address with this much memory.
    pub(super) fn start_on(listen: &str, memory: &str) -> Self {
        Self::start_with(listen, memory, &[])
    }

    /// Starts a worker of one slot with these arguments too.
    pub(super) fn start_with(listen: &str, memory: &str, arguments: &[&str]) -> Self {
        Self::start_as(sluice(), listen, memory, arguments)
    }

    /// Starts a worker with this command, which takes the arguments of the program.
    pub(super) fn start_as(mut command: Command, listen: &str, memory: &str, arguments: &[&str]) -> Self {
        let spill = tempfile::tempdir().expect("a folder can be made");
        command.args([
            "worker",
            "--attached",
            "--slots",
            "1",
            "--listen",
            listen,
            "--memory",
            memory,
        ]);
        command.args(arguments);
        // Names must differ. The name for a fixed port is the same after a restart, as a pod's is.
        let name = match listen.rsplit_once(':') {
            Some((_, "0")) | None => format!("worker-{}", uuid::Uuid::new_v4()),
            Some((_, port)) => format!("worker-{port}"),
        };
        command.arg("--name").arg(name);
        command.arg("--spill-dir").arg(spill.path());
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("a worker starts");
        let (log, _) = Heard::follow(child.stderr.take().expect("a pipe was asked for"));
        let mut address = String::new();
        let stdout = child.stdout.take().expect("a pipe was asked for");
        BufReader::new(stdout)
            .read_line(&mut address)
            .expect("it says its address");
        let address = address.trim().to_owned();
        assert!(!address.is_empty(), "the worker did not come up: {}", log.text());
        Self {
            address,
            child,
            log,
            spill,
        }
    }

    /// Three workers.
    pub(super) fn three() -> [Self; 3] {
        std::array::from_fn(|_| Self::start())
    }

    /// What it has said on standard error so far.
    pub(super) fn said(&self) -> String {
        self.log.text()
    }

    /// Sends it a signal.
    pub(super) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the worker is there");
    }

    /// Stops it where it stands (SIGSTOP).
    pub(super) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on (SIGCONT).
    pub(super) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    pub(super) fn kill(&mut self) {
        self.child.kill().expect("the worker is there");
        self.child.wait().expect("the worker is ours");
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("the worker is ours").is_some()
    }

    /// Asks it to stop (SIGTERM) and waits until it has; answers its exit code.
    pub(super) fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        wait(&mut self.child, || self.log.text()).code()
    }

    /// Whether it has bytes on disk.
    pub(super) fn has_spilled(&self) -> bool {
        files_below(self.spill.path()).iter().any(|file| has_bytes(file))
    }

    /// The files that it has on disk.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        files_below(self.spill.path())
    }

    /// The most memory that it ever had, in bytes.
    pub(super) fn peak_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("the worker is there");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = peak.and_then(|peak| peak.trim().strip_suffix(" kB"));
        1024 * kilobytes
            .and_then(|number| number.parse::<u64>().ok())
            .expect("a number of kB")
    }

    /// Asserts that it still runs and has not panicked.
    pub(super) fn assert_well(&mut self) {
        let ended = self.child.try_wait().expect("the worker is ours");
        assert!(
            ended.is_none(),
            "the worker ended ({ended:?}): {}",
            self.log.text()
        );
        assert!(!self.log.text().contains("panicked"), "{}", self.log.text());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The addresses as `--workers` takes them.
pub(super) fn list(workers: &[Worker]) -> String {
    workers
        .iter()
        .map(|worker| worker.address.as_str())
        .collect::<Vec<_>>()
        .join(",")
}
