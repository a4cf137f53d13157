//! Results and answers.

use keycard::queue::{Delivery, Lane};
use tokio::time::timeout;

use super::{Backend, DEADLINE, ack, assert_silent, next, result_for};

pub async fn results_reach_their_requester_and_nobody_else(backend: &dyn Backend) {
    let worker = backend.worker().await;
    let mut orders = backend.results("orders").await;
    let mut orders_eu = backend.results("orders.eu").await;
    worker
        .publish(&result_for("orders.eu", "eu"))
        .await
        .unwrap();
    worker.publish(&result_for("orders", "all")).await.unwrap();
    let received = timeout(DEADLINE, orders.recv()).await.unwrap();
    assert_eq!(received.unwrap(), b"all");
    let received = timeout(DEADLINE, orders_eu.recv()).await.unwrap();
    assert_eq!(received.unwrap(), b"eu");
    assert_silent(&mut orders).await;
    assert_silent(&mut orders_eu).await;
}

pub async fn who_asks_gets_the_answer_to_that_and_to_nothing_else(backend: &dyn Backend) {
    let worker = backend.worker().await;
    let mut requests = worker.consume(Lane::Requests);
    let (first, second) = (
        backend.requesting("orders").await,
        backend.requesting("orders").await,
    );
    let answer = async |delivery: Delivery| {
        let mut answer = result_for("orders", std::str::from_utf8(&delivery.body).unwrap());
        answer.correlation_id.clone_from(&delivery.correlation_id);
        worker.publish(&answer).await.unwrap();
        if let Some(address) = &delivery.reply_to {
            worker.reply(address, &answer).await;
        }
        ack(delivery).await;
    };
    let answering = async {
        // In the other order than they came.
        let [one, other] = [next(&mut requests).await, next(&mut requests).await];
        answer(other).await;
        answer(one).await;
        // A direct reply that took too long is not sent: who waits for it asks again.
        while let Some(again) = requests.recv().await {
            answer(again).await;
        }
    };
    let asking = async {
        tokio::join!(
            first.ask(Lane::Requests, b"1"),
            second.ask(Lane::Requests, b"2")
        )
    };
    let (first, second) = timeout(DEADLINE, async {
        tokio::select! {
            answers = asking => answers,
            () = answering => panic!("the stream has ended"),
        }
    })
    .await
    .unwrap();
    assert_eq!(
        (first.unwrap(), second.unwrap()),
        (b"1".to_vec(), b"2".to_vec())
    );
}
