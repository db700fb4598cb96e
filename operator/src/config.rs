//! The operator's flags and environment. Nothing else reads the environment.

use std::net::SocketAddr;
use std::path::PathBuf;

use sluice_proto::log::LogFormat;

/// Runs ShuffleQueries and WorkerPools of a Kubernetes cluster; or does one of the chores around an installation.
#[derive(Clone, Debug, clap::Parser)]
#[command(
    name = "sluice-operator",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub struct CommandLine {
    /// How log lines are written: text or json. Workers and coordinators of pods that this operator makes write them so, too.
    #[arg(
        long,
        global = true,
        env = "SLUICE_LOG_FORMAT",
        default_value_t,
        value_name = "FORMAT"
    )]
    pub log_format: LogFormat,
    /// A chore; without one the operator runs.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How the operator runs.
    #[command(flatten)]
    pub config: Option<Config>,
}

/// The chores around an installation: what the chart's hooks run.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Puts the custom resource definitions of this release into the cluster, unless newer ones are there.
    InstallCrds,
    /// Applies a WorkerPool that goes when a ConfigMap of its namespace goes.
    ApplyPool(ApplyPool),
    /// Runs a small query over generated tables, checks its rows and deletes it.
    TryQuery(TryQuery),
}

/// Which pool is applied.
#[derive(Clone, Debug, clap::Args)]
pub struct ApplyPool {
    /// A YAML file with the WorkerPool.
    #[arg(long)]
    pub file: PathBuf,
    /// The namespace of the pool and of the ConfigMap.
    #[arg(long)]
    pub namespace: String,
    /// The ConfigMap that owns the pool: it is garbage once the ConfigMap is deleted.
    #[arg(long)]
    pub owner: String,
}

/// Where and how long a query is tried.
#[derive(Clone, Debug, clap::Args)]
pub struct TryQuery {
    /// The namespace of the query.
    #[arg(long)]
    pub namespace: String,
    /// The pool whose workers run it. Without one it has a small worker of its own.
    #[arg(long)]
    pub pool: Option<String>,
    /// Seconds that it may take, the start of workers included.
    #[arg(long, default_value_t = 300)]
    pub within_seconds: u32,
}

/// How an operator runs.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "sluice-operator")]
pub struct Config {
    /// The image of workers and coordinators, where a pool names none. It holds the program `sluice`; default: that of the
    /// operator's own container.
    #[arg(long, env = "SLUICE_IMAGE")]
    pub image: Option<String>,
    /// The namespaces to serve, separated by commas; all if none is given.
    #[arg(long, env = "SLUICE_NAMESPACES", value_delimiter = ',')]
    pub namespaces: Vec<String>,
    /// The Ed25519 private key (PKCS #8, PEM) that signs the queries' tokens.
    #[arg(long, env = "SLUICE_SIGNING_KEY_FILE")]
    pub signing_key_file: PathBuf,
    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, env = "SLUICE_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// The namespace of the lease that elects one of several operators.
    #[arg(long, env = "SLUICE_LEASE_NAMESPACE", default_value = "sluice-system")]
    pub lease_namespace: String,
    /// The name of that lease.
    #[arg(long, env = "SLUICE_LEASE_NAME", default_value = "sluice-operator")]
    pub lease_name: String,
    /// After how many seconds without a sign of the leader another operator takes over.
    #[arg(long, env = "SLUICE_LEASE_SECONDS", default_value_t = 15)]
    pub lease_seconds: u16,
    /// After how many seconds without a successful renewal of the lease the leader ends; less than --lease-seconds.
    #[arg(long, env = "SLUICE_LEASE_RENEWAL_SECONDS", default_value_t = 10)]
    pub lease_renewal_seconds: u16,
    /// Seconds between two tries to get or renew the lease.
    #[arg(long, env = "SLUICE_LEASE_RETRY_SECONDS", default_value_t = 2)]
    pub lease_retry_seconds: u16,
    /// The name of this operator among the others: its pod's.
    #[arg(long, env = "POD_NAME", default_value = "sluice-operator")]
    pub identity: String,
    /// Objects of one kind that are reconciled at the same time, in each served namespace.
    #[arg(long, env = "SLUICE_CONCURRENCY", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    pub concurrency: u16,
    /// Queries that may be admitted at the same time in each namespace, whatever its pools allow; default: no limit.
    #[arg(long, env = "SLUICE_MAX_QUERIES_PER_NAMESPACE", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_queries_per_namespace: Option<u32>,
    /// Slots, in each namespace, of the pools in which queries run at the same time; default: no limit.
    #[arg(long, env = "SLUICE_MAX_SLOTS_PER_NAMESPACE", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_slots_per_namespace: Option<u32>,
    /// As the command line has it.
    #[arg(skip)]
    pub log_format: LogFormat,
}

/// The limits of each namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Admitted queries.
    pub queries: Option<u32>,
    /// Slots of the pools of admitted queries.
    pub slots: Option<u32>,
}

impl Quota {
    pub const fn is_set(self) -> bool {
        self.queries.is_some() || self.slots.is_some()
    }
}

/// The namespaces that a watch covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    All,
    Namespace(String),
}

impl Config {
    pub fn quota(&self) -> Quota {
        Quota {
            queries: self.max_queries_per_namespace,
            slots: self.max_slots_per_namespace,
        }
    }

    pub fn scopes(&self) -> Vec<Scope> {
        let named = self.namespaces.iter().filter(|name| !name.is_empty());
        let scopes: Vec<_> = named.map(|name| Scope::Namespace(name.clone())).collect();
        if scopes.is_empty() {
            return vec![Scope::All];
        }
        scopes
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn config(namespaces: &str) -> Config {
        Config::parse_from([
            "sluice-operator",
            "--image=sluice:1",
            "--signing-key-file=key.pem",
            &format!("--namespaces={namespaces}"),
        ])
    }

    #[test]
    fn flags_without_a_command_run_the_operator() {
        let line = CommandLine::parse_from(["sluice-operator", "--image=sluice:1", "--signing-key-file=k"]);
        assert!(line.command.is_none());
        assert_eq!(line.config.unwrap().image.as_deref(), Some("sluice:1"));
        let problem = CommandLine::try_parse_from(["sluice-operator", "--image=sluice:1"]).unwrap_err();
        assert!(problem.to_string().contains("--signing-key-file"), "{problem}");
    }

    #[test]
    fn a_command_needs_no_flags_of_the_operator_and_takes_none() {
        let line = CommandLine::parse_from(["sluice-operator", "install-crds"]);
        assert!(matches!(line.command, Some(Command::InstallCrds)));
        assert!(line.config.is_none());
        CommandLine::try_parse_from(["sluice-operator", "--image=sluice:1", "install-crds"]).unwrap_err();
    }

    #[test]
    fn no_namespace_means_all() {
        assert_eq!(config("").scopes(), [Scope::All]);
        let two = ["a", "b"].map(|name| Scope::Namespace(name.to_owned()));
        assert_eq!(config("a,b").scopes(), two);
    }
}
