//! The Lease object that the candidates share.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use kube::api::PostParams;
use kube::{Api, ResourceExt};

use crate::controller_runtime::api::FIELD_MANAGER;

use super::election::{Event, Record, Stored};

/// The lease object and the version that was read last. Labels and annotations of others are kept.
pub(super) struct Lock {
    api: Api<Lease>,
    name: String,
    owners: Vec<OwnerReference>,
    last: Option<Lease>,
}

impl Lock {
    pub(super) fn new(lease: super::Lease, namespace: &str, name: &str) -> Self {
        Self {
            api: Api::namespaced(lease.client, namespace),
            owners: lease.owners,
            name: name.to_owned(),
            last: None,
        }
    }

    pub(super) async fn read(&mut self, within: Duration) -> Event {
        match tokio::time::timeout(within, self.api.get_opt(&self.name)).await {
            Ok(Ok(Some(lease))) => Event::Found(self.keep(lease)),
            Ok(Ok(None)) => {
                self.last = None;
                Event::Missing
            }
            Ok(Err(error)) => {
                tracing::warn!(lease = self.name, %error, "the lease cannot be read");
                Event::Failed
            }
            Err(_) => {
                tracing::warn!(lease = self.name, ?within, "no answer to a read of the lease");
                Event::Failed
            }
        }
    }

    /// Replaces the version `over`, or creates the lease if there is none.
    pub(super) async fn write(&mut self, record: Record, over: Option<String>, within: Duration) -> Event {
        let creates = over.is_none();
        let mut lease = self.last.clone().filter(|_| !creates).unwrap_or_default();
        lease.metadata.name = Some(self.name.clone());
        lease.metadata.managed_fields = None;
        lease.metadata.resource_version = over;
        if !self.owners.is_empty() {
            // The leader's owners. With those of an earlier version Kubernetes would delete the lease when that version goes.
            lease.metadata.owner_references = Some(self.owners.clone());
        }
        lease.spec = Some(spec(record, lease.spec.unwrap_or_default()));
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let writing = async {
            if creates {
                self.api.create(&params, &lease).await
            } else {
                self.api.replace(&self.name, &params, &lease).await
            }
        };
        match tokio::time::timeout(within, writing).await {
            Ok(Ok(lease)) => Event::Wrote(self.keep(lease)),
            Ok(Err(kube::Error::Api(status))) if status.is_conflict() || status.is_already_exists() => {
                tracing::debug!(lease = self.name, "another version of the lease exists");
                Event::Refused
            }
            Ok(Err(error)) => {
                tracing::warn!(lease = self.name, %error, "the lease cannot be written");
                match error {
                    kube::Error::Api(status) if status.is_not_found() => Event::Refused,
                    _ => Event::Failed,
                }
            }
            Err(_) => {
                tracing::warn!(lease = self.name, ?within, "no answer to a write of the lease");
                Event::Failed
            }
        }
    }

    fn keep(&mut self, lease: Lease) -> Stored {
        let stored = Stored {
            record: record(lease.spec.as_ref()),
            version: lease.resource_version().unwrap_or_default(),
        };
        self.last = Some(lease);
        stored
    }
}

fn record(spec: Option<&LeaseSpec>) -> Record {
    let Some(spec) = spec else {
        return Record::default();
    };
    let time = |time: &Option<MicroTime>| time.as_ref().map(|MicroTime(time)| *time);
    Record {
        holder: spec.holder_identity.clone(),
        seconds: spec.lease_duration_seconds,
        acquired: time(&spec.acquire_time),
        renewed: time(&spec.renew_time),
        transitions: spec.lease_transitions.unwrap_or_default(),
    }
}

fn spec(record: Record, old: LeaseSpec) -> LeaseSpec {
    let time = |time: Option<Timestamp>| time.map(MicroTime);
    LeaseSpec {
        holder_identity: record.holder,
        lease_duration_seconds: record.seconds,
        acquire_time: time(record.acquired),
        renew_time: time(record.renewed),
        lease_transitions: Some(record.transitions),
        ..old
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_the_object() {
        let written = Record {
            holder: Some("a".into()),
            seconds: Some(15),
            acquired: Some(Timestamp::from_microsecond(1_000_001).unwrap()),
            renewed: Some(Timestamp::from_microsecond(2_000_002).unwrap()),
            transitions: 3,
        };
        let json = serde_json::to_string(&spec(written.clone(), LeaseSpec::default())).unwrap();
        let read: LeaseSpec = serde_json::from_str(&json).unwrap();
        assert_eq!(record(Some(&read)), written);
        assert_eq!(record(None), Record::default());
    }

    #[test]
    fn what_others_put_into_the_lease_stays() {
        let old = LeaseSpec {
            strategy: Some("OldestEmulationVersion".into()),
            ..LeaseSpec::default()
        };
        let new = spec(Record::default(), old);
        assert_eq!(new.strategy.as_deref(), Some("OldestEmulationVersion"));
    }
}
