//! How much memory this machine has for us.

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
