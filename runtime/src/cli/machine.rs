//! The cores and the memory that this process may use.

/// Cores, at least 1.
pub fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX))
}

/// The memory that this process may use, bytes: the smaller of the machine's and its control group's.
pub fn machine_memory() -> u64 {
    let limits = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ];
    let group = limits
        .iter()
        .filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok())
        .min();
    group.unwrap_or(u64::MAX).min(physical_memory())
}

fn physical_memory() -> u64 {
    const FALLBACK: u64 = 4 * 1024 * 1024 * 1024;
    let Ok(text) = std::fs::read_to_string("/proc/meminfo") else {
        return FALLBACK;
    };
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes = total.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kilobytes.map_or(FALLBACK, |kilobytes| kilobytes * 1024)
}
