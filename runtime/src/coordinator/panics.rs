//! Helper tasks that owe the state machine an event: a panic becomes that event.

use sluice_core::coordinator::Event;
use sluice_proto::shortened;
use tokio_util::task::AbortOnDropHandle;

use super::EventSender;
use super::link::LinkEvent;

/// Waits for a task that sends its own events, and sends one for it if it panics. Dropping this future aborts the task.
pub(super) async fn report_panic(what: &'static str, task: AbortOnDropHandle<()>, events: EventSender) {
    if let Err(error) = task.await {
        tracing::error!(%error, "{what} did not end well");
        let message = shortened(format!("{what}: {error}"));
        // The receiver is gone after the query's end.
        let _ = events.send(LinkEvent::Event(Event::TaskPanicked { message }));
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_an_event_and_a_good_end_does_not() {
        let (events, mut inbox) = mpsc::unbounded_channel();
        let well = AbortOnDropHandle::new(tokio::spawn(async {}));
        report_panic("the reader", well, events.clone()).await;
        let ill = tokio::task::spawn_blocking(|| panic!("no such row"));
        report_panic("the commit", AbortOnDropHandle::new(ill), events).await;
        let Some(LinkEvent::Event(Event::TaskPanicked { message })) = inbox.recv().await else {
            panic!("no event of a panic");
        };
        assert!(message.starts_with("the commit: "), "{message}");
        assert!(message.contains("no such row"), "{message}");
        assert!(inbox.recv().await.is_none(), "the first task ended well");
    }

    #[tokio::test]
    async fn whoever_gives_the_report_up_ends_the_task() {
        let (events, _inbox) = mpsc::unbounded_channel();
        let (held, mut given_up) = mpsc::channel::<()>(1);
        let task = tokio::spawn(async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        let report = AbortOnDropHandle::new(tokio::spawn(report_panic(
            "the reader",
            AbortOnDropHandle::new(task),
            events,
        )));
        drop(report);
        assert_eq!(given_up.recv().await, None);
    }
}
