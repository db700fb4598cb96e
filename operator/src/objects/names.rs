//! Names of the created objects. Each follows from its owner's name, so that a repeated creation finds the first.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;

/// Characters of a query's unique id in the name of its tokens: those before the first dash.
const TOKEN_UID: usize = 8;

/// Service, PodDisruptionBudget, ServiceAccount and NetworkPolicy of a pool.
pub fn workers(pool: &str) -> String {
    format!("{pool}-workers")
}

/// The NetworkPolicy of the coordinators of a pool's queries.
pub fn coordinators(pool: &str) -> String {
    format!("{pool}-coordinators")
}

/// The ConfigMap with the public key that a pool's workers and coordinators check tokens with.
pub fn key(pool: &str) -> String {
    format!("{pool}-workers-key")
}

/// The pod of worker `number` of a pool.
pub fn worker(pool: &str, number: u32) -> String {
    format!("{pool}-{number}")
}

/// The DNS name of all workers of a pool.
pub fn worker_address(pool: &str, namespace: &str, port: u16) -> String {
    format!("{}.{namespace}.svc:{port}", workers(pool))
}

/// The ConfigMap with the input of a query.
pub fn input(query: &str) -> String {
    format!("{query}-input")
}

/// The Secret with the token of a coordinator of the query with this unique id. The operator may not read Secrets, so the name
/// must tell whose it is: a Secret of an earlier query of the same name may still exist.
pub fn token(query: &str, uid: &str, epoch: u64) -> String {
    let uid: String = uid.chars().take(TOKEN_UID).collect();
    format!("{query}-{uid}-token-{epoch}")
}

/// The pod of a query's coordinator.
pub fn coordinator(query: &str, epoch: u64) -> String {
    format!("{query}-c{epoch}")
}

/// The pool of a query with inline workers.
pub fn inline_pool(query: &str) -> String {
    format!("{query}-workers")
}

/// A reference to `owner` as the controller of an object; `None` if the owner has no uid.
pub fn owned_by<K: Resource<DynamicType = ()>>(owner: &K) -> Option<Vec<OwnerReference>> {
    owner.controller_owner_ref(&()).map(|reference| vec![reference])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_of_one_name_have_tokens_of_their_own() {
        let (old, new) = ("0a1b2c3d-4e5f", "9a1b2c3d-4e5f");
        assert_eq!(token("q", old, 1), "q-0a1b2c3d-token-1");
        assert_ne!(token("q", old, 1), token("q", new, 1));
        assert_ne!(token("q", old, 1), token("q", old, 2));
    }

    #[test]
    fn names_of_the_longest_resources_fit() {
        let query = "q".repeat(40);
        let pool = "p".repeat(sluice_crds::worker_pool::MAX_WORKER_POOL_NAME);
        for name in [
            workers(&pool),
            key(&pool),
            worker(&pool, sluice_crds::worker_pool::MAX_REPLICAS * 3),
            input(&query),
            token(&query, "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9", 1_000_000),
            coordinator(&query, 1_000_000),
        ] {
            assert!(name.len() <= 63, "{name} has {} characters", name.len());
        }
        assert!(inline_pool(&query).len() <= sluice_crds::worker_pool::MAX_WORKER_POOL_NAME);
        assert_eq!(worker_address("p", "n", 7400), "p-workers.n.svc:7400");
    }
}
