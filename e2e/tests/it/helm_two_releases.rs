//! Two releases can serve two namespaces; two cannot serve the same one.

use crate::harness::{self, Release};

#[test]
fn two_releases_in_two_namespaces_do_not_meet() {
    harness::run("helm-two-releases", |space| async move {
        let other = format!("{}-b", space.namespace);
        space.create_namespace(&other).await?;
        let first = Release::new(&space, "r");
        let second = first.in_namespace(&other);
        first.install(&[]).await?;
        second.install(&[]).await?;
        first.test().await?;
        second.test().await?;

        let third = Release::new(&space, "s");
        let served = format!("namespaces={{{other}}}");
        for (setting, why) in [
            (served.as_str(), "cannot be imported"),
            ("scope=Cluster", "another Sluice serves"),
        ] {
            let refused = third.install(&["--set", setting]).await;
            let problem = refused
                .err()
                .map(|problem| format!("{problem:#}"))
                .unwrap_or_default();
            assert!(
                problem.contains(why),
                "two operators of one namespace, {setting}: {problem}"
            );
        }

        first.uninstall().await?;
        second.test().await?;
        second.uninstall().await?;
        Ok(())
    });
}
